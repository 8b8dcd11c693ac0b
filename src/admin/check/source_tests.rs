//! Each check of the source, on facts made up for it.

use super::*;
use crate::admin::check::finding::Severity;
use crate::admin::check::source_facts::NoReplication;
use crate::launcher::gap::SourceFacts as Position;
use crate::lsn::Lsn;
use crate::source::slot::{Slot, SlotUser};

fn good() -> SourceFacts {
    SourceFacts {
        version: 150_004,
        wal_level: "logical".to_owned(),
        encoding: "UTF8".to_owned(),
        role: "walferry".to_owned(),
        slots: (10, 0),
        senders: (10, 0),
        keep_megabytes: 100_000,
        sender_timeout: 60_000,
        publication: PublicationFacts::Unknown,
        ..SourceFacts::default()
    }
}

fn found(change: impl FnOnce(&mut SourceFacts)) -> Vec<(Severity, String, String)> {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&facts);
    assert!(findings.iter().all(|finding| finding.server == "source"));
    findings.into_iter().map(|found| (found.severity, found.object, found.mend.unwrap_or_default())).collect()
}

#[test]
fn a_source_in_good_order_has_no_findings() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn each_setting_that_is_wrong_is_one_finding_with_its_severity() {
    let one = |change: fn(&mut SourceFacts)| {
        let mut found = found(change);
        assert_eq!(found.len(), 1, "{found:?}");
        let (severity, object, _) = found.remove(0);
        (severity, object)
    };
    let is = |severity, object: &str| (severity, object.to_owned());
    use Severity::{Error, Info, Warning};
    assert_eq!(one(|facts| facts.version = 130_009), is(Error, "server version"));
    assert_eq!(one(|facts| facts.version = 190_000), is(Warning, "server version"));
    assert_eq!(one(|facts| facts.wal_level = "replica".into()), is(Error, "wal_level"));
    assert_eq!(one(|facts| facts.in_recovery = true), is(Error, "source.url"));
    assert_eq!(one(|facts| (facts.in_recovery, facts.version) = (true, 170_000)), is(Warning, "source.url"));
    assert_eq!(one(|facts| facts.slots = (10, 10)), is(Error, "max_replication_slots"));
    assert_eq!(one(|facts| (facts.slots, facts.copying) = ((10, 8), 2)), is(Warning, "max_replication_slots"));
    assert_eq!(one(|facts| facts.senders = (5, 5)), is(Error, "max_wal_senders"));
    assert_eq!(one(|facts| (facts.senders, facts.copying) = ((5, 3), 2)), is(Warning, "max_wal_senders"));
    assert_eq!(found(|facts| (facts.slots, facts.senders, facts.copying) = ((10, 7), (5, 2), 2)), []);
    assert_eq!(one(|facts| facts.keep_megabytes = -1), is(Info, "max_slot_wal_keep_size"));
    assert_eq!(one(|facts| facts.keep_megabytes = 64), is(Warning, "max_slot_wal_keep_size"));
    assert_eq!(one(|facts| facts.sender_timeout = 2000), is(Warning, "wal_sender_timeout"));
    assert_eq!(one(|facts| facts.idle_slot_timeout = 60), is(Warning, "idle_replication_slot_timeout"));
    assert_eq!(one(|facts| facts.encoding = "LATIN1".into()), is(Warning, "server_encoding"));
    assert_eq!(one(|facts| facts.sequences = 3), is(Info, "sequences"));
    assert_eq!(one(|facts| facts.large_objects = 3), is(Info, "large objects"));
    assert_eq!(one(|facts| facts.publication = PublicationFacts::ToBeMade(None)), is(Warning, "publication"));
    assert_eq!(one(|facts| facts.unmatched = vec!["pulbic.*".into()]), is(Warning, "source.tables"));
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
        found(|facts| facts.unreadable = vec![table]).into_iter().map(|(_, _, mend)| mend).collect();
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
    let without_hint = found(|facts| facts.no_replication = answer(None, false));
    assert!(without_hint[0].2.contains(r#"ALTER ROLE "walferry" REPLICATION"#), "{without_hint:?}");
    let with_hint = found(|facts| facts.no_replication = answer(Some("do this"), false));
    assert_eq!(with_hint[0].2, "do this");
    let senders = found(|facts| (facts.no_replication, facts.senders) = (answer(None, true), (3, 3)));
    assert_eq!((senders.len(), senders[0].1.as_str()), (1, "max_wal_senders"), "it says nothing of the role");
    let others = found(|facts| facts.no_replication = answer(None, true));
    assert_eq!((others.len(), others[0].1.as_str()), (1, "connections"));
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
        failover: false,
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
    for (known, application) in [(Some(true), Some("subscription")), (Some(false), None), (Some(false), Some("x"))] {
        let found = with(known, application);
        assert_eq!((found.len(), found[0].0), (1, Severity::Error), "{found:?}");
        assert!(found[0].2.contains("source.slot"), "{found:?}");
    }
}

#[test]
fn a_wrong_publication_and_unlogged_tables_come_with_what_mends_them() {
    let wrong = PublicationFacts::Wrong("is missing".into(), "CREATE PUBLICATION".into(), None);
    let wrong = found(|facts| facts.publication = wrong);
    assert_eq!(wrong, [(Severity::Error, "publication".to_owned(), "CREATE PUBLICATION".to_owned())]);
    let unlogged = found(|facts| facts.unlogged = vec![TableName::new("s", "u")]);
    assert_eq!(unlogged[0].2, r#"ALTER TABLE "s"."u" SET LOGGED"#);
}
