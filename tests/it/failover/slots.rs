//! The slot on the other server: not there, not yet usable, or that of a single target.

use walferry::postgres::ConnectOptions;
use walferry::postgres::wire::{Purpose, WireConnection};
use walferry::source::slot::failover;

use super::{AGAIN, daemon, in_step, load, stage};
use crate::support::pair::{text, wait_refused};
use crate::support::prelude::*;
use crate::support::stage::{execute, wait_row};
use crate::support::standby::{is_synced, session, wait_synced, with_failover_slots};
use crate::support::versions::bin;

const STORED: &str = "SELECT end_lsn FROM walferry.progress";

/// The slots of single targets.
const OWN: &str = "walferry\\_lane\\_%";

#[tokio::test]
async fn a_server_promoted_without_the_slot_is_refused_with_the_positions_and_a_reset_goes_on() {
    for major in [15, 17].into_iter().filter(|major| bin(*major).is_some()) {
        let (mut stage, standby, mut daemon) = stage(major, Kept::Slotless).await;
        stage.assert_follows(0, 1).await;
        stage.source.kill9().await;
        let ends = text(&standby.connect("postgres").await, "SELECT pg_last_wal_replay_lsn()").await.unwrap();
        stage.fail_over(standby).await;
        let stored = text(&stage.places[0].client, STORED).await.unwrap();
        let promoted = format!("was promoted to timeline 2 at {ends}");
        wait_refused(
            &mut daemon,
            &["slot \"walferry\"", &promoted, &stored, "sync_replication_slots", AGAIN],
            seconds(30),
        )
        .await;
        stage.mark(2).await;
        let reset = daemon.answered(&["slot", "reset", "--yes"]).await;
        assert_eq!(reset.0, Some(0), "{}", reset.1);
        daemon.start();
        daemon.wait_ready(seconds(60)).await;
        stage.assert_follows(0, 3).await;
        stage.assert_in_step(&daemon).await;
    }
}

#[tokio::test]
async fn a_standby_that_is_reached_before_its_promotion_is_waited_for() {
    for major in [15, 17, 18].into_iter().filter(|major| bin(*major).is_some()) {
        // A name or address that leads to whichever server there is, whatever that is at the moment.
        let mut stage = Stage::with(Cluster::builder(major), 2).await;
        let kept = if major < 17 { Kept::Slotless } else { Kept::InFront };
        let standby = stage.standby(kept).await;
        let name = Proxy::to(&stage.source).await;
        let mut daemon = daemon(&stage, &name.url(&stage.from.name)).start();
        daemon.wait_ready(seconds(60)).await;
        stage.assert_follows(0, 1).await;
        if major >= 17 {
            wait_synced(&stage, &standby).await;
        }
        stage.source.kill9().await;
        name.set_upstream(standby.port);
        let waits = "is a standby that has not been promoted";
        daemon.wait_log(waits, seconds(30)).await;
        let said = if major < 17 { "is a standby without the slot" } else { waits };
        // As long as it takes; and for one that starts now as well.
        daemon.kill9();
        let seen = daemon.log_count(said);
        daemon.start();
        wait_for("another attempt", seconds(30), async || (daemon.log_count(said) > seen + 1).then_some(())).await;
        assert!(daemon.is_running());
        stage.fail_over(standby).await;
        if major < 17 {
            wait_refused(&mut daemon, &["was promoted to timeline 2", AGAIN], seconds(30)).await;
            continue;
        }
        stage.assert_follows(0, 2).await;
        in_step(&stage, &mut daemon).await;
    }
}

#[tokio::test]
async fn a_target_with_a_slot_of_its_own_survives_a_failover() {
    for major in with_failover_slots() {
        let mut stage = Stage::with(Cluster::builder(major), 2).await;
        let standby = stage.standby(Kept::InFront).await;
        let mut daemon = daemon(&stage, &stage.both(&standby)).apply("isolate_after", "\"1s\"").start();
        daemon.wait_ready(seconds(60)).await;
        wait_synced(&stage, &standby).await;
        let load = load(&stage, &standby);
        load.more(20).await;
        stage.places[0].cluster.kill9().await;
        let there = session(&standby).await;
        wait_for("its own slot there", seconds(30), async || is_synced(&there, OWN).await.then_some(())).await;
        let then = stage.current().await;
        let passed = async || (stage.confirmed("walferry").await > then).then_some(());
        wait_for("the stream's slot to go on", seconds(60), passed).await;
        load.more(20).await;
        stage.source.kill9().await;
        stage.fail_over(standby).await;
        stage.assert_follows(1, 1).await;
        stage.places[0].come_back().await;
        wait_row(&stage.places[0].client, 1, 60).await;
        load.more(20).await;
        load.stop().await;
        let own = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '{OWN}'");
        let none = async || (text(&stage.on_source, &own).await.as_deref() == Some("0")).then_some(());
        wait_for("its own slot to be dropped", seconds(60), none).await;
        in_step(&stage, &mut daemon).await;
    }
}

#[tokio::test]
async fn a_quiet_stream_gets_its_slot_to_a_standby_by_itself() {
    for major in with_failover_slots().into_iter().take(1) {
        let mut stage = Stage::with(Cluster::builder(major), 1).await;
        let standby = stage.standby(Kept::InFront).await;
        let source = stage.both(&standby);
        let mut daemon = daemon(&stage, &source).source("heartbeat_interval", "\"1s\"").start();
        daemon.wait_ready(seconds(60)).await;
        let there = session(&standby).await;
        let synced = async || {
            // What the server does every 15 s.
            execute(&stage.on_source, "SELECT pg_log_standby_snapshot()").await;
            is_synced(&there, "walferry").await.then_some(())
        };
        wait_for("the slot on the standby", seconds(60), synced).await;
        assert_eq!(text(&stage.places[0].client, "SELECT commit_lsn FROM walferry.progress").await, None);
    }
}

#[tokio::test]
async fn a_slot_that_a_failover_would_lose_is_found_by_check_with_the_statement_that_mends_it() {
    for major in with_failover_slots() {
        let stage = Stage::with(Cluster::builder(major), 1).await;
        let mut daemon = stage.daemon().start();
        daemon.wait_ready(seconds(60)).await;
        let is_one = "SELECT failover FROM pg_replication_slots WHERE slot_name = 'walferry'";
        assert_eq!(text(&stage.on_source, is_one).await.as_deref(), Some("true"), "walferry makes it so");
        assert!(daemon.terminate(seconds(30)).await.success());
        // As one that came with pg_upgrade, or was made by hand.
        execute(&stage.on_source, "SELECT pg_drop_replication_slot('walferry')").await;
        execute(&stage.on_source, "SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')").await;
        let advice = advice(&daemon).await.expect("a finding");
        let (_, statement) = advice.split_once(" -c '").expect("a command for psql");
        assert_eq!(statement.trim_end_matches('\''), failover::statement("walferry").as_str());
        let options = ConnectOptions::parse(&stage.from.url).unwrap();
        let mut conn = WireConnection::connect(&options, "test", Purpose::Replication).await.unwrap();
        conn.query(&failover::statement("walferry")).await.unwrap();
        assert_eq!(text(&stage.on_source, is_one).await.as_deref(), Some("true"));
        assert_eq!(self::advice(&daemon).await, None);
    }
}

/// What check advises where the slot would not survive a failover.
async fn advice(daemon: &Daemon) -> Option<String> {
    let report = daemon.run(&["check", "--json"]).await.stdout;
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["code"] == "slot-not-failover")?;
    Some(found["advice"].as_str().expect("an advice").to_owned())
}
