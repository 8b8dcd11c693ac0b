//! Targets that differ from what the stream expects: made equal to the source, or halted, always counted, never with
//! a value in the log.

use crate::support::pair::{Pair, run, status, text, wait_halted};
use crate::support::prelude::*;

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, code text UNIQUE, note text, big text);
    ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE f (id int PRIMARY KEY, note text, big text);
    ALTER TABLE f REPLICA IDENTITY FULL;
    ALTER TABLE f ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE bare (a int, note text);
    ALTER TABLE bare REPLICA IDENTITY FULL;";

const BOTH: [&str; 3] = ["t", "f", "bare"];

async fn conflicts(daemon: &mut Daemon, kind: &str, count: u64) {
    let labels = [("target", "t"), ("kind", kind)];
    daemon.wait_metric("walferry_target_conflicts_total", &labels, |value| value == count as f64, seconds(10)).await;
}

/// A row of each table and one to spare.
async fn rows(source: &tokio_postgres::Client) {
    run(
        source,
        "INSERT INTO t SELECT i, 'c' || i, 'planted-n' || i, repeat('planted-b', 1000) FROM generate_series(1, 20) i;
         INSERT INTO f SELECT i, 'planted-n' || i, repeat('planted-b', 1000) FROM generate_series(1, 5) i;
         INSERT INTO bare SELECT i, 'planted-n' || i FROM generate_series(1, 3) i",
    )
    .await;
}

#[tokio::test]
async fn under_source_wins_the_target_converges_and_every_conflict_is_counted_once() {
    let pair = Pair::start(TABLES).await;
    rows(&pair.source).await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&BOTH, seconds(20)).await;

    // The row is there; another has its unique value; both; three rows in the way of one.
    run(
        &pair.target,
        "INSERT INTO t VALUES (101, 'own', 'planted-x', 'planted-y'), (900, 'c102', 'planted-x', NULL),
             (103, 'own3', 'planted-x', NULL), (901, 'c103', 'planted-x', NULL)",
    )
    .await;
    run(&pair.source, "INSERT INTO t VALUES (101, 'c101', 'planted-1', NULL)").await;
    run(&pair.source, "INSERT INTO t VALUES (102, 'c102', 'planted-1', NULL)").await;
    run(&pair.source, "INSERT INTO t VALUES (103, 'c103', 'planted-1', NULL)").await;
    pair.equal(&BOTH, seconds(20)).await;
    conflicts(&mut daemon, "insert_exists", 3).await;

    // The new unique value, and the new key, are taken.
    run(&pair.target, "INSERT INTO t VALUES (902, 'new', 'planted-x', NULL), (903, 'x', 'planted-x', NULL)").await;
    run(&pair.source, "UPDATE t SET code = 'new' WHERE id = 1; UPDATE t SET id = 903 WHERE id = 2").await;
    pair.equal(&BOTH, seconds(20)).await;
    conflicts(&mut daemon, "update_exists", 2).await;

    // The row is missing; the change holds all of it, or FULL does.
    run(&pair.target, "DELETE FROM t WHERE id IN (3, 4); DELETE FROM f WHERE id IN (1, 2)").await;
    run(
        &pair.source,
        "UPDATE t SET big = 'planted-small' WHERE id = 3; UPDATE t SET id = 904, big = NULL WHERE id = 4;
         UPDATE f SET note = 'planted-2' WHERE id = 1; DELETE FROM f WHERE id = 2",
    )
    .await;
    pair.equal(&BOTH, seconds(20)).await;
    conflicts(&mut daemon, "update_missing", 3).await;
    conflicts(&mut daemon, "delete_missing", 1).await;

    // A table without a key: an update of a missing row brings the row.
    run(&pair.target, "DELETE FROM bare WHERE a = 1").await;
    run(&pair.source, "UPDATE bare SET note = 'planted-3' WHERE a = 1").await;
    pair.equal(&BOTH, seconds(20)).await;
    conflicts(&mut daemon, "update_missing", 4).await;

    // Missing, and the stream does not hold all of it.
    run(&pair.target, "DELETE FROM t WHERE id = 5").await;
    run(&pair.source, "UPDATE t SET note = 'planted-4' WHERE id = 5").await;
    let told = wait_halted(&mut daemon, "t", &["public.t", "id=5", "update_missing", "TOAST"], seconds(10)).await;
    assert!(told.contains("0/"), "{told}");
    run(&pair.target, "INSERT INTO t VALUES (5, 'c5', NULL, repeat('planted-b', 1000))").await;
    run(&pair.source, "INSERT INTO t VALUES (200, NULL, NULL, NULL)").await;
    pair.equal(&BOTH, seconds(20)).await;
    conflicts(&mut daemon, "update_missing", 4).await;

    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.log_count("conflict: insert_exists") == 3, "{}", daemon.log());
    let line = daemon.wait_log("conflict: update_exists", seconds(1)).await;
    assert!(line.contains("public.t") && line.contains("id=") && line.contains("0/"), "{line}");
    assert!(!daemon.log().contains("planted"), "a value is in the log");
    assert!(!daemon.get("/api/v1/status").await.unwrap().1.contains("planted"), "a value is in the status");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn conflicts_in_the_middle_of_batches_and_of_transactions_in_parts_lose_nothing() {
    let pair = Pair::start(TABLES).await;
    rows(&pair.source).await;
    // Parts of 64 kB: the large transaction comes in dozens of them.
    let mut daemon = pair.daemon("queue_bytes = \"256KiB\"\nbatch_bytes = \"64KiB\"").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&BOTH, seconds(20)).await;

    run(
        &pair.target,
        "INSERT INTO t SELECT i, 'c' || i, 'x', NULL FROM generate_series(1000, 9000, 7) i;
         INSERT INTO t SELECT -i, 'c' || i, 'x', NULL FROM generate_series(1001, 9000, 70) i",
    )
    .await;
    run(
        &pair.source,
        "BEGIN; INSERT INTO t SELECT i, 'c' || i, repeat('n', 50), NULL FROM generate_series(1000, 9000) i;
         UPDATE t SET note = 'again' WHERE id % 3 = 0; DELETE FROM t WHERE id % 100 = 17; COMMIT",
    )
    .await;
    pair.equal(&BOTH, seconds(60)).await;
    // 1,143 by key and 115 by the unique value alone (1001 and every 70th are no multiples of 7 from 1000).
    conflicts(&mut daemon, "insert_exists", 1143 + 115).await;

    // Many small transactions that wait together: the target is locked while they gather.
    run(&pair.target, "DELETE FROM t WHERE id % 10 = 3; DELETE FROM t WHERE id = 7000").await;
    run(&pair.target, "BEGIN; LOCK TABLE t").await;
    for id in 1..=400 {
        let id = 5000 + id;
        run(&pair.source, &format!("UPDATE t SET note = 'third', big = 'b' WHERE id = {id}")).await;
    }
    run(&pair.source, "DELETE FROM t WHERE id = 7000").await;
    run(&pair.source, "INSERT INTO t SELECT 20000 + i, NULL, NULL, NULL FROM generate_series(1, 50) i").await;
    run(&pair.target, "COMMIT").await;
    let gone = "DELETE FROM t WHERE id % 10 = 3";
    run(&pair.source, gone).await;
    pair.equal(&BOTH, seconds(60)).await;
    let kept = text(&pair.source, "SELECT count(*) FROM t WHERE id BETWEEN 5001 AND 5400").await;
    assert_eq!(kept, text(&pair.target, "SELECT count(*) FROM t WHERE id BETWEEN 5001 AND 5400").await);
    // 40 of the 400; but 5017, 5117 … were deleted before.
    conflicts(&mut daemon, "update_missing", 40).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn under_stop_a_conflict_halts_and_the_target_goes_on_once_its_row_is_mended() {
    let pair = Pair::start(TABLES).await;
    rows(&pair.source).await;
    let (other, client) = pair.another(TABLES).await;
    let mut daemon = pair.daemon("conflicts = \"stop\"").target("other", &other.url).start();
    daemon.wait_ready(seconds(30)).await;

    run(&pair.target, "DELETE FROM t WHERE id IN (1, 2); INSERT INTO t VALUES (50, 'o', 'planted-x', NULL)").await;
    run(&pair.source, "INSERT INTO t VALUES (49, NULL, NULL, NULL)").await;
    run(&pair.source, "BEGIN; INSERT INTO t VALUES (51, NULL, NULL, NULL); DELETE FROM t WHERE id = 1; COMMIT").await;
    run(&pair.source, "UPDATE t SET note = 'planted-1' WHERE id = 2").await;
    run(&pair.source, "INSERT INTO t VALUES (50, 'c50', 'planted-1', NULL)").await;

    wait_halted(&mut daemon, "t", &["public.t", "id=1)", "delete_missing", " 0/"], seconds(10)).await;
    wait_equal(&pair.source, &[&client], &BOTH, seconds(10)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t WHERE id = 49").await.unwrap(), "1", "what came before it");
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t WHERE id = 51").await.unwrap(), "0", "a part of it");
    run(&pair.target, "INSERT INTO t (id) VALUES (1)").await;
    wait_halted(&mut daemon, "t", &["public.t", "id=2)", "update_missing"], seconds(10)).await;
    run(&pair.target, "INSERT INTO t VALUES (2, 'c2', NULL, repeat('planted-b', 1000))").await;
    wait_halted(&mut daemon, "t", &["public.t", "id=50)", "insert_exists"], seconds(10)).await;
    // Tried again several times, counted once.
    daemon.wait_metric("walferry_target_retries_total", &[("target", "t")], |n| n >= 5.0, seconds(20)).await;
    run(&pair.target, "DELETE FROM t WHERE id = 50").await;
    pair.equal(&BOTH, seconds(10)).await;
    daemon.wait_ready(seconds(10)).await;
    assert_eq!(status(&daemon, "t").await["conflicts"]["insert_exists"], 1);
    for kind in ["delete_missing", "update_missing"] {
        conflicts(&mut daemon, kind, 1).await;
    }
    assert!(!daemon.log().contains("planted"), "a value is in the log");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn under_full_a_row_that_differs_is_found_by_its_key() {
    let pair = Pair::start(TABLES).await;
    rows(&pair.source).await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&BOTH, seconds(20)).await;
    run(&pair.target, "UPDATE f SET note = 'planted-drift', big = NULL WHERE id IN (1, 2, 3)").await;
    run(&pair.source, "DELETE FROM f WHERE id = 1; UPDATE f SET id = 20 WHERE id = 2").await;
    run(&pair.source, "UPDATE f SET note = 'planted-2' WHERE id = 3").await;
    pair.equal(&BOTH, seconds(60)).await;
    conflicts(&mut daemon, "delete_missing", 1).await;
    conflicts(&mut daemon, "update_missing", 2).await;
    // One that is really not there.
    run(&pair.target, "DELETE FROM f WHERE id = 4").await;
    run(&pair.source, "DELETE FROM f WHERE id = 4; INSERT INTO f VALUES (30, 'planted', NULL)").await;
    pair.equal(&BOTH, seconds(60)).await;
    conflicts(&mut daemon, "delete_missing", 2).await;
}

/// A session of the daemon that was cut off on the daemon's side only may still commit what it was sent. Here the test
/// plays it: it has the progress row and the change, and commits both while the daemon tries the same.
#[tokio::test]
async fn what_a_session_given_up_still_commits_is_no_conflict() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon("conflicts = \"stop\"").start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'c1', NULL, NULL)").await;
    pair.equal(&BOTH, seconds(30)).await;

    run(&pair.target, "BEGIN; SELECT FROM walferry.progress FOR UPDATE; INSERT INTO t VALUES (2, 'c2', NULL, NULL)")
        .await;
    run(&pair.source, "INSERT INTO t VALUES (2, 'c2', NULL, NULL)").await;
    let end = text(&pair.source, "SELECT pg_current_wal_lsn()").await.expect("a position");
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                   AND application_name LIKE 'walferry%'";
    wait_for("the daemon to wait for the session", seconds(30), async || {
        (text(&pair.target, waiting).await.as_deref() == Some("1")).then_some(())
    })
    .await;
    run(&pair.target, &format!("UPDATE walferry.progress SET end_lsn = '{end}'; COMMIT")).await;
    run(&pair.source, "INSERT INTO t VALUES (3, 'c3', NULL, NULL)").await;
    pair.equal(&BOTH, seconds(60)).await;
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(daemon.log_count("conflict:"), 0, "{}", daemon.log());
}
