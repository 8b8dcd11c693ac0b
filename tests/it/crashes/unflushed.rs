//! What a target has committed and not yet written to its disk: a crash takes it back, and it comes again. Until it is
//! on the disk, the source is not told of it, by whichever daemon.

use std::time::Duration;

use super::{MANY, PAUSE};
use crate::support::prelude::*;
use crate::support::process;
use crate::support::stage::{Place, execute, is_there, stored, wait_durable, wait_row};
use crate::support::workload::Random;

in_each_mode!(
    target_dies_between_commit_and_disk,
    daemon_and_then_target_die_between_commit_and_disk,
    a_commit_that_waits_for_the_disk_is_confirmed_by_itself,
    target_dies_at_random_moments_under_load,
);

/// Sessions of a daemon that wait for a row.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND application_name LIKE 'walferry/%'";

/// From now on nothing is written to the target's disk but by a COMMIT that waits for it: its WAL writer stands still,
/// and who would have the WAL written waits for the row that this session holds.
async fn hold(place: &Place) -> tokio_postgres::Client {
    let holder = place.cluster.connect(&place.db.name).await;
    execute(&holder, "BEGIN; SELECT FROM walferry.migration FOR UPDATE").await;
    let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let writer: i32 = holder.query_one(writer, &[]).await.expect("there is no WAL writer").get(0);
    process::stop(writer.unsigned_abs());
    holder
}

/// As [`Stage::assert_follows`], with so many other rows that they go in bulk unless that is turned off.
async fn assert_many_follow(stage: &Stage, mark: i64) {
    execute(&stage.on_source, &format!("BEGIN; {MANY}; INSERT INTO applied VALUES (-{mark}, 999); COMMIT")).await;
    wait_row(&stage.places[0].client, mark, 30).await;
}

async fn wait_waiting(place: &Place, sessions: i64) {
    let waiting = async || {
        let found: i64 = place.client.query_one(WAITING, &[]).await.expect("cannot look").get(0);
        (found >= sessions).then_some(())
    };
    wait_for("the daemon to ask for the disk", seconds(20), waiting).await;
}

/// Kills the target's server; looks at where it stands before the daemon sees it again.
async fn kill_and_look(place: &mut Place, daemon: &Daemon) -> i64 {
    daemon.signal("STOP");
    place.cluster.kill9().await;
    place.cluster.start_again().await;
    place.reconnect().await;
    stored(&place.client, "walferry").await.expect("the target has a position")
}

/// One target that writes nothing by itself, in step with its source, and a daemon.
async fn at_rest(stage: Stage, synchronous: &str) -> (Stage, Daemon) {
    stage.places[0].cluster.set("autovacuum", "off");
    stage.places[0].cluster.reload();
    let mut daemon = stage.daemon().apply("synchronous_commit", synchronous).start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    wait_durable(&stage.places[0], &daemon, "t0").await;
    (stage, daemon)
}

async fn target_dies_between_commit_and_disk(bulk: Bulk) {
    let (mut stage, daemon) = at_rest(Stage::new(1).await.in_mode(bulk), "false").await;
    let mut daemon = daemon;
    let pid = daemon.pid();
    for round in 0..2 {
        let before = stored(&stage.places[0].client, "walferry").await.expect("the target has a position");
        let _holder = hold(&stage.places[0]).await;
        let mark = 10 + round;
        assert_many_follow(&stage, mark).await;
        wait_waiting(&stage.places[0], 1).await;
        assert!(stored(&stage.places[0].client, "walferry").await > Some(before));
        assert!(stage.confirmed("walferry").await <= before, "confirmed before it was on the disk");
        let after = kill_and_look(&mut stage.places[0], &daemon).await;
        assert_eq!(after, before, "the crash was to take the commit back");
        assert!(!is_there(&stage.places[0].client, mark).await);
        stage.assert_nothing_forgotten("walferry").await;
        daemon.signal("CONT");
        // Nothing new is written on the source: the daemon finds out by itself.
        wait_row(&stage.places[0].client, mark, 30).await;
        wait_durable(&stage.places[0], &daemon, "t0").await;
    }
    stage.assert_in_step(&daemon).await;
    assert!(daemon.is_running() && daemon.pid() == pid, "the daemon goes through it without a restart");
    assert_eq!(daemon.log_count("halted"), 0);
    Books::new(bulk).close(&daemon, &stage.on_source, &stage.places[0].client).await;
}

async fn daemon_and_then_target_die_between_commit_and_disk(bulk: Bulk) {
    let (mut stage, mut daemon) = at_rest(Stage::new(1).await.in_mode(bulk), "false").await;
    let mut books = Books::new(bulk);
    let before = stored(&stage.places[0].client, "walferry").await.expect("the target has a position");
    let holder = hold(&stage.places[0]).await;
    assert_many_follow(&stage, 10).await;
    wait_waiting(&stage.places[0], 1).await;
    books.enter(&daemon).await;
    daemon.kill9();
    // The next one finds the commit of the one before, which is not on the disk until it has claimed where that stands.
    execute(&holder, "SELECT FROM walferry.progress FOR UPDATE").await;
    daemon.start();
    wait_waiting(&stage.places[0], 2).await;
    assert!(stored(&stage.places[0].client, "walferry").await > Some(before));
    assert!(stage.confirmed("walferry").await <= before, "confirmed before it was on the disk");
    let after = kill_and_look(&mut stage.places[0], &daemon).await;
    assert_eq!(after, before, "the crash was to take the commit back");
    assert!(!is_there(&stage.places[0].client, 10).await);
    stage.assert_nothing_forgotten("walferry").await;
    daemon.signal("CONT");
    wait_row(&stage.places[0].client, 10, 30).await;
    stage.assert_in_step(&daemon).await;
    books.close(&daemon, &stage.on_source, &stage.places[0].client).await;
}

async fn a_commit_that_waits_for_the_disk_is_confirmed_by_itself(bulk: Bulk) {
    let (mut stage, mut daemon) = at_rest(Stage::new(1).await.in_mode(bulk), "true").await;
    let _holder = hold(&stage.places[0]).await;
    assert_many_follow(&stage, 10).await;
    wait_durable(&stage.places[0], &daemon, "t0").await;
    let position = stored(&stage.places[0].client, "walferry").await.expect("the target has a position");
    let confirmed = async || (stage.confirmed("walferry").await >= position).then_some(());
    wait_for("the source to be told", seconds(20), confirmed).await;
    let after = kill_and_look(&mut stage.places[0], &daemon).await;
    assert!(after >= position, "the target has lost what it had on its disk");
    daemon.signal("CONT");
    stage.assert_follows(0, 11).await;
    Books::new(bulk).close(&daemon, &stage.on_source, &stage.places[0].client).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

async fn target_dies_at_random_moments_under_load(bulk: Bulk) {
    let mut stage = Stage::new(1).await.in_mode(bulk);
    let place = &mut stage.places[0];
    // What is on the disk is what the daemon had written there.
    place.cluster.set("wal_writer_delay", "'10s'");
    place.cluster.restart().await;
    place.reconnect().await;
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, mut random) = (daemon.pid(), Random::new(6));
    for round in 0..6 {
        load.more(20).await;
        tokio::time::sleep(Duration::from_millis(random.below(200))).await;
        kill_and_look(&mut stage.places[0], &daemon).await;
        stage.assert_nothing_forgotten("walferry").await;
        daemon.signal("CONT");
        stage.assert_follows(0, 1 + round).await;
    }
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    assert!(daemon.is_running() && daemon.pid() == pid, "the daemon goes through it without a restart");
    assert_eq!(daemon.log_count("halted"), 0);
    Books::new(bulk).close(&daemon, &stage.on_source, &stage.places[0].client).await;
}

#[tokio::test]
async fn a_target_at_rest_is_left_in_peace() {
    let (stage, daemon) = at_rest(Stage::new(1).await, "false").await;
    let asked = "SELECT max(state_change)::text FROM pg_stat_activity WHERE application_name LIKE 'walferry/%'";
    let last = async || stage.places[0].client.query_one(asked, &[]).await.expect("cannot look").get::<_, String>(0);
    // The answer that made it known may be younger than the note of it on the server.
    tokio::time::sleep(PAUSE).await;
    let before = last().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(last().await, before, "the target was asked for something");
    stage.assert_in_step(&daemon).await;
}
