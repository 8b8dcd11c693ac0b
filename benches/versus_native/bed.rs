//! The servers that both ways share: one source and one target server, with the same settings.

use std::sync::Arc;

use anyhow::Result;
use walferry::admin::throwaway::{Server, Site, binaries};

use crate::database::{Address, Database};
use crate::options::{Options, Over};

/// The source's database.
pub const SOURCE: &str = "bench";

/// On both servers. Durable as by default (`fsync`, `full_page_writes`, `synchronous_commit` are on). What would work
/// at times of its own choosing (autovacuum, timed checkpoints) is off, and done between the measurements instead.
/// Workers of subscriptions start without the pauses that spare a server whose workers crash.
pub const SETTINGS: &[&str] = &[
    "wal_level=logical",
    "shared_buffers=1GB",
    "max_wal_size=16GB",
    "min_wal_size=2GB",
    "checkpoint_timeout=1h",
    "autovacuum=off",
    "logical_decoding_work_mem=64MB",
    "max_connections=100",
    "max_wal_senders=40",
    "max_replication_slots=60",
    "max_worker_processes=60",
    "max_logical_replication_workers=40",
    "max_sync_workers_per_subscription=4",
    "wal_retrieve_retry_interval=100ms",
    "timezone=UTC",
];

/// From 18 on, replication origins have a limit of their own.
const SETTINGS_18: &[&str] = &["max_active_replication_origins=60"];

/// See the module. Dropping it removes everything.
pub struct Bed {
    pub source: Server,
    pub target: Server,
    pub site: Arc<Site>,
    over: Over,
    /// Sessions for what concerns a server as a whole.
    pub on_source: Database,
    pub on_target: Database,
}

impl Bed {
    pub async fn start(options: &Options) -> Result<Self> {
        let binaries = match (&options.bin, options.version) {
            (Some(directory), _) => binaries::in_directory(directory)?,
            (None, Some(major)) => binaries::of_major(major)?,
            (None, None) => binaries::find()?,
        };
        let site = Arc::new(Site::prepare(binaries, "bench", options.keep)?);
        let mut settings = Self::settings(site.binaries.major);
        let sockets = format!("unix_socket_directories={}", site.directory().display());
        if options.over == Over::Socket {
            settings.push(&sockets);
        }
        let source = Server::start(&site, "source", &settings).await?;
        let target = Server::start(&site, "target", &settings).await?;
        let on_source = Database::connect(&source, "postgres").await?;
        let on_target = Database::connect(&target, "postgres").await?;
        Ok(Self { source, target, site, over: options.over, on_source, on_target })
    }

    pub fn settings(major: u32) -> Vec<&'static str> {
        let more = if major >= 18 { SETTINGS_18 } else { &[] };
        [SETTINGS, more].concat()
    }

    /// Where a subscription, or walferry, finds a database.
    pub fn url(&self, server: &Server, database: &str) -> String {
        match self.over {
            Over::Socket => {
                let directory = self.site.directory().display().to_string().replace('/', "%2F");
                format!(
                    "postgres://postgres:{}@{directory}:{}/{database}?sslmode=disable",
                    self.site.password, server.port
                )
            }
            Over::Tcp => server.url("postgres", database),
        }
    }

    /// An empty database of this name on the source.
    pub async fn renew_source(&self) -> Result<Database> {
        renew(&self.on_source, SOURCE).await?;
        Database::connect(&self.source, SOURCE).await
    }

    /// An empty database of this name on the target server.
    pub async fn renew_target(&self, name: &str) -> Result<Database> {
        renew(&self.on_target, name).await?;
        Database::connect(&self.target, name).await
    }

    /// Whether the target server takes these settings for a session.
    pub async fn takes(&self, session: &str) -> bool {
        Address::of(&self.target, "postgres").with(session).connect().await.is_ok()
    }

    /// So that no measurement pays for the one before.
    pub async fn checkpoint(&self) -> Result<()> {
        self.on_source.run("CHECKPOINT").await?;
        self.on_target.run("CHECKPOINT").await
    }
}

async fn renew(server: &Database, name: &str) -> Result<()> {
    server.run(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    server.run(&format!("CREATE DATABASE {name} TEMPLATE template0")).await
}
