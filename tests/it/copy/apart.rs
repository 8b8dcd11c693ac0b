//! What a copy must not touch, and what must not hold it up: found before anything is emptied; set aside; given up.

use std::time::Duration;

use walferry::error::{Judged, Verdict, chain};
use walferry::tablesync::{CopyError, CopyState};

use super::bench::{Bench, Watcher, Wishes, run};
use crate::support::prelude::*;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";
const ROWS: &str = "INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n";

/// Rows of a table that only the target has must survive what is done to a table they refer to.
#[tokio::test]
async fn a_table_that_is_not_copied_loses_no_rows_by_on_delete_cascade() {
    let bench = Bench::new(
        "CREATE TABLE orders (id int PRIMARY KEY)",
        "INSERT INTO orders SELECT generate_series(1, 9)",
        "CREATE TABLE note (orders int REFERENCES orders ON DELETE CASCADE);
         CREATE TABLE mark (orders int REFERENCES orders ON DELETE SET NULL)",
    )
    .await;
    let without = || Wishes { replica_role: false, ..Wishes::default() };
    // Nothing to lose: it is copied, also again.
    bench.copy(&["orders"], without()).await.unwrap();
    bench.copy(&["orders"], without()).await.unwrap();
    bench.target.batch_execute("INSERT INTO note VALUES (1), (2); INSERT INTO mark VALUES (3)").await.unwrap();
    let error = bench.copy(&["orders"], without()).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("table public.note (ON DELETE CASCADE)"), "{said}");
    assert!(said.contains("table public.mark (ON DELETE SET NULL)"), "{said}");
    assert!(matches!(error.verdict(), Verdict::Halt { .. }));
    assert_eq!(bench.number_on_target("SELECT count(*) FROM note").await, 2);
    assert_eq!(bench.number_on_target("SELECT count(orders) FROM mark").await, 1);
    assert_eq!(bench.number_on_target("SELECT count(*) FROM orders").await, 9);
    // With the replica role no foreign key is at work.
    bench.source.batch_execute("INSERT INTO orders VALUES (10)").await.unwrap();
    bench.copy(&["orders"], Wishes::default()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["orders"]).await;
    assert_eq!(bench.number_on_target("SELECT count(orders) FROM note").await, 2);
}

#[tokio::test]
async fn a_partitioned_table_whose_leaves_are_copied_loses_nothing_that_is_not() {
    let tables = "CREATE TABLE customer (id int PRIMARY KEY);
        CREATE TABLE orders (id int, customer int REFERENCES customer ON DELETE CASCADE) PARTITION BY RANGE (id);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
        CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20)";
    let rows = "INSERT INTO customer VALUES (1), (2); INSERT INTO orders VALUES (1, 1), (11, 2)";
    let bench = Bench::new(tables, rows, "").await;
    let without = || Wishes { replica_role: false, ..Wishes::default() };
    let all = ["customer", "orders_1", "orders_2"];
    bench.copy(&all, without()).await.unwrap();
    // What it holds now is emptied first.
    bench.copy(&all, without()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &all).await;
    // Without one of the leaves, it would lose that one's rows.
    let error = bench.copy(&["customer", "orders_1"], without()).await.unwrap_err();
    assert!(error.to_string().contains("table public.orders_2 (ON DELETE CASCADE)"), "{error}");
    assert_equal(&bench.source, &bench.target, &all).await;
}

#[tokio::test]
async fn what_the_source_refuses_is_said_before_the_target_is_emptied() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    bench.copy(&["t"], Wishes::default()).await.unwrap();
    bench.source.batch_execute("CREATE ROLE reader LOGIN").await.unwrap();
    let as_reader =
        || Wishes { source_url: Some(bench.cluster.url_as("reader", &bench.source_db.name)), ..Wishes::default() };
    let refused = async |says: &str| {
        let error = bench.copy(&["t"], as_reader()).await.unwrap_err();
        assert!(matches!(error, CopyError::Findings { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(bench.number_on_target("SELECT count(*) FROM t").await, 20_000);
        assert_eq!(bench.states().await[0].state, CopyState::Done);
    };
    bench.source.batch_execute("GRANT SELECT (id) ON t TO reader").await.unwrap();
    refused(r#"run there GRANT SELECT ON TABLE "public"."t" TO "reader""#).await;
    bench
        .source
        .batch_execute("GRANT SELECT (v) ON t TO reader; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        .await
        .unwrap();
    refused(r#"run there ALTER ROLE "reader" BYPASSRLS"#).await;
    bench.source.batch_execute("ALTER ROLE reader BYPASSRLS; DELETE FROM t WHERE id < 9").await.unwrap();
    bench.copy(&["t"], as_reader()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn a_reader_that_keeps_the_table_from_being_emptied_is_named() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    bench.copy(&["t"], Wishes::default()).await.unwrap();
    bench.target.batch_execute("SET application_name = 'a report'; BEGIN; SELECT FROM t LIMIT 1").await.unwrap();
    let impatient = || Wishes { lock_timeout: Some(Duration::from_millis(200)), ..Wishes::default() };
    let error = bench.copy(&["t"], impatient()).await.unwrap_err();
    let said = chain(&error);
    assert!(matches!(error, CopyError::Blocked { .. }), "{said}");
    assert!(said.contains("(a report, idle in transaction)") && said.contains("apply.lock_timeout"), "{said}");
    assert_eq!(error.verdict(), Verdict::Retry);
    bench.target.batch_execute("COMMIT").await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t").await, 20_000);
    bench.copy(&["t"], impatient()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn a_table_that_fails_by_itself_costs_no_other_its_copy() {
    let tables = "CREATE TABLE bad (id int PRIMARY KEY, v text); CREATE TABLE t (id int PRIMARY KEY, v text);
        CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY REFERENCES bad);
        CREATE TABLE grandchild (id int PRIMARY KEY REFERENCES child);
        CREATE TABLE other (id int PRIMARY KEY REFERENCES u)";
    let rows = format!(
        "{ROWS}; INSERT INTO bad SELECT * FROM t; INSERT INTO bad SELECT id + 20000, v FROM t;
         INSERT INTO u SELECT generate_series(1, 10); INSERT INTO child SELECT * FROM u;
         INSERT INTO grandchild SELECT * FROM u; INSERT INTO other SELECT * FROM u"
    );
    let bench = Bench::new(tables, &rows, "ALTER TABLE bad ADD CHECK (id <> 100)").await;
    let all = ["bad", "t", "u", "child", "grandchild", "other"];
    let wishes = || Wishes { range_bytes: 1 << 20, workers: 2, ..Wishes::default() };
    let without = || Wishes { replica_role: false, ..wishes() };
    let done = async || {
        let states = bench.states().await.into_iter();
        states.filter(|state| state.state == CopyState::Done).map(|state| state.name.name).collect::<Vec<_>>()
    };

    let snapshot = bench.export().await;
    let (result, watcher) = run(bench.job(&snapshot, &all, without()).await, Watcher::default()).await;
    let error = result.unwrap_err();
    assert!(chain(&error).contains("public.bad") && chain(&error).contains("23514"), "{error}");
    assert!(matches!(error.verdict(), Verdict::Halt { .. }));
    assert_eq!(done().await, ["other", "t", "u"]);
    assert!(bench.states().await.iter().all(|state| state.origin.is_some()), "what was copied is not known any more");
    assert_equal(&bench.source, &bench.target, &["t", "u", "other"]).await;
    assert!(watcher.troubles.lock().unwrap().iter().any(|said| said.contains("public.bad")));

    // Where keys are not checked nobody waits; and a table that is emptied again and again on the source is likewise
    // its own affair.
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &all, wishes()).await;
    bench.target.batch_execute("ALTER TABLE bad DROP CONSTRAINT bad_id_check").await.unwrap();
    bench.source.batch_execute("TRUNCATE bad CASCADE").await.unwrap();
    bench.source.batch_execute("INSERT INTO bad VALUES (1)").await.unwrap();
    let error = run(job, Watcher::default()).await.0.unwrap_err();
    assert!(matches!(error, CopyError::SourceChanged { .. }), "{error}");
    assert_eq!(done().await, ["other", "t", "u"]);
    bench.copy(&["bad", "child", "grandchild"], without()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &all).await;
}

/// Gives the error with which a copy ends whose target is met by this in the middle.
async fn given_up(mode: Mode) -> (CopyError, Vec<String>) {
    let bench = Bench::new(TABLE, ROWS, "").await;
    let (to_source, to_target) = (Proxy::to(&bench.cluster).await, Proxy::to(&bench.cluster).await);
    let wishes = Wishes {
        source_url: Some(to_source.url(&bench.source_db.name)),
        target_url: Some(to_target.url(&bench.target_db.name)),
        patience: Duration::from_secs(2),
        range_bytes: 1 << 20,
        ..Wishes::default()
    };
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &["t"], wishes).await;
    to_source.set(Mode::Throttle(1 << 20));
    let copying = tokio::spawn(run(job, Watcher::default()));
    let carried = async || (to_target.bytes_to_server() > 1 << 18).then_some(());
    wait_for("rows to flow", seconds(60), carried).await;
    to_target.set(mode);
    let (result, watcher) = tokio::time::timeout(Duration::from_secs(100), copying).await.expect("it goes on").unwrap();
    to_target.set(Mode::Pass);
    let troubles = watcher.troubles.lock().unwrap().clone();
    (result.unwrap_err(), troubles)
}

#[tokio::test]
async fn a_target_that_stays_away_does_not_hold_the_sources_snapshot_for_ever() {
    let (error, troubles) = given_up(Mode::Refuse).await;
    // Whoever finds out first: the workers, or the one that asks.
    assert!(matches!(error, CopyError::Target { .. } | CopyError::Hung { source: Some(_), .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Retry);
    assert!(!troubles.is_empty(), "nobody was told meanwhile");
}

#[tokio::test]
async fn a_target_that_answers_and_never_lets_the_copy_get_on_does_not_hold_the_snapshot_either() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    bench.target.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.unwrap();
    let lock_timeout = Some(Duration::from_millis(100));
    let error =
        bench.copy(&["t"], Wishes { lock_timeout, patience: Duration::from_secs(2), ..Wishes::default() }).await;
    let error = error.unwrap_err();
    assert!(chain(&error).contains("55P03"), "{}", chain(&error));
    assert_eq!(error.verdict(), Verdict::Retry);
    bench.target.batch_execute("COMMIT").await.unwrap();
    bench.copy(&["t"], Wishes::default()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn a_target_that_hangs_does_not_hold_the_sources_snapshot_for_ever() {
    let (error, _) = given_up(Mode::Stall).await;
    assert!(matches!(error, CopyError::Hung { .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Retry);
}
