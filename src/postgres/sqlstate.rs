//! The one table from SQLSTATE to verdict (documentation: appendix "PostgreSQL Error Codes").
//!
//! Retry means: the same work may succeed later without anybody's help. Everything else halts and says what helps.

use super::ServerError;
use crate::error::Verdict;

/// What to do about a server's error. A more exact code stands before its class.
pub fn verdict(error: &ServerError) -> Verdict {
    let message = error.safe_message();
    let hint = match error.code.as_str() {
        // A pooler's word for a replication connection it cannot carry; its other troubles have the same code.
        "08P01" if message.contains("startup parameter") => {
            "connect to the server itself: a connection pooler does not carry replication".to_owned()
        }
        // A standby that still answers in a failover; a database made read-only for a while.
        "25006" | "25P02" | "25P03" | "25P04" => return Verdict::Retry,
        "28P01" => "check user and password of the connection string (or PGPASSWORD, the password file)".to_owned(),
        "28000" => no_entry(&message).unwrap_or_else(|| {
            "the user must exist with LOGIN, and on the source REPLICATION: ALTER ROLE … LOGIN REPLICATION".to_owned()
        }),
        "3D000" => "check the database's name in the connection string, or create it: CREATE DATABASE …".to_owned(),
        "26000" | "42P05" => {
            "prepared statements got lost or mixed up: connect directly or through a pooler in session mode".to_owned()
        }
        "40002" => "a constraint failed at commit: compare the target's constraints with the source's".to_owned(),
        "42501" => permission(&message),
        "42P01" => named(error, "create the table on this server with the source's definition, or leave it out"),
        "42703" => named(error, "add the column on this server: ALTER TABLE … ADD COLUMN …"),
        "42704" if error.lacks_publication() => NO_PUBLICATION.to_owned(),
        "42704" => "create the missing type or object on this server as it is on the source".to_owned(),
        "55006" | "55P03" | "55P04" => return Verdict::Retry,
        "57P04" => "the database was dropped: create it again and let its tables be copied".to_owned(),
        "P0001" => FUNCTION.to_owned(),
        "XX001" | "XX002" => "the server reports corrupted data: look into its log before anything else".to_owned(),
        _ => match error.class() {
            // Connection lost; deadlock, serialization; out of resources; cancelled, shutting down, starting up; I/O.
            "08" | "40" | "53" | "57" | "58" => return Verdict::Retry,
            // Internal errors are mostly races with DDL ("tuple concurrently updated", "cache lookup failed").
            "XX" => return Verdict::Retry,
            "0A" => "this server cannot do what is asked: compare its version with the source's".to_owned(),
            "22" => named(error, "the value does not fit the target's column: compare its type with the source's"),
            "23" => named(error, "the row breaks a constraint of the target: mend the row or the constraint there"),
            "42" => "the definition on this server is not what is expected: compare it with the source's".to_owned(),
            "54" => "the row or statement exceeds a limit of this server".to_owned(),
            _ => "see the server's log for the whole story".to_owned(),
        },
    };
    if error.is_a_functions() {
        return Verdict::halt(named(error, FUNCTION));
    }
    Verdict::halt(match error.safe_hint() {
        Some(server) => format!("{hint}. The server adds: {server}"),
        None => hint,
    })
}

const FUNCTION: &str = "a trigger or function on this server refuses the row: disable the trigger or mend it";

/// Decoding sees the catalogue as it was when the change was written.
const NO_PUBLICATION: &str = "there was no such publication when the next changes were written, and making it again \
                              does not help for these: create it and run `walferry slot reset`, which has the tables \
                              copied again";

/// The advice, preceded by the object the server names.
fn named(error: &ServerError, advice: &str) -> String {
    let schema = error.schema.as_deref().map(|schema| format!("{schema}.")).unwrap_or_default();
    match (&error.table, &error.column, &error.constraint) {
        (Some(table), _, Some(constraint)) => format!("table {schema}{table}, constraint {constraint}: {advice}"),
        (Some(table), Some(column), _) => format!("table {schema}{table}, column {column}: {advice}"),
        (Some(table), ..) => format!("table {schema}{table}: {advice}"),
        _ => advice.to_owned(),
    }
}

/// The GRANT that helps, in the shape of what was refused ("permission denied for table orders").
fn permission(message: &str) -> String {
    let object = message.strip_prefix("permission denied for ").unwrap_or_default();
    let (kind, name) = object.split_once(' ').unwrap_or_default();
    match kind {
        "table" | "relation" | "view" => format!(
            "on the source: GRANT SELECT ON {name} TO …; on a target: \
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {name} TO …"
        ),
        "schema" => format!("GRANT USAGE ON SCHEMA {name} TO …; to create tables in it also CREATE"),
        "sequence" => format!("GRANT USAGE, SELECT, UPDATE ON SEQUENCE {name} TO …"),
        "database" => {
            format!("GRANT CONNECT ON DATABASE {name} TO …; to create schemas or publications in it also CREATE")
        }
        "function" => format!("GRANT EXECUTE ON FUNCTION {name} TO …"),
        _ if message.contains("replication") || message.contains("walsender") => {
            "let the role replicate: ALTER ROLE … REPLICATION (managed servers have a role of their own for it)"
                .to_owned()
        }
        _ if message.contains("row-level security") || message.contains("row security") => {
            "row security would hide rows: ALTER ROLE … BYPASSRLS, or let the table's owner do it".to_owned()
        }
        _ => "grant the role what it lacks: GRANT … TO …".to_owned(),
    }
}

/// For "no pg_hba.conf entry for host "…", user "…", database "…", no encryption": the line that lets it in.
fn no_entry(message: &str) -> Option<String> {
    if !message.contains("pg_hba.conf") {
        return None;
    }
    let mut quoted = message.split('"').skip(1).step_by(2);
    let (host, user, database) = (quoted.next()?, quoted.next()?, quoted.next()?);
    let kind = if message.contains("SSL encryption") { "hostssl" } else { "host" };
    let line = match host {
        "[local]" => format!("local \"{database}\" \"{user}\" scram-sha-256"),
        _ => format!(
            "{kind} \"{database}\" \"{user}\" {host}/{} scram-sha-256",
            if host.contains(':') { 128 } else { 32 }
        ),
    };
    Some(format!("add to the server's pg_hba.conf and reload it: {line}; or change sslmode if the server wants TLS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: &str, message: &str) -> Verdict {
        verdict(&ServerError::parse(format!("VERROR\0C{code}\0M{message}\0\0").as_bytes()))
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let codes = [
            "08006", "57P01", "57P02", "57P03", "57P05", "40001", "40P01", "55P03", "57014", "53300", "53100", "58030",
            "25006", "55006", "XX000", "08P01",
        ];
        for code in codes {
            assert_eq!(judged(code, "x"), Verdict::Retry, "{code}");
        }
    }

    #[test]
    fn what_somebody_must_mend_halts() {
        for code in [
            "28P01", "28000", "3D000", "42501", "42P01", "42703", "22P02", "23505", "0A000", "42601", "57P04", "P0001",
            "",
        ] {
            assert!(matches!(judged(code, "x"), Verdict::Halt { hint } if !hint.is_empty()), "{code}");
        }
    }

    fn hint(code: &str, message: &str) -> String {
        match judged(code, message) {
            Verdict::Halt { hint } => hint,
            Verdict::Retry => panic!("{code} is retried"),
        }
    }

    #[test]
    fn the_hint_is_a_line_to_use() {
        let message = "no pg_hba.conf entry for host \"10.0.0.7\", user \"ferry\", database \"app\", no encryption";
        assert!(hint("28000", message).contains("host \"app\" \"ferry\" 10.0.0.7/32 scram-sha-256"));
        assert!(hint("42501", "permission denied for table orders").contains("GRANT SELECT ON orders TO"));
        assert!(hint("42501", "permission denied for schema s").contains("GRANT USAGE ON SCHEMA s"));
        let missing = |context: &str| {
            let body =
                format!("VERROR\0C42704\0Mpublication \"p\" does not exist\0Rget_publication_oid\0W{context}\0\0");
            format!("{:?}", verdict(&ServerError::parse(body.as_bytes())))
        };
        let stream = "slot \"s\", output plugin \"pgoutput\", in the change callback, associated LSN 0/1";
        assert!(missing(stream).contains("walferry slot reset"));
        assert!(!missing("").contains("walferry slot reset"));
        assert!(hint("42704", "type \"mood\" does not exist").contains("create the missing type"));
        assert!(hint("08P01", "unsupported startup parameter: replication").contains("pooler"));
    }
}
