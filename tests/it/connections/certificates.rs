//! Certificates made for one test, and servers that use them.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::support::prelude::*;

/// When they stop being valid, in Unix time.
pub const END: f64 = 4_102_444_800.0;

/// An authority, what it signed, and files to name in options.
pub struct Certificates {
    pub dir: TempDir,
    /// The server's certificate and key, as PEM.
    pub server: (String, String),
    /// The client's, for the role `ferry`.
    pub client: (String, String),
}

impl Certificates {
    /// A server's certificate for these names, signed or its own authority.
    pub fn new(names: &[&str], common: &str, self_signed: bool) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "test authority");
        let root = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(authority, authority_key);
        let certificate = |names: &[&str], common: &str, own: bool| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
            params.distinguished_name.push(DnType::CommonName, common);
            params.not_after = date_time_ymd(2100, 1, 1);
            if own {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                return (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
            }
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let server = certificate(names, common, self_signed);
        let client = certificate(&[], "ferry", false);
        let dir = tempfile::tempdir().unwrap();
        let certificates = Self { dir, server, client };
        certificates.write("root.crt", &root);
        certificates.write("server.crt", &certificates.server.0);
        certificates.write("client.crt", &certificates.client.0);
        certificates.write("client.key", &certificates.client.1);
        certificates
    }

    /// A file beside them, private.
    pub fn write(&self, name: &str, content: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(self.path(name), content).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Where a file is: `root.crt`, `server.crt`, `client.crt`, `client.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A server with TLS, these access rules, and the role `ferry`.
    pub async fn start(&self, hba: &[&str]) -> Cluster {
        self.start_on(default_major(), hba).await
    }

    /// As [`Self::start`], of this major.
    pub async fn start_on(&self, major: u32, hba: &[&str]) -> Cluster {
        let root = std::fs::read_to_string(self.path("root.crt")).unwrap();
        let builder = Cluster::builder(major).setting("ssl", "on").setting("ssl_ca_file", "'root.crt'").hba(hba);
        let builder = builder.file("server.crt", self.server.0.clone()).file("server.key", self.server.1.clone());
        let cluster = builder.file("root.crt", root).start().await;
        cluster.execute("postgres", "CREATE ROLE ferry LOGIN REPLICATION PASSWORD 'right'").await;
        cluster
    }
}
