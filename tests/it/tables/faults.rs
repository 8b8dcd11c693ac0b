//! Whatever dies while a table is brought in, the table is complete at the end, and each of its changes applied once.

use std::time::Duration;

use super::{ADDED, Writes, add_on_source, hold_up, in_step, state, wait_state};
use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::{connect, execute, wait_row};

/// A running daemon, and the table on the targets.
async fn ready(stage: &Stage) -> Daemon {
    let mut daemon = stage.daemon().prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    for place in &stage.places {
        execute(&connect(&place.db.url).await, ADDED).await;
    }
    daemon
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_it_leaves_what_the_next_one_goes_on_from() {
    let stage = Stage::new(1).await;
    let mut daemon = ready(&stage).await;
    add_on_source(&stage).await;
    let writes = Writes::start(&stage).await;
    let moments = ["are copied beside", "table copied", "slot=\"walferry_copy", "have caught up"];
    for (round, moment) in moments.repeat(2).iter().enumerate() {
        let seen = daemon.log_count(moment);
        let said = async || (daemon.log_count(moment) > seen).then_some(());
        wait_for(moment, seconds(60), said).await;
        tokio::time::sleep(Duration::from_millis(9 * round as u64)).await;
        daemon.kill9();
        if state(&stage, 0).await == "done" {
            execute(
                &stage.places[0].client,
                "UPDATE walferry.table_state SET state = 'copying' WHERE table_name = 'added'",
            )
            .await;
        }
        daemon.start();
    }
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_target_that_is_cut_off_or_killed_while_its_table_catches_up_gets_each_change_once() {
    let mut stage = Stage::new(1).await;
    let proxy = Proxy::to(&stage.places[0].cluster).await;
    let urls = [proxy.url(&stage.places[0].db.name)];
    let mut daemon = stage.daemon_via(&stage.from.url, &urls).start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.places[0].client, ADDED).await;
    add_on_source(&stage).await;
    let writes = Writes::start(&stage).await;
    // Copied, and not taken over yet.
    daemon.wait_log("table copied target_name=\"t0\" table=public.added", seconds(60)).await;
    for _ in 0..5 {
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    wait_state(&stage, 0, "done").await;
    stage.places[0].cluster.kill9().await;
    stage.places[0].come_back().await;
    writes.stop().await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_source_that_dies_while_a_table_is_brought_in_has_it_copied_again() {
    let mut stage = Stage::new(1).await;
    let mut daemon = ready(&stage).await;
    let holder = hold_up(&stage, 0).await;
    add_on_source(&stage).await;
    let writes = Writes::start(&stage).await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    stage.source.kill9().await;
    stage.source.start_again().await;
    stage.on_source = stage.source.connect(&stage.from.name).await;
    drop(holder);
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_target_that_is_paused_meanwhile_begins_again_when_it_goes_on() {
    let stage = Stage::new(1).await;
    let mut daemon = ready(&stage).await;
    let holder = hold_up(&stage, 0).await;
    add_on_source(&stage).await;
    let writes = Writes::start(&stage).await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    assert_eq!(daemon.answered(&["target", "pause", "t0"]).await.0, Some(0));
    drop(holder);
    assert_ne!(state(&stage, 0).await, "done");
    assert_eq!(daemon.answered(&["target", "resume", "t0"]).await.0, Some(0));
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    in_step(&stage, &mut daemon).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_daemon_that_is_told_to_stop_meanwhile_does_not_wait_for_it() {
    let stage = Stage::new(1).await;
    let mut daemon = ready(&stage).await;
    let holder = hold_up(&stage, 0).await;
    add_on_source(&stage).await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    assert!(daemon.terminate(seconds(10)).await.success());
    assert_eq!(daemon.log_count("cannot be brought in"), 0, "to stop is no failure");
    drop(holder);
    daemon.start();
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_lane_that_is_given_up_writes_nothing_to_a_table_that_another_one_copies() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let both = "CREATE TABLE first (id int PRIMARY KEY, n int); CREATE TABLE second (id int PRIMARY KEY, n int)";
    let gate = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END';
        CREATE TRIGGER gate BEFORE UPDATE ON first FOR EACH ROW EXECUTE FUNCTION gate();
        ALTER TABLE first ENABLE ALWAYS TRIGGER gate";
    let target = &stage.places[0].client;
    let (keeper, holder) = (connect(&stage.places[0].db.url).await, connect(&stage.places[0].db.url).await);
    execute(target, &format!("{both}; {gate}")).await;
    execute(&keeper, "SELECT pg_advisory_lock(42)").await;
    execute(&holder, "BEGIN; LOCK TABLE second IN SHARE MODE").await;
    let waits = async |what: &str| {
        let query = format!("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {what}");
        (!target.query(&query, &[]).await.unwrap().is_empty()).then_some(())
    };
    // Once the second is to be copied, their snapshot is taken: what comes then, comes through their lane.
    let rows = "INSERT INTO first VALUES (1, 0); INSERT INTO second VALUES (1, 0)";
    execute(&stage.on_source, &format!("{both}; {rows}")).await;
    wait_for("the copy to begin", seconds(60), async || waits("query LIKE '%COPY%second%'").await).await;
    execute(&stage.on_source, "BEGIN; UPDATE first SET n = 1; UPDATE second SET n = 1; COMMIT").await;
    execute(&holder, "COMMIT").await;
    wait_for("the lane to wait", seconds(60), async || waits("wait_event = 'advisory'").await).await;

    // One table is gone, and the other is brought in by another lane; the target is beyond both's changes then.
    execute(&stage.on_source, "UPDATE second SET n = 2").await;
    stage.mark(1).await;
    wait_row(target, 1, 60).await;
    execute(&stage.on_source, "DROP TABLE first").await;
    let copied = "table copied target_name=\"t0\" table=public.second";
    let goes_on = async || match daemon.log_count(copied) > 1 {
        true => Some(()),
        false => waits("query LIKE 'DELETE FROM walferry.progress%'").await,
    };
    wait_for("the daemon to go on without that lane", seconds(60), goes_on).await;
    execute(&keeper, "SELECT pg_advisory_unlock(42)").await;
    let done = "SELECT 1 FROM walferry.table_state WHERE table_name = 'second' AND state = 'done'";
    let is_done = async || (!target.query(done, &[]).await.unwrap().is_empty()).then_some(());
    wait_for("the table to join", seconds(60), is_done).await;
    stage.assert_in_step(&daemon).await;
    assert_eq!(text(target, "SELECT n FROM second").await.as_deref(), Some("2"));
}
