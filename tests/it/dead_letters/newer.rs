//! Nothing newer is ever overwritten, and nothing that was deleted comes back, unless somebody insists.

use super::{LONG, ON, STRICT, TABLES, letters, passed, told, wait_letters};
use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;

/// All that is left, and the exit code says so.
async fn left(daemon: &Daemon, says: &[&str]) {
    let output = daemon.run(&["dead-letter", "retry", "--all"]).await;
    let answer = told(&output);
    assert!(output.status.code() == Some(3) && !answer.contains(": applied"), "{answer}");
    for said in says {
        assert!(answer.contains(said), "no {said} in {answer}");
    }
}

#[tokio::test]
async fn a_row_that_was_written_since_is_left_alone_unless_forced() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t SELECT i, 'c' || i, 'n', i, NULL FROM generate_series(1, 4) i").await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t"], seconds(20)).await;
    run(&pair.target, STRICT).await;
    let old = format!("UPDATE t SET note = '{LONG}' WHERE id <= 3; INSERT INTO t VALUES (7, 'c7', '{LONG}', 7, NULL)");
    run(&pair.source, &old).await;
    wait_letters(&pair.target, 4).await;
    // Newer: another value; the same as it was before; gone; there by now.
    run(
        &pair.source,
        "UPDATE t SET note = 'newer' WHERE id = 1; UPDATE t SET note = 'n' WHERE id = 2; DELETE FROM t WHERE id = 3;
         UPDATE t SET note = 'newer' WHERE id = 7",
    )
    .await;
    pair.equal(&["t"], seconds(20)).await;
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    left(&daemon, &["has been written since", "has been deleted since", "has deleted its row or brought all of it"])
        .await;
    pair.equal(&["t"], seconds(20)).await;

    let id = "SELECT id FROM walferry.dead_letter WHERE key = '{\"id\": \"1\"}'";
    let id = text(&pair.target, id).await.unwrap();
    let forced = daemon.run(&["dead-letter", "retry", &id, "--force"]).await;
    assert!(forced.status.success(), "{}", told(&forced));
    assert_eq!(text(&pair.target, "SELECT note FROM t WHERE id = 1").await.unwrap(), LONG);
    assert_eq!(letters(&pair.target).await.len(), 3);
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// A table that is copied again is as the source has it: what was set aside of it before is in the copy.
#[tokio::test]
async fn letters_of_a_table_that_was_copied_again_since_are_pointless() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon(ON).prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, STRICT).await;
    run(&pair.source, &format!("INSERT INTO t (id, note) VALUES (1, '{LONG}')")).await;
    wait_letters(&pair.target, 1).await;
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    assert_eq!(daemon.answered(&["table", "resync", "public.t"]).await.0, Some(0));
    pair.equal(&["t"], seconds(30)).await;
    daemon.wait_ready(seconds(30)).await;
    assert!(wait_letters(&pair.target, 1).await[0].ends_with("superseded"));
    run(&pair.source, "UPDATE t SET note = 'newer'").await;
    left(&daemon, &[]).await;
    pair.equal(&["t"], seconds(30)).await;
}

async fn what_is_gone_stays_gone(bulk: &str) {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon(&format!("{ON}\nbulk = \"{bulk}\"")).start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, STRICT).await;
    let rows =
        format!("INSERT INTO t SELECT i, 'c' || i, '{LONG}', i, repeat('big', 3000) FROM generate_series(1, 4) i");
    run(&pair.source, &rows).await;
    wait_letters(&pair.target, 4).await;
    // Deleted; changed and deleted; changed, so that it comes, and deleted; moved, so that it comes, and deleted.
    run(
        &pair.source,
        "DELETE FROM t WHERE id = 1; UPDATE t SET n = 9 WHERE id = 2; DELETE FROM t WHERE id = 2;
         UPDATE t SET note = 'fine', big = NULL WHERE id = 3",
    )
    .await;
    run(&pair.source, "DELETE FROM t WHERE id = 3; UPDATE t SET id = 5, note = 'fine', big = NULL WHERE id = 4").await;
    run(&pair.source, "DELETE FROM t WHERE id = 5").await;
    passed(&pair, 99).await;
    let found = letters(&pair.target).await;
    assert!(found.iter().all(|letter| letter.ends_with("superseded")), "{found:?}");
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    left(&daemon, &["a later change, of 0/", "has deleted its row or brought all of it"]).await;
    pair.equal(&["t"], seconds(20)).await;

    // Emptied.
    run(&pair.target, "DELETE FROM walferry.dead_letter; ALTER TABLE t ADD CONSTRAINT short CHECK (length(note) < 30)")
        .await;
    run(&pair.source, &rows).await;
    wait_letters(&pair.target, 4).await;
    run(&pair.source, "TRUNCATE t").await;
    passed(&pair, 98).await;
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    left(&daemon, &["has deleted its row"]).await;
    pair.equal(&["t"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn what_was_deleted_since_does_not_come_back() {
    what_is_gone_stays_gone("auto").await;
}

#[tokio::test]
async fn what_was_deleted_since_does_not_come_back_where_changes_are_applied_in_bulk() {
    what_is_gone_stays_gone("always").await;
}

/// What gives the row its new key is a letter: the change that follows must not be lost for it.
#[tokio::test]
async fn a_change_of_a_row_that_waits_under_its_former_key_waits_behind_it() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t SELECT i, 'c' || i, 'n', i, NULL FROM generate_series(1, 2) i").await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t"], seconds(20)).await;
    run(&pair.target, STRICT).await;
    let statements = format!(
        "UPDATE t SET id = 11, note = '{LONG}' WHERE id = 1; UPDATE t SET id = 12, note = '{LONG}' WHERE id = 2;
         UPDATE t SET note = 'short again' WHERE id = 11; DELETE FROM t WHERE id = 12"
    );
    run(&pair.source, &statements).await;
    wait_letters(&pair.target, 4).await;
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    let done = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert!(done.status.success(), "{}", told(&done));
    pair.equal(&["t"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}
