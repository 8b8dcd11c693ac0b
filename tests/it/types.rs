//! Every type of value, by copy and by stream: as a plain column beside its array, as a key where it can be one,
//! and as part of a row that has no key.
//!
//! The two databases are set to write and read text differently: what a session does not pin shows.

mod binary;
mod in_binary;
mod values;

use std::fmt::Write;

use tokio_postgres::Client;

use crate::support::followed::{ALL, execute};
use crate::support::prelude::*;
use values::{BUILT_IN, CUSTOM, NOT_STORED};

/// What text means for sessions that do not say it themselves; the second half for the target.
const SETTINGS: [&str; 2] = [
    "datestyle = 'SQL, DMY'; intervalstyle = 'sql_standard'; bytea_output = 'escape'; extra_float_digits = -3;
     timezone = 'Asia/Kathmandu'; xmloption = 'document'; array_nulls = off; search_path = 'extensions, pg_catalog'",
    "datestyle = 'German'; intervalstyle = 'iso_8601'; bytea_output = 'escape'; extra_float_digits = -5;
     timezone = 'America/St_Johns'; xmloption = 'document'; array_nulls = off; transform_null_equals = on;
     standard_conforming_strings = off; search_path = 'nowhere'",
];

/// Types of our own, made by both sides (the target makes others first, so that OIDs differ).
const CREATE: &str = r#"
    CREATE SCHEMA extensions; CREATE SCHEMA "T.y";
    CREATE EXTENSION hstore SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;
    CREATE EXTENSION ltree SCHEMA extensions;
    CREATE TYPE "T.y".mood AS ENUM ('sad', 'o''k', 'with "quotes", {braces}', 'NULL');
    CREATE DOMAIN "T.y".small AS int CHECK (value < 100);
    CREATE DOMAIN "T.y".smaller AS "T.y".small CHECK (value < 50);
    CREATE DOMAIN "T.y".list AS int[] CHECK (cardinality(value) < 5);
    CREATE DOMAIN "T.y".given AS text NOT NULL;
    CREATE DOMAIN "T.y".feeling AS "T.y".mood;
    CREATE DOMAIN "T.y".mail AS extensions.citext;
    CREATE TYPE "T.y"."Pair" AS (a int, "B b" text, m "T.y".mood, n numeric[]);
    CREATE TYPE "T.y".nested AS (p "T.y"."Pair", q "T.y"."Pair"[], d "T.y".smaller);
    CREATE TYPE "T.y".span AS RANGE (subtype = float8);
    CREATE TYPE "T.y".mood_range AS RANGE (subtype = "T.y".mood);
    CREATE COLLATION "T.y".folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"#;

/// One type's three tables.
struct Subject {
    /// Its name in SQL.
    sql: String,
    literals: Vec<String>,
    /// The number in its tables' names.
    number: usize,
    is_key: bool,
    /// Beside each value is an array of it, or just another one.
    arrays: bool,
}

impl Subject {
    fn tables(&self) -> Vec<String> {
        let mut tables = vec![format!("plain_{}", self.number), format!("full_{}", self.number)];
        tables.extend(self.is_key.then(|| format!("key_{}", self.number)));
        tables
    }

    async fn create(&mut self, source: &Client, target: &Client) {
        let (sql, number) = (&self.sql, self.number);
        let array = match self.arrays {
            true if sql.contains("COLLATE") => "text[]".to_owned(),
            true => format!("{sql}[]"),
            false => sql.clone(),
        };
        let tables = format!(
            "CREATE TABLE plain_{number} (id int PRIMARY KEY, v {sql}, a {array});
             CREATE TABLE full_{number} (v {sql}, n int, a {array});
             ALTER TABLE full_{number} REPLICA IDENTITY FULL"
        );
        let key = format!("CREATE TABLE key_{number} (n int, v {sql} PRIMARY KEY)");
        execute(source, &tables).await;
        execute(target, &tables).await;
        self.is_key = source.batch_execute(&key).await.is_ok();
        if self.is_key {
            execute(target, &key).await;
        }
    }

    fn cast(&self, literal: &str) -> String {
        match self.sql.split_once(" COLLATE ") {
            Some((name, _)) => format!("{literal}::{name}"),
            None => format!("{literal}::{}", self.sql),
        }
    }

    /// Rows numbered from `from`, one for each literal, with arrays of none, one, several and two dimensions.
    fn insert(&self, from: usize) -> String {
        let mut text = String::new();
        let all: Vec<String> = self.literals.iter().map(|literal| self.cast(literal)).collect();
        let null = if self.sql.ends_with("given") { "NULL" } else { &*self.cast("NULL") };
        let nothing = if self.sql.ends_with("given") { "'{}'".to_owned() } else { format!("ARRAY[{null}]") };
        let arrays = [
            "'{}'".to_owned(),
            nothing,
            format!("ARRAY[{}]", all.join(", ")),
            format!("ARRAY[[{0}, {1}], [{1}, {0}]]", all[0], all[all.len() - 1]),
            "NULL".to_owned(),
        ];
        // An array of domains over arrays has elements of differing dimensions, which ARRAY[] does not make.
        let arrays = if self.sql.ends_with(".list") { &arrays[..1] } else { &arrays[..] };
        let vector = self.sql.ends_with("vector\"") && !self.sql.contains("ts");
        let arrays = if vector { &["NULL".to_owned()][..] } else { arrays };
        let arrays = if self.arrays { arrays } else { &all[..] };
        let number = self.number;
        for (at, value) in all.iter().enumerate() {
            let (id, array) = (from + at, &arrays[at % arrays.len()]);
            writeln!(text, "INSERT INTO plain_{number} VALUES ({id}, {value}, {array});").unwrap();
            writeln!(text, "INSERT INTO full_{number} VALUES ({value}, {id}, {array});").unwrap();
            if self.is_key {
                writeln!(text, "INSERT INTO key_{number} VALUES ({id}, {value}) ON CONFLICT DO NOTHING;").unwrap();
            }
        }
        if !self.sql.ends_with("given") {
            writeln!(text, "INSERT INTO plain_{number} VALUES ({}, NULL, NULL);", from + 50).unwrap();
            writeln!(text, "INSERT INTO full_{number} SELECT NULL, {}, NULL FROM generate_series(1, 3);", from + 50)
                .unwrap();
        }
        text
    }

    /// Every row gets another's value; rows without a key are changed and removed by all their values.
    fn change(&self) -> String {
        let number = self.number;
        let mut text = format!(
            "UPDATE plain_{number} p SET v = o.v, a = o.a FROM plain_{number} o WHERE o.id = 101 + p.id % 2;
             UPDATE plain_{number} SET id = id + 1000 WHERE id > 102;
             DELETE FROM plain_{number} WHERE id = 1;
             UPDATE full_{number} SET n = n + 1000 WHERE n < 100;
             DELETE FROM full_{number} WHERE n > 1000;
             DELETE FROM full_{number} WHERE ctid IN (SELECT min(ctid) FROM full_{number} GROUP BY n);\n"
        );
        if self.is_key {
            writeln!(text, "UPDATE key_{number} SET n = n + 1;").unwrap();
            writeln!(text, "DELETE FROM key_{number} WHERE n % 2 = 0;").unwrap();
            let value = self.cast(&self.literals[0]);
            writeln!(
                text,
                "WITH gone AS (DELETE FROM key_{number} WHERE v::text = {value}::text) SELECT;
                 UPDATE key_{number} SET v = {value} WHERE n = (SELECT max(n) FROM key_{number});"
            )
            .unwrap();
        }
        text
    }
}

/// Rows without a key whose values are equal by their types' operators and not the same: the one that is meant is
/// found, also where what differs does not show in an equality.
#[tokio::test]
async fn rows_that_are_equal_and_not_the_same() {
    let cluster = Cluster::start(default_major()).await;
    let table = "CREATE EXTENSION citext;
     CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);";
    let kinds = [
        ("bpchar", "'a'", "'a  '"),
        ("numeric", "1.0", "1.00"),
        ("interval", "'1 mon'", "'30 days'"),
        ("float8", "'0'", "'-0'"),
        ("citext", "'a'", "'A'"),
        ("text COLLATE folded", "'a'", "'A'"),
        ("jsonb", "'1.0'", "'1.00'"),
        ("timetz", "'12:00+01'", "'12:00+01:00:00'"),
        ("numeric[]", "'{1.0}'", "'{1.00}'"),
        ("numrange", "'[1.0,2)'", "'[1.00,2)'"),
        ("json", "'{}'", "'{ }'"),
    ];
    let tables: String = (0..)
        .zip(kinds)
        .map(|(n, (kind, ..))| format!("CREATE TABLE e_{n} (v {kind}); ALTER TABLE e_{n} REPLICA IDENTITY FULL;"))
        .collect();
    let mut pair = Followed::same(&cluster, &format!("{table}{tables}")).await;
    let names: Vec<String> = (0..kinds.len()).map(|n| format!("e_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (name, (kind, one, other)) in names.iter().zip(kinds) {
        let text = |value: &str| format!("format('%s', {value}::{})", kind.split(' ').next().unwrap());
        pair.run(&format!("INSERT INTO {name} VALUES ({one}), ({other}), ({one}), ({other}), (NULL)")).await;
        pair.run(&format!("DELETE FROM {name} WHERE format('%s', v) = {}", text(other))).await;
        pair.run(&format!("UPDATE {name} SET v = {other} WHERE ctid = (SELECT min(ctid) FROM {name})")).await;
        pair.run(&format!("DELETE FROM {name} WHERE v IS NULL")).await;
    }
    pair.equal(&names).await;
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The built-in types of this server; one that the list of values does not know is an error.
async fn subjects(client: &Client) -> Vec<Subject> {
    let query = "SELECT typname::text FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
                 AND typtype IN ('b', 'r', 'm') AND typname NOT LIKE '\\_%' ORDER BY oid";
    let mut subjects = Vec::new();
    let mut add = |sql: String, values: &[&str]| {
        let literals = values.iter().map(|value| literal(value)).collect();
        subjects.push(Subject { sql, literals, number: subjects.len(), is_key: false, arrays: true });
    };
    for row in client.query(query, &[]).await.unwrap() {
        let name: String = row.get(0);
        if NOT_STORED.contains(&name.as_str()) {
            continue;
        }
        let known = BUILT_IN.iter().find(|(known, _)| *known == name);
        let (_, values) = known.unwrap_or_else(|| panic!("the list has no values of type {name}"));
        add(format!("pg_catalog.\"{name}\""), values);
    }
    for (name, values) in CUSTOM {
        add((*name).to_owned(), values);
    }
    subjects
}

#[tokio::test]
async fn values_of_every_type_are_copied_streamed_found_as_key_and_found_in_full_rows() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let (from, to) = (cluster.create_database().await, cluster.create_database().await);
        for (db, settings) in [(&from, SETTINGS[0]), (&to, SETTINGS[1])] {
            let set = |setting: &str| format!("ALTER DATABASE {} SET {};", db.name, setting.trim());
            cluster.execute("postgres", &settings.split(';').map(set).collect::<String>()).await;
        }
        let (source, target) = (cluster.connect(&from.name).await, cluster.connect(&to.name).await);
        // The sessions of the test itself.
        for client in [&source, &target] {
            let settings = "SET search_path = public; SET datestyle = ISO; SET timezone = UTC; SET array_nulls = on;
                            SET intervalstyle = postgres; SET xmloption = content; SET transform_null_equals = off";
            execute(client, settings).await;
        }
        execute(
            &target,
            "CREATE TYPE shift AS ENUM (); CREATE TYPE by AS (a int);
         CREATE DOMAIN shifted AS int",
        )
        .await;
        execute(&source, CREATE).await;
        execute(&target, CREATE).await;
        let mut subjects = subjects(&source).await;
        for subject in &mut subjects {
            subject.create(&source, &target).await;
            execute(&source, &subject.insert(1)).await;
        }
        execute(&source, ALL).await;
        let tables: Vec<String> = subjects.iter().flat_map(Subject::tables).collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let daemon = Daemon::builder(&from.url).target("t", &to.url).start();
        wait_equal(&source, &[&target], &tables, seconds(60)).await;
        for subject in &subjects {
            execute(&source, &subject.insert(101)).await;
        }
        wait_equal(&source, &[&target], &tables, seconds(60)).await;
        for subject in &subjects {
            execute(&source, &subject.change()).await;
        }
        wait_equal(&source, &[&target], &tables, seconds(60)).await;
        let keys = subjects.iter().filter(|subject| subject.is_key).count();
        assert!(keys > 40, "only {keys} types were keys");
        let conflicts = daemon.metric("walferry_target_conflicts_total", &[("target", "t")]).await;
        assert_eq!(conflicts, Some(0.0), "{}", daemon.log());
    })
    .await;
}
