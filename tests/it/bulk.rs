//! Changes applied many at once: the outcome is that of one by one, also where the target is not as expected.

use crate::support::modes::MODES;
use crate::support::pair::{Pair, run, text, wait_halted};
use crate::support::prelude::*;
use crate::support::process;
use crate::support::workload::{self, Writer};

/// Changes that were applied in bulk.
async fn in_bulk(daemon: &Daemon) -> f64 {
    daemon.metric("walferry_target_bulk_changes_total", &[]).await.unwrap_or(0.0)
}

async fn fallbacks(daemon: &Daemon) -> f64 {
    daemon.metric("walferry_target_bulk_fallbacks_total", &[]).await.unwrap_or(0.0)
}

/// A pair whose daemon has copied, and is stopped: what is written now arrives as one batch.
async fn stopped(pair: &Pair, apply: &str) -> Daemon {
    let mut daemon = pair.daemon(apply).start();
    daemon.wait_ready(seconds(60)).await;
    assert!(daemon.terminate(seconds(60)).await.success());
    daemon
}

#[tokio::test]
async fn the_three_ways_of_applying_come_to_the_same() {
    let source = Cluster::start(default_major()).await;
    let from = source.create_database().await;
    let writer = source.connect(&from.name).await;
    workload::create(&writer).await;
    workload::fill(&writer).await;
    run(&writer, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
    Writer::new(3, 1).run(&writer, 100).await;
    let target = Cluster::start(default_major()).await;
    target.execute("postgres", "CREATE ROLE plain LOGIN").await;
    let (mut daemons, mut clients) = (Vec::new(), Vec::new());
    for bulk in MODES {
        let mode = bulk.name();
        let mut daemon = Daemon::builder(&from.url).slot(&format!("slot_{mode}")).bulk(bulk);
        // One target with the replica role, and one whose foreign keys are checked.
        for role in ["postgres", "plain"] {
            let db = target.create_database().await;
            target.execute(&db.name, &format!("ALTER DATABASE {} OWNER TO plain", db.name)).await;
            target.execute(&db.name, "GRANT ALL ON SCHEMA public TO plain").await;
            let url = target.url_as(role, &db.name);
            let owner = crate::support::stage::connect(&url).await;
            workload::create(&owner).await;
            clients.push(target.connect(&db.name).await);
            daemon = daemon.target(&format!("{mode}_{role}"), &url);
        }
        daemons.push(daemon.start());
    }
    for daemon in &mut daemons {
        daemon.wait_ready(seconds(60)).await;
    }
    let targets: Vec<&tokio_postgres::Client> = clients.iter().collect();
    let (mut steady, mut bursts) = (Writer::new(4, 0), Writer::new(5, 2));
    for _ in 0..3 {
        // A few at a time; then as much at once as gathers while nobody reads.
        steady.run(&writer, 100).await;
        for daemon in &mut daemons {
            assert!(daemon.terminate(seconds(60)).await.success());
        }
        bursts.run(&writer, 400).await;
        let many = "INSERT INTO w_full SELECT n, 'many', n / 7.0, NULL FROM generate_series(1, 100) n;
                    UPDATE w_full SET b = 'changed' WHERE b = 'many' AND a % 3 = 0";
        run(&writer, many).await;
        daemons.iter_mut().for_each(Daemon::start);
        wait_equal(&writer, &targets, &workload::TABLES, seconds(60)).await;
    }
    for client in targets {
        workload::assert_applied_once(&writer, client).await;
    }
    for (daemon, mode) in daemons.iter_mut().zip(MODES) {
        assert_eq!(daemon.log_count("conflict:"), 0, "{mode:?}");
        // What gathers in one batch is up to chance, and keys that rows hand on to each other do not go in bulk.
        let (bulk, fallbacks) = (in_bulk(daemon).await, fallbacks(daemon).await);
        assert_eq!(
            bulk + fallbacks > 0.0,
            mode != Bulk::Never,
            "{mode:?}: {bulk} changes in bulk, {fallbacks} fallbacks"
        );
    }
}

#[tokio::test]
async fn rows_that_are_not_as_expected_are_mended_and_counted_as_one_by_one() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE)").await;
    run(&pair.source, "INSERT INTO t SELECT n, 'v' || n, n FROM generate_series(1, 100) n").await;
    let mut daemon = stopped(&pair, "bulk = \"always\"").await;
    // Missing: 1 (to be updated), 2 (to be deleted). There already: 200 by its key, 300 by its unique value, and 400,
    // which comes and goes.
    run(
        &pair.target,
        "DELETE FROM t WHERE id IN (1, 2);
         INSERT INTO t VALUES (200, 'stray', 2000), (301, 'stray', 300), (400, 'stray', 4000)",
    )
    .await;
    run(&pair.source, "UPDATE t SET v = v || '!' WHERE id <= 50 AND id <> 2; DELETE FROM t WHERE id = 2").await;
    run(&pair.source, "INSERT INTO t SELECT n, 'new', n FROM generate_series(200, 300, 100) n").await;
    run(&pair.source, "INSERT INTO t VALUES (400, 'short', 400); DELETE FROM t WHERE id = 400").await;
    daemon.start();
    pair.equal(&["t"], seconds(60)).await;
    for (kind, count) in [("update_missing", 1.0), ("delete_missing", 1.0), ("insert_exists", 3.0)] {
        let labels = [("kind", kind)];
        daemon.wait_metric("walferry_target_conflicts_total", &labels, |met| met == count, seconds(20)).await;
    }
    assert!(fallbacks(&daemon).await >= 1.0);
    assert!(daemon.log_count("(id=1)") + daemon.log_count("id=1") > 0, "the row is named");

    // What went wrong sits out for a while, and comes back.
    let before = in_bulk(&daemon).await;
    let mut round = 1000;
    let again = async || {
        round += 50;
        let insert = format!("INSERT INTO t SELECT n, 'more', n FROM generate_series({round}, {round} + 49) n");
        run(&pair.source, &insert).await;
        pair.equal(&["t"], seconds(20)).await;
        (in_bulk(&daemon).await > before).then_some(())
    };
    wait_for("the table to be applied in bulk again", seconds(60), again).await;
}

#[tokio::test]
async fn batches_that_are_refused_amid_a_backlog_hold_up_nothing_of_what_follows() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    // A backlog of many batches, so that the next one is planned before the present one is answered.
    let small = "bulk = \"always\"\nbatch_bytes = \"32KiB\"\nqueue_bytes = \"128KiB\"";
    let mut daemon = stopped(&pair, small).await;
    run(&pair.target, "INSERT INTO t SELECT n, 'stray' FROM generate_series(500, 3000, 500) n").await;
    let transactions = "DO $$ BEGIN
        FOR n IN 1 .. 3000 LOOP
            INSERT INTO t VALUES (n, repeat('x', 100));
            UPDATE t SET v = 'later' WHERE id = n - 700;
            COMMIT;
        END LOOP;
    END $$";
    run(&pair.source, transactions).await;
    daemon.start();
    pair.equal(&["t"], seconds(60)).await;
    let labels = [("kind", "insert_exists")];
    daemon.wait_metric("walferry_target_conflicts_total", &labels, |met| met == 6.0, seconds(20)).await;
    let (bulk, fallbacks) = (in_bulk(&daemon).await, fallbacks(&daemon).await);
    assert!(bulk > 0.0 && fallbacks > 0.0, "{bulk} changes in bulk, {fallbacks} fallbacks");
    assert_eq!(daemon.log_count("conflict:"), 6, "each is reported once");
}

#[tokio::test]
async fn under_stop_a_conflict_within_many_changes_halts_after_what_precedes_it() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    run(&pair.source, "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 100) n").await;
    let mut daemon = stopped(&pair, "bulk = \"always\"\nconflicts = \"stop\"").await;
    run(&pair.target, "DELETE FROM t WHERE id = 60").await;
    for id in 1..=100 {
        run(&pair.source, &format!("UPDATE t SET v = 'new' WHERE id = {id}")).await;
    }
    daemon.start();
    wait_halted(&mut daemon, "t", &["update_missing", "id=60"], seconds(30)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t WHERE v = 'new'").await.unwrap(), "59");
    run(&pair.target, "INSERT INTO t VALUES (60, 'v')").await;
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn equal_rows_without_a_key_are_changed_and_deleted_in_their_number() {
    let tables = "CREATE TABLE t (a int, b text, c json, d float8); ALTER TABLE t REPLICA IDENTITY FULL;
                  CREATE TABLE toast (a int, big text); ALTER TABLE toast REPLICA IDENTITY FULL;
                  ALTER TABLE toast ALTER big SET STORAGE EXTERNAL";
    let pair = Pair::start(tables).await;
    run(
        &pair.source,
        "INSERT INTO t SELECT n % 10, CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'x' END,
                              CASE WHEN n % 2 = 0 THEN '{\"a\": 1}'::json END, 'NaN' FROM generate_series(1, 600) n;
         INSERT INTO toast SELECT n % 5, repeat(md5((n % 5)::text), 200) FROM generate_series(1, 20) n",
    )
    .await;
    let mut daemon = stopped(&pair, "bulk = \"always\"").await;
    run(
        &pair.source,
        "DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 1 LIMIT 7);
         UPDATE t SET b = 'changed' WHERE ctid IN (SELECT ctid FROM t WHERE a = 2 AND b IS NULL LIMIT 5);
         UPDATE t SET a = a + 1; UPDATE t SET a = a + 1 WHERE a = 5;
         INSERT INTO t SELECT 3, NULL, NULL, 1.5 FROM generate_series(1, 10);
         DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 3 AND d = 1.5 LIMIT 4);
         UPDATE toast SET a = a + 10 WHERE a < 3; DELETE FROM toast WHERE a = 10;",
    )
    .await;
    daemon.start();
    pair.equal(&["t", "toast"], seconds(30)).await;
    assert_eq!((daemon.log_count("conflict:"), fallbacks(&daemon).await), (0, 0.0));
    assert!(in_bulk(&daemon).await > 600.0);
    run(&pair.source, "TRUNCATE t; INSERT INTO t VALUES (1, 'after', NULL, 0); UPDATE t SET a = 2").await;
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn keys_that_move_unique_values_that_change_hands_and_unchanged_toast() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v text, big text);
                  ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
                  CREATE TABLE two (a int, b text, v numeric, PRIMARY KEY (b, a));
                  CREATE TABLE keys_only (a int, b int, PRIMARY KEY (a, b));
                  CREATE TABLE fixed (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text,
                                      twice text GENERATED ALWAYS AS (v || v) STORED)";
    let pair = Pair::start(tables).await;
    run(&pair.target, "ALTER TABLE two ADD own text DEFAULT 'own'").await;
    run(
        &pair.source,
        "INSERT INTO t SELECT n, n, 'v', repeat(md5(n::text), 200) FROM generate_series(1, 200) n;
         INSERT INTO two SELECT n, 'k' || n, n / 7.0 FROM generate_series(1, 100) n;
         INSERT INTO keys_only SELECT n, n FROM generate_series(1, 100) n;
         INSERT INTO fixed (v) SELECT 'v' || n FROM generate_series(1, 100) n",
    )
    .await;
    let mut daemon = stopped(&pair, "bulk = \"always\"").await;
    run(&pair.target, "UPDATE two SET own = 'kept'").await;
    run(
        &pair.source,
        "UPDATE t SET v = 'small' WHERE id <= 100; UPDATE t SET big = 'short now' WHERE id % 7 = 0;
         UPDATE t SET id = id + 1000 WHERE id % 10 = 0; UPDATE t SET v = 'moved' WHERE id > 1100;
         DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 5, 'again', NULL);
         DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (20, 6, 'unique value of another', NULL);
         UPDATE two SET b = b || 'x', v = v + 1 WHERE a % 3 = 0; UPDATE two SET v = NULL WHERE a % 3 = 1;
         UPDATE keys_only SET a = a + 1000 WHERE b % 2 = 0; DELETE FROM keys_only WHERE b % 5 = 0;
         UPDATE fixed SET v = 'w' WHERE id % 2 = 0; DELETE FROM fixed WHERE id % 3 = 0;
         INSERT INTO fixed OVERRIDING SYSTEM VALUE SELECT n, 'new' FROM generate_series(1000, 1100) n",
    )
    .await;
    // In a transaction of its own: a value that goes round.
    run(
        &pair.source,
        "UPDATE t SET u = -1 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2; UPDATE t SET u = 2 WHERE id = 1",
    )
    .await;
    daemon.start();
    pair.equal(&["t", "keys_only", "fixed"], seconds(30)).await;
    let two = "SELECT md5(string_agg(two.a || two.b || coalesce(v::text, ''), ',' ORDER BY a)) FROM two";
    assert_eq!(text(&pair.source, two).await, text(&pair.target, two).await);
    assert_eq!(text(&pair.target, "SELECT count(*) FROM two WHERE own = 'kept'").await.unwrap(), "100");
    assert_eq!(daemon.log_count("conflict:"), 0);
}

#[tokio::test]
async fn what_must_be_applied_one_by_one_is_and_the_rest_goes_on_beside_it() {
    let tables = "CREATE TABLE plain (id int PRIMARY KEY, v text);
                  CREATE TABLE letter (id int PRIMARY KEY, c \"char\", all_in_text text[]);
                  CREATE TABLE serial (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY)";
    let pair = Pair::start(tables).await;
    let mut daemon = stopped(&pair, "bulk = \"always\"").await;
    run(
        &pair.source,
        "INSERT INTO plain SELECT n, 'v' FROM generate_series(1, 100) n;
         INSERT INTO letter SELECT n, chr(64 + n % 20)::\"char\" FROM generate_series(1, 100) n;
         INSERT INTO letter VALUES (200, E'\\\\303'::\"char\");
         INSERT INTO serial SELECT n FROM generate_series(1, 100) n;
         UPDATE plain SET v = 'w'; UPDATE letter SET c = 'z' WHERE id < 50; DELETE FROM serial WHERE id < 50",
    )
    .await;
    daemon.start();
    pair.equal(&["plain", "letter", "serial"], seconds(30)).await;
    assert_eq!(in_bulk(&daemon).await, 200.0, "plain's changes");
    assert_eq!(fallbacks(&daemon).await, 0.0);

    // A trigger that fires sees every change, in order.
    assert!(daemon.terminate(seconds(60)).await.success());
    run(
        &pair.target,
        "CREATE TABLE seen (n serial, v text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.seen (v) VALUES (new.v); RETURN NULL; END$$;
         CREATE TRIGGER see AFTER UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION see();
         ALTER TABLE plain ENABLE ALWAYS TRIGGER see",
    )
    .await;
    run(&pair.source, "UPDATE plain SET v = 'a' WHERE id = 1; UPDATE plain SET v = 'b' WHERE id = 1").await;
    daemon.start();
    pair.equal(&["plain"], seconds(30)).await;
    assert_eq!(text(&pair.target, "SELECT string_agg(v, ',' ORDER BY n) FROM seen").await.unwrap(), "a,b");
    assert_eq!(in_bulk(&daemon).await, 0.0);
}

#[tokio::test]
async fn rows_that_are_missing_among_thousands_are_found_before_anything_is_committed() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text);
                  CREATE TABLE two (a int, b int, v text, PRIMARY KEY (a, b))";
    let pair = Pair::start(tables).await;
    let fill = "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 20000) n;
                INSERT INTO two SELECT n, -n, 'v' FROM generate_series(1, 20000) n";
    run(&pair.source, fill).await;
    // One large transaction, whole and in pieces.
    for (round, apply) in ["", "queue_bytes = \"512KiB\""].into_iter().enumerate() {
        let mut daemon = stopped(&pair, apply).await;
        let from = round * 6000;
        let (updated, deleted) = (from + 1000, from + 4000);
        let missing = format!("IN ({updated}, {deleted})");
        run(&pair.target, &format!("DELETE FROM t WHERE id {missing}; DELETE FROM two WHERE a {missing}")).await;
        let change = |table: &str, key: &str| {
            format!(
                "UPDATE {table} SET v = 'new' WHERE {key} BETWEEN {from} AND {from} + 2999;
                 DELETE FROM {table} WHERE {key} BETWEEN {from} + 3000 AND {from} + 5999;"
            )
        };
        run(&pair.source, &[change("t", "id"), change("two", "a")].concat()).await;
        daemon.start();
        pair.equal(&["t", "two"], seconds(60)).await;
        for kind in ["update_missing", "delete_missing"] {
            let labels = [("kind", kind)];
            daemon.wait_metric("walferry_target_conflicts_total", &labels, |met| met == 2.0, seconds(20)).await;
        }
        assert!(fallbacks(&daemon).await >= 1.0);
        // What comes next goes in bulk.
        let bulk = in_bulk(&daemon).await;
        let next = "UPDATE two SET v = 'next' WHERE a > 13000";
        let again = async || {
            run(&pair.source, next).await;
            pair.equal(&["t", "two"], seconds(20)).await;
            (in_bulk(&daemon).await >= bulk + 7000.0).then_some(())
        };
        wait_for("thousands of rows to be applied in bulk", seconds(60), again).await;
        assert_eq!(daemon.log_count("conflict:"), 4, "each is reported once");
        assert!(daemon.terminate(seconds(60)).await.success());
    }
}

#[tokio::test]
async fn a_daemon_that_stands_still_before_its_commit_does_not_keep_the_target_to_itself() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    run(&pair.source, "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 6000) n").await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(60)).await;
    let other = pair.cluster.connect(&pair.to.name).await;
    run(&other, "BEGIN; LOCK TABLE t IN SHARE MODE").await;
    run(&pair.source, "UPDATE t SET v = 'new'").await;
    let sessions = async |state: &str| {
        let of_daemon = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                         AND application_name LIKE 'walferry%'";
        text(&pair.target, &format!("{of_daemon} AND {state}")).await.unwrap() != "0"
    };
    let waits = async || sessions("wait_event_type = 'Lock'").await.then_some(());
    wait_for("the daemon to wait for the table", seconds(30), waits).await;
    process::stop(daemon.pid());
    run(&other, "ROLLBACK").await;
    let idle = async || sessions("state = 'idle in transaction'").await.then_some(());
    wait_for("its rows to be there, without their commit", seconds(30), idle).await;
    let gone = async || (!sessions("state = 'idle in transaction'").await).then_some(());
    wait_for("the target to give up on it", seconds(30), gone).await;
    run(&other, "SELECT * FROM walferry.progress FOR UPDATE NOWAIT").await;
    process::signal(daemon.pid(), "CONT");
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn thousands_of_keys_in_no_order_are_looked_up_one_by_one_in_their_index() {
    let pair = Pair::start("CREATE TABLE t (id uuid PRIMARY KEY, v text)").await;
    run(&pair.source, "INSERT INTO t SELECT md5(n::text)::uuid, repeat('v', 60) FROM generate_series(1, 30000) n")
        .await;
    let mut daemon = stopped(&pair, "").await;
    // From here on the planner knows that neighbours in the index lie far apart, for which it likes a bitmap.
    run(&pair.target, "VACUUM ANALYZE t").await;
    run(&pair.source, "DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 6000)").await;
    daemon.start();
    pair.equal(&["t"], seconds(30)).await;
    assert_eq!(in_bulk(&daemon).await, 6000.0);
    // Rows that a bitmap finds are not counted as the index's.
    let counted = async || {
        // A session tells what it has counted with its next transaction.
        run(&pair.source, "INSERT INTO t VALUES (gen_random_uuid(), 'next')").await;
        let fetched = "SELECT idx_tup_fetch >= 6000 FROM pg_stat_user_indexes WHERE indexrelname = 't_pkey'";
        (text(&pair.target, fetched).await.unwrap() == "true").then_some(())
    };
    wait_for("the rows to be counted as found by the index", seconds(20), counted).await;
}
