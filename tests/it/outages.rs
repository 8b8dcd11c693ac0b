//! Servers that die, networks that break, sessions that lock: the daemon goes through all of it without a restart, and
//! what goes wrong at one target is no matter to the other.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::pair::{status, wait_refused};
use crate::support::prelude::*;
use crate::support::stage::{Place, execute, is_there, wait_durable, wait_row};
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

/// The daemon has no session on this target.
async fn wait_sessions_gone(place: &Place) {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'walferry/%'";
    let gone = async || {
        let row = place.client.query_one(sessions, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    };
    wait_for("the target to drop the sessions", seconds(20), gone).await;
}

/// Proves that the daemon still follows to this target, and that it is still the same process.
async fn assert_went_through(stage: &Stage, daemon: &mut Daemon, pid: u32, place: usize, mark: &mut i64) {
    *mark += 1;
    stage.assert_follows(place, *mark).await;
    assert!(daemon.is_running() && daemon.pid() == pid, "it goes through it without a restart");
}

#[tokio::test]
async fn a_target_that_goes_down_while_nothing_happens_is_seen_at_once_and_comes_back() {
    let mut stage = Stage::new(2).await;
    let mut daemon = stage.daemon().source("heartbeat_interval", "\"0s\"").start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    stage.places[0].cluster.kill9().await;
    let down = [("target", "t0"), ("state", "retrying")];
    daemon.wait_metric("walferry_target_state", &down, |value| value == 1.0, seconds(5)).await;
    let (code, reasons) = daemon.get("/readyz").await.unwrap();
    assert!(code == 503 && reasons.starts_with("target t0 is retrying: ") && reasons.lines().count() == 1, "{reasons}");
    stage.places[0].cluster.start_again().await;
    stage.places[0].reconnect().await;
    daemon.wait_ready(seconds(20)).await;
    stage.assert_follows(0, 2).await;
    stage.assert_in_step(&daemon).await;
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
async fn a_target_that_hangs_within_a_large_transaction_holds_up_nobody() {
    let stage = Stage::new(2).await;
    let mut daemon = stage.daemon().apply("queue_bytes", "\"256KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    stage.places[0].cluster.freeze(true);
    let large = "INSERT INTO w_default SELECT n, repeat('x', 2000) FROM generate_series(1, 2000) n";
    execute(&stage.on_source, large).await;
    stage.assert_follows(1, 2).await;
    daemon.wait_log("the target has not answered for 20 s", seconds(5)).await;
    assert_eq!(status(&daemon, "t0").await["state"], "retrying");
    stage.places[0].cluster.freeze(false);
    stage.assert_follows(0, 3).await;
    stage.assert_in_step(&daemon).await;
    assert_eq!(status(&daemon, "t0").await["state"], "applying");
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
async fn a_target_whose_connection_is_half_open_is_connected_to_anew() {
    let stage = Stage::new(2).await;
    let target = Proxy::to(&stage.places[0].cluster).await;
    let impatient = format!("{}?tcp_user_timeout=3000&connect_timeout=2", target.url(&stage.places[0].db.name));
    // Nothing is written by itself: what is lost on the way is the transaction below.
    let daemon = stage.daemon_via(&stage.from.url, &[impatient, stage.places[1].db.url.clone()]);
    let mut daemon = daemon.source("heartbeat_interval", "\"0s\"").start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, mut mark) = (daemon.pid(), 0);
    for (round, mode) in [(1, Mode::HalfOpen), (2, Mode::Gone)] {
        // The table is known to the new session: the daemon has nothing to ask before it sends the rows.
        execute(&stage.on_source, &format!("INSERT INTO w_default VALUES ({round})")).await;
        for place in [1, 0] {
            assert_went_through(&stage, &mut daemon, pid, place, &mut mark).await;
        }
        wait_durable(&stage.places[0], &daemon, "t0").await;
        target.set(mode);
        wait_sessions_gone(&stage.places[0]).await;
        // Data that is not delivered is what tells (`tcp_user_timeout`).
        let (connections, first) = (target.connections(), round * 100_000);
        let rows = format!(
            "INSERT INTO w_default SELECT n, repeat('x', 2000) FROM generate_series({first}, {}) n",
            first + 1_999
        );
        execute(&stage.on_source, &rows).await;
        assert_went_through(&stage, &mut daemon, pid, 1, &mut mark).await;
        if mode == Mode::Gone {
            // Whoever refuses in its place is not mistaken for it.
            daemon.wait_log("the server was not heard of for tcp_user_timeout", seconds(20)).await;
        }
        target.set(Mode::Pass);
        assert_went_through(&stage, &mut daemon, pid, 0, &mut mark).await;
        assert!(target.connections() > connections, "what was half open was used again");
    }
    stage.assert_in_step(&daemon).await;
}

#[tokio::test]
async fn a_target_that_has_its_hands_full_is_not_given_up_for_tcp_user_timeout() {
    let stage = Stage::new(1).await;
    // It has no room for more than some ten kilobytes that it has not come to yet: 30 ms a row, longer than that lasts.
    let slow = "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.03);
            RETURN NEW; END';
        CREATE TRIGGER slowly BEFORE INSERT ON w_default FOR EACH ROW EXECUTE FUNCTION slowly();
        ALTER TABLE w_default ENABLE ALWAYS TRIGGER slowly";
    execute(&stage.places[0].client, slow).await;
    let impatient = format!("{}?tcp_user_timeout=1000&connect_timeout=2", stage.places[0].db.url);
    let mut daemon = stage.daemon_via(&stage.from.url, &[impatient]).start();
    daemon.wait_ready(seconds(60)).await;
    let rows = "INSERT INTO w_default SELECT n, repeat(md5(n::text), 25) FROM generate_series(100000, 100399) n";
    execute(&stage.on_source, rows).await;
    stage.assert_in_step(&daemon).await;
    assert_eq!(daemon.log_count("trying again"), 0, "{}", daemon.log());
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
    let stage = Stage::with(Cluster::builder(default_major()).setting("wal_sender_timeout", "'5s'"), 1).await;
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
    // 15 s at the least, three times what the source bears without a status update.
    let sent = target.bytes_to_server();
    let moved = async || (target.bytes_to_server() > sent + 15_000_000).then_some(());
    wait_for("15 MB to pass slowly", seconds(60), moved).await;
    daemon.wait_metric("walferry_target_queue_bytes", &[("target", "t0")], queued, seconds(20)).await;
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
    // A deadlock is looked for once, when a wait has lasted this long: the other's wait must have begun by then, and
    // `apply.lock_timeout` must not be over.
    stage.places[0].cluster.set("deadlock_timeout", "'4s'");
    stage.places[0].cluster.reload();
    let mut daemon = stage.daemon().apply("lock_timeout", "\"10s\"").start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..1, PAUSE).await;
    let mut others = Vec::new();
    for place in &stage.places {
        let other = place.cluster.connect(&place.db.name).await;
        execute(&other, "BEGIN; LOCK TABLE applied IN ACCESS EXCLUSIVE MODE").await;
        others.push(other);
    }
    for (place, other) in others.iter().enumerate() {
        let target = format!("target=\"t{place}\"");
        let refused =
            async || daemon.log().lines().any(|line| line.contains("55P03") && line.contains(&target)).then_some(());
        wait_for(&format!("a lock timeout of t{place}"), seconds(60), refused).await;
        execute(other, "COMMIT").await;
        stage.assert_follows(place, 1 + place as i64).await;
    }
    load.stop().await;

    execute(&stage.on_source, "INSERT INTO w_parent VALUES (900001, 'a'), (900002, 'b')").await;
    stage.assert_follows(1, 3).await;
    stage.assert_follows(0, 4).await;
    let target = &stage.places[0];
    let other = target.cluster.connect(&target.db.name).await;
    // The daemon, which waits first, is to be the victim.
    execute(&other, "SET deadlock_timeout = '120s'; BEGIN; UPDATE w_parent SET note = note WHERE id = 900002").await;
    let both =
        "BEGIN; UPDATE w_parent SET note = '1' WHERE id = 900001; UPDATE w_parent SET note = '2' WHERE id = 900002;
                COMMIT";
    execute(&stage.on_source, both).await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'walferry/%'";
    let waiting = async || target.client.query_opt(waits, &[]).await.unwrap().map(drop);
    wait_for("the daemon to wait for the row", seconds(30), waiting).await;
    execute(&other, "UPDATE w_parent SET note = note WHERE id = 900001").await;
    daemon.wait_log("40P01", seconds(30)).await;
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
        stage.source.restart().await;
        // Else it was only let go, after a while, for want of confirmation.
        assert_eq!(daemon.log_count("not held up for targets that are behind"), 0, "{}", daemon.log());
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

#[tokio::test]
async fn a_spoilt_message_in_the_stream_is_named_and_nothing_of_its_transaction_is_applied() {
    let stage = Stage::new(1).await;
    let tap = Tap::to(&stage.source).await;
    let urls = [stage.places[0].db.url.clone()];
    let mut daemon = stage.daemon_via(&tap.through(&stage.from.url), &urls).start();
    // What is no protocol at all may be the network's doing, and is tried again; what contradicts itself ends the
    // daemon.
    for (mark, (tag, harm, named, ends)) in (1_i64..).zip([
        (b'I', Harm::Frame, "unknown message '?'", false),
        (b'I', Harm::Kind, "a replication message that is none", false),
        (b'I', Harm::Tag, "no message has the tag 0x00", true),
        (b'I', Harm::Short, "it ends before its fields do", true),
        (b'C', Harm::Short, "it ends before its fields do", true),
        (b'C', Harm::Long, "1 bytes follow its last field", true),
    ]) {
        eprintln!("--- {} {harm:?}", tag.escape_ascii());
        daemon.wait_ready(seconds(60)).await;
        stage.assert_follows(0, 10 * mark).await;
        tap.arm(Seen::Message(tag), if tag == b'I' { 2 } else { 1 }, Moment::Spoilt(harm));
        let marks = [10 * mark + 1, 10 * mark + 2, 10 * mark + 3];
        let rows = marks.map(|mark| format!("INSERT INTO applied VALUES (-{mark}, 999);")).concat();
        execute(&stage.on_source, &format!("BEGIN; {rows} COMMIT")).await;
        tap.fired(60).await;
        if ends {
            wait_refused(&mut daemon, &[named], seconds(60)).await;
            for mark in marks {
                let applied = is_there(&stage.places[0].client, mark).await;
                assert!(!applied, "row {mark} of a spoilt transaction was applied");
            }
            stage.assert_nothing_forgotten("walferry").await;
            daemon.start();
        } else {
            daemon.wait_log(named, seconds(60)).await;
        }
        // What comes again is not spoilt.
        wait_row(&stage.places[0].client, marks[2], 60).await;
    }
    stage.assert_in_step(&daemon).await;
}

/// Answers everybody's first words with these bytes, then holds the connection open or closes it.
async fn impostor(bytes: &'static [u8], hold: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("cannot listen");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 1024];
                // Whoever does not want to hear it may go.
                let _ = socket.read(&mut heard).await;
                let _ = socket.write_all(bytes).await;
                while hold && matches!(socket.read(&mut heard).await, Ok(1..)) {}
            });
        }
    });
    port
}

/// Whether this line of the log says that something is wrong with what carries the data.
fn is_complaint(line: &str) -> bool {
    let is_bad = line.contains("WARN") || line.contains("ERROR") || line.starts_with("error: ");
    is_bad && !line.contains("heartbeat")
}

#[tokio::test]
async fn something_else_in_place_of_a_server_is_named_and_outlived() {
    /// What is said, whether the connection is then held open, and what of it must be named: by the connection that
    /// carries the data or by a session beside it, whichever meets it first.
    const WORDS: [(&[u8], bool, &[&str]); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", true, &["byte 0x48, which is not PostgreSQL's"]),
        // Closed at once, or reset: which of them, the network decides.
        (b"", false, &["cannot connect to"]),
        (b"N\xff\xff\xff\xff\xff\xff\xff\xff", true, &["unknown message '\\xff'", "invalid message length"]),
        // Authentication succeeded; then a row that nobody asked for, and one of 2 GiB.
        (b"NR\0\0\0\x08\0\0\0\0D\0\0\0\x04Z\0\0\0\x05I", true, &["message 'D' in start-up", "ends too early"]),
        (b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05ID\x7f\xff\xff\xff", true, &["the server reports no version"]),
        (b"NE\0\0\0\x33SFATAL\0C57P03\0Mthe database system is on fire\0\0", true, &["the database system is on fire"]),
    ];
    let stage = Stage::new(1).await;
    let (source, target) = (Proxy::to(&stage.source).await, Proxy::to(&stage.places[0].cluster).await);
    let url = |url: String| format!("{url}?connect_timeout=2");
    let urls = [url(target.url(&stage.places[0].db.name))];
    let mut daemon = stage.daemon_via(&url(source.url(&stage.from.name)), &urls).start();
    daemon.wait_ready(seconds(60)).await;
    let mut mark = 0;
    for (proxy, real) in [(&source, stage.source.port), (&target, stage.places[0].cluster.port)] {
        for (number, (bytes, hold, reasons)) in WORDS.into_iter().enumerate() {
            let side = if proxy.port == source.port { "source" } else { "target" };
            eprintln!("--- {side}: word {number}");
            let (connections, heard) = (proxy.connections(), daemon.log().len());
            proxy.set_upstream(impostor(bytes, hold).await);
            proxy.cut();
            execute(&stage.on_source, "UPDATE counter SET n = n").await;
            let tried = async || {
                let tries = proxy.connections() > connections || !daemon.is_running();
                let log = daemon.log();
                // Said of this word, that is: a word about the last one may come late.
                let names = |line: &str| reasons.iter().any(|reason| line.contains(reason));
                let named = log[heard..].lines().any(|line| is_complaint(line) && names(line));
                (tries && named).then_some(())
            };
            wait_for(&format!("an attempt, and one of {reasons:?}"), seconds(30), tried).await;
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
