//! A worker: one connection to the source and one to the target, and share after share of tables copied over them.
//!
//! In: a [`Share`], one piece of one table. Out: its rows, committed exactly once. Errors that may pass are met here,
//! by new connections and another try under the same snapshot; all others end the copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::aside::Aside;
use super::error::CopyError;
use super::job::{CopyJob, CopyObserver, CopyProgress};
use super::order::ForeignKey;
use super::patience::Patience;
use super::plan::{Piece, TablePlan, Write};
use super::prepare::REPLICA_ROLE;
use super::pump::{PumpError, pump};
use super::snapshot::{self, BeginError};
use super::state::{self, CopyState, Run};
use super::statement;
use crate::error::chain;
use crate::postgres::PgError;
use crate::postgres::wire::{Purpose, TextRow, WireConnection};
use crate::relation::TableName;
use crate::sql::Sql;

/// What all workers share.
pub(super) struct Context {
    pub job: Arc<CopyJob>,
    pub run: Run,
    pub observer: Arc<dyn CopyObserver>,
    pub aside: Aside,
    pub patience: Patience,
}

impl Context {
    /// `keys`: the foreign keys that the target checks.
    pub fn new(job: Arc<CopyJob>, observer: Arc<dyn CopyObserver>, keys: Vec<ForeignKey>) -> Self {
        let patience = Patience::new(job.patience);
        Self { run: job.run(), job, observer, aside: Aside::new(keys), patience }
    }

    pub fn set_aside(&self, table: &TableName, error: CopyError) {
        tracing::warn!(
            target_name = self.job.scope.target_name,
            table = %table,
            error = chain(&error),
            "the table is set aside until the others are copied"
        );
        self.observer.trouble(&error);
        self.aside.set(table, error);
        // The target has answered; what comes next begins with patience.
        self.patience.gets_on();
    }

    /// Waits before another attempt; whether there is to be one.
    async fn pause(&self, delays: &mut impl Iterator<Item = Duration>, error: &CopyError) -> bool {
        self.observer.trouble(error);
        if self.patience.is_over(Instant::now()) {
            return false;
        }
        let delay = delays.next().unwrap_or(Duration::from_secs(30));
        tracing::warn!(
            error = chain(error),
            delay_ms = delay.as_millis(),
            "the copy of a table was interrupted; trying again"
        );
        tokio::time::sleep(delay).await;
        true
    }

    pub fn report(&self, table: &TableRun, state: CopyState) {
        self.observer.progress(&CopyProgress {
            target: &self.job.scope.target_name,
            table: &table.plan.table,
            state,
            rows: table.rows.load(Ordering::Relaxed),
            bytes: table.bytes.load(Ordering::Relaxed),
        });
    }
}

/// A table while it is copied.
pub(super) struct TableRun {
    plan: TablePlan,
    /// Locked from before a piece's rows are counted on the target until it is known whether that was committed: so
    /// pieces commit one by one, and the last one knows that it is.
    committed: Mutex<Committed>,
    /// For reports.
    rows: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Committed {
    pieces: usize,
    rows: u64,
}

impl TableRun {
    pub fn name(&self) -> &TableName {
        &self.plan.table
    }

    pub fn new(plan: TablePlan) -> Self {
        Self { plan, committed: Mutex::default(), rows: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

/// One piece of one table.
pub(super) struct Share {
    pub table: Arc<TableRun>,
    /// Its place in the plan.
    pub piece: usize,
}

impl Share {
    pub fn piece(&self) -> &Piece {
        &self.table.plan.pieces[self.piece]
    }
}

/// How often progress is reported while a piece is copied.
const REPORT_BYTES: u64 = 8 << 20;

const BEGIN: Sql = Sql::new("BEGIN");
const COMMIT: Sql = Sql::new("COMMIT");

/// See the module.
pub(super) struct Worker {
    context: Arc<Context>,
    source: Option<WireConnection>,
    target: Option<WireConnection>,
}

impl Worker {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, source: None, target: None }
    }

    /// Copies the share, however often it takes.
    pub async fn copy(&mut self, share: &Share) -> Result<(), CopyError> {
        let mut delays = delays();
        loop {
            let Err(error) = self.attempt(share).await else { return Ok(()) };
            // Whatever is open on them ends with them: the servers roll back.
            self.source = None;
            self.target = None;
            if !error.is_passing() || !self.context.pause(&mut delays, &error).await {
                return Err(error);
            }
        }
    }

    async fn attempt(&mut self, share: &Share) -> Result<(), CopyError> {
        let at = At { context: &self.context, share };
        let target = match &mut self.target {
            Some(target) => target,
            none => none.insert(at.connect_target().await?),
        };
        at.write(target, &BEGIN).await?;
        if at.write(target, &state::fence(&at.context.run, &at.plan().table)).await?.is_empty() {
            return Err(at.taken_over());
        }
        let rows = match at.plan().write {
            Write::Nothing => 0,
            _ if share.piece().reads.is_empty() => 0,
            _ => {
                let source = match &mut self.source {
                    Some(source) => source,
                    none => none.insert(at.connect_source().await?),
                };
                at.fill(source, target).await?
            }
        };
        at.commit(target, rows).await
    }
}

/// A worker at one share: what its steps need besides the connections.
struct At<'a> {
    context: &'a Context,
    share: &'a Share,
}

impl At<'_> {
    fn plan(&self) -> &TablePlan {
        &self.share.table.plan
    }

    async fn connect_source(&self) -> Result<WireConnection, CopyError> {
        let job = &self.context.job;
        let connection = WireConnection::connect(&job.source, &job.application_name(), Purpose::Ordinary).await;
        connection.map_err(|error| self.source_failed(error))
    }

    async fn connect_target(&self) -> Result<WireConnection, CopyError> {
        let job = &self.context.job;
        let connection = WireConnection::connect(&job.target, &job.application_name(), Purpose::Ordinary).await;
        let mut connection = connection.map_err(|error| self.target_failed(error))?;
        if job.scope.replica_role {
            self.write(&mut connection, &REPLICA_ROLE).await?;
        }
        self.write(&mut connection, &job.lock_timeout()).await?;
        Ok(connection)
    }

    /// A statement on the target.
    async fn write(&self, target: &mut WireConnection, sql: &Sql) -> Result<Vec<TextRow>, CopyError> {
        target.query(sql).await.map_err(|error| self.target_failed(error))
    }

    /// Brings the piece's rows into the open target transaction; how many.
    async fn fill(&self, source: &mut WireConnection, target: &mut WireConnection) -> Result<u64, CopyError> {
        snapshot::begin(source, &self.context.job.snapshot).await.map_err(|error| match error {
            BeginError::Lost(source) => CopyError::SnapshotLost { source: Box::new(source) },
            BeginError::Other(error) => self.source_failed(error),
        })?;
        let rows = match &self.plan().write {
            Write::Copy(copy) => self.pump(source, target, copy).await?,
            Write::Merge { create, copy, apply } => {
                self.write(target, create).await?;
                let rows = self.pump(source, target, copy).await?;
                for statement in apply {
                    self.write(target, statement).await?;
                }
                rows
            }
            Write::Blank => self.blank(source, target).await?,
            Write::Nothing => 0,
        };
        let oids: Vec<u32> = self.share.piece().reads.iter().map(|read| read.oid).collect();
        let unchanged = snapshot::in_same_files(source, &oids).await.map_err(|error| self.source_failed(error))?;
        if !unchanged {
            return Err(CopyError::SourceChanged { table: self.plan().table.clone() });
        }
        snapshot::end(source).await.map_err(|error| self.source_failed(error))?;
        Ok(rows)
    }

    async fn pump(
        &self,
        source: &mut WireConnection,
        target: &mut WireConnection,
        copy: &Sql,
    ) -> Result<u64, CopyError> {
        let table = &self.share.table;
        let mut unreported = 0;
        let meter = |bytes: usize| {
            table.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            unreported += bytes as u64;
            if unreported >= REPORT_BYTES {
                unreported = 0;
                self.context.patience.gets_on();
                self.context.report(table, CopyState::Copying);
            }
        };
        pump(source, target, &self.share.piece().reads, copy, meter).await.map_err(|error| match error {
            PumpError::Source(error) => self.source_failed(error),
            PumpError::Target(error) => self.target_failed(error),
        })
    }

    async fn blank(&self, source: &mut WireConnection, target: &mut WireConnection) -> Result<u64, CopyError> {
        let mut rows = 0;
        for read in &self.share.piece().reads {
            let count = source.query(&read.select).await.map_err(|error| self.source_failed(error))?;
            rows += number(&count, 0).ok_or_else(|| self.source_failed(strange(source)))?;
        }
        self.write(target, &statement::insert_blank(&self.plan().table, rows)).await?;
        Ok(rows)
    }

    /// Counts the rows, marks the table done with its last piece, and commits.
    async fn commit(&self, target: &mut WireConnection, rows: u64) -> Result<(), CopyError> {
        let (table, plan) = (&self.share.table, self.plan());
        let mut committed = table.committed.lock().await;
        let last = committed.pieces + 1 == plan.pieces.len();
        let account = state::account(&self.context.run, &plan.table, committed.rows, rows, last);
        if self.write(target, &account).await?.is_empty() {
            return Err(self.taken_over());
        }
        if let Err(error) = self.write(target, &COMMIT).await {
            self.was_committed(committed.rows + rows, last, error).await?;
        }
        self.context.patience.gets_on();
        committed.pieces += 1;
        committed.rows += rows;
        table.rows.store(committed.rows, Ordering::Relaxed);
        self.context.report(table, if last { CopyState::Done } else { CopyState::Copying });
        if last {
            let target_name = &self.context.job.scope.target_name;
            tracing::info!(target_name, table = %plan.table, rows = committed.rows, "table copied");
        }
        Ok(())
    }

    /// Succeeds if a COMMIT that was sent but not confirmed has happened, learnt from the table's row over a new
    /// connection; else gives its error. Asks until there is an answer: without one there is nothing right to do but to
    /// end the job, and the next one finds out.
    async fn was_committed(&self, rows: u64, last: bool, error: CopyError) -> Result<(), CopyError> {
        let mut delays = delays();
        if !self.context.pause(&mut delays, &error).await {
            return Err(error);
        }
        loop {
            match self.outcome().await {
                Err(again) => {
                    if !again.is_passing() || !self.context.pause(&mut delays, &again).await {
                        return Err(again);
                    }
                }
                // A piece without rows that is not the last leaves no trace and needs none.
                Ok((state, counted)) => {
                    let committed = if last { state == CopyState::Done } else { counted == rows };
                    return if committed { Ok(()) } else { Err(error) };
                }
            }
        }
    }

    async fn outcome(&self) -> Result<(CopyState, u64), CopyError> {
        let mut target = self.connect_target().await?;
        let found = self.write(&mut target, &state::outcome(&self.context.run, &self.plan().table)).await?;
        let Some(row) = found.first() else { return Err(self.taken_over()) };
        let done = row.first().and_then(Option::as_deref) == Some(CopyState::Done.as_str());
        let rows = number(&found, 1).ok_or_else(|| self.target_failed(strange(&target)))?;
        Ok((if done { CopyState::Done } else { CopyState::Copying }, rows))
    }

    fn taken_over(&self) -> CopyError {
        CopyError::TakenOver { table: self.plan().table.clone() }
    }

    fn source_failed(&self, source: PgError) -> CopyError {
        let table = self.plan().table.clone();
        match source.code() {
            // Undefined table, column, schema: the publication was read before that.
            Some("42P01" | "42703" | "3F000") => CopyError::SourceChanged { table },
            _ => CopyError::Source { table, source: Box::new(source) },
        }
    }

    fn target_failed(&self, source: PgError) -> CopyError {
        CopyError::Target {
            table: self.plan().table.clone(),
            target: self.context.job.scope.target_name.clone(),
            source: Box::new(source),
        }
    }
}

fn number(rows: &[TextRow], column: usize) -> Option<u64> {
    rows.first()?.get(column)?.as_deref()?.parse().ok()
}

fn strange(connection: &WireConnection) -> PgError {
    PgError::Protocol { peer: connection.peer().to_owned(), message: "a count is not a number".to_owned() }
}

fn delays() -> impl Iterator<Item = Duration> {
    let exponential = ExponentialBuilder::new().with_min_delay(Duration::from_millis(200)).with_factor(2.0);
    exponential.with_max_delay(Duration::from_secs(30)).with_jitter().without_max_times().build()
}
