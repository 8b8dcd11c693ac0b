//! With `copy.mode = "merge"` a table that is copied again becomes what the source has, in its place.

use walferry::tablesync::{CopyError, CopyMode, CopyState, ExistingRows, Matter};

use super::ROWS;
use super::bench::{Bench, Watcher, Wishes, client, run};
use crate::support::pair::{run as execute, text};
use crate::support::prelude::*;

fn merge() -> Wishes {
    Wishes { mode: CopyMode::Merge, ..Wishes::default() }
}

/// Which version each of these rows of a table is in: one that was not touched keeps its own.
async fn versions(bench: &Bench, rows: &str) -> String {
    let query = format!("SELECT string_agg(id || ' ' || tableoid || ctid || xmin, ', ' ORDER BY id) FROM {rows}");
    text(&bench.target, &query).await.unwrap()
}

#[tokio::test]
async fn what_differs_is_written_what_the_source_has_not_goes_and_what_is_the_same_is_not_touched() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n numeric, place point, doc json,
            page xml, big text, seq int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (id * 2) STORED);
        ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
        CREATE TABLE p (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
        CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (parent)";
    let rows =
        "INSERT INTO t (id, code, n, place, doc, page, big) SELECT n, 'code ' || n, n, point(n, n), '{\"a\": 1}',
            '<a/>', repeat(n::text, 5000) FROM generate_series(1, 200) n;
        INSERT INTO p SELECT n, n, 'v' FROM generate_series(1, 199) n;
        INSERT INTO parent SELECT n, 'v' FROM generate_series(1, 9) n";
    let bench = Bench::new(tables, rows, "INSERT INTO child VALUES (1, 'its own')").await;
    let all = ["t", "p", "parent"];
    bench.copy(&["t", "p"], merge()).await.unwrap();
    bench.copy(&["parent"], merge()).await.unwrap();
    let before = [versions(&bench, "t WHERE id > 20").await, versions(&bench, "p WHERE id > 20").await];
    assert_eq!(versions(&bench, "t").await.split(", ").count(), 200);

    let on_source = "UPDATE t SET n = 1.00 WHERE id = 1; UPDATE t SET doc = '{\"a\":1}' WHERE id = 2;
        UPDATE t SET place = '(7,7)' WHERE id = 3; UPDATE t SET big = big || 'x' WHERE id = 4;
        UPDATE t SET n = NULL, page = NULL WHERE id = 5; UPDATE t SET seq = DEFAULT WHERE id = 6;
        DELETE FROM t WHERE id = 7; UPDATE t SET id = 1007 WHERE id = 8;
        INSERT INTO t (id, code) VALUES (1008, 'new');
        UPDATE t SET code = 'between' WHERE id = 9; UPDATE t SET code = 'code 9' WHERE id = 10;
        UPDATE t SET code = 'code 10' WHERE id = 9;
        UPDATE p SET at = 150 WHERE id = 1; DELETE FROM p WHERE id = 2; UPDATE p SET v = 'w' WHERE id = 3;
        UPDATE parent SET v = 'w' WHERE id = 1; DELETE FROM parent WHERE id = 2";
    // Somebody has written on the target, too.
    let on_target = "UPDATE t SET code = 'not so' WHERE id = 11; DELETE FROM t WHERE id = 12;
        INSERT INTO t (id, code) VALUES (5000, 'only here'); INSERT INTO p VALUES (5000, 5, 'only here')";
    execute(&bench.source, on_source).await;
    execute(&bench.target, on_target).await;
    bench.copy(&all, merge()).await.unwrap();
    let after = [versions(&bench, "t WHERE id BETWEEN 21 AND 200").await, versions(&bench, "p WHERE id > 20").await];
    assert_eq!(after, before);
    // By the key, as it is on both sides; `parent` without the child that only the target has filled.
    assert_eq!(text(&bench.target, "SELECT count(*) FROM child WHERE v = 'its own'").await.unwrap(), "1");
    execute(&bench.target, "TRUNCATE child").await;
    assert_equal(&bench.source, &bench.target, &all).await;
    assert!(bench.states().await.iter().all(|state| state.state == CopyState::Done));
}

#[tokio::test]
async fn readers_never_miss_a_row_and_a_copy_that_is_stopped_has_changed_nothing() {
    let bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY, v text)", ROWS, "").await;
    bench.copy(&["t"], merge()).await.unwrap();
    execute(&bench.source, "UPDATE t SET v = 'new' WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0").await;
    let before = versions(&bench, "t").await;
    let proxy = Proxy::to(&bench.cluster).await;
    proxy.set(Mode::Throttle(2 << 20));
    let snapshot = bench.export().await;
    let slowly = || Wishes { source_url: Some(proxy.url(&bench.source_db.name)), ..merge() };
    let watcher = Watcher::default();
    let cancel = watcher.cancel.clone();
    let copying = tokio::spawn(run(bench.job(&snapshot, &["t"], slowly()).await, watcher));
    wait_for("bytes", seconds(30), async || (proxy.bytes_to_client() > 1 << 20).then_some(())).await;
    assert_eq!(versions(&bench, "t").await, before, "while it is copied");
    cancel.cancel();
    assert!(matches!(copying.await.unwrap().0, Err(CopyError::Cancelled)));
    assert_eq!(versions(&bench, "t").await, before, "after it was stopped");
    bench.copy(&["t"], merge()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn half_a_first_copy_is_emptied_and_a_table_never_copied_is_as_refused_or_truncated_as_ever() {
    let bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY, v text)", ROWS, "").await;
    let refused = "INSERT INTO t VALUES (-1, 'mine')";
    execute(&bench.target, refused).await;
    let error = bench.copy(&["t"], merge()).await.unwrap_err();
    assert!(error.to_string().contains("public.t already holds rows"), "{error}");
    let truncating = || Wishes { existing_rows: ExistingRows::Truncate, range_bytes: 1 << 20, workers: 1, ..merge() };
    let snapshot = bench.export().await;
    let watcher = Watcher { stop_at_rows: Some(1), ..Watcher::default() };
    let (stopped, _) = run(bench.job(&snapshot, &["t"], truncating()).await, watcher).await;
    assert!(matches!(stopped, Err(CopyError::Cancelled)), "{stopped:?}");
    let half = &bench.states().await[0];
    assert!(half.state == CopyState::Copying && half.rows > 0, "{half:?}");
    // What the source deletes now must not stay of the half that is there.
    execute(&bench.source, "DELETE FROM t WHERE id < 5000").await;
    bench.copy(&["t"], Wishes { range_bytes: 1 << 20, ..merge() }).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn what_cannot_be_merged_is_emptied_and_said_to_be() {
    let tables = "CREATE TABLE keyless (v text); CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent); CREATE TABLE free (id int PRIMARY KEY)";
    let rows = "INSERT INTO keyless VALUES ('a'), ('a'); INSERT INTO parent VALUES (1), (2), (3);
        INSERT INTO child VALUES (1, 1), (2, 2), (3, 3); INSERT INTO free VALUES (1), (2), (3)";
    let bench = Bench::new(tables, rows, "").await;
    let all = ["keyless", "parent", "child", "free"];
    let checked = || Wishes { replica_role: false, ..merge() };
    bench.copy(&all, checked()).await.unwrap();
    let free = versions(&bench, "free WHERE id > 1").await;
    let delete = "DELETE FROM child WHERE id = 1; DELETE FROM parent WHERE id = 1; DELETE FROM free WHERE id = 1";
    execute(&bench.source, delete).await;
    execute(&bench.source, "INSERT INTO keyless VALUES ('b')").await;
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &all, checked()).await;
    let target = client(&bench.target_db).await;
    let findings = walferry::tablesync::preflight(&target, &job.scope).await.unwrap();
    let emptied: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.matter == Matter::NotMerged)
        .map(|finding| finding.table.name.as_str())
        .collect();
    assert_eq!(emptied, ["keyless", "parent", "child"]);
    run(job, Watcher::default()).await.0.unwrap();
    assert_equal(&bench.source, &bench.target, &all).await;
    assert_eq!(versions(&bench, "free").await, free);
    // In the replica role foreign keys tie nothing.
    let parent = versions(&bench, "parent WHERE id > 2").await;
    execute(&bench.source, "DELETE FROM child WHERE id = 2; DELETE FROM parent WHERE id = 2").await;
    bench.copy(&all, merge()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &all).await;
    assert_eq!(versions(&bench, "parent").await, parent);
}

#[tokio::test]
async fn keys_may_be_of_any_type() {
    let tables = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad'); CREATE DOMAIN feeling AS mood;
        CREATE TYPE place AS (x int, y int); CREATE TABLE felt (at feeling PRIMARY KEY, v text);
        CREATE TABLE seen (id int, at place, how feeling, v text, PRIMARY KEY (id, at, how))";
    let rows = "INSERT INTO felt VALUES ('sad', 'a'), ('ok', 'b'), ('glad', 'c');
        INSERT INTO seen SELECT n, ROW(n, -n)::place, 'ok', 'v' FROM generate_series(1, 100) n";
    let bench = Bench::new(tables, rows, "").await;
    bench.copy(&["felt", "seen"], merge()).await.unwrap();
    let rows =
        |table: &str| format!("SELECT string_agg(t || ' ' || xmin, ', ' ORDER BY t) FROM {table} t WHERE v = 'c'");
    let before = text(&bench.target, &rows("felt")).await;
    execute(&bench.source, "UPDATE felt SET v = 'new' WHERE at::mood = 'sad'; DELETE FROM felt WHERE v = 'b'").await;
    execute(&bench.source, "UPDATE seen SET at = ROW(0, 0)::place WHERE id = 1; DELETE FROM seen WHERE id = 2").await;
    bench.copy(&["felt", "seen"], merge()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["felt", "seen"]).await;
    assert_eq!(text(&bench.target, &rows("felt")).await, before, "it was touched");
}

#[tokio::test]
async fn what_was_written_before_and_is_committed_meanwhile_is_compared_too() {
    let bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY, v text)", ROWS, "").await;
    bench.copy(&["t"], merge()).await.unwrap();
    let late = bench.cluster.connect(&bench.target_db.name).await;
    execute(&late, "BEGIN; INSERT INTO t VALUES (-1, 'late'); UPDATE t SET v = 'late' WHERE id = 1").await;
    let snapshot = bench.export().await;
    let copying = tokio::spawn(run(bench.job(&snapshot, &["t"], merge()).await, Watcher::default()));
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    let waits = async || (text(&bench.target, waits).await.as_deref() == Some("1")).then_some(());
    wait_for("the copy to wait for it", seconds(30), waits).await;
    execute(&late, "COMMIT").await;
    copying.await.unwrap().0.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn rows_that_stay_or_are_there_twice_are_told_of_and_nothing_is_changed() {
    let tables = "CREATE TABLE kept (id int PRIMARY KEY, v text); CREATE TABLE twice (id int, v text)";
    let rows = "INSERT INTO kept VALUES (1, 'a'), (2, 'b'); INSERT INTO twice VALUES (1, 'a'), (2, 'b');
        ALTER TABLE twice REPLICA IDENTITY FULL";
    let keeping = "ALTER TABLE twice ADD PRIMARY KEY (id);
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE DELETE ON kept FOR EACH ROW EXECUTE FUNCTION keep();
        ALTER TABLE kept ENABLE ALWAYS TRIGGER keep";
    let bench = Bench::new(tables, rows, keeping).await;
    bench.copy(&["kept", "twice"], merge()).await.unwrap();
    execute(&bench.source, "UPDATE kept SET v = 'new' WHERE id = 1; INSERT INTO twice VALUES (2, 'b')").await;
    for table in ["kept", "twice"] {
        let before = versions(&bench, table).await;
        let error = walferry::error::chain(&bench.copy(&[table], merge()).await.unwrap_err());
        assert!(error.contains(&format!("{table}_pkey")), "{error}");
        assert_eq!(versions(&bench, table).await, before);
    }
}
