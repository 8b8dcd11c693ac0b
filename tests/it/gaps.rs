//! Source and target do not fit together any more: nothing is applied, both numbers are named, and the way out; the
//! other targets go on.

mod overtaken;
mod promoted;

use crate::support::pair::{Pair, run, text, wait_halted, wait_refused};
use crate::support::prelude::*;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const AGAIN: &str = "walferry slot reset";

/// A pair whose source has this many rows.
async fn pair(rows: u32) -> Pair {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, &format!("INSERT INTO t SELECT i, 'a' FROM generate_series(1, {rows}) i")).await;
    pair
}

async fn rows(client: &tokio_postgres::Client) -> String {
    text(client, "SELECT count(*) FROM t").await.unwrap()
}

#[tokio::test]
async fn a_slot_made_anew_or_moved_while_the_daemon_was_down_is_refused_with_both_numbers() {
    let pair = pair(3).await;
    let mut daemon = pair.daemon("").start();
    pair.equal(&["t"], seconds(30)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());

    run(&pair.source, "INSERT INTO t VALUES (4, 'missed')").await;
    run(&pair.source, "SELECT pg_replication_slot_advance('walferry', pg_current_wal_lsn())").await;
    run(&pair.source, "INSERT INTO t VALUES (5, 'after')").await;
    let confirmed = text(&pair.source, "SELECT confirmed_flush_lsn FROM pg_replication_slots").await.unwrap();
    let stored = text(&pair.target, "SELECT end_lsn FROM walferry.progress").await.unwrap();
    daemon.start();
    wait_halted(&mut daemon, "t", &[&confirmed, &stored, AGAIN], seconds(20)).await;
    assert_eq!(rows(&pair.target).await, "3");
    daemon.kill9();

    let slot = "SELECT pg_drop_replication_slot('walferry'); \
                SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')";
    let made = async || pair.source.batch_execute(slot).await.ok();
    wait_for("the slot to be made anew", seconds(10), made).await;
    run(&pair.source, "INSERT INTO t VALUES (6, 'after')").await;
    let confirmed = text(&pair.source, "SELECT confirmed_flush_lsn FROM pg_replication_slots").await.unwrap();
    daemon.start();
    wait_halted(&mut daemon, "t", &[&confirmed, &stored, AGAIN], seconds(20)).await;
    assert_eq!(rows(&pair.target).await, "3");
    daemon.kill9();

    let gone = async || pair.source.batch_execute("SELECT pg_drop_replication_slot('walferry')").await.ok();
    wait_for("the slot to be dropped", seconds(10), gone).await;
    daemon.start();
    wait_refused(&mut daemon, &["\"walferry\" does not exist", &stored, AGAIN], seconds(20)).await;
    assert_eq!(rows(&pair.target).await, "3");
}

#[tokio::test]
async fn a_slot_of_somebody_else_is_left_alone() {
    let pair = pair(1).await;
    let elsewhere = pair.cluster.connect(&pair.to.name).await;
    for (client, make, why) in [
        (&pair.source, "pg_create_physical_replication_slot('walferry')", "physical"),
        (&pair.source, "pg_create_logical_replication_slot('walferry', 'test_decoding')", "test_decoding"),
        (&elsewhere, "pg_create_logical_replication_slot('walferry', 'pgoutput')", "database"),
        (&pair.source, "pg_create_logical_replication_slot('walferry', 'pgoutput')", "no target has ever been fed"),
    ] {
        run(client, &format!("SELECT {make}")).await;
        let before = text(&pair.source, "SELECT restart_lsn FROM pg_replication_slots").await;
        let mut daemon = pair.daemon("").start();
        wait_refused(&mut daemon, &["slot \"walferry\"", why, "slot"], seconds(20)).await;
        assert_eq!(text(&pair.source, "SELECT restart_lsn FROM pg_replication_slots").await, before);
        assert_eq!(text(&pair.target, "SELECT to_regnamespace('walferry')").await, None, "the target was written to");
        run(client, "SELECT pg_drop_replication_slot('walferry')").await;
    }
    // With the name free it begins.
    let mut daemon = pair.daemon("").start();
    pair.equal(&["t"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_target_restored_from_a_backup_is_caught_up_or_refused_and_the_other_goes_on() {
    let pair = pair(3).await;
    let mut server = Cluster::start(default_major()).await;
    let db = server.create_database().await;
    server.execute(&db.name, TABLES).await;
    let mut daemon = pair.daemon("").target("restored", &db.url).start();
    daemon.wait_ready(seconds(30)).await;
    let backup = server.snapshot().await;

    // While the other target does not get on, the slot cannot move past the backup.
    run(&pair.target, "ALTER TABLE t RENAME TO away").await;
    run(&pair.source, "INSERT INTO t VALUES (4, 'b'); UPDATE t SET a = 'b'; DELETE FROM t WHERE id = 1").await;
    let client = server.connect(&db.name).await;
    wait_equal(&pair.source, &[&client], &["t"], seconds(20)).await;
    wait_halted(&mut daemon, "t", &["is now called"], seconds(10)).await;
    server.restore(&backup).await;
    let client = server.connect(&db.name).await;
    run(&pair.source, "INSERT INTO t VALUES (5, 'c')").await;
    wait_equal(&pair.source, &[&client], &["t"], seconds(30)).await;
    let conflicts = daemon.metric("walferry_target_conflicts_total", &[("target", "restored")]).await;
    assert_eq!(conflicts.unwrap_or(0.0), 0.0, "something was applied twice, or not at all");
    run(&pair.target, "ALTER TABLE away RENAME TO t").await;
    pair.equal(&["t"], seconds(20)).await;

    // Once everybody has stored more and the slot was told so, the backup is too old.
    let stored = text(&client, "SELECT end_lsn FROM walferry.progress").await.unwrap();
    let backup = server.snapshot().await;
    let client = server.connect(&db.name).await;
    run(&pair.source, "INSERT INTO t VALUES (6, 'd')").await;
    wait_equal(&pair.source, &[&client, &pair.target], &["t"], seconds(30)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    server.restore(&backup).await;
    daemon.start();
    run(&pair.source, "INSERT INTO t VALUES (7, 'e')").await;
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    let confirmed = text(&pair.source, confirmed).await.unwrap();
    wait_halted(&mut daemon, "restored", &[&confirmed, &stored, AGAIN], seconds(20)).await;
    pair.equal(&["t"], seconds(20)).await;
    assert_eq!(rows(&server.connect(&db.name).await).await, "4");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn another_cluster_and_another_database_under_the_sources_name_are_refused() {
    let pair = pair(3).await;
    let mut daemon = pair.daemon("").start();
    pair.equal(&["t"], seconds(30)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());

    let impostor = Cluster::start(default_major()).await;
    let db = impostor.create_database().await;
    assert_eq!(db.name, pair.from.name);
    let slot = "SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')";
    impostor.execute(&db.name, &format!("{TABLES}; CREATE PUBLICATION walferry FOR ALL TABLES")).await;
    impostor.execute(&db.name, slot).await;
    impostor.execute(&db.name, "INSERT INTO t VALUES (9, 'impostor')").await;
    daemon.reconfigure(&pair.from.url, &db.url);
    daemon.start();
    let mut numbers = Vec::new();
    for server in [&pair.cluster, &impostor] {
        let client = server.connect("postgres").await;
        numbers.push(text(&client, "SELECT system_identifier FROM pg_control_system()").await.unwrap());
    }
    wait_halted(&mut daemon, "t", &[&numbers[0], &numbers[1], "another server", AGAIN], seconds(20)).await;
    assert_eq!(rows(&pair.target).await, "3");
    daemon.kill9();

    // The same cluster, another database, where a slot of that name cannot be at the same time.
    let gone = async || pair.source.batch_execute("SELECT pg_drop_replication_slot('walferry')").await.ok();
    wait_for("the slot to be dropped", seconds(10), gone).await;
    let (other, client) = pair.another(TABLES).await;
    run(&client, "CREATE PUBLICATION walferry FOR ALL TABLES; INSERT INTO t VALUES (9, 'x')").await;
    run(&client, slot).await;
    daemon.reconfigure(&db.url, &other.url);
    daemon.start();
    wait_halted(&mut daemon, "t", &[&pair.from.name, &other.name, AGAIN], seconds(20)).await;
    assert_eq!(rows(&pair.target).await, "3");
}

/// As after a restore of data alone into a database that knows the stream.
#[tokio::test]
async fn a_position_that_is_there_twice_is_refused_until_one_is_deleted() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(60)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    run(&pair.target, "INSERT INTO walferry.progress SELECT * FROM walferry.progress").await;
    daemon.start();
    wait_halted(&mut daemon, "t", &["2 rows in walferry.progress", "delete the one"], seconds(20)).await;
    run(&pair.target, "DELETE FROM walferry.progress WHERE ctid = (SELECT max(ctid) FROM walferry.progress)").await;
    run(&pair.source, "INSERT INTO t VALUES (50, 'once')").await;
    pair.equal(&["t"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_deleted_progress_row_is_not_taken_for_a_new_target() {
    let pair = pair(3).await;
    let (db, other) = pair.another(TABLES).await;
    let mut daemon = pair.daemon("").target("other", &db.url).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t"], seconds(10)).await;

    // While it runs.
    run(&pair.target, "DELETE FROM walferry.progress").await;
    run(&pair.source, "INSERT INTO t VALUES (4, 'b')").await;
    wait_halted(&mut daemon, "t", &["public.t", "walferry.progress is gone", " 0/", AGAIN], seconds(20)).await;
    wait_equal(&pair.source, &[&other], &["t"], seconds(10)).await;
    assert_eq!(rows(&pair.target).await, "3");
    // While it is down; and still when nobody has written anything since.
    assert!(daemon.terminate(seconds(20)).await.success());
    run(&pair.target, "DELETE FROM walferry.progress").await;
    daemon.start();
    wait_halted(&mut daemon, "t", &["walferry.progress is gone", AGAIN], seconds(20)).await;
    run(&pair.source, "INSERT INTO t VALUES (5, 'b')").await;
    wait_equal(&pair.source, &[&other], &["t"], seconds(10)).await;
    assert_eq!(rows(&pair.target).await, "3");
    // When no target knows the stream, the slot could be anybody's.
    assert!(daemon.terminate(seconds(20)).await.success());
    for client in [&pair.target, &other] {
        run(client, "DELETE FROM walferry.progress").await;
    }
    daemon.start();
    wait_refused(&mut daemon, &["no target", AGAIN], seconds(20)).await;
    assert_eq!(rows(&pair.target).await, "3");
}
