//! Binary: what goes so, from any version to any other, is what text would have brought; and what cannot, goes as text.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::Client;
use walferry::postgres::binary::{array_of, element_of, is_portable};

use super::values::BUILT_IN;
use super::{CREATE, SETTINGS, Subject, execute, literal, subjects};
use crate::support::followed::{ALL, rows};
use crate::support::prelude::*;

/// A portable type and its array, as the server has them.
struct Portable {
    name: String,
    oid: u32,
    array: u32,
}

async fn portable(client: &Client) -> Vec<Portable> {
    let query =
        "SELECT typname::text, oid, typarray FROM pg_type WHERE oid < 10000 AND typcategory <> 'A' ORDER BY oid";
    let types = client.query(query, &[]).await.unwrap();
    let types = types.iter().map(|row| Portable { name: row.get(0), oid: row.get(1), array: row.get(2) });
    types.filter(|one| is_portable(one.oid)).collect()
}

/// A table with a column of each type and one of its array, and rows of all values to try.
async fn fill(client: &Client, types: &[Portable]) {
    let columns: String = (0..)
        .zip(types)
        .map(|(n, one)| format!(", v_{n} pg_catalog.\"{0}\", a_{n} pg_catalog.\"{0}\"[]", one.name))
        .collect();
    execute(client, &format!("CREATE TABLE from_here (id int{columns})")).await;
    let values = |one: &Portable| BUILT_IN.iter().find(|(name, _)| *name == one.name).expect("values to try").1;
    let most = types.iter().map(|one| values(one).len()).max().unwrap();
    for at in 0..most.max(5) {
        let of = |one: &Portable| {
            let cast = |text: &&str| format!("{}::pg_catalog.\"{}\"", literal(text), one.name);
            let values: Vec<String> = values(one).iter().map(cast).collect();
            let (all, first, last) = (values.join(", "), &values[0], &values[values.len() - 1]);
            let array = match at {
                0 => "'{}'".to_owned(),
                1 => format!("ARRAY[{all}, NULL]"),
                2 => format!("ARRAY[[{first}, {last}], [NULL, {first}]]"),
                3 => format!("('[-3:-2][7:7]=' || ARRAY[[{first}], [{last}]]::text)::pg_catalog.\"{}\"[]", one.name),
                _ => "NULL".to_owned(),
            };
            format!(", {}, {array}", values.get(at).map_or("NULL", String::as_str))
        };
        let row: String = types.iter().map(of).collect();
        execute(client, &format!("INSERT INTO from_here VALUES ({at}{row})")).await;
    }
}

/// COPY from one server to another, as a client that looks at nothing.
async fn pipe(from: &Client, out: &str, to: &Client, into: &str) {
    let data: Vec<Bytes> = from.copy_out(out).await.unwrap().try_collect().await.unwrap();
    let sink = to.copy_in::<_, Bytes>(into).await.unwrap();
    futures_util::pin_mut!(sink);
    for piece in data {
        sink.send(piece).await.unwrap();
    }
    sink.finish().await.unwrap();
}

#[tokio::test]
async fn every_portable_type_is_the_same_in_binary_from_any_version_to_any_other() {
    let mut servers = Vec::new();
    for major in majors() {
        let cluster = Cluster::start(major).await;
        let client = cluster.connect("postgres").await;
        execute(&client, "SET timezone = UTC; SET extra_float_digits = 3").await;
        let types = portable(&client).await;
        fill(&client, &types).await;
        servers.push((cluster, client, types));
    }
    let named = |types: &[Portable]| types.iter().map(|one| (one.oid, one.name.clone())).collect::<Vec<_>>();
    let wanted = named(&servers[0].2);
    assert!(wanted.len() > 50, "{wanted:?}");
    for (cluster, _, types) in &servers {
        assert_eq!(named(types), wanted, "on PostgreSQL {}", cluster.major);
        for one in types {
            assert_eq!((array_of(one.oid), element_of(one.array)), (Some(one.array), Some(one.oid)), "{}", one.name);
        }
    }
    for (there, from, _) in &servers {
        let sent = rows(from, "SELECT * FROM from_here").await;
        for (here, to, _) in &servers {
            execute(to, "CREATE TABLE to_here (LIKE from_here)").await;
            let (out, into) = ("COPY from_here TO STDOUT (FORMAT binary)", "COPY to_here FROM STDIN (FORMAT binary)");
            pipe(from, out, to, into).await;
            let arrived = rows(to, "SELECT * FROM to_here").await;
            assert_eq!(arrived, sent, "from PostgreSQL {} to {}", there.major, here.major);
            execute(to, "DROP TABLE to_here").await;
        }
    }
}

/// The types of a table's columns, below domains.
const BASE_TYPES: &str = "
    WITH RECURSIVE base (oid) AS (
        SELECT atttypid FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd')
    SELECT b.oid FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'";

/// The copies the daemon made in this format.
fn copied(daemon: &Daemon, format: &str) -> BTreeSet<String> {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("table copied"));
    let lines = lines.filter(|line| line.contains(&format!("format=\"{format}\"")));
    let table = |line: &str| line.split("table=public.").nth(1)?.split(' ').next().map(str::to_owned);
    lines.filter_map(table).collect()
}

async fn copy_between(from: &Cluster, to: &Cluster) {
    eprintln!("--- from PostgreSQL {} to {}", from.major, to.major);
    let (source_db, target_db) = (from.create_database().await, to.create_database().await);
    for (cluster, db, settings) in [(from, &source_db, SETTINGS[0]), (to, &target_db, SETTINGS[1])] {
        let set = |setting: &str| format!("ALTER DATABASE {} SET {};", db.name, setting.trim());
        cluster.execute("postgres", &settings.split(';').map(set).collect::<String>()).await;
    }
    let (source, target) = (from.connect(&source_db.name).await, to.connect(&target_db.name).await);
    for client in [&source, &target] {
        let settings = "SET search_path = public; SET datestyle = ISO; SET timezone = UTC; SET array_nulls = on;
                        SET intervalstyle = postgres; SET xmloption = content; SET standard_conforming_strings = on";
        execute(client, settings).await;
    }
    execute(&target, "CREATE TYPE shift AS ENUM (); CREATE DOMAIN shifted AS int").await;
    execute(&source, CREATE).await;
    execute(&target, CREATE).await;
    let mut subjects = subjects(if from.major < to.major { &source } else { &target }).await;
    for subject in &mut subjects {
        subject.create(&source, &target).await;
        execute(&source, &subject.insert(1)).await;
    }
    execute(&source, ALL).await;
    let tables: Vec<String> = subjects.iter().flat_map(Subject::tables).collect();
    let (mut binary, mut text) = (BTreeSet::new(), BTreeSet::new());
    for table in &tables {
        let types = source.query(BASE_TYPES, &[table]).await.unwrap();
        let all = types.iter().all(|row| is_portable(row.get(0)));
        if all { &mut binary } else { &mut text }.insert(table.clone());
    }
    let mut daemon = Daemon::builder(&source_db.url).target("t", &target_db.url).start();
    daemon.wait_ready(seconds(60)).await;
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    assert_equal(&source, &target, &tables).await;
    assert_eq!(copied(&daemon, "binary"), binary);
    assert_eq!(copied(&daemon, "text"), text);
    assert!(binary.len() > 120 && text.len() > 60, "{} in binary, {} as text", binary.len(), text.len());
    // Domains over portable types are, as keys; beside an array of theirs they are not.
    let of = |name: &str| subjects.iter().find(|subject| subject.sql == name).unwrap().number;
    for name in ["\"T.y\".smaller", "\"T.y\".list", "\"T.y\".given"] {
        let number = of(name);
        assert!(binary.contains(&format!("key_{number}")) && text.contains(&format!("plain_{number}")), "{name}");
    }
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn tables_of_every_type_are_copied_between_the_oldest_and_the_newest_version() {
    let majors = majors();
    let (oldest, newest) = (Cluster::start(majors[0]).await, Cluster::start(majors[majors.len() - 1]).await);
    copy_between(&oldest, &newest).await;
    copy_between(&newest, &oldest).await;
}

/// Columns of one type and another modifier: what a receive function makes of a value is what an input function makes.
#[tokio::test]
async fn modifiers_are_applied_as_they_are_to_text() {
    let cluster = Cluster::start(default_major()).await;
    let source = "n numeric, m numeric[], t timestamp, z timestamptz, i time, j timetz, b bpchar, v varchar, x varbit, \
                  d date, r float8";
    let target = "n numeric(6,2), m numeric(6,1)[], t timestamp(1), z timestamptz(0), i time(3), j timetz(2), \
                  b char(5), v varchar(4), x varbit(4), d date, r float8";
    let values = "
        INSERT INTO s VALUES
        (1.005, '{1.25,NULL,-0.05}', '2024-02-29 23:59:59.96', '1999-12-31 23:59:59.5+00', '23:59:59.9996',
         '12:00:00.006+05:45', 'ab', 'a', '1010', 'infinity', 0.1),
        (-9999.994, '{}', 'infinity', '-infinity', '24:00', '24:00-15:59:59', 'abcde   ', 'abcd  ', '',
         '0044-03-15 BC', 'NaN'),
        ('NaN', NULL, '0001-01-01 BC', NULL, NULL, NULL, '', '', '1', NULL, '-0')";
    let mut pair = Followed::start(
        &cluster,
        &format!("CREATE TABLE s ({source}); {values}; ALTER TABLE s REPLICA IDENTITY FULL; {ALL}"),
        &format!("CREATE TABLE s ({target}); CREATE TABLE as_text (LIKE s)"),
    )
    .await;
    assert!(copied(&pair.daemon, "binary").contains("s"), "{}", pair.daemon.log());
    pipe(&pair.source, "COPY s TO STDOUT", &pair.target, "COPY as_text FROM STDIN").await;
    let (binary, text) =
        (rows(&pair.target, "SELECT * FROM s").await, rows(&pair.target, "SELECT * FROM as_text").await);
    assert_eq!(binary, text);
    assert_eq!(binary.len(), 3);
    assert!(pair.daemon.terminate(seconds(20)).await.success());
}

/// Text inside of values, from a database of one encoding to one of another.
#[tokio::test]
async fn text_in_binary_is_converted_between_encodings() {
    let cluster = Cluster::start(default_major()).await;
    cluster
        .execute("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        .await;
    let utf = cluster.create_database().await;
    let (latin, other) = (cluster.connect("latin").await, cluster.connect(&utf.name).await);
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, a text, b varchar(8), c char(8), d json, e jsonb, f tsvector, g text[],
                 h bytea, i jsonpath)";
    for client in [&latin, &other] {
        execute(client, table).await;
    }
    let values = r#"'äöü÷×', 'ßÿ', 'é', '{"ü": "ä"}', '{"ü": "ä", "z": "ÿ"}', 'ü:1 zz:2A ä:3', '{ä,"ö ü"}',
                    '\xe4c3a4', '$."ü"'"#;
    execute(&latin, &format!("INSERT INTO t VALUES (1, {values}), (2, {values}); {ALL}")).await;
    let mut daemon = Daemon::builder(&cluster.url("latin")).target("t", &utf.url).start();
    daemon.wait_ready(seconds(60)).await;
    assert_eq!(rows(&latin, "SELECT * FROM t").await, rows(&other, "SELECT * FROM t").await);
    assert!(copied(&daemon, "binary").contains("t"), "{}", daemon.log());
    let found = "SELECT FROM t WHERE f @@ 'ü & ä:*' AND e->>'ü' = 'ä' AND g[2] = 'ö ü' AND octet_length(h) = 3";
    assert_eq!(other.query(found, &[]).await.unwrap().len(), 2);
    // And back, from a slot of its own.
    execute(&other, "DROP TABLE t").await;
    execute(&other, &format!("{table}; INSERT INTO t VALUES (1, {values}); {ALL}")).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    execute(&latin, "DROP SCHEMA IF EXISTS walferry CASCADE; TRUNCATE t").await;
    let mut daemon = Daemon::builder(&utf.url).slot("back").target("t", &cluster.url("latin")).start();
    daemon.wait_ready(seconds(60)).await;
    assert_eq!(rows(&latin, "SELECT * FROM t").await, rows(&other, "SELECT * FROM t").await);
    assert!(copied(&daemon, "binary").contains("t"), "{}", daemon.log());
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// The database orders these names in another way than their bytes in UTF-8 do.
#[tokio::test]
async fn columns_are_known_by_their_names_in_any_encoding() {
    let cluster = Cluster::start(default_major()).await;
    cluster
        .execute("postgres", "CREATE DATABASE koi ENCODING 'KOI8R' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        .await;
    let source_db = cluster.create_database().await;
    let (source, koi) = (cluster.connect(&source_db.name).await, cluster.connect("koi").await);
    let table = "CREATE TABLE t (id int PRIMARY KEY, г float8, ц bigint, ю text)";
    execute(&koi, table).await;
    execute(&source, &format!("{table}; INSERT INTO t VALUES (1, 0.1, 2, 'жук'), (2, NULL, 3, NULL); {ALL}")).await;
    let order =
        rows(&koi, "SELECT string_agg(attname, '' ORDER BY attname) FROM pg_attribute WHERE attname > 'z'").await;
    assert_eq!(order, ["(юцг)"]);
    let mut daemon = Daemon::builder(&source_db.url).target("t", &cluster.url("koi")).start();
    daemon.wait_ready(seconds(60)).await;
    assert_eq!(rows(&source, "SELECT * FROM t").await, rows(&koi, "SELECT * FROM t").await);
    assert!(copied(&daemon, "binary").contains("t"), "{}", daemon.log());
    assert!(daemon.terminate(seconds(20)).await.success());
}
