//! The checks of the source: each a small judgement over what it said. Pure.

use super::finding::Finding;
use super::source_facts::{PublicationFacts, SourceFacts, Unreadable};
use crate::relation::{Displayed, ReplicaIdentity, TableName};
use crate::source::publication::{PublishedTable, without_identity};
use crate::sql::Sql;

/// Versions that walferry is tested with.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 14..=18;

/// Tables above this many bytes are large.
const LARGE: u64 = 100 << 20;

type Check = fn(&SourceFacts) -> Vec<Finding>;

const CHECKS: &[Check] = &[
    |facts| version(facts.version),
    wal_level,
    recovery,
    replication,
    slot,
    foreign_slot,
    slot_user,
    free_slots,
    free_senders,
    keep_size,
    sender_timeout,
    idle_slot_timeout,
    |facts| encoding(&facts.encoding),
    publication,
    unmatched,
    operations,
    identities,
    |facts| facts.unreadable.iter().flat_map(|table| unreadable(&facts.role, table)).collect(),
    |facts| facts.unlogged.iter().map(unlogged).collect(),
    not_carried,
];

/// All findings.
pub fn judge(facts: &SourceFacts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts)).map(|finding| finding.on("source")).collect()
}

/// Of either side.
pub fn version(version: u32) -> Vec<Finding> {
    let major = version / 10_000;
    let why = || format!("walferry works with PostgreSQL {} to {}", SUPPORTED.start(), SUPPORTED.end());
    match major {
        _ if SUPPORTED.contains(&major) => vec![],
        _ if major > *SUPPORTED.end() => {
            vec![
                Finding::warning("server version", format!("is {major}"))
                    .why(why() + " and was not tried with later ones"),
            ]
        }
        _ => vec![Finding::error("server version", format!("is {major}")).why(why()).mend("Upgrade the server.")],
    }
}

/// Of either side.
pub fn encoding(encoding: &str) -> Vec<Finding> {
    if encoding == "UTF8" {
        return vec![];
    }
    let why = match encoding {
        "SQL_ASCII" => "text of unknown encoding travels as it is, and what is not UTF8 stops the stream",
        _ => "text travels as UTF8; characters that one side does not have stop the stream",
    };
    vec![Finding::warning("server_encoding", format!("is {encoding}, not UTF8")).why(why)]
}

fn wal_level(facts: &SourceFacts) -> Vec<Finding> {
    if facts.wal_level == "logical" {
        return vec![];
    }
    let finding =
        Finding::error("wal_level", format!("is {}", facts.wal_level)).why("the WAL lacks what decoding needs");
    vec![finding.mend("ALTER SYSTEM SET wal_level = logical; then restart the server (managed servers: a parameter)")]
}

fn recovery(facts: &SourceFacts) -> Vec<Finding> {
    match facts.in_recovery {
        false => vec![],
        true if facts.version < 160_000 => {
            let why = "before PostgreSQL 16 a standby cannot decode";
            vec![Finding::error("source.url", "leads to a standby").why(why).mend("Connect to the primary.")]
        }
        true => vec![
            Finding::warning("source.url", "leads to a standby")
                .why("there is no heartbeat, and a slot's creation waits for pg_log_standby_snapshot() on the primary")
                .mend("Connect to the primary."),
        ],
    }
}

fn replication(facts: &SourceFacts) -> Vec<Finding> {
    let Some(found) = &facts.no_replication else { return vec![] };
    let error = &found.error;
    if found.crowded {
        let (most, used) = facts.senders;
        let mend = format!("ALTER SYSTEM SET max_wal_senders = {}; then restart the server", used.max(most) + 4);
        return match used >= most {
            true => vec![
                Finding::error("max_wal_senders", format!("{used} of {most} are taken: {error}"))
                    .why("the stream needs one")
                    .mend(mend),
            ],
            false => vec![
                Finding::error("connections", format!("are all taken: {error}"))
                    .why("the stream needs one")
                    .mend("Raise max_connections, or the role's or the database's CONNECTION LIMIT."),
            ],
        };
    }
    let role = Sql::ident(&facts.role);
    let mend = found.hint.clone().unwrap_or_else(|| {
        format!("ALTER ROLE {role} REPLICATION; and never connect through a pooler (managed servers: their own grant)")
    });
    vec![Finding::error(format!("role {}", Displayed(&facts.role)), format!("cannot replicate: {error}")).mend(mend)]
}

fn slot(facts: &SourceFacts) -> Vec<Finding> {
    let (Some(slot), Some(position)) = (&facts.slot, &facts.position) else { return vec![] };
    let object = format!("slot {}", Displayed(&slot.name));
    if let Err(error) = slot.check_usable(&position.database) {
        let mend = match crate::error::Judged::verdict(&error) {
            crate::error::Verdict::Halt { hint } => hint,
            crate::error::Verdict::Retry => "Wait for its creation to end.".to_owned(),
        };
        return vec![Finding::error(object, error.to_string()).mend(mend)];
    }
    if slot.is_at_risk() {
        return vec![
            Finding::warning(object, "may lose WAL that it needs at the next checkpoint (wal_status unreserved)")
                .why("then everything has to be copied again")
                .mend("Start the daemon, or raise max_slot_wal_keep_size."),
        ];
    }
    vec![]
}

/// What `walferry run` refuses.
fn foreign_slot(facts: &SourceFacts) -> Vec<Finding> {
    let (Some(slot), Some(position), Some(false)) = (&facts.slot, &facts.position, facts.known) else { return vec![] };
    if slot.check_usable(&position.database).is_err() {
        return vec![];
    }
    vec![
        Finding::error(format!("slot {}", Displayed(&slot.name)), "exists, but no target has ever been fed from it")
            .why("it may be that of another program, and following it would take its changes away")
            .mend(
                "Set source.slot to another name; or, if it is left over: walferry slot reset, which drops it, creates \
                 it anew and has the tables copied",
            ),
    ]
}

fn slot_user(facts: &SourceFacts) -> Vec<Finding> {
    let (Some(slot), Some(user)) = (&facts.slot, &facts.slot_user) else { return vec![] };
    // One that has ended meanwhile uses it no more.
    let Some((application, _)) = user.session.as_ref().filter(|(name, _)| *name != facts.daemon) else { return vec![] };
    if facts.known == Some(false) {
        return vec![];
    }
    vec![
        Finding::error(format!("slot {}", Displayed(&slot.name)), format!("is in use by {user}"))
            .why(format!("walferry run waits until {} lets go of it", Displayed(application)))
            .mend("Stop that program, or set source.slot to another name."),
    ]
}

fn free_slots(facts: &SourceFacts) -> Vec<Finding> {
    let (most, used) = facts.slots;
    let needed = i64::from(facts.slot.is_none()) + facts.copying;
    let free = most - used;
    if free >= needed {
        return vec![];
    }
    let what = format!("{used} of {most} are taken");
    let mend = format!("ALTER SYSTEM SET max_replication_slots = {}; then restart the server", used + needed + 2);
    let finding = match free < 1 && facts.slot.is_none() {
        true => Finding::error("max_replication_slots", what).why("there is no room for walferry's slot"),
        false => Finding::warning("max_replication_slots", what).why(format!(
            "{needed} are needed while tables are copied: the stream's, and for a while one for each target"
        )),
    };
    vec![finding.mend(mend)]
}

fn free_senders(facts: &SourceFacts) -> Vec<Finding> {
    // Said already.
    if facts.no_replication.as_ref().is_some_and(|found| found.crowded) {
        return vec![];
    }
    let (most, used) = facts.senders;
    let streams = facts.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    let needed = i64::from(!streams) + facts.copying;
    if most - used >= needed {
        return vec![];
    }
    let what = format!("{used} of {most} are taken");
    let finding = match most - used < 1 && !streams {
        true => Finding::error("max_wal_senders", what).why("the stream needs one"),
        false => Finding::warning("max_wal_senders", what).why(format!(
            "{needed} are needed while tables are copied: the stream's, and for a while one for each target"
        )),
    };
    vec![finding.mend(format!("ALTER SYSTEM SET max_wal_senders = {}; then restart the server", used + needed + 2))]
}

fn keep_size(facts: &SourceFacts) -> Vec<Finding> {
    match facts.keep_megabytes {
        megabytes if megabytes < 0 => vec![
            Finding::info("max_slot_wal_keep_size", "is not limited")
                .why("while a target is down, the source keeps WAL until its disk is full: watch walferry's metrics")
                .mend("ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf()"),
        ],
        megabytes if megabytes < 1024 => vec![
            Finding::warning("max_slot_wal_keep_size", format!("is {megabytes} MB"))
                .why("a short stop of walferry or of a target loses the slot, and everything is copied again")
                .mend("ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf()"),
        ],
        _ => vec![],
    }
}

fn sender_timeout(facts: &SourceFacts) -> Vec<Finding> {
    if !(1..5000).contains(&facts.sender_timeout) {
        return vec![];
    }
    vec![
        Finding::warning("wal_sender_timeout", format!("is {} ms", facts.sender_timeout))
            .why("a short pause of the network or of this machine ends the stream")
            .mend("ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf()"),
    ]
}

fn idle_slot_timeout(facts: &SourceFacts) -> Vec<Finding> {
    if facts.idle_slot_timeout == 0 {
        return vec![];
    }
    vec![
        Finding::warning("idle_replication_slot_timeout", format!("is {} s", facts.idle_slot_timeout))
            .why("a stop of walferry for that long loses the slot, and everything is copied again")
            .mend("ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()"),
    ]
}

fn publication(facts: &SourceFacts) -> Vec<Finding> {
    match &facts.publication {
        PublicationFacts::Unknown => vec![],
        PublicationFacts::Complete(publication) if publication.tables.is_empty() => {
            vec![Finding::warning("publication", "publishes no table").why("there is nothing to replicate")]
        }
        PublicationFacts::Complete(_) => vec![],
        PublicationFacts::ToBeMade(Some(publication)) => {
            let what = format!("does not exist; walferry run creates it with {} tables", publication.tables.len());
            vec![Finding::info("publication", what).why("they were checked as they would be published")]
        }
        PublicationFacts::ToBeMade(None) => {
            vec![
                Finding::warning("publication", "does not exist; walferry run creates it")
                    .why("which tables it will hold cannot be found out now, because others have locked some")
                    .mend("Check again once those transactions have ended."),
            ]
        }
        PublicationFacts::Wrong(problem, remedy, _) => {
            vec![Finding::error("publication", problem.clone()).mend(remedy.clone())]
        }
    }
}

/// Of either side.
pub fn unmatched_patterns(key: &str, patterns: &[String]) -> Vec<Finding> {
    let one = |pattern: &String| {
        Finding::warning(key, format!("\"{pattern}\" matches no published table"))
            .why("it is misspelt, or its tables are not there or not published yet")
    };
    patterns.iter().map(one).collect()
}

fn unmatched(facts: &SourceFacts) -> Vec<Finding> {
    unmatched_patterns("source.tables", &facts.unmatched)
}

fn operations(facts: &SourceFacts) -> Vec<Finding> {
    let Some(publication) = facts.publication.published() else { return vec![] };
    let operations = [
        (publication.insert, "insert"),
        (publication.update, "update"),
        (publication.delete, "delete"),
        (publication.truncate, "truncate"),
    ];
    let missing: Vec<&str> = operations.iter().filter(|(published, _)| !published).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return vec![];
    }
    let sql = Sql::format(
        "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
        &[&Sql::ident(&publication.name)],
    );
    vec![
        Finding::warning(
            format!("publication {}", Displayed(&publication.name)),
            format!("leaves out {}", missing.join(", ")),
        )
        .why("the targets differ from the source after such statements; right if meant so")
        .mend(sql.to_string()),
    ]
}

fn identities(facts: &SourceFacts) -> Vec<Finding> {
    let Some(publication) = facts.publication.published() else { return vec![] };
    let without = without_identity(publication).into_iter().map(|table| {
        let sql = Sql::format("ALTER TABLE {} REPLICA IDENTITY FULL", &[&Sql::table(&table.name)]);
        Finding::warning(table.name.to_string(), "has no replica identity")
            .why("the source refuses UPDATE and DELETE on it while it is published")
            .mend(format!("{sql}; or give it a primary key"))
    });
    let slow = |table: &&PublishedTable| {
        let changes = publication.update || publication.delete;
        changes && table.identity == ReplicaIdentity::Full && table.bytes > LARGE
    };
    let large = publication.tables.iter().filter(slow).map(|table| {
        Finding::info(table.name.to_string(), "is large and has REPLICA IDENTITY FULL")
            .why("without a unique key on the target, each UPDATE and DELETE searches the whole table there")
    });
    without.chain(large).collect()
}

fn unreadable(role: &str, table: &Unreadable) -> Vec<Finding> {
    let (name, role) = (table.table.to_string(), Sql::ident(role));
    let mut findings = Vec::new();
    if table.schema_closed {
        let sql = Sql::format("GRANT USAGE ON SCHEMA {} TO {}", &[&Sql::ident(&table.table.schema), &role]);
        findings.push(Finding::error(&name, "is in a schema the role may not use").mend(sql.to_string()));
    }
    if table.no_select {
        let sql = Sql::format("GRANT SELECT ON {} TO {}", &[&Sql::table(&table.table), &role]);
        let finding = Finding::error(&name, "may not be read by the role").why("the initial copy reads it");
        findings.push(finding.mend(sql.to_string()));
    }
    if table.row_security {
        let sql = Sql::format("ALTER ROLE {} BYPASSRLS", &[&role]);
        let finding =
            Finding::error(&name, "has row level security").why("rows hidden from the role would not be copied");
        findings.push(finding.mend(sql.to_string()));
    }
    findings
}

fn unlogged(table: &TableName) -> Finding {
    let sql = Sql::format("ALTER TABLE {} SET LOGGED", &[&Sql::table(table)]);
    Finding::warning(table.to_string(), "is unlogged")
        .why("its changes are not in the WAL, so it is not replicated")
        .mend(sql.to_string())
}

fn not_carried(facts: &SourceFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.sequences > 0 {
        let what = format!("{} belong to published tables; their values are not replicated", facts.sequences);
        let why = "before an application writes to a target, its sequences have to be set above the highest values";
        findings.push(Finding::info("sequences", what).why(why));
    }
    if facts.large_objects > 0 {
        let what = format!("{} exist; they are not replicated", facts.large_objects);
        findings.push(Finding::info("large objects", what).why("logical decoding does not carry them"));
    }
    findings
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
