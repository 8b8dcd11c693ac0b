//! Publications that walferry makes from `tables`, and targets that take a part of what is published.

use crate::support::followed::{ALL, execute, rows};
use crate::support::prelude::*;

const TABLES: &str = "
    CREATE SCHEMA sales; CREATE SCHEMA audit;
    CREATE TABLE one (id int PRIMARY KEY, v text); CREATE TABLE two (id int PRIMARY KEY);
    CREATE TABLE audit_log (id int PRIMARY KEY); CREATE TABLE sales.orders (id int PRIMARY KEY);
    CREATE TABLE sales.order_lines (id int PRIMARY KEY); CREATE TABLE audit.log (id int PRIMARY KEY);
    CREATE TABLE sales.root (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE sales.root_1 PARTITION OF sales.root FOR VALUES FROM (0) TO (10);
    CREATE TABLE sales.root_2 PARTITION OF sales.root FOR VALUES FROM (10) TO (1000);";

/// What has no identity is not published by walferry.
const FENCE: &str = "ALTER TABLE fence REPLICA IDENTITY FULL;";

const NAMES: [&str; 7] = ["one", "two", "audit_log", "sales.orders", "sales.order_lines", "audit.log", "sales.root"];

async fn insert(pair: &Followed, id: i32) {
    for table in NAMES {
        pair.run(&format!("INSERT INTO {table} (id) VALUES ({id}), ({id} + 10)")).await;
    }
}

#[tokio::test]
async fn a_publication_is_made_from_patterns_and_targets_take_their_part() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let second = cluster.create_database().await;
        let other = cluster.connect(&second.name).await;
        execute(&other, &format!("CREATE TABLE fence (n bigint);{TABLES}")).await;
        let initial = "INSERT INTO one VALUES (100), (101); INSERT INTO sales.root VALUES (5), (50);";
        let source = format!("{TABLES} {FENCE} {initial}");
        let patterns = ["public.*", "!public.audit_*", "sales.*", "!sales.order_*"];
        let configure = |daemon: crate::support::daemon_builder::Builder| {
            daemon.tables(&patterns).target_tables("part", &second.url, &["sales.*", "public.fence", "public.one"])
        };
        let mut pair = Followed::start_with(&cluster, &source, TABLES, configure).await;
        insert(&pair, 1).await;
        pair.equal(&["one", "two", "sales.orders", "sales.root"]).await;
        // Tables of several targets in one TRUNCATE.
        pair.run(
            "BEGIN; TRUNCATE one, two, audit_log; INSERT INTO one VALUES (7); COMMIT;
         DELETE FROM sales.root WHERE id = 50",
        )
        .await;
        pair.equal(&["one", "two", "sales.orders", "sales.root"]).await;
        wait_equal(&pair.source, &[&other], &["fence", "one", "sales.orders", "sales.root"], seconds(30)).await;
        for (client, empty) in [
            (&pair.target, &["audit_log", "sales.order_lines", "audit.log"][..]),
            (&other, &["two", "audit_log", "sales.order_lines", "audit.log"]),
        ] {
            for table in empty {
                assert_eq!(rows(client, &format!("SELECT * FROM {table}")).await, Vec::<String>::new(), "{table}");
            }
        }
        let published =
            "SELECT count(*) FROM pg_publication_tables WHERE tablename IN ('audit_log', 'order_lines', 'log')";
        assert_eq!(rows(&pair.source, published).await, ["(0)"]);
    })
    .await;
}

/// What an existing publication holds beyond `tables` is left out on the way.
#[tokio::test]
async fn patterns_choose_from_a_publication_that_holds_more() {
    let cluster = Cluster::start(default_major()).await;
    let source = format!("{TABLES} INSERT INTO two VALUES (100); INSERT INTO audit_log VALUES (100); {ALL}");
    let patterns = ["public.*", "!public.audit_*"];
    let mut pair = Followed::start_with(&cluster, &source, TABLES, |daemon| daemon.tables(&patterns)).await;
    insert(&pair, 1).await;
    pair.equal(&["one", "two"]).await;
    for table in &NAMES[2..] {
        pair.target_has(&format!("SELECT * FROM {table}"), &[]).await;
    }
}

/// A source that is itself a target has walferry's own tables. They say what stands there, not what is to stand
/// elsewhere.
#[tokio::test]
async fn a_target_is_the_source_of_another() {
    let (upper, lower) = (Cluster::start(default_major()).await, Cluster::start(default_major()).await);
    let table = "CREATE TABLE t (id int PRIMARY KEY, v text);";
    let mut first = Followed::same(&upper, table).await;
    // The second source is the first one's target.
    let (middle, end) = (lower.create_database().await, lower.create_database().await);
    let (relay, last) = (lower.connect(&middle.name).await, lower.connect(&end.name).await);
    execute(&relay, &format!("CREATE TABLE fence (n bigint); {table} {ALL}")).await;
    execute(&last, &format!("CREATE TABLE fence (n bigint); {table}")).await;
    let mut to_relay = Daemon::builder(&first.from.url).slot("relay").target("relay", &middle.url).start();
    to_relay.wait_ready(seconds(60)).await;
    let mut to_last = Daemon::builder(&middle.url).slot("last").target("last", &end.url).start();
    to_last.wait_ready(seconds(60)).await;
    first.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'x' WHERE id = 1").await;
    first.equal(&["t"]).await;
    wait_equal(&first.source, &[&relay, &last], &["t", "fence"], seconds(30)).await;
    assert_eq!(rows(&last, "SELECT stream FROM walferry.progress").await, ["(last)"]);
}
