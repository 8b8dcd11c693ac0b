//! Ordinary roles on both sides: what walferry does with what it is allowed, and what it says of what it is not.

mod refused;

use crate::support::pair::{Pair, run, status, text, wait_halted};
use crate::support::prelude::*;
use crate::support::tpcb;

/// A source role with REPLICATION and SELECT, a target role with DML, and nothing else; tables belong to `owner`.
async fn ordinary(pair: &Pair, tables: &str) {
    run(&pair.source, "CREATE ROLE reader LOGIN REPLICATION; CREATE ROLE writer LOGIN; CREATE ROLE app LOGIN").await;
    run(&pair.source, &format!("GRANT SELECT ON {tables} TO reader")).await;
    run(&pair.target, &format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {tables} TO writer")).await;
    run(&pair.target, "CREATE SCHEMA walferry AUTHORIZATION writer").await;
}

fn daemon(pair: &Pair, apply: &str) -> crate::support::daemon_builder::Builder {
    let (from, to) = (pair.cluster.url_as("reader", &pair.from.name), pair.cluster.url_as("writer", &pair.to.name));
    let quick = "halted_retry_interval = \"200ms\"\nretry_max_interval = \"500ms\"";
    Daemon::builder(&from).target("t", &to).extra(&format!("[apply]\n{quick}\n{apply}"))
}

const FAMILY: &str = "
    CREATE TABLE a_child (id int PRIMARY KEY, parent int, note text);
    CREATE TABLE z_parent (id int PRIMARY KEY, note text);
    ALTER TABLE a_child ADD CONSTRAINT c FOREIGN KEY (parent) REFERENCES z_parent ON DELETE CASCADE ON UPDATE CASCADE;
    CREATE TABLE nulled (id int PRIMARY KEY, parent int REFERENCES z_parent ON DELETE SET NULL ON UPDATE CASCADE);
    CREATE TABLE keyed (parent int PRIMARY KEY REFERENCES z_parent ON DELETE CASCADE ON UPDATE CASCADE, big text);
    ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);";

const MEMBERS: [&str; 5] = ["z_parent", "a_child", "nulled", "keyed", "tree"];

async fn family(granted: bool) {
    let pair = Pair::start(FAMILY).await;
    ordinary(&pair, &MEMBERS.join(", ")).await;
    if granted {
        run(&pair.target, "GRANT SET ON PARAMETER session_replication_role TO writer").await;
    }
    run(
        &pair.target,
        "CREATE TABLE audit (at timestamptz DEFAULT now()); GRANT INSERT ON audit TO writer;
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.audit DEFAULT VALUES; RETURN NULL; END$$;
         CREATE TRIGGER audit AFTER INSERT OR DELETE ON z_parent FOR EACH ROW EXECUTE FUNCTION audit()",
    )
    .await;
    run(
        &pair.source,
        "INSERT INTO z_parent SELECT i FROM generate_series(1, 20) i;
         INSERT INTO a_child SELECT i, 1 + i % 20 FROM generate_series(1, 200) i;
         INSERT INTO nulled SELECT i, 1 + i % 20 FROM generate_series(1, 40) i;
         INSERT INTO keyed SELECT i, repeat('b', 5000) FROM generate_series(1, 20) i;
         INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 100) i ORDER BY random()",
    )
    .await;
    let mut daemon = daemon(&pair, "conflicts = \"stop\"").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&MEMBERS, seconds(10)).await;

    run(
        &pair.source,
        "BEGIN; DELETE FROM z_parent WHERE id IN (2, 3); INSERT INTO z_parent VALUES (2, 'again');
         INSERT INTO a_child VALUES (1001, 2); COMMIT;
         UPDATE z_parent SET id = id + 100 WHERE id IN (4, 5); UPDATE z_parent SET note = 'n';
         DELETE FROM tree WHERE id = 2; UPDATE tree SET up = 1 WHERE id = 12;
         DELETE FROM z_parent WHERE id = 104",
    )
    .await;
    pair.equal(&MEMBERS, seconds(10)).await;
    // A statement of several kinds in one transaction, and a TRUNCATE that cascades.
    run(&pair.source, "TRUNCATE z_parent CASCADE; INSERT INTO z_parent VALUES (1); INSERT INTO keyed VALUES (1, 'k')")
        .await;
    pair.equal(&MEMBERS, seconds(10)).await;
    if !granted {
        // A constraint that is checked when the transaction commits. (With the replica role it is not checked at all.)
        run(&pair.target, "ALTER TABLE z_parent ADD CONSTRAINT one UNIQUE (note) DEFERRABLE INITIALLY DEFERRED").await;
        run(&pair.source, "INSERT INTO z_parent VALUES (50, 'planted'), (51, 'planted')").await;
        wait_halted(&mut daemon, "t", &["committed at 0/", "23505", "constraint"], seconds(10)).await;
        run(&pair.target, "ALTER TABLE z_parent DROP CONSTRAINT one").await;
        pair.equal(&MEMBERS, seconds(10)).await;
        assert!(!daemon.log().contains("planted"), "a value is in the log");
    }
    daemon.wait_ready(seconds(10)).await;
    assert_eq!(status(&daemon, "t").await["conflicts"].as_object().unwrap().len(), 0, "cascades are no conflicts");
    let fired: i64 = text(&pair.target, "SELECT count(*) FROM audit").await.unwrap().parse().unwrap();
    assert_eq!(fired > 0, !granted, "{fired} times a trigger fired");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn without_the_replica_role_foreign_keys_and_triggers_fire_and_are_no_conflicts() {
    family(false).await;
}

#[tokio::test]
async fn a_row_that_others_refer_to_is_not_removed_to_make_room_for_the_sources() {
    let tables = "CREATE TABLE p (id int PRIMARY KEY, u text UNIQUE);
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE);";
    let pair = Pair::start(tables).await;
    ordinary(&pair, "p, c").await;
    run(&pair.source, "INSERT INTO p VALUES (1, 'a'); INSERT INTO c VALUES (1, 1)").await;
    let mut daemon = daemon(&pair, "").start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["p", "c"], seconds(10)).await;

    run(&pair.target, "INSERT INTO p VALUES (2, 'b'); INSERT INTO c VALUES (2, 2)").await;
    run(&pair.source, "INSERT INTO p VALUES (3, 'b'); INSERT INTO c VALUES (3, 3)").await;
    wait_halted(&mut daemon, "t", &["public.p (id=3)", "insert_exists", "refer to it"], seconds(10)).await;
    let children = pair.target.query_one("SELECT count(*) FROM c WHERE p = 2", &[]).await.unwrap();
    assert_eq!(children.get::<_, i64>(0), 1, "the child went with its parent");
    run(&pair.target, "DELETE FROM p WHERE id = 2").await;
    pair.equal(&["p", "c"], seconds(10)).await;
}

#[tokio::test]
async fn with_set_granted_on_session_replication_role_they_do_not_fire() {
    // GRANT … ON PARAMETER came with 15.
    if default_major() >= 15 {
        family(true).await;
    }
}

#[tokio::test]
async fn ordinary_roles_suffice_from_the_first_row_to_the_last_on_every_version() {
    for_each_major(async |major| {
        let pair = Pair::on(Cluster::start(major).await, "").await;
        tpcb::create(&pair.source).await;
        tpcb::create(&pair.target).await;
        tpcb::fill(&pair.source, 1).await;
        ordinary(&pair, &tpcb::TABLES.join(", ")).await;
        // The schema is made by walferry itself where the role has CREATE on the database.
        run(&pair.target, &format!("DROP SCHEMA walferry; GRANT CREATE ON DATABASE {} TO writer", pair.to.name)).await;
        let writers = tpcb::Writers::start(&pair.cluster, &pair.from.name, 2, 1).await;
        let mut daemon = daemon(&pair, "").start();
        daemon.wait_ready(seconds(30)).await;
        let enough = async || (writers.committed() > 100).then_some(());
        wait_for("some transactions", seconds(30), enough).await;
        assert!(writers.stop().await > 0);
        pair.equal(&tpcb::TABLES, seconds(30)).await;
        assert!(daemon.terminate(seconds(20)).await.success());
    })
    .await;
}

#[tokio::test]
async fn a_circle_of_foreign_keys_is_named_and_the_grant_that_lets_it_be_filled_ends_it() {
    let circle = "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
                  ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b; CREATE TABLE c (id int PRIMARY KEY);";
    let pair = Pair::start(circle).await;
    ordinary(&pair, "a, b, c").await;
    run(
        &pair.source,
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1); UPDATE a SET b = 1; INSERT INTO c VALUES (1)",
    )
    .await;
    let mut daemon = daemon(&pair, "").start();
    let says = ["circle of foreign keys", "public.a", "public.b", "GRANT SET ON PARAMETER session_replication_role"];
    wait_halted(&mut daemon, "t", &says, seconds(20)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM c").await.unwrap(), "0", "something was written");
    run(&pair.target, "GRANT SET ON PARAMETER session_replication_role TO writer").await;
    pair.equal(&["a", "b", "c"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn row_level_security_is_an_error_and_never_fewer_rows() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, who text DEFAULT 'app')").await;
    ordinary(&pair, "t").await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'reader'), (2, 'app')").await;
    let guard = "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON t USING (who = current_user)";
    run(&pair.source, guard).await;
    let mut daemon = daemon(&pair, "").start();
    wait_halted(&mut daemon, "t", &["public.t", "row level security on the source", "BYPASSRLS"], seconds(20)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t").await.unwrap(), "0");
    run(&pair.source, "ALTER ROLE reader BYPASSRLS").await;
    pair.equal(&["t"], seconds(20)).await;

    run(&pair.target, guard).await;
    run(&pair.source, "UPDATE t SET who = 'else' WHERE id = 2").await;
    let told = wait_halted(&mut daemon, "t", &["public.t", "id=2)", "42501", "BYPASSRLS"], seconds(20)).await;
    assert!(told.contains("row-level security"), "{told}");
    run(&pair.target, "ALTER ROLE writer BYPASSRLS").await;
    pair.equal(&["t"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());

    // From the start.
    let pair = Pair::on(pair.cluster, "CREATE TABLE t (id int PRIMARY KEY, who text)").await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'app'); GRANT SELECT ON t TO reader").await;
    run(&pair.source, "ALTER ROLE writer NOBYPASSRLS").await;
    run(&pair.target, guard).await;
    run(&pair.target, "GRANT ALL ON t TO writer; CREATE SCHEMA walferry AUTHORIZATION writer").await;
    let mut daemon = self::daemon(&pair, "").slot("second").start();
    wait_halted(&mut daemon, "t", &["public.t", "row level security", "ALTER ROLE \"writer\" BYPASSRLS"], seconds(20))
        .await;
}
