//! A source restored from a backup that has written on past where the target stands: every position looks right.

use super::{AGAIN, TABLES, rows};
use crate::support::pair::{run, text, wait_halted};
use crate::support::prelude::*;

/// A source whose target has 2,000 rows, of which a backup holds three; the daemon has ended in order.
struct Stage {
    source: Cluster,
    from: Db,
    target: Cluster,
    to: Db,
    daemon: Daemon,
    backup: crate::support::cluster::Snapshot,
}

impl Stage {
    async fn new() -> Self {
        let (mut source, target) = (Cluster::start(default_major()).await, Cluster::start(default_major()).await);
        let (from, to) = (source.create_database().await, target.create_database().await);
        source.execute(&from.name, &format!("{TABLES}; CREATE PUBLICATION walferry FOR ALL TABLES")).await;
        source.execute(&from.name, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 3) i").await;
        target.execute(&to.name, TABLES).await;
        let quick = "[apply]\nhalted_retry_interval = \"200ms\"\nretry_max_interval = \"500ms\"";
        let mut daemon = Daemon::builder(&from.url).target("t", &to.url).extra(quick).start();
        daemon.wait_ready(seconds(30)).await;
        let backup = source.snapshot().await;
        source.execute(&from.name, "INSERT INTO t SELECT i, 'lost' FROM generate_series(4, 2000) i").await;
        let (there, here) = (source.connect(&from.name).await, target.connect(&to.name).await);
        wait_equal(&there, &[&here], &["t"], seconds(30)).await;
        Self { source, from, target, to, daemon, backup }
    }

    /// The backup is put back, and more is written than was lost.
    async fn overtake(&mut self) {
        self.source.restore(&self.backup).await;
        let rows = "INSERT INTO t SELECT i, repeat('new', 100) FROM generate_series(1000, 6000) i";
        self.source.execute(&self.from.name, rows).await;
        let source = self.source.connect(&self.from.name).await;
        let target = self.target.connect(&self.to.name).await;
        let stored = text(&target, "SELECT end_lsn FROM walferry.progress").await.unwrap();
        let passed = text(&source, &format!("SELECT pg_current_wal_flush_lsn() > '{stored}'")).await;
        assert_eq!(passed.as_deref(), Some("true"), "the restored source has not come past {stored}");
    }

    async fn is_refused(&mut self) {
        let target = self.target.connect(&self.to.name).await;
        let committed = text(&target, "SELECT commit_lsn FROM walferry.progress").await.unwrap();
        let says = [&*committed, "restored from a backup, and has written other transactions", AGAIN];
        wait_halted(&mut self.daemon, "t", &says, seconds(30)).await;
        assert_eq!(rows(&target).await, "2000");
        let new = text(&target, "SELECT count(*) FROM t WHERE a LIKE 'new%'").await;
        assert_eq!(new.as_deref(), Some("0"), "changes of another history were applied");
    }
}

#[tokio::test]
async fn a_restored_source_that_has_overtaken_the_target_is_refused_at_the_start_and_for_good() {
    let mut stage = Stage::new().await;
    assert!(stage.daemon.terminate(seconds(20)).await.success());
    stage.overtake().await;
    stage.daemon.start();
    stage.is_refused().await;
    // It does not pass with time, nor with what is written meanwhile, nor with a restart.
    let tried = stage.daemon.log_count("halted:");
    run(&stage.source.connect(&stage.from.name).await, "INSERT INTO t VALUES (7000, 'new too')").await;
    let again = async || (stage.daemon.log_count("halted:") > tried + 2).then_some(());
    wait_for("further attempts", seconds(30), again).await;
    stage.is_refused().await;
    stage.daemon.kill9();
    stage.daemon.start();
    stage.is_refused().await;
}

#[tokio::test]
async fn a_source_that_is_restored_and_overtakes_while_the_daemon_cannot_reach_it_is_refused() {
    let mut stage = Stage::new().await;
    // The daemon sleeps as if the network were gone.
    stage.daemon.signal("STOP");
    stage.overtake().await;
    stage.daemon.signal("CONT");
    stage.is_refused().await;
}
