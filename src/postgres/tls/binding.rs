//! `tls-server-end-point` (RFC 5929, 4.1): the server certificate's hash, which SCRAM-SHA-256-PLUS binds the login to.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::spki::AlgorithmIdentifierOwned;

/// Missing in the table of names.
const ECDSA_WITH_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");

/// The hash by the certificate's signature algorithm. `None` where that names no hash (Ed25519): there PostgreSQL has
/// no channel binding either.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = hash_of(&parsed.signature_algorithm)?;
    Some(digest(algorithm, certificate).as_ref().to_vec())
}

/// MD5 and SHA-1 are replaced by SHA-256, as the RFC says.
fn hash_of(signature: &AlgorithmIdentifierOwned) -> Option<&'static Algorithm> {
    match signature.oid {
        rfc5912::MD_5_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | ECDSA_WITH_SHA_1
        | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256 => Some(&SHA256),
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => Some(&SHA384),
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => Some(&SHA512),
        rfc5912::ID_RSASSA_PSS => pss_hash(signature),
        _ => None,
    }
}

/// RSASSA-PSS-params: SEQUENCE { [0] EXPLICIT hash AlgorithmIdentifier DEFAULT sha1, ... }.
fn pss_hash(signature: &AlgorithmIdentifierOwned) -> Option<&'static Algorithm> {
    use x509_cert::der::asn1::{AnyRef, ContextSpecific};
    use x509_cert::der::{Header, Reader, SliceReader, Tag, TagNumber};

    let parameters = signature.parameters.as_ref()?;
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    if !matches!(reader.peek_tag().ok(), Some(Tag::ContextSpecific { number: TagNumber::N0, .. })) {
        return Some(&SHA256);
    }
    let hash = ContextSpecific::<AnyRef<'_>>::decode(&mut reader).ok()?.value;
    let mut reader = SliceReader::new(hash.value()).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    let oid = ObjectIdentifier::from_bytes(reader.read_slice(header.length).ok()?).ok()?;
    match oid {
        rfc5912::ID_SHA_1 | rfc5912::ID_SHA_256 => Some(&SHA256),
        rfc5912::ID_SHA_384 => Some(&SHA384),
        rfc5912::ID_SHA_512 => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_hash_follows_the_signature() {
        let length = |algorithm| server_end_point(&certificate(algorithm)).map(|hash| hash.len());
        assert_eq!(length(&rcgen::PKCS_ECDSA_P256_SHA256), Some(32));
        assert_eq!(length(&rcgen::PKCS_ECDSA_P384_SHA384), Some(48));
        assert_eq!(length(&rcgen::PKCS_ED25519), None);
        assert_eq!(server_end_point(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
