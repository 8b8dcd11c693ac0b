//! A transaction that somebody leaves open on a target (a report, a dump, a forgotten psql): the target keeps every old
//! version of every row for it, and the stream goes on as it did.

use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int)";

/// To look the position up for each commit is to pass all the versions that it has had since: a thousand of them cost
/// more than the rest of a small transaction, and a million a tenth of a second.
async fn is_not_looked_up(major: u32) {
    let pair = Pair::on(Cluster::start(major).await, TABLE).await;
    // What is committed is durable then, and is not read to find that out.
    let mut daemon = pair.daemon("synchronous_commit = true").start();
    daemon.wait_ready(seconds(60)).await;
    let forgotten = pair.cluster.connect(&pair.to.name).await;
    run(&forgotten, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await;
    for id in 0..100 {
        run(&pair.source, &format!("INSERT INTO t VALUES ({id}, 0)")).await;
        let query = format!("SELECT FROM t WHERE id = {id}");
        let arrived = async || pair.target.query_opt(&query, &[]).await.unwrap().map(drop);
        wait_for("the row", seconds(20), arrived).await;
    }
    assert!(daemon.terminate(seconds(20)).await.success());
    // Sessions tell what they have counted when they end.
    let counts = "SELECT n_tup_upd, coalesce(seq_scan, 0) + coalesce(idx_scan, 0)
                  FROM pg_stat_user_tables WHERE relid = 'walferry.progress'::regclass AND n_tup_upd >= 100";
    let counted = async || pair.target.query_opt(counts, &[]).await.unwrap();
    let counted = wait_for("the target's statistics", seconds(20), counted).await;
    let (moved, looked_up): (i64, i64) = (counted.get(0), counted.get(1));
    // To attach takes some.
    assert!(looked_up < 50, "PostgreSQL {major}: looked up {looked_up} times, where it has moved {moved} times");
    assert_eq!(text(&forgotten, "SELECT count(*) FROM t").await.as_deref(), Some("0"), "it still sees no row");
}

#[tokio::test]
async fn a_transaction_left_open_on_the_target_does_not_slow_the_stream_down() {
    is_not_looked_up(14).await;
}

#[tokio::test]
async fn nor_does_it_on_a_server_that_plans_otherwise() {
    is_not_looked_up(18).await;
}

/// Nobody but the stream looks at the table, and VACUUM does not come.
#[tokio::test]
async fn the_position_takes_a_page_or_two_however_often_it_moves() {
    let settings = Cluster::builder(default_major()).setting("autovacuum", "off");
    let pair = Pair::on(settings.start().await, TABLE).await;
    let mut daemon = pair.daemon("synchronous_commit = true").start();
    daemon.wait_ready(seconds(60)).await;
    let moved = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'walferry.progress'::regclass";
    let mut id = 0;
    let often = async || {
        for _ in 0..100 {
            id += 1;
            run(&pair.source, &format!("INSERT INTO t VALUES ({id}, 0)")).await;
        }
        let moved: i64 = pair.target.query_one(moved, &[]).await.unwrap().get(0);
        (moved > 500).then_some(())
    };
    wait_for("the position to have moved often", seconds(60), often).await;
    pair.equal(&["t"], seconds(20)).await;
    let pages = text(&pair.target, "SELECT pg_relation_size('walferry.progress') / 8192").await.unwrap();
    assert!(pages.parse::<u32>().unwrap() <= 3, "{pages} pages");
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// As often as this, a row's versions do not fit into the page where it was.
const ELSEWHERE: &str = "DO $$ BEGIN FOR n IN 1..200 LOOP
    UPDATE walferry.progress SET publication = publication; END LOOP; END $$";

#[tokio::test]
async fn somebody_else_writes_to_the_position_and_is_only_waited_for() {
    let pair = Pair::on(Cluster::start(18).await, TABLE).await;
    let mut daemon = pair.daemon("queue_bytes = \"256KiB\"\nbatch_bytes = \"64KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    let other = pair.cluster.connect(&pair.to.name).await;
    // The small one is applied at once, the large one in pieces.
    for (round, rows) in [1, 5_000, 1, 5_000].into_iter().enumerate() {
        let insert = format!("INSERT INTO t SELECT {round} * 10000 + n, 0 FROM generate_series(1, {rows}) n");
        // It finds the row locked, and once it gets on, elsewhere than it was.
        run(&other, &format!("BEGIN; {ELSEWHERE}")).await;
        run(&pair.source, &insert).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = ";
        let waiting = format!("{waiting}'{}'", pair.to.name);
        let waits = async || (text(&other, &waiting).await.as_deref() == Some("1")).then_some(());
        wait_for("the daemon to wait", seconds(20), waits).await;
        run(&other, "COMMIT").await;
        pair.equal(&["t"], seconds(20)).await;
        // And this one finds it elsewhere without having waited.
        run(&other, ELSEWHERE).await;
        run(&pair.source, &format!("UPDATE t SET n = 1 WHERE id > {round} * 10000")).await;
        pair.equal(&["t"], seconds(20)).await;
    }
    assert_eq!(daemon.log_count("somebody else"), 0, "{}", daemon.log());
    assert_eq!(daemon.log_count(" WARN ") + daemon.log_count(" ERROR "), 0, "{}", daemon.log());
    assert!(daemon.terminate(seconds(20)).await.success());
}
