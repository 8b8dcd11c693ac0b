//! Where the target is not quite as the source: columns that come and go within a batch, foreign keys and triggers that
//! have been at the rows, text that is equal and not the same.

use crate::support::daemon_builder::Builder;
use crate::support::followed::{ALL, execute};
use crate::support::pair::wait_halted;
use crate::support::prelude::*;

fn as_plain(builder: Builder) -> Builder {
    builder.retarget("postgres@", "plain@")
}

/// Gives the target's tables to a role without privileges, for which triggers and foreign keys fire.
fn owned(tables: &[&str]) -> String {
    let own: String = tables.iter().map(|table| format!("ALTER TABLE {table} OWNER TO plain;")).collect();
    format!(
        "{own} ALTER TABLE fence OWNER TO plain; GRANT ALL ON SCHEMA public TO plain;
         DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END$$"
    )
}

#[tokio::test]
async fn every_row_is_written_with_the_columns_it_had() {
    let cluster = Cluster::start(default_major()).await;
    let source = "CREATE TABLE t (id int PRIMARY KEY, a text, b text);";
    let target = "CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text)";
    let mut pair = Followed::start(&cluster, &format!("{source}{ALL}"), target).await;
    pair.run(
        "BEGIN; INSERT INTO t VALUES (1, 'a1', 'b1'); ALTER TABLE t DROP a; INSERT INTO t VALUES (2, 'b2');
         UPDATE t SET b = 'b1 again' WHERE id = 1; COMMIT",
    )
    .await;
    pair.fence().await;
    pair.target_has("SELECT id, a, b FROM t", &["(1,a1,\"b1 again\")", "(2,,b2)"]).await;
    // Transactions that wait for each other and are applied together.
    execute(&pair.target, "BEGIN; LOCK TABLE t").await;
    for statement in [
        "INSERT INTO t VALUES (3, 'b3')",
        "ALTER TABLE t ADD a text",
        "INSERT INTO t VALUES (4, 'b4', 'a4')",
        "ALTER TABLE t RENAME b TO c",
        "INSERT INTO t VALUES (5, 'c5', 'a5')",
        "UPDATE t SET c = 'c3' WHERE id = 3",
    ] {
        pair.run(statement).await;
    }
    execute(&pair.target, "COMMIT").await;
    pair.fence().await;
    pair.target_has("SELECT * FROM t WHERE id > 2", &["(3,,b3,c3)", "(4,a4,b4,)", "(5,a5,,c5)"]).await;
    pair.no_conflicts().await;
}

#[tokio::test]
async fn what_precedes_a_transaction_that_does_not_fit_is_applied() {
    let cluster = Cluster::start(default_major()).await;
    let tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);";
    let mut pair = Followed::same(&cluster, tables).await;
    execute(&pair.target, "BEGIN; LOCK TABLE t").await;
    for statement in [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES (2)",
        "ALTER TABLE u ADD extra int; INSERT INTO u VALUES (1, 1)",
    ] {
        pair.run(statement).await;
    }
    execute(&pair.target, "COMMIT").await;
    wait_halted(&mut pair.daemon, "t", &["public.u", "no column extra"], seconds(60)).await;
    pair.target_has("SELECT id FROM t", &["(1)", "(2)"]).await;
}

#[tokio::test]
async fn rows_without_a_key_that_the_targets_own_foreign_key_has_changed_are_found() {
    const TABLES: &str = "
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (a int, parent int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE, big text);
        ALTER TABLE child REPLICA IDENTITY FULL;
        ALTER TABLE child ALTER big SET STORAGE EXTERNAL;
        CREATE TABLE cleared (a int, parent int REFERENCES parent ON DELETE SET NULL, big text);
        ALTER TABLE cleared REPLICA IDENTITY FULL;
        ALTER TABLE cleared ALTER big SET STORAGE EXTERNAL;";
    const NAMES: [&str; 3] = ["parent", "child", "cleared"];
    let cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE ROLE plain LOGIN").await;
    let rows = "INSERT INTO parent SELECT n FROM generate_series(1, 4) n;
        INSERT INTO child SELECT n, n % 4 + 1, repeat(md5(n::text), 150) FROM generate_series(1, 12) n;
        INSERT INTO cleared SELECT n, n % 4 + 1, repeat(md5(n::text), 150) FROM generate_series(1, 12) n;";
    let (source, target) = (format!("{TABLES}{rows}{ALL}"), format!("{TABLES}{}", owned(&NAMES)));
    let mut pair = Followed::start_with(&cluster, &source, &target, as_plain).await;
    for statement in ["DELETE FROM parent WHERE id = 2", "UPDATE cleared SET a = 100 WHERE a = 3"] {
        pair.run(statement).await;
        pair.equal(&NAMES).await;
    }
    pair.run("BEGIN; DELETE FROM parent WHERE id = 3; DELETE FROM child WHERE parent IS NULL; COMMIT").await;
    pair.equal(&NAMES).await;
}

#[tokio::test]
async fn a_row_that_a_trigger_of_the_target_leaves_out_is_counted_and_named() {
    let cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE ROLE plain LOGIN").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text);";
    let target = format!(
        "{table} CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER leave_out BEFORE INSERT ON t FOR EACH ROW WHEN (new.id = 2) EXECUTE FUNCTION leave_out(); {}",
        owned(&["t"])
    );
    let mut pair = Followed::start_with(&cluster, &format!("{table}{ALL}"), &target, as_plain).await;
    pair.run("INSERT INTO t SELECT n, 'planted' FROM generate_series(1, 3) n").await;
    pair.fence().await;
    pair.target_has("SELECT id FROM t", &["(1)", "(3)"]).await;
    let labels = [("target", "t"), ("kind", "insert_ignored")];
    pair.daemon.wait_metric("walferry_target_conflicts_total", &labels, |count| count == 1.0, seconds(30)).await;
    let line = pair.daemon.wait_log("conflict: insert_ignored", seconds(30)).await;
    assert!(line.contains("public.t") && line.contains("id=2") && !line.contains("planted"), "{line}");
}

/// Under a collation that is not deterministic 'a' equals 'A'.
#[tokio::test]
async fn of_two_rows_with_equal_text_the_right_one_is_taken() {
    let cluster = Cluster::start(default_major()).await;
    let icu = cluster.connect("postgres").await;
    if icu.query_one("SELECT FROM pg_collation WHERE collprovider = 'i' LIMIT 1", &[]).await.is_err() {
        eprintln!("this server is built without ICU");
        return;
    }
    const TABLES: &str = "
        CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE t (v text COLLATE loose, n int);
        ALTER TABLE t REPLICA IDENTITY FULL;";
    let rows = "INSERT INTO t VALUES ('a', 1), ('A', 1), ('b', 1), ('B', 1);";
    let mut pair = Followed::start(&cluster, &format!("{TABLES}{rows}{ALL}"), TABLES).await;
    pair.run("DELETE FROM t WHERE v COLLATE \"C\" = 'A'; UPDATE t SET n = 2 WHERE v COLLATE \"C\" = 'B'").await;
    pair.fence().await;
    pair.target_has("SELECT v COLLATE \"C\", n FROM t", &["(B,2)", "(a,1)", "(b,1)"]).await;
    pair.no_conflicts().await;
}
