//! A worker: one connection to the source and one to the target, and share after share of tables copied over them.
//!
//! In: a [`Share`], one piece of one table. Out: its rows, committed exactly once. Errors that may pass are met here,
//! by new connections and another try under the same snapshot; what is refused in binary, by text; all others end the
//! copy.
//!
//! A piece takes three round trips to the target and, beside the first of them, one to the source:
//!
//! ```text
//! target  BEGIN; fence; types; COPY FROM ──▶ rows ▶ end of COPY ──▶ number of rows ▶ account; COMMIT ──▶ done
//! source  BEGIN; snapshot; COPY TO; files; COMMIT ──▶ rows
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use super::pump::{PumpError, pump};
use super::snapshot::{ReadError, Reading};
use super::state::{self, CopyState, Run};
use super::statement::{self, Format};
use crate::error::chain;
use crate::postgres::PgError;
use crate::postgres::wire::{Answer, TextRow, WireConnection};
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
            size: table.plan.pieces.iter().map(|piece| piece.bytes).sum(),
        });
    }
}

/// A table while it is copied.
pub(super) struct TableRun {
    plan: TablePlan,
    /// Locked from before a piece's rows are counted on the target until it is known whether that was committed: so
    /// pieces commit one by one, and the last one knows that it is.
    committed: Mutex<Committed>,
    /// Binary was refused: what is still to be copied goes as text.
    as_text: AtomicBool,
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
        Self {
            plan,
            committed: Mutex::default(),
            as_text: AtomicBool::new(false),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn format(&self, piece: &Piece) -> Format {
        match self.as_text.load(Ordering::Relaxed) {
            true => Format::Text,
            false => self.plan.format(piece),
        }
    }

    /// From now on, what the table's rows say goes as text.
    fn refuse_binary(&self, error: &CopyError) {
        if !self.as_text.swap(true, Ordering::Relaxed) {
            let table = &self.plan.table;
            tracing::warn!(table = %table, error = chain(error), "rows were refused in binary and are sent as text");
        }
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

static BEGIN: Sql = Sql::new("BEGIN");
/// It waits for the target's disk, also for the smallest table (`synchronous_commit` is pinned): what is read as `done`
/// is not read again when the target comes back from a crash, and the stream goes on as if the rows were there.
static COMMIT: Sql = Sql::new("COMMIT");

/// What a worker has open.
#[derive(Default)]
pub(super) struct Connections {
    pub source: Option<WireConnection>,
    pub target: Option<WireConnection>,
}

/// See the module.
pub(super) struct Worker {
    context: Arc<Context>,
    open: Connections,
}

impl Worker {
    /// What is not open is opened when it is needed.
    pub fn new(context: Arc<Context>, open: Connections) -> Self {
        Self { context, open }
    }

    /// Copies the share, however often it takes.
    pub async fn copy(&mut self, share: &Share) -> Result<(), CopyError> {
        let mut delays = delays();
        loop {
            let format = share.table.format(share.piece());
            let Err(error) = self.attempt(share, format).await else { return Ok(()) };
            if format == Format::Binary && error.refuses_binary() {
                share.table.refuse_binary(&error);
            } else if !error.is_passing() || !self.context.pause(&mut delays, &error).await {
                return Err(error);
            }
        }
    }

    async fn attempt(&mut self, share: &Share, format: Format) -> Result<(), CopyError> {
        let at = At { context: &self.context, share, format };
        // Taken away: whatever is open on them when something fails ends with them, and the servers roll back.
        let Connections { source, target } = std::mem::take(&mut self.open);
        let (mut source, mut target) = tokio::try_join!(at.source(source), at.target(target))?;
        let rows = at.fill(source.as_mut(), &mut target).await?;
        let target = at.commit(target, rows).await?;
        self.open = Connections { source, target };
        Ok(())
    }
}

/// A worker at one share: what its steps need besides the connections.
struct At<'a> {
    context: &'a Context,
    share: &'a Share,
    format: Format,
}

impl At<'_> {
    fn plan(&self) -> &TablePlan {
        &self.share.table.plan
    }

    /// Whether there is anything to read for the piece.
    fn reads(&self) -> bool {
        self.plan().write != Write::Nothing && !self.share.piece().reads.is_empty()
    }

    /// The connection there is, or one that is needed.
    async fn source(&self, open: Option<WireConnection>) -> Result<Option<WireConnection>, CopyError> {
        if open.is_some() || !self.reads() {
            return Ok(open);
        }
        self.context.job.open_source().await.map(Some).map_err(|error| self.source_failed(error))
    }

    /// As [`Self::source`].
    async fn target(&self, open: Option<WireConnection>) -> Result<WireConnection, CopyError> {
        match open {
            Some(open) => Ok(open),
            None => self.context.job.open_target().await.map_err(|error| self.target_failed(error)),
        }
    }

    /// Statements on the target.
    async fn write(&self, target: &mut WireConnection, sql: &Sql) -> Result<Vec<TextRow>, CopyError> {
        target.query(sql).await.map_err(|error| self.target_failed(error))
    }

    /// What every transaction on the target begins with, and what follows in the same message. [`Self::admit`] judges
    /// the answers.
    fn opening(&self, then: &[&Sql]) -> Sql {
        let plan = self.plan();
        let fence = state::fence(&self.context.run, &plan.table);
        let mut statements = vec![&BEGIN, &fence];
        statements.extend(plan.binary.as_ref().filter(|_| self.format == Format::Binary));
        statements.extend(then);
        Sql::join(statements, "; ")
    }

    fn admit(&self, answers: &[TextRow]) -> Result<(), CopyError> {
        let mut answers = answers.iter().map(|row| row.first().and_then(Option::as_deref));
        if answers.next().flatten() != Some("1") {
            return Err(self.taken_over());
        }
        if self.format == Format::Binary && answers.next().flatten() != Some("t") {
            return Err(CopyError::TypesChanged { table: self.plan().table.clone() });
        }
        Ok(())
    }

    /// Brings the piece's rows into a target transaction, and leaves that open; how many.
    async fn fill(&self, source: Option<&mut WireConnection>, target: &mut WireConnection) -> Result<u64, CopyError> {
        let Some(source) = source.filter(|_| self.reads()) else {
            let answers = self.write(target, &self.opening(&[])).await?;
            return self.admit(&answers).map(|()| 0);
        };
        match &self.plan().write {
            Write::Copy(copy) => self.carry(source, target, &self.opening(&[&self.format.of(copy)])).await,
            Write::Merge { create, copy, apply } => {
                let opening = self.opening(&[create, &self.format.of(copy)]);
                let rows = self.carry(source, target, &opening).await?;
                self.write(target, &Sql::join(apply, "; ")).await?;
                Ok(rows)
            }
            Write::Blank => self.blank(source, target).await,
            Write::Nothing => Ok(0),
        }
    }

    /// Rows as they are. Source and target begin at the same time.
    async fn carry(
        &self,
        source: &mut WireConnection,
        target: &mut WireConnection,
        opening: &Sql,
    ) -> Result<u64, CopyError> {
        let begin = async {
            let answers = target.start_copy_in(opening).await.map_err(|error| self.target_failed(error))?;
            self.admit(&answers)
        };
        let ((), mut reading) = tokio::try_join!(begin, self.read(source))?;
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
        let rate = self.context.job.scope.settings.rate.as_deref();
        pump(&mut reading, target, rate, meter).await.map_err(|error| match error {
            PumpError::Source(error) => self.read_failed(error),
            PumpError::Target(error) => self.target_failed(error),
        })
    }

    async fn read<'a>(&self, source: &'a mut WireConnection) -> Result<Reading<'a>, CopyError> {
        let reads = &self.share.piece().reads;
        let is_copy = self.plan().write != Write::Blank;
        let statement = |select: &Sql| if is_copy { self.format.of(select) } else { select.clone() };
        let statements: Vec<Sql> = reads.iter().map(|read| statement(&read.select)).collect();
        let oids: Vec<u32> = reads.iter().map(|read| read.oid).collect();
        let reading = Reading::start(source, &self.context.job.snapshot, &statements, &oids).await;
        reading.map_err(|error| self.read_failed(error))
    }

    async fn blank(&self, source: &mut WireConnection, target: &mut WireConnection) -> Result<u64, CopyError> {
        let answers = self.write(target, &self.opening(&[])).await?;
        self.admit(&answers)?;
        let peer = source.peer().to_owned();
        let mut reading = self.read(source).await?;
        while reading.next().await.map_err(|error| self.read_failed(error))?.is_some() {}
        let counts = reading.into_rows();
        let sum = counts.iter().map(|row| number(row, 0)).sum::<Option<u64>>();
        let rows = sum.ok_or_else(|| self.source_failed(strange(&peer)))?;
        self.write(target, &statement::insert_blank(&self.plan().table, rows)).await?;
        Ok(rows)
    }

    /// Counts the rows, marks the table done with its last piece, and commits. Gives the connection, if it is still
    /// good.
    async fn commit(&self, mut target: WireConnection, rows: u64) -> Result<Option<WireConnection>, CopyError> {
        let (table, plan) = (&self.share.table, self.plan());
        let mut committed = table.committed.lock().await;
        let last = committed.pieces + 1 == plan.pieces.len();
        let then = self.context.job.then;
        let account = state::account(&self.context.run, &plan.table, committed.rows, rows, last.then_some(then));
        let target = match conclude(&mut target, &account).await {
            Ok(()) => Some(target),
            Err((0, error)) if error.code() == Some(state::NOT_MINE) => return Err(self.taken_over()),
            Err((0, error)) if error.server().is_some_and(|said| !said.is_fatal()) => {
                return Err(self.target_failed(error));
            }
            Err((_, error)) => {
                self.was_committed(committed.rows + rows, last, self.target_failed(error)).await?;
                None
            }
        };
        self.context.patience.gets_on();
        committed.pieces += 1;
        committed.rows += rows;
        table.rows.store(committed.rows, Ordering::Relaxed);
        self.context.report(table, if last { then } else { CopyState::Copying });
        if last {
            let target_name = &self.context.job.scope.target_name;
            let format = table.format(self.share.piece()).as_str();
            tracing::info!(target_name, table = %plan.table, rows = committed.rows, format, "table copied");
        }
        Ok(target)
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
                    let committed = if last { state == self.context.job.then } else { counted == rows };
                    return if committed { Ok(()) } else { Err(error) };
                }
            }
        }
    }

    async fn outcome(&self) -> Result<(CopyState, u64), CopyError> {
        let mut target = self.target(None).await?;
        let found = self.write(&mut target, &state::outcome(&self.context.run, &self.plan().table)).await?;
        let Some(row) = found.first() else { return Err(self.taken_over()) };
        let then = self.context.job.then;
        let finished = row.first().and_then(Option::as_deref) == Some(then.as_str());
        let rows = number(row, 1).ok_or_else(|| self.target_failed(strange(target.peer())))?;
        Ok((if finished { then } else { CopyState::Copying }, rows))
    }

    fn taken_over(&self) -> CopyError {
        CopyError::TakenOver { table: self.plan().table.clone() }
    }

    fn read_failed(&self, error: ReadError) -> CopyError {
        match error {
            ReadError::Lost(source) => CopyError::SnapshotLost { source: Box::new(source) },
            ReadError::Other(error) => self.source_failed(error),
            ReadError::Changed => CopyError::SourceChanged { table: self.plan().table.clone() },
        }
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

/// Runs `account` and COMMIT as one. Of an error, how many of the two had come to their end by then.
async fn conclude(target: &mut WireConnection, account: &Sql) -> Result<(), (usize, PgError)> {
    let mut done = 0;
    target.start_script(&Sql::join([account, &COMMIT], "; ")).await.map_err(|error| (done, error))?;
    loop {
        match target.answer().await.map_err(|error| (done, error))? {
            Answer::End => return Ok(()),
            Answer::Done => done += 1,
            Answer::Row(_) | Answer::Data(_) => {}
        }
    }
}

fn number(row: &TextRow, column: usize) -> Option<u64> {
    row.get(column)?.as_deref()?.parse().ok()
}

fn strange(peer: &str) -> PgError {
    PgError::Protocol { peer: peer.to_owned(), message: "a count is not a number".to_owned() }
}

fn delays() -> impl Iterator<Item = Duration> {
    let exponential = ExponentialBuilder::new().with_min_delay(Duration::from_millis(200)).with_factor(2.0);
    exponential.with_max_delay(Duration::from_secs(30)).with_jitter().without_max_times().build()
}
