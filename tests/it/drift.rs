//! The schema changes under the running daemon, on either side: a target that does not fit halts, says what helps, and
//! goes on by itself once that was done; the others never wait; nothing is lost.

mod publication;

use crate::support::pair::{Pair, run, status, text, wait_halted, wait_left_out};
use crate::support::prelude::*;

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text, n int);
    CREATE TABLE u (id int PRIMARY KEY, a text);
    CREATE TYPE mood AS ENUM ('fine');";

/// A daemon with two targets, `t` and `other`; the other never drifts.
struct Drift {
    pair: Pair,
    other: tokio_postgres::Client,
    daemon: Daemon,
    id: u32,
}

impl Drift {
    async fn start() -> Self {
        let pair = Pair::start(TABLES).await;
        run(&pair.source, "INSERT INTO t VALUES (1, 'a', 1); INSERT INTO u VALUES (1, 'a')").await;
        let (db, other) = pair.another(TABLES).await;
        let mut daemon = pair.daemon("").target("other", &db.url).start();
        daemon.wait_ready(seconds(30)).await;
        Self { pair, other, daemon, id: 1000 }
    }

    /// Further sessions on the source and on target `t`.
    async fn sessions(&self) -> (tokio_postgres::Client, tokio_postgres::Client) {
        let cluster = &self.pair.cluster;
        (cluster.connect(&self.pair.from.name).await, cluster.connect(&self.pair.to.name).await)
    }

    /// Halted with these words, while the other target goes on with table `u`.
    async fn halted(&mut self, says: &[&str]) -> String {
        let told = wait_halted(&mut self.daemon, "t", says, seconds(15)).await;
        assert!(told.contains("0/"), "no position in: {told}");
        self.id += 1;
        run(&self.pair.source, &format!("INSERT INTO u VALUES ({}, 'on')", self.id)).await;
        wait_equal(&self.pair.source, &[&self.other], &["u"], seconds(10)).await;
        assert_eq!(status(&self.daemon, "other").await["state"], "applying");
        told
    }

    /// Both targets get a change of both tables and are equal to the source.
    async fn goes_on(&mut self) {
        self.id += 1;
        run(&self.pair.source, &format!("INSERT INTO t (id) VALUES ({0}); INSERT INTO u VALUES ({0}, 'on')", self.id))
            .await;
        wait_equal(&self.pair.source, &[&self.pair.target, &self.other], &["t", "u"], seconds(20)).await;
        self.daemon.wait_ready(seconds(10)).await;
    }

    async fn end(mut self) {
        assert!(!self.daemon.log().contains("planted"), "a value is in the log");
        let status = self.daemon.terminate(seconds(20)).await;
        assert!(status.success(), "{status}");
    }
}

/// The statement in a hint: from ALTER to the semicolon.
fn statement(told: &str) -> &str {
    let start = told.find("ALTER TABLE").expect("a statement");
    let rest = &told[start..];
    &rest[..rest.find(';').expect("its end")]
}

#[tokio::test]
async fn columns_that_come_go_and_change_on_the_source_are_met_one_by_one() {
    let mut drift = Drift::start().await;
    let (source, target) = drift.sessions().await;

    // A new column, with a value on its way; the hint's own statement mends it.
    run(&drift.other, "ALTER TABLE t ADD b numeric(10,2)").await;
    run(&source, "ALTER TABLE t ADD b numeric(10,2); INSERT INTO t VALUES (2, 'x', 2, 2.5)").await;
    let told = drift.halted(&["public.t", "has no column b", "ADD COLUMN b numeric(10,2)"]).await;
    run(&target, statement(&told)).await;
    drift.goes_on().await;

    // A column of a type that only the source has.
    for client in [&source, &drift.other] {
        run(client, "ALTER TABLE t ADD m mood").await;
    }
    run(&source, "INSERT INTO t VALUES (3, 'x', 2, 2.5, 'fine')").await;
    drift.halted(&["has no column m", "ADD COLUMN m"]).await;
    run(&target, "ALTER TABLE t ADD m mood").await;
    drift.goes_on().await;

    // An enum label that the target does not know: the value itself is not told.
    run(&drift.other, "ALTER TYPE mood ADD VALUE 'planted'").await;
    run(&source, "ALTER TYPE mood ADD VALUE 'planted'").await;
    run(&source, "INSERT INTO t VALUES (4, 'x', 2, 2.5, 'planted')").await;
    drift.halted(&["public.t", "id=4", "22P02"]).await;
    run(&target, "ALTER TYPE mood ADD VALUE 'planted'").await;
    drift.goes_on().await;

    // Renamed.
    for client in [&source, &drift.other] {
        run(client, "ALTER TABLE t RENAME a TO \"A b\"").await;
    }
    run(&source, "UPDATE t SET \"A b\" = 'planted' WHERE id = 2").await;
    drift.halted(&["has no column \"A b\""]).await;
    run(&target, "ALTER TABLE t RENAME a TO \"A b\"").await;
    drift.goes_on().await;

    // A wider type: what does not fit halts, what fits has gone through.
    run(&drift.other, "ALTER TABLE t ALTER n TYPE bigint").await;
    run(&source, "ALTER TABLE t ALTER n TYPE bigint; INSERT INTO t (id, n) VALUES (5, 5)").await;
    run(&source, "INSERT INTO t (id, n) VALUES (6, 12345678901)").await;
    drift.halted(&["public.t", "id=6", "22003"]).await;
    assert_eq!(text(&target, "SELECT n FROM t WHERE id = 5").await.unwrap(), "5");
    run(&target, "ALTER TABLE t ALTER n TYPE bigint").await;
    drift.goes_on().await;

    // Dropped: the target's column is left to its default.
    run(&source, "ALTER TABLE t DROP n; INSERT INTO t (id) VALUES (7)").await;
    drift.goes_on().await;
    drift.end().await;
}

#[tokio::test]
async fn what_is_done_to_the_target_meanwhile_is_noticed() {
    let mut drift = Drift::start().await;
    let (source, target) = drift.sessions().await;
    drift.goes_on().await;

    // What fits is not even noticed: columns more and less, types, names of indexes.
    run(&target, "ALTER TABLE t ADD extra text DEFAULT 'own'").await;
    drift.goes_on().await;
    run(&target, "ALTER TABLE t DROP extra; ALTER TABLE t ALTER n TYPE bigint; ALTER TABLE u ALTER a TYPE varchar(50)")
        .await;
    drift.goes_on().await;
    run(&target, "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY (id)").await;
    drift.goes_on().await;
    run(&target, "ALTER TABLE t ALTER n TYPE text").await;
    run(&source, "UPDATE t SET n = n + 1; DELETE FROM t WHERE id = 1").await;
    drift.goes_on().await;

    // A column that must be filled and that nobody fills.
    run(&target, "ALTER TABLE t ADD must text; UPDATE t SET must = ''; ALTER TABLE t ALTER must SET NOT NULL").await;
    run(&source, "INSERT INTO t VALUES (10, 'planted', 1)").await;
    let told = drift.halted(&["public.t", "id=10", "23502", "ALTER COLUMN must DROP NOT NULL"]).await;
    run(&target, statement(&told)).await;
    drift.goes_on().await;

    // A column is gone.
    run(&target, "ALTER TABLE t DROP a").await;
    run(&source, "INSERT INTO t VALUES (11, NULL, 1)").await;
    let told = drift.halted(&["public.t", "has no column a", "ADD COLUMN a text"]).await;
    run(&target, statement(&told)).await;
    run(&source, "UPDATE t SET a = 'planted'").await;
    drift.goes_on().await;

    // The table has another name, then another schema.
    run(&target, "ALTER TABLE t RENAME TO \"T 2\"").await;
    run(&source, "INSERT INTO t VALUES (12, 'x', 1)").await;
    let told = drift.halted(&["public.t", "is now called public.\"T 2\"", "RENAME TO \"t\""]).await;
    run(&target, statement(&told)).await;
    drift.goes_on().await;
    run(&target, "CREATE SCHEMA attic; ALTER TABLE t SET SCHEMA attic").await;
    run(&source, "INSERT INTO t VALUES (13, 'x', 1)").await;
    let told = drift.halted(&["public.t", "is now called attic.t", "SET SCHEMA \"public\""]).await;
    run(&target, statement(&told)).await;
    drift.goes_on().await;

    // The table is gone: an empty one in its place gets all its rows again.
    run(&target, "DROP TABLE t").await;
    run(&source, "INSERT INTO t VALUES (14, 'x', 1)").await;
    let says = ["public.t", "missing on the target", "CREATE TABLE"];
    let told = wait_left_out(&mut drift.daemon, "t", &says, seconds(15)).await;
    let create = &told[told.find("CREATE TABLE").unwrap()..];
    run(&target, create.trim_end_matches(". ")).await;
    drift.goes_on().await;
    drift.end().await;
}

#[tokio::test]
async fn rows_that_the_target_alone_refuses_halt_it_by_key() {
    let mut drift = Drift::start().await;
    let (source, target) = drift.sessions().await;

    run(&target, "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)").await;
    run(&source, "BEGIN; INSERT INTO t VALUES (2, 'planted', 1); INSERT INTO t VALUES (3, 'planted', 4711); COMMIT")
        .await;
    let told = drift.halted(&["public.t", "id=3)", "23514", "an INSERT", "DROP CONSTRAINT small"]).await;
    assert_eq!(text(&target, "SELECT count(*) FROM t WHERE id = 2").await.unwrap(), "0", "half a transaction is there");
    run(&target, statement(&told)).await;
    drift.goes_on().await;

    run(&target, "ALTER TABLE t ALTER a TYPE varchar(8)").await;
    run(&source, "UPDATE t SET a = 'planted-too-long' WHERE id = 3").await;
    drift.halted(&["public.t", "id=3)", "22001", "an UPDATE"]).await;
    run(&target, "ALTER TABLE t ALTER a TYPE text").await;
    drift.goes_on().await;

    run(
        &target,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no: %', old.a; END$$;
         CREATE TRIGGER no BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION no();
         ALTER TABLE t ENABLE ALWAYS TRIGGER no",
    )
    .await;
    run(&source, "DELETE FROM t WHERE id = 3").await;
    drift.halted(&["public.t", "id=3)", "P0001", "a DELETE"]).await;
    run(&target, "DROP TRIGGER no ON t").await;
    drift.goes_on().await;

    // A key that changes its kind while rows flow.
    run(
        &source,
        "UPDATE t SET a = 'x' WHERE id = 2; ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET a = 'y' WHERE id = 2",
    )
    .await;
    drift.goes_on().await;
    let other_identity = "CREATE UNIQUE INDEX k ON u (a, id); ALTER TABLE u ALTER a SET NOT NULL;
         ALTER TABLE u REPLICA IDENTITY USING INDEX k";
    run(&source, other_identity).await;
    run(&source, "UPDATE u SET id = id + 5000, a = a || id; DELETE FROM u WHERE id = 5003").await;
    drift.goes_on().await;
    run(&source, "ALTER TABLE t REPLICA IDENTITY DEFAULT; UPDATE t SET id = 77 WHERE id = 2").await;
    drift.goes_on().await;
    drift.end().await;
}
