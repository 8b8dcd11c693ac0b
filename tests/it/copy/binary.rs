//! Which tables go in binary, which as text, and what becomes of a table for which binary turns out wrong on the way.

use walferry::error::chain;
use walferry::tablesync::{CopyError, ExistingRows};

use super::bench::{Bench, Watcher, Wishes, filter, run};
use crate::support::prelude::*;

/// Has the target's statements logged from now on.
async fn log_statements(bench: &Bench) {
    let name = &bench.target_db.name;
    bench.target.batch_execute(&format!("ALTER DATABASE {name} SET log_statement = 'all'")).await.unwrap();
}

/// How many COPY statements into this table the target has been sent, in binary and as text.
fn copies(bench: &Bench, table: &str) -> (usize, usize) {
    let log = std::fs::read_to_string(bench.cluster.log_path()).unwrap();
    let of = |format: &str| {
        let end = format!(" FROM STDIN (FORMAT {format})");
        let copy = format!("COPY {table} (");
        log.lines()
            .filter(|line| line.contains("statement: BEGIN") && line.contains(&copy) && line.ends_with(&end))
            .count()
    };
    (of("binary"), of("text"))
}

#[tokio::test]
async fn a_table_goes_in_binary_where_every_copied_column_can() {
    let both = "
        CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN small AS int CHECK (value < 1000);
        CREATE TABLE e (id int PRIMARY KEY, v mood); CREATE TABLE z ()";
    let source = r#"
        CREATE TABLE t (gone int, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v numeric(9,3), s interval,
            doubled bigint GENERATED ALWAYS AS (id * 2) STORED, w text[]);
        ALTER TABLE t DROP gone;
        INSERT INTO t (v, s, w) SELECT n / 7.0, '1 day', ARRAY[repeat('x', 100), NULL] FROM generate_series(1, 5000) n;
        CREATE TABLE p (id int, v text, b bool) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
        CREATE TABLE p2 (b bool, gone int, v text, id int); ALTER TABLE p2 DROP gone;
        ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (1000) TO (9999);
        INSERT INTO p SELECT n, repeat('x', 500) || n, n % 2 = 0 FROM generate_series(1, 3000) n;
        CREATE TABLE d (id int PRIMARY KEY, a small, b int); INSERT INTO d SELECT n, n, n FROM generate_series(1, 9) n;
        CREATE TABLE x (id int PRIMARY KEY); INSERT INTO x VALUES (1), (-1);
        INSERT INTO e VALUES (1, 'glad'), (2, NULL); INSERT INTO z SELECT FROM generate_series(1, 3)"#;
    let target = r#"
        CREATE TABLE t (w text[], v numeric(6,1), id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            doubled numeric GENERATED ALWAYS AS (id * 2) STORED);
        CREATE TABLE p (v text, b bool, id int) PARTITION BY HASH (id);
        CREATE TABLE h1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE h2 (id int, b bool, v text);
        ALTER TABLE p ATTACH PARTITION h2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE d (id int PRIMARY KEY, a int, b small); CREATE TABLE x (id bigint PRIMARY KEY)"#;
    let bench = Bench::new(both, source, target).await;
    log_statements(&bench).await;
    let all = ["t", "p", "d", "e", "x", "z"];
    let snapshot = bench.export().await;
    let mut job = bench.job(&snapshot, &all, Wishes { range_bytes: 200_000, ..Wishes::default() }).await;
    // Of the publication's column list and row filter.
    job.scope.tables[0].columns.retain(|column| column.name != "s");
    job.scope.tables[0].row_filter = filter("id <= 4000 OR v > 600");
    run(job, Watcher::default()).await.0.unwrap();

    assert_equal(&bench.source, &bench.target, &["p", "d", "e", "x", "z"]).await;
    let rows = "SELECT count(*), sum(id), sum(round(v, 1)), sum(doubled), sum(length(w[1])), count(w[2]) FROM t";
    let (there, here) = (
        format!("SELECT r::text FROM ({rows} WHERE id <= 4000 OR v > 600) r"),
        format!("SELECT r::text FROM ({rows}) r"),
    );
    let there: String = bench.source.query_one(&there, &[]).await.unwrap().get(0);
    let here: String = bench.target.query_one(&here, &[]).await.unwrap().get(0);
    assert_eq!(there, here);
    let (binary, text) = copies(&bench, r#""public"."t""#);
    assert!(binary >= 4 && text == 0, "{binary} ranges in binary, {text} as text");
    let (binary, text) = copies(&bench, r#""public"."p""#);
    assert!(binary >= 6 && text == 0, "{binary} ranges in binary, {text} as text");
    for (table, formats) in [("d", (1, 0)), ("e", (0, 1)), ("x", (0, 1)), ("z", (0, 0))] {
        assert_eq!(copies(&bench, &format!(r#""public"."{table}""#)), formats, "{table}");
    }
}

#[tokio::test]
async fn rows_are_merged_in_binary_by_way_of_a_staging_table() {
    let tables = "
        CREATE DOMAIN small AS int CHECK (value < 1000);
        CREATE TABLE t
            (id int PRIMARY KEY, v numeric(7,2), s small, w timestamptz, n int GENERATED ALWAYS AS IDENTITY)";
    let rows = "
        INSERT INTO t (id, v, s, w)
        SELECT n, n / 3.0, n, now() - n * interval '1 day' FROM generate_series(1, 900) n;
        CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (5) TO (9);
        INSERT INTO p SELECT n, 'v' FROM generate_series(1, 8) n";
    let target = "INSERT INTO t (id, v) SELECT n, 0 FROM generate_series(500, 1000) n;
        CREATE TABLE p (v text, id int PRIMARY KEY); INSERT INTO p VALUES ('mine', 1)";
    let bench = Bench::new(tables, rows, target).await;
    log_statements(&bench).await;
    bench.copy(&["t", "p"], Wishes { existing_rows: ExistingRows::Merge, ..Wishes::default() }).await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t WHERE id > 900 AND v = 0").await, 100);
    bench.target.batch_execute("DELETE FROM t WHERE id > 900").await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t", "p"]).await;
    // The partitions' rows come as one stream, which is text.
    assert_eq!(copies(&bench, r#""pg_temp"."walferry_copy""#), (1, 1));
}

/// Copies table t, and changes the target's while some of its ranges are there and others are to come. Gives the copy's
/// outcome, and how many ranges were sent in binary and as text.
async fn copy_amid(bench: &Bench, change: &str) -> (Result<(), CopyError>, (usize, usize)) {
    let before = copies(bench, r#""public"."t""#);
    let proxy = Proxy::to(&bench.cluster).await;
    proxy.set(Mode::Throttle(2 << 20));
    let source_url = Some(proxy.url(&bench.source_db.name));
    let snapshot = bench.export().await;
    let wishes = Wishes { workers: 2, range_bytes: 1 << 20, source_url, ..Wishes::default() };
    let copying = tokio::spawn(run(bench.job(&snapshot, &["t"], wishes).await, Watcher::default()));
    let begun = "SELECT count(*) FROM walferry.table_state WHERE rows_copied > 0 AND state = 'copying'";
    wait_for("rows", seconds(30), async || (bench.number_on_target(begun).await > 0).then_some(())).await;
    bench.target.batch_execute(change).await.unwrap();
    proxy.set(Mode::Pass);
    let (result, watcher) = copying.await.unwrap();
    assert!(result.is_err() || watcher.troubles.lock().unwrap().is_empty(), "it was no trouble");
    let after = copies(bench, r#""public"."t""#);
    (result, (after.0 - before.0, after.1 - before.1))
}

/// Numbers of eight bytes, taken for others of eight bytes, would be garbage that nobody notices.
#[tokio::test]
async fn a_column_that_gets_another_type_on_the_target_in_the_middle_is_not_taken_for_it() {
    let rows = "INSERT INTO t SELECT n, n, n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n";
    let bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY, u float8, v bigint, w text)", rows, "").await;
    log_statements(&bench).await;
    let exchange = "ALTER TABLE t RENAME u TO x; ALTER TABLE t RENAME v TO u; ALTER TABLE t RENAME x TO v";
    for (change, undo) in
        [(exchange, exchange), ("ALTER TABLE t ALTER v TYPE float8", "ALTER TABLE t ALTER v TYPE int8")]
    {
        let (result, (binary, text)) = copy_amid(&bench, change).await;
        result.unwrap();
        assert_equal(&bench.source, &bench.target, &["t"]).await;
        assert!(binary >= 2 && text >= 1, "{binary} ranges in binary, {text} as text: {change}");
        bench.target.batch_execute(undo).await.unwrap();
    }
    // One that is gone is missed by COPY itself, in either format.
    let (result, _) = copy_amid(&bench, "ALTER TABLE t DROP v").await;
    let error = chain(&result.unwrap_err());
    assert!(error.contains("42703"), "{error}");
}

/// What text would not bring either is tried as text, and no more.
#[tokio::test]
async fn a_value_that_fits_in_no_format_halts_after_both() {
    let bench = Bench::new(
        "",
        "CREATE TABLE t (id int, v varchar); INSERT INTO t VALUES (1, 'too long')",
        "CREATE TABLE t (id int, v varchar(4))",
    )
    .await;
    log_statements(&bench).await;
    let error = bench.copy(&["t"], Wishes::default()).await.unwrap_err();
    assert!(chain(&error).contains("public.t") && chain(&error).contains("22001"), "{}", chain(&error));
    assert_eq!(copies(&bench, r#""public"."t""#), (1, 1));
    // A broken constraint is one in any format.
    bench.target.batch_execute("ALTER TABLE t ALTER v TYPE varchar, ADD CHECK (id <> 1)").await.unwrap();
    let error = bench.copy(&["t"], Wishes::default()).await.unwrap_err();
    assert!(chain(&error).contains("23514"), "{}", chain(&error));
    assert_eq!(copies(&bench, r#""public"."t""#), (2, 1));
}
