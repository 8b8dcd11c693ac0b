//! A source database, a target database and a daemon between them: what most tests of single changes need.
//!
//! Both databases are on one server, so that a test file needs but one. A table `fence` says when everything committed
//! so far has arrived: changes are applied in commit order. The slot is named like the source: slots belong to servers.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio_postgres::Client;

use super::cluster::{Cluster, Db, describe};
use super::daemon::Daemon;
use super::daemon_builder::Builder;
use super::diff::{differences, wait_equal};
use super::wait::{seconds, wait_for};

/// Its publication without further ado.
pub const ALL: &str = "CREATE PUBLICATION walferry FOR ALL TABLES";

/// See the module.
#[derive(Debug)]
pub struct Followed {
    pub source: Client,
    pub target: Client,
    pub from: Db,
    pub to: Db,
    pub daemon: Daemon,
    fences: AtomicI64,
}

/// Runs statements, and shows the server's words when they fail.
pub async fn execute(client: &Client, statements: &str) {
    let result = client.batch_execute(statements).await;
    let shown: String = statements.chars().take(2_000).collect();
    result.unwrap_or_else(|error| panic!("{}\nin {shown}", describe(&error)));
}

/// A query's rows as text, in order.
pub async fn rows(client: &Client, query: &str) -> Vec<String> {
    try_rows(client, query).await.unwrap_or_else(|error| panic!("{error}\nin {query}"))
}

async fn try_rows(client: &Client, query: &str) -> Result<Vec<String>, String> {
    let query = format!("SELECT coalesce(r::text, 'NULL') FROM ({query}) AS r ORDER BY 1");
    let rows = client.query(&query, &[]).await.map_err(|error| describe(&error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

impl Followed {
    /// The databases with these tables; started after the source's statements have run, among them one that creates
    /// the publication (if the daemon shall not).
    pub async fn start(cluster: &Cluster, source_sql: &str, target_sql: &str) -> Self {
        Self::start_with(cluster, source_sql, target_sql, |builder| builder).await
    }

    /// As [`Followed::start`], with a daemon told more.
    pub async fn start_with(
        cluster: &Cluster,
        source_sql: &str,
        target_sql: &str,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let (from, to) = (cluster.create_database().await, cluster.create_database().await);
        let (source, target) = (cluster.connect(&from.name).await, cluster.connect(&to.name).await);
        for (client, statements) in [(&source, source_sql), (&target, target_sql)] {
            execute(client, "CREATE TABLE fence (n bigint)").await;
            execute(client, statements).await;
        }
        let builder = Daemon::builder(&from.url).slot(&from.name).target("t", &to.url);
        let mut daemon = configure(builder).start();
        daemon.wait_ready(seconds(60)).await;
        Self { source, target, from, to, daemon, fences: AtomicI64::new(0) }
    }

    /// The same tables on both sides, all of them published.
    pub async fn same(cluster: &Cluster, tables: &str) -> Self {
        Self::start(cluster, &format!("{tables};\n{ALL}"), tables).await
    }

    /// Runs statements on the source.
    pub async fn run(&self, statements: &str) {
        execute(&self.source, statements).await;
    }

    /// Waits until all that is committed on the source has arrived. `fence` must be published.
    pub async fn fence(&mut self) {
        let number = self.fences.fetch_add(1, Ordering::Relaxed);
        execute(&self.source, &format!("INSERT INTO public.fence VALUES ({number})")).await;
        let query = format!("SELECT FROM public.fence WHERE n = {number}");
        let (target, daemon) = (&self.target, &mut self.daemon);
        wait_for("the fence to arrive", seconds(60), async || {
            let found = target.query_opt(&query, &[]).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
            assert!(found.is_some() || daemon.is_running(), "the daemon ended");
            found.map(drop)
        })
        .await;
    }

    /// Waits until all has arrived; panics unless these tables are equal then and nothing was at odds on the way.
    pub async fn equal(&mut self, tables: &[&str]) {
        self.fence().await;
        let difference = differences(&self.source, &self.target, tables).await;
        assert!(difference.is_empty(), "source and target differ:\n{difference}");
        self.no_conflicts().await;
    }

    /// As [`Followed::equal`], where changes may need to be mended on the way.
    pub async fn becomes_equal(&self, tables: &[&str]) {
        wait_equal(&self.source, &[&self.target], tables, seconds(60)).await;
    }

    /// Panics unless both sides answer the query with the same rows.
    pub async fn answers_equal(&self, query: &str) {
        let (source, target) = (rows(&self.source, query).await, rows(&self.target, query).await);
        assert_eq!(source, target, "source and target answer differently: {query}");
    }

    /// Panics unless the target answers the query with these rows.
    pub async fn target_has(&self, query: &str, wanted: &[&str]) {
        assert_eq!(rows(&self.target, query).await, wanted, "the target's answer to {query}");
    }

    /// Waits until the target answers the query with these rows.
    pub async fn target_comes_to(&self, query: &str, wanted: &[&str]) {
        let mut last = Ok(Vec::new());
        let deadline = seconds(60);
        while last.as_deref().map(|rows: &[String]| rows == wanted) != Ok(true) {
            assert!(!deadline.passed(), "the target's answer to {query}: {last:?}, wanted {wanted:?}");
            last = try_rows(&self.target, query).await;
            tokio::time::sleep(super::wait::PAUSE).await;
        }
    }

    /// Panics if the daemon counted a conflict.
    pub async fn no_conflicts(&self) {
        let conflicts = self.conflicts().await;
        assert!(conflicts == 0.0, "{conflicts} conflicts:\n{}", self.daemon.log());
    }

    /// How many conflicts the daemon has counted.
    pub async fn conflicts(&self) -> f64 {
        self.daemon.metric("walferry_target_conflicts_total", &[("target", "t")]).await.expect("the daemon's metrics")
    }
}
