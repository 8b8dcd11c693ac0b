//! A source and a target database, a snapshot, and a copy job between them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walferry::postgres::ConnectOptions;
use walferry::relation::{ReplicaIdentity, TableName};
use walferry::source::publication::{Leaf, PublishedColumn, PublishedTable, TableKind};
use walferry::sql::Sql;
use walferry::tablesync::{
    CopyError, CopyJob, CopyMode, CopyObserver, CopyProgress, CopyScope, CopySettings, CopyState, ExistingRows, Rate,
    TableState, state,
};

use crate::support::prelude::*;

/// The two databases, on one server.
pub struct Bench {
    pub cluster: Cluster,
    pub source: Client,
    pub target: Client,
    pub source_db: Db,
    pub target_db: Db,
    runs: std::sync::atomic::AtomicU32,
}

/// An exported snapshot; gone when dropped.
pub struct Exported {
    _holder: Client,
    name: String,
    lsn: String,
}

/// What a job does besides copying: nothing, by default.
pub struct Wishes {
    pub existing_rows: ExistingRows,
    pub mode: CopyMode,
    pub replica_role: bool,
    pub insert_published: bool,
    pub workers: usize,
    pub rate: Option<Arc<Rate>>,
    pub range_bytes: u64,
    /// Where the target is reached, if not directly.
    pub target_url: Option<String>,
    pub source_url: Option<String>,
    pub lock_timeout: Option<Duration>,
    pub patience: Duration,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            existing_rows: ExistingRows::Refuse,
            mode: CopyMode::Replace,
            replica_role: true,
            insert_published: true,
            workers: 3,
            rate: None,
            range_bytes: 1 << 30,
            target_url: None,
            source_url: None,
            lock_timeout: None,
            patience: Duration::from_secs(300),
        }
    }
}

/// Remembers the last report of each table, and calls for a stop when told to.
#[derive(Default)]
pub struct Watcher {
    pub seen: Mutex<BTreeMap<TableName, (CopyState, u64, u64)>>,
    pub troubles: Mutex<Vec<String>>,
    pub stop_at_rows: Option<u64>,
    pub cancel: CancellationToken,
}

impl CopyObserver for Watcher {
    fn progress(&self, progress: &CopyProgress<'_>) {
        let report = (progress.state, progress.rows, progress.bytes);
        self.seen.lock().unwrap().insert(progress.table.clone(), report);
        if self.stop_at_rows.is_some_and(|rows| progress.rows >= rows) {
            self.cancel.cancel();
        }
    }

    fn trouble(&self, error: &CopyError) {
        self.troubles.lock().unwrap().push(walferry::error::chain(error));
    }
}

impl Bench {
    /// Both sides have run `both`; then each its own.
    pub async fn new(both: &str, at_source: &str, at_target: &str) -> Self {
        let cluster = Cluster::start(default_major()).await;
        let (source_db, target_db) = (cluster.create_database().await, cluster.create_database().await);
        let (source, target) = (cluster.connect(&source_db.name).await, cluster.connect(&target_db.name).await);
        for statements in [both, at_source] {
            source.batch_execute(statements).await.unwrap();
        }
        let schema = include_str!("../../../sql/target/000_schema.sql");
        let tables = include_str!("../../../sql/target/001_walferry.sql");
        for statements in [schema, tables, both, at_target] {
            target.batch_execute(statements).await.unwrap();
        }
        Self { cluster, source, target, source_db, target_db, runs: 0.into() }
    }

    /// The source as of now.
    pub async fn export(&self) -> Exported {
        let holder = self.cluster.connect(&self.source_db.name).await;
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        let row = holder.query_one("SELECT pg_export_snapshot(), pg_current_wal_lsn()::text", &[]).await.unwrap();
        Exported { name: row.get(0), lsn: row.get(1), _holder: holder }
    }

    /// A job for these tables; each is given as in SQL.
    pub async fn job(&self, snapshot: &Exported, tables: &[&str], wishes: Wishes) -> CopyJob {
        let mut published = Vec::new();
        for table in tables {
            published.push(self.published(table).await);
        }
        let run = self.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let options = |url: Option<String>, db: &Db| ConnectOptions::parse(&url.unwrap_or(db.url.clone())).unwrap();
        CopyJob {
            source: options(wishes.source_url, &self.source_db),
            target: options(wishes.target_url, &self.target_db),
            scope: CopyScope {
                stream: "s".into(),
                target_name: "t".into(),
                tables: published,
                insert_published: wishes.insert_published,
                truncate_published: true,
                replica_role: wishes.replica_role,
                settings: CopySettings {
                    existing_rows: wishes.existing_rows,
                    mode: wishes.mode,
                    workers: wishes.workers,
                    rate: wishes.rate,
                    range_bytes: wishes.range_bytes,
                },
            },
            publication: "p".into(),
            snapshot: snapshot.name.clone(),
            then: CopyState::Done,
            copy_lsn: snapshot.lsn.parse().unwrap(),
            copier: format!("run {run}"),
            lock_timeout: wishes.lock_timeout,
            patience: wishes.patience,
        }
    }

    /// Takes a snapshot and copies.
    pub async fn copy(&self, tables: &[&str], wishes: Wishes) -> Result<(), CopyError> {
        let snapshot = self.export().await;
        run(self.job(&snapshot, tables, wishes).await, Watcher::default()).await.0
    }

    /// The target's `walferry.table_state`.
    pub async fn states(&self) -> Vec<TableState> {
        state::load(&client(&self.target_db).await, "s").await.unwrap()
    }

    pub async fn number_on_target(&self, query: &str) -> i64 {
        self.target.query_one(query, &[]).await.unwrap().get(0)
    }

    pub async fn published(&self, table: &str) -> PublishedTable {
        let columns = "SELECT attname::text, atttypid, format_type(atttypid, atttypmod), atttypmod, attnotnull
            FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
            AND attgenerated = '' ORDER BY attnum";
        let columns = self.source.query(columns, &[&table]).await.unwrap().into_iter().map(|row| PublishedColumn {
            name: row.get(0),
            type_oid: row.get(1),
            type_name: row.get(2),
            type_modifier: row.get(3),
            not_null: row.get(4),
            generated: false,
        });
        let one = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, ARRAY(SELECT a.attname::text
            FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
            WHERE i.indrelid = c.oid AND i.indisprimary) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE c.oid = $1::text::regclass";
        let one = self.source.query_one(one, &[&table]).await.unwrap();
        let leaves = "SELECT c.oid, n.nspname::text, c.relname::text, pg_table_size(c.oid)
            FROM (SELECT $1::text::regclass::oid AS oid UNION SELECT relid FROM pg_partition_tree($1::text::regclass)) t
            JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace WHERE c.relkind = 'r' ORDER BY 3";
        let leaves = self.source.query(leaves, &[&table]).await.unwrap().into_iter().map(|row| Leaf {
            oid: row.get(0),
            name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            bytes: row.get::<_, i64>(3).try_into().unwrap(),
        });
        let leaves: Vec<Leaf> = leaves.collect();
        PublishedTable {
            name: TableName::new(one.get::<_, String>(1), one.get::<_, String>(2)),
            oid: one.get(0),
            kind: if one.get::<_, &str>(3) == "p" { TableKind::Partitioned } else { TableKind::Plain },
            columns: columns.collect(),
            unsent: Vec::new(),
            row_filter: None,
            identity: ReplicaIdentity::Default,
            identity_columns: one.get(4),
            identifiable: true,
            falsely_full: false,
            entries: vec![1],
            bytes: leaves.iter().map(|leaf| leaf.bytes).sum(),
            leaves,
        }
    }
}

/// A session as the daemon has them.
pub async fn client(db: &Db) -> walferry::postgres::Client {
    walferry::postgres::Client::connect(&ConnectOptions::parse(&db.url).unwrap(), "test").await.unwrap()
}

/// Runs the job to its end.
pub async fn run(job: CopyJob, watcher: Watcher) -> (Result<(), CopyError>, Arc<Watcher>) {
    let watcher = Arc::new(watcher);
    let result = walferry::tablesync::copy(Arc::new(job), watcher.clone(), &watcher.cancel).await;
    (result, watcher)
}

/// A row filter as the catalogue would print it.
pub fn filter(text: &str) -> Option<Sql> {
    Some(Sql::from_catalog(text.to_owned()))
}
