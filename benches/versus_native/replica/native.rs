//! PostgreSQL's own logical replication at its best settings: a subscription in each target database.

use std::time::Instant;

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::bed::{Bed, SOURCE};
use crate::database::Database;
use crate::options::Streaming;

/// All tables.
pub const PUBLICATION: &str = "native";

/// Leaders, table synchronisation and parallel workers; their names differ between versions.
pub const APPLIERS: &str = "SELECT pid FROM pg_stat_activity \
                            WHERE datname::text = ANY($1::text[]) AND backend_type LIKE 'logical replication%worker'";

/// Subscriptions have the names of their databases, as their slots.
pub struct Native {
    names: Vec<String>,
    sessions: Vec<Database>,
    streaming: Streaming,
}

impl Native {
    pub async fn new(bed: &Bed, names: Vec<String>, streaming: Streaming) -> Result<Self> {
        let source = Database::connect(&bed.source, SOURCE).await?;
        source.run(&format!("CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES")).await?;
        let sessions = try_join_all(names.iter().map(|name| Database::connect(&bed.target, name))).await?;
        Ok(Self { names, sessions, streaming })
    }

    pub fn databases(&self) -> &[String] {
        &self.names
    }

    pub async fn start_copy(&self, bed: &Bed) -> Result<Instant> {
        let begun = Instant::now();
        let source = bed.url(&bed.source, SOURCE);
        try_join_all(self.each().map(|(name, session)| {
            let statement = format!(
                "CREATE SUBSCRIPTION {name} CONNECTION '{source}' PUBLICATION {PUBLICATION} \
                 WITH (copy_data = true, binary = true, streaming = {})",
                self.streaming.as_str()
            );
            async move { session.run(&statement).await }
        }))
        .await?;
        Ok(begun)
    }

    /// From the state `f` on, a table's rows are committed.
    pub async fn is_copied(&self) -> Result<bool> {
        let ask = "SELECT count(*) = count(*) FILTER (WHERE srsubstate IN ('f', 's', 'r')) FROM pg_subscription_rel";
        let copied = self.sessions.iter().map(|session| session.value::<bool>(ask, &[]));
        Ok(try_join_all(copied).await?.into_iter().all(|copied| copied))
    }

    pub async fn switch_on(&self) -> Result<Instant> {
        let begun = Instant::now();
        self.alter("ENABLE").await?;
        Ok(begun)
    }

    pub async fn switch_off(&self) -> Result<()> {
        self.alter("DISABLE").await
    }

    pub async fn remove(&self, bed: &Bed) -> Result<()> {
        // One by one: each waits for its worker, and drops its slot on the source.
        for (name, session) in self.each() {
            session.run(&format!("DROP SUBSCRIPTION {name}")).await?;
        }
        let source = Database::connect(&bed.source, SOURCE).await?;
        source.run(&format!("DROP PUBLICATION {PUBLICATION}")).await
    }

    async fn alter(&self, how: &str) -> Result<()> {
        let altered = self.each().map(|(name, session)| {
            let statement = format!("ALTER SUBSCRIPTION {name} {how}");
            async move { session.run(&statement).await }
        });
        try_join_all(altered).await.map(drop)
    }

    fn each(&self) -> impl Iterator<Item = (&String, &Database)> {
        self.names.iter().zip(&self.sessions)
    }
}
