//! Values that arrive in binary: the outcome is as if they had come as text, and what cannot come so comes as text.

use tokio_postgres::Client;
use walferry::postgres::binary::array_of;

use super::{CREATE, SETTINGS, Subject, execute, subjects};
use crate::support::followed::{ALL, rows};
use crate::support::prelude::*;

/// The portable types' tables, without arrays.
async fn portable(client: &Client) -> Vec<Subject> {
    let mut portable = Vec::new();
    for mut subject in subjects(client).await {
        let query = format!("SELECT '{}'::regtype::oid", subject.sql.replace('\'', "''"));
        if !subject.sql.contains("COLLATE") && array_of(client.query_one(&query, &[]).await.unwrap().get(0)).is_some() {
            subject.arrays = false;
            portable.push(subject);
        }
    }
    portable
}

fn tables(subjects: &[Subject]) -> Vec<String> {
    subjects.iter().flat_map(Subject::tables).collect()
}

#[tokio::test]
async fn values_of_every_portable_type_arrive_in_binary_one_by_one_and_many_at_once() {
    let majors = majors();
    let from = Cluster::start(majors[0]).await;
    let to = Cluster::start(majors[majors.len() - 1]).await;
    let source_db = from.create_database().await;
    let source = from.connect(&source_db.name).await;
    execute(&source, CREATE).await;
    let mut subjects = portable(&source).await;
    assert!(subjects.len() > 50, "only {}", subjects.len());
    let (mut daemons, mut targets) = (Vec::new(), Vec::new());
    for mode in ["never", "always"] {
        let db = to.create_database().await;
        let set = |setting: &str| format!("ALTER DATABASE {} SET {};", db.name, setting.trim());
        to.execute("postgres", &SETTINGS[1].split(';').map(set).collect::<String>()).await;
        let target = to.connect(&db.name).await;
        execute(&target, "SET search_path = public; SET datestyle = ISO; SET timezone = UTC").await;
        let bulk = format!("\"{mode}\"");
        daemons.push(Daemon::builder(&source_db.url).slot(mode).target("t", &db.url).apply("bulk", &bulk));
        targets.push(target);
    }
    execute(&source, "SET timezone = UTC").await;
    for subject in &mut subjects {
        subject.create(&source, &targets[0]).await;
        subject.create(&from.connect("postgres").await, &targets[1]).await;
    }
    execute(&source, ALL).await;
    let mut daemons: Vec<Daemon> = daemons.into_iter().map(|builder| builder.start()).collect();
    for daemon in &mut daemons {
        daemon.wait_ready(seconds(60)).await;
        daemon.wait_log("values come in binary", seconds(5)).await;
    }
    let tables = tables(&subjects);
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let everywhere: Vec<&Client> = targets.iter().collect();
    for subject in &subjects {
        execute(&source, &subject.insert(1)).await;
        execute(&source, &subject.insert(101)).await;
        let number = subject.number;
        let many = format!(
            "INSERT INTO plain_{number} SELECT 100000 + 3000 * row_number() OVER (), v, a
             FROM plain_{number}, generate_series(1, 60)"
        );
        execute(&source, &many).await;
    }
    wait_equal(&source, &everywhere, &tables, seconds(60)).await;
    for subject in &subjects {
        execute(&source, &subject.change()).await;
    }
    wait_equal(&source, &everywhere, &tables, seconds(60)).await;
    for (daemon, in_bulk) in daemons.iter_mut().zip([false, true]) {
        let metric = async |name| daemon.metric(name, &[("target", "t")]).await.unwrap();
        assert_eq!(metric("walferry_target_conflicts_total").await, 0.0, "{}", daemon.log());
        assert_eq!(metric("walferry_target_bulk_changes_total").await > 10_000.0, in_bulk);
        assert!(daemon.terminate(seconds(20)).await.success());
        assert_eq!(daemon.log_count("values come as text"), 0);
    }
}

/// Columns that are of other types on the target: name, the source's, the target's, values from a number n.
const CHANGED: [(&str, &str, &str, &str); 14] = [
    ("id", "int", "bigint", "n"),
    ("a", "int", "bigint", "-n"),
    ("b", "bigint", "numeric", "n * 10000::bigint"),
    ("c", "text", "varchar", "E'te\\'xt\\\\' || n"),
    ("d", "varchar", "mood", "CASE n % 3 WHEN 0 THEN 'sad' WHEN 1 THEN 'ok' END"),
    ("e", "bool", "text", "n % 2 = 0"),
    ("f", "bpchar", "text", "'pad  '"),
    ("g", "jsonb", "json", "'{\"b\": 1, \"a\": [1.0, 1.00]}'::jsonb"),
    ("h", "uuid", "text", "md5(n::text)::uuid"),
    ("i", "timestamp", "text", "'2024-02-29 12:00:00.5'::timestamp"),
    ("j", "float8", "numeric", "n / 7.0"),
    ("k", "int", "small", "n % 100"),
    ("l", "inet", "text", "'10.0.0.1'::inet"),
    ("m", "json", "json", "'{ \"x\" :  1 }'::json"),
];

/// What happens to `count` rows of a table, each kind of change in a transaction of its own.
fn changes(table: &str, count: u32) -> [String; 4] {
    let values: Vec<&str> = CHANGED.iter().map(|column| column.3).collect();
    let (low, values) = (count * 1000, values.join(", "));
    [
        format!(
            "INSERT INTO {table} SELECT {values} FROM generate_series({low} + 1, {low} + {count}) n;
             INSERT INTO {table} (id) VALUES ({count}), (-{count})"
        ),
        format!(
            "UPDATE {table} SET a = a + 1, e = NOT e, d = 'ok', m = '{{\"x\":2}}' WHERE id > {low};
             UPDATE {table} SET a = 5, f = '' WHERE id = {count}"
        ),
        format!("UPDATE {table} SET id = id + 500 WHERE id % 3 = 0 AND id > {low}"),
        format!("DELETE FROM {table} WHERE id % 2 = 0 AND id > {low}; DELETE FROM {table} WHERE id = -{count}"),
    ]
}

#[tokio::test]
async fn values_in_binary_become_what_their_text_says_where_the_target_has_other_types() {
    let cluster = Cluster::start(default_major()).await;
    let tables = |types: &[&str]| {
        let columns: Vec<String> =
            CHANGED.iter().zip(types).map(|(column, type_name)| format!("{} {type_name}", column.0)).collect();
        let columns = columns.join(", ");
        format!(
            "CREATE TABLE keyed ({columns}, PRIMARY KEY (id)); CREATE TABLE whole ({columns});
             ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE fence (n bigint)"
        )
    };
    let source_db = cluster.create_database().await;
    let source = cluster.connect(&source_db.name).await;
    execute(&source, &format!("{}; {ALL}", tables(&CHANGED.map(|column| column.1)))).await;
    let (mut daemons, mut targets) = (Vec::new(), Vec::new());
    for (values, bulk) in [("text", "never"), ("auto", "always"), ("auto", "never")] {
        let db = cluster.create_database().await;
        let target = cluster.connect(&db.name).await;
        let types = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS int CHECK (value < 100);";
        execute(&target, &format!("{types} {}", tables(&CHANGED.map(|column| column.2)))).await;
        let builder = Daemon::builder(&source_db.url).slot(&format!("{values}_{bulk}")).target("t", &db.url);
        daemons.push(builder.source("values", format!("\"{values}\"")).apply("bulk", &format!("\"{bulk}\"")).start());
        targets.push(target);
    }
    for daemon in &mut daemons {
        daemon.wait_ready(seconds(60)).await;
    }
    for (count, table) in [(3, "keyed"), (100, "keyed"), (3, "whole"), (100, "whole")] {
        for change in changes(table, count) {
            execute(&source, &change).await;
        }
    }
    execute(&source, "INSERT INTO fence VALUES (1)").await;
    wait_for("the end to arrive as text", seconds(60), async || {
        targets[0].query_opt("SELECT FROM fence", &[]).await.unwrap().map(drop)
    })
    .await;
    wait_equal(&targets[0], &[&targets[1], &targets[2]], &["keyed", "whole", "fence"], seconds(60)).await;
    assert_eq!(rows(&targets[1], "SELECT count(*) > 200 AS many FROM keyed, whole").await, ["(t)"]);
    for (daemon, format) in daemons.iter_mut().zip(["as text", "in binary", "in binary"]) {
        let conflicts = daemon.metric("walferry_target_conflicts_total", &[("target", "t")]).await;
        assert_eq!(conflicts, Some(0.0), "{}", daemon.log());
        assert!(daemon.log_count(&format!("values come {format}")) > 0, "{}", daemon.log());
        assert!(daemon.terminate(seconds(20)).await.success());
    }
}

#[tokio::test]
async fn a_column_of_a_type_that_is_not_the_same_everywhere_turns_the_stream_to_text_while_it_runs() {
    let cluster = Cluster::start(default_major()).await;
    let mut pair = Followed::same(&cluster, "CREATE TABLE t (id int PRIMARY KEY, v numeric)").await;
    assert_eq!(pair.daemon.log_count("values come in binary"), 1);
    pair.run("INSERT INTO t SELECT n, n / 3.0 FROM generate_series(1, 100) n").await;
    let more = "CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER TABLE t ADD COLUMN m mood, ADD COLUMN a int[]";
    execute(&pair.target, more).await;
    // In one transaction with changes before and after it; and gone again before the stream comes there.
    pair.daemon.signal("STOP");
    pair.run(&format!(
        "BEGIN; UPDATE t SET v = 1 WHERE id = 1; {more}; UPDATE t SET m = 'ok', a = '{{1,NULL}}' WHERE id % 2 = 0;
         INSERT INTO t VALUES (1000, 1.50, 'sad', '{{}}'); COMMIT"
    ))
    .await;
    pair.run("UPDATE t SET m = NULL WHERE id = 2; ALTER TABLE t DROP COLUMN m; UPDATE t SET v = 7 WHERE id = 4").await;
    pair.run("ALTER TABLE t DROP COLUMN a").await;
    pair.daemon.signal("CONT");
    pair.fence().await;
    pair.target_has("SELECT count(*), sum(v) = (SELECT sum(x.v) FROM t x) AS same FROM t", &["(101,t)"]).await;
    pair.target_has(
        "SELECT id, v, m, a FROM t WHERE id IN (1, 2, 4, 1000)",
        &["(1,1,,)", "(1000,1.50,sad,{})", "(2,0.66666666666666666667,,\"{1,NULL}\")", "(4,7,ok,\"{1,NULL}\")"],
    )
    .await;
    pair.no_conflicts().await;
    assert_eq!(pair.daemon.log_count("values come as text"), 1, "{}", pair.daemon.log());
    // It stays so, whatever is published now.
    assert!(pair.daemon.log().contains("column m of public.t"));
    assert!(pair.daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn an_error_names_the_row_by_its_key_also_where_keys_come_in_binary() {
    let cluster = Cluster::start(default_major()).await;
    let tables = "CREATE TABLE t (id uuid, n bigint, v text, PRIMARY KEY (id, n))";
    let target = format!("{tables}; ALTER TABLE t ADD CHECK (v <> 'bad')");
    let mut pair = Followed::start(&cluster, &format!("{tables}; {ALL}"), &target).await;
    pair.run("INSERT INTO t VALUES ('00000000-0000-0000-0000-00000000002a', -7, 'bad')").await;
    pair.daemon.wait_log("id=00000000-0000-0000-0000-00000000002a, n=-7", seconds(30)).await;
    assert_eq!(pair.daemon.log_count("values come in binary"), 1);
}
