//! The initial copy, driven directly: what was at the snapshot is on the target, once, whatever happened on the way.

mod aligned;
mod apart;
mod bench;
mod binary;
mod interrupted;
mod occupied;

use std::sync::Arc;

use bench::{Bench, Watcher, Wishes, filter, run};
use walferry::error::{Judged, Verdict};
use walferry::tablesync::{CopyError, CopyState, ExistingRows, Rate};

use crate::support::prelude::*;

const ROWS: &str = "INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n";

#[tokio::test]
async fn a_table_is_copied_in_ranges_as_of_the_snapshot() {
    let bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY, v text)", ROWS, "").await;
    let snapshot = bench.export().await;
    bench.source.execute("CREATE TABLE before AS SELECT * FROM t", &[]).await.unwrap();
    let job = bench.job(&snapshot, &["t"], Wishes { range_bytes: 1 << 20, ..Wishes::default() }).await;
    bench.source.batch_execute("DELETE FROM t WHERE id < 500; UPDATE t SET v = 'new' WHERE id % 2 = 0").await.unwrap();
    bench.source.batch_execute("INSERT INTO t SELECT n, 'late' FROM generate_series(20001, 30000) n").await.unwrap();
    let (result, watcher) = run(job, Watcher::default()).await;
    result.unwrap();
    bench.target.execute("ALTER TABLE t RENAME TO before", &[]).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["before"]).await;
    let state = &bench.states().await[0];
    assert_eq!((state.state, state.rows), (CopyState::Done, 20_000));
    let seen = watcher.seen.lock().unwrap().clone();
    let (state, rows, bytes) = seen.values().next().copied().unwrap();
    assert_eq!((state, rows), (CopyState::Done, 20_000));
    assert!(bytes > 6_400_000, "{bytes}");
}

#[tokio::test]
async fn all_copies_and_their_workers_together_go_no_faster_than_they_may() {
    let both = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (LIKE t INCLUDING ALL)";
    let bench = Bench::new(both, &format!("{ROWS}; INSERT INTO u SELECT * FROM t"), "").await;
    let rate = Rate::new(8 << 20).map(Arc::new);
    let wishes = || Wishes { range_bytes: 1 << 20, rate: rate.clone(), ..Wishes::default() };
    let snapshot = bench.export().await;
    let jobs = [bench.job(&snapshot, &["t"], wishes()).await, bench.job(&snapshot, &["u"], wishes()).await];
    let begun = std::time::Instant::now();
    let [t, u] = jobs.map(|job| run(job, Watcher::default()));
    let ((t, of_t), (u, of_u)) = tokio::join!(t, u);
    let took = begun.elapsed().as_secs_f64();
    t.and(u).unwrap();
    let bytes = [of_t, of_u].map(|watcher| watcher.seen.lock().unwrap().values().next().unwrap().2);
    let least = (bytes[0] + bytes[1]) as f64 / f64::from(8 << 20);
    // Both could have gone on alone in half that time.
    assert!(took > least && least > 1.0, "{bytes:?} bytes in {took} s, where it may be no less than {least} s");
    assert_equal(&bench.source, &bench.target, &["t", "u"]).await;
}

#[tokio::test]
async fn partitions_are_read_one_by_one_and_written_through_the_root() {
    let source = "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
        CREATE TABLE p2 (v text, id int); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (1000) TO (9999);
        INSERT INTO p SELECT n, repeat('x', 500) || n FROM generate_series(1, 5000) n;
        CREATE TABLE empty (id int) PARTITION BY LIST (id)";
    let target = "CREATE TABLE p (v text, id int) PARTITION BY HASH (id);
        CREATE TABLE h1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE h2 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1); CREATE TABLE empty (id int)";
    let bench = Bench::new("", source, target).await;
    bench.copy(&["p", "empty"], Wishes { range_bytes: 200_000, ..Wishes::default() }).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["p", "empty"]).await;
    assert!(bench.states().await.iter().all(|state| state.state == CopyState::Done));
}

#[tokio::test]
async fn row_filter_and_column_list_hold_and_awkward_columns_arrive() {
    let table = r#"CREATE SCHEMA "S.s"; CREATE TABLE "S.s"."T ""t" (
        "Id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
        "a,b" text, secret text, doubled bigint GENERATED ALWAYS AS ("Id" * 2) STORED)"#;
    let rows = r#"INSERT INTO "S.s"."T ""t" ("a,b", secret)
        SELECT E'a\tb\n\\.\n' || n, 's' FROM generate_series(1, 100) n;
        INSERT INTO "S.s"."T ""t" DEFAULT VALUES"#;
    let bench =
        Bench::new(table, rows, r#"ALTER TABLE "S.s"."T ""t" DROP COLUMN secret, ADD more int DEFAULT 7"#).await;
    let snapshot = bench.export().await;
    let name = r#""S.s"."T ""t""#;
    let mut job = bench.job(&snapshot, &[name], Wishes::default()).await;
    job.scope.tables[0].columns.retain(|column| column.name != "secret");
    job.scope.tables[0].row_filter = filter(r#""Id" > 50 OR "a,b" = 'x'"#);
    run(job, Watcher::default()).await.0.unwrap();
    let all = format!(r#"SELECT string_agg(ROW("Id", "a,b", doubled)::text, '|' ORDER BY "Id") FROM {name}"#);
    let there = bench.source.query_one(&format!(r#"{all} WHERE "Id" > 50"#), &[]).await.unwrap();
    let here = bench.target.query_one(&format!("{all} WHERE more = 7"), &[]).await.unwrap();
    assert_eq!(there.get::<_, &str>(0), here.get::<_, &str>(0));
    assert_eq!(bench.states().await[0].rows, 51);
}

#[tokio::test]
async fn rows_without_columns_are_counted_over() {
    let bench =
        Bench::new("", "CREATE TABLE z (); INSERT INTO z SELECT FROM generate_series(1, 7)", "CREATE TABLE z ()").await;
    bench.copy(&["z"], Wishes::default()).await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM z").await, 7);
    let more = "DROP TABLE z; CREATE TABLE z (id int GENERATED ALWAYS AS IDENTITY, v text DEFAULT 'x')";
    bench.target.batch_execute(more).await.unwrap();
    bench.copy(&["z"], Wishes::default()).await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM z WHERE id BETWEEN 1 AND 7 AND v = 'x'").await, 7);
    assert_eq!(bench.states().await[0].rows, 7);
}

#[tokio::test]
async fn rows_that_are_there_are_refused_truncated_or_merged_with() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text, seq int GENERATED ALWAYS AS IDENTITY)";
    let bench = Bench::new(table, "INSERT INTO t (id, v) SELECT n, 'source' FROM generate_series(1, 10) n", "").await;
    let there = "INSERT INTO t (id, v) SELECT n, 'target' FROM generate_series(8, 12) n";
    bench.target.execute(there, &[]).await.unwrap();
    let with = |existing_rows| Wishes { existing_rows, ..Wishes::default() };

    let error = bench.copy(&["t"], with(ExistingRows::Refuse)).await.unwrap_err();
    assert!(matches!(&error, CopyError::Findings { findings, .. } if findings.len() == 1), "{error}");
    assert!(error.to_string().contains("public.t already holds rows"), "{error}");
    assert_eq!(bench.states().await, []);

    bench.copy(&["t"], with(ExistingRows::Merge)).await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t WHERE v = 'source' AND seq = id").await, 10);
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t WHERE v = 'target'").await, 2);
    assert_eq!(bench.states().await[0].rows, 10);

    bench.target.batch_execute("DELETE FROM walferry.table_state").await.unwrap();
    bench.copy(&["t"], with(ExistingRows::Truncate)).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn parents_come_first_where_foreign_keys_are_checked() {
    let tables = "CREATE TABLE customer (id int PRIMARY KEY);
        CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customer);
        CREATE TABLE line (orders int REFERENCES orders, n int, PRIMARY KEY (orders, n));
        CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree)";
    let rows = "INSERT INTO customer SELECT generate_series(1, 50);
        INSERT INTO orders SELECT n, n % 50 + 1 FROM generate_series(1, 5000) n;
        INSERT INTO line SELECT n % 5000 + 1, n FROM generate_series(1, 20000) n;
        INSERT INTO tree SELECT n, nullif(20001 - n, n) FROM generate_series(1, 20000) n";
    let bench = Bench::new(tables, rows, "").await;
    let all = ["line", "orders", "tree", "customer"];
    let wishes = || Wishes { replica_role: false, range_bytes: 100_000, workers: 4, ..Wishes::default() };
    bench.copy(&all, wishes()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &all).await;

    // Again, and with a table that keeps them from being truncated.
    bench.target.batch_execute("CREATE TABLE own (customer int REFERENCES customer)").await.unwrap();
    bench.source.batch_execute("DELETE FROM line WHERE n % 3 = 0; INSERT INTO customer VALUES (51)").await.unwrap();
    bench.copy(&all, wishes()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &all).await;
}

#[tokio::test]
async fn what_the_publication_does_not_publish_is_not_copied() {
    let bench =
        Bench::new("CREATE TABLE t (id int PRIMARY KEY, v text)", ROWS, "INSERT INTO t VALUES (1, 'mine')").await;
    bench.copy(&["t"], Wishes { insert_published: false, ..Wishes::default() }).await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t").await, 1);
    let state = &bench.states().await[0];
    assert_eq!((state.state, state.rows), (CopyState::Done, 0));
}

#[tokio::test]
async fn a_row_the_target_does_not_take_halts_with_table_and_sqlstate_and_leaves_nothing_open() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let bench = Bench::new(tables, ROWS, "ALTER TABLE t ADD CHECK (id <> 15000)").await;
    let error = bench.copy(&["t"], Wishes { range_bytes: 1 << 20, ..Wishes::default() }).await.unwrap_err();
    let text = walferry::error::chain(&error);
    assert!(text.contains("public.t") && text.contains("23514"), "{text}");
    assert!(matches!(error.verdict(), Verdict::Halt { .. }));
    let mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'walferry/%'";
    wait_for("the sessions to end", seconds(10), async || (bench.number_on_target(mine).await == 0).then_some(()))
        .await;
    bench.target.batch_execute("ALTER TABLE t DROP CONSTRAINT t_id_check").await.unwrap();
    bench.copy(&["t"], Wishes::default()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}
