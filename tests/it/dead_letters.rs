//! Changes that a target does not take, set aside there: all of the row, exactly once, never with a value in the log;
//! all else goes on. They are applied by command, in their order, over nothing newer.

mod crashes;
mod halting;
mod newer;
mod retrying;

use std::process::Output;

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::pair::{Pair, run, status, text};
use crate::support::prelude::*;

const ON: &str = "on_error = \"dead_letter\"";

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, code text, note text, n int, big text);
    ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE f (id int PRIMARY KEY, note text);
    ALTER TABLE f REPLICA IDENTITY FULL;
    CREATE TABLE bare (a int, note text);
    ALTER TABLE bare REPLICA IDENTITY FULL;";

/// What the target has and the source has not.
const STRICT: &str = "
    ALTER TABLE t ADD CONSTRAINT short CHECK (length(note) < 30) NOT VALID;
    ALTER TABLE t ADD CONSTRAINT one UNIQUE (code);
    ALTER TABLE t ALTER n TYPE smallint;";

const LONG: &str = "planted, and far too long for the target";

/// What is in a letter, in one line.
const LETTERS: &str = "SELECT string_agg(concat_ws(' ', operation, table_name, key, coalesce(sqlstate, 'missing'),
                              CASE WHEN superseded_lsn IS NOT NULL THEN 'superseded' END), E'\\n' ORDER BY id)
                       FROM walferry.dead_letter";

async fn letters(target: &Client) -> Vec<String> {
    let lines = text(target, LETTERS).await.unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

/// Waits until so many letters lie on the target.
async fn wait_letters(target: &Client, count: usize) -> Vec<String> {
    let lie = async || Some(letters(target).await).filter(|letters| letters.len() == count);
    wait_for(&format!("{count} dead letters"), seconds(20), lie).await
}

/// Writes a row on the source and waits until the target has it: what came before is dealt with.
async fn passed(pair: &Pair, id: i32) {
    run(&pair.source, &format!("INSERT INTO t (id) VALUES ({id})")).await;
    let there = format!("SELECT count(*) FROM t WHERE id = {id}");
    let arrived = async || (text(&pair.target, &there).await.as_deref() == Some("1")).then_some(());
    wait_for("what came before to be dealt with", seconds(20), arrived).await;
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(output)))
}

fn told(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn what_the_target_refuses_of_a_row_is_kept_with_all_of_it_and_everything_else_is_applied() {
    let pair = Pair::start(TABLES).await;
    run(
        &pair.source,
        "INSERT INTO t SELECT i, 'c' || i, 'n', i, repeat('planted-b', 2000) FROM generate_series(1, 9) i",
    )
    .await;
    let mut daemon = pair.daemon(&format!("{ON}\nconflicts = \"stop\"")).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t"], seconds(20)).await;
    run(&pair.target, STRICT).await;
    run(&pair.target, "ALTER TABLE t ALTER big SET NOT NULL; DELETE FROM t WHERE id = 8").await;

    let statements = format!(
        "BEGIN;
         INSERT INTO t VALUES (20, 'c20', 'fine', 20, 'b');
         INSERT INTO t VALUES (21, 'c21', '{LONG}', NULL, 'say \"planted\" \\ ''é€🐘''');
         INSERT INTO t VALUES (22, 'c22', 'fine', 40000, 'b');
         INSERT INTO t VALUES (23, 'c1', 'fine', 23, 'b');
         INSERT INTO t VALUES (24, 'c24', 'fine', 24, NULL);
         UPDATE t SET note = '{LONG}' WHERE id = 1;
         UPDATE t SET note = 'mended by now' WHERE id = 2;
         UPDATE t SET n = 5 WHERE id = 8;
         DELETE FROM t WHERE id = 3;
         COMMIT"
    );
    run(&pair.source, &statements).await;
    run(&pair.source, "INSERT INTO t VALUES (30, 'c30', 'later', 30, 'b')").await;
    let expected = [
        "insert t {\"id\": \"21\"} 23514",
        "insert t {\"id\": \"22\"} 22003",
        "insert t {\"id\": \"23\"} 23505",
        "insert t {\"id\": \"24\"} 23502",
        "update t {\"id\": \"1\"} 23514",
        "update t {\"id\": \"8\"} missing",
    ];
    assert_eq!(wait_letters(&pair.target, expected.len()).await, expected);
    let there = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";
    let arrived = async || text(&pair.target, there).await.filter(|ids| ids.ends_with("30"));
    assert_eq!(wait_for("the rest", seconds(10), arrived).await, "1 2 4 5 6 7 9 20 30");
    assert_eq!(text(&pair.target, "SELECT note FROM t WHERE id = 2").await.unwrap(), "mended by now");

    let image = "SELECT concat_ws('|', new->>'note', coalesce(new->>'n', 'null'), new->>'big', commit_lsn < end_lsn,
                                  commit_time > now() - interval '1 hour', stream)
                 FROM walferry.dead_letter WHERE key = '{\"id\": \"21\"}'";
    let image = text(&pair.target, image).await.unwrap();
    assert_eq!(image, format!("{LONG}|null|say \"planted\" \\ 'é€🐘'|t|t|walferry"));
    let unsent = "SELECT concat(new->>'big', old IS NULL) FROM walferry.dead_letter WHERE key = '{\"id\": \"1\"}'";
    assert_eq!(text(&pair.target, unsent).await.unwrap(), "{\"unchanged\": true}t", "not faked");

    let labels = [("target", "t")];
    daemon.wait_metric("walferry_target_dead_letters_total", &labels, |n| n == 6.0, seconds(10)).await;
    daemon.wait_metric("walferry_target_dead_letters_waiting", &labels, |n| n == 6.0, seconds(10)).await;
    daemon.wait_ready(seconds(10)).await;
    assert_eq!(status(&daemon, "t").await["state"], "applying");
    let shown = daemon.run(&["status"]).await;
    let problem = "6 rows are in walferry.dead_letter of target t: \"walferry dead-letter list\"";
    assert!(told(&shown).contains(problem) && shown.status.code() == Some(1), "{}", told(&shown));
    assert_eq!(daemon.log_count("dead letter: "), 6, "{}", daemon.log());
    let line = daemon.log().lines().find(|line| line.contains("id=22")).map(str::to_owned).expect("a line");
    assert!(line.contains("22003") && line.contains("public.t") && line.contains("lsn=0/"), "{line}");
    assert!(!daemon.log().contains("planted"), "a value is in the log");
    assert!(daemon.terminate(seconds(20)).await.success());
    let alone = daemon.run(&["status"]).await;
    assert!(told(&alone).contains(problem), "without a daemon: {}", told(&alone));
}

#[tokio::test]
async fn the_list_shows_keys_and_errors_and_values_only_when_asked() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    assert_eq!(daemon.answered(&["dead-letter", "list"]).await, (Some(0), "There are no dead letters.\n".to_owned()));
    run(&pair.target, STRICT).await;
    run(&pair.target, "ALTER TABLE bare ADD CHECK (a < 5)").await;
    run(
        &pair.source,
        &format!("INSERT INTO t VALUES (1, 'c', '{LONG}', 1, NULL); INSERT INTO bare VALUES (7, 'planted')"),
    )
    .await;
    wait_letters(&pair.target, 2).await;
    let (code, shown) = daemon.answered(&["dead-letter", "list"]).await;
    assert!(code == Some(0) && !shown.contains("planted"), "{shown}");
    for said in ["public.t", "insert", "id=\"1\"", "23514", "\"short\"", "row without a key", "public.bare"] {
        assert!(shown.contains(said), "no {said} in {shown}");
    }
    let (_, shown) = daemon.answered(&["dead-letter", "list", "--values", "--table", "public.t"]).await;
    assert!(shown.contains(LONG) && !shown.contains("bare"), "{shown}");

    let list = json(&daemon.run(&["dead-letter", "list", "--json"]).await);
    let [first, second] = &list.as_array().unwrap()[..] else { panic!("two letters: {list}") };
    assert_eq!(
        (&first["key"]["id"], &first["sqlstate"], &first["target"]),
        (&"1".into(), &"23514".into(), &"t".into())
    );
    assert!(first["end_lsn"].as_str().unwrap().contains('/') && second["key"].is_null());
    assert!(first.get("new").is_none() && !list.to_string().contains("planted"), "{list}");
    let list = json(&daemon.run(&["dead-letter", "list", "--json", "--values"]).await);
    assert_eq!(list[1]["new"], serde_json::json!({ "a": "7", "note": "planted" }));

    for (arguments, said) in [
        (&["dead-letter", "list", "--target", "nobody"][..], "no target \"nobody\""),
        (&["dead-letter", "list", "--table", "t"], "SCHEMA.TABLE"),
        (&["dead-letter", "drop", "1"], "Say --yes"),
        (&["dead-letter", "retry", "4711"], "no such dead letter: 4711"),
    ] {
        let (code, answer) = daemon.answered(arguments).await;
        assert!(code == Some(3) && answer.contains(said), "{arguments:?}: {answer}");
    }
    let id = first["id"].to_string();
    let (code, said) = daemon.answered(&["dead-letter", "drop", &id, "--yes"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "Dropped 1 dead letter of target t.\n"));
    assert_eq!(letters(&pair.target).await, ["insert bare 23514"]);
    let dropped = json(&daemon.run(&["dead-letter", "drop", "--all", "--yes", "--json"]).await);
    assert_eq!(dropped, serde_json::json!([{ "target": "t", "dropped": 1 }]));
    let labels = [("target", "t")];
    daemon.wait_metric("walferry_target_dead_letters_waiting", &labels, |n| n == 0.0, seconds(20)).await;
    let well = async || (status(&daemon, "t").await["dead_letters"] == 0).then_some(());
    wait_for("the status to be well again", seconds(10), well).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn with_two_targets_one_refuses_and_the_other_has_all_and_numbers_need_a_target() {
    let pair = Pair::start(TABLES).await;
    let (other, client) = pair.another(TABLES).await;
    let mut daemon = pair.daemon(ON).target("other", &other.url).start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, STRICT).await;
    run(&pair.source, &format!("INSERT INTO t VALUES (1, 'c', '{LONG}', 1, NULL)")).await;
    wait_letters(&pair.target, 1).await;
    wait_equal(&pair.source, &[&client], &["t"], seconds(20)).await;
    assert!(letters(&client).await.is_empty());
    let (code, said) = daemon.answered(&["dead-letter", "retry", "1"]).await;
    assert!(code == Some(3) && said.contains("say --target NAME"), "{said}");
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    let retried = json(&daemon.run(&["dead-letter", "retry", "--all", "--json"]).await);
    assert_eq!(retried[0]["outcome"], "applied");
    pair.equal(&["t"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}
