//! TLS as libpq's `sslmode` means it: in goes a TCP stream on which TLS was agreed, out comes an encrypted one with its
//! channel binding hash.
//!
//! | file | idea |
//! |---|---|
//! | `files.rs` | certificates and keys from PEM files and the system |
//! | `verify.rs` | which server certificates are trusted, for which mode |
//! | `name.rs` | which names a certificate is good for |
//! | `expiry.rs` | when the certificates in use stop being valid |
//! | `binding.rs` | `tls-server-end-point`, the certificate's hash for SCRAM-SHA-256-PLUS |

mod binding;
mod expiry;
mod files;
mod name;
mod verify;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::{CertificateError, ClientConfig, OtherError};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use self::expiry::{Certificates, Expiry};
use self::verify::{Trust, Verifier};
use super::conninfo::{RootCert, SslMode, TlsOptions};
use crate::error::Verdict;

/// Why TLS did not come about, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct TlsFailure {
    /// Which file, certificate or name, and what is wrong with it.
    pub(crate) message: String,
    /// Retry when the connection broke; otherwise the way out.
    pub(crate) verdict: Verdict,
}

impl TlsFailure {
    fn halt(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), verdict: Verdict::halt(hint) }
    }
}

/// An encrypted stream and what SCRAM binds to.
pub(crate) struct Encrypted {
    pub(crate) stream: TlsStream<TcpStream>,
    /// Hash of the server's certificate; `None` when its signature names no hash (Ed25519).
    pub(crate) end_point: Option<Vec<u8>>,
}

/// Makes TLS connections by one set of options.
pub(crate) struct Tls {
    base: ClientConfig,
    trust: Trust,
    direct: bool,
    /// When the client's own certificates end.
    client: Option<SystemTime>,
    certificates: Certificates,
}

impl Tls {
    /// Reads the files the options name.
    pub(crate) fn prepare(options: &TlsOptions) -> Result<Self, TlsFailure> {
        if options.root_cert == RootCert::System && options.mode != SslMode::VerifyFull {
            return Err(TlsFailure::halt(
                "sslrootcert=system is safe only with the host name verified",
                "set sslmode=verify-full",
            ));
        }
        let trust = files::trust(options)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsFailure::halt(error.to_string(), "this is a mistake in walferry: please report it"))?
            .dangerous()
            // Replaced for each connection by one that knows the host.
            .with_custom_certificate_verifier(Arc::new(Verifier::new(trust.clone(), String::new(), algorithms)));
        let identity = files::client_identity(options)?;
        let client = identity.as_ref().and_then(|(chain, _)| expiry::earliest(chain));
        let mut base = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                TlsFailure::halt(
                    format!("the client certificate and its key do not fit together: {error}"),
                    "check that sslcert and sslkey belong to each other",
                )
            })?,
        };
        base.enable_sni = options.sni;
        // Every connection verifies the server afresh.
        base.resumption = Resumption::disabled();
        if options.direct {
            base.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { base, trust, direct: options.direct, client, certificates: options.certificates.clone() })
    }

    /// The handshake. `host` is the name to verify and to send; `address` stands in where it is no name TLS can carry.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        host: &str,
        address: IpAddr,
    ) -> Result<Encrypted, TlsFailure> {
        let mut config = self.base.clone();
        let algorithms = config.crypto_provider().signature_verification_algorithms;
        let verifier = Verifier::new(self.trust.clone(), host.to_owned(), algorithms);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::from(address));
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = connected.map_err(|error| explain(&error))?;
        let session = stream.get_ref().1;
        // documentation: "SSL Session Encryption": without ALPN a direct connection may reach another protocol.
        if self.direct && session.alpn_protocol() != Some(b"postgresql") {
            return Err(TlsFailure::halt(
                "the server did not agree to the protocol \"postgresql\" (ALPN)",
                "set sslnegotiation=postgres: direct TLS needs PostgreSQL 17 or later",
            ));
        }
        let server = session.peer_certificates().and_then(expiry::earliest);
        self.certificates.seen(Expiry { server, client: self.client });
        let end_point = session.peer_certificates().and_then(<[_]>::first).and_then(binding::server_end_point);
        Ok(Encrypted { stream, end_point })
    }
}

/// Whether the server may still want something else: a plain connection, another certificate.
fn explain(error: &std::io::Error) -> TlsFailure {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match rustls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            match inner.downcast_ref::<TlsFailure>() {
                Some(failure) => failure.clone(),
                None => TlsFailure::halt(inner.to_string(), "check the server's certificate"),
            }
        }
        Some(rustls::Error::AlertReceived(alert)) => TlsFailure::halt(
            format!("the server ended the TLS handshake: {alert:?}"),
            "if it asks for client certificates, check sslcert and sslkey; its log says more",
        ),
        Some(rustls::Error::PeerIncompatible(why)) => TlsFailure::halt(
            format!("the server and walferry share no TLS version or cipher: {why:?}"),
            "let the server speak TLS 1.2 or 1.3 (ssl_min_protocol_version, ssl_ciphers)",
        ),
        Some(other) => {
            TlsFailure::halt(format!("the TLS handshake failed: {other}"), "check what answers at this address")
        }
        None => TlsFailure { message: format!("the TLS handshake broke off: {error}"), verdict: Verdict::Retry },
    }
}
