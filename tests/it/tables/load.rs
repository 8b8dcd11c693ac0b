//! A large table is added under a steady load: the other tables go on meanwhile, and by how much they lag is told.
//! `WALFERRY_TEST_ADDED_MB` makes the table larger than the few megabytes that it has here, and
//! `WALFERRY_TEST_MAX_RATE` its copy slower or faster (`copy.max_rate`).

use tokio_postgres::Client;

use super::{ADDED, Writes, wait_state};
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
    let writes = Writes::start(&stage).await;
    // 10 s, and for 2 GB a minute: what comes now and then comes in both phases.
    let end = paced::write(&stage, 0, 2_000 + 5 * i64::from(megabytes), async || false).await;
    let before = paced::p99(&stage, 0, 0..end).await;

    execute(&stage.on_source, "ALTER PUBLICATION walferry ADD TABLE added").await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    let begun = std::time::Instant::now();
    let done = "SELECT 1 FROM walferry.table_state WHERE table_name = 'added' AND state = 'done'";
    let is_done = async || stage.places[0].client.query_opt(done, &[]).await.unwrap().is_some();
    let last = paced::write(&stage, end, i64::MAX / 2, is_done).await;
    let took = begun.elapsed().as_secs_f64();
    let meanwhile = paced::p99(&stage, 0, end..last).await;
    println!(
        "a table of {megabytes} MB is brought in within {took:.1} s, at {rate} a second; p99 of the others' lag: \
         {before:.1} ms before, {meanwhile:.1} ms meanwhile ({:.2} times)",
        meanwhile / before
    );
    // Beside other tests, on a machine that copies with all it has, that is as much as can be said each time.
    assert!(meanwhile < paced::limit(before).max(1000.0), "{meanwhile} ms, where it was {before} ms");
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    daemon.wait_ready(seconds(60)).await;
    wait_equal(&stage.on_source, &[&stage.places[0].client], &["added"], seconds(300)).await;
    stage.assert_in_step(&daemon).await;
    let arrived = text(&stage.places[0].client, "SELECT count(*)::text FROM paced").await;
    assert_eq!(arrived, Some(last.to_string()));
}
