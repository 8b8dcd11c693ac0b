//! Each check of a target, on facts made up for it.

use super::*;
use crate::admin::check::facts::server::{Connections, ServerFacts};
use crate::apply::progress::Stored;
use crate::launcher::gap::SourceFacts as Position;
use crate::lsn::{EndLsn, Lsn};
use crate::relation::TableName;
use crate::tablesync::{self, Matter, Weight};

fn server(version: u32) -> ServerFacts {
    ServerFacts {
        version,
        role: "app".to_owned(),
        database: "shop".to_owned(),
        encoding: "UTF8".to_owned(),
        connections: Connections { server: (100, 1), database: (-1, 1), role: (-1, 1), ..Connections::default() },
        ..ServerFacts::default()
    }
}

fn good() -> TargetFacts {
    TargetFacts {
        server: server(160_000),
        may_use_schema: true,
        replica_role: true,
        tables_known: true,
        ..TargetFacts::default()
    }
}

fn source() -> SourceFacts {
    let position = Position {
        system_identifier: "7".to_owned(),
        timeline: 1,
        switches: vec![],
        flushed: Lsn::new(1000),
        database: "shop".to_owned(),
        slot: "walferry".to_owned(),
        confirmed: Some(Lsn::new(500)),
    };
    SourceFacts { server: server(160_000), position: Some(position), ..SourceFacts::default() }
}

fn found(change: impl FnOnce(&mut TargetFacts)) -> Vec<Finding> {
    let mut facts = good();
    change(&mut facts);
    judge("staging", &facts, &source())
}

fn only(change: impl FnOnce(&mut TargetFacts)) -> Finding {
    let mut found = found(change);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_target_in_good_order_has_no_findings() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn a_target_that_is_the_source_is_found() {
    assert_eq!(only(|facts| facts.system_identifier = Some("7".into())).code, Code::TargetIsSource);
    let other = |facts: &mut TargetFacts| {
        facts.system_identifier = Some("7".into());
        facts.server.database = "another".into();
    };
    assert_eq!(found(other), [], "another database of the same server may follow");
}

#[test]
fn what_the_role_may_not_do_comes_with_the_statement() {
    let schema = only(|facts| facts.may_use_schema = false);
    assert_eq!(schema.sql, [r#"CREATE SCHEMA walferry AUTHORIZATION "app""#]);
    let closed = only(|facts| (facts.may_use_schema, facts.schema) = (false, true));
    assert_eq!(closed.sql, [r#"GRANT USAGE, CREATE ON SCHEMA walferry TO "app""#]);
    let filled = only(|facts| (facts.may_use_schema, facts.schema, facts.schema_filled) = (false, true, true));
    assert!(filled.sql[1].contains("ON ALL TABLES IN SCHEMA walferry"), "{filled:?}");
    let replica = only(|facts| facts.replica_role = false);
    assert_eq!(replica.sql, [r#"GRANT SET ON PARAMETER session_replication_role TO "app""#]);
    let before = only(|facts| (facts.replica_role, facts.server.version) = (false, 140_000));
    assert_eq!((before.code, before.sql.len()), (Code::ReplicaRole, 0));
}

#[test]
fn what_cannot_be_written_to_is_told_apart() {
    let read_only = only(|facts| facts.read_only = true);
    let sql = r#"ALTER ROLE "app" IN DATABASE "shop" SET default_transaction_read_only = off"#;
    assert_eq!((read_only.code, read_only.sql.as_slice()), (Code::TargetReadOnly, &[sql.to_owned()][..]));
    assert_eq!(only(|facts| facts.in_recovery = true).code, Code::TargetStandby);
    assert_eq!(only(|facts| facts.tables_known = false).code, Code::TablesUnseen);
    assert_eq!(only(|facts| facts.server.collation.1 = "C".into()).code, Code::DatabaseCollation);
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
            paused_at: None,
            end_lsn: Some(EndLsn::new(Lsn::new(end))),
        })
    };
    assert_eq!(found(|facts| facts.stored = stored(600)), []);
    let gap = only(|facts| facts.stored = stored(499));
    assert!(gap.advice.as_ref().unwrap().contains("walferry slot reset"), "{gap:?}");
    let own = |own| found(|facts| (facts.stored, facts.own_slot) = (stored(499), Some(Lsn::new(own))));
    assert_eq!((own(400), own(499)), (vec![], vec![]), "a slot of its own keeps what it needs");
    assert_eq!(own(600).len(), 1, "that one has gone on, too");
    let mut lost = source();
    lost.position.as_mut().unwrap().confirmed = None;
    let facts = TargetFacts { stored: stored(600), ..good() };
    assert!(judge("staging", &facts, &lost)[0].what.contains("does not exist"));
}

#[test]
fn findings_of_the_copy_keep_their_statement_and_are_not_said_twice() {
    let copy = |matter, weight| {
        let sql = Some(Sql::new("MEND"));
        vec![tablesync::Finding { table: TableName::new("s", "t"), matter, weight, problem: "is odd".to_owned(), sql }]
    };
    let missing = only(|facts| facts.copy = copy(Matter::Missing, Weight::Stops));
    assert_eq!((missing.code, missing.sql.as_slice()), (Code::TableMissing, &["MEND".to_owned()][..]));
    assert_eq!(only(|facts| facts.copy = copy(Matter::NotCopied, Weight::Warns)).code, Code::NotCopied);
    assert_eq!(found(|facts| facts.copy = copy(Matter::Triggers, Weight::Warns)), []);
}

#[test]
fn what_a_crash_empties_and_what_fires_besides_is_switched_off_one_by_one() {
    let table = || Besides { table: TableName::new("s", "t"), unlogged: false, triggers: vec![], rules: vec![] };
    let unlogged = only(|facts| facts.besides = vec![Besides { unlogged: true, ..table() }]);
    assert_eq!((unlogged.code, unlogged.sql[0].as_str()), (Code::UnloggedTarget, r#"ALTER TABLE "s"."t" SET LOGGED"#));
    let names = || vec!["A".to_owned(), "b".to_owned()];
    let fires = only(|facts| facts.besides = vec![Besides { triggers: names(), ..table() }]);
    let disable = [r#"ALTER TABLE "s"."t" DISABLE TRIGGER "A""#, r#"ALTER TABLE "s"."t" DISABLE TRIGGER "b""#];
    assert_eq!(
        (fires.code, fires.advice, fires.sql.as_slice()),
        (Code::TriggersFire, None, &disable.map(str::to_owned)[..])
    );
    let rules = found(|facts| {
        facts.besides = vec![Besides { rules: names(), ..table() }];
        facts.replica_role = false;
    });
    let applies = rules.iter().find(|finding| finding.code == Code::RulesApply).unwrap();
    assert!(applies.sql[0].contains("DISABLE RULE") && applies.advice.is_some(), "{applies:?}");
    assert_eq!(only(|facts| facts.unmatched = vec!["s.x*".to_owned()]).object, "tables");
}

#[test]
fn the_room_that_a_copy_takes_is_said_while_there_is_one() {
    let with = |copying| {
        let (facts, source) = (TargetFacts { copying, ..good() }, SourceFacts { bytes: 3 << 20, ..source() });
        judge("staging", &facts, &source)
    };
    assert_eq!(with(false), []);
    assert!(with(true)[0].what.contains("3.0 MiB"), "{:?}", with(true));
    let slots = only(|facts| facts.idle_slots = vec!["old".to_owned()]);
    assert_eq!((slots.code, slots.sql.len()), (Code::SlotsKeepWal, 2));
}
