//! Each check of the source, on facts made up for it.

use super::*;
use crate::admin::check::finding::Severity;

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
    assert_eq!(one(|facts| facts.slots = (10, 9)), is(Warning, "max_replication_slots"));
    assert_eq!(one(|facts| facts.senders = (5, 5)), is(Error, "max_wal_senders"));
    assert_eq!(one(|facts| facts.senders = (5, 4)), is(Warning, "max_wal_senders"));
    assert_eq!(one(|facts| facts.keep_megabytes = -1), is(Info, "max_slot_wal_keep_size"));
    assert_eq!(one(|facts| facts.keep_megabytes = 64), is(Warning, "max_slot_wal_keep_size"));
    assert_eq!(one(|facts| facts.sender_timeout = 2000), is(Warning, "wal_sender_timeout"));
    assert_eq!(one(|facts| facts.idle_slot_timeout = 60), is(Warning, "idle_replication_slot_timeout"));
    assert_eq!(one(|facts| facts.encoding = "LATIN1".into()), is(Warning, "server_encoding"));
    assert_eq!(one(|facts| facts.sequences = 3), is(Info, "sequences"));
    assert_eq!(one(|facts| facts.large_objects = 3), is(Info, "large objects"));
    assert_eq!(one(|facts| facts.publication = PublicationFacts::ToBeMade), is(Info, "publication"));
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
    let without_hint = found(|facts| facts.no_replication = Some(("no".into(), None)));
    assert!(without_hint[0].2.contains(r#"ALTER ROLE "walferry" REPLICATION"#), "{without_hint:?}");
    let with_hint = found(|facts| facts.no_replication = Some(("no".into(), Some("do this".into()))));
    assert_eq!(with_hint[0].2, "do this");
}

#[test]
fn a_wrong_publication_and_unlogged_tables_come_with_what_mends_them() {
    let wrong = PublicationFacts::Wrong("is missing".into(), "CREATE PUBLICATION".into(), None);
    let wrong = found(|facts| facts.publication = wrong);
    assert_eq!(wrong, [(Severity::Error, "publication".to_owned(), "CREATE PUBLICATION".to_owned())]);
    let unlogged = found(|facts| facts.unlogged = vec![TableName::new("s", "u")]);
    assert_eq!(unlogged[0].2, r#"ALTER TABLE "s"."u" SET LOGGED"#);
}
