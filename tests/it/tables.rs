//! A table that comes later is brought in beside the stream: the others go on while it is copied and catches up, and
//! nothing of it is lost or doubled, whatever dies meanwhile.

mod commands;
mod faults;
mod load;
mod refused;
mod tied;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::{connect, execute, wait_row};
use crate::support::workload::Random;

/// The table that comes later; `extra` is a part of its primary key that only its source's rows have.
const ADDED: &str = "CREATE TABLE added (id bigint PRIMARY KEY, n bigint NOT NULL, note text)";

/// Rows that the table has before it is added.
const ROWS: u64 = 20_000;

/// Creates the table on the targets, and on the source with rows, in one transaction: everything is published.
async fn add(stage: &Stage) {
    for place in &stage.places {
        execute(&connect(&place.db.url).await, ADDED).await;
    }
    let rows = format!("INSERT INTO added SELECT n, 0, repeat('x', 100) FROM generate_series(1, {ROWS}) n");
    execute(&stage.on_source, &format!("{ADDED}; {rows}")).await;
}

/// Somebody who writes to the added table all the time, together with a row of another table.
struct Writes {
    task: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Writes {
    async fn start(stage: &Stage) -> Self {
        Self::every(stage, Duration::from_millis(3)).await
    }

    /// With such a pause between two transactions.
    async fn every(stage: &Stage, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(stage.source.socket_url(&stage.from.name), pause, Arc::clone(&stop)));
        Self { task, stop }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer failed");
    }
}

async fn write(url: String, pause: Duration, stop: Arc<AtomicBool>) {
    let mut random = Random::new(7);
    let mut mark = 1_000_000;
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(pause).await;
        let Some(session) = client.take() else {
            client = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.ok().map(|(client, connection)| {
                tokio::spawn(connection);
                client
            });
            continue;
        };
        mark += 1;
        let id = random.below(ROWS + 500);
        let change = match random.below(4) {
            0 => format!("DELETE FROM added WHERE id = {id}"),
            1 => format!("INSERT INTO added VALUES ({id}, 1, 'new') ON CONFLICT DO NOTHING"),
            2 => format!("UPDATE added SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 20"),
            _ => format!("UPDATE added SET n = n + 1, note = 'changed' WHERE id = {id}"),
        };
        let both = format!("BEGIN; {change}; INSERT INTO applied VALUES (-{mark}, 998); COMMIT");
        // Whoever loses the server connects again; what was rolled back is not missed.
        client = session.batch_execute(&both).await.is_ok().then_some(session);
    }
}

/// Keeps a target's new table from being copied, until the session is dropped.
async fn hold_up(stage: &Stage, place: usize) -> Client {
    let place = &stage.places[place];
    let holder = place.cluster.connect(&place.db.name).await;
    execute(&holder, "BEGIN; LOCK TABLE added IN SHARE MODE").await;
    holder
}

/// What a target says of the table; empty without a row.
async fn state(stage: &Stage, place: usize) -> String {
    let query = "SELECT state FROM walferry.table_state WHERE table_name = 'added'";
    text(&stage.places[place].client, query).await.unwrap_or_default()
}

async fn wait_state(stage: &Stage, place: usize, wanted: &str) {
    let is_so = async || (state(stage, place).await == wanted).then_some(());
    wait_for(&format!("the table to be {wanted:?}"), seconds(60), is_so).await;
}

/// Everything equal, no lane left on either side, and nobody was surprised by a row.
async fn in_step(stage: &Stage, daemon: &mut Daemon) {
    daemon.wait_ready(seconds(60)).await;
    let clients: Vec<&Client> = stage.places.iter().map(|place| &place.client).collect();
    wait_equal(&stage.on_source, &clients, &["added"], seconds(60)).await;
    stage.assert_in_step(daemon).await;
    for place in &stage.places {
        let lanes = "SELECT count(*)::text FROM walferry.progress WHERE lane_of IS NOT NULL";
        assert_eq!(text(&place.client, lanes).await.as_deref(), Some("0"), "a lane of tables is left");
    }
    let slots = "SELECT count(*)::text FROM pg_replication_slots WHERE temporary";
    let gone = async || (text(&stage.on_source, slots).await.as_deref() == Some("0")).then_some(());
    wait_for("the temporary slots to be gone", seconds(20), gone).await;
    stage.assert_nothing_forgotten("walferry").await;
}

#[tokio::test]
async fn a_table_added_under_load_is_brought_in_while_the_others_go_on() {
    for_each_major(async |major| {
        let stage = Stage::with(Cluster::builder(major), 2).await;
        let mut daemon = stage.daemon().start();
        daemon.wait_ready(seconds(60)).await;
        let load = Load::start(&stage, 0..2, Duration::from_millis(5)).await;
        for place in &stage.places {
            execute(&connect(&place.db.url).await, ADDED).await;
        }
        let holders = [hold_up(&stage, 0).await, hold_up(&stage, 1).await];
        add_on_source(&stage).await;
        let writes = Writes::start(&stage).await;
        daemon.wait_log("are copied beside the stream", seconds(60)).await;
        // Its copy stands still, the others do not.
        for mark in 1..4 {
            stage.mark(mark).await;
            wait_row(&stage.places[0].client, mark, 5).await;
            wait_row(&stage.places[1].client, mark, 5).await;
        }
        assert_ne!((state(&stage, 0).await, state(&stage, 1).await), ("done".to_owned(), "done".to_owned()));
        let (code, body) = daemon.get("/readyz").await.unwrap();
        assert!(code == 503 && body.contains("1 of 8 tables are not copied yet"), "{code} {body}");
        drop(holders);
        wait_state(&stage, 0, "done").await;
        wait_state(&stage, 1, "done").await;
        load.more(20).await;
        writes.stop().await;
        load.stop().await;
        in_step(&stage, &mut daemon).await;
        assert_eq!((daemon.log_count("ERROR"), daemon.log_count("table copied")), (0, 16));
        assert!(daemon.terminate(seconds(20)).await.success());
    })
    .await;
}

/// As [`add`], where the targets have the table already.
async fn add_on_source(stage: &Stage) {
    let rows = format!("INSERT INTO added SELECT n, 0, repeat('x', 100) FROM generate_series(1, {ROWS}) n");
    execute(&stage.on_source, &format!("{ADDED}; {rows}")).await;
}

#[tokio::test]
async fn what_a_transaction_wrote_before_the_table_was_published_and_committed_after_it_is_there() {
    let stage = Stage::new(1).await;
    add(&stage).await;
    let all = "w_default, w_index, w_full, w_parent, w_child, counter, applied";
    execute(&stage.on_source, &format!("DROP PUBLICATION walferry; CREATE PUBLICATION walferry FOR TABLE {all}")).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let early = connect(&stage.from.url).await;
    execute(&early, "BEGIN; INSERT INTO added VALUES (-1, 0, 'before it was published')").await;
    execute(&stage.on_source, "ALTER PUBLICATION walferry ADD TABLE added").await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    // The snapshot waits for it; what it writes now is not in the snapshot by being old.
    execute(&early, "INSERT INTO added VALUES (-2, 0, 'after it'); UPDATE added SET n = 5 WHERE id = 7").await;
    stage.assert_follows(0, 1).await;
    execute(&early, "COMMIT").await;
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_table_that_is_made_anew_is_not_taken_for_the_one_before_not_for_a_moment() {
    let stage = Stage::new(1).await;
    add(&stage).await;
    // Rows of the one would be in the way of the other's.
    let mut daemon = stage.daemon().apply("conflicts", "\"stop\"").start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..1, Duration::from_millis(5)).await;
    for round in 1..=3 {
        // In one transaction: a table that is seen to be gone leaves rows behind that are nobody's to remove.
        execute(&stage.on_source, &format!("DROP TABLE added; {ADDED}")).await;
        execute(&stage.on_source, &format!("INSERT INTO added VALUES (7, {round}, 'anew'), (-{round}, 0, 'anew')"))
            .await;
        stage.assert_follows(0, round).await;
        wait_equal(&stage.on_source, &[&stage.places[0].client], &["added"], seconds(60)).await;
    }
    load.stop().await;
    in_step(&stage, &mut daemon).await;
    assert_eq!(daemon.log_count("insert_exists"), 0, "{}", daemon.log());
    assert!(daemon.log_count("was dropped and made anew on the source") >= 1);
}

#[tokio::test]
async fn a_table_that_the_target_lacks_holds_up_no_other_and_comes_once_it_is_there() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.on_source, "CREATE TABLE also (id int PRIMARY KEY)").await;
    add_on_source(&stage).await;
    execute(&stage.places[0].client, "CREATE TABLE also (id int PRIMARY KEY)").await;
    daemon.wait_log("cannot be brought in; the other tables go on", seconds(60)).await;
    stage.assert_follows(0, 1).await;
    execute(&stage.on_source, "INSERT INTO also VALUES (1)").await;
    wait_equal(&stage.on_source, &[&stage.places[0].client], &["also"], seconds(60)).await;
    let failed = [("target", "t0"), ("table", "public.added"), ("state", "failed")];
    daemon.wait_metric("walferry_table_copy_state", &failed, |value| value == 1.0, seconds(20)).await;
    let (_, said) = daemon.get("/readyz").await.unwrap();
    assert!(said.contains("the copy of public.added has failed"), "{said}");
    execute(&stage.places[0].client, ADDED).await;
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_table_that_is_gone_on_the_target_comes_back_and_the_others_do_not_wait() {
    let stage = Stage::new(1).await;
    add(&stage).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.places[0].client, "DROP TABLE added").await;
    execute(&stage.on_source, "UPDATE added SET n = 1 WHERE id = 1").await;
    daemon.wait_log("it has to be copied again", seconds(60)).await;
    daemon.wait_log("cannot be brought in; the other tables go on", seconds(60)).await;
    stage.assert_follows(0, 1).await;
    execute(&stage.places[0].client, ADDED).await;
    wait_state(&stage, 0, "done").await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn a_table_that_is_taken_out_while_it_is_brought_in_is_left_alone() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    execute(&stage.places[0].client, ADDED).await;
    let holder = hold_up(&stage, 0).await;
    add_on_source(&stage).await;
    daemon.wait_log("are copied beside the stream", seconds(60)).await;
    execute(&stage.on_source, "DROP TABLE added").await;
    let left = async || state(&stage, 0).await.is_empty().then_some(());
    drop(holder);
    wait_for("it to be forgotten", seconds(60), left).await;
    daemon.wait_ready(seconds(60)).await;
    stage.assert_follows(0, 1).await;
    stage.assert_in_step(&daemon).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}
