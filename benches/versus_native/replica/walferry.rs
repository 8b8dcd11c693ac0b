//! walferry: one daemon, one slot, a `[[target]]` for each target database.

use std::time::Instant;

use anyhow::Result;
use futures_util::future::try_join_all;

use super::Usage;
use super::daemon::Daemon;
use crate::bed::{Bed, SOURCE};
use crate::database::Database;
use crate::options::Options;
use crate::process::{cpu_seconds, peak_memory};

/// The slot; the publication has the same name.
pub const SLOT: &str = "walferry";

/// Its backends on the target.
pub const APPLIERS: &str = "SELECT pid FROM pg_stat_activity WHERE datname::text = ANY($1::text[]) \
                            AND backend_type = 'client backend' AND application_name <> 'versus_native'";

/// See the module.
pub struct Walferry {
    names: Vec<String>,
    sessions: Vec<Database>,
    tables: i64,
    daemon: Daemon,
}

impl Walferry {
    pub async fn new(bed: &Bed, names: Vec<String>, session: &str, options: &Options) -> Result<Self> {
        let source = Database::connect(&bed.source, SOURCE).await?;
        source.run(&format!("CREATE PUBLICATION {SLOT} FOR ALL TABLES")).await?;
        let tables = source.value("SELECT count(*) FROM pg_publication_tables WHERE pubname = $1", &[&SLOT]).await?;
        let sessions = try_join_all(names.iter().map(|name| Database::connect(&bed.target, name))).await?;
        let daemon = Daemon::configure(bed, &options.walferry, &configuration(bed, &names, session, &options.set))?;
        Ok(Self { names, sessions, tables, daemon })
    }

    pub fn databases(&self) -> &[String] {
        &self.names
    }

    pub fn switch_on(&mut self, bed: &Bed) -> Result<Instant> {
        let begun = Instant::now();
        self.daemon.start(bed)?;
        Ok(begun)
    }

    /// SIGTERM: what is queued is committed.
    pub async fn switch_off(&mut self) -> Result<()> {
        self.daemon.stop().await
    }

    /// In walferry's own tables on the targets (`sql/target/001_walferry.sql`).
    pub async fn is_copied(&self) -> Result<bool> {
        let there = "SELECT to_regclass('walferry.table_state') IS NOT NULL";
        let ask = "SELECT count(*) FROM walferry.table_state WHERE state = 'done'";
        for session in &self.sessions {
            if !session.value::<bool>(there, &[]).await? || session.value::<i64>(ask, &[]).await? < self.tables {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub async fn remove(&self, bed: &Bed) -> Result<()> {
        bed.on_source.run(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).await?;
        let source = Database::connect(&bed.source, SOURCE).await?;
        source.run(&format!("DROP PUBLICATION {SLOT}")).await
    }

    pub fn must_run(&mut self) -> Result<()> {
        self.daemon.must_run()
    }

    /// The end of what it has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    pub fn usage(&self) -> Usage {
        let pid = self.daemon.pid();
        Usage { daemon_cpu: pid.and_then(cpu_seconds), daemon_memory: pid.and_then(peak_memory), ..Usage::default() }
    }
}

fn configuration(bed: &Bed, names: &[String], session: &str, set: &[String]) -> String {
    let mut text = "http.listen = \"\"\n".to_owned();
    for line in set {
        text += &format!("{line}\n");
    }
    let source = bed.url(&bed.source, SOURCE);
    text += &format!("\n[source]\nurl = \"{source}\"\nslot = \"{SLOT}\"\npublication = \"{SLOT}\"\n");
    // As a URL writes what has a meaning of its own there.
    let session = session.replace(' ', "%20").replace('=', "%3D");
    for name in names {
        let target = bed.url(&bed.target, name);
        text += &format!("\n[[target]]\nname = \"{name}\"\nurl = \"{target}&options={session}\"\n");
    }
    text
}
