//! Each check of the source, on facts made up for it.

use super::*;
use crate::admin::check::facts::server::{Connections, ServerFacts};
use crate::admin::check::facts::source::{NoReplication, PublicationFacts, Unreadable};
use crate::launcher::gap::SourceFacts as Position;
use crate::lsn::Lsn;
use crate::relation::TableName;
use crate::source::slot::{Slot, SlotUser};

fn good() -> SourceFacts {
    SourceFacts {
        server: ServerFacts {
            version: 150_004,
            encoding: "UTF8".to_owned(),
            role: "walferry".to_owned(),
            connections: Connections { server: (100, 1), database: (-1, 1), role: (-1, 1), ..Connections::default() },
            ..ServerFacts::default()
        },
        wal_level: "logical".to_owned(),
        slots: (10, 0),
        senders: (10, 0),
        keep_megabytes: 100_000,
        sender_timeout: 60_000,
        publication: PublicationFacts::Unknown,
        ..SourceFacts::default()
    }
}

fn found(change: impl FnOnce(&mut SourceFacts)) -> Vec<Finding> {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&facts);
    assert!(findings.iter().all(|finding| finding.server == "source"));
    findings
}

fn only(change: impl FnOnce(&mut SourceFacts)) -> Finding {
    let mut found = found(change);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_source_in_good_order_has_no_findings() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn each_setting_that_is_wrong_is_one_finding() {
    let one = |change: fn(&mut SourceFacts)| only(change).code;
    assert_eq!(one(|facts| facts.server.version = 130_009), Code::VersionTooOld);
    assert_eq!(one(|facts| facts.wal_level = "replica".into()), Code::WalLevel);
    assert_eq!(one(|facts| facts.in_recovery = true), Code::StandbyCannotDecode);
    assert_eq!(one(|facts| (facts.in_recovery, facts.server.version) = (true, 170_000)), Code::StandbySource);
    assert_eq!(one(|facts| facts.slots = (10, 10)), Code::SlotsTaken);
    assert_eq!(one(|facts| (facts.slots, facts.copying) = ((10, 8), 2)), Code::SlotsFew);
    assert_eq!(one(|facts| facts.senders = (5, 5)), Code::WalSendersTaken);
    assert_eq!(one(|facts| (facts.senders, facts.copying) = ((5, 3), 2)), Code::WalSendersFew);
    assert_eq!(found(|facts| (facts.slots, facts.senders, facts.copying) = ((10, 7), (5, 2), 2)), []);
    assert_eq!(one(|facts| facts.keep_megabytes = -1), Code::WalKeepUnlimited);
    assert_eq!(one(|facts| facts.keep_megabytes = 64), Code::WalKeepSmall);
    assert_eq!(one(|facts| facts.sender_timeout = 2000), Code::SenderTimeoutShort);
    assert_eq!(one(|facts| facts.idle_slot_timeout = 60), Code::IdleSlotTimeout);
    assert_eq!(one(|facts| facts.sequences = 3), Code::SequencesNotCarried);
    assert_eq!(one(|facts| facts.large_objects = 3), Code::LargeObjectsNotCarried);
    assert_eq!(one(|facts| facts.publication = PublicationFacts::ToBeMade(None)), Code::PublicationLocked);
    assert_eq!(one(|facts| facts.unmatched = vec!["pulbic.*".into()]), Code::PatternUnmatched);
    assert_eq!(one(|facts| facts.prepared = 2), Code::PreparedTransactions);
    let standby =
        |version| found(|facts| (facts.unawaited, facts.server.version) = (vec!["db2".into()], version)).pop();
    assert_eq!(standby(170_000).unwrap().code, Code::StandbyNotAwaited);
    assert_eq!(standby(160_000), None);
    let few = |facts: &mut SourceFacts| (facts.server.connections.role, facts.copying) = ((4, 1), 1);
    assert_eq!(only(few).code, Code::ConnectionsFew);
}

#[test]
fn what_takes_a_restart_says_so() {
    let level = only(|facts| facts.wal_level = "replica".into());
    assert!(level.restart && level.sql == ["ALTER SYSTEM SET wal_level = logical"], "{level:?}");
    let timeout = only(|facts| facts.sender_timeout = 2000);
    assert_eq!(timeout.sql, ["ALTER SYSTEM SET wal_sender_timeout = '60s'", "SELECT pg_reload_conf()"]);
    assert!(!timeout.restart);
}

#[test]
fn no_timeout_is_no_short_timeout() {
    assert_eq!(found(|facts| facts.sender_timeout = 0), []);
}

#[test]
fn a_table_that_cannot_be_read_comes_with_the_grants() {
    let table =
        Unreadable { table: TableName::new("s", "T"), schema_closed: true, no_select: true, row_security: true };
    let mends: Vec<String> =
        found(|facts| facts.unreadable = vec![table]).into_iter().flat_map(|finding| finding.sql).collect();
    assert_eq!(
        mends,
        [
            r#"GRANT USAGE ON SCHEMA "s" TO "walferry""#,
            r#"GRANT SELECT ON "s"."T" TO "walferry""#,
            r#"ALTER ROLE "walferry" BYPASSRLS"#
        ]
    );
}

#[test]
fn a_role_that_cannot_replicate_is_told_how() {
    let answer = |hint: Option<&str>, crowded| {
        Some(NoReplication { error: "no".into(), hint: hint.map(str::to_owned), crowded })
    };
    let refused = only(|facts| facts.no_replication = answer(None, false));
    assert_eq!(refused.sql, [r#"ALTER ROLE "walferry" REPLICATION"#]);
    let may = |hint: Option<&'static str>| {
        only(|facts| (facts.may_replicate, facts.no_replication) = (true, answer(hint, false)))
    };
    assert_eq!(may(Some("do this")).advice.as_deref(), Some("do this"));
    assert!(may(None).advice.unwrap().contains("pg_hba.conf"));
    let senders = only(|facts| (facts.no_replication, facts.senders) = (answer(None, true), (3, 3)));
    assert_eq!(senders.code, Code::WalSendersTaken, "it says nothing of the role");
    let others = only(|facts| facts.no_replication = answer(None, true));
    assert_eq!(others.code, Code::ConnectionsTaken);
}

fn slot() -> Slot {
    Slot {
        name: "walferry".to_owned(),
        plugin: Some("pgoutput".to_owned()),
        slot_type: "logical".to_owned(),
        database: Some("shop".to_owned()),
        active_pid: Some(7),
        confirmed_flush: Some(Lsn::new(500)),
        restart_lsn: Some(Lsn::new(500)),
        wal_status: Some("reserved".to_owned()),
        invalidation_reason: None,
        conflicting: false,
        temporary: false,
        retained_bytes: None,
        safe_wal_size: None,
        two_phase: false,
        failover: true,
        awaits_promotion: false,
    }
}

#[test]
fn a_slot_that_no_target_knows_or_that_another_program_uses_is_found() {
    let position = || Position {
        system_identifier: "7".to_owned(),
        timeline: 1,
        switches: vec![],
        flushed: Lsn::new(1000),
        database: "shop".to_owned(),
        slot: "walferry".to_owned(),
        confirmed: Some(Lsn::new(500)),
    };
    let with = |known, application: Option<&str>| {
        let user = SlotUser { pid: 7, session: application.map(|name| (name.to_owned(), "10.0.0.1".to_owned())) };
        found(|facts| {
            (facts.slot, facts.position, facts.known) = (Some(slot()), Some(position()), known);
            (facts.slot_user, facts.daemon) = (Some(user), "walferry/walferry".to_owned());
        })
    };
    assert_eq!(with(Some(true), Some("walferry/walferry")), [], "the daemon itself");
    assert_eq!(with(None, None), [], "it has ended meanwhile, and not all targets could be asked");
    let cases = [
        (Some(true), Some("subscription"), Code::SlotInUse),
        (Some(false), None, Code::SlotUnknown),
        (Some(false), Some("x"), Code::SlotUnknown),
    ];
    for (known, application, code) in cases {
        let found = with(known, application);
        assert_eq!((found.len(), found[0].code), (1, code), "{found:?}");
        assert!(found[0].advice.as_ref().unwrap().contains("source.slot"), "{found:?}");
    }
}

#[test]
fn a_slot_that_a_failover_would_lose_is_found_where_the_server_could_keep_it() {
    let with = |version, failover, in_recovery| {
        let position = Position {
            system_identifier: "7".to_owned(),
            timeline: 1,
            switches: vec![],
            flushed: Lsn::new(1000),
            database: "shop".to_owned(),
            slot: "walferry".to_owned(),
            confirmed: Some(Lsn::new(500)),
        };
        found(|facts| {
            (facts.slot, facts.position) = (Some(Slot { failover, ..slot() }), Some(position));
            (facts.server.version, facts.in_recovery) = (version, in_recovery);
        })
    };
    let [finding] = &with(170_000, false, false)[..] else { panic!("one finding") };
    assert_eq!(finding.code, Code::SlotNotFailover);
    assert!(finding.advice.as_ref().unwrap().contains("ALTER_REPLICATION_SLOT \"walferry\" (FAILOVER true)"));
    assert_eq!(with(170_000, true, false), []);
    assert_eq!(with(160_000, false, false), []);
    assert!(with(170_000, false, true).iter().all(|finding| finding.code != Code::SlotNotFailover));
}

#[test]
fn a_wrong_publication_and_unlogged_tables_come_with_what_mends_them() {
    let wrong = PublicationFacts::Wrong {
        problem: "is missing".into(),
        remedy: "make it".into(),
        sql: vec![Sql::new("CREATE PUBLICATION"), Sql::new("ALTER PUBLICATION")],
        found: None,
    };
    let wrong = only(|facts| facts.publication = wrong);
    assert_eq!((wrong.code, wrong.advice.as_deref()), (Code::PublicationWrong, Some("make it")));
    assert_eq!(wrong.sql, ["CREATE PUBLICATION", "ALTER PUBLICATION"]);
    let unlogged = only(|facts| facts.unlogged = vec![TableName::new("s", "u")]);
    assert_eq!(unlogged.sql, [r#"ALTER TABLE "s"."u" SET LOGGED"#]);
}
