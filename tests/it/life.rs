//! The daemon's life: stopping in order, reloading, standing by, taking over, being replaced without noticing, and
//! letting an idle source forget.

use std::time::{Duration, Instant};

use crate::support::prelude::*;
use crate::support::stage::{execute, stored, wait_row};
use crate::support::workload::Random;

/// Between two transactions of a writer.
const PAUSE: Duration = Duration::from_millis(10);

/// The lowest position that a target has stored.
async fn lowest_stored(stage: &Stage) -> i64 {
    let mut lowest = i64::MAX;
    for place in &stage.places {
        lowest = lowest.min(stored(&place.client, "walferry").await.expect("the target has a position"));
    }
    lowest
}

async fn slot_is_free(stage: &Stage) -> bool {
    let query = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'walferry'";
    stage.on_source.query_one(query, &[]).await.expect("there is no slot").get(0)
}

#[tokio::test]
async fn a_signal_drains_stores_confirms_and_frees_the_slot() {
    let stage = Stage::new(2).await;
    let load = Load::start(&stage, 0..3, Duration::from_millis(2)).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    for (round, signal) in ["TERM", "INT", "TERM"].into_iter().enumerate() {
        load.more(100).await;
        daemon.signal(signal);
        // Later than its `apply.drain_timeout`.
        let status = daemon.wait_exit(seconds(40)).await;
        assert!(status.success(), "{signal}: {status}");
        assert!(slot_is_free(&stage).await, "the slot is not free");
        assert_eq!(stage.confirmed("walferry").await, lowest_stored(&stage).await, "confirmed is not what is stored");
        daemon.start();
        stage.assert_follows(0, 1 + round as i64).await;
    }
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    // At rest the targets stand where the source's WAL ended, as far as commits go: nothing comes again.
    assert!(daemon.terminate(seconds(20)).await.success());
    assert_eq!(stage.confirmed("walferry").await, lowest_stored(&stage).await);
    assert_eq!(daemon.log_count("it will come again"), 0);
}

#[tokio::test]
async fn a_target_that_hangs_does_not_keep_it_from_stopping() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().apply("drain_timeout", "\"2s\"").start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..2, PAUSE).await;
    load.more(20).await;
    stage.places[0].cluster.freeze(true);
    load.more(50).await;
    let status = daemon.terminate(seconds(30)).await;
    assert!(status.success(), "{status}");
    assert!(daemon.log().contains("apply.drain_timeout"));
    assert!(slot_is_free(&stage).await);
    stage.places[0].cluster.freeze(false);
    stage.assert_nothing_forgotten("walferry").await;
    daemon.start();
    stage.assert_follows(0, 1).await;
    load.stop().await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_signal_ends_it_also_before_it_has_begun() {
    // Nobody answers at the source, then at the target.
    let stage = Stage::new(1).await;
    for (source, target) in [(true, false), (false, true)] {
        let (one, two) = (Proxy::to(&stage.source).await, Proxy::to(&stage.places[0].cluster).await);
        one.set(if source { Mode::Stall } else { Mode::Pass });
        two.set(if target { Mode::Stall } else { Mode::Pass });
        // By itself it would not give up before the test does.
        let url = |proxy: &Proxy, db: &Db| format!("{}?connect_timeout=600", proxy.url(&db.name));
        let urls = [url(&two, &stage.places[0].db)];
        let mut daemon = stage.daemon_via(&url(&one, &stage.from), &urls).start();
        let asked = async || ((one.connections() > 0 || !source) && (two.connections() > 0 || !target)).then_some(());
        wait_for("it to ask", seconds(20), asked).await;
        assert!(daemon.terminate(seconds(20)).await.success());
    }
}

#[tokio::test]
async fn sighup_changes_the_log_level_and_names_what_needs_a_restart() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let pid = daemon.pid();
    daemon.reconfigure("level = \"debug\"", "level = \"trace\"");
    assert_eq!(daemon.log_count("TRACE"), 0);
    daemon.signal("HUP");
    let level = daemon.wait_log("log.level", seconds(10)).await;
    daemon.wait_log("TRACE", seconds(10)).await;
    daemon.reconfigure("slot = \"walferry\"", "slot = \"another\"");
    daemon.signal("HUP");
    let key = daemon.wait_log("needs a restart", seconds(10)).await;
    assert!(key.contains("source.slot"), "{level}\n{key}");

    let broken = std::fs::read_to_string(daemon.config_path()).unwrap().replace("[source]", "[sauce]");
    std::fs::write(daemon.config_path(), broken).unwrap();
    daemon.signal("HUP");
    let refused = daemon.wait_log("nothing is changed", seconds(10)).await;
    assert!(refused.contains("sauce"), "{refused}");
    std::fs::remove_file(daemon.config_path()).unwrap();
    daemon.signal("HUP");
    let refused = async || (daemon.log_count("nothing is changed") == 2).then_some(());
    wait_for("the missing file to be named", seconds(10), refused).await;
    stage.assert_follows(0, 1).await;
    assert!(daemon.is_running() && daemon.pid() == pid);
}

#[tokio::test]
async fn a_second_daemon_stands_by_and_takes_over() {
    let stage = Stage::new(2).await;
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemons = [stage.daemon().start(), stage.daemon().prepare()];
    daemons[0].wait_ready(seconds(60)).await;
    let (mut killed, mut stopped) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let [first, second] = &mut daemons;
        let (active, standby) = if round % 2 == 0 { (first, second) } else { (second, first) };
        standby.start();
        let waiting = standby.log_count("waiting as standby");
        let waits = async || (standby.log_count("waiting as standby") > waiting).then_some(());
        wait_for("the second to stand by", seconds(10), waits).await;
        let state = [("state", "standby")];
        standby.wait_metric("walferry_source_state", &state, |value| value == 1.0, seconds(10)).await;
        load.more(20).await;
        // Until a row that was written when the active one was told to end is on the target.
        let told = Instant::now();
        if round < 3 {
            active.kill9();
        } else {
            active.signal("TERM");
            assert!(active.wait_exit(seconds(20)).await.success());
        }
        stage.assert_follows(0, 1 + round).await;
        if round < 3 { &mut killed } else { &mut stopped }.push(told.elapsed());
        assert!(standby.is_running());
    }
    eprintln!("taken over after SIGKILL in {killed:.2?}, after SIGTERM in {stopped:.2?}");
    // The best of three: the other tests have the processors too.
    assert!(killed.iter().min() < Some(&Duration::from_secs(5)), "{killed:?}");
    assert!(stopped.iter().min() < Some(&Duration::from_secs(1)), "{stopped:?}");
    load.stop().await;
    stage.assert_in_step(&daemons[0]).await;
    stage.assert_in_step(&daemons[1]).await;
}

#[tokio::test]
async fn a_daemon_that_was_frozen_and_replaced_applies_nothing_any_more() {
    let stage = Stage::with(Cluster::builder(default_major()).setting("wal_sender_timeout", "'1s'"), 2).await;
    let load = Load::start(&stage, 0..3, Duration::from_millis(2)).await;
    let mut daemons = [stage.daemon().start(), stage.daemon().prepare()];
    daemons[0].wait_ready(seconds(60)).await;
    daemons[1].start();
    daemons[1].wait_log("waiting as standby", seconds(10)).await;
    let mut random = Random::new(5);
    for round in 0..2 {
        let [first, second] = &mut daemons;
        let (active, standby) = if round % 2 == 0 { (first, second) } else { (second, first) };
        load.more(20 + random.below(20)).await;
        active.signal("STOP");
        // The server ends the stream by itself, for want of status updates. The session with the lock has no such
        // limit; its end stands for what a network or a failover does.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name LIKE 'walferry/%' AND backend_type = 'client backend'
                   AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)";
        execute(&stage.on_source, end).await;
        let (taken, again) = (standby.log_count("taking over"), active.log_count("waiting as standby"));
        let over = async || (standby.log_count("taking over") > taken).then_some(());
        wait_for("the standby to take over", seconds(10), over).await;
        stage.assert_follows(0, 1 + 2 * round).await;
        active.signal("CONT");
        stage.assert_follows(1, 2 + 2 * round).await;
        let back = async || (active.log_count("waiting as standby") > again).then_some(());
        wait_for("the frozen one to stand by", seconds(30), back).await;
        assert!(active.is_running() && standby.is_running());
    }
    load.stop().await;
    for daemon in &daemons {
        stage.assert_in_step(daemon).await;
    }
}

#[tokio::test]
async fn an_idle_source_may_forget() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().source("heartbeat_interval", "\"0s\"").apply("progress_bytes", "\"64KB\"").start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    stage.assert_follows(1, 2).await;
    let busy = stage.source.create_database().await;
    let busy = stage.source.connect(&busy.name).await;
    execute(&busy, "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n").await;
    let written = stage.current().await;
    let told = async || (stage.confirmed("walferry").await > written - 100_000).then_some(());
    wait_for("the source to be told that it may forget", seconds(30), told).await;
    stage.assert_nothing_forgotten("walferry").await;
    assert!(daemon.terminate(seconds(20)).await.success());

    // With a heartbeat, also where the server says nothing by itself and nothing at all is written.
    daemon.reconfigure("heartbeat_interval = \"0s\"", "heartbeat_interval = \"200ms\"");
    daemon.reconfigure("progress_bytes = \"64KB\"", "progress_bytes = \"1KiB\"");
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let before = stage.confirmed("walferry").await;
    let told = async || (stage.confirmed("walferry").await > before + 2_000).then_some(());
    wait_for("heartbeats to move the slot", seconds(30), told).await;
    stage.assert_nothing_forgotten("walferry").await;
    wait_row(&stage.places[1].client, 2, 1).await;
    stage.assert_in_step(&daemon).await;
}
