//! `walferry check` before the first run, and what it finds that `walferry run` would refuse or suffer from.

use serde_json::Value;

use super::{Pair, json, objects, told};
use crate::support::daemon_builder::Builder;
use crate::support::prelude::*;

fn builder(pair: &Pair) -> Builder {
    Daemon::builder(&pair.cluster.url_as("reader", &pair.source.name))
        .target("one", &pair.cluster.url_as("writer", &pair.target.name))
}

async fn check(daemon: &Daemon) -> (Value, Option<i32>) {
    let output = daemon.run(&["check", "--json"]).await;
    (json(&output), output.status.code())
}

fn says(report: &Value, text: &str) -> bool {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().any(|finding| finding["what"].as_str().unwrap().contains(text))
}

/// Before the publication exists, and by a role that may make it.
async fn owned() -> Pair {
    let pair = Pair::start().await;
    let owns = format!(
        "DROP PUBLICATION walferry; GRANT CREATE ON DATABASE {} TO reader; ALTER TABLE items OWNER TO reader",
        pair.source.name
    );
    pair.source(&owns).await;
    pair
}

#[tokio::test]
async fn the_first_run_is_checked_as_if_the_publication_were_there() {
    let pair = owned().await;
    let daemon = builder(&pair).tables(&["public.*"]).prepare();
    let (report, code) = check(&daemon).await;
    assert_eq!((code, &report["ok"], &report["complete"]), (Some(0), &true.into(), &true.into()), "{report}");
    assert!(says(&report, "walferry run creates it with 1 tables"), "{report}");

    pair.target("INSERT INTO items VALUES (1, 'in the way'); ALTER TABLE items DROP COLUMN name").await;
    pair.source("CREATE TABLE more (id int PRIMARY KEY); ALTER TABLE more OWNER TO reader").await;
    pair.source("ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY").await;
    let (report, code) = check(&daemon).await;
    assert_eq!(code, Some(2), "{report}");
    for problem in ["already holds rows", "lacks column name", "is missing on the target", "row level security"] {
        assert!(says(&report, problem), "{problem} is not in {report}");
    }
    let client = pair.cluster.connect(&pair.source.name).await;
    let row = client.query_one("SELECT count(*) FROM pg_publication", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "it changes nothing");
}

#[tokio::test]
async fn tables_that_are_locked_are_no_all_clear() {
    let pair = owned().await;
    let mut client = pair.cluster.connect(&pair.source.name).await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE items").await.unwrap();
    let daemon = builder(&pair).tables(&["public.*"]).prepare();
    let output = daemon.run(&["check"]).await;
    let told = told(&output);
    assert!(told.contains("but not everything could be looked at"), "{told}");
    assert!(!told.contains("Nothing stands against"), "{told}");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_no_target_knows_is_found_before_run_refuses_it() {
    let pair = Pair::start().await;
    pair.source("SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')").await;
    let (report, code) = check(&pair.daemon()).await;
    assert_eq!(code, Some(2), "{report}");
    assert!(says(&report, "no target has ever been fed from it"), "{report}");
}

#[tokio::test]
async fn a_misspelt_pattern_is_a_warning() {
    let pair = Pair::start().await;
    let daemon = builder(&pair).tables(&["public.items", "pulbic.orders"]).prepare();
    let (report, code) = check(&daemon).await;
    assert_eq!(code, Some(0), "{report}");
    assert!(says(&report, "\"pulbic.orders\" matches no published table"), "{report}");
}

#[tokio::test]
async fn a_grant_on_some_columns_is_not_enough_for_the_copy() {
    let pair = Pair::start().await;
    pair.source("REVOKE SELECT ON items FROM reader; GRANT SELECT (id) ON items TO reader").await;
    let (report, code) = check(&pair.daemon()).await;
    assert_eq!(code, Some(2), "{report}");
    assert!(says(&report, "may not be read by the role"), "{report}");
    pair.source("GRANT SELECT (name, n) ON items TO reader").await;
    let (report, code) = check(&pair.daemon()).await;
    assert_eq!(code, Some(0), "{report}");
    if default_major() >= 15 {
        // The row filter is part of what is read.
        pair.source("ALTER PUBLICATION walferry SET TABLE items (id) WHERE (n > 0)").await;
        pair.source("ALTER TABLE items REPLICA IDENTITY FULL; REVOKE SELECT (name) ON items FROM reader").await;
        assert_eq!(check(&pair.daemon()).await.1, Some(0));
        pair.source("REVOKE SELECT (n) ON items FROM reader").await;
        let (report, code) = check(&pair.daemon()).await;
        assert!(code == Some(2) && says(&report, "may not be read by the role"), "{report}");
    }
}

#[tokio::test]
async fn a_target_that_would_lose_its_rows_or_do_more_than_follow_is_found() {
    let pair = Pair::start().await;
    pair.target("ALTER TABLE items SET UNLOGGED").await;
    pair.target("CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$").await;
    pair.target("CREATE TRIGGER noted AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION noted()").await;
    pair.target("ALTER TABLE items ENABLE ALWAYS TRIGGER noted").await;
    pair.cluster.execute("postgres", "ALTER ROLE writer SUPERUSER").await;
    let (report, code) = check(&pair.daemon()).await;
    assert_eq!(code, Some(2), "{report}");
    assert!(says(&report, "is unlogged on the target") && says(&report, "fire for every row"), "{report}");
    assert_eq!(objects(&report, "error"), ["public.items"], "{report}");
}

#[tokio::test]
async fn a_schema_that_is_closed_to_the_role_is_named_with_its_grant() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    assert!(daemon.terminate(seconds(60)).await.success());
    pair.target("ALTER SCHEMA walferry OWNER TO postgres; REVOKE ALL ON SCHEMA walferry FROM writer").await;
    let (report, code) = check(&daemon).await;
    assert_eq!((code, objects(&report, "error")), (Some(2), vec!["schema walferry".to_owned()]), "{report}");
    pair.target("REVOKE UPDATE ON walferry.progress FROM writer; GRANT USAGE ON SCHEMA walferry TO writer").await;
    for table in ["progress", "table_state", "migration"] {
        pair.target(&format!("ALTER TABLE walferry.{table} OWNER TO postgres")).await;
    }
    let (report, code) = check(&daemon).await;
    assert_eq!((code, objects(&report, "error")), (Some(2), vec!["schema walferry".to_owned()]), "{report}");
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["object"] == "schema walferry").unwrap();
    for statement in found["sql"].as_array().unwrap() {
        pair.target(statement.as_str().unwrap()).await;
    }
    let (report, code) = check(&daemon).await;
    assert_eq!(code, Some(0), "{report}");
}

#[tokio::test]
async fn connections_that_are_all_taken_are_not_blamed_on_the_role() {
    let cluster = Cluster::builder(default_major()).setting("max_wal_senders", "1").start().await;
    let pair = Pair::on(cluster).await;
    // A client that the walsender waits for.
    let options = walferry::postgres::ConnectOptions::parse(&pair.cluster.url(&pair.source.name)).unwrap();
    let purpose = walferry::postgres::wire::Purpose::Replication;
    let held = walferry::postgres::WireConnection::connect(&options, "held", purpose).await.unwrap();
    let (report, code) = check(&pair.daemon()).await;
    assert_eq!((code, objects(&report, "error")), (Some(2), vec!["max_wal_senders".to_owned()]), "{report}");
    held.close().await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_one_command_cannot_use_is_refused_by_all() {
    let pair = Pair::start().await;
    let patterns = builder(&pair).tables(&["public.a.b"]).prepare();
    let source = Daemon::builder("postgres://h:port/x").target("one", &pair.target.url).prepare();
    let target = Daemon::builder(&pair.source.url).target("one", "host=h sslmode=perhaps").prepare();
    for daemon in [patterns, source, target] {
        for command in [&["config"][..], &["check"], &["status"], &["slot", "list"], &["run"]] {
            let refused = daemon.run(command).await;
            assert_eq!(refused.status.code(), Some(2), "{command:?} {}", told(&refused));
            assert!(told(&refused).contains("cannot be used"), "{}", told(&refused));
        }
    }
}
