//! With `apply.on_error = "quarantine_table"` a change that a target refuses stops its table there and nothing else.

use std::time::Duration;

use super::{ROWS, Writes, add, in_step, wait_state};
use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::execute;

/// A running daemon that quarantines, and a table with rows on all sides.
async fn ready(stage: &Stage, batch_bytes: &str) -> Daemon {
    add(stage).await;
    let daemon = stage.daemon().apply("on_error", "\"quarantine_table\"");
    let mut daemon = daemon.apply("queue_bytes", batch_bytes).apply("batch_bytes", batch_bytes).prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    daemon
}

async fn wait_quarantined(stage: &Stage, daemon: &mut Daemon) {
    wait_state(stage, 0, "quarantined").await;
    let labels = [("target", "t0"), ("table", "public.added"), ("state", "quarantined")];
    daemon.wait_metric("walferry_table_copy_state", &labels, |value| value == 1.0, seconds(20)).await;
}

#[tokio::test]
async fn the_refused_table_is_left_out_on_that_target_and_everything_else_goes_on() {
    let stage = Stage::new(2).await;
    let mut daemon = ready(&stage, "\"16MiB\"").await;
    let load = Load::start(&stage, 0..2, Duration::from_millis(5)).await;
    execute(&stage.places[0].client, "ALTER TABLE added ADD CONSTRAINT small CHECK (n < 5)").await;
    let both = "BEGIN; UPDATE added SET n = 7 WHERE id = 1; INSERT INTO applied VALUES (-5, 999); COMMIT";
    execute(&stage.on_source, both).await;
    let writes = Writes::start(&stage).await;
    wait_quarantined(&stage, &mut daemon).await;
    // The rest of the same transaction is there, and what comes after it.
    let rest = async || text(&stage.places[0].client, "SELECT id::text FROM applied WHERE id = -5").await;
    wait_for("the rest of the transaction", seconds(20), rest).await;
    stage.assert_follows(0, 1).await;
    load.more(20).await;
    let (code, said) = daemon.get("/readyz").await.unwrap();
    assert!(code == 503 && said.contains("the changes of public.added are left out"), "{said}");
    assert!(said.contains("23514") && said.contains("walferry table resync public.added"), "{said}");
    assert_eq!(daemon.answered(&["status"]).await.0, Some(3));
    // A daemon that comes later leaves it out as well.
    daemon.kill9();
    daemon.start();
    stage.assert_follows(0, 2).await;
    wait_quarantined(&stage, &mut daemon).await;

    execute(&stage.places[0].client, "ALTER TABLE added DROP CONSTRAINT small").await;
    assert_eq!(daemon.answered(&["table", "resync", "public.added", "--target", "t0"]).await.0, Some(0));
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    load.stop().await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_table_refused_in_the_middle_of_a_large_transaction_is_left_out_of_it() {
    let stage = Stage::new(1).await;
    let mut daemon = ready(&stage, "\"256KiB\"").await;
    execute(&stage.places[0].client, "ALTER TABLE added ADD CONSTRAINT small CHECK (n < 5)").await;
    let large = format!(
        "BEGIN; INSERT INTO applied SELECT -n, 997 FROM generate_series(2000000, 2020000) n;
         UPDATE added SET n = CASE WHEN id = {ROWS} THEN 9 ELSE 1 END;
         INSERT INTO applied SELECT -n, 997 FROM generate_series(3000000, 3020000) n; COMMIT"
    );
    execute(&stage.on_source, &large).await;
    wait_quarantined(&stage, &mut daemon).await;
    let all = async || {
        let count = text(&stage.places[0].client, "SELECT count(*)::text FROM applied WHERE worker = 997").await;
        (count.as_deref() == Some("40002")).then_some(())
    };
    wait_for("the rest of the transaction", seconds(30), all).await;
    let changed = "SELECT count(*)::text FROM added WHERE n > 0";
    assert_eq!(text(&stage.places[0].client, changed).await.as_deref(), Some("0"), "part of it was applied");
    execute(&stage.places[0].client, "ALTER TABLE added DROP CONSTRAINT small").await;
    assert_eq!(daemon.answered(&["table", "resume", "public.added"]).await.0, Some(0));
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
}
