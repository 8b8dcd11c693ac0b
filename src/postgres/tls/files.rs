//! Root certificates, client certificates and keys: from PEM files or the system, as libpq looks for them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsFailure;
use super::verify::{Roots, Trust};
use crate::postgres::conninfo::{RootCert, SslMode, TlsOptions};

/// What the options trust. A root file makes `require` verify the chain (documentation: "Client Verification of Server
/// Certificates", for backward compatibility).
pub(super) fn trust(options: &TlsOptions) -> Result<Trust, TlsFailure> {
    let roots = match (&options.root_cert, options.mode) {
        (_, SslMode::Disable | SslMode::Allow | SslMode::Prefer) => None,
        (RootCert::System, _) => Some(system_roots()?),
        // libpq ignores a named file that is missing; here that would be a silent loss of verification.
        (RootCert::File(path), _) => Some(file_roots(path)?),
        (RootCert::Default, mode) => match home_file("root.crt").filter(|path| path.exists()) {
            Some(path) => Some(file_roots(&path)?),
            None if mode == SslMode::Require => None,
            None => return Err(no_roots()),
        },
    };
    Ok(match roots {
        None => Trust::Anything,
        Some(roots) if options.mode == SslMode::VerifyFull => Trust::ChainAndName(Arc::new(roots)),
        Some(roots) => Trust::Chain(Arc::new(roots)),
    })
}

fn no_roots() -> TlsFailure {
    TlsFailure::halt(
        "there is no root certificate to verify the server with: ~/.postgresql/root.crt does not exist",
        "name the file with sslrootcert=FILE, or use the system's certificates with sslrootcert=system",
    )
}

/// `~/.postgresql/<name>`.
fn home_file(name: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".postgresql").join(name))
}

fn system_roots() -> Result<Roots, TlsFailure> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _unusable) = store.add_parsable_certificates(found.certs.clone());
    if added == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(TlsFailure::halt(
            format!("the system has no usable root certificates{why}"),
            "install them (package ca-certificates) or name a file with sslrootcert=FILE",
        ));
    }
    Ok(Roots { store, exact: found.certs, origin: "the system's root certificates".to_owned() })
}

fn file_roots(path: &Path) -> Result<Roots, TlsFailure> {
    let exact = certificates(path, "sslrootcert")?;
    let mut store = RootCertStore::empty();
    // One that webpki cannot use as an anchor may still be the server's own, compared byte by byte.
    store.add_parsable_certificates(exact.iter().cloned());
    Ok(Roots { store, exact, origin: path.display().to_string() })
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let text = read(path, setting)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsFailure::halt(
            format!("{setting} {} holds no certificate", path.display()),
            "it must be PEM: -----BEGIN CERTIFICATE-----",
        )),
        Err(error) => Err(TlsFailure::halt(
            format!("{setting} {} is not PEM: {error}", path.display()),
            "write the file anew as PEM",
        )),
    }
}

fn read(path: &Path, setting: &str) -> Result<Vec<u8>, TlsFailure> {
    fs::read(path).map_err(|error| {
        TlsFailure::halt(
            format!("cannot read {setting} {}: {error}", path.display()),
            format!("check the path {setting} names and that walferry's user may read it"),
        )
    })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client's certificate chain and key, if it has any. The files under `~/.postgresql` are among the options
/// already, unless `sslcertmode=disable` says that none is to be shown.
pub(super) fn client_identity(options: &TlsOptions) -> Result<Option<Identity>, TlsFailure> {
    let Some(certificate) = &options.client_cert else { return Ok(None) };
    let Some(key) = &options.client_key else {
        return Err(TlsFailure::halt("sslcert is given without sslkey", "name the key's file with sslkey"));
    };
    let chain = certificates(certificate, "sslcert")?;
    check_private(key)?;
    let text = read(key, "sslkey")?;
    let encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| text.windows(mark.len()).any(|part| part == *mark)) {
        return Err(TlsFailure::halt(
            format!("sslkey {} is encrypted, which is not supported", key.display()),
            "decrypt it (openssl pkey -in KEY -out KEY.plain) and let only walferry's user read it (chmod 600)",
        ));
    }
    let parsed = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        TlsFailure::halt(
            format!("sslkey {} holds no private key: {error}", key.display()),
            "it must be PEM: PKCS#8, PKCS#1 (RSA) or SEC1 (EC)",
        )
    })?;
    Ok(Some((chain, parsed)))
}

/// libpq's rule (`fe-secure-openssl.c`, `initialize_SSL`): nobody else may read the key; root's may be group-readable.
fn check_private(path: &Path) -> Result<(), TlsFailure> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let allowed = if metadata.uid() == 0 { 0o640 } else { 0o600 };
    if metadata.mode() & 0o777 & !allowed & 0o077 == 0 {
        return Ok(());
    }
    Err(TlsFailure::halt(
        format!("sslkey {} can be read by others", path.display()),
        format!("chmod 600 {}", path.display()),
    ))
}
