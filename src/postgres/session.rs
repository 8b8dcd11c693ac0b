//! The settings every session is pinned to, whatever the role, database or server would say: they decide what text
//! means. In goes a server's version, out come the statements for it.
//!
//! They are sent as statements, not as startup parameters: poolers refuse startup parameters they do not know. A
//! walsender's session takes them too, and logical decoding prints values by them.

use crate::sql::Sql;

/// Startup parameters of every connection besides user, database and `replication`; every pooler knows these.
pub(crate) const CLIENT_ENCODING: (&str, &str) = ("client_encoding", "UTF8");

/// What every supported version knows. Commits are synchronous, as the server is set up for it: positions and states of
/// copies are stored by such sessions, and count as durable; who need not wait says so in its own session. Not pinned
/// on purpose: `default_transaction_read_only` (somebody may have fenced a database with it) and everything that only
/// decides how fast a statement runs. The keepalives are the server's own: a session whose client is gone without a
/// word would otherwise hold its locks for hours, the progress row's among them.
const COMMON: Sql = Sql::new(
    "SET client_encoding = 'UTF8'; \
     SET DateStyle = 'ISO'; \
     SET IntervalStyle = 'postgres'; \
     SET TimeZone = 'UTC'; \
     SET extra_float_digits = 3; \
     SET bytea_output = 'hex'; \
     SET xmloption = 'content'; \
     SET lc_monetary = 'C'; \
     SET array_nulls = on; \
     SET transform_null_equals = off; \
     SET standard_conforming_strings = on; \
     SET row_security = off; \
     SET search_path = ''; \
     SET statement_timeout = 0; \
     SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_isolation = 'read committed'; \
     SET default_transaction_deferrable = off; \
     SET client_min_messages = 'warning'; \
     SET tcp_keepalives_idle = 30; \
     SET tcp_keepalives_interval = 10; \
     SET tcp_keepalives_count = 3; \
     SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
     WHERE pg_catalog.current_setting('synchronous_commit') = 'off'",
);

/// The statements that pin a session on a server of this `server_version_num`. The last value that they return is the
/// server process that serves it.
pub(crate) fn pin(server_version: u32) -> Sql {
    let mut statements = vec![COMMON];
    if server_version >= 140_000 {
        statements.push(Sql::new("SET idle_session_timeout = 0"));
    }
    if server_version >= 170_000 {
        statements.push(Sql::new("SET transaction_timeout = 0"));
    }
    statements.push(Sql::new("SELECT pg_catalog.pg_backend_pid()"));
    Sql::join(&statements, "; ")
}

/// As [`pin`], for sessions that read the catalogue and change little. What tells of tables locks them
/// (`pg_relation_size`, `pg_publication_tables`) and would wait behind a VACUUM FULL for as long as it takes; 55P03 is
/// said, and tried again. The patience is that which apply has by default.
pub(crate) fn pin_client(server_version: u32) -> Sql {
    Sql::join(&[pin(server_version), Sql::new("SET lock_timeout = '30s'")], "; ")
}

/// `server_version_num` from the reported `server_version` ("15.6 (Debian …)", "17beta2", "9.6.24").
pub(crate) fn version_number(server_version: &str) -> Option<u32> {
    let plain = server_version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = plain.split('.').map(|part| part.parse::<u32>().ok().filter(|number| *number < 10_000));
    let major = parts.next()??;
    let minor = parts.next().flatten().unwrap_or(0);
    let patch = parts.next().flatten().unwrap_or(0);
    Some(if major >= 10 { major * 10_000 + minor } else { major * 10_000 + minor * 100 + patch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_servers_report_them() {
        for (text, number) in
            [("15.18 (Debian 15.18-0+deb12u1)", 150_018), ("17beta2", 170_000), ("18.1", 180_001), ("9.6.24", 90_624)]
        {
            assert_eq!(version_number(text), Some(number), "{text}");
        }
        assert_eq!(version_number("unknown"), None);
        assert_eq!(version_number("99999999999"), None);
    }

    #[test]
    fn a_server_is_not_asked_for_settings_it_does_not_know() {
        assert!(!pin(130_000).as_str().contains("idle_session_timeout"));
        assert!(!pin(160_000).as_str().contains("; SET transaction_timeout"));
        assert!(pin(170_000).as_str().contains("; SET transaction_timeout = 0;"));
        assert!(
            pin(170_000).as_str().ends_with("SELECT pg_catalog.pg_backend_pid()"),
            "the last value is not the process"
        );
    }
}
