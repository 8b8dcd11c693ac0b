//! The source is a server that took another's place: promoted behind the target or in front of it, or restored.

use super::{AGAIN, TABLES, rows};
use crate::support::pair::{run, text, wait_halted};
use crate::support::prelude::*;
use crate::support::versions::bin;

/// Source, target and a daemon between them; three rows are on the target.
async fn stage(major: u32) -> (Cluster, Db, Cluster, Db, Daemon) {
    let (source, target) = (Cluster::start(major).await, Cluster::start(default_major()).await);
    let (from, to) = (source.create_database().await, target.create_database().await);
    source.execute(&from.name, &format!("{TABLES}; CREATE PUBLICATION walferry FOR ALL TABLES")).await;
    source.execute(&from.name, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 3) i").await;
    target.execute(&to.name, TABLES).await;
    let quick = "[apply]\nhalted_retry_interval = \"200ms\"\nretry_max_interval = \"500ms\"";
    let mut daemon = Daemon::builder(&from.url).target("t", &to.url).extra(quick).start();
    daemon.wait_ready(seconds(30)).await;
    (source, from, target, to, daemon)
}

async fn follows(source: &Cluster, from: &Db, target: &Cluster, to: &Db) {
    let (source, target) = (source.connect(&from.name).await, target.connect(&to.name).await);
    wait_equal(&source, &[&target], &["t"], seconds(30)).await;
}

const SLOT: &str = "SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')";

#[tokio::test]
async fn a_standby_promoted_behind_the_target_is_refused_by_its_switch_point() {
    let (mut source, from, target, to, mut daemon) = stage(default_major()).await;
    let mut standby = source.standby().await;
    standby.stop().await;
    source.execute(&from.name, "INSERT INTO t VALUES (4, 'never on the standby')").await;
    follows(&source, &from, &target, &to).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    source.stop().await;
    standby.start_again().await;
    standby.promote().await;
    standby.execute(&from.name, SLOT).await;
    standby.execute(&from.name, "INSERT INTO t SELECT i, 'other' FROM generate_series(5, 2000) i").await;
    daemon.reconfigure(&from.url, &standby.url(&from.name));
    daemon.start();
    let client = target.connect(&to.name).await;
    let stored = text(&client, "SELECT end_lsn FROM walferry.progress").await.unwrap();
    wait_halted(&mut daemon, "t", &["timeline 2", "left timeline 1 at 0/", &stored, AGAIN], seconds(20)).await;
    assert_eq!(rows(&client).await, "4");
    daemon.kill9();

    // And the other way round: a target that has followed the new primary must not follow the old one.
    source.start_again().await;
    run(&client, "UPDATE walferry.progress SET timeline = 2").await;
    daemon.reconfigure(&standby.url(&from.name), &from.url);
    daemon.start();
    wait_halted(&mut daemon, "t", &["timeline 1", "followed timeline 2", AGAIN], seconds(20)).await;
    assert_eq!(rows(&client).await, "4");
}

#[tokio::test]
async fn a_standby_promoted_after_it_had_what_the_target_has_is_followed() {
    // Before 16 a standby cannot hold a logical slot, so that one made after the promotion always comes too late.
    let Some(major) = [16, 17, 18].into_iter().find(|major| bin(*major).is_some()) else {
        return eprintln!("SKIPPED: it takes a PostgreSQL of 16 or later");
    };
    let (mut source, from, target, to, mut daemon) = stage(major).await;
    let standby = source.standby().await;
    let primary = source.connect(&from.name).await;
    let there = standby.connect(&from.name).await;
    let slot = tokio::spawn(async move {
        there.batch_execute(SLOT).await.expect("cannot make the slot");
        there
    });
    let made = async || {
        run(&primary, "SELECT pg_log_standby_snapshot()").await;
        slot.is_finished().then_some(())
    };
    wait_for("the slot on the standby", seconds(30), made).await;
    let there = slot.await.unwrap();
    run(&primary, "INSERT INTO t VALUES (4, 'b'), (5, 'b')").await;
    follows(&source, &from, &target, &to).await;
    let everything = text(&primary, "SELECT pg_current_wal_lsn()").await.unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{everything}'");
    let caught_up = async || (text(&there, &replayed).await.unwrap() == "true").then_some(());
    wait_for("the standby to have all", seconds(20), caught_up).await;
    daemon.kill9();
    source.kill9().await;
    standby.promote().await;
    run(&there, "INSERT INTO t VALUES (6, 'on the new primary'); UPDATE t SET a = 'c' WHERE id = 4").await;
    daemon.reconfigure(&from.url, &standby.url(&from.name));
    daemon.start();
    follows(&standby, &from, &target, &to).await;
    let client = target.connect(&to.name).await;
    assert_eq!(text(&client, "SELECT timeline FROM walferry.progress").await.unwrap(), "2");
    let conflicts = daemon.metric("walferry_target_conflicts_total", &[("target", "t")]).await;
    assert_eq!(conflicts.unwrap_or(0.0), 0.0, "something was applied twice, or not at all");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_source_restored_from_a_backup_under_the_running_daemon_is_refused() {
    let (mut source, from, target, to, mut daemon) = stage(default_major()).await;
    let backup = source.snapshot().await;
    source.execute(&from.name, "INSERT INTO t SELECT i, repeat('b', 1000) FROM generate_series(4, 2000) i").await;
    follows(&source, &from, &target, &to).await;
    let client = target.connect(&to.name).await;
    let stored = text(&client, "SELECT end_lsn FROM walferry.progress").await.unwrap();
    source.restore(&backup).await;
    source.execute(&from.name, "INSERT INTO t VALUES (4, 'written again')").await;
    wait_halted(&mut daemon, "t", &["WAL ends at 0/", &stored, "restored from a backup", AGAIN], seconds(30)).await;
    assert_eq!(rows(&client).await, "2000");
    // And at a start.
    daemon.kill9();
    daemon.start();
    wait_halted(&mut daemon, "t", &["WAL ends at 0/", &stored, AGAIN], seconds(30)).await;
    assert_eq!(rows(&client).await, "2000");
}
