//! One target's worker: takes from its queue, applies, and does not give up while it holds what it has to apply.
//!
//! An error that may pass is met with backoff, any other with a slow retry, so that a target goes on by itself once
//! mended. Either way the worker keeps the batch it holds and its queue; only when a transaction in pieces is lost, or
//! the target is not where it was left, must the stream be read again from the target's stored progress: then `run`
//! returns, and whoever started it checks positions anew.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use super::dead_letter::watch::Watch;
use super::error::ApplyError;
use super::exact::{AppliedTo, Applier};
use super::flush::Flush;
use super::observer::Observer;
use super::progress;
use super::queue::{Ahead, Batch, Receiver, Work};
use super::session::{Session, SessionOptions};
use super::silence::{closed, silence};
use crate::change::Part;
use crate::error::{Judged, Verdict};
use crate::lsn::EndLsn;
use crate::postgres::PgError;

/// What a worker needs to know.
#[derive(Clone)]
pub struct WorkerOptions {
    /// How to (re)connect.
    pub session: SessionOptions,
    /// What is applied on whose behalf.
    pub to: AppliedTo,
    /// The most that is applied in one target transaction, except for single larger transactions.
    pub batch_bytes: u64,
    /// The longest wait between retries.
    pub retry_max_interval: Duration,
    /// The wait between tries while halted.
    pub halted_retry_interval: Duration,
    /// Whether what concerns one table only, and does not pass, ends the worker: the others go on without that table.
    pub quarantines: bool,
}

/// Why a worker ended.
#[derive(Debug)]
pub enum Ended {
    /// The queue was closed and everything in it is applied.
    Drained,
    /// The queue was frozen and everything in it is applied: the target can be attached again.
    CaughtUp,
    /// It was told to stop while it was not getting on.
    Cancelled,
    /// The stream must be read again from the target's stored progress.
    Lost(ApplyError),
}

struct Worker {
    options: WorkerOptions,
    applier: Applier,
    flush: Arc<Flush>,
    letters: Arc<Watch>,
    cancel: CancellationToken,
    backoff: ExponentialBackoff,
    failing: bool,
    /// What was taken from the queue already.
    next: Option<Work>,
}

/// Applies what comes through `queue` to the target behind `session`, whose stored progress `stored` is durable.
pub async fn run(
    mut options: WorkerOptions,
    session: Session,
    stored: EndLsn,
    queue: Receiver,
    cancel: CancellationToken,
) -> Ended {
    let (stream, synchronous) = (&options.to.stream.name, options.session.synchronous_commit);
    let flush = Flush::new(Arc::clone(&options.to.observer), stream, synchronous, stored, &session);
    let flush = Arc::new(flush);
    let letters = Arc::new(Watch::new(Arc::clone(&options.to.observer), stream, &session.client));
    options.to.observer = Arc::clone(&flush) as Arc<dyn Observer>;
    let applier = Applier::new(session, options.to.clone(), stored);
    let backoff = backoff(&options);
    let mut worker = Worker {
        options,
        applier,
        flush: Arc::clone(&flush),
        letters: Arc::clone(&letters),
        cancel,
        backoff,
        failing: false,
        next: None,
    };
    // One task: once it ends, nothing becomes durable any more behind the back of who attaches the target again.
    tokio::select! {
        biased;
        ended = worker.run(queue) => ended,
        never = flush.run() => match never {},
        never = letters.run() => match never {},
    }
}

/// A transaction in pieces cannot be gone on with.
fn restart(error: ApplyError) -> Ended {
    Ended::Lost(ApplyError::Restart(Box::new(error)))
}

fn backoff(options: &WorkerOptions) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(options.retry_max_interval)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Worker {
    async fn run(&mut self, mut queue: Receiver) -> Ended {
        loop {
            let work = tokio::select! {
                biased;
                error = self.flush.failed() => match self.lost(error, &queue).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                error = closed(&self.applier.session) => match self.lost(error, &queue).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                },
                work = async {
                    match self.next.take() {
                        Some(work) => work,
                        None => queue.next(self.options.batch_bytes).await,
                    }
                } => work,
            };
            let result = match work {
                Work::Batch(batch) => self.batch(&batch, &queue).await,
                Work::Piece(part, _held) => self.piece(&part, &queue).await,
                Work::Abort => self.abort(&queue).await,
                Work::Frozen => return Ended::CaughtUp,
                Work::Closed => {
                    self.abandon().await;
                    self.flush.settled().await;
                    return Ended::Drained;
                }
            };
            if let Err(ended) = result {
                return ended;
            }
        }
    }

    /// What is committed could not be made durable, or the target is gone while there is nothing to do by which that
    /// would be noticed. One that has crashed may have lost its last commits.
    async fn lost(&mut self, error: ApplyError, queue: &Receiver) -> Result<(), Ended> {
        if self.applier.open {
            return Err(restart(error));
        }
        self.meet(error, queue).await?;
        self.reopen(queue, None).await?;
        self.recovered(queue);
        Ok(())
    }

    /// Applies a batch, however long it takes.
    async fn batch(&mut self, batch: &Batch, queue: &Receiver) -> Result<(), Ended> {
        loop {
            let result = self.watched(queue, async |applier, ahead| applier.batch(batch, ahead).await).await;
            let error = match result {
                Ok(()) => {
                    // A position without changes is stored because the source, or the end, waits for it.
                    if batch.transactions.is_empty() {
                        self.flush.hurry();
                    }
                    self.recovered(queue);
                    return Ok(());
                }
                Err(error) => error,
            };
            self.meet(error, queue).await?;
            self.reopen(queue, Some(batch)).await?;
        }
    }

    /// Applies a stretch of a larger transaction.
    async fn piece(&mut self, part: &Arc<Part>, queue: &Receiver) -> Result<(), Ended> {
        let result = self.watched(queue, async |applier, ahead| applier.piece(part, ahead).await).await;
        result.map_err(restart)?;
        self.recovered(queue);
        Ok(())
    }

    /// Applies, and tells as soon as it is known that the target does not answer at all: the others wait for this one
    /// while its queue is full, and must not wait for what does not get on.
    async fn watched(
        &mut self,
        queue: &Receiver,
        apply: impl AsyncFnOnce(&mut Applier, &mut Ahead<'_>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let Self { options, applier, next, failing, .. } = self;
        let (beside, observer) = (Arc::clone(&applier.session.client), Arc::clone(&applier.observer));
        let mut ahead = Ahead::new(queue, options.batch_bytes, next);
        let silence = async {
            let error = silence(&beside, &options.session).await;
            *failing = true;
            queue.set_failing(true);
            observer.failed(&error, &error.verdict());
            std::future::pending().await
        };
        tokio::select! {
            biased;
            result = apply(applier, &mut ahead) => result,
            result = silence => result,
        }
    }

    /// Waits as long as the error asks for; ends if it cannot be met here.
    async fn meet(&mut self, error: ApplyError, queue: &Receiver) -> Result<(), Ended> {
        if let ApplyError::Fenced { .. }
        | ApplyError::Moved { .. }
        | ApplyError::NewTable(_)
        | ApplyError::Gone { .. } = error
        {
            return Err(Ended::Lost(error));
        }
        if self.options.quarantines && error.refused_table().is_some() {
            return Err(Ended::Lost(error));
        }
        let verdict = error.verdict();
        self.failing = true;
        queue.set_failing(true);
        self.applier.observer.failed(&error, &verdict);
        let wait = match verdict {
            Verdict::Retry => self.backoff.next().unwrap_or(self.options.retry_max_interval),
            Verdict::Halt { .. } => self.options.halted_retry_interval,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.cancel.cancelled() => Err(Ended::Cancelled),
        }
    }

    fn recovered(&mut self, queue: &Receiver) {
        if std::mem::take(&mut self.applier.wrote_letters) {
            self.letters.look();
        }
        if self.failing {
            self.failing = false;
            self.backoff = backoff(&self.options);
            queue.set_failing(false);
            self.applier.observer.running();
        }
    }

    /// Makes the session usable again. After a lost connection the outcome of the last COMMIT is unknown, and while a
    /// batch is tried again a session given up before may still commit it: the progress row tells, and may stand only
    /// where the batch in hand began, or at the end of one of its transactions.
    async fn reopen(&mut self, queue: &Receiver, batch: Option<&Batch>) -> Result<(), Ended> {
        loop {
            match self.try_reopen(batch).await {
                Ok(()) => return Ok(()),
                Err(error) => self.meet(error, queue).await?,
            }
        }
    }

    async fn try_reopen(&mut self, batch: Option<&Batch>) -> Result<(), ApplyError> {
        let fresh = if self.applier.session.is_open() {
            self.applier.rollback().await?;
            None
        } else {
            Some(Session::open(&self.options.session).await?)
        };
        let stream = &self.options.to.stream.name;
        let session = fresh.as_ref().unwrap_or(&self.applier.session);
        let found = progress::read(&session.client, stream).await?.and_then(|stored| stored.end_lsn);
        let expected = self.applier.stored;
        let possible = |end: EndLsn| {
            let ends = |batch: &Batch| {
                let mut ends = batch.transactions.iter().filter_map(|part| part.commit);
                batch.end == end || ends.any(|commit| commit.end_lsn == end)
            };
            end == expected || (end > expected && batch.is_some_and(ends))
        };
        let Some(end) = found.filter(|end| possible(*end)) else {
            return Err(ApplyError::moved(stream, expected, found));
        };
        self.flush.attend(session);
        self.letters.attend(&session.client);
        if end > expected {
            self.applier.observer.committed(end, None, None);
        }
        match fresh {
            Some(mut session) => {
                session.succeed(&mut self.applier.session);
                self.applier = Applier::new(session, self.options.to.clone(), end);
            }
            None => self.applier.stored = end,
        }
        Ok(())
    }

    /// Rolls back the transaction in pieces, which will come again.
    async fn abort(&mut self, queue: &Receiver) -> Result<(), Ended> {
        if !self.applier.open {
            return Ok(());
        }
        match self.applier.rollback().await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.meet(error.into(), queue).await?;
                self.reopen(queue, None).await
            }
        }
    }

    /// Ends politely: a transaction in pieces whose end will not come is rolled back now, not when the server notices.
    async fn abandon(&mut self) {
        if self.applier.open {
            // The connection is dropped next, which has the same effect.
            let _: Result<(), PgError> = self.applier.rollback().await;
        }
    }
}
