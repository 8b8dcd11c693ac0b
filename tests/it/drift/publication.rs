//! What is published changes while the daemon runs; or the publication, or the slot, is gone.

use crate::support::pair::{Pair, run, text, wait_halted, wait_left_out, wait_refused};
use crate::support::prelude::*;

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text);
    CREATE TABLE u (id int PRIMARY KEY, a text);
    CREATE TABLE late (id int PRIMARY KEY, a text);";

async fn pair() -> Pair {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "DROP PUBLICATION walferry; CREATE PUBLICATION walferry FOR TABLE t, u").await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1, 'a'); INSERT INTO late VALUES (1, 'a')")
        .await;
    pair
}

#[tokio::test]
async fn a_table_added_while_running_is_copied_and_followed_and_one_removed_is_copied_anew() {
    let pair = pair().await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t", "u"], seconds(10)).await;

    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE late; INSERT INTO late VALUES (2, 'b')").await;
    run(&pair.source, "UPDATE late SET a = 'c'; INSERT INTO t VALUES (2, 'b')").await;
    pair.equal(&["t", "u", "late"], seconds(30)).await;
    run(&pair.source, "UPDATE late SET a = 'd' WHERE id = 1; DELETE FROM late WHERE id = 2").await;
    pair.equal(&["t", "u", "late"], seconds(10)).await;

    run(&pair.source, "ALTER PUBLICATION walferry DROP TABLE late").await;
    daemon.wait_log("no longer followed", seconds(30)).await;
    run(&pair.source, "INSERT INTO late VALUES (3, 'missed'); INSERT INTO t VALUES (3, 'b')").await;
    pair.equal(&["t", "u"], seconds(10)).await;
    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE late; INSERT INTO late VALUES (4, 'b')").await;
    // It holds rows by now, and nobody said what to do about them.
    let told = wait_left_out(&mut daemon, "t", &["public.late", "already holds rows", "TRUNCATE"], seconds(30)).await;
    run(&pair.target, &told[told.find("TRUNCATE").unwrap()..]).await;
    pair.equal(&["t", "u", "late"], seconds(30)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// What a table missed while it was out of the publication, or before it was made anew, is noticed whenever that was.
#[tokio::test]
async fn a_table_that_was_out_for_a_moment_is_copied_again() {
    let pair = pair().await;
    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE late").await;
    let mut daemon = pair.daemon("").extra("[copy]\nexisting_rows = \"truncate\"").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t", "u", "late"], seconds(10)).await;
    let out_and_in = async |id: u32| {
        run(&pair.source, "ALTER PUBLICATION walferry DROP TABLE late").await;
        run(&pair.source, &format!("INSERT INTO late VALUES ({id}, 'missed')")).await;
        run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE late").await;
    };
    // While it runs, between two looks; while it is down; another table of the name.
    out_and_in(2).await;
    run(&pair.source, "INSERT INTO late VALUES (3, 'seen')").await;
    pair.equal(&["t", "u", "late"], seconds(30)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    out_and_in(4).await;
    daemon.start();
    pair.equal(&["t", "u", "late"], seconds(30)).await;
    daemon.wait_ready(seconds(10)).await;
    run(
        &pair.source,
        "DROP TABLE late; CREATE TABLE late (id int PRIMARY KEY, a text); INSERT INTO late VALUES (9, 'other');
         ALTER PUBLICATION walferry ADD TABLE late",
    )
    .await;
    pair.equal(&["t", "u", "late"], seconds(30)).await;
    daemon.wait_ready(seconds(10)).await;
    assert_eq!(daemon.log_count("copied again"), 3);
    // Nothing of that is a reason to copy the others again.
    assert_eq!(daemon.log_count("table copied") - 3, 3);
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// Nothing names these tables one by one: they are published by their schema, or by a partitioned table above them.
#[tokio::test]
async fn a_schema_or_a_root_that_was_out_for_a_moment_is_copied_again_though_rows_are_refused() {
    if default_major() < 15 {
        return;
    }
    let tables = "CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY);
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100);";
    let pair = Pair::start(tables).await;
    run(
        &pair.source,
        "DROP PUBLICATION walferry; CREATE PUBLICATION walferry FOR TABLES IN SCHEMA s, TABLE p, other;
         INSERT INTO s.t VALUES (1); INSERT INTO p VALUES (1); INSERT INTO other VALUES (1)",
    )
    .await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(60)).await;
    let out = "ALTER PUBLICATION walferry DROP TABLES IN SCHEMA s, TABLE p";
    let missed = |id: u32| format!("INSERT INTO s.t VALUES ({id}); INSERT INTO p VALUES ({id})");
    let back = "ALTER PUBLICATION walferry ADD TABLES IN SCHEMA s, TABLE p";
    // While it runs: in one step, so that no look falls between. While it is down.
    run(&pair.source, &format!("BEGIN; {out}; {}; {back}; COMMIT", missed(2))).await;
    pair.equal(&["s.t", "p_1", "other"], seconds(60)).await;
    daemon.wait_ready(seconds(30)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    for statement in [out, &missed(3), back] {
        run(&pair.source, statement).await;
    }
    daemon.start();
    pair.equal(&["s.t", "p_1", "other"], seconds(60)).await;
    run(&pair.source, "INSERT INTO s.t VALUES (4); INSERT INTO p VALUES (4); INSERT INTO other VALUES (4)").await;
    pair.equal(&["s.t", "p_1", "other"], seconds(30)).await;
    let other = "SELECT bool_and(copy_lsn > (SELECT copy_lsn FROM walferry.table_state WHERE table_name = 'other'))
        FROM walferry.table_state WHERE table_name <> 'other'";
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(text(&pair.target, other).await.as_deref(), Some("true"), "other was copied again");
    assert!(daemon.terminate(seconds(20)).await.success());

    // Named by itself as well, it is the same table as before, and has missed nothing.
    let copies = daemon.log_count("table copied");
    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE s.t; INSERT INTO s.t VALUES (5)").await;
    daemon.start();
    pair.equal(&["s.t", "p_1", "other"], seconds(60)).await;
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(daemon.log_count("table copied"), copies);
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn changes_of_a_table_that_was_removed_since_hold_up_nobody() {
    let pair = pair().await;
    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE late").await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t", "u", "late"], seconds(10)).await;
    daemon.kill9();
    // In the WAL are changes of a table that is not published any more once they are read.
    run(&pair.source, "INSERT INTO late VALUES (2, 'b'); INSERT INTO t VALUES (2, 'b')").await;
    run(&pair.source, "ALTER PUBLICATION walferry DROP TABLE late").await;
    run(&pair.source, "INSERT INTO t VALUES (3, 'b')").await;
    daemon.start();
    pair.equal(&["t", "u"], seconds(20)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_publication_or_a_slot_that_is_dropped_while_running_ends_the_daemon_with_the_reason() {
    let pair = pair().await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.source, "DROP PUBLICATION walferry").await;
    wait_refused(&mut daemon, &["publication \"walferry\"", "does not exist", "walferry slot reset"], seconds(30))
        .await;

    let pair = self::pair().await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    // It may be dropped only while nobody streams from it.
    let drop = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    let dropped = async || {
        run(&pair.source, drop).await;
        let gone = pair.source.batch_execute("SELECT pg_drop_replication_slot('walferry')").await;
        gone.is_ok().then_some(())
    };
    wait_for("the slot to be dropped", seconds(10), dropped).await;
    run(&pair.source, "INSERT INTO t VALUES (2, 'b')").await;
    wait_refused(&mut daemon, &["slot \"walferry\" does not exist", "walferry slot reset"], seconds(30)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t").await.unwrap(), "1");
    // And again at the next start, with the position.
    daemon.start();
    wait_refused(&mut daemon, &["does not exist", "has applied up to 0/", "walferry slot reset"], seconds(30)).await;
}

#[tokio::test]
async fn a_slot_that_is_moved_between_two_sessions_is_noticed() {
    let pair = pair().await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    let move_it = async || {
        run(
            &pair.source,
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
             INSERT INTO t SELECT coalesce(max(id), 0) + 1, 'missed' FROM t",
        )
        .await;
        let moved = "SELECT pg_replication_slot_advance('walferry', pg_current_wal_lsn())";
        pair.source.batch_execute(moved).await.is_ok().then_some(())
    };
    wait_for("the slot to be moved", seconds(20), move_it).await;
    run(&pair.source, "INSERT INTO t VALUES (9999, 'after')").await;
    let says = ["has been confirmed up to 0/", "has applied only up to 0/", "walferry slot reset"];
    wait_halted(&mut daemon, "t", &says, seconds(20)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t WHERE id = 9999").await.unwrap(), "0");
    assert!(daemon.terminate(seconds(20)).await.success());
}
