//! The `ssl*` keywords become [`TlsOptions`], with the files under `~/.postgresql` that libpq takes by default.
//! Facts: PostgreSQL docs, "SSL Support"; `initialize_SSL` in fe-secure-openssl.c. Stricter than libpq where it would
//! go on with less than was asked for: a file that is named must exist, and revocation lists are refused, not ignored.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::ConnInfoError;
use super::options::{Host, HostAddress, RootCert, SslMode, TlsOptions};
use super::settings::Settings;
use crate::postgres::tls::Certificates;

const MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// Reads and checks the TLS settings.
pub(super) fn resolve(
    settings: &Settings,
    environment: &Environment,
    hosts: &[Host],
) -> Result<TlsOptions, ConnInfoError> {
    let system = settings.text("sslrootcert") == Some("system");
    let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let expected = "disable, allow, prefer, require, verify-ca or verify-full";
    let mode = settings.choice("sslmode", MODES, default, expected)?;
    if system && mode != SslMode::VerifyFull {
        return Err(ConnInfoError::Conflict {
            what: "a weaker sslmode than verify-full cannot be used with sslrootcert=system".to_owned(),
            hint: "Write sslmode=verify-full or leave sslmode out: anybody can get a certificate from a public root.",
        });
    }
    check_protocol_versions(settings)?;
    let negotiation = [("postgres", false), ("direct", true)];
    let direct = settings.choice("sslnegotiation", &negotiation, false, "postgres or direct")?;
    if direct && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) {
        return Err(ConnInfoError::Conflict {
            what: "sslnegotiation=direct cannot be used with a sslmode that does without TLS".to_owned(),
            hint: "Write sslmode=require, verify-ca or verify-full.",
        });
    }
    let sni = settings.choice("sslsni", &[("1", true), ("0", false)], true, "0 or 1")?;
    let certmodes = [("disable", Some(false)), ("allow", Some(true)), ("require", None)];
    let certmode = settings.choice("sslcertmode", &certmodes, Some(true), "disable, allow or require")?;
    let send_cert = certmode.ok_or_else(|| {
        settings.unsupported("sslcertmode", "whether the server asks for a certificate cannot be demanded")
    })?;
    // Files are looked at only where they will be used: a broken default file must not stand in the way.
    let used = mode != SslMode::Disable && hosts.iter().any(|host| matches!(host.address, HostAddress::Tcp { .. }));
    let mut tls = TlsOptions {
        mode,
        root_cert: RootCert::Default,
        client_cert: None,
        client_key: None,
        client_key_password: settings.text("sslpassword").map(Into::into),
        direct,
        sni,
        certificates: Certificates::default(),
    };
    if used {
        tls.root_cert = root_cert(settings, environment, mode)?;
        if mode == SslMode::VerifyFull {
            check_names(hosts)?;
        }
        if send_cert && let Some((cert, key)) = client_cert(settings, environment)? {
            (tls.client_cert, tls.client_key) = (Some(cert), Some(key));
        }
    }
    Ok(tls)
}

/// TLS 1.2 and 1.3 are offered, always both.
fn check_protocol_versions(settings: &Settings) -> Result<(), ConnInfoError> {
    let fits = |keyword: &'static str, fitting: &[&str], why: &'static str| match settings.text(keyword) {
        None => Ok(()),
        Some(text) if fitting.iter().any(|version| version.eq_ignore_ascii_case(text)) => Ok(()),
        Some(text) if ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"].iter().any(|v| v.eq_ignore_ascii_case(text)) => {
            Err(settings.unsupported(keyword, why))
        }
        Some(_) => Err(settings.invalid(keyword, "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3")),
    };
    let why = "TLS 1.2 and TLS 1.3 are both offered";
    fits("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"], why)?;
    fits("ssl_max_protocol_version", &["TLSv1.3"], why)
}

fn root_cert(settings: &Settings, environment: &Environment, mode: SslMode) -> Result<RootCert, ConnInfoError> {
    let verify = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let path = match settings.text("sslrootcert") {
        Some("system") => return Ok(RootCert::System),
        Some(given) => {
            let path = PathBuf::from(given);
            let hint = "Correct sslrootcert, or write sslrootcert=system to trust the operating system's roots.";
            metadata("sslrootcert", &path, hint)?;
            path
        }
        None => match environment.in_home(".postgresql/root.crt") {
            Some(path) if path.exists() => path,
            _ if verify => {
                return Err(ConnInfoError::Conflict {
                    what: "this sslmode needs root certificates to verify the server by, and neither sslrootcert nor \
                           ~/.postgresql/root.crt gives any"
                        .to_owned(),
                    hint: "Add sslrootcert=FILE with the certificate authority's certificate, or sslrootcert=system.",
                });
            }
            _ => return Ok(RootCert::Default),
        },
    };
    // `require` verifies too once there are roots.
    let used = verify || mode == SslMode::Require;
    if used && let Some(list) = environment.in_home(".postgresql/root.crl").filter(|list| list.exists()) {
        return Err(ConnInfoError::File {
            role: "certificate revocation list",
            path: list,
            why: "revocation lists are not checked, and this one must not be ignored".to_owned(),
            hint: "Move the file away if the server's certificate need not be checked against it.".to_owned(),
        });
    }
    Ok(RootCert::File(path))
}

/// `verify-full` compares the certificate with `host`; a `hostaddr` alone leaves nothing to compare with.
fn check_names(hosts: &[Host]) -> Result<(), ConnInfoError> {
    for host in hosts {
        if let HostAddress::Tcp { name, hostaddr: Some(address) } = &host.address
            && (name.parse() == Ok(*address) || name.starts_with('/'))
        {
            return Err(ConnInfoError::Conflict {
                what: format!("sslmode=verify-full needs the name of the host at hostaddr {address}"),
                hint: "Add host=NAME as in the server's certificate; hostaddr is still what is connected to.",
            });
        }
    }
    Ok(())
}

/// The client's certificate and key files, if it has a certificate.
fn client_cert(settings: &Settings, environment: &Environment) -> Result<Option<(PathBuf, PathBuf)>, ConnInfoError> {
    let cert = match settings.text("sslcert").map(PathBuf::from) {
        Some(path) => {
            metadata("sslcert", &path, "Correct sslcert, or leave it out if the server wants no certificate.")?;
            path
        }
        None => match environment.in_home(".postgresql/postgresql.crt").filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    let key = settings.text("sslkey").map(PathBuf::from).or_else(|| environment.in_home(".postgresql/postgresql.key"));
    let Some(key) = key else {
        return Err(ConnInfoError::Conflict {
            what: "there is a client certificate (sslcert) but no key for it".to_owned(),
            hint: "Add sslkey=FILE with the certificate's private key.",
        });
    };
    let hint = "Correct sslkey, or write sslcertmode=disable to do without the certificate.";
    check_key(&key, &metadata("sslkey", &key, hint)?)?;
    Ok(Some((cert, key)))
}

fn metadata(role: &'static str, path: &Path, hint: &str) -> Result<Metadata, ConnInfoError> {
    std::fs::metadata(path).map_err(|error| ConnInfoError::File {
        role,
        path: path.to_owned(),
        why: error.to_string(),
        hint: hint.to_owned(),
    })
}

/// libpq's rule: 0600 or less, or 0640 or less when it belongs to root.
fn check_key(path: &Path, metadata: &Metadata) -> Result<(), ConnInfoError> {
    let refuse =
        |why: String, hint: String| Err(ConnInfoError::File { role: "sslkey", path: path.to_owned(), why, hint });
    if !metadata.is_file() {
        return refuse("it is not a plain file".to_owned(), "Correct sslkey.".to_owned());
    }
    let mode = metadata.permissions().mode() & 0o777;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return refuse(
            format!("others may read it (mode {mode:04o}); at most 0600 is allowed, or 0640 when root owns it"),
            format!("Run: chmod 0600 {}", path.display()),
        );
    }
    Ok(())
}
