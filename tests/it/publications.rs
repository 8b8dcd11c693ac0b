//! Publications are taken as they are: the copy brings exactly the rows and columns that the stream keeps up to date.

mod created;

use crate::support::followed::execute;
use crate::support::prelude::*;

/// The majors whose publications have row filters, column lists and schemas.
fn since_15() -> Vec<u32> {
    majors().into_iter().filter(|major| *major >= 15).collect()
}

#[tokio::test]
async fn row_filters_hold_for_copy_and_stream() {
    let source = "
        CREATE TABLE r_key (id int PRIMARY KEY, v text);
        CREATE TABLE r_full (a int, b text, big text);
        ALTER TABLE r_full REPLICA IDENTITY FULL; ALTER TABLE r_full ALTER big SET STORAGE EXTERNAL;
        CREATE TABLE r_index (id int, kind text NOT NULL, n int NOT NULL, UNIQUE (n, kind));
        ALTER TABLE r_index REPLICA IDENTITY USING INDEX r_index_n_kind_key;
        CREATE TABLE r_root (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE r_root_1 PARTITION OF r_root FOR VALUES IN (1);
        CREATE TABLE r_root_2 PARTITION OF r_root FOR VALUES IN (2);
        INSERT INTO r_key SELECT n, 'v' || n FROM generate_series(1, 30) n;
        INSERT INTO r_full SELECT nullif(n % 10, 0), nullif(n % 4, 0)::text, repeat(md5((n % 3)::text), 150)
            FROM generate_series(1, 60) n;
        INSERT INTO r_index SELECT n, (ARRAY['a', 'B', 'it''s'])[n % 3 + 1], n FROM generate_series(1, 30) n;
        INSERT INTO r_root SELECT n, n % 2 + 1 FROM generate_series(1, 30) n;
        CREATE PUBLICATION walferry FOR TABLE fence, r_key WHERE (id > 10 AND id % 2 = 0),
            r_full WHERE (a > 5 OR b IS NULL), r_index WHERE (kind <> 'it''s' OR n < 5), r_root WHERE (id < 20)
            WITH (publish_via_partition_root = true);";
    let target = "
        CREATE TABLE r_key (id int PRIMARY KEY, v text); CREATE TABLE r_full (a int, b text, big text);
        CREATE TABLE r_index (id int, kind text NOT NULL, n int NOT NULL, UNIQUE (n, kind));
        CREATE TABLE r_root (id int, part int, PRIMARY KEY (id, part));";
    let filtered = [
        ("r_key", "id > 10 AND id % 2 = 0"),
        ("r_full", "a > 5 OR b IS NULL"),
        ("r_index", "kind <> 'it''s' OR n < 5"),
        ("r_root", "id < 20"),
    ];
    for major in since_15() {
        let cluster = Cluster::start(major).await;
        let mut pair = Followed::start(&cluster, source, target).await;
        for statement in [
            "SELECT",
            "INSERT INTO r_key VALUES (31, 'out'), (32, 'in');
             INSERT INTO r_full VALUES (NULL, 'x'), (1, NULL), (9, 'x')",
            // Within the filter, out of it, into it, past it.
            "UPDATE r_key SET v = 'x'",
            "UPDATE r_key SET id = id + 41 WHERE id IN (12, 14, 32)",
            "UPDATE r_key SET id = id + 41, v = 'came in' WHERE id IN (11, 13, 1)",
            "UPDATE r_full SET a = 1 WHERE a = 6; UPDATE r_full SET a = 7 WHERE a = 2;
             UPDATE r_full SET b = NULL WHERE a = 3",
            "UPDATE r_full SET a = NULL, b = 'gone' WHERE a = 9; UPDATE r_full SET b = 'y' WHERE b IS NULL",
            "UPDATE r_index SET kind = 'it''s' WHERE n % 5 = 0; UPDATE r_index SET kind = 'B' WHERE n % 4 = 0",
            "UPDATE r_root SET id = id + 1000 WHERE id % 3 = 0;
             UPDATE r_root SET id = id - 40 WHERE id IN (25, 26, 28);
              UPDATE r_root SET part = 3 - part WHERE id % 5 = 0",
            "DELETE FROM r_key WHERE id % 3 = 0; DELETE FROM r_full WHERE a % 2 = 0; DELETE FROM r_index WHERE n < 10",
            "TRUNCATE r_index; INSERT INTO r_index VALUES (1, 'it''s', 9), (2, 'a', 9)",
        ] {
            pair.run(statement).await;
            pair.fence().await;
            for (table, filter) in filtered {
                let wanted =
                    crate::support::followed::rows(&pair.source, &format!("SELECT * FROM {table} WHERE {filter}"))
                        .await;
                let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
                eprintln!("{table} after {statement}");
                pair.target_has(&format!("SELECT * FROM {table}"), &wanted).await;
            }
        }
        pair.no_conflicts().await;
    }
}

#[tokio::test]
async fn column_lists_hold_for_copy_and_stream() {
    let source = "
        CREATE TABLE l_key (secret text DEFAULT 'secret', id int PRIMARY KEY, v text, big text);
        ALTER TABLE l_key ALTER big SET STORAGE EXTERNAL;
        CREATE TABLE l_filtered (id int PRIMARY KEY, secret text DEFAULT 'secret', n int);
        CREATE TABLE l_root (secret text DEFAULT 'secret', id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE l_root_low (v text, secret text DEFAULT 'secret', id int NOT NULL);
        ALTER TABLE l_root ATTACH PARTITION l_root_low FOR VALUES FROM (0) TO (10);
        CREATE TABLE l_root_high PARTITION OF l_root FOR VALUES FROM (10) TO (1000);
        INSERT INTO l_key (id, v, big) SELECT n, 'v', repeat(md5(n::text), 150) FROM generate_series(1, 20) n;
        INSERT INTO l_filtered (id, n) SELECT n, n % 3 FROM generate_series(1, 20) n;
        INSERT INTO l_root (id, v) SELECT n, 'v' FROM generate_series(1, 20) n;
        CREATE PUBLICATION walferry FOR TABLE fence, l_key (big, id, v), l_filtered (id) WHERE (id > 5), l_root (v, id)
            WITH (publish_via_partition_root = true);";
    // Where the target has the column all the same, it is left to its default.
    let target = "
        CREATE TABLE l_key (id int PRIMARY KEY, v text, big text, secret text DEFAULT 'kept out');
        CREATE TABLE l_filtered (id int PRIMARY KEY); CREATE TABLE l_root (id int PRIMARY KEY, v text);";
    for major in since_15() {
        let cluster = Cluster::start(major).await;
        let mut pair = Followed::start(&cluster, source, target).await;
        for statement in [
            "SELECT",
            "INSERT INTO l_key (id) VALUES (21); INSERT INTO l_filtered (id) VALUES (2100);
             INSERT INTO l_root (id) VALUES (21)",
            "UPDATE l_key SET v = 'x' WHERE id % 2 = 0; UPDATE l_key SET secret = 'changed' WHERE id % 3 = 0",
            "UPDATE l_key SET id = id + 100 WHERE id < 5; UPDATE l_filtered SET n = 9;
             UPDATE l_filtered SET id = id + 100",
            "UPDATE l_root SET id = id + 10 WHERE id < 10 AND id % 2 = 0 AND id > 100; UPDATE l_root SET v = 'x'",
            "DELETE FROM l_key WHERE id % 5 = 0; DELETE FROM l_filtered WHERE id % 5 = 0;
             DELETE FROM l_root WHERE id < 5",
        ] {
            pair.run(statement).await;
            pair.fence().await;
            pair.answers_equal("SELECT id, v, big FROM l_key").await;
            pair.answers_equal("SELECT id FROM l_filtered WHERE id > 5").await;
            pair.answers_equal("SELECT id, v FROM l_root").await;
        }
        pair.target_has("SELECT DISTINCT secret FROM l_key", &["(\"kept out\")"]).await;
        pair.target_has("SELECT FROM l_filtered WHERE id <= 5", &[]).await;
        pair.no_conflicts().await;
    }
}

#[tokio::test]
async fn operations_that_are_not_published_do_not_happen() {
    let cluster = Cluster::start(default_major()).await;
    let table = "CREATE TABLE o (id int PRIMARY KEY, v text);";
    let rows = "INSERT INTO o SELECT n, 'v' FROM generate_series(1, 9) n;";
    let publish =
        |operations: &str| format!("CREATE PUBLICATION walferry FOR ALL TABLES WITH (publish = '{operations}');");
    let changes = "INSERT INTO o VALUES (10, 'new'); UPDATE o SET v = 'x' WHERE id = 1; DELETE FROM o WHERE id = 2";
    for (operations, after_changes, after_truncate) in [
        ("insert", &["(10,1,0)"][..], &["(11,1,0)"][..]),
        ("insert, update", &["(10,1,1)"], &["(11,1,1)"]),
        ("insert, delete", &["(9,0,0)"], &["(10,0,0)"]),
        ("insert, truncate", &["(10,1,0)"], &["(1,0,0)"]),
    ] {
        let mut pair = Followed::start(&cluster, &format!("{table}{rows}{}", publish(operations)), table).await;
        let counts = "SELECT count(*), count(*) FILTER (WHERE id = 2), count(*) FILTER (WHERE v = 'x') FROM o";
        pair.target_has(counts, &["(9,1,0)"]).await;
        pair.run(changes).await;
        pair.fence().await;
        pair.target_has(counts, after_changes).await;
        pair.run("TRUNCATE o; INSERT INTO o VALUES (50, 'after')").await;
        pair.fence().await;
        pair.target_has(counts, after_truncate).await;
        pair.no_conflicts().await;
    }
    // Without inserts there is no copy either: the target's rows are its own.
    let target = format!("{table}{rows}");
    let source = format!("{table}{rows}{}", publish("update, delete"));
    let pair = Followed::start(&cluster, &source, &target).await;
    pair.run("INSERT INTO o VALUES (10, 'new'); DELETE FROM o WHERE id = 2; TRUNCATE fence").await;
    pair.run("UPDATE o SET v = 'x' WHERE id = 1").await;
    pair.target_comes_to("SELECT v FROM o WHERE id < 3", &["(x)"]).await;
    pair.target_has("SELECT count(*) FROM o", &["(8)"]).await;
    pair.no_conflicts().await;
}

#[tokio::test]
async fn schemas_and_tables_that_join_later_are_copied_when_they_do() {
    for major in since_15() {
        let cluster = Cluster::start(major).await;
        let tables =
            "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.one (id int PRIMARY KEY); CREATE TABLE b.two (id int);";
        let later = "CREATE TABLE a.later (id int PRIMARY KEY, v text)";
        let publication = "CREATE PUBLICATION walferry FOR TABLES IN SCHEMA a, TABLE fence;";
        let rows = "INSERT INTO a.one VALUES (1), (2); INSERT INTO b.two VALUES (1);";
        let mut pair = Followed::start(&cluster, &format!("{tables}{rows}{publication}"), tables).await;
        pair.run("INSERT INTO b.two VALUES (2)").await;
        pair.equal(&["a.one"]).await;
        pair.target_has("SELECT FROM b.two", &[]).await;
        execute(&pair.target, later).await;
        pair.run(&format!("{later}; INSERT INTO a.later SELECT n FROM generate_series(1, 9) n")).await;
        pair.run("UPDATE a.later SET v = 'x' WHERE id < 3; INSERT INTO a.one VALUES (3)").await;
        pair.becomes_equal(&["a.one", "a.later"]).await;
        pair.run("ALTER TABLE b.two SET SCHEMA a; DELETE FROM a.one WHERE id = 1").await;
        execute(&pair.target, "ALTER TABLE b.two SET SCHEMA a").await;
        pair.run("INSERT INTO a.two VALUES (3)").await;
        pair.becomes_equal(&["a.one", "a.later", "a.two"]).await;
    }
}

/// What is still in the WAL of a table that is published no more must neither be applied nor hold up the rest.
#[tokio::test]
async fn tables_leave_while_their_last_changes_are_on_the_way() {
    let cluster = Cluster::start(default_major()).await;
    let tables = "CREATE TABLE stays (id int PRIMARY KEY); CREATE TABLE leaves (id int PRIMARY KEY);
        CREATE TABLE dropped (id int PRIMARY KEY); CREATE TABLE renamed (id int PRIMARY KEY);";
    let publication = "CREATE PUBLICATION walferry FOR TABLE fence, stays, leaves, dropped, renamed";
    let mut pair = Followed::start(&cluster, &format!("{tables}{publication}"), tables).await;
    for table in ["stays", "leaves", "dropped", "renamed"] {
        pair.run(&format!("INSERT INTO {table} VALUES (1)")).await;
    }
    pair.fence().await;
    let change = "INSERT INTO stays SELECT max(id) + 1 FROM stays; INSERT INTO leaves SELECT max(id) + 1 FROM leaves;
        TRUNCATE dropped, renamed; INSERT INTO stays SELECT max(id) + 1 FROM stays";
    // While the daemon is down, so that it never hears of the change before the leave.
    assert!(pair.daemon.terminate(seconds(30)).await.success());
    execute(&pair.target, "ALTER TABLE renamed RENAME TO other; TRUNCATE other").await;
    pair.run(change).await;
    pair.run("ALTER PUBLICATION walferry DROP TABLE leaves; DROP TABLE dropped; ALTER TABLE renamed RENAME TO other")
        .await;
    pair.run("INSERT INTO leaves VALUES (99); INSERT INTO other VALUES (5)").await;
    pair.daemon.start();
    pair.equal(&["stays", "other"]).await;
    pair.target_has("SELECT id FROM leaves", &["(1)"]).await;
    pair.target_has("SELECT id FROM dropped", &["(1)"]).await;
    // While it runs, and once more back: the rows it missed come by a copy.
    execute(&pair.target, "TRUNCATE leaves").await;
    pair.run("ALTER PUBLICATION walferry ADD TABLE leaves; INSERT INTO leaves VALUES (100)").await;
    pair.becomes_equal(&["stays", "leaves", "other"]).await;
    pair.run("INSERT INTO leaves VALUES (101); ALTER PUBLICATION walferry DROP TABLE leaves").await;
    pair.run("INSERT INTO stays VALUES (1000); INSERT INTO leaves VALUES (102)").await;
    pair.equal(&["stays", "other"]).await;
    pair.target_has("SELECT id FROM leaves WHERE id > 101", &[]).await;
}

#[tokio::test]
async fn generated_columns_are_published_where_the_publication_says_so() {
    for major in majors().into_iter().filter(|major| *major >= 18) {
        let cluster = Cluster::start(major).await;
        let source = "
            CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED,
                v int GENERATED ALWAYS AS (id) VIRTUAL);
            CREATE TABLE g_full (a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
             ALTER TABLE g_full REPLICA IDENTITY FULL;
            CREATE TABLE g_listed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, other int);
            INSERT INTO g SELECT n FROM generate_series(1, 5) n;
             INSERT INTO g_full SELECT n / 2 FROM generate_series(1, 5) n;
            INSERT INTO g_listed SELECT n FROM generate_series(1, 5) n;
            CREATE PUBLICATION walferry FOR TABLE fence, g, g_full, g_listed (id, twice)
                WITH (publish_generated_columns = stored)";
        let plain = "CREATE TABLE g (id int PRIMARY KEY, twice int); CREATE TABLE g_full (twice int, a int);
            CREATE TABLE g_listed (id int PRIMARY KEY, twice int);";
        let generated = "CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
            CREATE TABLE g_full (twice int GENERATED ALWAYS AS (a * 2) STORED, a int);
             CREATE TABLE g_listed (id int PRIMARY KEY, twice int);";
        for target in [plain, generated] {
            let mut pair = Followed::start(&cluster, source, target).await;
            pair.run("INSERT INTO g VALUES (6); UPDATE g SET id = id + 10 WHERE id < 3; DELETE FROM g WHERE id = 4")
                .await;
            pair.run(
                "INSERT INTO g_full VALUES (6); UPDATE g_full SET a = 10 WHERE a = 1; DELETE FROM g_full WHERE a = 2",
            )
            .await;
            pair.run("INSERT INTO g_listed VALUES (6); UPDATE g_listed SET id = 10 WHERE id = 1").await;
            pair.fence().await;
            for table in ["g", "g_full", "g_listed"] {
                pair.answers_equal(&format!(
                    "SELECT {}, twice FROM {table}",
                    if table == "g_full" { "a" } else { "id" }
                ))
                .await;
            }
            pair.no_conflicts().await;
        }
    }
}

/// An inheritance parent's statements reach its children's rows; what the source does to each it says by name.
#[tokio::test]
async fn inheritance_children_are_tables_of_their_own() {
    let cluster = Cluster::start(default_major()).await;
    let tables = "
        CREATE TABLE h (id int PRIMARY KEY, v text);
        CREATE TABLE h_child (more text, PRIMARY KEY (id)) INHERITS (h);
        CREATE TABLE h_own (id int PRIMARY KEY, v text);
        CREATE TABLE h_own_child (PRIMARY KEY (id)) INHERITS (h_own);";
    // Parent and child hold the same ids; h_own's child is not published.
    let rows = "
        INSERT INTO h SELECT n, 'parent' FROM generate_series(1, 9) n;
        INSERT INTO h_child SELECT n, 'child', 'm' FROM generate_series(1, 9) n;
        INSERT INTO h_own SELECT n, 'parent' FROM generate_series(1, 9) n;
        INSERT INTO h_own_child SELECT n, 'child' FROM generate_series(1, 9) n;
        CREATE PUBLICATION walferry FOR TABLE fence, h, ONLY h_own;";
    let own = "INSERT INTO h_own_child SELECT n, 'of the target' FROM generate_series(1, 9) n;";
    let mut pair = Followed::start(&cluster, &format!("{tables}{rows}"), &format!("{tables}{own}")).await;
    let both = ["SELECT * FROM ONLY h", "SELECT * FROM h_child", "SELECT * FROM ONLY h_own"];
    for statement in [
        "SELECT",
        "UPDATE ONLY h SET v = 'x' WHERE id < 4; UPDATE ONLY h_own SET v = 'x' WHERE id < 4",
        "UPDATE h SET v = 'both' WHERE id = 5; UPDATE ONLY h SET id = id + 100 WHERE id = 6",
        "DELETE FROM ONLY h WHERE id = 7; DELETE FROM ONLY h_own WHERE id = 7; DELETE FROM h WHERE id = 8",
        "TRUNCATE ONLY h; INSERT INTO h VALUES (1, 'again')",
        "TRUNCATE h_own; INSERT INTO h_own VALUES (1, 'again')",
        "TRUNCATE h",
    ] {
        pair.run(statement).await;
        pair.fence().await;
        for query in both {
            eprintln!("{query} after {statement}");
            pair.answers_equal(query).await;
        }
    }
    pair.target_has("SELECT count(*) FROM h_own_child WHERE v = 'of the target'", &["(9)"]).await;
    pair.no_conflicts().await;
}
