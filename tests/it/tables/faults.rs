//! Whatever dies while a table is brought in, the table is complete at the end, and each of its changes applied once.

use std::time::Duration;

use super::{ADDED, Writes, add_on_source, hold_up, in_step, state, wait_state};
use crate::support::prelude::*;
use crate::support::stage::{connect, execute};

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
