//! Memory stays bounded, whatever the size of a transaction, a row or a table. Figures are the daemon's peak.

use std::time::Instant;

use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;
use crate::support::stage::execute;

/// What everything must fit into, apart from single rows larger than it.
const BOUND: u64 = 256 << 20;

async fn stage(tables: &str) -> Stage {
    let stage = Stage::empty(Cluster::builder(default_major()).setting("max_wal_size", "'4GB'"), 3).await;
    execute(&stage.on_source, tables).await;
    for (number, place) in stage.places.iter().enumerate() {
        execute(&place.client, tables).await;
        if number == 1 {
            execute(&place.client, "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain").await;
        }
    }
    stage
}

/// Waits until `t` is equal everywhere. Large values are compared by their SHA-256, and only once as many bytes are
/// there.
async fn wait_all_equal(stage: &Stage, value: &str, patience: u64) {
    let size = format!("SELECT count(*)::text || ' ' || sum(length({value})) || ' ' || sum(n) FROM t");
    let digest =
        format!("SELECT md5(string_agg(id || ':' || n || encode(sha256({value}), 'hex'), ',' ORDER BY id)) FROM t");
    for query in [size, digest] {
        let ask = async |client: &tokio_postgres::Client| {
            client.query_one(&query, &[]).await.expect("cannot compare").get::<_, Option<String>>(0)
        };
        let wanted = ask(&stage.on_source).await;
        for (number, place) in stage.places.iter().enumerate() {
            let equal = async || {
                let asked = Instant::now();
                let equal = ask(&place.client).await == wanted;
                if !equal {
                    // The question is work for the server that shall catch up.
                    tokio::time::sleep(3 * asked.elapsed()).await;
                }
                equal.then_some(())
            };
            wait_for(&format!("target {number} to be equal"), seconds(3 * patience), equal).await;
        }
    }
}

fn report(what: &str, daemon: &Daemon, bound: u64) {
    let peak = daemon.peak_memory();
    eprintln!("{what}: peak {} MiB", peak >> 20);
    assert!(peak < bound, "{what}: peak {} MiB, more than {} MiB", peak >> 20, bound >> 20);
}

#[tokio::test]
async fn a_large_transaction_to_three_targets() {
    let rows: u64 = std::env::var("WALFERRY_TEST_ROWS").map_or(300_000, |rows| rows.parse().expect("a number"));
    let stage = stage("CREATE TABLE t (id int PRIMARY KEY, n int, v text)").await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let started = Instant::now();
    let insert =
        format!("INSERT INTO t SELECT n, n, 'row number ' || n || repeat('x', 80) FROM generate_series(1, {rows}) n");
    execute(&stage.on_source, &insert).await;
    eprintln!("written in {:?}", started.elapsed());
    wait_all_equal(&stage, "v::bytea", 60 + rows / 5_000).await;
    eprintln!("{rows} rows on three targets in {:?}", started.elapsed());
    report("a large transaction", &daemon, BOUND);
    execute(&stage.on_source, "UPDATE t SET v = v || '.' WHERE id % 2 = 0; DELETE FROM t WHERE id % 3 = 0").await;
    wait_all_equal(&stage, "v::bytea", 60 + rows / 5_000).await;
    report("large updates and deletes", &daemon, BOUND);
}

#[tokio::test]
async fn values_of_100_megabytes_and_a_large_table() {
    const VALUE: u64 = 100_000_000;
    let stage =
        stage("CREATE TABLE t (id int PRIMARY KEY, n int, v bytea); ALTER TABLE t ALTER v SET STORAGE EXTERNAL").await;
    let big = format!("decode(repeat('0123456789abcdef', {}), 'hex')", VALUE / 8);
    execute(&stage.on_source, &format!("INSERT INTO t VALUES (1, 1, {big})")).await;
    let fill = "INSERT INTO t SELECT n, n, decode(repeat('ab', 1000), 'hex') FROM generate_series(2, 40000) n";
    execute(&stage.on_source, fill).await;
    let mut daemon = stage.daemon().start();
    let started = Instant::now();
    wait_all_equal(&stage, "v", 120).await;
    eprintln!("copied to three targets in {:?}", started.elapsed());
    report("a copy with a value of 100 MB", &daemon, BOUND);

    let row = 2 * VALUE;
    execute(&stage.on_source, &format!("INSERT INTO t VALUES (0, 0, {big})")).await;
    wait_all_equal(&stage, "v", 120).await;
    report("an insert of 100 MB", &daemon, BOUND + 2 * row);
    execute(&stage.on_source, &format!("UPDATE t SET v = {big} || 'x'::bytea WHERE id = 1")).await;
    execute(&stage.on_source, "UPDATE t SET n = n + 1 WHERE id = 1").await;
    wait_all_equal(&stage, "v", 120).await;
    report("an update of 100 MB", &daemon, BOUND + 2 * row);
    assert!(daemon.is_running());
}

/// Of each 250 kB that the source sends, a target that stands still gets one small row: that row is kept in memory,
/// not everything that came with it.
#[tokio::test]
async fn a_stopped_target_that_takes_little_of_a_large_stream() {
    const TABLES: &str =
        "CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE small (id int PRIMARY KEY, note text)";
    const TRANSACTIONS: u64 = 1600;
    let pair = Pair::start(TABLES).await;
    let (few, on_few) = pair.another(TABLES).await;
    let mut daemon = pair.daemon("").target_tables("few", &few.url, &["public.small"]).start();
    daemon.wait_ready(seconds(60)).await;
    run(&on_few, "BEGIN; LOCK TABLE small").await;
    let insert = format!(
        "DO $$BEGIN FOR t IN 1..{TRANSACTIONS} LOOP
             INSERT INTO big SELECT t * 10 + n, repeat('0123456789', 2500) FROM generate_series(0, 9) n;
             INSERT INTO small VALUES (t, 'of transaction ' || t);
             COMMIT;
         END LOOP; END$$"
    );
    run(&pair.source, &insert).await;
    for client in [&pair.target, &on_few] {
        wait_for("all small rows to be there", seconds(300), async || {
            let count = text(client, "SELECT count(*) FROM small").await;
            (count == Some(TRANSACTIONS.to_string())).then_some(())
        })
        .await;
        report("a stream of 400 MB with a stopped target", &daemon, BOUND);
        run(&on_few, "COMMIT").await;
    }
    assert!(daemon.is_running());
}
