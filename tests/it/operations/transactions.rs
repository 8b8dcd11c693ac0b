//! Transactions: empty, full of subtransactions, from elsewhere, with messages that are nobody's business here.

use crate::support::followed::{ALL, rows};
use crate::support::prelude::*;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[tokio::test]
async fn ten_thousand_subtransactions_with_rollbacks_in_one_transaction() {
    let cluster = Cluster::start(default_major()).await;
    let mut pair = Followed::same(&cluster, TABLE).await;
    // Each block with an exception handler is a subtransaction; every third is rolled back, every seventh holds
    // another.
    pair.run(
        "DO $$BEGIN FOR n IN 1..10000 LOOP
            BEGIN
                INSERT INTO t VALUES (n, 'v');
                IF n % 7 = 0 THEN
                    BEGIN
                        UPDATE t SET v = 'inner' WHERE id = n - 1;
                        IF n % 2 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
                    EXCEPTION WHEN raise_exception THEN NULL;
                    END;
                END IF;
                IF n % 3 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
         END LOOP; END$$",
    )
    .await;
    pair.equal(&["t"]).await;
    pair.target_has("SELECT count(*), count(*) FILTER (WHERE v = 'inner') FROM t", &["(6667,238)"]).await;
}

#[tokio::test]
async fn transactions_without_rows_messages_of_others_and_foreign_origins() {
    let cluster = Cluster::start(default_major()).await;
    let mut pair = Followed::same(&cluster, TABLE).await;
    pair.run("BEGIN; CREATE TEMP TABLE x (a int); INSERT INTO x VALUES (1); DROP TABLE x; COMMIT").await;
    pair.run("BEGIN; CREATE UNLOGGED TABLE u (a int); INSERT INTO u VALUES (1); COMMIT").await;
    pair.run("BEGIN; SELECT pg_current_xact_id(); COMMIT").await;
    for prefix in ["walferry", "somebody", "", "wal\u{1F980}"] {
        for transactional in [true, false] {
            let emit = format!("SELECT pg_logical_emit_message({transactional}, '{prefix}', E'\\\\x00ff'::bytea)");
            pair.run(&emit).await;
            pair.run(&format!("BEGIN; INSERT INTO t VALUES (1, 'm'); {emit}; DELETE FROM t; {emit}; COMMIT")).await;
            pair.run(&format!("BEGIN; INSERT INTO t VALUES (2, 'never'); {emit}; ROLLBACK")).await;
            pair.run(&format!("BEGIN; SAVEPOINT a; {emit}; ROLLBACK TO a; COMMIT")).await;
        }
    }
    pair.equal(&["t"]).await;
    pair.run("INSERT INTO t VALUES (1, 'own'); SELECT pg_replication_origin_create('from elsewhere')").await;
    pair.run("SELECT pg_replication_origin_session_setup('from elsewhere')").await;
    pair.run(
        "BEGIN; SELECT pg_replication_origin_xact_setup('1/2345', '2020-01-01'); INSERT INTO t VALUES (3, 'origin');
         COMMIT",
    )
    .await;
    pair.run("INSERT INTO t VALUES (4, 'origin without a position'); UPDATE t SET v = 'both' WHERE id = 1").await;
    pair.run("SELECT pg_replication_origin_session_reset()").await;
    pair.run("DELETE FROM t WHERE id = 3").await;
    pair.equal(&["t"]).await;
    assert_eq!(rows(&pair.target, "SELECT id FROM t").await, ["(1)", "(4)"]);
}

#[tokio::test]
async fn prepared_transactions_arrive_when_they_commit() {
    let cluster = Cluster::start(default_major()).await;
    let mut pair = Followed::start(&cluster, &format!("{TABLE}; {ALL}"), TABLE).await;
    pair.run("BEGIN; INSERT INTO t VALUES (1, 'first'); PREPARE TRANSACTION 'a'").await;
    pair.run("BEGIN; INSERT INTO t VALUES (2, 'never'); PREPARE TRANSACTION 'b'").await;
    pair.run("INSERT INTO t VALUES (3, 'between')").await;
    pair.fence().await;
    pair.target_has("SELECT id FROM t", &["(3)"]).await;
    pair.run("ROLLBACK PREPARED 'b'").await;
    pair.run("UPDATE t SET v = 'x' WHERE id = 3").await;
    pair.run("COMMIT PREPARED 'a'").await;
    pair.equal(&["t"]).await;
    pair.target_has("SELECT id FROM t", &["(1)", "(3)"]).await;
}
