//! The checks of any server, source or target. Pure.

use super::facts::server::{Connections, ServerFacts};
use super::{Code, Finding};
use crate::relation::Displayed;
use crate::sql::Sql;

/// Versions that walferry is tested with.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 14..=18;

/// By how many seconds clocks may differ before somebody is misled.
const CLOCK_TOLERANCE: f64 = 2.0;

/// All findings. `key`: the configuration's key of the connection string. `needed`: how many sessions walferry opens.
pub fn judge(facts: &ServerFacts, key: &str, needed: i64) -> Vec<Finding> {
    [
        version(facts.version),
        encoding(&facts.encoding),
        collation(facts),
        pooler(facts, key),
        clock(facts),
        connections(facts, needed),
        archiver(facts),
    ]
    .concat()
}

fn version(version: u32) -> Vec<Finding> {
    let major = version / 10_000;
    let why = || format!("walferry works with PostgreSQL {} to {}", SUPPORTED.start(), SUPPORTED.end());
    let (object, what) = ("server version", format!("is {major}"));
    match major {
        _ if SUPPORTED.contains(&major) => vec![],
        _ if major > *SUPPORTED.end() => {
            let why = why() + " and was not tried with later ones";
            vec![Finding::new(Code::VersionUntried, object, what).why(why).advice("Try it on a copy first.")]
        }
        _ => vec![Finding::new(Code::VersionTooOld, object, what).why(why()).advice("Upgrade the server.")],
    }
}

fn encoding(encoding: &str) -> Vec<Finding> {
    if encoding == "UTF8" {
        return vec![];
    }
    let why = match encoding {
        "SQL_ASCII" => "text of unknown encoding travels as it is, and what is not UTF8 stops the stream",
        _ => "text travels as UTF8; characters that one side does not have stop the stream",
    };
    vec![
        Finding::new(Code::EncodingNotUtf8, "server_encoding", format!("is {encoding}, not UTF8"))
            .why(why)
            .advice("A database keeps its encoding: make a new one with ENCODING 'UTF8', and use that."),
    ]
}

fn collation(facts: &ServerFacts) -> Vec<Finding> {
    let Some((made, now)) = &facts.collation_changed else { return vec![] };
    let database = Sql::ident(&facts.database);
    vec![
        Finding::new(
            Code::CollationChanged,
            format!("database {}", Displayed(&facts.database)),
            format!("was made with version {made} of its collation, and the operating system has {now}"),
        )
        .why("indexes on text may be out of order: rows are then not found by key, and doubles come in")
        .sql(&Sql::format("REINDEX DATABASE {}", &[&database]))
        .sql(&Sql::format("ALTER DATABASE {} REFRESH COLLATION VERSION", &[&database])),
    ]
}

fn pooler(facts: &ServerFacts, key: &str) -> Vec<Finding> {
    if !facts.pooled {
        return vec![];
    }
    vec![
        Finding::new(Code::Pooler, key, "leads through a connection pooler or proxy")
            .why("a pooler carries no replication, and settings, locks and statements of a session get lost in it")
            .advice(
                "Connect to the server itself. (A proxy that keeps one server session for each client does no harm.)",
            ),
    ]
}

fn clock(facts: &ServerFacts) -> Vec<Finding> {
    let ahead = facts.clock.ahead;
    if ahead.abs() - facts.clock.uncertain <= CLOCK_TOLERANCE {
        return vec![];
    }
    let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
    vec![
        Finding::new(Code::ClockDiffers, "clock", format!("is {:.1} s {direction} this machine's", ahead.abs()))
            .why("lag in seconds is told from both, and is wrong by as much; no change is lost by it")
            .advice("Keep the clocks of all machines in step (chrony, systemd-timesyncd)."),
    ]
}

fn connections(facts: &ServerFacts, needed: i64) -> Vec<Finding> {
    let Connections { server, reserved, database, role, superuser, of_daemon } = facts.connections;
    // It has what it needs.
    if of_daemon > 0 {
        return vec![];
    }
    let few = |object: String, limit: i64, used: i64| {
        let what = format!("allows {limit} connections, and {used} are in use");
        Finding::new(Code::ConnectionsFew, object, what).why(format!("walferry opens up to {needed} at a time"))
    };
    let short = |(limit, used): (i64, i64)| limit >= 0 && limit - used < needed;
    let wanted = |used: i64| Sql::number(used + needed + 2);
    let mut findings = Vec::new();
    if short(server) {
        let (limit, used) = server;
        let most = Sql::number(used + needed + reserved + 2);
        findings.push(few("max_connections".to_owned(), limit, used).restarted("max_connections", &most));
    }
    if !superuser && short(database) {
        let name = Sql::ident(&facts.database);
        let sql = Sql::format("ALTER DATABASE {} CONNECTION LIMIT {}", &[&name, &wanted(database.1)]);
        let object = format!("database {}", Displayed(&facts.database));
        findings.push(few(object, database.0, database.1).sql(&sql));
    }
    if !superuser && short(role) {
        let sql = Sql::format("ALTER ROLE {} CONNECTION LIMIT {}", &[&Sql::ident(&facts.role), &wanted(role.1)]);
        findings.push(few(format!("role {}", Displayed(&facts.role)), role.0, role.1).sql(&sql));
    }
    findings
}

fn archiver(facts: &ServerFacts) -> Vec<Finding> {
    if !facts.archiver_fails {
        return vec![];
    }
    vec![
        Finding::new(Code::ArchiverFails, "archive_command", "fails")
            .why("WAL that is not archived is kept, and the initial copy writes much of it, until the disk is full")
            .advice("See the server's log for the reason, and mend the archive."),
    ]
}

/// A pattern that chooses nothing.
pub fn unmatched(key: &str, patterns: &[String]) -> Vec<Finding> {
    let one = |pattern: &String| {
        Finding::new(Code::PatternUnmatched, key, format!("\"{pattern}\" matches no published table"))
            .why("it is misspelt, or its tables are not there or not published yet")
            .advice("Correct it in the configuration, or publish the tables.")
    };
    patterns.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::server::Clock;
    use super::*;

    fn good() -> ServerFacts {
        ServerFacts {
            version: 150_004,
            role: "me".to_owned(),
            database: "shop".to_owned(),
            encoding: "UTF8".to_owned(),
            connections: Connections { server: (100, 10), database: (-1, 2), role: (-1, 2), ..Connections::default() },
            ..ServerFacts::default()
        }
    }

    fn found(change: impl FnOnce(&mut ServerFacts)) -> Vec<Finding> {
        let mut facts = good();
        change(&mut facts);
        judge(&facts, "url", 10)
    }

    fn code(change: impl FnOnce(&mut ServerFacts)) -> Code {
        let found = found(change);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].code
    }

    #[test]
    fn a_server_in_good_order_has_no_findings() {
        assert_eq!(found(|_| {}), []);
        assert_eq!(found(|facts| facts.clock = Clock { ahead: -30.0, uncertain: 29.0 }), [], "a slow network");
    }

    #[test]
    fn each_fault_is_one_finding() {
        assert_eq!(code(|facts| facts.version = 130_009), Code::VersionTooOld);
        assert_eq!(code(|facts| facts.version = 190_000), Code::VersionUntried);
        assert_eq!(code(|facts| facts.encoding = "LATIN1".into()), Code::EncodingNotUtf8);
        assert_eq!(code(|facts| facts.pooled = true), Code::Pooler);
        assert_eq!(code(|facts| facts.clock = Clock { ahead: -30.0, uncertain: 0.1 }), Code::ClockDiffers);
        assert_eq!(code(|facts| facts.archiver_fails = true), Code::ArchiverFails);
    }

    #[test]
    fn a_collation_that_changed_comes_with_the_rebuilding_of_indexes() {
        let found = found(|facts| facts.collation_changed = Some(("1".into(), "2".into())));
        assert_eq!(found[0].sql, [r#"REINDEX DATABASE "shop""#, r#"ALTER DATABASE "shop" REFRESH COLLATION VERSION"#]);
    }

    #[test]
    fn each_limit_that_is_too_low_is_raised_by_its_own_statement() {
        let role = found(|facts| facts.connections.role = (5, 3));
        assert_eq!(role[0].sql, [r#"ALTER ROLE "me" CONNECTION LIMIT 15"#]);
        let database = found(|facts| facts.connections.database = (5, 3));
        assert_eq!(database[0].sql, [r#"ALTER DATABASE "shop" CONNECTION LIMIT 15"#]);
        let server = found(|facts| (facts.connections.server, facts.connections.reserved) = ((20, 15), 3));
        assert!(server[0].restart && server[0].sql == ["ALTER SYSTEM SET max_connections = 30"], "{server:?}");
        let all = |superuser, of_daemon| {
            let (database, role) = ((1, 1), (1, 1));
            let limits = Connections { database, role, superuser, of_daemon, ..good().connections };
            found(|facts| facts.connections = limits).len()
        };
        assert_eq!((all(false, 0), all(true, 0), all(false, 3)), (2, 0, 0));
    }
}
