//! The standby lacks something when it is promoted: whatever a target has of that is found before anything is applied,
//! and whoever has nothing of it goes on.

use super::{AGAIN, daemon, fail_over, stage};
use crate::support::pair::{text, wait_halted};
use crate::support::prelude::*;
use crate::support::stage::{execute, is_there, wait_row};
use crate::support::standby::{cut_off, wait_synced, with_failover_slots};

const STORED: &str = "SELECT end_lsn FROM walferry.progress";

#[tokio::test]
async fn a_target_ahead_of_the_promoted_server_halts_with_the_exact_positions_and_the_other_goes_on() {
    for major in with_failover_slots() {
        let (mut stage, standby, mut daemon) = stage(major, Kept::Loosely).await;
        // The other target gets nothing of what will be lost.
        stage.places[1].cluster.kill9().await;
        cut_off(&standby).await;
        stage.assert_follows(0, 1).await;
        let stored = text(&stage.places[0].client, STORED).await.unwrap();
        stage.source.kill9().await;
        let ends = text(&standby.connect("postgres").await, "SELECT pg_last_wal_replay_lsn()").await.unwrap();
        stage.fail_over(standby).await;
        stage.places[1].come_back().await;

        let left = format!("left timeline 1 at {ends}");
        wait_halted(&mut daemon, "t0", &["on timeline 2", &left, &stored, AGAIN], seconds(30)).await;
        stage.assert_follows(1, 2).await;
        assert!(is_there(&stage.places[0].client, 1).await && !is_there(&stage.places[0].client, 2).await);
        assert_eq!(text(&stage.places[0].client, STORED).await.as_deref(), Some(&*stored));
        // It does not pass with time.
        daemon.kill9();
        daemon.start();
        wait_halted(&mut daemon, "t0", &["on timeline 2", &left, &stored, AGAIN], seconds(30)).await;
        let checked = String::from_utf8(daemon.run(&["check", "--json"]).await.stdout).unwrap();
        assert!(checked.contains("progress-gap") && checked.contains(&left), "{checked}");
        // The way out that is named is one.
        daemon.kill9();
        let reset = daemon.answered(&["slot", "reset", "--yes"]).await;
        assert_eq!(reset.0, Some(0), "{}", reset.1);
        daemon.start();
        daemon.wait_ready(seconds(60)).await;
        stage.assert_in_step(&daemon).await;
    }
}

#[tokio::test]
async fn a_target_whose_position_is_ahead_but_not_its_last_commit_goes_on() {
    for major in with_failover_slots().into_iter().take(1) {
        let mut stage = Stage::with(Cluster::builder(major), 1).await;
        let standby = stage.standby(Kept::Loosely).await;
        let mut daemon = daemon(&stage, &stage.both(&standby)).apply("progress_bytes", "\"64KiB\"").start();
        daemon.wait_ready(seconds(60)).await;
        stage.assert_follows(0, 1).await;
        wait_synced(&stage, &standby).await;
        let there = standby.connect("postgres").await;
        let replayed = async || {
            let all = format!("SELECT pg_last_wal_replay_lsn() - '0/0' >= {}", stage.current().await);
            (text(&there, &all).await.as_deref() == Some("true")).then_some(())
        };
        wait_for("the standby to have all", seconds(30), replayed).await;
        cut_off(&standby).await;
        let ends = text(&there, "SELECT pg_last_wal_replay_lsn()").await.unwrap();
        // WAL that is nobody's: the target's position moves beyond what the standby has.
        let ahead = async || {
            execute(&stage.on_source, "SELECT pg_logical_emit_message(false, 'other', repeat('x', 100000))").await;
            let is = text(&stage.places[0].client, &format!("SELECT end_lsn > '{ends}' FROM walferry.progress")).await;
            (is.as_deref() == Some("true")).then_some(())
        };
        wait_for("the target's position to move", seconds(30), ahead).await;
        stage.source.kill9().await;
        let _old = fail_over(&mut stage, standby, 2).await;
        daemon.wait_log("has all that the target has", seconds(10)).await;
        stage.assert_follows(0, 3).await;
        daemon.wait_ready(seconds(60)).await;
        stage.assert_in_step(&daemon).await;
        assert_eq!(daemon.log_count("ERROR"), 0);
    }
}

#[tokio::test]
async fn a_table_copied_from_the_old_primary_as_of_what_was_lost_is_refused() {
    for major in with_failover_slots().into_iter().take(1) {
        let mut stage = Stage::with(Cluster::builder(major), 1).await;
        let standby = stage.standby(Kept::Loosely).await;
        let mut daemon = daemon(&stage, &stage.both(&standby)).start();
        daemon.wait_ready(seconds(60)).await;
        stage.assert_follows(0, 1).await;
        wait_synced(&stage, &standby).await;
        let added = "CREATE TABLE added (id int PRIMARY KEY)";
        execute(&stage.places[0].client, added).await;
        execute(&stage.on_source, added).await;
        let there = standby.connect(&stage.from.name).await;
        let known = async || text(&there, "SELECT to_regclass('added')").await;
        wait_for("the table on the standby", seconds(30), known).await;
        cut_off(&standby).await;
        execute(&stage.on_source, "INSERT INTO added VALUES (1)").await;
        let copied = async || {
            let copied = "SELECT max(copy_lsn) FROM walferry.table_state WHERE table_name = 'added' AND state = 'done'";
            text(&stage.places[0].client, copied).await
        };
        let copied = wait_for("the copy", seconds(60), copied).await;
        // The position is still before that, as of a target that got nothing since.
        daemon.kill9();
        let ends = text(&there, "SELECT pg_last_wal_replay_lsn()").await.unwrap();
        let back = format!("UPDATE walferry.progress SET end_lsn = least(end_lsn, '{ends}')");
        execute(&stage.places[0].client, &back).await;
        stage.source.kill9().await;
        stage.fail_over(standby).await;
        daemon.start();
        let says = ["table public.added", &copied, "left timeline 1 at 0/", AGAIN];
        wait_halted(&mut daemon, "t0", &says, seconds(30)).await;
        stage.mark(2).await;
        assert!(!is_there(&stage.places[0].client, 2).await);
        wait_row(&stage.places[0].client, 1, 5).await;
    }
}
