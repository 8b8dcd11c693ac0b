//! `walferry target pause|resume`: a target is left alone for as long as its operator wants, and then goes on.

use std::time::Duration;

use crate::support::pair::{Pair, run, status, text};
use crate::support::prelude::*;
use crate::support::stage::{Load, execute, wait_row};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

/// Starts a daemon that takes commands.
async fn guarded(builder: crate::support::daemon_builder::Builder) -> Daemon {
    let mut daemon = builder.prepare();
    daemon.guard();
    daemon.start();
    daemon
}

/// Gives the command, which must go well, and what it says.
async fn told(daemon: &Daemon, what: &str, target: &str) -> String {
    let (code, said) = daemon.answered(&["target", what, target]).await;
    assert_eq!(code, Some(0), "{what} {target}: {said}");
    said
}

/// How many sessions walferry has in this database.
async fn sessions(pair: &Pair, database: &str) -> String {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'walferry%'"
    );
    text(&pair.source, &query).await.unwrap()
}

#[tokio::test]
async fn a_paused_target_is_left_alone_while_the_others_go_on() {
    let pair = Pair::start(TABLES).await;
    let (db, other) = pair.another(TABLES).await;
    run(&pair.source, "INSERT INTO t SELECT n, 'old' FROM generate_series(1, 100) n").await;
    let mut daemon = guarded(pair.daemon("").target("other", &db.url)).await;
    daemon.wait_ready(seconds(60)).await;

    let said = told(&daemon, "pause", "t").await;
    assert!(said.contains("Target t is paused since 20") && said.contains("keeps its WAL"), "{said}");
    assert_eq!(sessions(&pair, &pair.to.name).await, "0", "it is not left alone");
    run(&pair.source, "INSERT INTO t VALUES (1000, 'new'); UPDATE t SET note = 'x' WHERE id < 50").await;
    wait_equal(&pair.source, &[&other], &["t"], seconds(30)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t WHERE note = 'old'").await.as_deref(), Some("100"));

    // Everybody who looks is told, and nobody takes it for a failure of the daemon.
    assert_eq!(daemon.get("/readyz").await.unwrap().0, 200);
    let labels = [("target", "t"), ("state", "paused")];
    daemon.wait_metric("walferry_target_state", &labels, |value| value == 1.0, seconds(5)).await;
    daemon.wait_metric("walferry_target_lag_seconds", &[("target", "t")], |lag| lag > 0.5, seconds(20)).await;
    let output = daemon.run(&["status"]).await;
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && shown.contains("! target t is paused since 20"), "{shown}");
    assert_eq!(told(&daemon, "pause", "t").await, said, "to pause it again changes nothing");

    let said = told(&daemon, "resume", "t").await;
    assert!(said.contains("Target t goes on"), "{said}");
    pair.equal(&["t"], seconds(30)).await;
    daemon.wait_ready(seconds(20)).await;
    assert_eq!(daemon.run(&["status"]).await.status.code(), Some(0));
    assert_eq!(daemon.log_count("conflict:"), 0);
}

#[tokio::test]
async fn a_pause_outlasts_the_daemon_and_the_only_target_may_be_paused() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = guarded(pair.daemon("")).await;
    daemon.wait_ready(seconds(60)).await;
    told(&daemon, "pause", "t").await;
    daemon.wait_metric("walferry_source_state", &[("state", "paused")], |value| value == 1.0, seconds(10)).await;
    daemon.kill9();
    let output = daemon.run(&["status"]).await;
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("! target t: is paused since 20"), "{shown}");

    run(&pair.source, "INSERT INTO t VALUES (1, 'meanwhile')").await;
    daemon.start();
    // It is as it should be, whoever waits for it to start: a service manager, or a pod's probe.
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(status(&daemon, "t").await["state"], "paused");
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t").await.as_deref(), Some("0"));
    // A reload leaves it so, too.
    daemon.reconfigure("[apply]\n", "[apply]\nbatch_bytes = \"3MiB\"\n");
    assert_eq!(daemon.answered(&["reload"]).await.0, Some(0));
    daemon.wait_log("the stream begins anew", seconds(20)).await;
    let paused = async || (status(&daemon, "t").await["state"] == "paused").then_some(());
    wait_for("it to be paused", seconds(20), paused).await;

    told(&daemon, "resume", "t").await;
    pair.equal(&["t"], seconds(30)).await;
    daemon.wait_metric("walferry_source_state", &[("state", "streaming")], |value| value == 1.0, seconds(10)).await;
    daemon.kill9();
    daemon.start();
    run(&pair.source, "INSERT INTO t VALUES (2, 'after')").await;
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn a_target_that_does_not_get_on_is_paused_all_the_same() {
    let pair = Pair::start(TABLES).await;
    let (db, other) = pair.another(TABLES).await;
    let builder = pair.daemon("drain_timeout = \"1s\"\nlock_timeout = \"60s\"").target("other", &db.url);
    let mut daemon = guarded(builder).await;
    daemon.wait_ready(seconds(60)).await;

    // It hangs: what it was given is cut off, and comes again.
    let holder = pair.cluster.connect(&pair.to.name).await;
    run(&holder, "BEGIN; LOCK TABLE t").await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'held up')").await;
    let query = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    let waits = async || (text(&pair.target, query).await.as_deref() == Some("1")).then_some(());
    wait_for("the worker to wait for the lock", seconds(20), waits).await;
    told(&daemon, "pause", "t").await;
    assert_eq!(daemon.log_count("was not applied in time"), 1);
    run(&pair.source, "INSERT INTO t VALUES (2, 'later')").await;
    wait_equal(&pair.source, &[&other], &["t"], seconds(30)).await;
    run(&holder, "COMMIT").await;
    told(&daemon, "resume", "t").await;
    pair.equal(&["t"], seconds(30)).await;

    // It is halted: it is left alone at once; and once mended it is tried at once.
    daemon.reconfigure("halted_retry_interval = \"200ms\"", "halted_retry_interval = \"1h\"");
    assert_eq!(daemon.answered(&["reload"]).await.0, Some(0));
    daemon.wait_log("the stream begins anew", seconds(20)).await;
    run(&pair.target, "ALTER TABLE t DROP COLUMN note").await;
    run(&pair.source, "INSERT INTO t VALUES (3, 'refused')").await;
    let halted = async || (status(&daemon, "t").await["state"] == "halted").then_some(());
    wait_for("it to be halted", seconds(30), halted).await;
    told(&daemon, "pause", "t").await;
    run(&pair.target, "ALTER TABLE t ADD COLUMN note text").await;
    run(&pair.target, "UPDATE t SET note = CASE id WHEN 1 THEN 'held up' ELSE 'later' END").await;
    told(&daemon, "resume", "t").await;
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn who_changes_his_mind_at_once_has_his_target_go_on() {
    let mut stage = Stage::new(2).await;
    let mut daemon = guarded(stage.daemon()).await;
    daemon.wait_ready(seconds(60)).await;
    for mark in 1..6 {
        // In all states: applying, and failing in the hands of its worker, which then gives up.
        if mark > 2 {
            stage.places[0].cluster.kill9().await;
            let labels = [("target", "t0"), ("state", "retrying")];
            daemon.wait_metric("walferry_target_state", &labels, |value| value == 1.0, seconds(20)).await;
        }
        assert_eq!(daemon.post("/api/v1/targets/t0/pause").await, Some(200));
        assert_eq!(daemon.post("/api/v1/targets/t0/resume").await, Some(200));
        if mark > 2 {
            stage.places[0].come_back().await;
        }
        stage.assert_follows(0, mark).await;
    }
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_copy_is_paused_and_begun_again() {
    let stage = Stage::new(1).await;
    execute(&stage.on_source, "INSERT INTO applied SELECT -n, 1 FROM generate_series(1000, 2000) n").await;
    let place = &stage.places[0];
    let holder = place.cluster.connect(&place.db.name).await;
    run(&holder, "BEGIN; LOCK TABLE applied").await;
    let mut daemon = guarded(stage.daemon().apply("lock_timeout", "\"60s\"")).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'applied'::regclass AND NOT granted";
    let held_up = async || (text(&place.client, waits).await.as_deref() != Some("0")).then_some(());
    wait_for("the copy to wait for the lock", seconds(60), held_up).await;
    let held = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND application_name LIKE 'walf%'";
    assert_ne!(text(&stage.on_source, held).await.as_deref(), Some("0"), "there is no snapshot");

    told(&daemon, "pause", "t0").await;
    let free = async || (text(&stage.on_source, held).await.as_deref() == Some("0")).then_some(());
    wait_for("the snapshot to be given up", seconds(20), free).await;
    run(&holder, "COMMIT").await;
    stage.mark(5).await;
    told(&daemon, "resume", "t0").await;
    daemon.wait_ready(seconds(30)).await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_target_that_is_down_is_paused_and_told_of_it_later() {
    let mut stage = Stage::new(2).await;
    let mut daemon = guarded(stage.daemon()).await;
    daemon.wait_ready(seconds(60)).await;
    stage.places[0].cluster.kill9().await;
    let said = told(&daemon, "pause", "t0").await;
    assert!(said.contains("cannot be told"), "{said}");
    stage.assert_follows(1, 5).await;
    stage.places[0].come_back().await;
    let noted = async || status(&daemon, "t0").await["paused_at"].as_str().map(str::to_owned);
    wait_for("the target to be told", seconds(20), noted).await;
    daemon.kill9();
    daemon.start();
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(status(&daemon, "t0").await["state"], "paused");
    told(&daemon, "resume", "t0").await;
    wait_row(&stage.places[0].client, 5, 30).await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn who_is_paused_again_and_again_under_load_misses_nothing() {
    let stage = Stage::new(2).await;
    let mut daemon = guarded(stage.daemon()).await;
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..2, Duration::from_millis(2)).await;
    for round in 0..6 {
        load.more(40).await;
        let target = ["t0", "t1"][round % 2];
        told(&daemon, "pause", target).await;
        stage.assert_nothing_forgotten("walferry").await;
        load.more(40).await;
        if round == 3 {
            daemon.kill9();
            daemon.start();
            daemon.wait_ready(seconds(60)).await;
        }
        told(&daemon, "resume", target).await;
        stage.assert_nothing_forgotten("walferry").await;
    }
    assert!(load.stop().await > 400);
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_carried_out_says_why() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = guarded(pair.daemon("")).await;
    daemon.wait_ready(seconds(60)).await;
    let (code, said) = daemon.answered(&["target", "pause", "a/b"]).await;
    assert!(
        code == Some(3) && said.contains("there is no target \"a/b\"") && said.contains("targets are t."),
        "{said}"
    );
    let mut standby = guarded(pair.daemon("")).await;
    standby.wait_log("waiting as standby", seconds(30)).await;
    let (code, said) = standby.answered(&["target", "pause", "t"]).await;
    assert!(code == Some(3) && said.contains("stands by") && said.contains("hint: "), "{code:?} {said}");
    assert_eq!(status(&daemon, "t").await["state"], "applying");
    standby.kill9();
    daemon.kill9();
    let (code, said) = daemon.answered(&["target", "pause", "t"]).await;
    assert!(code == Some(1) && said.contains("no daemon answers"), "{code:?} {said}");
}
