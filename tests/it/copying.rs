//! The daemon's initial copy: what it finds before it writes, what a kill leaves behind, what a later target gets.

mod changed;
mod lost;

use crate::support::pair::{Pair, run, text, wait_halted};
use crate::support::prelude::*;
use crate::support::tpcb;

#[tokio::test]
async fn what_a_target_lacks_or_holds_is_found_before_anything_is_written() {
    let pair =
        Pair::start("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)").await;
    run(&pair.source, "INSERT INTO a SELECT i, 'new' FROM generate_series(1, 9) i; INSERT INTO b SELECT * FROM a")
        .await;
    run(&pair.target, "DROP TABLE b; INSERT INTO a VALUES (1, 'old'), (100, 'own')").await;
    let mut daemon = pair.daemon("").start();
    let told = wait_halted(
        &mut daemon,
        "t",
        &["public.b", "missing on the target", "public.a", "already holds rows"],
        seconds(20),
    )
    .await;
    let create = told.split("; ").find(|sql| sql.contains("CREATE TABLE")).unwrap();
    run(&pair.target, &create[create.find("CREATE").unwrap()..]).await;
    run(&pair.target, "ALTER TABLE b DROP v, ADD must int NOT NULL").await;
    let told = wait_halted(
        &mut daemon,
        "t",
        &["public.b", "lacks column v", "ADD COLUMN", "must", "DROP NOT NULL"],
        seconds(20),
    )
    .await;
    assert_eq!(text(&pair.target, "SELECT string_agg(v, ',' ORDER BY id) FROM a").await.unwrap(), "old,own");
    let all = &told[told.find("TRUNCATE").unwrap()..];
    let fixes: Vec<&str> = all.split("; ").filter(|sql| !sql.starts_with("TRUNCATE")).collect();
    run(&pair.target, &fixes.join("; ")).await;
    wait_halted(&mut daemon, "t", &["public.a", "already holds rows", "existing_rows"], seconds(20)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM a").await.unwrap(), "2");
    assert_eq!(
        text(&pair.target, "SELECT count(*) FROM b").await.unwrap(),
        "0",
        "it was copied although another stops"
    );

    // Merged: own rows stay, the source's win.
    assert!(daemon.terminate(seconds(20)).await.success());
    let mut merging = pair.daemon("").extra("[copy]\nexisting_rows = \"merge\"").prepare();
    merging.guard();
    merging.start();
    merging.wait_ready(seconds(20)).await;
    pair.equal(&["b"], seconds(10)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM a WHERE v = 'new'").await.unwrap(), "9");
    assert_eq!(text(&pair.target, "SELECT v FROM a WHERE id = 100").await.unwrap(), "own");
    run(&pair.source, "UPDATE a SET v = 'later'").await;
    run(&pair.source, "DELETE FROM b").await;
    pair.equal(&["b"], seconds(10)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM a WHERE v = 'later'").await.unwrap(), "9");
    own_rows_stay_again(&pair, &merging).await;
    merging.wait_ready(seconds(20)).await;
    assert!(merging.terminate(seconds(20)).await.success());

    // Truncated: another stream to another target that holds rows.
    let (db, client) =
        pair.another("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)").await;
    run(&client, "INSERT INTO a SELECT i, 'old' FROM generate_series(1, 2000) i").await;
    let mut daemon = Daemon::builder(&pair.from.url)
        .slot("second")
        .target("t", &db.url)
        .extra("[copy]\nexisting_rows = \"truncate\"")
        .start();
    daemon.wait_ready(seconds(20)).await;
    wait_equal(&pair.source, &[&client], &["a", "b"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// All of it is copied again, and the rows that only the target has stay.
async fn own_rows_stay_again(pair: &Pair, merging: &Daemon) {
    run(&pair.target, "UPDATE a SET v = 'not so' WHERE v = 'later'").await;
    assert_eq!(merging.answered(&["target", "resync", "t"]).await.0, Some(0));
    let mended =
        async || text(&pair.target, "SELECT count(*) FROM a WHERE v = 'later'").await.filter(|rows| rows == "9");
    wait_for("the source's rows to win again", seconds(20), mended).await;
    assert_eq!(text(&pair.target, "SELECT v FROM a WHERE id = 100").await.unwrap(), "own");
}

/// A column of a table's row in `walferry.table_state`.
async fn state(client: &tokio_postgres::Client, table: &str, column: &str) -> Option<String> {
    text(client, &format!("SELECT {column} FROM walferry.table_state WHERE table_name = '{table}'")).await
}

#[tokio::test]
async fn a_daemon_killed_in_the_middle_copies_again_only_what_was_not_finished() {
    const FIXED: &str =
        "CREATE TABLE small (id int PRIMARY KEY, v text); CREATE TABLE large (id int PRIMARY KEY, v text);";
    let pair = Pair::start(FIXED).await;
    for client in [&pair.source, &pair.target] {
        tpcb::create(client).await;
    }
    tpcb::fill(&pair.source, 2).await;
    run(&pair.source, "INSERT INTO small SELECT i, 'v' FROM generate_series(1, 500) i").await;
    run(&pair.source, "INSERT INTO large SELECT i, repeat('v', 100) FROM generate_series(1, 30000) i").await;
    let writers = tpcb::Writers::start(&pair.cluster, &pair.from.name, 2, 2).await;

    // The large table's ranges wait for a lock.
    run(&pair.target, "BEGIN; LOCK TABLE large IN SHARE MODE").await;
    let mut daemon = pair.daemon("").extra("[copy]\nrange_bytes = \"2MiB\"\nworkers = 6").start();
    let watch = pair.cluster.connect(&pair.to.name).await;
    let installed = async || text(&watch, "SELECT to_regclass('walferry.table_state')").await;
    wait_for("the state", seconds(20), installed).await;
    let finished = async || {
        let done = "SELECT count(*) FROM walferry.table_state WHERE state = 'done'";
        (text(&watch, done).await.as_deref() == Some("5")).then_some(())
    };
    wait_for("the others to be done", seconds(20), finished).await;
    daemon.kill9();
    run(&pair.target, "COMMIT").await;
    assert_eq!(state(&watch, "large", "state").await.as_deref(), Some("copying"));
    let rows = "SELECT min(xmin::text) || max(xmin::text) || min(ctid) || max(ctid) FROM small";
    let (before, lsn) = (text(&watch, rows).await, state(&watch, "small", "copy_lsn").await);

    run(&pair.source, "INSERT INTO large VALUES (0, 'later'); UPDATE large SET v = 'later' WHERE id = 7").await;
    run(&pair.source, "INSERT INTO small VALUES (0, 'later')").await;
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let later = text(&watch, "SELECT count(*) FROM small WHERE id = 0").await;
    let from_copy = "SELECT min(xmin::text) || max(xmin::text) || min(ctid) || max(ctid) FROM small WHERE id > 0";
    assert_eq!(text(&watch, from_copy).await, before, "small was copied again ({later:?})");
    assert_eq!(state(&watch, "small", "copy_lsn").await, lsn);
    let newer = format!("SELECT copy_lsn > '{}' FROM walferry.table_state WHERE table_name = 'large'", lsn.unwrap());
    assert_eq!(text(&watch, &newer).await.as_deref(), Some("true"), "a new snapshot");
    assert!(writers.stop().await > 0);
    let tables: Vec<&str> = ["small", "large"].into_iter().chain(tpcb::TABLES).collect();
    pair.equal(&tables, seconds(60)).await;
    let counted = daemon.metric("walferry_table_copy_rows", &[("table", "public.large")]).await;
    assert_eq!(counted, Some(30001.0));
    assert!(daemon.log_count("conflict") == 0, "something came twice");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_target_added_later_is_copied_and_the_others_are_left_alone() {
    let pair = Pair::start("").await;
    let (late, client) = pair.another("").await;
    for client in [&pair.source, &pair.target, &client] {
        tpcb::create(client).await;
    }
    tpcb::fill(&pair.source, 1).await;
    let writers = tpcb::Writers::start(&pair.cluster, &pair.from.name, 2, 1).await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    let lsn = state(&pair.target, "tpcb_accounts", "copy_lsn").await;
    assert!(daemon.terminate(seconds(20)).await.success());
    let more = format!("[[target]]\nname = \"late\"\nurl = \"{}\"\n\n[http]", late.url);
    daemon.reconfigure("[http]", &more);
    daemon.start();
    daemon.wait_ready(seconds(30)).await;
    assert!(writers.stop().await > 0);
    wait_equal(&pair.source, &[&pair.target, &client], &tpcb::TABLES, seconds(60)).await;
    assert_eq!(state(&pair.target, "tpcb_accounts", "copy_lsn").await, lsn);
    assert_ne!(state(&client, "tpcb_accounts", "copy_lsn").await, lsn);
    assert!(daemon.log_count("conflict") == 0, "something came twice");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> 'walferry'";
    assert_eq!(text(&pair.source, slots).await.as_deref(), Some("0"), "a slot is left over");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn transactions_that_hold_up_the_slot_are_named() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    let idle = pair.cluster.connect(&pair.from.name).await;
    run(&idle, "SET application_name = 'forgotten tab'; BEGIN; INSERT INTO t VALUES (1)").await;
    let mut daemon = pair.daemon("").start();
    let line = daemon.wait_log("waits for these transactions", seconds(20)).await;
    assert!(line.contains("forgotten tab") && line.contains("idle in transaction"), "{line}");
    assert_eq!(daemon.get("/readyz").await.map(|(code, _)| code), Some(503));
    run(&idle, "COMMIT").await;
    pair.equal(&["t"], seconds(20)).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t").await.unwrap(), "1");

    // A stop does not wait for them.
    assert!(daemon.terminate(seconds(20)).await.success());
    run(&idle, "BEGIN; INSERT INTO t VALUES (2)").await;
    let (db, _client) = pair.another("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut daemon = Daemon::builder(&pair.from.url).slot("second").target("t", &db.url).start();
    daemon.wait_log("waits for these transactions", seconds(20)).await;
    assert!(daemon.terminate(seconds(10)).await.success());
    run(&idle, "COMMIT").await;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'second'";
    let gone = async || (text(&pair.source, slots).await.as_deref() == Some("0")).then_some(());
    wait_for("the half-made slot to go", seconds(10), gone).await;
}
