//! Partitioned tables: published by root or by leaf, on one side only, laid out differently, rows that move,
//! partitions that come and go.

use crate::support::followed::{ALL, execute};
use crate::support::prelude::*;

/// Two levels; a leaf that was a table of its own before, its columns in another order and after a dropped one.
const SOURCE: &str = "
    CREATE TABLE p (id int, region text, v text, big text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE p_north PARTITION OF p FOR VALUES IN ('north');
    CREATE TABLE p_south PARTITION OF p FOR VALUES IN ('south') PARTITION BY RANGE (id);
    CREATE TABLE p_south_low PARTITION OF p_south FOR VALUES FROM (MINVALUE) TO (100);
    CREATE TABLE p_south_high (big text, gone int, v text, region text NOT NULL, id int NOT NULL);
    ALTER TABLE p_south_high DROP gone;
    ALTER TABLE p_south ATTACH PARTITION p_south_high FOR VALUES FROM (100) TO (MAXVALUE);
    CREATE TABLE p_rest PARTITION OF p DEFAULT;
    ALTER TABLE p_north ALTER big SET STORAGE EXTERNAL; ALTER TABLE p_south_low ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE p_south_high ALTER big SET STORAGE EXTERNAL; ALTER TABLE p_rest ALTER big SET STORAGE EXTERNAL;";

const LEAVES: [&str; 4] = ["p_north", "p_south_low", "p_south_high", "p_rest"];

const ROWS: &str = "
    INSERT INTO p SELECT n, (ARRAY['north', 'south', 'east'])[n % 3 + 1], 'v' || n, repeat(md5(n::text), 150)
        FROM generate_series(1, 200, 7) n;";

/// Values; rows that move between leaves of one level and of two, with unchanged TOASTed values; keys; deletes.
const CHANGES: &[&str] = &[
    "INSERT INTO p SELECT n, 'south', 'new', repeat('x', 3000) FROM generate_series(90, 110) n ON CONFLICT DO NOTHING",
    "UPDATE p SET v = 'x' WHERE id % 2 = 0",
    "UPDATE p SET region = 'north' WHERE region = 'south' AND id IN (91, 101)",
    "UPDATE p SET id = id + 200 WHERE region = 'south' AND id < 50",
    "UPDATE p SET region = 'west', v = 'moved' WHERE region = 'north' AND id % 3 = 0",
    "UPDATE p SET big = NULL WHERE region = 'south' AND id % 5 = 0",
    "DELETE FROM p WHERE id % 4 = 0",
    "BEGIN; UPDATE p SET region = 'south' WHERE id = 91; DELETE FROM p WHERE id = 91; COMMIT",
];

/// Each change compared by itself.
async fn follow(pair: &mut Followed, tables: &[&str]) {
    pair.equal(tables).await;
    for statement in CHANGES {
        eprintln!("{statement}");
        pair.run(statement).await;
        pair.equal(tables).await;
    }
}

const VIA_ROOT: &str = "CREATE PUBLICATION walferry FOR ALL TABLES WITH (publish_via_partition_root = true)";

#[tokio::test]
async fn a_root_is_followed_by_a_root_of_another_layout_and_by_a_plain_table_on_every_version() {
    let other_layout = "
        CREATE TABLE p (big text, v text, extra int DEFAULT 1, region text, id int, PRIMARY KEY (region, id))
            PARTITION BY HASH (id);
        CREATE TABLE p_0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE p_1 (id int NOT NULL, region text NOT NULL, v text, big text, extra int DEFAULT 1);
        ALTER TABLE p ATTACH PARTITION p_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);";
    let plain = "CREATE TABLE p (v text, region text, id int, big text, PRIMARY KEY (id, region))";
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        for target in [other_layout, plain] {
            let mut pair = Followed::start(&cluster, &format!("{SOURCE}{ROWS}{VIA_ROOT}"), target).await;
            follow(&mut pair, &["p"]).await;
            pair.run("BEGIN; TRUNCATE p; INSERT INTO p VALUES (1, 'north', 'after', NULL); COMMIT").await;
            pair.equal(&["p"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn leaves_are_followed_by_leaves_and_by_plain_tables_on_every_version() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let plain = LEAVES.map(|leaf| {
            format!("CREATE TABLE {leaf} (v text, region text, id int, big text, PRIMARY KEY (region, id));")
        });
        for target in [SOURCE, &plain.concat()] {
            let mut pair = Followed::start(&cluster, &format!("{SOURCE}{ROWS}{ALL}"), target).await;
            follow(&mut pair, &LEAVES).await;
            pair.run("TRUNCATE p_north").await;
            pair.equal(&LEAVES).await;
            pair.run("INSERT INTO p VALUES (1, 'south', 'x', NULL); TRUNCATE p_south, p_rest").await;
            pair.run("INSERT INTO p VALUES (1, 'south', 'after', NULL)").await;
            pair.equal(&LEAVES).await;
            pair.run("TRUNCATE p").await;
            pair.equal(&LEAVES).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_plain_table_is_followed_by_a_partitioned_one() {
    let cluster = Cluster::start(default_major()).await;
    let plain = "CREATE TABLE p (id int, region text, v text, big text, PRIMARY KEY (id, region));
        ALTER TABLE p ALTER big SET STORAGE EXTERNAL;";
    let mut pair = Followed::start(&cluster, &format!("{plain}{ROWS}{ALL}"), SOURCE).await;
    follow(&mut pair, &["p"]).await;
    pair.run("TRUNCATE p; INSERT INTO p VALUES (1, 'north', 'after', NULL)").await;
    pair.equal(&["p"]).await;
}

/// Row positions repeat from partition to partition: equal rows must be told apart by both.
#[tokio::test]
async fn rows_without_a_key_are_found_in_the_right_partition() {
    let cluster = Cluster::start(default_major()).await;
    let plain = "CREATE TABLE f (a int, b text); ALTER TABLE f REPLICA IDENTITY FULL;";
    let root =
        "CREATE TABLE f (a int, b text) PARTITION BY LIST (a); CREATE TABLE f_1 PARTITION OF f FOR VALUES IN (1);
        CREATE TABLE f_2 PARTITION OF f FOR VALUES IN (2, 3); CREATE TABLE f_rest PARTITION OF f DEFAULT;";
    let full = "ALTER TABLE f REPLICA IDENTITY FULL; ALTER TABLE f_1 REPLICA IDENTITY FULL;
        ALTER TABLE f_2 REPLICA IDENTITY FULL; ALTER TABLE f_rest REPLICA IDENTITY FULL;";
    let rows = "INSERT INTO f SELECT n % 4, nullif(n % 3, 0)::text FROM generate_series(1, 60) n;
        INSERT INTO f SELECT NULL, NULL FROM generate_series(1, 5);";
    for (source, target) in
        [(plain.to_owned(), root), (format!("{root}{full}"), plain), (format!("{root}{full}"), root)]
    {
        let mut pair = Followed::start(&cluster, &format!("{source}{rows}{VIA_ROOT}"), target).await;
        pair.equal(&["f"]).await;
        for statement in [
            "UPDATE f SET b = 'one' WHERE ctid = (SELECT min(ctid) FROM f WHERE a = 1) AND a = 1",
            "DELETE FROM f WHERE ctid = (SELECT min(ctid) FROM f WHERE a = 2 AND b IS NULL) AND a = 2 AND b IS NULL",
            "UPDATE f SET a = 1 WHERE a = 3",
            "UPDATE f SET a = 2, b = NULL WHERE a IS NULL",
            "UPDATE f SET a = NULL WHERE a = 0 AND b = '1'",
            "DELETE FROM f WHERE a IS NULL",
        ] {
            pair.run(statement).await;
            pair.equal(&["f"]).await;
        }
    }
}

#[tokio::test]
async fn leaves_that_log_more_than_their_root_announces() {
    let cluster = Cluster::start(default_major()).await;
    let full = "ALTER TABLE p_north REPLICA IDENTITY FULL; ALTER TABLE p_rest REPLICA IDENTITY FULL;";
    let mut pair = Followed::start(&cluster, &format!("{SOURCE}{full}{ROWS}{VIA_ROOT}"), SOURCE).await;
    follow(&mut pair, &["p"]).await;
}

/// ALTER TABLE … REPLICA IDENTITY FULL on a root does not reach its partitions: old rows are announced as whole
/// and hold the key only. They would not be found.
#[tokio::test]
async fn leaves_that_log_less_than_their_root_announces_are_refused() {
    let cluster = Cluster::start(default_major()).await;
    let (from, to) = (cluster.create_database().await, cluster.create_database().await);
    cluster.execute(&from.name, &format!("{SOURCE}{ROWS}{VIA_ROOT}; ALTER TABLE p REPLICA IDENTITY FULL")).await;
    cluster.execute(&to.name, SOURCE).await;
    let mut daemon = Daemon::builder(&from.url).target("t", &to.url).start();
    let line = daemon.wait_log("REPLICA IDENTITY FULL", seconds(30)).await;
    assert!(line.contains("public.p") && line.contains("halted"), "{line}");
    assert!(daemon.terminate(seconds(30)).await.success());
    cluster.execute(&from.name, "ALTER TABLE p REPLICA IDENTITY DEFAULT").await;
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let (source, target) = (cluster.connect(&from.name).await, cluster.connect(&to.name).await);
    wait_equal(&source, &[&target], &["p"], seconds(30)).await;
    // And while it runs: named at the first change that shows it.
    execute(&source, "ALTER TABLE p REPLICA IDENTITY FULL; UPDATE p SET v = 'x'").await;
    let line = daemon.wait_log("a partition of it has not", seconds(30)).await;
    assert!(line.contains("public.p") && line.contains("halted"), "{line}");
}

#[tokio::test]
async fn partitions_are_attached_and_detached() {
    let cluster = Cluster::start(default_major()).await;
    let by_leaf = "CREATE PUBLICATION walferry FOR TABLE p, fence";
    let mut pair = Followed::start(&cluster, &format!("{SOURCE}{ROWS}{by_leaf}"), SOURCE).await;
    pair.equal(&LEAVES).await;
    // A table with rows joins: it is published from then on, so its rows are copied.
    let join = "CREATE TABLE p_up (id int, region text, v text, big text, PRIMARY KEY (id, region))";
    execute(&pair.target, join).await;
    pair.run(join).await;
    pair.run("INSERT INTO p_up SELECT n, 'up', 'before', NULL FROM generate_series(1, 5) n").await;
    pair.run("ALTER TABLE p ATTACH PARTITION p_up FOR VALUES IN ('up')").await;
    pair.run("INSERT INTO p VALUES (6, 'up', 'after', NULL); UPDATE p SET v = 'x' WHERE region = 'up' AND id = 2")
        .await;
    pair.run("UPDATE p SET region = 'up', id = id + 10 WHERE region = 'north' AND id < 50").await;
    pair.becomes_equal(&["p_up", "p_north", "p_rest"]).await;
    // One that leaves is not published any more; those that stay are.
    pair.run("ALTER TABLE p DETACH PARTITION p_north").await;
    pair.run("INSERT INTO p_north VALUES (999, 'north', 'not published', NULL)").await;
    pair.run("INSERT INTO p VALUES (7, 'up', 'stays', NULL)").await;
    pair.becomes_equal(&["p_up", "p_south_low", "p_south_high", "p_rest"]).await;
    pair.target_has("SELECT FROM p_north WHERE id = 999", &[]).await;
}

#[tokio::test]
async fn a_published_root_gets_a_new_partition() {
    let cluster = Cluster::start(default_major()).await;
    let target = "CREATE TABLE p (id int, region text, v text, big text, PRIMARY KEY (id, region))";
    let mut pair = Followed::start(&cluster, &format!("{SOURCE}{ROWS}{VIA_ROOT}"), target).await;
    pair.run("CREATE TABLE p_up PARTITION OF p FOR VALUES IN ('up')").await;
    pair.run("INSERT INTO p VALUES (1, 'up', 'x', NULL), (2, 'up', 'y', NULL); DELETE FROM p_up WHERE id = 1").await;
    pair.run("INSERT INTO p_up VALUES (3, 'up', 'by its own name', NULL)").await;
    pair.equal(&["p"]).await;
    pair.run("DELETE FROM p_up; ALTER TABLE p DETACH PARTITION p_up; DROP TABLE p_up").await;
    pair.run("INSERT INTO p VALUES (4, 'up', 'into the default partition', NULL)").await;
    pair.equal(&["p"]).await;
}
