//! Beside the path: keeps the stream's lock, watches slot and publication, and keeps metrics and status up to date.
//!
//! A publication that vanishes would, from PostgreSQL 18 on, only be warned of in the server's log while its changes
//! are left out: so it is looked for all the time. One that has other tables than before makes every target attach
//! again, which copies what is new.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::board::Board;
use super::dispatch::Command;
use super::error::LaunchError;
use super::gauges::Gauges;
use super::setup::Setup;
use super::share::Sharing;
use super::startup::Facts;
use crate::config::ConnectionString;
use crate::error::{Judged, Verdict, chain};
use crate::lsn::Lsn;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::relation::TableName;
use crate::source::identity;
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

/// How long a source may take to answer a look.
const PATIENCE: Duration = Duration::from_secs(10);

/// The stream's lock, with the connection that has it.
pub struct Held {
    /// The session.
    pub client: Client,
    /// Its lock.
    pub lock: StreamLock,
    /// Where the session is.
    source: ConnectionString,
}

impl Held {
    /// Whether it is still held, as far as can be found out, and is what this configuration needs.
    pub async fn is_of(&self, setup: &Setup) -> bool {
        self.source == setup.config.source.url && self.client.answers_within(PATIENCE).await
    }
}

/// What it watches over.
pub struct Watch {
    /// The configuration.
    pub setup: Arc<Setup>,
    /// The source as found at the start.
    pub facts: Facts,
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
    /// The way to the stream's path.
    pub commands: mpsc::UnboundedSender<Command>,
    /// What was said of slots, by their names.
    pub said: RefCell<HashMap<String, Complaint>>,
}

/// What can be wrong with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// It keeps more than it may.
    Keeps,
    /// It has lost what it kept.
    Lost,
}

impl Watch {
    /// Watches until stopped.
    ///
    /// # Errors
    /// The stream is not ours any more, or its publication is gone.
    pub async fn run(mut self, stop: &CancellationToken) -> Result<Held, LaunchError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut count, mut failing, mut sharing) = (0_u32, false, Sharing::default());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(self.held()),
                _ = ticks.tick() => {}
            }
            self.tick();
            if count.is_multiple_of(LOOK) || self.client.is_closed() {
                // What is published has been read just now, for the start.
                let read = count > 0 && count.is_multiple_of(READ);
                let looked = self.ticking(timeout(PATIENCE, self.look(read))).await;
                let looked = looked.unwrap_or(Err(LaunchError::SourceSilent { waited: PATIENCE }));
                let error = looked.map(|standbys| self.share(&mut sharing, standbys)).err();
                let again = std::mem::replace(&mut failing, error.is_some());
                match error.as_ref().map(|error| (error, error.verdict())) {
                    None => {}
                    Some((_, Verdict::Halt { .. })) => return error.map_or_else(|| Ok(self.held()), Err),
                    // What does not answer twice may be half of a connection.
                    Some((LaunchError::SourceSilent { .. }, _)) if again => self.client.close(),
                    Some((error, Verdict::Retry)) if self.client.is_closed() => self.reconnect(error, stop).await?,
                    Some((error, Verdict::Retry)) if !again => warn!("cannot look at the source: {}", chain(error)),
                    Some(_) => {}
                }
            }
            count = count.wrapping_add(1);
        }
    }

    fn held(self) -> Held {
        Held { client: self.client, lock: self.lock, source: self.setup.config.source.url.clone() }
    }

    fn tick(&self) {
        self.board.tick(SystemTime::now(), |id| self.gauges.bytes(id));
        self.board.certificates(None, self.setup.source.tls.certificates.expiry());
        for target in &self.setup.targets {
            self.board.certificates(Some(target.id), target.connect.tls.certificates.expiry());
        }
    }

    /// Does something that may take long, and keeps lag and queues up to date meanwhile.
    async fn ticking<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => self.tick(),
            }
        }
    }

    /// Has the slot move if a standby needs it.
    fn share(&self, sharing: &mut Sharing, standbys: BTreeSet<String>) {
        if sharing.is_due(standbys, Instant::now()) {
            for target in &self.setup.targets {
                // A path that is gone ends all.
                let _: Result<(), mpsc::error::SendError<Command>> = self.commands.send(Command::Store(target.id));
            }
        }
    }

    /// Tells which standbys take the slot over.
    async fn look(&self, read: bool) -> Result<BTreeSet<String>, LaunchError> {
        let slot = slot::inspect(&self.client, &self.setup.stream).await?;
        let own = slot::lane::of(&self.client, &self.setup.stream).await?;
        let slots = || slot.iter().chain(&own);
        let retained = slots().filter_map(|slot| slot.retained_bytes).max();
        let safe = slots().filter_map(|slot| slot.safe_wal_size).map(|bytes| bytes.max(0).unsigned_abs()).min();
        let state = slot.as_ref().map_or(SlotState::Missing, |slot| state(slot.wal_status.as_deref()));
        self.board.slot(state, retained, safe);
        for target in &self.setup.targets {
            let name = slot::lane::name(&self.setup.stream, &target.name);
            let kept = own.iter().find(|slot| slot.name == name).and_then(|slot| slot.retained_bytes);
            self.board.own_slot_keeps(target.id, kept);
        }
        self.complain(slot.iter().chain(&own));
        let standbys = match slot.as_ref().is_some_and(|slot| slot.failover) {
            true => slot::failover::standbys(&self.client).await?,
            false => BTreeSet::new(),
        };
        if let Some((restart, retained)) = slot.and_then(|slot| slot.restart_lsn.zip(slot.retained_bytes)) {
            self.board.wal_end(Lsn::new(restart.as_u64() + retained));
        }
        if !read {
            return Ok(standbys);
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
        Ok(standbys)
    }

    /// Says, once for each, which slots keep more than they may, and which have lost what they kept.
    fn complain<'a>(&self, slots: impl Iterator<Item = &'a slot::Slot>) {
        let max = self.setup.config.source.max_retained_wal;
        let mut said = self.said.borrow_mut();
        let slots: Vec<&slot::Slot> = slots.collect();
        // One that is made again later is another one.
        said.retain(|name, _| slots.iter().any(|slot| slot.name == *name));
        for found in slots {
            let (slot, kept) = (&found.name, found.retained_bytes.unwrap_or(0));
            let complaint = match (found.is_lost(), max > 0 && kept > max) {
                (true, _) => Some(Complaint::Lost),
                (false, true) => Some(Complaint::Keeps),
                (false, false) => None,
            };
            if said.get(slot).copied() == complaint {
                continue;
            }
            match complaint {
                Some(Complaint::Lost) => {
                    let reason = found.invalidation_reason.as_deref().unwrap_or("max_slot_wal_keep_size");
                    error!(slot, reason, "the source has given up the slot: what it kept is gone");
                    said.insert(slot.clone(), Complaint::Lost);
                }
                Some(Complaint::Keeps) => {
                    warn!(slot, kept, max, "the slot makes the source keep more WAL than source.max_retained_wal");
                    said.insert(slot.clone(), Complaint::Keeps);
                }
                None => {
                    info!(slot, kept, "the slot keeps no more WAL than it may");
                    said.remove(slot);
                }
            }
        }
    }

    /// The connection that held the lock is gone: whoever has the lock next is the active one.
    async fn reconnect(&mut self, error: &LaunchError, stop: &CancellationToken) -> Result<(), LaunchError> {
        warn!("the connection that holds the stream's lock is lost: {}", chain(error));
        loop {
            let relocked = tokio::select! {
                relocked = self.ticking(relock(&self.setup, &self.facts)) => relocked,
                () = stop.cancelled() => return Ok(()),
            };
            match relocked {
                Ok(Some((client, lock))) => {
                    (self.client, self.lock) = (client, lock);
                    return Ok(());
                }
                Ok(None) => return Err(LaunchError::TakenOver { stream: self.setup.stream.clone() }),
                Err(error) => match error.verdict() {
                    Verdict::Halt { .. } => return Err(error),
                    // Every target is to be checked anew.
                    Verdict::Retry if matches!(error, LaunchError::SourceChanged { .. }) => return Err(error),
                    Verdict::Retry => {}
                },
            }
            self.tick();
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// The stream's lock on a new connection to the same server; `None` when somebody else has it.
async fn relock(setup: &Setup, facts: &Facts) -> Result<Option<(Client, StreamLock)>, LaunchError> {
    let name = setup.application_name();
    let client = Client::connect(&setup.source, &name).await?;
    let mut conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
    facts.is_same(&identity::identify(&mut conn).await?)?;
    let lock = StreamLock::try_acquire(&client, &setup.stream).await?;
    Ok(lock.map(|lock| (client, lock)))
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
