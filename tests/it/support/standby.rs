//! A source with a streaming standby that keeps its slots where the version can, and the failover to it.

use tokio_postgres::Client;

use super::cluster::Cluster;
use super::pair::text;
use super::stage::{Stage, execute};
use super::versions::bin;
use super::wait::{seconds, wait_for};

/// How the source and its standby hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Targets get nothing that the standby has not (`synchronized_standby_slots`, PostgreSQL 17 and later).
    InFront,
    /// They may get it before.
    Loosely,
    /// As before 17: the standby has no slots.
    Slotless,
}

/// The majors that are here and know failover slots.
pub fn with_failover_slots() -> Vec<u32> {
    let majors: Vec<u32> = [17, 18].into_iter().filter(|major| bin(*major).is_some()).collect();
    if majors.is_empty() {
        eprintln!("SKIPPED: it takes a PostgreSQL of 17 or later");
    }
    majors
}

impl Stage {
    /// A standby of the source, which restarts for it. Streams when it comes back.
    pub async fn standby(&mut self, kept: Kept) -> Cluster {
        execute(&self.on_source, "SELECT pg_create_physical_replication_slot('standby', true)").await;
        let mut settings = vec![
            ("primary_slot_name", "'standby'"),
            ("hot_standby_feedback", "on"),
            ("wal_receiver_status_interval", "'1s'"),
            ("wal_retrieve_retry_interval", "'200ms'"),
        ];
        if kept == Kept::InFront {
            self.source.set("synchronized_standby_slots", "'standby'");
        }
        if kept != Kept::Slotless {
            settings.push(("sync_replication_slots", "on"));
        }
        let standby = self.source.standby_with("dbname=postgres", &settings).await;
        self.on_source = self.source.connect(&self.from.name).await;
        let streams = async || {
            let count =
                text(&self.on_source, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await;
            (count.as_deref() == Some("1")).then_some(())
        };
        wait_for("the standby to stream", seconds(30), streams).await;
        standby
    }

    /// The connection string for whichever of the two can be written to: the source first.
    pub fn both(&self, standby: &Cluster) -> String {
        let (port, other) = (self.source.port, standby.port);
        let name = &self.from.name;
        format!("postgres://postgres@127.0.0.1:{port},127.0.0.1:{other}/{name}?target_session_attrs=read-write")
    }

    /// Promotes the standby, which is the source from then on. Gives what was.
    pub async fn fail_over(&mut self, standby: Cluster) -> Cluster {
        standby.promote().await;
        self.on_source = standby.connect(&self.from.name).await;
        std::mem::replace(&mut self.source, standby)
    }
}

/// A session on a standby.
pub async fn session(standby: &Cluster) -> Client {
    standby.connect("postgres").await
}

/// Whether the standby has a slot of this kind of name that would survive its promotion.
pub async fn is_synced(on_standby: &Client, like: &str) -> bool {
    let query = format!(
        "SELECT count(*) FROM pg_replication_slots
         WHERE slot_name LIKE '{like}' AND synced AND NOT temporary AND invalidation_reason IS NULL"
    );
    text(on_standby, &query).await.as_deref() == Some("1")
}

/// Waits for that of the stream. What is written meanwhile lets the standby find it complete early.
pub async fn wait_synced(stage: &Stage, standby: &Cluster) {
    let client = session(standby).await;
    let there = async || {
        execute(&stage.on_source, "UPDATE counter SET n = n").await;
        execute(&stage.on_source, "SELECT pg_log_standby_snapshot()").await;
        is_synced(&client, "walferry").await.then_some(())
    };
    wait_for("the slot on the standby", seconds(30), there).await;
}

/// Has the standby receive nothing more.
pub async fn cut_off(standby: &Cluster) {
    standby.set("primary_conninfo", "''");
    standby.reload();
    let client = session(standby).await;
    let gone = async || (text(&client, "SELECT count(*) FROM pg_stat_wal_receiver").await? == "0").then_some(());
    wait_for("the standby to be cut off", seconds(30), gone).await;
}
