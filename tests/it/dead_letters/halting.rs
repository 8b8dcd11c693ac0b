//! What is not of one row, and what nobody has asked to set aside, halts as before.

use super::{LONG, ON, STRICT, TABLES, letters, passed, wait_letters};
use crate::support::pair::{Pair, run, text, wait_halted};
use crate::support::prelude::*;

#[tokio::test]
async fn without_the_setting_a_refused_row_halts_the_target_and_nothing_is_set_aside() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon("").start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, STRICT).await;
    run(&pair.source, &format!("INSERT INTO t VALUES (1, 'c1', '{LONG}', 1, NULL)")).await;
    run(&pair.source, "INSERT INTO t VALUES (2, 'c2', 'fine', 2, NULL)").await;
    wait_halted(&mut daemon, "t", &["public.t", "id=1", "23514", "DROP CONSTRAINT short"], seconds(10)).await;
    assert!(letters(&pair.target).await.is_empty());
    assert_eq!(text(&pair.target, "SELECT count(*) FROM t").await.unwrap(), "0");
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    pair.equal(&["t"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// Each of these would lose every change that follows, one by one.
#[tokio::test]
async fn what_is_of_the_targets_set_up_halts_and_sets_nothing_aside() {
    let pair = Pair::start(&format!("{TABLES} CREATE TABLE child (id int PRIMARY KEY, t int)")).await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;

    run(&pair.target, "ALTER TABLE t DROP COLUMN note").await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'c1', 'note', 1, NULL)").await;
    wait_halted(&mut daemon, "t", &["public.t", "no column note"], seconds(10)).await;
    run(&pair.target, "ALTER TABLE t ADD COLUMN note text").await;
    pair.equal(&["t"], seconds(10)).await;

    // A letter that cannot be written is no way out.
    let short = "ALTER TABLE t ADD CONSTRAINT short CHECK (length(note) < 30)";
    run(&pair.target, &format!("{short}; ALTER TABLE walferry.dead_letter ADD CONSTRAINT no CHECK (false)")).await;
    run(&pair.source, &format!("INSERT INTO t VALUES (3, 'c3', '{LONG}', 1, NULL)")).await;
    wait_halted(&mut daemon, "t", &["public.t", "id=3", "23514", "short"], seconds(10)).await;
    assert!(daemon.log_count("not written to walferry.dead_letter") > 0, "{}", daemon.log());
    assert!(letters(&pair.target).await.is_empty());
    run(&pair.target, "ALTER TABLE walferry.dead_letter DROP CONSTRAINT no").await;
    assert_eq!(wait_letters(&pair.target, 1).await, ["insert t {\"id\": \"3\"} 23514"]);
    passed(&pair, 99).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_right_that_is_missing_a_truncate_and_what_is_refused_at_commit_halt() {
    let pair = Pair::start("").await;
    let plain = "plain_writer";
    let tables = "CREATE TABLE t (id int PRIMARY KEY, code text); CREATE TABLE p (id int PRIMARY KEY);";
    run(&pair.source, tables).await;
    run(&pair.target, &format!("{tables} CREATE ROLE {plain} LOGIN; GRANT ALL ON t, p TO {plain}")).await;
    let database = format!("GRANT CREATE, CONNECT ON DATABASE {} TO {plain}", pair.to.name);
    run(&pair.target, &database).await;
    let url = pair.cluster.url_as(plain, &pair.to.name);
    let mut daemon = pair.daemon(ON).retarget(&pair.to.url, &url).start();
    daemon.wait_ready(seconds(30)).await;

    run(&pair.target, &format!("REVOKE INSERT ON t FROM {plain}")).await;
    run(&pair.source, "INSERT INTO t VALUES (1)").await;
    wait_halted(&mut daemon, "t", &["public.t", "id=1", "42501"], seconds(10)).await;
    run(&pair.target, &format!("GRANT INSERT ON t TO {plain}")).await;
    pair.equal(&["t"], seconds(10)).await;

    run(&pair.target, "CREATE TABLE own (p int REFERENCES p)").await;
    run(&pair.source, "TRUNCATE p").await;
    wait_halted(&mut daemon, "t", &["public.p", "TRUNCATE", "0A000"], seconds(10)).await;
    run(&pair.target, "DROP TABLE own").await;

    run(&pair.target, "ALTER TABLE t ADD CONSTRAINT late UNIQUE (code) DEFERRABLE INITIALLY DEFERRED").await;
    run(&pair.source, "INSERT INTO t VALUES (2, 'c'), (3, 'c')").await;
    wait_halted(&mut daemon, "t", &["refuses the transaction", "23505"], seconds(10)).await;
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT late").await;
    passed(&pair, 99).await;
    assert!(letters(&pair.target).await.is_empty());
    assert!(daemon.terminate(seconds(20)).await.success());
}
