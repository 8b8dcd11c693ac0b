//! The checks of a target: each a small judgement over what it said, and over what the source said. Pure.

use super::facts::source::SourceFacts;
use super::facts::target::{Besides, TargetFacts};
use super::{Code, Finding, columns, constraints, copy, partitions, server};
use crate::error::{Judged, Verdict};
use crate::launcher::gap::{self, SourceFacts as Position};
use crate::relation::Displayed;
use crate::sql::Sql;

type Check = fn(&TargetFacts, &SourceFacts) -> Vec<Finding>;

/// Types come before what needs them: their statements do.
const CHECKS: &[Check] = &[
    |facts, _| server::judge(&facts.server, "url", sessions(facts)),
    database_collation,
    standby,
    read_only,
    is_the_source,
    schema,
    position,
    replica_role,
    columns::types,
    |facts, _| copy::tables(facts),
    columns::judge,
    partitions::judge,
    constraints::judge,
    |facts, _| facts.besides.iter().flat_map(|found| besides(found, facts.replica_role)).collect(),
    copy::room,
    |facts, _| server::unmatched("tables", &facts.unmatched),
    unseen,
];

/// All findings about the target of this name. `source` is as it is by default where it did not answer.
pub fn judge(name: &str, facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts, source)).map(|finding| finding.on(name)).collect()
}

/// Two that apply, one that watches and one that asks whether the server hangs; while tables are copied, what copies
/// them besides.
fn sessions(facts: &TargetFacts) -> i64 {
    4 + if facts.copying { 2 + facts.copy_workers } else { 0 }
}

fn database_collation(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let (ours, theirs) = (&facts.server.collation, &source.server.collation);
    if source.server.database.is_empty() || ours == theirs {
        return vec![];
    }
    let (object, what) = (
        format!("database {}", Displayed(&facts.server.database)),
        format!("sorts text by {} ({}), and the source's by {} ({})", ours.1, ours.0, theirs.1, theirs.0),
    );
    vec![
        Finding::new(Code::DatabaseCollation, object, what)
            .why("queries on the target order text otherwise, and ranges of text partitions hold other rows")
            .advice("A database keeps its collation: make a new one with the source's LOCALE where that matters."),
    ]
}

fn standby(facts: &TargetFacts, _: &SourceFacts) -> Vec<Finding> {
    if !facts.in_recovery {
        return vec![];
    }
    vec![
        Finding::new(Code::TargetStandby, "url", "leads to a standby")
            .why("nothing can be written")
            .advice("Connect to the primary; target_session_attrs=read-write finds it among several hosts."),
    ]
}

fn read_only(facts: &TargetFacts, _: &SourceFacts) -> Vec<Finding> {
    if !facts.read_only {
        return vec![];
    }
    let (role, database) = (Sql::ident(&facts.server.role), Sql::ident(&facts.server.database));
    let sql = Sql::format("ALTER ROLE {} IN DATABASE {} SET default_transaction_read_only = off", &[&role, &database]);
    vec![
        Finding::new(Code::TargetReadOnly, "default_transaction_read_only", "is on for the role's sessions")
            .why("nothing can be written")
            .sql(&sql)
            .advice("Somebody may have fenced the database by it: ask first."),
    ]
}

fn is_the_source(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let Some(position) = &source.position else { return vec![] };
    let same = facts.system_identifier.as_ref() == Some(&position.system_identifier)
        && facts.server.database == position.database;
    if !same {
        return vec![];
    }
    vec![
        Finding::new(Code::TargetIsSource, "url", "leads to the source's own database (or to a physical copy of it)")
            .why("every change would come round again")
            .advice("Set the target's url to another database."),
    ]
}

fn schema(facts: &TargetFacts, _: &SourceFacts) -> Vec<Finding> {
    if facts.may_use_schema {
        return vec![];
    }
    let role = Sql::ident(&facts.server.role);
    let (what, statements) = match (facts.schema, facts.schema_filled) {
        (false, _) => {
            ("may not be created by the role", vec![Sql::format("CREATE SCHEMA walferry AUTHORIZATION {}", &[&role])])
        }
        (true, false) => (
            "may not be used by the role, or not to make tables in",
            vec![Sql::format("GRANT USAGE, CREATE ON SCHEMA walferry TO {}", &[&role])],
        ),
        (true, true) => (
            "has tables that the role may not read and write",
            vec![
                Sql::format("GRANT USAGE, CREATE ON SCHEMA walferry TO {}", &[&role]),
                Sql::format("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA walferry TO {}", &[&role]),
            ],
        ),
    };
    vec![
        Finding::new(Code::WalferrySchema, "schema walferry", what)
            .why("walferry keeps its progress there")
            .script(&statements),
    ]
}

/// The start-up check of the daemon.
fn position(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let (Some(stored), Some(source)) = (&facts.stored, &source.position) else { return vec![] };
    let Some(end) = stored.end_lsn else { return vec![] };
    let finding = |what: String| Finding::new(Code::ProgressGap, "progress", what);
    if source.confirmed.is_none() {
        return vec![
            finding(format!("stands at {end}, but the slot \"{}\" does not exist", source.slot))
                .why("what came after cannot be had back")
                .advice("walferry slot reset: it creates the slot and has the tables copied again"),
        ];
    }
    // As the daemon chooses: its own slot, if that has what the target needs.
    let own = facts.own_slot.filter(|own| *own <= end.lsn());
    let source = Position { confirmed: own.or(source.confirmed), ..source.clone() };
    let Err(gap) = gap::check(stored, end, &source) else { return vec![] };
    let finding = finding(gap.to_string()).why("changes would be missing, or the target holds what the source has not");
    match gap.verdict() {
        Verdict::Halt { hint } => vec![finding.advice(hint)],
        Verdict::Retry => vec![finding],
    }
}

fn replica_role(facts: &TargetFacts, _: &SourceFacts) -> Vec<Finding> {
    if facts.replica_role {
        return vec![];
    }
    let role = &facts.server.role;
    let what = "may not set session_replication_role";
    let finding = Finding::new(Code::ReplicaRole, format!("role {}", Displayed(role)), what)
        .why("foreign keys are checked and triggers fire on the target; commit order keeps the keys satisfied");
    if facts.server.version < 150_000 {
        return vec![finding.advice("Before PostgreSQL 15 only a superuser may.")];
    }
    vec![finding.sql(&Sql::format("GRANT SET ON PARAMETER session_replication_role TO {}", &[&Sql::ident(role)]))]
}

/// What a table or partition loses, or does to rows by itself.
fn besides(found: &Besides, replica_role: bool) -> Vec<Finding> {
    let (table, name) = (Sql::table(&found.table), found.table.to_string());
    let listed = |names: &[String]| names.iter().map(|n| Displayed(n).to_string()).collect::<Vec<_>>().join(", ");
    let disable = |template: &'static str, names: &[String]| -> Vec<Sql> {
        names.iter().map(|name| Sql::format(template, &[&table, &Sql::ident(name)])).collect()
    };
    let (why, advice) = match replica_role {
        true => ("ENABLE ALWAYS and ENABLE REPLICA hold in the replica role too; right if meant so", None),
        false => (
            "what they write comes from the source as well, and then is there twice; right if meant so",
            Some("Or let the role set session_replication_role (PostgreSQL 15 and later)."),
        ),
    };
    let mut findings = Vec::new();
    if found.unlogged {
        let finding = Finding::new(Code::UnloggedTarget, &name, "is unlogged on the target")
            .why("a crash of the target empties it, while the position that says what it holds stays");
        findings.push(finding.sql(&Sql::format("ALTER TABLE {} SET LOGGED", &[&table])));
    }
    let mut add = |code, what: &str, names: &[String], template: &'static str| {
        if !names.is_empty() {
            let finding = Finding::new(code, &name, format!("{what} on the target: {}", listed(names))).why(why);
            let finding = finding.script(&disable(template, names));
            findings.push(advice.into_iter().fold(finding, Finding::advice));
        }
    };
    let disable_trigger = "ALTER TABLE {} DISABLE TRIGGER {}";
    add(Code::TriggersFire, "has triggers that fire for every row", &found.triggers, disable_trigger);
    add(Code::RulesApply, "has rules that rewrite changes", &found.rules, "ALTER TABLE {} DISABLE RULE {}");
    findings
}

fn unseen(facts: &TargetFacts, _: &SourceFacts) -> Vec<Finding> {
    if facts.tables_known {
        return vec![];
    }
    vec![
        Finding::new(Code::TablesUnseen, "tables", "were not looked at yet")
            .why("what keeps walferry from looking stands among the other findings")
            .advice("Mend those, and check again."),
    ]
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
