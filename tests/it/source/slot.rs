//! Slots: created with a snapshot at their consistent point, refused when foreign or lost, dropped.

use walferry::postgres::WireConnection;
use walferry::source::SourceError;
use walferry::source::slot::{self, Snapshot};
use walferry::sql::Sql;

use super::*;

async fn rows_under(client: &Client, snapshot: &Snapshot) -> i64 {
    client.batch(&Sql::new("BEGIN ISOLATION LEVEL REPEATABLE READ")).await.unwrap();
    let adopt = Sql::format("SET TRANSACTION SNAPSHOT {}", &[&Sql::literal(&snapshot.name)]);
    client.batch(&adopt).await.unwrap();
    let count = client.query_one(&Sql::new("SELECT count(*) FROM public.t"), &[]).await.unwrap().get(0);
    client.batch(&Sql::new("COMMIT")).await.unwrap();
    count
}

#[tokio::test]
async fn a_slot_comes_with_a_snapshot_that_lives_as_long_as_its_connection() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let db = cluster.create_database().await;
        cluster.execute(&db.name, "CREATE TABLE t AS SELECT 1 AS a").await;
        let (catalogue, reader) = (client(&db.url).await, client(&db.url).await);
        let mut snapshot = slot::create(replication(&db.url).await, "s", false, true, &catalogue).await.unwrap();
        cluster.execute(&db.name, "INSERT INTO t VALUES (2)").await;
        assert_eq!(rows_under(&reader, &snapshot).await, 1);
        assert!(snapshot.is_alive());

        let seen = slot::inspect(&catalogue, "s").await.unwrap().unwrap();
        seen.check_usable(&db.name).unwrap();
        assert_eq!(seen.confirmed_flush, Some(snapshot.lsn));
        assert_eq!((seen.failover, seen.temporary, seen.active_pid), (major >= 17, false, None));
        assert!(seen.retained_bytes.unwrap() > 0);
        assert_eq!(slot::list(&catalogue).await.unwrap().len(), 1);
        let other = cluster.create_database().await;
        assert!(slot::list(&client(&other.url).await).await.unwrap().is_empty());

        let again = slot::create(replication(&db.url).await, "s", false, false, &catalogue).await;
        assert!(matches!(again, Err(SourceError::Postgres { .. })));
        snapshot.release().await.unwrap();
        slot::drop(&catalogue, "s").await.unwrap();
        assert_eq!(slot::inspect(&catalogue, "s").await.unwrap(), None);
        assert!(matches!(slot::drop(&catalogue, "s").await, Err(SourceError::SlotMissing { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_standby_gives_a_slot_too_though_none_that_fails_over() {
    let Some(major) = majors().into_iter().find(|major| *major >= 17) else {
        return eprintln!("SKIPPED: a slot of a standby, for which FAILOVER is refused: it needs PostgreSQL 17");
    };
    let mut primary = Cluster::start(major).await;
    let standby = primary.standby().await;
    let url = standby.url("postgres");
    let catalogue = client(&url).await;
    let conn = replication(&url).await;
    let made = tokio::spawn(async move { slot::create(conn, "s", false, true, &catalogue).await });
    let on_primary = primary.connect("postgres").await;
    // The standby waits for a word on running transactions from its primary.
    let ready = async || {
        on_primary.batch_execute("SELECT pg_log_standby_snapshot()").await.unwrap();
        made.is_finished().then_some(())
    };
    wait_for("the slot on the standby", seconds(30), ready).await;
    let snapshot = made.await.unwrap().unwrap();
    let seen = slot::inspect(&client(&url).await, "s").await.unwrap().unwrap();
    assert_eq!((seen.failover, seen.confirmed_flush), (false, Some(snapshot.lsn)));
}

#[tokio::test]
async fn a_snapshot_whose_connection_is_cut_is_known_to_be_lost() {
    let cluster = Cluster::start(default_major()).await;
    let url = cluster.url("postgres");
    let catalogue = client(&url).await;
    let mut snapshot = slot::create(replication(&url).await, "s", true, false, &catalogue).await.unwrap();
    let temporary = slot::inspect(&catalogue, "s").await.unwrap().unwrap();
    assert!(matches!(temporary.check_usable("postgres"), Err(SourceError::SlotUnusable { .. })));
    let kill = Sql::new("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 's'");
    catalogue.query_one(&kill, &[]).await.unwrap();
    let error = within("the loss to be noticed", seconds(10), snapshot.lost()).await;
    assert!(matches!(error, SourceError::Postgres { .. }), "{error}");
    assert!(!snapshot.is_alive());
}

/// A transaction that has written and goes on.
async fn writer(cluster: &Cluster, database: &str) -> tokio_postgres::Client {
    let writer = cluster.connect(database).await;
    writer.batch_execute("SET application_name = 'the writer'; BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
    writer
}

async fn waiting_slot(catalogue: &Client) {
    wait_for("the creation to wait", seconds(10), async || {
        let sql =
            Sql::new("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event_type = 'Lock'");
        catalogue.query_opt(&sql, &[]).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_creation_waits_for_writers_whole_and_names_them() {
    let cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, "CREATE TABLE t AS SELECT 1 AS a").await;
    let (catalogue, reader) = (client(&db.url).await, client(&db.url).await);
    let writer = writer(&cluster, &db.name).await;
    let creating = slot::create(replication(&db.url).await, "s", false, false, &catalogue);
    let observer = client(&db.url).await;
    let commit = async {
        waiting_slot(&observer).await;
        let blockers = slot::blockers(&observer).await.unwrap();
        // The server's own, such as an autovacuum worker, may block too.
        let ours: Vec<_> = blockers.iter().filter(|blocker| blocker.application_name == "the writer").collect();
        assert_eq!(ours.len(), 1, "{blockers:?}");
        assert_eq!(ours[0].state, "idle in transaction");
        let unfinished = slot::inspect(&observer, "s").await.unwrap().unwrap();
        assert!(matches!(unfinished.check_usable(&db.name), Err(SourceError::SlotUnfinished { .. })));
        writer.batch_execute("COMMIT").await.unwrap();
    };
    let (snapshot, ()) = tokio::join!(creating, commit);
    let snapshot = snapshot.unwrap();
    assert_eq!(rows_under(&reader, &snapshot).await, 2);
    snapshot.release().await.unwrap();
}

#[tokio::test]
async fn a_creation_given_up_leaves_no_slot_while_the_writer_goes_on() {
    let cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, "CREATE TABLE t AS SELECT 1 AS a").await;
    let catalogue = client(&db.url).await;
    let writer = writer(&cluster, &db.name).await;
    let observer = client(&db.url).await;
    tokio::select! {
        _ = slot::create(replication(&db.url).await, "s", false, false, &catalogue) => panic!("nobody waited"),
        () = waiting_slot(&observer) => {}
    }
    let gone = async || slot::inspect(&observer, "s").await.unwrap().is_none().then_some(());
    wait_for("the half-made slot to go", seconds(10), gone).await;
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(slot::inspect(&observer, "s").await.unwrap(), None);
}

#[tokio::test]
async fn foreign_slots_are_refused() {
    let cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    let catalogue = client(&db.url).await;
    let make = "SELECT pg_create_physical_replication_slot('physical'),
        pg_create_logical_replication_slot('plugin', 'test_decoding'),
        pg_create_logical_replication_slot('good', 'pgoutput')";
    cluster.execute(&db.name, make).await;
    for (name, why) in [("physical", "physical"), ("plugin", "test_decoding"), ("good", "of database")] {
        let slot = slot::inspect(&catalogue, name).await.unwrap().unwrap();
        let database = if name == "good" { "elsewhere" } else { db.name.as_str() };
        let error = slot.check_usable(database).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_lost_slot_is_refused_by_look_and_by_stream() {
    use walferry::source::{StartOptions, WalReceiver};
    for_each_major(async |major| {
        let cluster = Cluster::builder(major)
            .setting("max_slot_wal_keep_size", "1MB")
            .setting("min_wal_size", "32MB")
            .setting("max_wal_size", "32MB")
            .start()
            .await;
        let url = cluster.url("postgres");
        cluster
            .execute(
                "postgres",
                "CREATE PUBLICATION p; COMMIT; SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            )
            .await;
        let catalogue = client(&url).await;
        let lost = async || {
            cluster.execute("postgres", "CREATE TABLE IF NOT EXISTS t (); SELECT pg_switch_wal(); CHECKPOINT").await;
            let slot = slot::inspect(&catalogue, "s").await.unwrap().unwrap();
            (slot.wal_status.as_deref() == Some("lost")).then_some(slot)
        };
        let slot = wait_for("the slot to be lost", seconds(30), lost).await;
        assert_eq!(slot.invalidation_reason.is_some(), major >= 17);
        assert!(matches!(slot.check_usable("postgres"), Err(SourceError::SlotUnusable { .. })));
        let conn: WireConnection = replication(&url).await;
        let (_sender, confirmed) = tokio::sync::watch::channel(None);
        let started = WalReceiver::start(conn, &StartOptions::new("s", "p"), confirmed).await;
        assert!(matches!(started, Err(SourceError::SlotUnusable { .. })), "{:?}", started.err());
    })
    .await;
}
