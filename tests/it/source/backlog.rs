//! A backlog is read quickly, whatever way the source is reached by.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use walferry::postgres::Reach;
use walferry::source::wal_receiver::{Received, StartOptions, WalReceiver};

use super::replication;
use crate::support::prelude::*;

const TRANSACTIONS: u32 = 40_000;

/// For each message; a walsender takes 2 to 6. One that stood still whenever its reader paused took 140.
const MOST: Duration = Duration::from_micros(40);

#[tokio::test]
async fn a_backlog_of_small_transactions_is_read_quickly_over_tcp_and_over_a_socket() {
    let cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    let source = cluster.connect(&db.name).await;
    for statement in [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE PUBLICATION p FOR TABLE t",
        "SELECT pg_create_logical_replication_slot('backlog', 'pgoutput')",
        "SET synchronous_commit = off",
        &format!("DO $$ BEGIN FOR i IN 1 .. {TRANSACTIONS} LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$"),
    ] {
        source.batch_execute(statement).await.unwrap();
    }
    // Nothing is confirmed, so it is sent again each time; and more and more late.
    for (url, reach) in [(cluster.url(&db.name), Reach::Near), (cluster.socket_url(&db.name), Reach::Socket)] {
        let conn = replication(&url).await;
        assert_eq!(conn.reach(), reach);
        let (_unconfirmed, confirmed) = watch::channel(None);
        let mut receiver = WalReceiver::start(conn, &StartOptions::new("backlog", "p"), confirmed).await.unwrap();
        let (begun, mut commits, mut messages) = (Instant::now(), 0, 0);
        while commits < TRANSACTIONS {
            if let Received::Data { payload, .. } = receiver.next().await.unwrap() {
                messages += 1;
                commits += u32::from(payload[0] == b'C');
            }
        }
        let each = begun.elapsed() / messages;
        eprintln!("{reach:?}: {each:?} for each of {messages} messages");
        assert!(each < MOST, "{reach:?}: {each:?} for each of {messages} messages");
        receiver.stop().await.unwrap();
    }
}
