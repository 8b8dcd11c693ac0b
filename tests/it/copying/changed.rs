//! Tables that change while the snapshot of their copy is taken, which lasts as long as transactions run.

use crate::support::pair::{Pair, run};
use crate::support::prelude::*;

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY);
    CREATE TABLE late (id int PRIMARY KEY, v text);
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100);";

async fn pair() -> Pair {
    let pair = Pair::start(TABLES).await;
    run(
        &pair.source,
        "DROP PUBLICATION walferry;
         CREATE PUBLICATION walferry FOR TABLE t WITH (publish_via_partition_root = true);
         INSERT INTO t VALUES (1); INSERT INTO late VALUES (1, 'a'); INSERT INTO p VALUES (1, 'a')",
    )
    .await;
    run(&pair.target, "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200)").await;
    pair
}

/// Partitions and columns made while a transaction holds up the copy's own snapshot.
#[tokio::test]
async fn a_partition_and_a_column_that_come_while_the_snapshot_is_waited_for_are_copied() {
    let pair = pair().await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(60)).await;
    let idle = pair.cluster.connect(&pair.from.name).await;
    run(&idle, "BEGIN; INSERT INTO t VALUES (2)").await;
    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE p, late").await;
    daemon.wait_log("waits for these transactions", seconds(60)).await;
    for client in [&pair.source, &pair.target] {
        run(client, "ALTER TABLE late ADD COLUMN more text").await;
    }
    run(
        &pair.source,
        "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         INSERT INTO p SELECT n, 'in the new one' FROM generate_series(100, 150) n;
         UPDATE late SET more = 'of the new one'",
    )
    .await;
    run(&idle, "COMMIT").await;
    pair.equal(&["t", "p", "late"], seconds(90)).await;
    daemon.wait_log("was changed while the copy's snapshot was taken", seconds(10)).await;
    run(&pair.source, "INSERT INTO p VALUES (151, 'later'); DELETE FROM p WHERE id < 110; UPDATE late SET more = 'x'")
        .await;
    pair.equal(&["t", "p", "late"], seconds(30)).await;
    assert_eq!(daemon.log_count("conflict:"), 0, "something came twice");
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// The first copy is made under the slot's own snapshot. What is published since then is not in the stream from there
/// on.
#[tokio::test]
async fn a_table_published_between_the_slot_and_the_first_look_is_not_copied_as_of_the_slot() {
    let pair = pair().await;
    let idle = pair.cluster.connect(&pair.from.name).await;
    run(&idle, "BEGIN; INSERT INTO t VALUES (2)").await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_log("waits for these transactions", seconds(60)).await;
    // The target's task will have to wait before it looks at what is published. (A mode for which the slot, on the same
    // server, does not wait.)
    run(&pair.target, "BEGIN; LOCK TABLE walferry.progress IN SHARE MODE").await;
    run(&idle, "COMMIT").await;
    daemon.wait_log("slot created", seconds(60)).await;
    run(&pair.source, "INSERT INTO late VALUES (2, 'neither copied nor published')").await;
    run(&pair.source, "ALTER PUBLICATION walferry ADD TABLE late; INSERT INTO late VALUES (3, 'published')").await;
    run(&pair.target, "COMMIT").await;
    pair.equal(&["t", "late"], seconds(90)).await;
    assert_eq!(daemon.log_count("conflict:"), 0, "something came twice");
    daemon.wait_log("was changed while the copy's snapshot was taken", seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}
