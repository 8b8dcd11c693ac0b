//! Which server certificates are trusted. The handshake's signature is checked in every mode: channel binding is worth
//! nothing if the other end need not own the certificate it shows.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use webpki::RawPublicKeyEntity;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::{TlsFailure, name};

/// The certificates that vouch for others.
#[derive(Debug)]
pub(super) struct Roots {
    /// For chains.
    pub(super) store: RootCertStore,
    /// For a server's certificate that is itself among them.
    pub(super) exact: Vec<CertificateDer<'static>>,
    /// Where they come from, for messages.
    pub(super) origin: String,
}

/// What is asked of a server's certificate.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// Nothing: `allow`, `prefer`, and `require` without a root file.
    Anything,
    /// A chain to a root: `verify-ca`.
    Chain(Arc<Roots>),
    /// And the host's name: `verify-full`.
    ChainAndName(Arc<Roots>),
}

/// rustls asks it about every certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    /// The host as configured; rustls's own idea of it may be an address.
    host: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(trust: Trust, host: String, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { trust, host, algorithms }
    }

    fn chain(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let verified = ParsedCertificate::try_from(leaf).and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, others, now, self.algorithms.all)
        });
        match verified {
            Ok(()) => Ok(()),
            // OpenSSL trusts a self-signed certificate that is its own root; webpki says it is a CA.
            Err(error) => match self_signed_root(roots, leaf, now) {
                Some(true) => Ok(()),
                Some(false) => Err(refuse(expired(roots))),
                None => Err(refuse(untrusted(&error, roots))),
            },
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        first_only: bool,
    ) -> Result<HandshakeSignatureValid, Error> {
        let found = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, candidates) = found.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        // By the key alone: webpki reads no X.509 version 1 certificate, which `openssl x509 -req` makes by default.
        let key = Certificate::from_der(certificate)
            .and_then(|parsed| parsed.tbs_certificate.subject_public_key_info.to_der())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = SubjectPublicKeyInfoDer::from(key);
        let key =
            RawPublicKeyEntity::try_from(&key).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let count = if first_only { 1 } else { candidates.len() };
        let valid = candidates
            .iter()
            .take(count)
            .any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok());
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::BadSignature))
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anything => {}
            Trust::Chain(roots) => self.chain(roots, leaf, others, now)?,
            Trust::ChainAndName(roots) => {
                self.chain(roots, leaf, others, now)?;
                name::verify(leaf, &self.host).map_err(refuse)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // RFC 8446, 4.2.3: PKCS#1 signatures are for certificates only; a scheme names one curve, the list's first.
        match signed.scheme {
            SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512 => Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()),
            _ => self.signature(message, certificate, signed, true),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether the certificate is, byte for byte, a self-signed one of the roots, and if so whether it is valid now.
fn self_signed_root(roots: &Roots, leaf: &CertificateDer<'_>, now: UnixTime) -> Option<bool> {
    if !roots.exact.iter().any(|root| root == leaf) {
        return None;
    }
    let certificate = Certificate::from_der(leaf).ok()?.tbs_certificate;
    if certificate.subject != certificate.issuer {
        return None;
    }
    let now = Duration::from_secs(now.as_secs());
    let validity = certificate.validity;
    Some(validity.not_before.to_unix_duration() <= now && now <= validity.not_after.to_unix_duration())
}

fn refuse(failure: TlsFailure) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(failure))))
}

fn expired(roots: &Roots) -> TlsFailure {
    TlsFailure::halt(
        format!("the server's certificate, which {} holds, is not valid at this time", roots.origin),
        "renew the server's certificate, or check both clocks",
    )
}

fn untrusted(error: &Error, roots: &Roots) -> TlsFailure {
    let origin = &roots.origin;
    match error {
        // A bad signature: an authority of the same name with another key, as when it was made anew.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            TlsFailure::halt(
                format!("the server's certificate is not signed by any of {origin}"),
                "put the certificate of the authority that signed it into the file sslrootcert names",
            )
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            TlsFailure::halt(
                "the server's certificate or one that vouches for it has expired",
                "renew it, or check both clocks",
            )
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            TlsFailure::halt(
                "the server's certificate or one that vouches for it is not valid yet",
                "check both clocks",
            )
        }
        other if other.to_string().contains("UnsupportedCertVersion") => TlsFailure::halt(
            "the server's certificate is of X.509 version 1, which cannot be verified",
            "issue it anew as version 3 with a subjectAltName (openssl x509 -req … -extfile FILE)",
        ),
        other => TlsFailure::halt(
            format!("the server's certificate is not trusted by {origin}: {other}"),
            "issue it anew, or name the authority that signed it with sslrootcert",
        ),
    }
}
