//! `walferry table`: one table is copied again, left out, gone on with, added or removed, and the others do not notice.

use std::time::Duration;

use serde_json::Value;

use super::{Writes, add, in_step, state, wait_state};
use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;
use crate::support::stage::{execute, wait_row};

/// A running daemon that takes commands, and a table with rows on all sides.
async fn ready(stage: &Stage) -> Daemon {
    add(stage).await;
    let mut daemon = stage.daemon().prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    daemon
}

/// What a command that goes well says.
async fn told(daemon: &Daemon, arguments: &[&str]) -> String {
    let (code, said) = daemon.answered(arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    said
}

/// From where on a target follows the table.
async fn copy_lsn(stage: &Stage, place: usize) -> String {
    let query = "SELECT copy_lsn::text FROM walferry.table_state WHERE table_name = 'added'";
    text(&stage.places[place].client, query).await.unwrap()
}

#[tokio::test]
async fn a_table_that_differs_is_copied_again_on_that_target_only_while_all_go_on() {
    let stage = Stage::new(2).await;
    let mut daemon = ready(&stage).await;
    let (load, writes) = (Load::start(&stage, 0..1, Duration::from_millis(5)).await, Writes::start(&stage).await);
    execute(
        &stage.places[0].client,
        "UPDATE added SET note = 'own' WHERE id % 3 = 0; INSERT INTO added VALUES (-5, 0, 'own')",
    )
    .await;
    let before = (copy_lsn(&stage, 0).await, copy_lsn(&stage, 1).await);
    let said = told(&daemon, &["table", "resync", "public.added", "--target", "t0"]).await;
    assert!(said.contains("Table public.added of target t0 is"), "{said}");
    stage.assert_follows(0, 1).await;
    stage.assert_follows(1, 2).await;
    wait_state(&stage, 0, "done").await;
    assert_ne!(copy_lsn(&stage, 0).await, before.0);
    assert_eq!(copy_lsn(&stage, 1).await, before.1, "the other target's table was copied again");
    writes.stop().await;
    load.stop().await;
    in_step(&stage, &mut daemon).await;
    // What no table is called, and what no target is called, changes nothing.
    for (arguments, says) in [
        (["table", "resync", "public.nothing", "--target", "t0"], "no table that is followed matches public.nothing"),
        (["table", "resync", "public.added", "--target", "t9"], "there is no target \"t9\""),
        (["table", "resync", "added", "--target", "t0"], "is not a table pattern"),
    ] {
        let (code, said) = daemon.answered(&arguments).await;
        assert!(code == Some(3) && said.contains(says), "{code:?} {said}");
    }
}

#[tokio::test]
async fn a_paused_table_stays_as_it_is_over_a_restart_and_comes_back_complete() {
    let stage = Stage::new(1).await;
    let mut daemon = ready(&stage).await;
    let said = told(&daemon, &["table", "pause", "public.add*"]).await;
    assert!(said.contains("Table public.added of target t0 is paused"), "{said}");
    let writes = Writes::start(&stage).await;
    stage.assert_follows(0, 1).await;
    daemon.kill9();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 2).await;
    let changed = "SELECT count(*)::text FROM added WHERE n > 0 OR note <> repeat('x', 100)";
    assert_eq!(text(&stage.places[0].client, changed).await.as_deref(), Some("0"), "its changes came");
    let output = daemon.run(&["status"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("public.added is paused until"), "{said}");
    let listed: Value = serde_json::from_str(&told(&daemon, &["table", "list", "--json"]).await).unwrap();
    let listed = listed.as_array().unwrap().iter().find(|table| table["name"] == "added").unwrap();
    assert_eq!(listed["state"], "paused");

    let said = told(&daemon, &["table", "resume", "public.added"]).await;
    assert!(said.contains("is copied again") || said.contains("is in step"), "{said}");
    wait_state(&stage, 0, "done").await;
    writes.stop().await;
    in_step(&stage, &mut daemon).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    // Without a daemon the targets are asked.
    let listed = told(&daemon, &["table", "list"]).await;
    assert!(listed.contains("public.added") && listed.contains("done"), "{listed}");
}

#[tokio::test]
async fn a_target_that_is_halted_by_one_table_goes_on_without_it() {
    let stage = Stage::new(1).await;
    let mut daemon = ready(&stage).await;
    execute(&stage.places[0].client, "ALTER TABLE added ADD CONSTRAINT small CHECK (n < 5)").await;
    execute(&stage.on_source, "UPDATE added SET n = 7 WHERE id = 1").await;
    daemon.wait_log("halted: public.added", seconds(30)).await;
    stage.mark(1).await;
    told(&daemon, &["table", "pause", "public.added"]).await;
    wait_row(&stage.places[0].client, 1, 10).await;
    daemon.wait_ready(seconds(20)).await;
    execute(&stage.places[0].client, "ALTER TABLE added DROP CONSTRAINT small").await;
    told(&daemon, &["table", "resume", "public.added"]).await;
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_table_is_added_to_the_publication_and_removed_from_it_by_command() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY, a text);
        CREATE TABLE faceless (id int)";
    let pair = Pair::start(tables).await;
    run(&pair.source, "DROP PUBLICATION walferry; CREATE PUBLICATION walferry FOR TABLE t").await;
    run(&pair.source, "INSERT INTO late SELECT n, 'early' FROM generate_series(1, 100) n").await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    let said = told(&daemon, &["table", "add", "public.late"]).await;
    assert!(said.contains("Publication walferry has public.late from now on"), "{said}");
    run(&pair.source, "INSERT INTO late VALUES (101, 'later')").await;
    pair.equal(&["t", "late"], seconds(60)).await;
    daemon.wait_ready(seconds(30)).await;
    assert!(told(&daemon, &["table", "add", "public.late"]).await.contains("has public.late already"));
    for (arguments, says) in [
        (["table", "add", "public.lat"], "the source has no table public.lat"),
        (["table", "add", "public.faceless"], "refuse UPDATE and DELETE on public.faceless"),
        (["table", "remove", "public.faceless"], "the publication has no table public.faceless"),
    ] {
        let (code, said) = daemon.answered(&arguments).await;
        assert!(code == Some(3) && said.contains(says), "{code:?} {said}");
    }
    let published = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables";
    assert_eq!(text(&pair.source, published).await.as_deref(), Some("late t"), "what was refused was done");
    told(&daemon, &["table", "remove", "public.late"]).await;
    daemon.wait_log("no longer followed", seconds(30)).await;
    assert_eq!(text(&pair.source, published).await.as_deref(), Some("t"));
    assert_eq!(text(&pair.target, "SELECT count(*)::text FROM late").await.as_deref(), Some("101"));

    // Who does not own it is told what its owner has to run.
    run(
        &pair.source,
        "CREATE ROLE nobody_much LOGIN REPLICATION; GRANT SELECT ON ALL TABLES IN SCHEMA public TO nobody_much",
    )
    .await;
    daemon.reconfigure(&pair.from.url, &pair.cluster.url_as("nobody_much", &pair.from.name));
    let (code, said) = daemon.answered(&["table", "add", "public.late"]).await;
    let statement = "ALTER PUBLICATION \"walferry\" ADD TABLE \"public\".\"late\"";
    assert!(code == Some(3) && said.contains(statement), "{code:?} {said}");
}

#[tokio::test]
async fn what_the_configuration_says_of_a_table_is_not_overruled() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    let (code, said) = daemon.answered(&["table", "remove", "public.t"]).await;
    assert!(code == Some(3) && said.contains("is FOR ALL TABLES") && said.contains("source.tables"), "{code:?} {said}");
    run(&pair.source, "DROP PUBLICATION walferry; CREATE PUBLICATION walferry FOR TABLE t").await;
    daemon.reconfigure("[source]\n", "[source]\ntables = [\"public.t\"]\n");
    let (code, said) = daemon.answered(&["table", "add", "public.u"]).await;
    assert!(code == Some(3) && said.contains("source.tables does not choose public.u"), "{code:?} {said}");
    let (code, said) = daemon.answered(&["table", "remove", "public.t"]).await;
    assert!(code == Some(3) && said.contains("source.tables chooses public.t"), "{code:?} {said}");
}

#[tokio::test]
async fn a_table_that_was_never_copied_and_is_paused_has_its_rows_left_alone_later() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.places[0].client, &format!("{}; INSERT INTO added VALUES (1, 2, 'own')", super::ADDED)).await;
    super::add_on_source(&stage).await;
    daemon.wait_log("already holds rows", seconds(60)).await;
    told(&daemon, &["table", "pause", "public.added"]).await;
    daemon.wait_ready(seconds(20)).await;
    told(&daemon, &["table", "resume", "public.added"]).await;
    let refused = daemon.log_count("already holds rows");
    let again = async || (daemon.log_count("already holds rows") > refused).then_some(());
    wait_for("it to be refused again", seconds(30), again).await;
    assert_eq!(text(&stage.places[0].client, "SELECT note FROM added").await.as_deref(), Some("own"));
    execute(&stage.places[0].client, "TRUNCATE added").await;
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
    assert_eq!(state(&stage, 0).await, "done");
}
