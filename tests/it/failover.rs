//! The source fails over to its standby, in order and by a crash, under load and with a second daemon standing by: the
//! daemon finds the new primary by itself, goes on from the slot that was synchronized there, and follows no old one.

mod ahead;
mod slots;

use std::time::{Duration, Instant};

use crate::support::pair::{text, wait_halted};
use crate::support::prelude::*;
use crate::support::stage::{execute, is_there, wait_row};
use crate::support::standby::{wait_synced, with_failover_slots};
use crate::support::workload;

const AGAIN: &str = "walferry slot reset";

/// Two targets, a source of this version, its standby, and a daemon that is told of both; all in step, and the slot on
/// the standby.
async fn stage(major: u32, kept: Kept) -> (Stage, Cluster, Daemon) {
    let mut stage = Stage::with(Cluster::builder(major), 2).await;
    let standby = stage.standby(kept).await;
    let mut daemon = daemon(&stage, &stage.both(&standby)).start();
    daemon.wait_ready(seconds(60)).await;
    if kept != Kept::Slotless {
        wait_synced(&stage, &standby).await;
    }
    (stage, standby, daemon)
}

fn daemon(stage: &Stage, source: &str) -> crate::support::daemon_builder::Builder {
    let targets: Vec<String> = stage.places.iter().map(|place| place.db.url.clone()).collect();
    stage.daemon_via(source, &targets)
}

/// Writers that go on with the server that was promoted.
fn load(stage: &Stage, standby: &Cluster) -> Load {
    let hosts = format!("host={},{}", stage.source.socket_dir().display(), standby.socket_dir().display());
    let ports = format!("port={},{}", stage.source.port, standby.port);
    let url = format!("{hosts} {ports} user=postgres dbname={} target_session_attrs=read-write", stage.from.name);
    Load::at(&url, 0..2, Duration::from_millis(5))
}

/// Fails over, and tells how long it took from the promotion to the first new row on a target.
async fn fail_over(stage: &mut Stage, standby: Cluster, mark: i64) -> Cluster {
    let old = stage.fail_over(standby).await;
    let promoted = Instant::now();
    stage.mark(mark).await;
    wait_row(&stage.places[0].client, mark, 60).await;
    eprintln!("--- PostgreSQL {}: from the promotion to the first row {:?}", stage.source.major, promoted.elapsed());
    old
}

/// Everything is on every target, applied once, on the new timeline, from the slot that was there.
async fn in_step(stage: &Stage, daemon: &mut Daemon) {
    daemon.wait_ready(seconds(60)).await;
    stage.assert_in_step(daemon).await;
    stage.assert_nothing_forgotten("walferry").await;
    for place in &stage.places {
        assert_eq!(text(&place.client, "SELECT timeline FROM walferry.progress").await.as_deref(), Some("2"));
    }
    let kept = "SELECT synced FROM pg_replication_slots WHERE slot_name = 'walferry'";
    assert_eq!(text(&stage.on_source, kept).await.as_deref(), Some("true"));
    assert_eq!(daemon.log_count("slot created"), 1 + daemon.log_count("replication slot created"));
    assert_eq!(daemon.log_count("ERROR"), 0);
}

#[tokio::test]
async fn a_crash_under_load_loses_nothing_that_the_promoted_standby_has_and_applies_nothing_twice() {
    for major in with_failover_slots() {
        let (mut stage, standby, mut daemon) = stage(major, Kept::InFront).await;
        let load = load(&stage, &standby);
        load.more(100).await;
        stage.source.kill9().await;
        let _old = fail_over(&mut stage, standby, 1).await;
        load.more(100).await;
        load.stop().await;
        in_step(&stage, &mut daemon).await;
        assert!(daemon.terminate(seconds(30)).await.success());
        stage.assert_nothing_forgotten("walferry").await;
    }
}

#[tokio::test]
async fn a_planned_switch_over_under_load_goes_on_by_itself() {
    for major in with_failover_slots() {
        let (mut stage, standby, mut daemon) = stage(major, Kept::Loosely).await;
        let load = load(&stage, &standby);
        load.more(100).await;
        // Its walsenders end once all that was written is sent, and confirmed.
        stage.source.stop().await;
        let there = standby.connect(&stage.from.name).await;
        let clients: Vec<_> = stage.places.iter().map(|place| &place.client).collect();
        wait_equal(&there, &clients, &workload::TABLES, seconds(30)).await;
        let _old = fail_over(&mut stage, standby, 1).await;
        load.more(100).await;
        load.stop().await;
        in_step(&stage, &mut daemon).await;
    }
}

#[tokio::test]
async fn a_source_that_hangs_is_left_for_the_server_that_is_promoted() {
    for major in with_failover_slots().into_iter().take(1) {
        let source = Cluster::builder(major).setting("wal_sender_timeout", "'3s'");
        let mut stage = Stage::with(source, 2).await;
        let standby = stage.standby(Kept::InFront).await;
        let mut daemon = daemon(&stage, &format!("{}&connect_timeout=2", stage.both(&standby))).start();
        daemon.wait_ready(seconds(60)).await;
        wait_synced(&stage, &standby).await;
        stage.assert_follows(0, 1).await;
        // Its host takes connections, and nobody answers there.
        stage.source.freeze(true);
        let _old = fail_over(&mut stage, standby, 2).await;
        in_step(&stage, &mut daemon).await;
    }
}

#[tokio::test]
async fn an_old_primary_that_comes_back_is_not_followed() {
    for major in with_failover_slots().into_iter().take(1) {
        let (mut stage, standby, mut daemon) = stage(major, Kept::InFront).await;
        stage.source.kill9().await;
        let mut old = fail_over(&mut stage, standby, 1).await;

        // Under the running daemon, and written to: both can be. Its host is the first that is tried.
        old.start_again().await;
        let on_old = old.connect(&stage.from.name).await;
        execute(&on_old, "INSERT INTO applied VALUES (-90, 999)").await;
        stage.assert_follows(0, 2).await;
        daemon.kill9();
        daemon.start();
        let says = ["on timeline 1", "followed timeline 2", AGAIN];
        for target in ["t0", "t1"] {
            wait_halted(&mut daemon, target, &says, seconds(30)).await;
        }
        for place in &stage.places {
            assert!(!is_there(&place.client, 90).await, "the old primary was followed");
        }
        // It is taken away again, as it should have been.
        old.stop().await;
        stage.assert_follows(0, 3).await;
        stage.assert_follows(1, 4).await;
        daemon.wait_ready(seconds(60)).await;
        stage.assert_in_step(&daemon).await;
    }
}

#[tokio::test]
async fn a_daemon_that_stands_by_goes_over_as_well_and_can_take_over_there() {
    for major in with_failover_slots().into_iter().take(1) {
        let (mut stage, standby, mut first) = stage(major, Kept::InFront).await;
        let mut second = daemon(&stage, &stage.both(&standby)).start();
        second.wait_metric("walferry_source_state", &[("state", "standby")], |value| value == 1.0, seconds(30)).await;
        let load = load(&stage, &standby);
        load.more(20).await;
        stage.source.kill9().await;
        let _old = fail_over(&mut stage, standby, 1).await;
        // Whichever it is now.
        let active = async || {
            for (place, daemon) in [&first, &second].into_iter().enumerate() {
                let state = daemon.metric("walferry_source_state", &[("state", "streaming")]).await;
                if state == Some(1.0) {
                    return Some(place);
                }
            }
            None
        };
        let active = wait_for("one of them to stream", seconds(30), active).await;
        let (gone, other) = if active == 0 { (&mut first, &mut second) } else { (&mut second, &mut first) };
        assert!(gone.is_running() && other.is_running());
        gone.kill9();
        stage.assert_follows(0, 2).await;
        load.more(20).await;
        load.stop().await;
        other.wait_ready(seconds(60)).await;
        stage.assert_in_step(other).await;
        assert_eq!(gone.log_count("conflict:"), 0);
    }
}
