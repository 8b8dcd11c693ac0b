//! One copy to one target, from preflight to the last table: what it is given, and the order in which it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::CopyError;
use super::patience::{self, Patience};
use super::plan::TablePlan;
use super::prepare::{Prepared, prepare};
use super::rate::Rate;
use super::state::{CopyState, Run};
use super::worker::{Connections, Context, Share, TableRun, Worker};
use crate::lsn::Lsn;
use crate::postgres::wire::{Purpose, WireConnection};
use crate::postgres::{ConnectOptions, PgError};
use crate::relation::TableName;
use crate::source::publication::PublishedTable;
use crate::sql::Sql;

/// What to do with rows a target table holds before its first copy begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingRows {
    /// Do not begin.
    Refuse,
    /// Remove them.
    Truncate,
    /// Keep them; rows of the same key are overwritten by the source's. Rows the source does not have stay, also such
    /// as the source deleted between two copies.
    Merge,
}

/// What becomes of a table's rows when walferry, whose rows they are, copies it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// They go first.
    Replace,
    /// They become the source's in one transaction: what differs is written, and what the source does not have goes.
    /// Under [`ExistingRows::Merge`] the latter stays.
    Merge,
}

/// `[copy]` of the configuration.
#[derive(Clone, Debug)]
pub struct CopySettings {
    /// See [`ExistingRows`].
    pub existing_rows: ExistingRows,
    /// See [`CopyMode`].
    pub mode: CopyMode,
    /// How fast this copy may go, together with all that share the limit.
    pub rate: Option<Arc<Rate>>,
    /// Pairs of connections that copy side by side; at least 1.
    pub workers: usize,
    /// Tables (and partitions) larger than this many bytes are copied in ranges of about this size.
    pub range_bytes: u64,
}

/// What is to be copied where; all that preflight needs.
#[derive(Clone, Debug)]
pub struct CopyScope {
    /// The stream.
    pub stream: String,
    /// The target's name in the configuration, for messages.
    pub target_name: String,
    /// The tables to copy now, see [`super::pending`]. What becomes of the rows of those that were begun before is the
    /// settings' affair.
    pub tables: Vec<PublishedTable>,
    /// Whether the publication publishes inserts; if not, nothing is copied.
    pub insert_published: bool,
    /// Whether it publishes TRUNCATE, which then has to be allowed on the target.
    pub truncate_published: bool,
    /// Whether the role may set `session_replication_role = replica` on the target: no foreign keys, no ordinary
    /// triggers.
    pub replica_role: bool,
    /// How.
    pub settings: CopySettings,
}

/// A copy of tables to one target under one snapshot.
#[derive(Clone, Debug)]
pub struct CopyJob {
    /// The server the snapshot was exported on, and no other.
    pub source: ConnectOptions,
    /// The target.
    pub target: ConnectOptions,
    /// What and how.
    pub scope: CopyScope,
    /// The publication's name.
    pub publication: String,
    /// The exported snapshot's name; it has to be held until the job ends.
    pub snapshot: String,
    /// The snapshot's consistent point.
    pub copy_lsn: Lsn,
    /// Unique to this run of the daemon.
    pub copier: String,
    /// What a table is once it is copied: `Done` if the stream goes on from the snapshot, else `CatchingUp`.
    pub then: CopyState,
    /// `lock_timeout` of the sessions on the target; `None`: none. As long as they wait, the snapshot is held.
    pub lock_timeout: Option<Duration>,
    /// How long a target may fail, or not answer, before the copy is given up.
    pub patience: Duration,
}

/// How far a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyProgress<'a> {
    /// The target's name.
    pub target: &'a str,
    /// The table.
    pub table: &'a TableName,
    /// Copying, or what it is once it is copied.
    pub state: CopyState,
    /// Rows committed.
    pub rows: u64,
    /// Bytes read from the source, repeated ones included.
    pub bytes: u64,
    /// The table's size on the source when its copy was planned, in bytes. What is read of it may be more or less.
    pub size: u64,
}

/// Hears of progress. Called from the copying tasks, so it must be quick.
pub trait CopyObserver: Send + Sync {
    /// A table has begun, got on by some megabytes, or is done.
    fn progress(&self, progress: &CopyProgress<'_>);
    /// Something has failed and is tried again, or set aside; the copy goes on.
    fn trouble(&self, error: &CopyError);
}

impl CopyJob {
    pub(super) fn run(&self) -> Run {
        Run { stream: self.scope.stream.clone(), copier: self.copier.clone(), copy_lsn: self.copy_lsn }
    }

    pub(super) fn application_name(&self) -> String {
        format!("walferry/{}", self.scope.stream)
    }

    /// A connection that reads rows.
    pub(super) async fn open_source(&self) -> Result<WireConnection, PgError> {
        let purpose = if self.scope.settings.rate.is_some() { Purpose::Paced } else { Purpose::Ordinary };
        WireConnection::connect(&self.source, &self.application_name(), purpose).await
    }

    /// A connection that writes rows.
    pub(super) async fn open_target(&self) -> Result<WireConnection, PgError> {
        let mut open = WireConnection::connect(&self.target, &self.application_name(), Purpose::Ordinary).await?;
        open.query(&self.target_settings()).await?;
        Ok(open)
    }

    /// What sessions that write rows begin with.
    pub(super) fn target_settings(&self) -> Sql {
        let millis = self.lock_timeout.map_or(0, |limit| limit.as_millis() as i64);
        let lock_timeout = Sql::format("SET lock_timeout = {}", &[&Sql::number(millis)]);
        match self.scope.replica_role {
            true => Sql::join([&Sql::new("SET session_replication_role = replica"), &lock_timeout], "; "),
            false => lock_timeout,
        }
    }
}

/// Copies the job's tables; each is copied on the target when this succeeds. When it fails, is cancelled or dropped,
/// some may be; nothing else is left behind but tables marked `copying`, which the next job begins anew. When it fails
/// for one table, all others are copied, but for those that the target's foreign keys tie to that one.
pub async fn copy(
    job: Arc<CopyJob>,
    observer: Arc<dyn CopyObserver>,
    cancel: &CancellationToken,
) -> Result<(), CopyError> {
    if job.scope.tables.is_empty() {
        return Ok(());
    }
    let beginning = Patience::new(job.patience);
    let (Prepared { waves, keys }, mut open) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(CopyError::Cancelled),
        prepared = prepare_and_open(&job) => prepared?,
        hung = patience::hung(&job, &beginning) => return Err(hung),
    };
    let workers = job.scope.settings.workers.max(1);
    let context = Arc::new(Context::new(job, observer, keys));
    let worker = |_| Worker::new(Arc::clone(&context), open.pop().unwrap_or_default());
    let mut workers: Vec<Worker> = (0..workers).map(worker).collect();
    for wave in waves {
        let wave = wave.into_iter().filter(|plan| !context.aside.has(&plan.table)).collect();
        let shares = shares(wave, &context);
        workers = copy_wave(workers, shares, &context, cancel).await?;
    }
    context.aside.first_error().map_or(Ok(()), Err)
}

/// Prepares the tables, and connects meanwhile for the workers there will certainly be work for. One that cannot
/// connect yet tries again when its turn comes, and says then what is wrong.
async fn prepare_and_open(job: &CopyJob) -> Result<(Prepared, Vec<Connections>), CopyError> {
    let certain = job.scope.settings.workers.clamp(1, job.scope.tables.len());
    let connect = async || tokio::join!(job.open_source(), job.open_target());
    let opening = async { Ok(join_all((0..certain).map(|_| connect())).await) };
    let (prepared, open) = tokio::try_join!(prepare(job), opening)?;
    let open = open.into_iter().map(|(source, target)| Connections { source: source.ok(), target: target.ok() });
    Ok((prepared, open.collect()))
}

/// The pieces of a wave's tables, largest first, so that no large one is left for the end.
fn shares(wave: Vec<TablePlan>, context: &Context) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for plan in wave {
        let pieces = plan.pieces.len();
        let table = Arc::new(TableRun::new(plan));
        context.report(&table, CopyState::Copying);
        shares.extend((0..pieces).map(|piece| Share { table: Arc::clone(&table), piece }));
    }
    shares.sort_by_key(|share| std::cmp::Reverse(share.piece().bytes));
    shares
}

/// Lets the workers take the shares one by one until none is left or one worker fails by more than its table; then the
/// others are stopped.
async fn copy_wave(
    workers: Vec<Worker>,
    shares: Vec<Share>,
    context: &Arc<Context>,
    cancel: &CancellationToken,
) -> Result<Vec<Worker>, CopyError> {
    let shares: Arc<[Share]> = shares.into();
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        let (shares, next, context) = (Arc::clone(&shares), Arc::clone(&next), Arc::clone(context));
        tasks.spawn(async move {
            while let Some(share) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
                if context.aside.has(share.table.name()) {
                    continue;
                }
                match worker.copy(share).await {
                    Err(error) if error.concerns_one_table() => context.set_aside(share.table.name(), error),
                    copied => copied?,
                }
            }
            Ok(worker)
        });
    }
    let hung = patience::hung(&context.job, &context.patience);
    tokio::pin!(hung);
    let mut rested = Vec::new();
    let failed = loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break CopyError::Cancelled,
            hung = &mut hung => break hung,
            joined = tasks.join_next() => match joined {
                None => return Ok(rested),
                Some(Ok(Ok(worker))) => rested.push(worker),
                Some(Ok(Err(error))) => break error,
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            },
        }
    };
    // Waits until the tasks, and with them their connections, are gone.
    tasks.shutdown().await;
    Err(failed)
}
