//! Servers that die, networks that break, sessions that lock: the daemon goes through all of it without a restart, and
//! what goes wrong at one target is no matter to the other.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::prelude::*;
use crate::support::stage::{execute, is_there, wait_row};
use crate::support::workload;

/// Between two transactions of a writer.
const PAUSE: Duration = Duration::from_millis(10);

/// A source that soon gives up on a silent client.
fn short_tempered() -> crate::support::cluster_builder::Builder {
    Cluster::builder(default_major()).setting("wal_sender_timeout", "'2s'")
}

/// No replication connection is open on the source.
async fn wait_stream_gone(stage: &Stage) {
    let gone = async || {
        let row = stage.on_source.query_one("SELECT count(*) FROM pg_stat_replication", &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    };
    wait_for("the source to drop the stream", seconds(20), gone).await;
}

/// Proves that the daemon still follows to this target, and that it is still the same process.
async fn assert_went_through(stage: &Stage, daemon: &mut Daemon, pid: u32, place: usize, mark: &mut i64) {
    *mark += 1;
    stage.assert_follows(place, *mark).await;
    assert!(daemon.is_running() && daemon.pid() == pid, "it goes through it without a restart");
}

#[tokio::test]
async fn a_target_that_is_down_holds_up_nobody_and_catches_up_by_itself() {
    let mut stage = Stage::new(2).await;
    let mut daemon = stage.daemon().apply("queue_bytes", "\"256KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, load) = (daemon.pid(), Load::start(&stage, 0..2, PAUSE).await);
    load.more(50).await;
    stage.places[0].cluster.kill9().await;
    // More than fits into its queue, several times.
    for mark in 1..=5 {
        load.more(150).await;
        stage.assert_follows(1, mark).await;
    }
    let (down, up) = ([("target", "t0")], [("target", "t1")]);
    daemon.wait_metric("walferry_target_lag_seconds", &down, |lag| lag > 1.0, seconds(10)).await;
    daemon.wait_metric("walferry_target_lag_seconds", &up, |lag| lag < 1.0, seconds(10)).await;
    let confirmed = stage.confirmed("walferry").await;
    stage.places[0].cluster.start_again().await;
    stage.places[0].reconnect().await;
    wait_row(&stage.places[0].client, 5, 30).await;
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    assert!(daemon.is_running() && daemon.pid() == pid);
    let done = async || (stage.confirmed("walferry").await > confirmed).then_some(());
    wait_for("the source to be told", seconds(20), done).await;
}

#[tokio::test]
async fn a_target_that_hangs_holds_up_nobody_not_even_at_the_start() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().apply("queue_bytes", "\"256KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..2, PAUSE).await;
    stage.places[0].cluster.freeze(true);
    for mark in 1..=5 {
        load.more(150).await;
        stage.assert_follows(1, mark).await;
    }
    daemon.kill9();
    daemon.start();
    stage.assert_follows(1, 6).await;
    stage.places[0].cluster.freeze(false);
    wait_row(&stage.places[0].client, 6, 30).await;
    load.stop().await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn connections_that_are_cut_stalled_or_half_open_are_made_anew() {
    let stage = Stage::with(short_tempered(), 2).await;
    let (source, target) = (Proxy::to(&stage.source).await, Proxy::to(&stage.places[0].cluster).await);
    let urls = [target.url(&stage.places[0].db.name), stage.places[1].db.url.clone()];
    let mut daemon = stage.daemon_via(&source.url(&stage.from.name), &urls).start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, load, mut mark) = (daemon.pid(), Load::start(&stage, 0..2, PAUSE).await, 0);
    for _ in 0..5 {
        for proxy in [&source, &target] {
            load.more(5).await;
            proxy.cut();
        }
        assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
    }
    for proxy in [&source, &target] {
        proxy.set(Mode::Refuse);
        load.more(50).await;
        proxy.set(Mode::Pass);
        assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
    }
    eprintln!("--- source stalled");
    source.set(Mode::Stall);
    wait_stream_gone(&stage).await;
    source.set(Mode::Pass);
    assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
    eprintln!("--- target stalled");
    target.set(Mode::Stall);
    load.more(50).await;
    assert_went_through(&stage, &mut daemon, pid, 1, &mut mark).await;
    target.set(Mode::Pass);
    assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
    eprintln!("--- source half open");
    // What is open stays half open for good; new connections pass.
    source.set(Mode::HalfOpen);
    wait_stream_gone(&stage).await;
    source.set(Mode::Pass);
    assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
    load.stop().await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let stage = Stage::new(1).await;
    let (source, target) = (Proxy::to(&stage.source).await, Proxy::to(&stage.places[0].cluster).await);
    source.set(Mode::SplitBytes);
    target.set(Mode::SplitBytes);
    let urls = [target.url(&stage.places[0].db.name)];
    let mut daemon = stage.daemon_via(&source.url(&stage.from.name), &urls).start();
    daemon.wait_ready(seconds(60)).await;
    workload::Writer::new(3, 0).run(&stage.on_source, 60).await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_slow_target_costs_no_memory_and_no_status_update() {
    let stage = Stage::with(Cluster::builder(default_major()).setting("wal_sender_timeout", "'1s'"), 1).await;
    let target = Proxy::to(&stage.places[0].cluster).await;
    let urls = [target.url(&stage.places[0].db.name)];
    let mut daemon = stage.daemon_via(&stage.from.url, &urls).start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    let before = daemon.peak_memory();
    target.set(Mode::Throttle(1_000_000));
    // 60 MB, of which the source can send no more than the queue takes: its walsender stays blocked.
    let rows = "INSERT INTO w_default SELECT n, repeat('x', 2000) FROM generate_series(100000, 129999) n";
    execute(&stage.on_source, rows).await;
    stage.mark(2).await;
    let queued = |bytes: f64| bytes > 12e6;
    daemon.wait_metric("walferry_target_queue_bytes", &[("target", "t0")], queued, seconds(20)).await;
    let sent = target.bytes_to_server();
    let moved = async || (target.bytes_to_server() > sent + 5_000_000).then_some(());
    wait_for("5 MB to pass slowly", seconds(30), moved).await;
    assert_eq!(daemon.metric("walferry_source_reconnects_total", &[]).await, Some(0.0), "{}", daemon.log());
    target.set(Mode::Pass);
    wait_row(&stage.places[0].client, 2, 60).await;
    let grown = daemon.peak_memory() - before;
    assert!(grown < 96 << 20, "memory grew by {} MiB", grown >> 20);
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn locks_and_deadlocks_at_the_target_are_retried_and_skip_nothing() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().apply("lock_timeout", "\"3s\"").start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..1, PAUSE).await;
    for place in 0..2 {
        let other = stage.places[place].cluster.connect(&stage.places[place].db.name).await;
        execute(&other, "BEGIN; LOCK TABLE applied IN ACCESS EXCLUSIVE MODE").await;
        let seen = daemon.log_count("55P03");
        let refused = async || (daemon.log_count("55P03") > seen).then_some(());
        wait_for("a lock timeout", seconds(20), refused).await;
        execute(&other, "COMMIT").await;
        stage.assert_follows(place, 1 + place as i64).await;
    }
    load.stop().await;

    execute(&stage.on_source, "INSERT INTO w_parent VALUES (900001, 'a'), (900002, 'b')").await;
    stage.assert_follows(1, 3).await;
    stage.assert_follows(0, 4).await;
    let target = &stage.places[0];
    let other = target.cluster.connect(&target.db.name).await;
    // The daemon, which waits first, is to be the victim.
    execute(&other, "SET deadlock_timeout = '20s'; BEGIN; UPDATE w_parent SET note = note WHERE id = 900002").await;
    let both =
        "BEGIN; UPDATE w_parent SET note = '1' WHERE id = 900001; UPDATE w_parent SET note = '2' WHERE id = 900002;
                COMMIT";
    execute(&stage.on_source, both).await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'walferry/%'";
    let waiting = async || target.client.query_opt(waits, &[]).await.unwrap().map(drop);
    wait_for("the daemon to wait for the row", seconds(10), waiting).await;
    execute(&other, "UPDATE w_parent SET note = note WHERE id = 900001").await;
    daemon.wait_log("40P01", seconds(10)).await;
    execute(&other, "COMMIT").await;
    stage.assert_follows(0, 5).await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_target_without_a_free_connection_is_waited_for() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, mut mark) = (daemon.pid(), 0);
    assert_went_through(&stage, &mut daemon, pid, 1, &mut mark).await;
    let admin = &stage.places[1].client;
    execute(admin, "ALTER ROLE plain CONNECTION LIMIT 0").await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'plain'";
    execute(admin, end).await;
    stage.mark(100).await;
    daemon.wait_log("53300", seconds(20)).await;
    assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
    execute(admin, "ALTER ROLE plain CONNECTION LIMIT -1").await;
    assert_went_through(&stage, &mut daemon, pid, 1, &mut mark).await;
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_source_that_is_stopped_in_order_and_started_again_is_followed_on() {
    let mut stage = Stage::new(2).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, load) = (daemon.pid(), Load::start(&stage, 0..2, PAUSE).await);
    for mark in 1..=2 {
        load.more(50).await;
        let started = std::time::Instant::now();
        stage.source.restart().await;
        eprintln!("the source's restart took {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(9), "the daemon holds up the source's shutdown");
        stage.on_source = stage.source.connect(&stage.from.name).await;
        stage.mark(mark).await;
        for place in &stage.places {
            wait_row(&place.client, mark, 30).await;
        }
    }
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    assert!(daemon.is_running() && daemon.pid() == pid);
}

/// Answers everybody with these bytes, then holds the connection open or closes it.
async fn impostor(bytes: &'static [u8], hold: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("cannot listen");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            // Whoever does not want to hear it may go.
            let _ = socket.write_all(bytes).await;
            if hold {
                held.push(socket);
            }
        }
    });
    port
}

/// How often it has said that something is wrong.
fn complaints(daemon: &Daemon) -> usize {
    daemon.log_count("WARN") + daemon.log_count("ERROR")
}

#[tokio::test]
async fn something_else_in_place_of_a_server_is_named_and_outlived() {
    const WORDS: [(&[u8], bool); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", false),
        (b"", false),
        (b"N\xff\xff\xff\xff\xff\xff\xff\xff", true),
        // Authentication succeeded; then a row that nobody asked for, and one of 2 GiB.
        (b"NR\0\0\0\x08\0\0\0\0D\0\0\0\x04Z\0\0\0\x05I", true),
        (b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05ID\x7f\xff\xff\xff", true),
        (b"NE\0\0\0\x2eSFATAL\0C57P03\0Mthe database system is on fire\0\0", false),
    ];
    let stage = Stage::new(1).await;
    let (source, target) = (Proxy::to(&stage.source).await, Proxy::to(&stage.places[0].cluster).await);
    let url = |url: String| format!("{url}?connect_timeout=2");
    let urls = [url(target.url(&stage.places[0].db.name))];
    let mut daemon = stage.daemon_via(&url(source.url(&stage.from.name)), &urls).start();
    daemon.wait_ready(seconds(60)).await;
    let mut mark = 0;
    for (proxy, real) in [(&source, stage.source.port), (&target, stage.places[0].cluster.port)] {
        for (number, (bytes, hold)) in WORDS.into_iter().enumerate() {
            let side = if proxy.port == source.port { "source" } else { "target" };
            eprintln!("--- {side}: word {number}");
            let (connections, complaints) = (proxy.connections(), complaints(&daemon));
            proxy.set_upstream(impostor(bytes, hold).await);
            proxy.cut();
            execute(&stage.on_source, "UPDATE counter SET n = n").await;
            let tried = async || {
                let tries = proxy.connections() > connections || !daemon.is_running();
                (tries && self::complaints(&daemon) > complaints).then_some(())
            };
            wait_for("an attempt, and a word about it", seconds(30), tried).await;
            proxy.set_upstream(real);
            proxy.cut();
            mark += 1;
            stage.mark(mark).await;
            let arrived = async || {
                // What claims to be the source and is none may end it, in order: it is for somebody to look at.
                if !daemon.is_running() {
                    assert_eq!(daemon.wait_exit(seconds(10)).await.code(), Some(3), "{side}: word {number}");
                    assert_eq!(side, "source", "a target's word ended the daemon");
                    daemon.start();
                }
                is_there(&stage.places[0].client, mark).await.then_some(())
            };
            wait_for("the mark", seconds(60), arrived).await;
        }
    }
    stage.assert_in_step(&daemon).await;
}
