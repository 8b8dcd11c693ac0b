//! The checks of a target: each a small judgement over what it said, and over where the source stands. Pure.

use super::finding::{Finding, Severity};
use super::source::{encoding, unmatched_patterns, version};
use super::target_facts::TargetFacts;
use crate::error::{Judged, Verdict};
use crate::launcher::gap::{self, SourceFacts as Position};
use crate::relation::{Displayed, TableName};
use crate::sql::Sql;
use crate::tablesync::Weight;

type Check = fn(&TargetFacts, Option<&Position>) -> Vec<Finding>;

const CHECKS: &[Check] = &[
    |facts, _| version(facts.version),
    |facts, _| encoding(&facts.encoding),
    read_only,
    is_the_source,
    schema,
    position,
    replica_role,
    types,
    tables,
    unlogged,
    replica_triggers,
    |facts, _| unmatched_patterns("tables", &facts.unmatched),
];

/// All findings about the target of this name. `source`: where the source stands, if that is known.
pub fn judge(name: &str, facts: &TargetFacts, source: Option<&Position>) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts, source)).map(|finding| finding.on(name)).collect()
}

fn read_only(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    if !facts.read_only {
        return vec![];
    }
    vec![
        Finding::error("url", "leads to a standby, or to sessions that only read (default_transaction_read_only)")
            .why("nothing can be written")
            .mend("Connect to the primary; target_session_attrs=read-write finds it among several hosts."),
    ]
}

fn is_the_source(facts: &TargetFacts, source: Option<&Position>) -> Vec<Finding> {
    let same = |source: &Position| {
        facts.system_identifier.as_ref() == Some(&source.system_identifier) && facts.database == source.database
    };
    if !source.is_some_and(same) {
        return vec![];
    }
    vec![
        Finding::error("url", "leads to the source's own database (or to a physical copy of it)")
            .why("every change would come round again")
            .mend("Set the target's url to another database."),
    ]
}

fn schema(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    if facts.may_use_schema {
        return vec![];
    }
    let role = Sql::ident(&facts.role);
    let (what, sql) = match (facts.schema, facts.schema_filled) {
        (false, _) => {
            ("may not be created by the role", Sql::format("CREATE SCHEMA walferry AUTHORIZATION {}", &[&role]))
        }
        (true, false) => (
            "may not be used by the role, or not to make tables in",
            Sql::format("GRANT USAGE, CREATE ON SCHEMA walferry TO {}", &[&role]),
        ),
        (true, true) => (
            "has tables that the role may not read and write",
            Sql::format(
                "GRANT USAGE, CREATE ON SCHEMA walferry TO {}; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA walferry TO {}",
                &[&role, &role],
            ),
        ),
    };
    vec![Finding::error("schema walferry", what).why("walferry keeps its progress there").mend(sql.to_string())]
}

/// The start-up check of the daemon.
fn position(facts: &TargetFacts, source: Option<&Position>) -> Vec<Finding> {
    let (Some(stored), Some(source)) = (&facts.stored, source) else { return vec![] };
    let Some(end) = stored.end_lsn else { return vec![] };
    if source.confirmed.is_none() {
        return vec![
            Finding::error("progress", format!("stands at {end}, but the slot \"{}\" does not exist", source.slot))
                .why("what came after cannot be had back")
                .mend("walferry slot reset: it creates the slot and has the tables copied again"),
        ];
    }
    let Err(gap) = gap::check(stored, end, source) else { return vec![] };
    let finding = Finding::error("progress", gap.to_string());
    match gap.verdict() {
        Verdict::Halt { hint } => vec![finding.mend(hint)],
        Verdict::Retry => vec![finding],
    }
}

fn replica_role(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    if facts.replica_role {
        return vec![];
    }
    let finding = Finding::info(format!("role {}", Displayed(&facts.role)), "may not set session_replication_role")
        .why("foreign keys are checked and triggers fire on the target; commit order keeps the keys satisfied");
    if facts.version < 150_000 {
        return vec![finding];
    }
    let sql = Sql::format("GRANT SET ON PARAMETER session_replication_role TO {}", &[&Sql::ident(&facts.role)]);
    vec![finding.mend(sql.to_string())]
}

fn types(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    let one = |(table, column, theirs, ours): &(TableName, String, String, String)| {
        let what = format!("column {} is {ours}, and {theirs} on the source", Displayed(column));
        let sql = Sql::format(
            "ALTER TABLE {} ALTER COLUMN {} TYPE {}",
            &[&Sql::table(table), &Sql::ident(column), &Sql::from_catalog(theirs.clone())],
        );
        Finding::warning(table.to_string(), what)
            .why("values travel as text; one that the target's type does not take stops the target")
            .mend(sql.to_string())
    };
    facts.other_types.iter().map(one).collect()
}

fn tables(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    let one = |found: &crate::tablesync::Finding| {
        let severity = match found.weight {
            Weight::Stops => Severity::Error,
            Weight::Warns => Severity::Warning,
        };
        let finding = match severity {
            Severity::Error => Finding::error(found.table.to_string(), found.problem.clone()),
            _ => Finding::warning(found.table.to_string(), found.problem.clone()),
        };
        match &found.sql {
            Some(sql) => finding.mend(sql.to_string()),
            None => finding,
        }
    };
    facts.copy.iter().map(one).collect()
}

fn unlogged(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    let one = |table: &TableName| {
        let sql = Sql::format("ALTER TABLE {} SET LOGGED", &[&Sql::table(table)]);
        Finding::error(table.to_string(), "is unlogged on the target")
            .why("a crash of the target empties it, while the position that says what it holds stays")
            .mend(sql.to_string())
    };
    facts.unlogged.iter().map(one).collect()
}

fn replica_triggers(facts: &TargetFacts, _: Option<&Position>) -> Vec<Finding> {
    let one = |(table, triggers): &(TableName, Vec<String>)| {
        let names: Vec<String> = triggers.iter().map(|name| Displayed(name).to_string()).collect();
        let disable = triggers
            .iter()
            .map(|name| Sql::format("ALTER TABLE {} DISABLE TRIGGER {}", &[&Sql::table(table), &Sql::ident(name)]));
        Finding::warning(
            table.to_string(),
            format!("has triggers that fire for every row on the target: {}", names.join(", ")),
        )
        .why("ENABLE ALWAYS and ENABLE REPLICA hold under session_replication_role = replica too; right if meant so")
        .mend(disable.map(|sql| sql.to_string()).collect::<Vec<_>>().join("; "))
    };
    facts.replica_triggers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::progress::Stored;
    use crate::lsn::{EndLsn, Lsn};

    fn good() -> TargetFacts {
        TargetFacts {
            version: 160_000,
            role: "app".to_owned(),
            database: "shop".to_owned(),
            encoding: "UTF8".to_owned(),
            may_use_schema: true,
            replica_role: true,
            ..TargetFacts::default()
        }
    }

    fn source() -> Position {
        Position {
            system_identifier: "7".to_owned(),
            timeline: 1,
            switches: vec![],
            flushed: Lsn::new(1000),
            database: "shop".to_owned(),
            slot: "walferry".to_owned(),
            confirmed: Some(Lsn::new(500)),
        }
    }

    fn found(change: impl FnOnce(&mut TargetFacts)) -> Vec<(Severity, String, String)> {
        let mut facts = good();
        change(&mut facts);
        let findings = judge("staging", &facts, Some(&source()));
        findings.into_iter().map(|found| (found.severity, found.object, found.mend.unwrap_or_default())).collect()
    }

    #[test]
    fn a_target_in_good_order_has_no_findings() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn a_target_that_is_the_source_is_found() {
        assert_eq!(found(|facts| facts.system_identifier = Some("7".into()))[0].0, Severity::Error);
        let other = |facts: &mut TargetFacts| {
            facts.system_identifier = Some("7".into());
            facts.database = "another".into();
        };
        assert_eq!(found(other), [], "another database of the same server may follow");
    }

    #[test]
    fn what_the_role_may_not_do_comes_with_the_statement() {
        let schema = found(|facts| facts.may_use_schema = false);
        assert_eq!(schema[0].2, r#"CREATE SCHEMA walferry AUTHORIZATION "app""#);
        let closed = found(|facts| (facts.may_use_schema, facts.schema) = (false, true));
        assert_eq!(closed[0].2, r#"GRANT USAGE, CREATE ON SCHEMA walferry TO "app""#);
        let filled = found(|facts| (facts.may_use_schema, facts.schema, facts.schema_filled) = (false, true, true));
        assert!(filled[0].2.contains("ON ALL TABLES IN SCHEMA walferry"), "{filled:?}");
        let replica = found(|facts| facts.replica_role = false);
        assert_eq!(replica[0].2, r#"GRANT SET ON PARAMETER session_replication_role TO "app""#);
        let before = found(|facts| (facts.replica_role, facts.version) = (false, 140_000));
        assert_eq!((before[0].0, before[0].2.as_str()), (Severity::Info, ""));
        assert_eq!(found(|facts| facts.read_only = true)[0].0, Severity::Error);
    }

    #[test]
    fn a_gap_is_found_before_the_daemon_refuses() {
        let stored = |end| {
            Some(Stored {
                system_identifier: "7".to_owned(),
                timeline: 1,
                database: "shop".to_owned(),
                slot: "walferry".to_owned(),
                publication: None,
                last: None,
                end_lsn: Some(EndLsn::new(Lsn::new(end))),
            })
        };
        assert_eq!(found(|facts| facts.stored = stored(600)), []);
        let gap = found(|facts| facts.stored = stored(499));
        assert!(gap[0].2.contains("walferry slot reset"), "{gap:?}");
        let lost = Position { confirmed: None, ..source() };
        let facts = TargetFacts { stored: stored(600), ..good() };
        assert!(judge("staging", &facts, Some(&lost))[0].what.contains("does not exist"));
    }

    #[test]
    fn findings_of_the_copy_and_other_types_keep_their_weight() {
        let copy = |weight| tablesync_finding(weight);
        assert_eq!(found(|facts| facts.copy = vec![copy(Weight::Stops)])[0].0, Severity::Error);
        assert_eq!(found(|facts| facts.copy = vec![copy(Weight::Warns)])[0].0, Severity::Warning);
        let other = (TableName::new("s", "t"), "c".to_owned(), "bigint".to_owned(), "integer".to_owned());
        let types = found(|facts| facts.other_types = vec![other]);
        assert_eq!(types[0].2, r#"ALTER TABLE "s"."t" ALTER COLUMN "c" TYPE bigint"#);
    }

    #[test]
    fn what_a_crash_empties_stops_and_what_fires_beside_warns() {
        let unlogged = found(|facts| facts.unlogged = vec![TableName::new("s", "t")]);
        let set = r#"ALTER TABLE "s"."t" SET LOGGED"#.to_owned();
        assert_eq!(unlogged, [(Severity::Error, "s.t".to_owned(), set)]);
        let fires = vec![(TableName::new("s", "t"), vec!["A".to_owned(), "b".to_owned()])];
        let fires = found(|facts| facts.replica_triggers = fires);
        let disable = r#"ALTER TABLE "s"."t" DISABLE TRIGGER "A"; ALTER TABLE "s"."t" DISABLE TRIGGER "b""#.to_owned();
        assert_eq!(fires, [(Severity::Warning, "s.t".to_owned(), disable)]);
        assert_eq!(found(|facts| facts.unmatched = vec!["s.x*".to_owned()])[0].1, "tables");
    }

    fn tablesync_finding(weight: Weight) -> crate::tablesync::Finding {
        crate::tablesync::Finding { table: TableName::new("s", "t"), weight, problem: "is odd".to_owned(), sql: None }
    }
}
