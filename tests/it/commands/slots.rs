//! `walferry slot` and slots that are not walferry's: what is left alone, what is said before a slot is given up, and
//! how far a change came that failed.

use super::{Pair, json, told};
use crate::support::prelude::*;

const CHANGES: [&[&str]; 2] = [&["slot", "drop", "--yes", "--force"], &["slot", "reset", "--yes", "--force"]];

async fn left_alone(pair: &Pair, says: &str) {
    let daemon = pair.daemon();
    for change in CHANGES {
        let refused = daemon.run(change).await;
        let told = told(&refused);
        assert_eq!(refused.status.code(), Some(3), "{change:?} {told}");
        assert!(told.contains(says) && told.contains("set `slot`"), "{told}");
    }
    assert_eq!(pair.slots().await, 1, "the slot is gone");
}

#[tokio::test]
async fn slots_that_walferry_cannot_have_made_are_left_alone_even_with_force() {
    let pair = Pair::start().await;
    pair.source("SELECT pg_create_physical_replication_slot('walferry', true)").await;
    left_alone(&pair, "physical").await;
    pair.source("SELECT pg_drop_replication_slot('walferry')").await;

    pair.target("SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')").await;
    left_alone(&pair, "it is of database").await;
    pair.target("SELECT pg_drop_replication_slot('walferry')").await;

    let session = pair.cluster.connect(&pair.source.name).await;
    let temporary = "SELECT pg_create_logical_replication_slot('walferry', 'pgoutput', true)";
    session.batch_execute(temporary).await.unwrap();
    left_alone(&pair, "temporary").await;
    session.batch_execute("SELECT 1").await.expect("whoever uses it was disconnected");
}

#[tokio::test]
async fn a_lost_slot_is_shown_as_lost_and_can_be_dropped() {
    let pair = Pair::start().await;
    pair.source("SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')").await;
    pair.source("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
    pair.source("SELECT pg_reload_conf()").await;
    let daemon = pair.daemon();
    let lost = async || {
        pair.source("CREATE TABLE IF NOT EXISTS filler (n int); INSERT INTO filler VALUES (1)").await;
        pair.source("SELECT pg_switch_wal()").await;
        pair.source("CHECKPOINT").await;
        let listed = json(&daemon.run(&["slot", "list", "--json"]).await);
        (listed[0]["lost"] == true).then_some(())
    };
    wait_for("the slot to be lost", seconds(60), lost).await;
    let listed = told(&daemon.run(&["slot", "list"]).await);
    assert!(!listed.contains("no limit"), "{listed}");
    let status = daemon.run(&["status"]).await;
    assert_eq!(status.status.code(), Some(3), "somebody has to act: {}", told(&status));
    let dropped = daemon.run(&["slot", "drop", "--yes"]).await;
    assert!(dropped.status.success(), "{}", told(&dropped));
    assert_eq!(pair.slots().await, 0);
}

#[tokio::test]
async fn what_a_slot_is_and_who_uses_it_is_said_before_it_is_given_up() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    pair.source("SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')").await;
    for command in [&["slot", "drop"][..], &["slot", "reset"]] {
        let asked = daemon.run(command).await;
        let told = told(&asked);
        assert_eq!(asked.status.code(), Some(3), "{told}");
        let facts = format!("plugin pgoutput, database {}, used by nobody", pair.source.name);
        assert!(told.contains(&facts) && told.contains("No target knows this stream"), "{told}");
    }
    let created = told(&daemon.run(&["slot", "create"]).await);
    assert!(created.contains("exists already") && created.contains("set source.slot to another name"), "{created}");
    let dropped = told(&daemon.run(&["slot", "drop", "--yes"]).await);
    assert!(dropped.contains("No target knows this stream") && dropped.contains("Dropped the slot"), "{dropped}");

    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let used = told(&daemon.run(&["slot", "drop"]).await);
    assert!(used.contains("used by server process") && used.contains("walferry/walferry"), "{used}");
    assert!(!used.contains("No target knows"), "{used}");
    assert_eq!(pair.slots().await, 1);
}

#[tokio::test]
async fn a_reset_that_fails_on_its_way_says_how_far_it_came() {
    let pair = Pair::start().await;
    let closed = pair.cluster.create_database().await;
    let daemon = Daemon::builder(&pair.cluster.url_as("reader", &pair.source.name))
        .target("one", &pair.cluster.url_as("writer", &pair.target.name))
        .target("closed", &pair.cluster.url_as("writer", &closed.name))
        .prepare();
    let reset = daemon.run(&["slot", "reset", "--yes"]).await;
    let (out, err) = (String::from_utf8_lossy(&reset.stdout), String::from_utf8_lossy(&reset.stderr));
    assert_eq!(reset.status.code(), Some(3), "{}", told(&reset));
    assert!(out.contains("Target \"one\": forgot its position"), "{out}");
    assert!(err.contains("closed") && err.contains("CREATE SCHEMA walferry"), "{err}");
    let again = json(&daemon.run(&["slot", "reset", "--yes", "--json"]).await);
    assert_eq!(again["done"].as_array().unwrap().len(), 1, "{again}");
}

#[tokio::test]
async fn a_slot_that_is_gone_while_a_reset_is_under_way_is_made_anew_by_the_running_daemon() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    pair.equal().await;
    // What `slot reset --force` does before it creates the slot; the daemon may connect at every moment of it.
    pair.target(
        "UPDATE walferry.table_state SET state = 'copying', copier = '';
         UPDATE walferry.progress SET end_lsn = NULL, commit_lsn = NULL, commit_time = NULL",
    )
    .await;
    let source = pair.cluster.connect(&pair.source.name).await;
    let drop = async || {
        let end = "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active";
        source.batch_execute(end).await.unwrap();
        source.batch_execute("SELECT pg_drop_replication_slot('walferry')").await.ok()
    };
    wait_for("the slot to be dropped", seconds(10), drop).await;
    pair.source("INSERT INTO items VALUES (1000, 'after the slot')").await;
    pair.equal().await;
    assert_eq!(pair.slots().await, 1);
    assert!(daemon.terminate(seconds(60)).await.success());
}
