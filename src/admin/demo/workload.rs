//! The application: several sessions that write to the source at a given rate until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval, interval_at};
use tokio_util::sync::CancellationToken;

use super::shop::DATABASE;
use super::steps::{self, Random, Step};
use crate::admin::CommandError;
use crate::admin::throwaway::Server;
use crate::admin::throwaway::site::random;
use crate::postgres::{Client, PgError};
use crate::sql::Sql;

/// Sessions that write at the same time.
const WRITERS: u32 = 4;

/// Until tables are emptied for the first time (while they are copied, if the daemon is slow), and from then on.
const TRUNCATE_FIRST: Duration = Duration::from_millis(2500);
const TRUNCATE_INTERVAL: Duration = Duration::from_millis(3700);

/// Refusals that concurrency brings with it; the application goes on: unique and foreign key violation, serialization
/// failure, deadlock, lock not available (PostgreSQL docs: Appendix A).
const EXPECTED: [&str; 5] = ["23505", "23503", "40001", "40P01", "55P03"];

/// What has been written so far.
#[derive(Debug, Default)]
pub struct Written {
    /// Transactions that committed.
    pub committed: AtomicU64,
    /// Transactions that rolled back, by the application or because the server refused them.
    pub rolled_back: AtomicU64,
}

/// The running writers. Dropping it stops them at once.
pub struct Workload {
    /// What has been written so far.
    pub written: Arc<Written>,
    writers: JoinSet<Result<(), CommandError>>,
    stop: CancellationToken,
}

impl Workload {
    /// Starts writing: `rate` transactions in each second, if the server can.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn start(source: &Server, rate: u32) -> Result<Self, CommandError> {
        let (written, stop) = (Arc::new(Written::default()), CancellationToken::new());
        let mut writers = JoinSet::new();
        let pause = Duration::from_secs(1) * WRITERS / rate;
        for _ in 0..WRITERS {
            let random = Random::new(u64::from_ne_bytes(random()?));
            let writer = Writer { client: source.connect(DATABASE).await?, written: Arc::clone(&written) };
            writers.spawn(writer.write(random, pause, stop.clone()));
        }
        let writer = Writer { client: source.connect(DATABASE).await?, written: Arc::clone(&written) };
        writers.spawn(writer.truncate(stop.clone()));
        Ok(Self { written, writers, stop })
    }

    /// Lets the transactions that are under way end.
    ///
    /// # Errors
    /// What went wrong for a writer at any time.
    pub async fn stop(mut self) -> Result<(), CommandError> {
        self.stop.cancel();
        while let Some(ended) = self.writers.join_next().await {
            ended.map_err(|panic| CommandError::failed("a writer broke down").because(panic))??;
        }
        Ok(())
    }
}

struct Writer {
    client: Client,
    written: Arc<Written>,
}

impl Writer {
    async fn write(self, mut random: Random, pause: Duration, stop: CancellationToken) -> Result<(), CommandError> {
        // Ticks that were missed while the server was slow are caught up with.
        let mut ticks = interval(pause.max(Duration::from_micros(1)));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => self.carry_out(&steps::next(&mut random)).await?,
            }
        }
    }

    async fn truncate(self, stop: CancellationToken) -> Result<(), CommandError> {
        let mut ticks = interval_at(Instant::now() + TRUNCATE_FIRST, TRUNCATE_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => self.carry_out(&Step { sql: steps::TRUNCATE, commits: true }).await?,
            }
        }
    }

    async fn carry_out(&self, step: &Step) -> Result<(), CommandError> {
        let failed = |error| CommandError::at("writing to the source", error);
        let committed = match self.client.batch(&step.sql).await {
            Ok(()) => step.commits,
            Err(error) if is_expected(&error) => {
                self.client.batch(&Sql::new("ROLLBACK")).await.map_err(failed)?;
                false
            }
            Err(error) => return Err(failed(error)),
        };
        let counter = if committed { &self.written.committed } else { &self.written.rolled_back };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn is_expected(error: &PgError) -> bool {
    error.code().is_some_and(|code| EXPECTED.contains(&code))
}
