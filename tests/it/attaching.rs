//! Targets that come while the stream runs, and ends of the stream that are not what they are taken for.

use std::time::Duration;

use crate::support::pair::{Pair, run, text, wait_halted, wait_refused};
use crate::support::prelude::*;
use crate::support::stage::execute;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";

#[tokio::test]
async fn a_target_that_comes_back_in_the_middle_of_a_large_transaction_gets_all_of_it() {
    let stage = Stage::empty(Cluster::builder(default_major()), 2).await;
    execute(&stage.on_source, TABLES).await;
    for place in &stage.places {
        execute(&place.client, TABLES).await;
    }
    execute(&stage.places[1].client, "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain").await;
    let proxies = [Proxy::to(&stage.places[0].cluster).await, Proxy::to(&stage.places[1].cluster).await];
    let urls = [0, 1].map(|place: usize| {
        let (url, port) = (&stage.places[place].db.url, stage.places[place].cluster.port);
        url.replace(&port.to_string(), &proxies[place].port.to_string())
    });
    let mut daemon = stage.daemon_via(&stage.from.url, &urls).apply("queue_bytes", "\"256KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    assert!(daemon.terminate(seconds(30)).await.success());
    // A backlog: a small transaction, and at once a large one that is sent in hundreds of parts.
    execute(&stage.on_source, "INSERT INTO t VALUES (0, 'small')").await;
    execute(&stage.on_source, "INSERT INTO t SELECT n, repeat('x', 400) FROM generate_series(1, 60000) n").await;
    daemon.start();
    for (place, proxy) in [&proxies[0], &proxies[1], &proxies[0]].into_iter().enumerate() {
        let before = proxy.bytes_to_server();
        let under_way = async || (proxy.bytes_to_server() > before + 1_000_000).then_some(());
        wait_for(&format!("a part of the transaction to be on its way ({place})"), seconds(60), under_way).await;
        proxy.cut();
    }
    let clients: Vec<&tokio_postgres::Client> = stage.places.iter().map(|place| &place.client).collect();
    wait_equal(&stage.on_source, &clients, &["t"], seconds(120)).await;
    assert_eq!(daemon.log_count("conflict:"), 0);
}

#[tokio::test]
async fn a_target_that_is_the_source_by_another_name_is_refused_and_nothing_is_emptied() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'precious')").await;
    let same = format!("{}?application_name=x", pair.from.url.replace("127.0.0.1", "localhost"));
    let mut daemon =
        Daemon::builder(&pair.from.url).target("t", &same).extra("[copy]\nexisting_rows = \"truncate\"").start();
    wait_refused(&mut daemon, &["target \"t\" is the same database as the source"], seconds(30)).await;
    assert_eq!(text(&pair.source, "SELECT count(*) FROM t").await.as_deref(), Some("1"));
    assert_eq!(text(&pair.source, "SELECT to_regnamespace('walferry')").await, None, "the source was written to");
}

#[tokio::test]
async fn two_targets_in_one_database_are_told_apart_from_two_databases() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'a')").await;
    let same = format!("{}?application_name=x", pair.to.url.replace("127.0.0.1", "localhost"));
    let mut daemon = pair.daemon("").target("again", &same).start();
    let (mut halted, mut told) = (None, String::new());
    let found = async || {
        for name in ["t", "again"] {
            let status = crate::support::pair::status(&daemon, name).await;
            told = status["last_error"]["message"].as_str().unwrap_or_default().to_owned();
            if told.contains("is the same database as target") {
                halted = Some(name);
                return Some(());
            }
        }
        None
    };
    wait_for("one of them to be refused", seconds(30), found).await;
    wait_halted(&mut daemon, halted.unwrap(), &["is the same database as target"], seconds(30)).await;
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn a_source_that_refuses_the_role_for_a_while_is_waited_for() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "CREATE ROLE ferry SUPERUSER LOGIN").await;
    let mut daemon = Daemon::builder(&pair.cluster.url_as("ferry", &pair.from.name))
        .target("t", &pair.to.url)
        .extra("[apply]\nhalted_retry_interval = \"300ms\"\nretry_max_interval = \"500ms\"")
        .start();
    daemon.wait_ready(seconds(30)).await;
    let pid = daemon.pid();
    run(&pair.source, "ALTER ROLE ferry NOLOGIN").await;
    run(&pair.source, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ferry'").await;
    let state = [("state", "halted")];
    daemon.wait_metric("walferry_source_state", &state, |value| value == 1.0, seconds(30)).await;
    let told = async || daemon.get("/readyz").await.filter(|(code, body)| *code == 503 && body.contains("ferry"));
    wait_for("/readyz to say who is refused", seconds(10), told).await;
    run(&pair.source, "ALTER ROLE ferry LOGIN; INSERT INTO t VALUES (1, 'afterwards')").await;
    pair.equal(&["t"], seconds(30)).await;
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(daemon.pid(), pid);
    assert!(daemon.is_running());
}

#[tokio::test]
async fn an_end_while_the_source_hangs_does_not_wait_for_it() {
    let pair = Pair::start(TABLES).await;
    let proxy = Proxy::to(&pair.cluster).await;
    let mut daemon = Daemon::builder(&proxy.url(&pair.from.name)).target("t", &pair.to.url).start();
    daemon.wait_ready(seconds(30)).await;
    // The session is lost, and who answers at the next one says nothing any more.
    let before = proxy.connections();
    proxy.set(Mode::Stall);
    proxy.cut();
    let tried = async || (proxy.connections() > before).then_some(());
    wait_for("an attempt to connect", seconds(30), tried).await;
    assert!(daemon.terminate(seconds(15)).await.success());
    tokio::time::timeout(Duration::from_secs(30), pair.equal(&["t"], seconds(20))).await.expect("equal");
}
