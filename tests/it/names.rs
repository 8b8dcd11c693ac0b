//! Names: whatever PostgreSQL takes as the name of a schema, table, column or publication; and how many there can be.

use std::fmt::Write;
use std::time::Instant;

use crate::support::followed::{ALL, execute};
use crate::support::prelude::*;

/// Names that break who does not quote, quotes twice, folds, splits, formats or cuts. Among them the aliases of
/// statements that walferry writes.
const ODD: &[&str] = &[
    "Upper",
    "with space",
    " ",
    "dot.ted",
    "\"",
    "say \"hi\"\"",
    "it's",
    "back\\slash\\n",
    "ünïcödé 世界 🦀",
    "select",
    "user",
    "%s %I %1$s %",
    "$1",
    "$$dollar$$",
    "{brace}",
    "a,b",
    "(paren)",
    "-- dash",
    "/* comment",
    ";",
    "new\nline\ttab",
    "1st",
    "*",
    "?",
    "!not",
    "E'x'",
    "t",
    "gone",
    "changed",
    "old",
    "new",
    "excluded",
    "fence",
    "x23456789x123456789x123456789x123456789x123456789x123456789x123",
    "ü2345678ü1234567ü1234567ü1234567ü1234567ü1234567ü12345",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Each odd name as schema, as table and as column: in the table of its own name all columns have odd names.
fn tables() -> (String, Vec<String>) {
    let (mut sql, mut names) = (String::new(), Vec::new());
    let columns: Vec<String> = ODD.iter().map(|name| format!("{} text", quoted(name))).collect();
    let columns = columns.join(", ");
    for (at, name) in ODD.iter().enumerate() {
        let key = quoted(ODD[(at + 1) % ODD.len()]);
        let (schema, table) = (quoted(name), quoted(name));
        let full = quoted(&format!("{}F", &name.chars().take(20).collect::<String>()));
        writeln!(
            sql,
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table} ({columns}, j json, PRIMARY KEY ({key}));
             CREATE TABLE {schema}.{full} ({columns}, j json); ALTER TABLE {schema}.{full} REPLICA IDENTITY FULL;"
        )
        .unwrap();
        names.extend([format!("{schema}.{table}"), format!("{schema}.{full}")]);
    }
    (sql, names)
}

#[tokio::test]
async fn odd_names_of_schemas_tables_columns_and_publications() {
    let cluster = Cluster::start(default_major()).await;
    let (tables, names) = tables();
    let each =
        |statement: &str| -> String { names.iter().map(|name| statement.replace("<t>", name) + ";\n").collect() };
    let all: Vec<String> = ODD.iter().map(|name| quoted(name)).collect();
    let values = |text: &str| -> String { ODD.iter().map(|_| format!("'{text}', ")).collect::<String>() };
    let insert = |text: &str| each(&format!("INSERT INTO <t> VALUES ({}'[1]')", values(text)));
    let publication = "Wal \"ferry\"'s, publication; %s 世界";
    let create = format!("CREATE PUBLICATION {} FOR ALL TABLES", quoted(publication));
    let mut pair =
        Followed::start_with(&cluster, &format!("{tables}{}{}{create}", insert("a"), insert("b")), &tables, |daemon| {
            daemon.publication(publication)
        })
        .await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    pair.equal(&names).await;
    pair.run(&insert("c")).await;
    let set: Vec<String> = all.iter().map(|column| format!("{column} = 'd'")).collect();
    pair.run(&each(&format!("UPDATE <t> SET {} WHERE {} = 'a'", set.join(", "), all[0]))).await;
    pair.run(&each(&format!("UPDATE <t> SET j = '{{}}' WHERE {} = 'c'", all[1]))).await;
    pair.equal(&names).await;
    pair.run(&each(&format!("DELETE FROM <t> WHERE {} = 'b'", all[2]))).await;
    pair.run(&format!("TRUNCATE {}", names[..9].join(", "))).await;
    pair.equal(&names).await;
    // Merely refused, not lost: an error that names odd things still comes out whole.
    execute(&pair.target, &format!("ALTER TABLE {} DROP COLUMN {}", names[12], all[4])).await;
    pair.run(&format!("INSERT INTO {} VALUES ({}'[2]')", names[12], values("e"))).await;
    let line = pair.daemon.wait_log("the target has no column", seconds(20)).await;
    assert!(line.contains(r#""it's"."it's": the target has no column """";"#), "{line}");
}

#[tokio::test]
async fn tables_are_chosen_by_patterns_of_odd_names() {
    let cluster = Cluster::start(default_major()).await;
    let tables = r#"CREATE SCHEMA "Odd.One"; CREATE TABLE "Odd.One"."a b" (id int PRIMARY KEY);
        CREATE TABLE "Odd.One"."a.b" (id int PRIMARY KEY); CREATE TABLE "Odd.One"."A*" (id int PRIMARY KEY);
        CREATE TABLE "Odd.One"."A1" (id int PRIMARY KEY); CREATE TABLE "Odd.One"."say ""hi""" (id int PRIMARY KEY);"#;
    let patterns = [r#""Odd.One".*"#, r#"!"Odd.One"."A*""#, "public.fence"];
    let source = format!("{tables} ALTER TABLE fence REPLICA IDENTITY FULL");
    let mut pair = Followed::start_with(&cluster, &source, tables, |daemon| daemon.tables(&patterns)).await;
    let chosen = [r#""Odd.One"."a b""#, r#""Odd.One"."a.b""#, r#""Odd.One"."say ""hi""""#];
    for table in chosen.iter().chain(&[r#""Odd.One"."A*""#, r#""Odd.One"."A1""#]) {
        pair.run(&format!("INSERT INTO {table} VALUES (1), (2)")).await;
    }
    pair.equal(&chosen).await;
    // In quotes a star is a star.
    pair.target_has(r#"SELECT count(*) FROM "Odd.One"."A*""#, &["(0)"]).await;
    pair.equal(&[r#""Odd.One"."A1""#]).await;
}

#[tokio::test]
async fn as_many_columns_as_a_table_can_have() {
    let cluster = Cluster::start(default_major()).await;
    let columns = |first: &str| -> String {
        (1..1_600).fold(first.to_owned(), |mut columns, n| {
            write!(columns, ", c{n} smallint").unwrap();
            columns
        })
    };
    let tables = format!(
        "CREATE TABLE wide ({}); CREATE TABLE wide_full ({}); ALTER TABLE wide_full REPLICA IDENTITY FULL;",
        columns("c0 int PRIMARY KEY"),
        columns("c0 int")
    );
    let insert = |from: i32| -> String {
        let mut values = String::new();
        (1..1_600).for_each(|n| write!(values, ", n + {n}").unwrap());
        ["wide", "wide_full"]
            .map(|table| format!("INSERT INTO {table} SELECT n{values} FROM generate_series({from}, {from} + 9) n;"))
            .concat()
    };
    let mut pair = Followed::start(&cluster, &format!("{tables}{}{ALL}", insert(1)), &tables).await;
    pair.run(&insert(11)).await;
    for table in ["wide", "wide_full"] {
        pair.run(&format!("UPDATE {table} SET c1599 = NULL, c0 = c0 + 100 WHERE c0 IN (3, 13)")).await;
        pair.run(&format!("UPDATE {table} SET c800 = -1; DELETE FROM {table} WHERE c0 IN (4, 14)")).await;
    }
    pair.equal(&["wide", "wide_full"]).await;
    pair.target_has("SELECT count(*) FROM wide_full WHERE c800 = -1 AND c1598 IS NOT NULL", &["(18)"]).await;
}

#[tokio::test]
async fn a_thousand_tables_are_copied_and_followed_quickly() {
    let cluster = Cluster::start(default_major()).await;
    let each = |statement: &str| {
        format!("DO $do$BEGIN FOR n IN 1..1000 LOOP EXECUTE format($f${statement}$f$, n); END LOOP; END$do$;")
    };
    let tables = each("CREATE TABLE many_%s (id int PRIMARY KEY, v text)");
    let rows = each("INSERT INTO many_%s SELECT m, ''v'' || m FROM generate_series(1, 5) m").replace("''", "'");
    let (from, to) = (cluster.create_database().await, cluster.create_database().await);
    let (source, target) = (cluster.connect(&from.name).await, cluster.connect(&to.name).await);
    execute(&source, &format!("{tables}{rows}{ALL}")).await;
    execute(&target, &tables).await;
    let names: Vec<String> = (1..=1_000).map(|n| format!("many_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let began = Instant::now();
    let mut daemon = Daemon::builder(&from.url).target("t", &to.url).start();
    daemon.wait_ready(seconds(60)).await;
    eprintln!("copied in {:?}", began.elapsed());
    let began = Instant::now();
    execute(&source, &each("INSERT INTO many_%s VALUES (6, ''x''), (7, ''y'')").replace("''", "'")).await;
    execute(&source, &each("UPDATE many_%1$s SET v = NULL WHERE id < 3")).await;
    execute(&source, &each("DELETE FROM many_%s WHERE id = 4")).await;
    // In transactions of their own, all tables again and again.
    for n in 1..=1_000 {
        execute(&source, &format!("UPDATE many_{n} SET v = 'last', id = id + 10 WHERE id = 5")).await;
    }
    let last = "SELECT FROM many_1000 WHERE id = 15";
    wait_for("the last change", seconds(60), async || target.query_opt(last, &[]).await.unwrap()).await;
    eprintln!("followed in {:?}", began.elapsed());
    assert_equal(&source, &target, &names).await;
}
