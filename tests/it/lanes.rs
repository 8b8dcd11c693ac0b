//! A target that is away, paused or slow is fed from a slot of its own until it has caught up: the others go on, and so
//! does what the stream's slot keeps on the source.

mod load;

use std::time::Duration;

use crate::support::pair::{run, text};
use crate::support::prelude::*;
use crate::support::proxy::{Mode, Proxy};
use crate::support::stage::{Load, execute, stored, wait_row};

/// The slots of single targets.
const OWN: &str = "SELECT coalesce(string_agg(slot_name, ' ' ORDER BY slot_name), '') FROM pg_replication_slots
                   WHERE slot_name LIKE 'walferry\\_lane\\_%'";

async fn own_slots(stage: &Stage) -> Vec<String> {
    let names = text(&stage.on_source, OWN).await.unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

pub(crate) async fn wait_own_slots(stage: &Stage, count: usize) {
    let there = async || (own_slots(stage).await.len() == count).then_some(());
    wait_for(&format!("{count} slots of single targets"), seconds(60), there).await;
}

/// A daemon that isolates soon.
fn quick(stage: &Stage) -> crate::support::daemon_builder::Builder {
    stage.daemon().apply("isolate_after", "\"1s\"")
}

/// Waits until the source was told to forget more than this target has.
async fn wait_passed(stage: &Stage, position: i64) {
    let passed = async || (stage.confirmed("walferry").await > position).then_some(());
    wait_for("the stream's slot to go on", seconds(60), passed).await;
}

/// Panics unless one of the slots still has all that this target needs.
async fn assert_kept(stage: &Stage, place: usize) {
    let stored = stored(&stage.places[place].client, "walferry").await.expect("it has a position");
    let mut slots = vec!["walferry".to_owned()];
    slots.extend(own_slots(stage).await);
    let mut confirmed = Vec::new();
    for slot in &slots {
        confirmed.push(stage.confirmed(slot).await);
    }
    assert!(confirmed.iter().any(|confirmed| *confirmed <= stored), "{slots:?} {confirmed:X?}, it has {stored:X}");
}

async fn in_step(stage: &Stage, daemon: &mut Daemon) {
    wait_own_slots(stage, 0).await;
    daemon.wait_ready(seconds(60)).await;
    stage.assert_in_step(daemon).await;
    stage.assert_nothing_forgotten("walferry").await;
}

#[tokio::test]
async fn a_target_that_is_away_holds_nothing_back_and_joins_the_others_again() {
    for_each_major(async |major| {
        let mut stage = Stage::with(Cluster::builder(major), 3).await;
        let mut daemon = quick(&stage).start();
        daemon.wait_ready(seconds(60)).await;
        let load = Load::start(&stage, 0..2, Duration::from_millis(5)).await;
        load.more(50).await;
        stage.places[0].cluster.kill9().await;
        wait_own_slots(&stage, 1).await;
        let own = [("target", "t0")];
        daemon.wait_metric("walferry_target_own_slot", &own, |value| value == 1.0, seconds(10)).await;
        let then = stage.current().await;
        load.more(50).await;
        wait_passed(&stage, then).await;

        stage.places[0].come_back().await;
        daemon.wait_log("is fed with the others again", seconds(60)).await;
        daemon.wait_metric("walferry_target_own_slot", &own, |value| value == 0.0, seconds(10)).await;
        load.more(50).await;
        load.stop().await;
        in_step(&stage, &mut daemon).await;
        assert_eq!(daemon.log_count("ERROR"), 0);
    })
    .await;
}

#[tokio::test]
async fn a_slow_target_gets_on_without_the_others_waiting_for_it() {
    let stage = Stage::new(2).await;
    let slow = Proxy::to(&stage.places[0].cluster).await;
    let urls = [slow.url(&stage.places[0].db.name), stage.places[1].db.url.clone()];
    let daemon = stage.daemon_via(&stage.from.url, &urls).apply("isolate_after", "\"1s\"");
    let mut daemon = daemon.apply("queue_bytes", "\"1MiB\"").apply("batch_bytes", "\"256KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    slow.set(Mode::Throttle(100_000));
    let load = Load::start(&stage, 0..2, Duration::ZERO).await;
    daemon.wait_log("slower than the others", seconds(120)).await;
    wait_own_slots(&stage, 1).await;
    // Nobody waits for it any more.
    for mark in 1..4 {
        stage.mark(mark).await;
        wait_row(&stage.places[1].client, mark, 5).await;
    }
    let behind = stage.current().await;
    wait_passed(&stage, behind).await;
    assert!(stored(&stage.places[0].client, "walferry").await.unwrap() < behind, "it was not slow");
    let checked = String::from_utf8(daemon.run(&["check", "--json"]).await.stdout).unwrap();
    assert!(checked.contains("\"findings\"") && !checked.contains("progress-gap"), "{checked}");
    let listed = String::from_utf8(daemon.run(&["slot", "list"]).await.stdout).unwrap();
    assert!(listed.contains("(of target t0)"), "{listed}");
    load.stop().await;
    slow.set(Mode::Pass);
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_daemon_that_dies_at_any_moment_of_it_leaves_a_state_that_the_next_one_goes_on_from() {
    let mut stage = Stage::new(2).await;
    let mut daemon = quick(&stage).start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..2, Duration::from_millis(5)).await;
    // What the log says last before the daemon is killed: made, joined, dropped; and what lies between by chance.
    for (round, moment) in ["away for long", "joins the others", "with the others again"].repeat(2).iter().enumerate() {
        stage.places[0].cluster.kill9().await;
        let seen = daemon.log_count(moment);
        wait_own_slots(&stage, 1).await;
        load.more(20).await;
        if *moment != "away for long" {
            stage.places[0].come_back().await;
            let said = async || (daemon.log_count(moment) > seen).then_some(());
            wait_for(moment, seconds(60), said).await;
        }
        tokio::time::sleep(Duration::from_millis(7 * round as u64)).await;
        daemon.kill9();
        if *moment == "away for long" {
            stage.places[0].come_back().await;
        }
        assert_kept(&stage, 0).await;
        daemon.start();
        daemon.wait_ready(seconds(60)).await;
        wait_own_slots(&stage, 0).await;
    }
    load.stop().await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_stop_or_a_lost_source_does_not_hurt_a_target_with_a_slot_of_its_own() {
    let mut stage = Stage::new(2).await;
    let mut daemon = quick(&stage).start();
    daemon.wait_ready(seconds(60)).await;
    stage.places[0].cluster.kill9().await;
    wait_own_slots(&stage, 1).await;
    stage.assert_follows(1, 1).await;
    assert!(daemon.terminate(seconds(30)).await.success());
    daemon.start();
    stage.assert_follows(1, 2).await;
    assert_eq!(own_slots(&stage).await.len(), 1, "it is kept for when the target is back");
    stage.source.kill9().await;
    stage.source.start_again().await;
    stage.on_source = stage.source.connect(&stage.from.name).await;
    stage.assert_follows(1, 3).await;
    stage.places[0].come_back().await;
    wait_row(&stage.places[0].client, 3, 60).await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn only_its_own_slots_are_dropped_and_those_that_nobody_needs() {
    let mut stage = Stage::new(2).await;
    // Almost one of this stream's, and somebody's copy of it.
    for other in ["walferry_lane_00000000_0123456789abcdef", "walferry_lane", "walferry_copy"] {
        execute(&stage.on_source, &format!("SELECT pg_create_logical_replication_slot('{other}', 'pgoutput')")).await;
    }
    let mut daemon = quick(&stage).start();
    daemon.wait_ready(seconds(60)).await;
    stage.places[0].cluster.kill9().await;
    wait_own_slots(&stage, 2).await;
    // Its target is taken out: nobody would ever drop it.
    let gone = format!("[[target]]\nname = \"t0\"\nurl = \"{}\"\n", stage.places[0].db.url);
    daemon.reconfigure(&gone, "");
    daemon.signal("HUP");
    wait_own_slots(&stage, 1).await;
    stage.assert_follows(1, 1).await;
    let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^walferry_(copy|lane(_0{8}_.*)?)$'";
    assert_eq!(text(&stage.on_source, left).await.as_deref(), Some("3"));
}

#[tokio::test]
async fn a_source_without_room_for_a_slot_is_told_of_and_nothing_else_changes() {
    let source = Cluster::builder(default_major()).setting("max_replication_slots", "2");
    let mut stage = Stage::with(source, 2).await;
    let mut daemon = quick(&stage).start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.on_source, "SELECT pg_create_physical_replication_slot('full')").await;
    stage.places[0].cluster.kill9().await;
    let said = daemon.wait_log("gets no slot of its own", seconds(30)).await;
    assert!(said.contains("replication slots are in use"), "{said}");
    stage.assert_follows(1, 1).await;
    execute(&stage.on_source, "SELECT pg_drop_replication_slot('full')").await;
    wait_own_slots(&stage, 1).await;
    stage.places[0].come_back().await;
    assert_kept(&stage, 0).await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn an_only_target_and_whoever_wants_none_get_no_slot_of_their_own() {
    let mut stage = Stage::new(1).await;
    let mut daemon = quick(&stage).start();
    daemon.wait_ready(seconds(60)).await;
    stage.places[0].cluster.kill9().await;
    stage.mark(1).await;
    daemon.wait_metric("walferry_target_lag_seconds", &[("target", "t0")], |lag| lag > 2.5, seconds(30)).await;
    assert!(own_slots(&stage).await.is_empty(), "there is nobody whom it holds up");
    daemon.kill9();

    let mut stage = Stage::new(2).await;
    let mut daemon = stage.daemon().apply("isolate_after", "\"0s\"").start();
    daemon.wait_ready(seconds(60)).await;
    stage.places[0].cluster.kill9().await;
    stage.mark(1).await;
    daemon.wait_metric("walferry_target_lag_seconds", &[("target", "t0")], |lag| lag > 2.5, seconds(30)).await;
    assert!(own_slots(&stage).await.is_empty());
}

#[tokio::test]
async fn a_slot_of_its_own_that_is_dropped_by_somebody_halts_its_target_only() {
    let mut stage = Stage::new(2).await;
    let mut daemon = quick(&stage).start();
    daemon.wait_ready(seconds(60)).await;
    stage.places[0].cluster.kill9().await;
    wait_own_slots(&stage, 1).await;
    let then = stage.current().await;
    stage.assert_follows(1, 1).await;
    wait_passed(&stage, then).await;
    let name = own_slots(&stage).await.remove(0);
    run(&stage.on_source, &format!("SELECT pg_drop_replication_slot('{name}')")).await;
    stage.places[0].come_back().await;
    crate::support::pair::wait_halted(&mut daemon, "t0", &["confirmed"], seconds(60)).await;
    stage.assert_follows(1, 2).await;
}
