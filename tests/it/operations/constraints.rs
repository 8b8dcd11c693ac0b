//! Constraints: deferrable keys that swap, unique values that change hands, and what only one side has.

use crate::support::followed::ALL;
use crate::support::prelude::*;

const DEFERRABLE: &str = "
    CREATE TABLE d (id int PRIMARY KEY DEFERRABLE, v text, big text);
    ALTER TABLE d REPLICA IDENTITY FULL;
    ALTER TABLE d ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE d_unique (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE d_parent (id int PRIMARY KEY);
    CREATE TABLE d_child (id int PRIMARY KEY, parent int REFERENCES d_parent DEFERRABLE INITIALLY IMMEDIATE);";

const ROWS: &str = "
    INSERT INTO d SELECT n, 'v' || n, repeat(md5(n::text), 150) FROM generate_series(1, 9) n;
    INSERT INTO d_unique SELECT n, n FROM generate_series(1, 9) n;
    INSERT INTO d_parent SELECT n FROM generate_series(1, 9) n;
    INSERT INTO d_child SELECT n, n FROM generate_series(1, 9) n;";

const CHANGES: [&str; 5] = [
    "UPDATE d SET id = 3 - id WHERE id IN (1, 2)",
    "UPDATE d SET id = id % 9 + 1",
    "UPDATE d_unique SET place = 10 - place",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO d_child VALUES (20, 20); INSERT INTO d_parent VALUES (20);
     COMMIT",
    "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM d_parent WHERE id = 5; DELETE FROM d_child WHERE parent = 5;
     COMMIT",
];

const NAMES: [&str; 4] = ["d", "d_unique", "d_parent", "d_child"];

#[tokio::test]
async fn what_is_deferred_on_the_source_is_deferred_on_the_target() {
    let cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE ROLE plain LOGIN").await;
    let own: String =
        NAMES.iter().chain(&["fence"]).map(|table| format!("ALTER TABLE {table} OWNER TO plain;")).collect();
    let target = format!(
        "{DEFERRABLE}{own} GRANT ALL ON SCHEMA public TO plain; DO $$BEGIN
        EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END$$"
    );
    // With the replica role nothing would check foreign keys.
    for role in ["postgres", "plain"] {
        let as_role =
            |builder: crate::support::daemon_builder::Builder| builder.retarget("postgres@", &format!("{role}@"));
        let mut pair = Followed::start_with(&cluster, &format!("{DEFERRABLE}{ROWS}{ALL}"), &target, as_role).await;
        for statement in CHANGES {
            pair.run(statement).await;
            pair.equal(&NAMES).await;
        }
    }
}

/// A target whose key is checked at once refuses the first half of a swap: the rows in the way are cleared and come
/// back with the rest of the transaction.
#[tokio::test]
async fn a_swap_becomes_equal_where_the_target_cannot_defer() {
    let cluster = Cluster::start(default_major()).await;
    let target =
        DEFERRABLE.replace(" DEFERRABLE INITIALLY DEFERRED", "").replace("PRIMARY KEY DEFERRABLE", "PRIMARY KEY");
    let pair = Followed::start(&cluster, &format!("{DEFERRABLE}{ROWS}{ALL}"), &target).await;
    for statement in CHANGES {
        pair.run(statement).await;
        pair.becomes_equal(&NAMES).await;
    }
}

#[tokio::test]
async fn unique_values_that_change_hands_within_a_transaction() {
    let cluster = Cluster::start(default_major()).await;
    let tables = "
        CREATE TABLE u (id int PRIMARY KEY, mail text UNIQUE, place int, v text);
        CREATE UNIQUE INDEX u_lower ON u (lower(v));
        CREATE UNIQUE INDEX u_some ON u (place) WHERE place > 0;
        CREATE TABLE x (id int PRIMARY KEY, span int4range, EXCLUDE USING gist (span WITH &&));";
    let rows = "
        INSERT INTO u SELECT n, 'm' || n, n, 'V' || n FROM generate_series(1, 9) n;
        INSERT INTO x SELECT n, int4range(n * 10, n * 10 + 10) FROM generate_series(1, 9) n;";
    let mut pair = Followed::start(&cluster, &format!("{tables}{rows}{ALL}"), tables).await;
    for statement in [
        "BEGIN; UPDATE u SET mail = NULL WHERE id = 1; UPDATE u SET mail = 'm1' WHERE id = 2;
         UPDATE u SET mail = 'm2' WHERE id = 1; COMMIT",
        "BEGIN; DELETE FROM u WHERE id = 3; INSERT INTO u VALUES (30, 'm3', 3, 'v3'); COMMIT",
        "BEGIN; UPDATE u SET place = 0, v = 'other' WHERE id = 4; UPDATE u SET place = 4, v = 'V4' WHERE id = 5;
         COMMIT",
        "BEGIN; UPDATE x SET span = 'empty' WHERE id = 1; UPDATE x SET span = '[5,20)' WHERE id = 2; COMMIT",
    ] {
        pair.run(statement).await;
        pair.equal(&["u", "x"]).await;
    }
}
