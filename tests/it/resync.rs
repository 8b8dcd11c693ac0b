//! One target is copied again from the beginning, by command or because its slot was given up; the others do not
//! notice.

use std::time::Duration;

use walferry::apply::progress;
use walferry::error::{Judged, Verdict};
use walferry::postgres::ConnectOptions;
use walferry::sql::Sql;

use crate::support::pair::{Pair, run, text, wait_halted};
use crate::support::prelude::*;
use crate::support::stage::{Load, connect, execute, stored};

/// The slots of single targets.
const OWN: &str = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name LIKE 'walferry\\_lane\\_%'";

async fn wait_own_slots(stage: &Stage, count: &str) {
    let there = async || (text(&stage.on_source, OWN).await.as_deref() == Some(count)).then_some(());
    wait_for(&format!("{count} slots of single targets"), seconds(60), there).await;
}

/// From where on a target's tables are followed.
async fn copied(stage: &Stage, place: usize) -> String {
    let query = "SELECT string_agg(DISTINCT copy_lsn::text, ' ') FROM walferry.table_state";
    text(&stage.places[place].client, query).await.unwrap_or_default()
}

async fn in_step(stage: &Stage, daemon: &mut Daemon) {
    daemon.wait_ready(seconds(60)).await;
    wait_own_slots(stage, "0").await;
    stage.assert_in_step(daemon).await;
    stage.assert_nothing_forgotten("walferry").await;
}

async fn guarded(builder: crate::support::daemon_builder::Builder) -> Daemon {
    let mut daemon = builder.prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    daemon
}

#[tokio::test]
async fn a_target_restored_from_a_backup_is_copied_again_alone() {
    let stage = Stage::new(2).await;
    let mut daemon = guarded(stage.daemon()).await;
    let load = Load::start(&stage, 0..2, Duration::from_millis(5)).await;
    load.more(20).await;
    let backup = stored(&stage.places[0].client, "walferry").await.unwrap();
    let beyond = async || (stage.confirmed("walferry").await > backup).then_some(());
    load.more(20).await;
    wait_for("the source to forget what the backup lacks", seconds(30), beyond).await;
    let before = copied(&stage, 1).await;
    let restore = "UPDATE walferry.progress SET end_lsn = '0/0'::pg_lsn + ";
    execute(&stage.places[0].client, &format!("{restore}{backup}; DELETE FROM applied WHERE id % 2 = 0")).await;
    let says = ["of WAL that the target needs are gone", "walferry target resync"];
    wait_halted(&mut daemon, "t0", &says, seconds(60)).await;
    stage.assert_follows(1, 1).await;

    let (code, said) = daemon.answered(&["target", "resync", "t0"]).await;
    assert!(code == Some(0) && said.contains("Target t0"), "{code:?} {said}");
    stage.assert_follows(0, 2).await;
    stage.assert_follows(1, 3).await;
    load.more(20).await;
    load.stop().await;
    in_step(&stage, &mut daemon).await;
    assert_eq!(copied(&stage, 1).await, before, "the other target was copied again");
    // A target in good order may be copied again as well; one that is paused is not.
    assert_eq!(daemon.answered(&["target", "resync", "t1"]).await.0, Some(0));
    in_step(&stage, &mut daemon).await;
    assert_ne!(copied(&stage, 1).await, before);
    assert_eq!(daemon.answered(&["target", "pause", "t0"]).await.0, Some(0));
    let (code, said) = daemon.answered(&["target", "resync", "t0"]).await;
    assert!(code == Some(3) && said.contains("target t0 is paused"), "{code:?} {said}");
}

#[tokio::test]
async fn a_slot_that_keeps_too_much_for_a_target_that_is_away_is_given_up_and_the_target_copied_again() {
    let mut stage = Stage::new(2).await;
    let daemon = stage.daemon().apply("isolate_after", "\"1s\"");
    let limits = "max_retained_wal = \"2MiB\"\non_max_retained_wal = \"drop_lane\"\n";
    let mut daemon = daemon.prepare();
    daemon.reconfigure("[source]\n", &format!("[source]\n{limits}"));
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..2, Duration::from_millis(5)).await;
    stage.places[0].cluster.kill9().await;
    wait_own_slots(&stage, "1").await;
    let before = copied(&stage, 1).await;
    for _ in 0..4 {
        execute(&stage.on_source, "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1 << 20))").await;
    }
    daemon.wait_log("was dropped: the target's tables are copied again", seconds(60)).await;
    wait_own_slots(&stage, "0").await;
    stage.assert_follows(1, 1).await;
    assert!(daemon.log_count("makes the source keep more WAL than source.max_retained_wal") > 0);

    stage.places[0].come_back().await;
    stage.assert_follows(0, 2).await;
    load.more(20).await;
    load.stop().await;
    in_step(&stage, &mut daemon).await;
    assert_eq!(copied(&stage, 1).await, before, "the other target was copied again");
}

#[tokio::test]
async fn a_slot_that_the_source_gives_up_itself_is_noticed_within_seconds_and_one_target_comes_back_by_command() {
    let source = Cluster::builder(default_major()).setting("max_slot_wal_keep_size", "48MB");
    let mut stage = Stage::with(source.setting("min_wal_size", "32MB").setting("max_wal_size", "32MB"), 2).await;
    let mut daemon = guarded(stage.daemon().apply("isolate_after", "\"1s\"")).await;
    stage.places[0].cluster.kill9().await;
    let load = Load::start(&stage, 0..1, Duration::from_millis(5)).await;
    wait_own_slots(&stage, "1").await;
    let lost = async || {
        let now = stage.current().await;
        execute(&stage.on_source, "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 8 << 20))").await;
        let keeps_up = async || (stage.confirmed("walferry").await > now).then_some(());
        wait_for("the stream's slot to keep up", seconds(30), keeps_up).await;
        execute(&stage.on_source, "CHECKPOINT").await;
        let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name LIKE 'walferry\\_lane\\_%'";
        (text(&stage.on_source, status).await.as_deref() == Some("lost")).then_some(())
    };
    wait_for("the slot to be lost", seconds(60), lost).await;
    daemon.wait_log("the source has given up the slot", seconds(10)).await;
    stage.assert_follows(1, 1).await;
    stage.places[0].come_back().await;
    wait_halted(&mut daemon, "t0", &["walferry target resync"], seconds(60)).await;
    assert_eq!(daemon.answered(&["target", "resync", "t0"]).await.0, Some(0));
    stage.assert_follows(0, 2).await;
    load.stop().await;
    in_step(&stage, &mut daemon).await;
}

#[tokio::test]
async fn with_copy_mode_merge_readers_miss_no_row_while_tables_are_copied_again_and_what_was_deleted_goes() {
    let pair = Pair::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    run(&pair.source, "INSERT INTO t SELECT n, repeat('v', 500) FROM generate_series(1, 20000) n").await;
    let mut daemon = guarded(pair.daemon("").extra("[copy]\nmode = \"merge\"")).await;
    pair.equal(&["t"], seconds(60)).await;
    let reader = pair.cluster.connect(&pair.to.name).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let fewest = tokio::spawn(async move {
        let mut fewest = i64::MAX;
        while !stop.is_closed() {
            fewest = fewest.min(reader.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0));
        }
        fewest
    });
    // One of the target's own faults is mended so.
    run(&pair.target, "UPDATE t SET v = 'not so' WHERE id = 1; INSERT INTO t VALUES (-1, 'only here')").await;
    assert_eq!(daemon.answered(&["table", "resync", "public.t"]).await.0, Some(0));
    pair.equal(&["t"], seconds(60)).await;
    daemon.wait_ready(seconds(60)).await;
    run(&pair.target, "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (-1, 'only here')").await;
    assert_eq!(daemon.answered(&["target", "resync", "t"]).await.0, Some(0));
    pair.equal(&["t"], seconds(60)).await;
    daemon.wait_ready(seconds(60)).await;

    let written = "SELECT count(*) FROM t WHERE xmin::text::bigint > ";
    let now = text(&pair.target, "SELECT txid_current()").await.unwrap();
    assert!(daemon.terminate(seconds(30)).await.success());
    run(&pair.source, "SELECT pg_drop_replication_slot('walferry')").await;
    run(&pair.source, "DELETE FROM t WHERE id > 19900; UPDATE t SET v = 'new' WHERE id <= 50").await;
    let reset = daemon.run(&["slot", "reset", "--yes"]).await;
    let told = String::from_utf8_lossy(&reset.stdout).into_owned();
    assert!(reset.status.success() && told.contains("brought up to date in their place"), "{told}");
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    pair.equal(&["t"], seconds(60)).await;
    assert_eq!(text(&pair.target, &format!("{written}{now}")).await.unwrap(), "50", "rows were written");
    drop(stopped);
    assert!(fewest.await.unwrap() >= 19_900, "a reader has missed rows");
    run(&pair.source, "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (-3, 'and on')").await;
    pair.equal(&["t"], seconds(30)).await;
}

#[tokio::test]
async fn a_session_that_was_given_up_writes_nothing_to_a_table_that_is_copied_again() {
    let stage = Stage::new(1).await;
    execute(&stage.on_source, "INSERT INTO w_parent VALUES (1, 'old'); INSERT INTO w_default VALUES (1, 'old')").await;
    let mut daemon = guarded(stage.daemon().apply("drain_timeout", "\"1s\"")).await;
    let target = &stage.places[0].client;
    let holder = connect(&stage.places[0].db.url).await;
    execute(&holder, "BEGIN; SELECT FROM w_parent FOR UPDATE").await;
    // One transaction of the stream waits there, all of it sent: the session goes on with it whatever becomes of its
    // client.
    execute(&stage.on_source, "BEGIN; UPDATE w_parent SET note = 'new'; UPDATE w_default SET note = 'new'; COMMIT")
        .await;
    let waits = |for_what: &str| {
        format!(
            "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '{for_what}'"
        )
    };
    let is_so = async |query: &str| text(target, query).await.as_deref() == Some("1");
    let there = waits("%\"w_parent\"%");
    wait_for("the stream to wait", seconds(20), async || is_so(&there).await.then_some(())).await;
    execute(&stage.on_source, "UPDATE w_default SET note = 'newest'").await;

    let copies = daemon.log_count("table copied");
    let told = daemon.run(&["table", "resync", "public.w_default"]);
    let claims = waits("UPDATE walferry.progress SET epoch%");
    let opens = async {
        let goes_on = async || (daemon.log_count("table copied") > copies || is_so(&claims).await).then_some(());
        wait_for("the daemon to go on without that session", seconds(20), goes_on).await;
        execute(&holder, "COMMIT").await;
    };
    let (told, ()) = tokio::join!(told, opens);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    stage.assert_follows(0, 1).await;
    in_step(&stage, &mut daemon).await;
    assert_eq!(text(target, "SELECT note FROM w_default WHERE id = 1").await.as_deref(), Some("newest"));
}

#[tokio::test]
async fn who_keeps_a_target_from_being_taken_up_is_named() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    let url = &stage.places[0].db.url;
    let reader = connect(url).await;
    execute(&reader, "SET application_name = 'a report'; BEGIN; SELECT FROM walferry.progress").await;
    let client = walferry::postgres::Client::connect(&ConnectOptions::parse(url).unwrap(), "test").await.unwrap();
    client.batch(&Sql::new("SET lock_timeout = '100ms'")).await.unwrap();
    // As a transaction of walferry's begins, and as it ends.
    for keeps in ["SELECT FROM walferry.progress FOR UPDATE", "UPDATE walferry.progress SET slot = slot"] {
        let holder = connect(url).await;
        let pid = text(&holder, "SELECT pg_backend_pid()").await.unwrap();
        execute(&holder, &format!("SET application_name = 'somebody'; BEGIN; {keeps}")).await;
        let error = progress::claim(&client, "walferry").await.unwrap_err();
        let told = format!("{error}");
        assert!(told.contains(&format!(": process {pid} (somebody, idle in transaction) kept its row")), "{told}");
        assert!(told.contains("stream \"walferry\"") && !told.contains("a report"), "{told}");
        assert_eq!(error.verdict(), Verdict::Retry);
        execute(&holder, "ROLLBACK").await;
    }
    assert!(progress::claim(&client, "walferry").await.unwrap().is_some());
}
