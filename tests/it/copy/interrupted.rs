//! A copy that is stopped, cut, taken over or overtaken by the source: no row is lost, none comes twice.

use std::sync::Arc;

use walferry::error::{Judged, Verdict};
use walferry::source::publication::PublishedTable;
use walferry::tablesync::{CopyError, CopyState, ExistingRows, pending, state};

use super::bench::{Bench, Watcher, Wishes, client, run};
use crate::support::prelude::*;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)";
const ROWS: &str = "INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n;
    INSERT INTO u SELECT generate_series(1, 10)";

fn small_ranges() -> Wishes {
    Wishes { range_bytes: 1 << 20, ..Wishes::default() }
}

#[tokio::test]
async fn a_table_stopped_in_the_middle_is_emptied_and_copied_again_under_a_new_snapshot() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    bench.copy(&["u"], Wishes::default()).await.unwrap();
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &["t"], Wishes { workers: 1, ..small_ranges() }).await;
    let watcher = Watcher { stop_at_rows: Some(1), ..Watcher::default() };
    let (result, _) = run(job, watcher).await;
    assert!(matches!(result, Err(CopyError::Cancelled)), "{result:?}");
    let states = bench.states().await;
    assert_eq!(states[0].state, CopyState::Copying);
    let here = bench.number_on_target("SELECT count(*) FROM t").await;
    assert!(here > 0 && here < 20_000 && here == i64::try_from(states[0].rows).unwrap(), "{here} {states:?}");
    drop(snapshot);

    bench.source.batch_execute("DELETE FROM t WHERE id < 9000; INSERT INTO t VALUES (90000, 'new')").await.unwrap();
    let published = [bench.published("t").await, bench.published("u").await];
    let now = pending(&client(&bench.target_db).await, "s", &published, true).await.unwrap();
    assert_eq!(now.iter().map(|table| table.name.name.as_str()).collect::<Vec<_>>(), ["t"]);
    bench.copy(&["t"], small_ranges()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t", "u"]).await;
    let states = bench.states().await;
    assert!(states[0].copy_lsn > states[1].copy_lsn, "{states:?}");
}

#[tokio::test]
async fn a_dropped_job_leaves_no_session_and_can_be_followed_by_another() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    let snapshot = bench.export().await;
    // The target's table is locked, so the job hangs in its first range until it is dropped.
    let job = Arc::new(bench.job(&snapshot, &["t"], small_ranges()).await);
    bench.copy(&["u"], Wishes::default()).await.unwrap();
    bench
        .target
        .batch_execute("INSERT INTO walferry.table_state SELECT 's', 'public', 't', 'copying', 'x', '0/1'")
        .await
        .unwrap();
    bench.target.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.unwrap();
    let watcher = Arc::new(Watcher::default());
    let copying = walferry::tablesync::copy(job, watcher.clone(), &watcher.cancel);
    let other = bench.cluster.connect(&bench.target_db.name).await;
    let blocked = "SELECT FROM pg_locks WHERE NOT granted";
    let is_blocked = async || (!other.query(blocked, &[]).await.unwrap().is_empty()).then_some(());
    tokio::select! {
        result = copying => panic!("{result:?}"),
        () = wait_for("the job to wait", seconds(20), is_blocked) => {}
    }
    bench.target.batch_execute("COMMIT").await.unwrap();
    bench.copy(&["t"], small_ranges()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t", "u"]).await;
}

#[tokio::test]
async fn connections_cut_on_either_side_are_met_under_the_same_snapshot() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    let (to_source, to_target) = (Proxy::to(&bench.cluster).await, Proxy::to(&bench.cluster).await);
    let wishes = Wishes {
        source_url: Some(to_source.url(&bench.source_db.name)),
        target_url: Some(to_target.url(&bench.target_db.name)),
        ..small_ranges()
    };
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &["t", "u"], wishes).await;
    to_source.set(Mode::Throttle(2 << 20));
    let copying = tokio::spawn(run(job, Watcher::default()));
    for (proxy, at) in [(&to_source, 1 << 20), (&to_target, 3 << 20)] {
        let carried = async || (to_source.bytes_to_client() > at).then_some(());
        wait_for("bytes to flow", seconds(30), carried).await;
        proxy.cut();
    }
    copying.await.unwrap().0.unwrap();
    assert_equal(&bench.source, &bench.target, &["t", "u"]).await;
    assert_eq!(bench.states().await[0].rows, 20_000);
}

/// On the target: COMMIT of rows in `u` waits for advisory lock 1.
const SLOW_COMMIT: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait()";

/// The job hangs in COMMIT; then `meanwhile` happens, and the lock is released when it asks for that.
async fn at_commit(meanwhile: impl AsyncFnOnce(&Bench, &Proxy)) -> Bench {
    let bench = Bench::new(TABLE, ROWS, SLOW_COMMIT).await;
    let proxy = Proxy::to(&bench.cluster).await;
    let target_url = Some(proxy.url(&bench.target_db.name));
    bench.target.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &["u"], Wishes { replica_role: false, target_url, ..Wishes::default() }).await;
    let copying = tokio::spawn(run(job, Watcher::default()));
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_for("COMMIT to wait", seconds(30), async || (bench.number_on_target(waits).await > 0).then_some(())).await;
    meanwhile(&bench, &proxy).await;
    copying.await.unwrap().0.unwrap();
    bench
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_recognized() {
    let bench = at_commit(async |bench, proxy| {
        proxy.set(Mode::MuteServer);
        bench.target.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
        let done = "SELECT count(*) FROM walferry.table_state WHERE state = 'done'";
        wait_for("the commit", seconds(30), async || (bench.number_on_target(done).await == 1).then_some(())).await;
        proxy.cut();
        proxy.set(Mode::Pass);
    })
    .await;
    assert_equal(&bench.source, &bench.target, &["u"]).await;
    assert_eq!(bench.states().await[0].rows, 10);
}

#[tokio::test]
async fn a_commit_that_did_not_happen_is_repeated() {
    let bench = at_commit(async |bench, _| {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        bench.target.batch_execute(end).await.unwrap();
        bench.target.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    })
    .await;
    assert_equal(&bench.source, &bench.target, &["u"]).await;
    assert_eq!(bench.states().await[0].rows, 10);
}

#[tokio::test]
async fn another_run_waits_for_the_rows_under_way_and_then_ends_the_first() {
    let bench = Bench::new(TABLE, ROWS, SLOW_COMMIT).await;
    bench.target.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let snapshot = bench.export().await;
    let without_role = || Wishes { replica_role: false, workers: 1, ..small_ranges() };
    let first = bench.job(&snapshot, &["u"], without_role()).await;
    let second = bench.job(&snapshot, &["u"], without_role()).await;
    let first = tokio::spawn(run(first, Watcher::default()));
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_for("COMMIT to wait", seconds(30), async || (bench.number_on_target(waits).await > 0).then_some(())).await;
    let second = tokio::spawn(run(second, Watcher::default()));
    let row = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%table_state%'";
    wait_for("the second to wait", seconds(30), async || (bench.number_on_target(row).await > 0).then_some(())).await;
    bench.target.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    // The first had all its rows in by then; the second empties the table and copies again.
    first.await.unwrap().0.unwrap();
    second.await.unwrap().0.unwrap();
    assert_equal(&bench.source, &bench.target, &["u"]).await;
}

#[tokio::test]
async fn a_run_that_is_no_longer_the_copier_stops_at_the_fence() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    let snapshot = bench.export().await;
    let proxy = Proxy::to(&bench.cluster).await;
    proxy.set(Mode::Throttle(2 << 20));
    let source_url = Some(proxy.url(&bench.source_db.name));
    let job = bench.job(&snapshot, &["t"], Wishes { workers: 1, source_url, ..small_ranges() }).await;
    let taker = client(&bench.target_db).await;
    let copying = tokio::spawn(run(job, Watcher::default()));
    let begun = "SELECT count(*) FROM walferry.table_state WHERE rows_copied > 0";
    wait_for("rows", seconds(30), async || (bench.number_on_target(begun).await > 0).then_some(())).await;
    state::begin_again(&taker, "s").await.unwrap();
    let rows = "SELECT count(*) FROM t";
    let at_take_over = bench.number_on_target(rows).await;
    let error = copying.await.unwrap().0.unwrap_err();
    assert!(matches!(error, CopyError::TakenOver { .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Retry);
    assert_eq!(bench.number_on_target(rows).await, at_take_over);
    // What is there is known to be half of a table.
    let state = &bench.states().await[0];
    assert_eq!((state.state, i64::try_from(state.rows).unwrap()), (CopyState::Copying, at_take_over));
}

/// As after a failover to a server that did not have the last commits.
#[tokio::test]
async fn rows_that_are_no_longer_counted_on_the_target_are_not_counted_on() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    let snapshot = bench.export().await;
    let proxy = Proxy::to(&bench.cluster).await;
    proxy.set(Mode::Throttle(2 << 20));
    let source_url = Some(proxy.url(&bench.source_db.name));
    let job = bench.job(&snapshot, &["t"], Wishes { workers: 1, source_url, ..small_ranges() }).await;
    let copying = tokio::spawn(run(job, Watcher::default()));
    let forget = "UPDATE walferry.table_state SET rows_copied = 0 WHERE rows_copied > 0 RETURNING 1";
    let forgotten = async || (!bench.target.query(forget, &[]).await.unwrap().is_empty()).then_some(());
    wait_for("rows", seconds(30), forgotten).await;
    let at_that = bench.number_on_target("SELECT count(*) FROM t").await;
    let error = copying.await.unwrap().0.unwrap_err();
    assert!(matches!(error, CopyError::TakenOver { .. }), "{error}");
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t").await, at_that, "rows without being counted");
    bench.copy(&["t"], small_ranges()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}

#[tokio::test]
async fn a_snapshot_that_is_gone_asks_for_a_new_one() {
    let bench = Bench::new(TABLE, ROWS, "").await;
    let snapshot = bench.export().await;
    let job = bench.job(&snapshot, &["t"], Wishes::default()).await;
    drop(snapshot);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    wait_for("the holder to go", seconds(10), async || (bench.number_on_target(sessions).await == 0).then_some(()))
        .await;
    let error = run(job, Watcher::default()).await.0.unwrap_err();
    assert!(matches!(error, CopyError::SnapshotLost { .. }), "{error}");
    assert_eq!(error.verdict(), Verdict::Retry);
}

#[tokio::test]
async fn a_table_rewritten_since_the_snapshot_is_not_taken_for_empty() {
    for change in ["TRUNCATE t", "ALTER TABLE t ALTER id TYPE bigint", "VACUUM FULL t", "ALTER TABLE t DROP v"] {
        let bench = Bench::new(TABLE, ROWS, "").await;
        let snapshot = bench.export().await;
        let job = bench.job(&snapshot, &["t"], Wishes::default()).await;
        bench.source.batch_execute(change).await.unwrap();
        let error = run(job, Watcher::default()).await.0.unwrap_err();
        assert!(matches!(error, CopyError::SourceChanged { .. }), "{change}: {error}");
        assert_eq!(bench.number_on_target("SELECT count(*) FROM t").await, 0);
    }
}

#[tokio::test]
async fn finished_tables_tied_by_foreign_keys_are_copied_again_with_an_unfinished_one() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
        CREATE TABLE c (id int PRIMARY KEY)";
    let bench =
        Bench::new(tables, "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1); INSERT INTO c VALUES (1)", "").await;
    let wishes = || Wishes { replica_role: false, ..Wishes::default() };
    bench.copy(&["a", "c"], wishes()).await.unwrap();
    bench.source.batch_execute("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2, 2)").await.unwrap();
    let published = [bench.published("a").await, bench.published("b").await, bench.published("c").await];
    let target = client(&bench.target_db).await;
    let with = |now: Vec<PublishedTable>| now.into_iter().map(|t| t.name.name).collect::<Vec<_>>();
    assert_eq!(with(pending(&target, "s", &published, true).await.unwrap()), ["b"]);
    assert_eq!(with(pending(&target, "s", &published, false).await.unwrap()), ["a", "b"]);
    bench.copy(&["a", "b"], wishes()).await.unwrap();
    assert_equal(&bench.source, &bench.target, &["a", "b", "c"]).await;
    assert!(state::forget(&target, "s", &published[2].name).await.unwrap());
    assert_eq!(with(pending(&target, "s", &published, true).await.unwrap()), ["c"]);
}

#[tokio::test]
async fn a_merge_that_was_stopped_has_not_happened() {
    let bench = Bench::new(TABLE, ROWS, "INSERT INTO t VALUES (-1, 'mine'), (1, 'old')").await;
    let merge = || Wishes { existing_rows: ExistingRows::Merge, ..small_ranges() };
    let proxy = Proxy::to(&bench.cluster).await;
    proxy.set(Mode::Throttle(2 << 20));
    let snapshot = bench.export().await;
    let source_url = Some(proxy.url(&bench.source_db.name));
    let job = bench.job(&snapshot, &["t"], Wishes { source_url, ..merge() }).await;
    let watcher = Watcher::default();
    let cancel = watcher.cancel.clone();
    let copying = tokio::spawn(run(job, watcher));
    wait_for("bytes", seconds(30), async || (proxy.bytes_to_client() > 1 << 20).then_some(())).await;
    cancel.cancel();
    assert!(matches!(copying.await.unwrap().0, Err(CopyError::Cancelled)));
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t WHERE v IN ('mine', 'old')").await, 2);
    bench.copy(&["t"], merge()).await.unwrap();
    assert_eq!(bench.number_on_target("SELECT count(*) FROM t WHERE v = 'mine'").await, 1);
    bench.target.batch_execute("DELETE FROM t WHERE id = -1").await.unwrap();
    assert_equal(&bench.source, &bench.target, &["t"]).await;
}
