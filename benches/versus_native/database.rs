//! A superuser's session on one of the servers: in go statements as text, out come values, and errors that say where.

use anyhow::{Context, Result};
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{Client, Config, NoTls, Statement};
use walferry::admin::throwaway::Server;
use walferry::lsn::Lsn;

/// The benchmark's own sessions are told apart from walferry's by this.
pub const APPLICATION: &str = "versus_native";

/// Where a session leads.
#[derive(Clone, Debug)]
pub struct Address {
    url: String,
    /// `options` of the session.
    options: String,
    place: String,
}

impl Address {
    pub fn of(server: &Server, database: &str) -> Self {
        let place = format!("the database {database} of the {} server", server.name);
        Self { url: server.url("postgres", database), options: String::new(), place }
    }

    /// The same with settings, such as `-c work_mem=1GB`.
    pub fn with(self, options: &str) -> Self {
        Self { options: options.to_owned(), ..self }
    }

    pub async fn connect(self) -> Result<Database> {
        let mut config: Config = self.url.parse()?;
        config.application_name(APPLICATION).options(self.options);
        let place = self.place;
        let (client, connection) = config.connect(NoTls).await.with_context(|| format!("connecting to {place}"))?;
        // What ends the connection is what its next statement reports.
        tokio::spawn(connection);
        Ok(Database { client, place })
    }
}

/// An open session.
pub struct Database {
    pub client: Client,
    place: String,
}

impl Database {
    pub async fn connect(server: &Server, database: &str) -> Result<Self> {
        Address::of(server, database).connect().await
    }

    /// Statements without answers. A single one may be a procedure that commits.
    pub async fn run(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.with_context(|| self.doing(sql))
    }

    pub async fn prepare(&self, sql: &str) -> Result<Statement> {
        self.client.prepare(sql).await.with_context(|| self.doing(sql))
    }

    /// The one value of the one row.
    pub async fn value<T: FromSqlOwned>(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<T> {
        let row = self.client.query_one(sql, params).await.with_context(|| self.doing(sql))?;
        row.try_get(0).with_context(|| self.doing(sql))
    }

    /// The first column.
    pub async fn column<T: FromSqlOwned>(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<T>> {
        let rows = self.client.query(sql, params).await.with_context(|| self.doing(sql))?;
        rows.iter().map(|row| row.try_get(0).with_context(|| self.doing(sql))).collect()
    }

    /// How far the server's WAL is written.
    pub async fn written(&self) -> Result<Lsn> {
        let written: String = self.value("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        Ok(written.parse()?)
    }

    fn doing(&self, sql: &str) -> String {
        format!("on {}: {}", self.place, sql.trim_start().lines().next().unwrap_or_default())
    }
}
