//! The stream: what arrives, status updates whatever the reader does, a slot in use, silence, and the end in good
//! order.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walferry::change::{Message, PgTime};
use walferry::lsn::Lsn;
use walferry::source::heartbeat::{self, Beat};
use walferry::source::slot;
use walferry::source::{Received, SourceError, StartOptions, WalReceiver};
use walferry::sql::Sql;

use super::*;

const SETUP: &str = "CREATE TABLE t (a int, b text); CREATE PUBLICATION p FOR TABLE t; COMMIT;
    SELECT pg_create_logical_replication_slot('s', 'pgoutput')";

async fn start(url: &str, options: &StartOptions) -> Result<WalReceiver, SourceError> {
    WalReceiver::start(replication(url).await, options, watch::channel(None).1).await
}

/// Reads until as many messages of this kind have come.
async fn read_until(stream: &mut WalReceiver, kind: u8, count: usize) -> Bytes {
    let mut seen = 0;
    let reading = async {
        loop {
            if let Received::Data { payload, start, wal_end } = stream.next().await.unwrap() {
                assert_eq!(start, wal_end);
                seen += usize::from(payload[0] == kind);
                if seen == count {
                    return payload;
                }
            }
        }
    };
    within("the messages", seconds(60), reading).await
}

#[tokio::test]
async fn every_version_streams_and_frees_the_slot_at_once_when_stopped() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let db = cluster.create_database().await;
        cluster.execute(&db.name, SETUP).await;
        let options = StartOptions { binary: true, ..StartOptions::new("s", "p") };
        // Twice, and the third finds the same: nothing was confirmed.
        for _ in 0..3 {
            cluster.execute(&db.name, "INSERT INTO t VALUES (1, 'x')").await;
            let mut stream = start(&db.url, &options).await.unwrap();
            read_until(&mut stream, b'I', 1).await;
            read_until(&mut stream, b'C', 1).await;
            assert!(stream.received().is_some());
            let other = start(&db.url, &options).await;
            let Err(SourceError::SlotActive { pid: Some(pid), .. }) = other else { panic!("{:?}", other.err()) };
            let slot = slot::inspect(&client(&db.url).await, "s").await.unwrap().unwrap();
            assert_eq!(slot.active_pid, Some(pid));
            stream.stop().await.unwrap();
        }
        let mut stream = start(&db.url, &options).await.unwrap();
        read_until(&mut stream, b'I', 3).await;
        stream.stop().await.unwrap();
        let missing = start(&db.url, &StartOptions::new("none", "p")).await;
        assert!(matches!(missing, Err(SourceError::SlotMissing { .. })));
    })
    .await;
}

#[tokio::test]
async fn status_updates_flow_while_nobody_reads() {
    let cluster = Cluster::builder(default_major()).setting("wal_sender_timeout", "4s").start().await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, SETUP).await;
    // Each transaction is more than the sockets hold: the server's send blocks in the first, before it has read the
    // WAL of the second.
    const ROWS: usize = 50_000;
    let fill = format!("INSERT INTO t SELECT i, repeat('x', 400) FROM generate_series(1, {ROWS}) i");
    for _ in 0..2 {
        cluster.execute(&db.name, &fill).await;
    }
    let mut stream = start(&db.url, &StartOptions::new("s", "p")).await.unwrap();
    let catalogue = client(&db.url).await;
    let heard = async || {
        let sql = Sql::new(
            "SELECT pid, coalesce(reply_time > backend_start + interval '12 seconds', false) AS later, \
             coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), sent_lsn) > 10000000, false) AS blocked \
             FROM pg_stat_replication",
        );
        let row = catalogue.query_one(&sql, &[]).await.expect("the server gave the stream up");
        (row.get::<_, bool>(1) && row.get::<_, bool>(2)).then_some(())
    };
    wait_for("an update three timeouts later", seconds(60), heard).await;
    for _ in 0..2 {
        read_until(&mut stream, b'I', ROWS).await;
        read_until(&mut stream, b'C', 1).await;
    }
    stream.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed() {
    let cluster = Cluster::builder(default_major()).setting("wal_sender_timeout", "2s").start().await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, SETUP).await;
    let options = StartOptions { silence_limit: Duration::from_secs(2), ..StartOptions::new("s", "p") };
    let mut stream = start(&db.url, &options).await.unwrap();
    cluster.freeze(true);
    let reading = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    let error = within("the silence to be noticed", seconds(30), reading).await;
    cluster.freeze(false);
    assert!(matches!(error, SourceError::Silent { .. }), "{error:?}");
}

#[tokio::test]
async fn an_idle_server_that_is_only_silent_is_not_given_up() {
    // No timeout on the server's side: it says nothing unless it is asked.
    let cluster = Cluster::builder(default_major()).setting("wal_sender_timeout", "0").start().await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, SETUP).await;
    let options = StartOptions { silence_limit: Duration::from_secs(5), ..StartOptions::new("s", "p") };
    let mut stream = start(&db.url, &options).await.unwrap();
    let mut answers = 0;
    let reading = async {
        while answers < 3 {
            let Received::Keepalive { .. } = stream.next().await.unwrap() else { panic!("nothing was written") };
            answers += 1;
        }
    };
    within("it to be asked and to answer", seconds(60), reading).await;
    stream.stop().await.unwrap();
}

#[tokio::test]
async fn a_source_shuts_down_although_nothing_is_confirmed() {
    let mut cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, SETUP).await;
    cluster.execute(&db.name, "INSERT INTO t VALUES (1, 'x')").await;
    let mut stream = start(&db.url, &StartOptions::new("s", "p")).await.unwrap();
    read_until(&mut stream, b'C', 1).await;
    let reading = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    let (error, ()) = tokio::join!(reading, cluster.stop());
    assert!(matches!(error, SourceError::Ended { .. } | SourceError::Postgres { .. }), "{error}");
    cluster.start_again().await;
    let mut stream = start(&db.url, &StartOptions::new("s", "p")).await.unwrap();
    read_until(&mut stream, b'I', 1).await;
    stream.stop().await.unwrap();
}

/// pgoutput's Message (documentation: "Logical Replication Message Formats").
fn message(payload: &Bytes) -> Message {
    let rest = &payload[10..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap();
    Message {
        lsn: Lsn::new(u64::from_be_bytes(payload[2..10].try_into().unwrap())),
        transactional: payload[1] == 1,
        prefix: String::from_utf8(rest[..end].to_vec()).unwrap(),
        content: payload.slice(10 + end + 5..),
    }
}

#[tokio::test]
async fn heartbeats_arrive_on_an_idle_database_and_survive_a_restart() {
    let mut cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, SETUP).await;
    let cancel = CancellationToken::new();
    let options = options(&db.url);
    let beating = tokio::spawn({
        let cancel = cancel.clone();
        async move { heartbeat::run(&options, "a stream", Duration::from_millis(200), cancel).await }
    });
    let mut last = PgTime(0);
    for _ in 0..2 {
        let mut stream = start(&db.url, &StartOptions::new("s", "p")).await.unwrap();
        let mut times = Vec::new();
        while times.last().is_none_or(|time| *time <= last) || times.len() < 3 {
            let payload = read_until(&mut stream, b'M', 1).await;
            let beat = Beat::parse(&message(&payload)).expect("a beat");
            assert_eq!(beat.stream, "a stream");
            times.push(beat.at);
        }
        assert!(times.is_sorted(), "{times:?}");
        last = *times.last().unwrap();
        stream.stop().await.unwrap();
        cluster.restart().await;
    }
    cancel.cancel();
    beating.await.unwrap();
}
