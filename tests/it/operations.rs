//! Every operation under every replica identity, on every version; then what is special about columns, constraints and
//! transactions.

mod columns;
mod constraints;
mod differences;
mod transactions;
mod truncation;

use crate::support::followed::{ALL, execute};
use crate::support::prelude::*;

/// `big` is stored out of line and uncompressed, so that an UPDATE of other columns leaves it out.
const TABLES: &str = "
    CREATE TABLE o_default (id int PRIMARY KEY, a text, b int, big text);
    CREATE TABLE o_index (a text, k1 int NOT NULL, k2 text NOT NULL, id int PRIMARY KEY, big text);
    CREATE UNIQUE INDEX o_index_key ON o_index (k2, k1);
    ALTER TABLE o_index REPLICA IDENTITY USING INDEX o_index_key;
    CREATE TABLE o_full (a int, b text, c numeric, big text);
    ALTER TABLE o_full REPLICA IDENTITY FULL;
    CREATE TABLE o_full_key (id int PRIMARY KEY, a text, big text);
    ALTER TABLE o_full_key REPLICA IDENTITY FULL;
    CREATE TABLE o_nothing (a int, b text);
    ALTER TABLE o_nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE o_none (a int, b text);
    CREATE TABLE o_only_key (a int, b int, PRIMARY KEY (a, b));
    CREATE TABLE o_serial (id serial PRIMARY KEY, a text);
    CREATE TABLE o_parent (id int PRIMARY KEY, a text);
    CREATE TABLE o_child (id int PRIMARY KEY, parent int REFERENCES o_parent ON DELETE CASCADE ON UPDATE CASCADE);
    ALTER TABLE o_default ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE o_index ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE o_full ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE o_full_key ALTER big SET STORAGE EXTERNAL;";

const NAMES: [&str; 10] = [
    "o_default",
    "o_index",
    "o_full",
    "o_full_key",
    "o_nothing",
    "o_none",
    "o_only_key",
    "o_serial",
    "o_parent",
    "o_child",
];

/// Rows for the copy, and for the changes that follow.
const ROWS: &str = "
    INSERT INTO o_default SELECT n, 'a' || n, n % 3, repeat(md5(n::text), 150) FROM generate_series(1, 20) n;
    INSERT INTO o_index SELECT 'a' || n, n % 4, 'k' || n, n, repeat(md5(n::text), 150) FROM generate_series(1, 20) n;
    INSERT INTO o_full SELECT n % 5, nullif('b' || n % 3, 'b0'), CASE WHEN n % 2 = 0 THEN 1.0 ELSE 1.00 END,
        repeat(md5((n % 2)::text), 150) FROM generate_series(1, 20) n;
    INSERT INTO o_full VALUES (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL);
    INSERT INTO o_full_key SELECT n, 'a' || n, repeat(md5(n::text), 150) FROM generate_series(1, 20) n;
    INSERT INTO o_nothing SELECT n % 3, NULL FROM generate_series(1, 10) n;
    INSERT INTO o_none SELECT n % 3, 'x' FROM generate_series(1, 10) n;
    INSERT INTO o_only_key SELECT n, n % 2 FROM generate_series(1, 10) n;
    INSERT INTO o_serial (a) SELECT 'a' || n FROM generate_series(1, 10) n;
    INSERT INTO o_parent SELECT n, 'p' FROM generate_series(1, 10) n;
    INSERT INTO o_child SELECT n, n % 10 + 1 FROM generate_series(1, 40) n;";

/// One statement to a transaction, and each compared: what a later one repairs must not hide what an earlier one
/// broke.
const CHANGES: &[&str] = &[
    // Values.
    "UPDATE o_default SET a = 'new', b = NULL WHERE id = 1",
    "UPDATE o_default SET b = b + 1",
    "UPDATE o_index SET a = NULL WHERE id < 5",
    "UPDATE o_full_key SET a = NULL WHERE id < 5",
    // An unchanged TOASTed value: beside a changed value, with a changed key, beside a changed big one.
    "UPDATE o_default SET id = id + 100 WHERE id <= 5",
    "UPDATE o_index SET k1 = k1 + 10, a = 'moved' WHERE id <= 5",
    "UPDATE o_full SET b = 'toast stays' WHERE a = 1",
    "UPDATE o_full_key SET id = id + 100 WHERE id <= 5",
    "UPDATE o_default SET big = repeat('changed', 500) WHERE id = 7",
    "UPDATE o_default SET big = NULL WHERE id = 8",
    "UPDATE o_index SET big = 'short' WHERE id = 9",
    // Keys that swap, by way of a third and in a chain.
    "BEGIN; UPDATE o_default SET id = -1 WHERE id = 10; UPDATE o_default SET id = 10 WHERE id = 11;
     UPDATE o_default SET id = 11 WHERE id = -1; COMMIT",
    "BEGIN; UPDATE o_index SET k2 = 'third' WHERE k2 = 'k10'; UPDATE o_index SET k2 = 'k10', k1 = 2 WHERE k2 = 'k11';
     UPDATE o_index SET k2 = 'k11', k1 = 3 WHERE k2 = 'third'; COMMIT",
    "BEGIN; DELETE FROM o_default WHERE id = 12; UPDATE o_default SET id = 12 WHERE id = 13;
     INSERT INTO o_default VALUES (13, 'again', 1, NULL); COMMIT",
    // FULL: one of several equal rows, NULLs, numerics that are equal and differ in text.
    "DELETE FROM o_full WHERE ctid = (SELECT min(ctid) FROM o_full WHERE a IS NULL)",
    "UPDATE o_full SET a = 7 WHERE ctid = (SELECT min(ctid) FROM o_full WHERE a IS NULL)",
    "UPDATE o_full SET b = 'scale' WHERE c::text = '1.0' AND a = 2",
    "DELETE FROM o_full WHERE c::text = '1.00' AND a = 3",
    "UPDATE o_full SET big = NULL WHERE a = 4",
    "DELETE FROM o_full WHERE ctid = (SELECT max(ctid) FROM o_full WHERE a = 0)",
    // Nothing but keys, or no identity at all.
    "UPDATE o_only_key SET b = b + 2 WHERE a > 5",
    "DELETE FROM o_only_key WHERE a < 3",
    "INSERT INTO o_only_key VALUES (1, 0), (1, 1)",
    "INSERT INTO o_nothing VALUES (NULL, NULL), (NULL, NULL), (1, 'x')",
    "INSERT INTO o_none SELECT 1, 'x' FROM generate_series(1, 3)",
    // Foreign keys that cascade.
    "DELETE FROM o_parent WHERE id = 3",
    "UPDATE o_parent SET id = id + 100 WHERE id > 8",
    // Subtransactions, kept and rolled back, also one within another.
    "BEGIN; INSERT INTO o_default VALUES (200, 'kept', 1, NULL); SAVEPOINT a; INSERT INTO o_default VALUES (201);
     SAVEPOINT b; UPDATE o_default SET a = 'never' WHERE id = 200; ROLLBACK TO b; DELETE FROM o_default WHERE id = 14;
     RELEASE a; SAVEPOINT c; DELETE FROM o_default; ROLLBACK TO c; UPDATE o_default SET b = 9 WHERE id = 201; COMMIT",
    "BEGIN; DELETE FROM o_default; ROLLBACK",
    "DELETE FROM o_default WHERE id > 150; DELETE FROM o_index WHERE k1 > 10; DELETE FROM o_full_key WHERE id > 100",
    // TRUNCATE: within a transaction, several at once, with all that refers to it, with what serial columns count.
    "BEGIN; INSERT INTO o_none VALUES (1, 'gone'); TRUNCATE o_none; INSERT INTO o_none VALUES (2, 'stays'); COMMIT",
    "TRUNCATE o_nothing, o_full, o_only_key",
    "INSERT INTO o_full VALUES (1, 'after', 1.5, NULL); INSERT INTO o_only_key VALUES (1, 1)",
    "BEGIN; SAVEPOINT a; TRUNCATE o_default; ROLLBACK TO a; INSERT INTO o_default VALUES (300); COMMIT",
    "TRUNCATE o_parent CASCADE",
    "BEGIN; INSERT INTO o_parent VALUES (1, 'x'); INSERT INTO o_child VALUES (1, 1); COMMIT",
    "TRUNCATE o_serial RESTART IDENTITY",
    "INSERT INTO o_serial (a) VALUES ('first again')",
];

#[tokio::test]
async fn every_operation_under_every_replica_identity_on_every_version() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let mut pair = Followed::start(&cluster, &format!("{TABLES}{ROWS}{ALL}"), TABLES).await;
        pair.equal(&NAMES).await;
        for statement in CHANGES {
            eprintln!("{statement}");
            pair.run(statement).await;
            pair.equal(&NAMES).await;
        }
        // The target's counter was put back with the source's, though nothing was taken from it there.
        execute(&pair.target, "INSERT INTO o_serial (a, id) SELECT 'target', nextval('o_serial_id_seq') + 100").await;
        pair.target_has("SELECT id FROM o_serial WHERE a = 'target'", &["(101)"]).await;
    })
    .await;
}

/// At first without TRUNCATE, which would leave little to compare.
#[tokio::test]
async fn all_operations_in_one_transaction_and_without_replica_role() {
    let cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE ROLE plain LOGIN").await;
    let ends = CHANGES.iter().position(|statement| statement.contains("TRUNCATE")).expect("a TRUNCATE");
    for changes in [&CHANGES[..ends], CHANGES] {
        let (from, to) = (cluster.create_database().await, cluster.create_database().await);
        let (source, target) = (cluster.connect(&from.name).await, cluster.connect(&to.name).await);
        execute(&source, &format!("{TABLES}{ROWS}{ALL}")).await;
        execute(
            &target,
            &format!("GRANT CREATE ON DATABASE {} TO plain; GRANT ALL ON SCHEMA public TO plain", to.name),
        )
        .await;
        let own = |table: &&str| format!("ALTER TABLE {table} OWNER TO plain;");
        execute(&target, &format!("{TABLES}{}", NAMES.iter().map(own).collect::<String>())).await;
        let mut daemon =
            Daemon::builder(&from.url).slot(&from.name).target("t", &cluster.url_as("plain", &to.name)).start();
        daemon.wait_ready(seconds(60)).await;
        wait_equal(&source, &[&target], &NAMES, seconds(60)).await;
        let mut all = String::from("BEGIN;\n");
        for statement in changes.iter().filter(|statement| !statement.ends_with("; ROLLBACK")) {
            let statement = statement.trim_start_matches("BEGIN; ").trim_end_matches("COMMIT").trim_end_matches("; ");
            all.push_str(statement);
            all.push_str(";\n");
        }
        all.push_str("COMMIT");
        execute(&source, &all).await;
        wait_equal(&source, &[&target], &NAMES, seconds(60)).await;
        let labels = [("target", "t")];
        assert_eq!(daemon.metric("walferry_target_conflicts_total", &labels).await, Some(0.0), "{}", daemon.log());
    }
}
