//! A source and a target server, whole at first; and the check of them, read as a script reads it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::faults::{FAULTS, Fault, TABLES};
use crate::support::prelude::*;

/// Which of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// The servers, and who reads and writes there.
pub struct Servers {
    pub source: Cluster,
    pub target: Cluster,
    pub from: Db,
    pub to: Db,
    pub daemon: Daemon,
}

/// What the check has said.
pub struct Told {
    pub code: Option<i32>,
    pub report: Value,
}

/// The publication of everything in the two schemas.
pub const PUBLISH: &str = "
    DO $$ BEGIN EXECUTE (
        SELECT format('CREATE PUBLICATION walferry FOR TABLE %s WITH (publish_via_partition_root = true)',
                      string_agg(oid::regclass::text, ', '))
        FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
        AND relnamespace IN ('shop'::regnamespace, 'vault'::regnamespace)); END $$";

impl Servers {
    /// With tables that are alike, and roles that may what they need.
    pub async fn whole() -> Self {
        Self::of_versions(default_major(), default_major()).await
    }

    /// As [`Servers::whole`], on servers of these versions.
    pub async fn of_versions(source: u32, target: u32) -> Self {
        let (source, target) = (Cluster::start(source).await, Cluster::start(target).await);
        let (from, to) = (source.create_database().await, target.create_database().await);
        source.execute(&from.name, TABLES).await;
        target.execute(&to.name, TABLES).await;
        source.execute(&from.name, PUBLISH).await;
        let may_read = "CREATE ROLE reader LOGIN REPLICATION; GRANT USAGE ON SCHEMA shop, vault TO reader;
                        GRANT SELECT ON ALL TABLES IN SCHEMA shop, vault TO reader";
        source.execute(&from.name, may_read).await;
        let may_write = format!(
            "CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA shop, vault TO writer;
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA shop, vault TO writer;
             GRANT CREATE ON DATABASE {} TO writer",
            to.name
        );
        target.execute(&to.name, &may_write).await;
        let daemon = Daemon::builder(&source.url_as("reader", &from.name))
            .tables(&["shop.*", "vault.*"])
            .target("one", &target.url_as("writer", &to.name))
            .prepare();
        Self { source, target, from, to, daemon }
    }

    /// Makes every fault, and starts the servers again, so that all settings hold.
    pub async fn break_everything(&mut self) {
        for fault in FAULTS {
            for statement in fault.sql {
                let statement = self.of(fault.on, statement);
                self.run(fault.on, &statement).await;
            }
        }
        self.restart(Side::Source).await;
        self.restart(Side::Target).await;
        self.run(Side::Target, "SELECT pg_switch_wal()").await;
        self.archiver("failed_count > 0").await;
    }

    /// Waits until the target's archiver is so.
    pub async fn archiver(&self, is: &str) {
        let client = self.target.connect("postgres").await;
        let query = format!("SELECT coalesce({is}, false) FROM pg_stat_archiver");
        let there = async || client.query_one(&query, &[]).await.unwrap().get::<_, bool>(0).then_some(());
        wait_for(&format!("the archiver: {is}"), seconds(60), there).await;
    }

    /// One statement, by a superuser in the replicated database.
    pub async fn run(&self, side: Side, statement: &str) {
        eprintln!("{side:?}: {statement}");
        match side {
            Side::Source => self.source.execute(&self.from.name, statement).await,
            Side::Target => self.target.execute(&self.to.name, statement).await,
        }
    }

    pub async fn restart(&mut self, side: Side) {
        match side {
            Side::Source => self.source.restart().await,
            Side::Target => self.target.restart().await,
        }
    }

    /// The text with the database of this side in its place.
    pub fn of(&self, side: Side, text: &str) -> String {
        let database = if side == Side::Source { &self.from.name } else { &self.to.name };
        text.replace("{database}", database)
    }

    pub async fn check(&self, arguments: &[&str]) -> Told {
        let output = self.daemon.run(&[&["check", "--json"], arguments].concat()).await;
        let told = || String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told()));
        Told { code: output.status.code(), report }
    }
}

impl Told {
    pub fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().unwrap()
    }

    /// The finding of a fault.
    pub fn of(&self, servers: &Servers, fault: &Fault) -> Option<&Value> {
        let (server, object) = (server(fault.about), servers.of(fault.about, fault.object));
        self.findings().iter().find(|finding| {
            finding["server"] == server && finding["code"] == fault.code && finding["object"] == *object
        })
    }

    /// The codes of this severity.
    pub fn codes(&self, severity: &str) -> BTreeSet<&str> {
        let of = self.findings().iter().filter(|finding| finding["severity"] == severity);
        of.map(|finding| finding["code"].as_str().unwrap()).collect()
    }
}

/// What the check calls it.
fn server(side: Side) -> &'static str {
    if side == Side::Source { "source" } else { "one" }
}

/// Which side a finding is about.
pub fn side(finding: &Value) -> Side {
    if finding["server"] == "source" { Side::Source } else { Side::Target }
}
