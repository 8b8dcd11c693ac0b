//! How fast a table is brought in, and what the others notice of it. A large table is added under a steady load: the
//! other tables go on meanwhile, and by how much they lag is told.
//!
//! `WALFERRY_TEST_ADDED_MB` makes the table larger than the few megabytes that it has here, and
//! `WALFERRY_TEST_MAX_RATE` its copy slower or faster (`copy.max_rate`).

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::{ADDED, Writes, in_step, wait_state};
use crate::support::paced;
use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::execute;

/// Has the server keep so many segments of WAL to write into again, as one that has been at work for a while does. A
/// server that makes them while it goes (16 MB of zeros each) has every writer wait for each of them, 40 ms here.
async fn age(server: &Client, segments: u32) {
    let write = "SELECT pg_logical_emit_message(false, 'age', 'age'), pg_switch_wal() FROM generate_series(1, ";
    execute(server, &format!("{write}{segments}); CHECKPOINT; CHECKPOINT")).await;
}

#[tokio::test]
async fn the_others_go_on_without_a_pause_while_a_large_table_is_brought_in() {
    let megabytes: u32 = std::env::var("WALFERRY_TEST_ADDED_MB").map_or(64, |size| size.parse().unwrap());
    let used = Cluster::builder(default_major()).setting("max_wal_size", "'8GB'").setting("min_wal_size", "'8GB'");
    let stage = Stage::with_both(used.clone(), used, 1).await;
    paced::create(&stage).await;
    age(&stage.places[0].client, megabytes / 16 * 5 / 4 + 2).await;
    let rows = "CREATE TABLE filling AS SELECT n AS id, 0::bigint AS n, repeat(md5(n::text), 32) AS note";
    let rows = format!("{rows} FROM generate_series(1, {}) n", megabytes * 1000);
    execute(&stage.on_source, &format!("DROP PUBLICATION walferry; {ADDED}; {rows}")).await;
    execute(&stage.on_source, "INSERT INTO added SELECT * FROM filling; DROP TABLE filling; CHECKPOINT").await;
    let all = "w_default, w_index, w_full, w_parent, w_child, counter, applied, paced";
    execute(&stage.on_source, &format!("CREATE PUBLICATION walferry FOR TABLE {all}")).await;
    execute(&stage.places[0].client, ADDED).await;
    let rate = std::env::var("WALFERRY_TEST_MAX_RATE").unwrap_or_else(|_| "16MiB".to_owned());
    let mut daemon = stage.daemon().extra(&format!("[copy]\nmax_rate = \"{rate}\"")).start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..2, Duration::from_millis(10)).await;
    let writes = Writes::every(&stage, Duration::from_millis(30)).await;
    // 7 s, and for 2 GB a minute: what comes now and then comes in all phases.
    let some = 1_000 + 5 * i64::from(megabytes);
    let end = paced::write(&stage, 0, some, async || false).await;
    let before = paced::p99(&stage, 0, 0..end).await;

    execute(&stage.on_source, "ALTER PUBLICATION walferry ADD TABLE added").await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    let begun = Instant::now();
    let done = "SELECT 1 FROM walferry.table_state WHERE table_name = 'added' AND state = 'done'";
    let is_done = async || stage.places[0].client.query_opt(done, &[]).await.unwrap().is_some();
    let last = paced::write(&stage, end, i64::MAX / 2, is_done).await;
    let took = begun.elapsed().as_secs_f64();
    let meanwhile = paced::p99(&stage, 0, end..last).await;
    let (begin, last) = (last, paced::write(&stage, last, some, async || false).await);
    let after = paced::p99(&stage, 0, begin..last).await;
    println!(
        "a table of {megabytes} MB is brought in within {took:.1} s, at {rate} a second; p99 of the others' lag: \
         {before:.1} ms before, {meanwhile:.1} ms meanwhile ({:.2} times), {after:.1} ms after",
        meanwhile / before
    );
    // Beside other tests, on a machine that copies with all it has, that is as much as can be said each time.
    assert!(meanwhile < paced::limit(before).max(1000.0), "{meanwhile} ms, where it was {before} ms");
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    load.stop().await;
    daemon.wait_ready(seconds(60)).await;
    wait_equal(&stage.on_source, &[&stage.places[0].client], &["added"], seconds(300)).await;
    stage.assert_in_step(&daemon).await;
    let arrived = text(&stage.places[0].client, "SELECT count(*)::text FROM paced").await;
    assert_eq!(arrived, Some(last.to_string()));
}

/// A target into which the added table, with so many rows of some 130 bytes, is being copied at this limit.
async fn copying(limit: &str, rows: u32) -> (Stage, Daemon) {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().extra(&format!("[copy]\nmax_rate = \"{limit}\"")).start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.places[0].client, ADDED).await;
    let rows = format!("INSERT INTO added SELECT n, 0, repeat('x', 100) FROM generate_series(1, {rows}) n");
    execute(&stage.on_source, &format!("{ADDED}; {rows}")).await;
    wait_state(&stage, 0, "copying").await;
    (stage, daemon)
}

#[tokio::test]
async fn what_was_written_meanwhile_follows_as_slowly_for_as_long_as_the_copy_took_and_then_at_once() {
    let (stage, mut daemon) = copying("256KiB", 7_000).await;
    // Some 4 MB, for which the limit would take 17 s.
    execute(&stage.on_source, "UPDATE added SET note = repeat('y', 600)").await;
    let begun = Instant::now();
    // The target is beyond it, and has to be reached.
    stage.assert_follows(0, 1).await;
    wait_state(&stage, 0, "catching up").await;
    let (copied, took) = (Instant::now(), begun.elapsed());
    stage.assert_follows(0, 2).await;
    wait_state(&stage, 0, "done").await;
    let followed = copied.elapsed();
    // Without a limit it is there within a second.
    assert!(took > Duration::from_secs(2), "{took:?}");
    assert!(followed > took * 3 / 4 && followed < Duration::from_secs(14), "{took:?} and {followed:?}");
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn what_is_near_enough_to_be_taken_over_does_not_keep_the_target_waiting() {
    let (stage, mut daemon) = copying("48KiB", 2_000).await;
    // As much as the limit would take 7 s for.
    execute(&stage.on_source, "UPDATE added SET note = repeat('y', 600) WHERE id <= 500").await;
    let begun = Instant::now();
    // The target is beyond it, and has to be reached.
    stage.assert_follows(0, 1).await;
    wait_state(&stage, 0, "catching up").await;
    let (copied, took) = (Instant::now(), begun.elapsed());
    wait_state(&stage, 0, "done").await;
    let followed = copied.elapsed();
    assert!(followed < took / 2, "{took:?} and {followed:?}");
    in_step(&stage, &mut daemon).await;
}
