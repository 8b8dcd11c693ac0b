//! What a target loses in a crash, or refuses, while it is copied to.

use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;

/// What is done is not looked at again when the target comes back: so it must be on its disk.
#[tokio::test]
async fn a_target_that_crashes_right_after_its_copy_has_lost_nothing_of_it() {
    let source = Cluster::start(default_major()).await;
    // Nothing that is committed without waiting would be on the disk when it crashes.
    let mut target = Cluster::builder(default_major()).setting("wal_writer_delay", "'10s'").start().await;
    let (from, to) = (source.create_database().await, target.create_database().await);
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)";
    let here = source.connect(&from.name).await;
    run(&here, tables).await;
    target.execute(&to.name, &format!("{tables}; ALTER DATABASE {} SET synchronous_commit = off", to.name)).await;
    run(&here, "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 500) n; INSERT INTO u SELECT id FROM t").await;
    run(&here, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
    let mut daemon = Daemon::builder(&from.url).target("t", &to.url).apply("retry_max_interval", "\"500ms\"").start();
    daemon.wait_log("table copied", seconds(60)).await;
    daemon.wait_ready(seconds(60)).await;
    target.kill9().await;
    run(&here, "UPDATE t SET v = 'meanwhile' WHERE id < 100; DELETE FROM u WHERE id > 400").await;
    target.start_again().await;
    let there = target.connect(&to.name).await;
    wait_equal(&here, &[&there], &["t", "u"], seconds(60)).await;
    assert_eq!(daemon.log_count("table copied"), 2, "{}", daemon.log());
    assert_eq!(daemon.log_count("conflict:"), 0, "something came twice");
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// A target whose receive function does not take what the source's send function gives: none at all, one that wants
/// more bytes, one that wants fewer.
#[tokio::test]
async fn what_is_refused_in_binary_is_sent_as_text_once_for_the_table() {
    for (receive, code) in [("-", "42883"), ("time_recv", "08P01"), ("int2recv", "22P03")] {
        let tables = "CREATE TABLE t (id int PRIMARY KEY, d date, v text); CREATE TABLE u (id int PRIMARY KEY)";
        let pair = Pair::start(tables).await;
        run(&pair.source, "INSERT INTO t SELECT n, '2000-01-01', repeat('v', 500) FROM generate_series(1, 4000) n")
            .await;
        run(&pair.source, "INSERT INTO u SELECT id FROM t").await;
        let replace = format!("UPDATE pg_type SET typreceive = '{receive}'::regproc WHERE oid = 'date'::regtype");
        run(&pair.target, &replace).await;
        let mut daemon = pair.daemon("").extra("[copy]\nrange_bytes = \"512KiB\"\nworkers = 2").start();
        daemon.wait_ready(seconds(60)).await;
        pair.equal(&["t", "u"], seconds(20)).await;
        assert_eq!(daemon.log_count("rows were refused in binary"), 1, "{}", daemon.log());
        let told = daemon.wait_log("rows were refused in binary", seconds(1)).await;
        assert!(told.contains("WARN") && told.contains("public.t") && told.contains(code), "{told}");
        assert_eq!(daemon.log_count("interrupted; trying again"), 0, "{}", daemon.log());
        for (table, format) in [("t", "text"), ("u", "binary")] {
            let line =
                daemon.wait_log(&format!("table copied target_name=\"t\" table=public.{table} "), seconds(1)).await;
            assert!(line.contains(&format!("format=\"{format}\"")), "{line}");
        }
        let counted = text(&pair.target, "SELECT rows_copied FROM walferry.table_state WHERE table_name = 't'").await;
        assert_eq!(counted.as_deref(), Some("4000"));
        assert!(daemon.terminate(seconds(20)).await.success());
    }
}
