//! Which hosts a certificate is good for: libpq's rule (`fe-secure-common.c`, `fe-secure-openssl.c`
//! `pgtls_verify_peer_name_matches_certificate_guts`), which also takes the common name where there is no
//! subjectAltName of the host's kind.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Any, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::TlsFailure;

/// The names a certificate carries.
#[derive(Debug, Default)]
struct Names {
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    common: Option<String>,
}

/// Fails, with the certificate's names, unless it is good for `host`.
pub(super) fn verify(certificate: &CertificateDer<'_>, host: &str) -> Result<(), TlsFailure> {
    if host.is_empty() {
        return Err(TlsFailure::halt(
            "sslmode=verify-full needs a host name to verify",
            "give host beside hostaddr in the connection string",
        ));
    }
    let names =
        Certificate::from_der(certificate).ok().and_then(|certificate| names(&certificate)).ok_or_else(|| {
            TlsFailure::halt("the names in the server's certificate cannot be read", "issue the certificate anew")
        })?;
    if names.good_for(host) {
        return Ok(());
    }
    let shown = names.shown();
    Err(TlsFailure::halt(
        format!("the server's certificate is for {shown}, not for the host \"{host}\""),
        "connect by a name in the certificate (host=NAME, with hostaddr=ADDRESS if it does not resolve), issue it \
         anew with this name, or verify the authority only (sslmode=verify-ca)",
    ))
}

fn names(certificate: &Certificate) -> Option<Names> {
    let tbs = &certificate.tbs_certificate;
    let mut names = Names::default();
    if let Some((_, SubjectAltName(alternatives))) = tbs.get::<SubjectAltName>().ok()? {
        for alternative in alternatives {
            match alternative {
                GeneralName::DnsName(name) => names.dns.push(name.as_str().to_owned()),
                GeneralName::IpAddress(bytes) => match bytes.as_bytes() {
                    v4 if v4.len() == 4 => names.ips.push(IpAddr::from(<[u8; 4]>::try_from(v4).ok()?)),
                    v6 if v6.len() == 16 => names.ips.push(IpAddr::from(<[u8; 16]>::try_from(v6).ok()?)),
                    _ => {}
                },
                _ => {}
            }
        }
    }
    let mut attributes = tbs.subject.0.iter().flat_map(|part| part.0.iter());
    names.common =
        attributes.find(|attribute| attribute.oid == COMMON_NAME).and_then(|attribute| text(&attribute.value));
    Some(names)
}

fn text(value: &Any) -> Option<String> {
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned()))
        .or_else(|_| value.decode_as::<Ia5StringRef<'_>>().map(|text| text.as_str().to_owned()))
        .or_else(|_| value.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_owned()))
        .ok()
}

impl Names {
    fn good_for(&self, host: &str) -> bool {
        let address = host.parse::<IpAddr>().ok();
        let by_alternative = self.dns.iter().any(|name| matches(name, host))
            || address.is_some_and(|address| self.ips.contains(&address));
        // An alternative name of the host's own kind rules the common name out.
        let common_counts = if address.is_some() { self.ips.is_empty() } else { self.dns.is_empty() };
        by_alternative || common_counts && self.common.as_deref().is_some_and(|name| matches(name, host))
    }

    fn shown(&self) -> String {
        let alternatives = self.dns.iter().cloned().chain(self.ips.iter().map(ToString::to_string));
        let all: Vec<String> =
            alternatives.chain(self.common.iter().cloned()).take(10).map(|name| format!("\"{name}\"")).collect();
        if all.is_empty() { "no host at all".to_owned() } else { all.join(", ") }
    }
}

/// Equal without regard to case, or by a wildcard that is the whole leftmost label (`wildcard_certificate_match`).
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.contains('\0') {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(rest) = pattern.strip_prefix('*').filter(|rest| rest.len() >= 2 && rest.starts_with('.')) else {
        return false;
    };
    let Some((label, domain)) = host.split_once('.') else { return false };
    !label.is_empty() && domain.eq_ignore_ascii_case(&rest[1..]) && host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(dns: &[&str], ips: &[&str], common: Option<&str>, host: &str) -> bool {
        let names = Names {
            dns: dns.iter().map(ToString::to_string).collect(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            common: common.map(str::to_owned),
        };
        names.good_for(host)
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(matches("*.example.com", "db.example.com"));
        assert!(matches("DB.example.com", "db.EXAMPLE.com"));
        for host in ["example.com", ".example.com", "a.db.example.com", "dbexample.com"] {
            assert!(!matches("*.example.com", host), "{host}");
        }
        assert!(!matches("*", "localhost"));
        assert!(!matches("d*.example.com", "db.example.com"));
        assert!(!matches("db.example.com\0.evil.com", "db.example.com"));
        assert!(!matches("*.0.0.1", "127.0.0.1"));
    }

    #[test]
    fn the_common_name_counts_only_without_an_alternative_of_the_same_kind() {
        assert!(good(&[], &[], Some("db"), "db"));
        assert!(!good(&["other"], &[], Some("db"), "db"));
        assert!(good(&[], &["10.0.0.1"], Some("db"), "db"));
        assert!(good(&["db"], &[], Some("10.0.0.1"), "10.0.0.1"));
        assert!(!good(&["db"], &["10.0.0.2"], Some("10.0.0.1"), "10.0.0.1"));
        assert!(good(&[], &["::1"], None, "0:0:0:0:0:0:0:1"));
        assert!(!good(&[], &[], None, "db"));
    }
}
