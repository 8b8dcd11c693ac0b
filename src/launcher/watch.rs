//! Beside the path: keeps the stream's lock, watches slot and publication, and keeps metrics and status up to date.
//!
//! A publication that vanishes would, from PostgreSQL 18 on, only be warned of in the server's log while its changes
//! are left out: so it is looked for all the time. One that has other tables than before makes every target attach
//! again, which copies what is new.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::board::Board;
use super::error::LaunchError;
use super::gauges::Gauges;
use super::setup::Setup;
use crate::error::{Judged, Verdict, chain};
use crate::postgres::Client;
use crate::relation::TableName;
use crate::source::lock::StreamLock;
use crate::source::publication::{self, Publication};
use crate::source::slot;
use crate::telemetry::state::SlotState;

/// Between two updates of lag and queues.
const TICK: Duration = Duration::from_millis(500);

/// Ticks between two looks at slot and publication.
const LOOK: u32 = 10;

/// Ticks between two looks at what the publication holds, when it is known to exist.
const READ: u32 = 20;

/// What it watches over.
pub struct Watch {
    /// The configuration.
    pub setup: Arc<Setup>,
    /// Who is told.
    pub board: Arc<Board>,
    /// How full the queues are.
    pub gauges: Gauges,
    /// The connection that holds the lock.
    pub client: Client,
    /// Says that this daemon is the active one.
    pub lock: StreamLock,
    /// Where changes of the publication go.
    pub publication: watch::Sender<Arc<Publication>>,
}

impl Watch {
    /// Watches until stopped.
    ///
    /// # Errors
    /// The stream is not ours any more, or its publication is gone.
    pub async fn run(mut self, stop: &CancellationToken) -> Result<(), LaunchError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut count = 0_u32;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            self.board.tick(SystemTime::now(), |id| self.gauges.bytes(id));
            if count.is_multiple_of(LOOK)
                && let Err(error) = self.look(count.is_multiple_of(READ)).await
            {
                match error.verdict() {
                    Verdict::Halt { .. } => return Err(error),
                    Verdict::Retry if self.client.is_closed() => self.reconnect(&error, stop).await?,
                    Verdict::Retry => warn!("cannot look at the source: {}", chain(&error)),
                }
            }
            count = count.wrapping_add(1);
        }
    }

    async fn look(&self, read: bool) -> Result<(), LaunchError> {
        let slot = slot::inspect(&self.client, &self.setup.stream).await?;
        let retained = slot.as_ref().and_then(|slot| slot.retained_bytes);
        self.board.slot(slot.as_ref().map_or(SlotState::Missing, |slot| state(slot.wal_status.as_deref())), retained);
        if !read {
            return Ok(());
        }
        let name = &self.setup.config.source.publication;
        let Some(now) = publication::read(&self.client, name).await? else {
            return Err(publication::missing(name).into());
        };
        let (before, after) = (self.setup.chosen(&self.publication.borrow()), self.setup.chosen(&now));
        if before != after {
            let shown = |tables: BTreeSet<(TableName, u32, Vec<u32>)>| {
                tables.iter().map(|(name, ..)| name.to_string()).collect::<Vec<_>>().join(", ")
            };
            info!(
                added = shown(&after - &before),
                removed = shown(&before - &after),
                "the publication has other tables than before"
            );
            self.publication.send_replace(Arc::new(now));
        }
        Ok(())
    }

    /// The connection that held the lock is gone: whoever has the lock next is the active one.
    async fn reconnect(&mut self, error: &LaunchError, stop: &CancellationToken) -> Result<(), LaunchError> {
        warn!("the connection that holds the stream's lock is lost: {}", chain(error));
        loop {
            match self.try_reconnect().await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(LaunchError::TakenOver { stream: self.setup.stream.clone() }),
                Err(error) => match error.verdict() {
                    Verdict::Halt { .. } => return Err(error),
                    Verdict::Retry => {}
                },
            }
            self.board.tick(SystemTime::now(), |id| self.gauges.bytes(id));
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn try_reconnect(&mut self) -> Result<bool, LaunchError> {
        let client = Client::connect(&self.setup.source, &self.setup.application_name()).await?;
        let Some(lock) = StreamLock::try_acquire(&client, &self.setup.stream).await? else { return Ok(false) };
        (self.client, self.lock) = (client, lock);
        Ok(true)
    }
}

fn state(wal_status: Option<&str>) -> SlotState {
    match wal_status {
        Some("reserved") => SlotState::Reserved,
        Some("extended") => SlotState::Extended,
        Some("unreserved") => SlotState::Unreserved,
        Some("lost") => SlotState::Lost,
        _ => SlotState::Unknown,
    }
}
