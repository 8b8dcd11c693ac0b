//! When the certificates in use stop being valid: so that somebody learns of it before connections are refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// What the last handshake showed; the earliest end among the certificates that were sent. `None`: there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// The server's.
    pub server: Option<SystemTime>,
    /// The client's own.
    pub client: Option<SystemTime>,
}

/// Of all connections that are made by one set of options; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Certificates(Arc<Mutex<Expiry>>);

impl Certificates {
    /// As of the last handshake.
    pub fn expiry(&self) -> Expiry {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self, expiry: Expiry) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = expiry;
    }
}

/// The earliest end among these certificates; one that cannot be read is not this module's to refuse.
pub(super) fn earliest(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let end = |certificate: &CertificateDer<'_>| {
        Certificate::from_der(certificate).ok().map(|read| read.tbs_certificate.validity.not_after.to_system_time())
    };
    chain.iter().filter_map(end).min()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_first_certificate_of_a_chain_to_end_counts() {
        let year_2100 = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        assert_eq!(earliest(&[until(2300), until(2100), until(2200)]), Some(year_2100));
        assert_eq!(earliest(&[CertificateDer::from(vec![1, 2, 3])]), None);
        assert_eq!(earliest(&[]), None);
    }

    #[test]
    fn all_connections_by_one_set_of_options_share_what_was_seen() {
        let (certificates, expiry) = (Certificates::default(), Expiry { server: Some(UNIX_EPOCH), client: None });
        certificates.clone().seen(expiry);
        assert_eq!(certificates.expiry(), expiry);
    }
}
