//! SIGHUP: what a changed configuration does to a daemon that goes on running.

use crate::support::pair::{Pair, run, status, text, wait_halted};
use crate::support::prelude::*;
use crate::support::stage::connect;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE u (id int PRIMARY KEY)";

/// Has the daemon read its file again, and waits until the stream has begun anew.
async fn reload(daemon: &mut Daemon) {
    let before = daemon.log_count("streaming start=");
    daemon.signal("HUP");
    let anew = async || (daemon.log_count("streaming start=") > before).then_some(());
    wait_for("the stream to begin anew", seconds(20), anew).await;
}

/// Waits until a table that was added is one of the others: until then a reload has it copied again.
async fn joined(pair: &Pair, table: &str) {
    let done = format!("SELECT 1 FROM walferry.table_state WHERE table_name = '{table}' AND state = 'done'");
    let joined = async || text(&pair.target, &done).await.map(drop);
    wait_for("the table to join", seconds(30), joined).await;
}

fn target(name: &str, url: &str) -> String {
    format!("[[target]]\nname = \"{name}\"\nurl = \"{url}\"\n\n")
}

#[tokio::test]
async fn targets_come_and_go_while_it_runs() {
    let pair = Pair::start(TABLES).await;
    let (db, added) = pair.another(TABLES).await;
    run(&pair.source, "INSERT INTO t SELECT n, 'old' FROM generate_series(1, 500) n").await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(60)).await;
    let pid = daemon.pid();

    let writer = connect(&pair.from.url).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let load = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut id = 1_000;
            while !stop.is_cancelled() {
                run(
                    &writer,
                    &format!("INSERT INTO t VALUES ({id}, 'new'); UPDATE t SET note = 'x' WHERE id = {id} - 7"),
                )
                .await;
                id += 1;
            }
            id
        }
    });
    daemon.reconfigure("[[target]]\n", &format!("{}[[target]]\n", target("late", &db.url)));
    reload(&mut daemon).await;
    daemon.wait_ready(seconds(60)).await;
    let named = daemon.log();
    assert!(named.contains("target.late.url") && named.contains("the stream begins anew"), "{named}");
    stop.cancel();
    let last = load.await.unwrap();
    wait_equal(&pair.source, &[&pair.target, &added], &["t", "u"], seconds(30)).await;
    assert!(last > 1_001, "there was no load");
    assert_eq!(daemon.log_count("conflict:"), 0);

    // Gone again: it is not shown, not fed, and holds nothing back.
    daemon.reconfigure(&target("late", &db.url), "");
    reload(&mut daemon).await;
    daemon.wait_ready(seconds(60)).await;
    let shown = daemon.get("/metrics").await.unwrap().1 + &daemon.get("/api/v1/status").await.unwrap().1;
    assert!(!shown.contains("late\""), "a target that is gone is shown");
    assert!(shown.contains("target=\"t\""));
    run(&pair.source, "INSERT INTO t VALUES (0, 'after')").await;
    pair.equal(&["t", "u"], seconds(30)).await;
    assert_eq!(text(&added, "SELECT count(*) FROM t WHERE id = 0").await.as_deref(), Some("0"));
    assert!(daemon.is_running() && daemon.pid() == pid);
}

#[tokio::test]
async fn tables_and_settings_change_while_it_runs() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1)").await;
    let daemon = pair.daemon("").tables(&["public.t"]);
    let mut daemon = daemon.extra("[copy]\nexisting_rows = \"truncate\"").start();
    daemon.wait_ready(seconds(60)).await;
    let pid = daemon.pid();
    assert_eq!(text(&pair.target, "SELECT count(*) FROM u").await.as_deref(), Some("0"));

    daemon.reconfigure("tables = [\"public.t\"]", "tables = [\"public.*\"]");
    reload(&mut daemon).await;
    run(&pair.source, "INSERT INTO u VALUES (2)").await;
    pair.equal(&["t", "u"], seconds(30)).await;
    joined(&pair, "u").await;

    // What was not followed meanwhile is copied again.
    daemon.reconfigure("tables = [\"public.*\"]", "tables = [\"public.t\"]");
    reload(&mut daemon).await;
    run(&pair.source, "INSERT INTO u VALUES (20); DELETE FROM u WHERE id = 1; INSERT INTO t VALUES (2, 'b')").await;
    pair.equal(&["t"], seconds(30)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM u WHERE id = 20").await.as_deref(), Some("0"));
    daemon.reconfigure("tables = [\"public.t\"]", "tables = [\"public.*\"]");
    reload(&mut daemon).await;
    pair.equal(&["t", "u"], seconds(30)).await;
    joined(&pair, "u").await;

    // A conflict that was mended halts from now on.
    run(&pair.target, "DELETE FROM t WHERE id = 1").await;
    daemon.reconfigure("[apply]\n", "[apply]\nconflicts = \"stop\"\n");
    reload(&mut daemon).await;
    run(&pair.source, "UPDATE t SET note = 'b' WHERE id = 1").await;
    wait_halted(&mut daemon, "t", &["update_missing"], seconds(20)).await;
    daemon.reconfigure("conflicts = \"stop\"\n", "");
    reload(&mut daemon).await;
    pair.equal(&["t", "u"], seconds(30)).await;

    // What cannot be used changes nothing, and says what helps.
    for (right, wrong, says) in [
        ("[[target]]", "[[sauce]]", "sauce"),
        ("tables = [\"public.*\"]", "tables = [\"*.*.*.*\"]", "source.tables"),
        ("url = \"postgres://", "url = \"postgres://h/db?sslmode=maybe&options=", "sslmode"),
    ] {
        let (before, refused) = (daemon.log(), daemon.log_count("reload: nothing is changed"));
        daemon.reconfigure(right, wrong);
        daemon.signal("HUP");
        let said = async || (daemon.log_count("reload: nothing is changed") > refused).then_some(());
        wait_for("the refusal", seconds(20), said).await;
        let told = daemon.log()[before.len()..].to_owned();
        assert!(told.contains(says), "{told}");
        daemon.reconfigure(wrong, right);
    }
    run(&pair.source, "INSERT INTO u VALUES (3)").await;
    pair.equal(&["t", "u"], seconds(30)).await;
    assert_eq!(status(&daemon, "t").await["state"], "applying");
    assert!(daemon.is_running() && daemon.pid() == pid);
}

#[tokio::test]
async fn a_reload_is_no_chance_for_the_standby() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(60)).await;
    let mut standby = pair.daemon("").start();
    standby.wait_log("waiting as standby", seconds(20)).await;
    for size in 1..=5 {
        let line = if size == 1 { String::new() } else { format!("batch_bytes = \"{}MiB\"\n", size - 1) };
        daemon.reconfigure(&format!("[apply]\n{line}"), &format!("[apply]\nbatch_bytes = \"{size}MiB\"\n"));
        reload(&mut daemon).await;
        run(&pair.source, &format!("INSERT INTO u VALUES ({size})")).await;
        pair.equal(&["u"], seconds(30)).await;
    }
    assert_eq!(standby.log_count("taking over"), 0);
    assert_eq!(daemon.log_count("standby"), 0);
    // It takes over its own configuration while it stands by, too.
    standby.reconfigure("[apply]\n", "[apply]\nconflicts = \"stop\"\n");
    standby.signal("HUP");
    standby.wait_log("apply.conflicts", seconds(20)).await;
    daemon.kill9();
    standby.wait_ready(seconds(20)).await;
    run(&pair.target, "INSERT INTO u VALUES (9)").await;
    run(&pair.source, "INSERT INTO u VALUES (9)").await;
    wait_halted(&mut standby, "t", &["insert_exists"], seconds(20)).await;
}

#[tokio::test]
async fn a_halted_daemons_way_out_may_be_its_configuration() {
    let pair = Pair::start(TABLES).await;
    let (db, _) = pair.another(TABLES).await;
    let mut daemon = pair.daemon("").target("away", "postgresql://nobody@127.0.0.1:1/none").start();
    daemon.wait_metric("walferry_target_retries_total", &[("target", "away")], |n| n > 1.0, seconds(30)).await;
    daemon.reconfigure("postgresql://nobody@127.0.0.1:1/none", &db.url);
    reload(&mut daemon).await;
    daemon.wait_ready(seconds(60)).await;
}

#[tokio::test]
async fn a_reload_while_the_ways_to_the_source_are_half_open_is_gone_through() {
    let stage = Stage::new(1).await;
    let source = Proxy::to(&stage.source).await;
    let urls = [stage.places[0].db.url.clone()];
    let url = format!("{}?connect_timeout=2", source.url(&stage.from.name));
    let mut daemon = stage.daemon_via(&url, &urls).apply("drain_timeout", "\"2s\"").start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    // What is open stays as it is, the connection that holds the stream's lock too; new ones pass.
    source.set(Mode::HalfOpen);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'walferry/%'";
    let gone = async || (text(&stage.on_source, sessions).await.as_deref() == Some("0")).then_some(());
    wait_for("the source to drop the sessions", seconds(20), gone).await;
    source.set(Mode::Pass);
    daemon.reconfigure("drain_timeout = \"2s\"", "drain_timeout = \"3s\"");
    reload(&mut daemon).await;
    stage.assert_follows(0, 2).await;
    stage.assert_in_step(&daemon).await;
}
