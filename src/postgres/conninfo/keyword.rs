//! The table of connection keywords: every one libpq knows (PostgreSQL 14 to 18), its `PG*` variable, and what
//! walferry makes of it. Facts: PostgreSQL docs, "Parameter Key Words" and "Environment Variables";
//! `PQconninfoOptions` in fe-connect.c.

use Treatment::{NoEffect, Refused, Used};

/// A keyword of connection strings.
#[derive(Debug)]
pub(super) struct Keyword {
    pub name: &'static str,
    /// The environment variable that stands in when neither string nor service file say anything.
    pub variable: Option<&'static str>,
    pub treatment: Treatment,
}

/// What happens to a keyword's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It has its effect.
    Used,
    /// Accepted whatever it says: it can have no effect here, and none is missed.
    NoEffect,
    /// An error when it says anything: ignoring it would lower security or surprise. The text says why.
    Refused(&'static str),
}

const fn keyword(name: &'static str, variable: Option<&'static str>, treatment: Treatment) -> Keyword {
    Keyword { name, variable, treatment }
}

const NO_CRL: &str = "certificate revocation lists are not checked";
const NO_OAUTH: &str = "OAuth authentication is not supported";
const NO_PASSTHROUGH: &str = "SCRAM pass-through keys are not supported; give the password";

/// All keywords.
pub(super) static KEYWORDS: &[Keyword] = &[
    keyword("service", Some("PGSERVICE"), Used),
    keyword("servicefile", Some("PGSERVICEFILE"), Used),
    keyword("user", Some("PGUSER"), Used),
    keyword("password", Some("PGPASSWORD"), Used),
    keyword("passfile", Some("PGPASSFILE"), Used),
    keyword("channel_binding", Some("PGCHANNELBINDING"), Used),
    keyword("connect_timeout", Some("PGCONNECT_TIMEOUT"), Used),
    keyword("dbname", Some("PGDATABASE"), Used),
    keyword("host", Some("PGHOST"), Used),
    keyword("hostaddr", Some("PGHOSTADDR"), Used),
    keyword("port", Some("PGPORT"), Used),
    keyword("client_encoding", Some("PGCLIENTENCODING"), Used),
    keyword("options", Some("PGOPTIONS"), Used),
    keyword("application_name", Some("PGAPPNAME"), Used),
    keyword("fallback_application_name", None, Used),
    keyword("keepalives", None, Used),
    keyword("keepalives_idle", None, Used),
    keyword("keepalives_interval", None, Used),
    keyword("keepalives_count", None, Used),
    keyword("tcp_user_timeout", None, Used),
    keyword("sslmode", Some("PGSSLMODE"), Used),
    keyword("sslnegotiation", Some("PGSSLNEGOTIATION"), Used),
    // Nothing is ever compressed: the stricter of the two settings, and all that servers since PostgreSQL 14 offer.
    keyword("sslcompression", Some("PGSSLCOMPRESSION"), NoEffect),
    keyword("sslcert", Some("PGSSLCERT"), Used),
    keyword("sslkey", Some("PGSSLKEY"), Used),
    keyword("sslcertmode", Some("PGSSLCERTMODE"), Used),
    keyword("sslpassword", None, Used),
    keyword("sslrootcert", Some("PGSSLROOTCERT"), Used),
    keyword("sslcrl", Some("PGSSLCRL"), Refused(NO_CRL)),
    keyword("sslcrldir", Some("PGSSLCRLDIR"), Refused(NO_CRL)),
    keyword("sslkeylogfile", None, Refused("TLS secrets are never written to a file")),
    keyword("sslsni", Some("PGSSLSNI"), Used),
    keyword("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Used),
    keyword("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Used),
    keyword("requirepeer", Some("PGREQUIREPEER"), Used),
    keyword(
        "require_auth",
        Some("PGREQUIREAUTH"),
        Refused("the authentication method cannot be demanded; channel_binding=require demands SCRAM over TLS"),
    ),
    // The protocol is 3.0: newer ones bring nothing that is needed here.
    keyword("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Used),
    keyword("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), NoEffect),
    keyword("gssencmode", Some("PGGSSENCMODE"), Used),
    // Without GSSAPI there is nothing these could change.
    keyword("krbsrvname", Some("PGKRBSRVNAME"), NoEffect),
    keyword("gsslib", Some("PGGSSLIB"), NoEffect),
    keyword("gssdelegation", Some("PGGSSDELEGATION"), NoEffect),
    keyword("replication", None, Used),
    keyword("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Used),
    keyword("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Used),
    keyword("scram_client_key", None, Refused(NO_PASSTHROUGH)),
    keyword("scram_server_key", None, Refused(NO_PASSTHROUGH)),
    keyword("oauth_issuer", None, Refused(NO_OAUTH)),
    keyword("oauth_client_id", None, Refused(NO_OAUTH)),
    keyword("oauth_client_secret", None, Refused(NO_OAUTH)),
    keyword("oauth_scope", None, Refused(NO_OAUTH)),
];

/// The keyword of that name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// Whether it looks like a keyword at all: none has a digit. What does not is no keyword misspelt, but text that was
/// misread as one, and so is what `password` is a part of.
pub(super) fn is_word(name: &str) -> bool {
    let plain = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_' || c == '-');
    plain && !name.contains("password")
}

/// The keyword that was probably meant, if one is close enough. Also knows other drivers' words for the same thing.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "database" | "db" => return Some("dbname"),
        "username" | "login" => return Some("user"),
        "pass" | "passwd" | "pwd" => return Some("password"),
        "hostname" | "server" => return Some("host"),
        "ssl" | "tls" => return Some("sslmode"),
        "currentschema" | "search_path" | "schema" => return Some("options"),
        "timeout" => return Some("connect_timeout"),
        _ => {}
    }
    KEYWORDS
        .iter()
        .map(|keyword| (strsim::damerau_levenshtein(&name, keyword.name), keyword.name))
        .filter(|(distance, keyword)| *distance <= keyword.len() / 4 + 1 && name.len() > *distance)
        .min()
        .map(|(_, keyword)| keyword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_keyword_that_was_meant() {
        for (written, expected) in [
            ("sslmod", "sslmode"),
            ("SSLMODE", "sslmode"),
            ("sslrootcrt", "sslrootcert"),
            ("aplication_name", "application_name"),
            ("prot", "port"),
            ("database", "dbname"),
            ("username", "user"),
        ] {
            assert_eq!(meant(written), Some(expected), "{written}");
        }
    }

    #[test]
    fn a_word_like_no_keyword_suggests_nothing() {
        for written in ["", "x", "pool_size", "prepareThreshold"] {
            assert_eq!(meant(written), None, "{written}");
        }
    }

    #[test]
    fn every_keyword_is_listed_once() {
        for keyword in KEYWORDS {
            assert_eq!(KEYWORDS.iter().filter(|other| other.name == keyword.name).count(), 1, "{}", keyword.name);
        }
    }
}
