//! Each change is applied or set aside, once, whoever dies; in transactions of any size, in every way of applying.

use super::{LONG, ON, json, told};
use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

/// One row in seven is refused.
fn rows(from: i32, to: i32) -> String {
    format!(
        "INSERT INTO t SELECT i, CASE WHEN i % 7 = 0 THEN '{LONG}' ELSE 'fine' END FROM generate_series({from}, {to}) i"
    )
}

const STRICT: &str = "ALTER TABLE t ADD CONSTRAINT short CHECK (length(note) < 30)";

/// What has arrived, and what was set aside: the numbers of rows, of letters, and of rows that letters are of.
const ARRIVED: &str = "SELECT concat_ws(' ', (SELECT count(*) FROM t),
    (SELECT concat_ws(' ', count(*), count(DISTINCT key), count(end_lsn), count(commit_time))
     FROM walferry.dead_letter))";

async fn wait_arrived(target: &tokio_postgres::Client, rows: i32) {
    let refused = rows / 7;
    let expected = format!("{} {refused} {refused} {refused} {refused}", rows - refused);
    let mut last = None;
    wait_for(&format!("rows and letters: {expected}"), seconds(60), async || {
        let found = text(target, ARRIVED).await;
        if last != found {
            eprintln!("{found:?}");
            last.clone_from(&found);
        }
        (found.as_deref() == Some(expected.as_str())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_set_aside_twice_or_lost_when_daemon_and_target_die_under_load() {
    let source = Cluster::start(default_major()).await;
    let mut place = Cluster::start(default_major()).await;
    let (from, to) = (source.create_database().await, place.create_database().await);
    let (on_source, mut target) = (source.connect(&from.name).await, place.connect(&to.name).await);
    run(&on_source, TABLE).await;
    run(&target, TABLE).await;
    run(&on_source, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
    let mut daemon = Daemon::builder(&from.url)
        .target("t", &to.url)
        .apply("on_error", "\"dead_letter\"")
        .apply("retry_max_interval", "\"200ms\"")
        .start();
    daemon.wait_ready(seconds(30)).await;
    run(&target, STRICT).await;

    let mut written = 0;
    for round in 0..6 {
        for _ in 0..40 {
            run(&on_source, &rows(written + 1, written + 10)).await;
            written += 10;
        }
        let before = text(&target, "SELECT count(*) FROM walferry.dead_letter").await;
        let more = async || (text(&target, "SELECT count(*) FROM walferry.dead_letter").await != before).then_some(());
        wait_for("letters to be written", seconds(30), more).await;
        run(&on_source, &rows(written + 1, written + 3000)).await;
        written += 3000;
        if round % 2 == 0 {
            daemon.kill9();
            daemon.start();
        } else {
            place.kill9().await;
            place.start_again().await;
            target = place.connect(&to.name).await;
        }
    }
    wait_arrived(&target, written).await;
    run(&target, "ALTER TABLE t DROP CONSTRAINT short").await;
    let done = daemon.run(&["dead-letter", "retry", "--all", "--json"]).await;
    assert!(done.status.success(), "{}", told(&done));
    assert_eq!(json(&done).as_array().unwrap().len() as i32, written / 7);
    wait_equal(&on_source, &[&target], &["t"], seconds(30)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

async fn in_pieces(bulk: &str) {
    let pair = Pair::start(TABLE).await;
    let small = "queue_bytes = \"256KiB\"\nbatch_bytes = \"64KiB\"";
    let mut daemon = pair.daemon(&format!("{ON}\nbulk = \"{bulk}\"\n{small}")).start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, STRICT).await;
    run(&pair.source, &rows(1, 7000)).await;
    wait_arrived(&pair.target, 7000).await;
    let labels = [("target", "t")];
    daemon.wait_metric("walferry_target_dead_letters_total", &labels, |n| n == 1000.0, seconds(10)).await;
    let one = "SELECT count(DISTINCT (commit_lsn, end_lsn, commit_time)) FROM walferry.dead_letter";
    assert_eq!(text(&pair.target, one).await.unwrap(), "1", "one transaction");
    run(&pair.source, "UPDATE t SET note = 'fine' WHERE id % 14 = 0; DELETE FROM t WHERE id % 14 = 7").await;
    pair.equal(&["t"], seconds(60)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_large_transaction_in_pieces_sets_aside_what_is_refused_of_it() {
    in_pieces("never").await;
}

#[tokio::test]
async fn a_large_transaction_applied_in_bulk_sets_aside_what_is_refused_of_it() {
    in_pieces("always").await;
}

/// The daemon waits for a command that applies letters, and no longer.
#[tokio::test]
async fn letters_are_applied_while_the_daemon_writes_others() {
    let pair = Pair::start(TABLE).await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, STRICT).await;
    run(&pair.source, &rows(1, 700)).await;
    wait_arrived(&pair.target, 700).await;
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    let writing = async {
        for at in 0..200 {
            run(&pair.source, &format!("UPDATE t SET note = 'newer {at}' WHERE id % 14 = 0 AND id > {at}")).await;
        }
    };
    let retrying = daemon.run(&["dead-letter", "retry", "--all", "--json"]);
    let ((), done) = tokio::join!(writing, retrying);
    assert_eq!(json(&done).as_array().unwrap().len(), 100, "{}", told(&done));
    pair.equal(&["t"], seconds(60)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}
