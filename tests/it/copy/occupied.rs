//! Whether a target's tables hold rows: found wherever the rows are, without looking into each table that has none.

use std::collections::BTreeSet;

use walferry::postgres::{Client, ConnectOptions};
use walferry::tablesync::preflight;

use super::bench::{Bench, Wishes};
use crate::support::prelude::*;

/// Of these tables those of which preflight says that they hold rows.
async fn occupied(bench: &Bench, tables: &[&str]) -> BTreeSet<String> {
    let snapshot = bench.export().await;
    let scope = bench.job(&snapshot, tables, Wishes::default()).await.scope;
    let client = Client::connect(&ConnectOptions::parse(&bench.target_db.url).unwrap(), "test").await.unwrap();
    let findings = preflight(&client, &scope).await.unwrap();
    let holds_rows = findings.into_iter().filter(|finding| finding.problem.contains("already holds rows"));
    holds_rows.map(|finding| finding.table.name).collect()
}

fn looked_into(bench: &Bench, table: &str) -> usize {
    let log = std::fs::read_to_string(bench.cluster.log_path()).unwrap();
    log.matches(&format!(r#"EXISTS (SELECT FROM ONLY "public"."{table}")"#)).count()
}

#[tokio::test]
async fn tables_with_rows_are_found_wherever_their_rows_are() {
    let names =
        ["plain", "odd\"N", "unlogged", "other", "parted", "deleted", "uncommitted", "parent", "no_rows", "bare"];
    let tables = r#"
        CREATE TABLE plain (); CREATE TABLE "odd""N" (id int); CREATE UNLOGGED TABLE unlogged (id int);
        CREATE TABLE deleted (id int); CREATE TABLE uncommitted (id int); CREATE TABLE bare (id int);
        CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent); CREATE TABLE linked (id int);
        CREATE TABLE no_rows (id int) PARTITION BY LIST (id); CREATE TABLE none PARTITION OF no_rows DEFAULT;
        CREATE TABLE parted (id int) PARTITION BY LIST (id);
        CREATE TABLE branch PARTITION OF parted FOR VALUES IN (1) PARTITION BY LIST (id);
        CREATE TABLE leaf PARTITION OF branch DEFAULT"#;
    let at_target = r#"
        CREATE ACCESS METHOD another TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE other (id int) USING another;
        INSERT INTO plain DEFAULT VALUES; INSERT INTO "odd""N" VALUES (1); INSERT INTO unlogged VALUES (1);
        INSERT INTO other VALUES (1); INSERT INTO parted VALUES (1); INSERT INTO child VALUES (1);
        INSERT INTO deleted VALUES (1); DELETE FROM deleted"#;
    let bench = Bench::new(tables, "CREATE TABLE other (id int)", at_target).await;
    let database = &bench.target_db.name;
    bench.target.batch_execute(&format!("ALTER DATABASE {database} SET log_statement = 'all'")).await.unwrap();
    let other_session = bench.cluster.connect(database).await;
    other_session.batch_execute("BEGIN; INSERT INTO uncommitted VALUES (1)").await.unwrap();

    let quoted: Vec<String> = names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let mut tables: Vec<&str> = quoted.iter().map(String::as_str).collect();
    let mut wanted: BTreeSet<String> = names[..5].iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(occupied(&bench, &tables).await, wanted);
    let looks = ["plain", "deleted", "uncommitted", "parent", "bare"].map(|table| looked_into(&bench, table));
    assert_eq!(looks, [1, 1, 1, 0, 0]);

    // Rows that a foreign server has; and where there are extensions, each table is looked into.
    let linked = "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; DROP TABLE linked;
        CREATE TABLE linked (id int) PARTITION BY LIST (id);
        CREATE FOREIGN TABLE far PARTITION OF linked DEFAULT SERVER files OPTIONS (program 'echo 7')";
    bench.target.batch_execute(linked).await.unwrap();
    tables.push("linked");
    wanted.insert("linked".to_owned());
    assert_eq!(occupied(&bench, &tables).await, wanted);
    assert_eq!(looked_into(&bench, "bare"), 1);
    other_session.batch_execute("COMMIT").await.unwrap();
    wanted.insert("uncommitted".to_owned());
    assert_eq!(occupied(&bench, &tables).await, wanted);
}

#[tokio::test]
async fn a_table_that_is_exchanged_for_one_with_rows_while_it_is_asked_about_is_not_called_empty() {
    let bench = Bench::new("CREATE TABLE t (id int)", "", "").await;
    let other_session = bench.cluster.connect(&bench.target_db.name).await;
    let exchange = "BEGIN; DROP TABLE t; CREATE TABLE t (id int); INSERT INTO t VALUES (1)";
    other_session.batch_execute(exchange).await.unwrap();
    let commit = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL";
        wait_for("the lock", seconds(20), async || (bench.number_on_target(waiting).await > 0).then_some(())).await;
        other_session.batch_execute("COMMIT").await.unwrap();
    };
    let (found, ()) = tokio::join!(occupied(&bench, &["t"]), commit);
    assert_eq!(found, ["t".to_owned()].into());
}
