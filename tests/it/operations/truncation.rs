//! TRUNCATE: the target's tables that the source emptied are empty, and no others; with roles of every kind.

use crate::support::daemon_builder::Builder;
use crate::support::followed::{ALL, execute};
use crate::support::pair::wait_halted;
use crate::support::prelude::*;

/// `b` is not published; `own` is the target's alone.
const SOURCE: &str = "
    CREATE TABLE a (id serial PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
    INSERT INTO a (v) SELECT 'v' FROM generate_series(1, 3);
    INSERT INTO b VALUES (1, 1);
    CREATE PUBLICATION walferry FOR TABLE a, fence;";

const TARGET: &str = "
    CREATE TABLE a (id serial PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
    CREATE TABLE own (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);
    GRANT ALL ON SCHEMA public TO plain;
    DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END$$;";

/// What refers to rows that are copied.
const OWN_ROWS: &str = "
    INSERT INTO b VALUES (1, 1), (2, 2);
    INSERT INTO own VALUES (1, 1), (2, 3);
    SELECT nextval('a_id_seq') FROM generate_series(1, 7);";

fn as_plain(builder: Builder) -> Builder {
    builder.retarget("postgres@", "plain@").apply("halted_retry_interval", "\"200ms\"")
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE ROLE plain LOGIN").await;
    cluster
}

#[tokio::test]
async fn with_cascade_the_source_empties_its_own_tables_and_none_that_only_the_target_has() {
    let cluster = cluster().await;
    let mut pair = Followed::start(&cluster, SOURCE, TARGET).await;
    execute(&pair.target, OWN_ROWS).await;
    pair.run("BEGIN; INSERT INTO a (v) VALUES ('w'); TRUNCATE a RESTART IDENTITY CASCADE; COMMIT").await;
    pair.run("INSERT INTO a (v) VALUES ('first again')").await;
    pair.equal(&["a"]).await;
    pair.target_has("SELECT id FROM a", &["(1)"]).await;
    pair.target_has("SELECT id FROM b", &["(1)", "(2)"]).await;
    pair.target_has("SELECT id FROM own", &["(1)", "(2)"]).await;
    pair.target_has("SELECT nextval('a_id_seq')", &["(1)"]).await;
    // Without RESTART IDENTITY it counts on.
    pair.run("TRUNCATE a CASCADE").await;
    pair.equal(&["a"]).await;
    pair.target_has("SELECT nextval('a_id_seq')", &["(2)"]).await;
    pair.target_has("SELECT count(*) FROM own", &["(2)"]).await;
}

#[tokio::test]
async fn where_foreign_keys_fire_a_table_that_others_refer_to_halts_the_target_until_it_is_mended() {
    let cluster = cluster().await;
    let own = "ALTER TABLE a OWNER TO plain; ALTER TABLE fence OWNER TO plain;";
    let mut pair = Followed::start_with(&cluster, SOURCE, &format!("{TARGET}{own}"), as_plain).await;
    execute(&pair.target, OWN_ROWS).await;
    pair.run("TRUNCATE a CASCADE").await;
    let says = ["public.a", "a TRUNCATE", "drop that foreign key", "session_replication_role"];
    wait_halted(&mut pair.daemon, "t", &says, seconds(60)).await;
    pair.target_has("SELECT count(*) FROM own", &["(2)"]).await;
    execute(&pair.target, "ALTER TABLE b DROP CONSTRAINT b_a_fkey; ALTER TABLE own DROP CONSTRAINT own_a_fkey").await;
    pair.equal(&["a"]).await;
    pair.target_has("SELECT count(*) FROM own", &["(2)"]).await;
}

#[tokio::test]
async fn a_partitioned_table_that_refers_to_it_is_emptied_by_its_leaves() {
    const TABLES: &str = "
        CREATE TABLE customer (id int PRIMARY KEY);
        CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customer) PARTITION BY RANGE (id);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
        CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);";
    let cluster = cluster().await;
    let target = format!(
        "{TABLES} GRANT ALL ON ALL TABLES IN SCHEMA public TO plain;
         DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END$$"
    );
    let rows = "INSERT INTO customer VALUES (1), (2); INSERT INTO orders VALUES (1, 1), (11, 2);";
    // FOR ALL TABLES without publish_via_partition_root: the leaves are published, not their root.
    let mut pair = Followed::start_with(&cluster, &format!("{TABLES}{rows}{ALL}"), &target, as_plain).await;
    pair.run("TRUNCATE customer CASCADE").await;
    pair.run("INSERT INTO customer VALUES (3); INSERT INTO orders VALUES (12, 3)").await;
    pair.equal(&["customer", "orders"]).await;
}

#[tokio::test]
async fn a_role_that_owns_nothing_truncates_while_foreign_keys_of_other_tables_wait() {
    const TABLES: &str = "
        CREATE TABLE s (id serial PRIMARY KEY, v text);
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE);";
    let cluster = cluster().await;
    let target = format!(
        "{TABLES} GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO plain;
         DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END$$"
    );
    let rows = "INSERT INTO s (v) SELECT 'v' FROM generate_series(1, 3);";
    let mut pair = Followed::start_with(&cluster, &format!("{TABLES}{rows}{ALL}"), &target, as_plain).await;
    pair.run("TRUNCATE s RESTART IDENTITY").await;
    pair.run("INSERT INTO s (v) VALUES ('first again')").await;
    pair.equal(&["s"]).await;
    pair.daemon.wait_log("without RESTART IDENTITY", seconds(30)).await;
    pair.run(
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO child VALUES (1, 1); TRUNCATE s;
         INSERT INTO s (v) VALUES ('x'); INSERT INTO parent VALUES (1); COMMIT",
    )
    .await;
    pair.equal(&["s", "parent", "child"]).await;
}
