//! THE PATH: frames → messages → transactions → what each target gets → its queue; and feedback the other way.
//!
//! ```text
//!   WalReceiver ─▶ Decoder ─▶ Assembler ─▶ Dispatcher ─▶ queue[t] ─▶ apply worker t
//!        ▲ status task                                                    │
//!        └─────────────── Board: min over targets of what is durable ◀────┘
//! ```
//! One replication session lasts until the connection fails, or a target must be served from an earlier position than
//! the stream has reached, or there is nobody to serve, or values must come in another format (`format.rs`). The next
//! session starts with the earliest of the commits that the targets were given last; what they have had they skip.
//! Workers, with what is queued for them, outlive sessions.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::account::Account;
use super::dispatch::{Command, Dispatcher};
use super::error::LaunchError;
use super::format::{Format, Stranger};
use super::gait::Gait;
use super::life::again;
use super::setup::Setup;
use super::startup::Facts;
use crate::change::Delivery;
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::pgoutput::{Decoder, Message, ProtocolVersion, Streaming};
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, ConnectOptions, WireConnection};
use crate::source::slot;
use crate::source::wal_receiver::{Received, StartOptions, WalReceiver};
use crate::source::{SourceError, identity};
use crate::transaction::Assembler;

/// How many frames are handled before the other things the path listens to get their turn.
const STRETCH: usize = 1_000;

/// Part of a transaction in memory: four parts fill a queue, so that large transactions flow.
const PARTS_PER_QUEUE: u64 = 4;

/// Between two attempts to get a slot that another connection still has.
const OCCUPIED: Duration = Duration::from_millis(300);

/// How long a server that can be reached may take to begin a session.
const OPENING: Duration = Duration::from_secs(60);

/// The same once told to stop: one that has begun is ended in order, so that the slot is free at once.
const CLOSING: Duration = Duration::from_secs(2);

/// What the path is made with.
pub struct PipelineOptions {
    /// The source.
    pub connect: ConnectOptions,
    /// For a slot that ends with the connection it was made on: that connection. The path ends with its first session.
    pub only: Option<WireConnection>,
    /// `application_name`.
    pub application_name: String,
    /// Slot, publication, status interval; `start` is filled in.
    pub start: StartOptions,
    /// The source as found at the start: it must stay the same server.
    pub facts: Facts,
    /// The largest message accepted, in bytes.
    pub max_frame: usize,
    /// The size of a part, in bytes.
    pub part_bytes: usize,
    /// The longest wait between attempts.
    pub retry_max_interval: Duration,
    /// The wait between attempts while somebody has to act.
    pub halted_retry_interval: Duration,
    /// How fast it goes.
    pub gait: Gait,
}

impl PipelineOptions {
    /// A path that reads this slot of the source as found.
    pub fn new(setup: &Setup, slot: &str, facts: Facts) -> Self {
        let config = &setup.config;
        Self {
            connect: setup.source.clone(),
            only: None,
            application_name: setup.application_name(),
            start: StartOptions {
                status_interval: config.source.status_interval,
                ..StartOptions::new(slot.to_owned(), config.source.publication.clone())
            },
            facts,
            max_frame: usize::try_from(config.source.max_frame).unwrap_or(usize::MAX),
            part_bytes: usize::try_from(config.apply.queue_bytes / PARTS_PER_QUEUE).unwrap_or(usize::MAX),
            retry_max_interval: setup.retry_max_interval(),
            halted_retry_interval: config.apply.halted_retry_interval,
            gait: Gait::free(),
        }
    }
}

/// Hears of how a path is.
pub trait PathObserver: Send + Sync {
    /// A session has begun; `again`: not the first.
    fn streaming(&self, again: bool);
    /// A session has failed, or none could be had.
    fn failed(&self, error: &dyn Judged);
    /// There is nobody to feed.
    fn idle(&self);
}

/// The path, with its feeds.
pub struct Pipeline {
    options: PipelineOptions,
    /// Whether it has one session, and not a second one.
    once: bool,
    account: Arc<Account>,
    observer: Arc<dyn PathObserver>,
    dispatcher: Dispatcher,
    format: Format,
    commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
}

/// Why a session feeds nobody any more.
enum Fed {
    /// Another one must.
    Enough,
    /// Told to stop.
    Stop,
}

/// Why a session ended.
enum Session {
    /// The stream must be read again from an earlier position, or nobody is fed any more.
    Again,
    /// Told to stop; the receiver, if the session had begun, goes on sending status until the workers are done.
    Stop(Option<Box<WalReceiver>>),
}

impl Pipeline {
    /// A path without lanes; they come through `commands`.
    pub fn new(
        options: PipelineOptions,
        observer: Arc<dyn PathObserver>,
        dispatcher: Dispatcher,
        format: Format,
        commands: mpsc::UnboundedReceiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        let (account, once) = (Arc::clone(dispatcher.account()), options.only.is_some());
        Self { options, once, account, observer, dispatcher, format, commands, stop }
    }

    /// Runs until told to stop: then gives the receiver, still reporting status, or none if there is no session.
    ///
    /// # Errors
    /// What does not pass: the slot is gone, another server answers, what it sends is not understood.
    pub async fn run(mut self) -> Result<Option<WalReceiver>, LaunchError> {
        let mut patience = Patience::new(&self.options);
        loop {
            let Some(start) = self.first_lane().await else { return Ok(None) };
            let error = match self.session(start, &mut patience).await {
                Ok(Session::Stop(receiver)) => {
                    self.dispatcher.close();
                    return Ok(receiver.map(|receiver| *receiver));
                }
                Ok(Session::Again) => continue,
                Err(error) => error,
            };
            // What does not pass by itself ends the path, and so does what makes every target have to be checked anew.
            let halts = matches!(error.verdict(), Verdict::Halt { .. }) && !error.is_of_connection();
            if halts || self.once || matches!(error, LaunchError::SourceChanged { .. }) {
                return Err(error);
            }
            self.dispatcher.end_session();
            self.account.session_lost();
            tokio::select! {
                () = sleep(patience.wait(&error, &*self.observer)) => {}
                () = self.stop.cancelled() => {
                    self.dispatcher.close();
                    return Ok(None);
                }
            }
        }
    }

    /// One session, from its connection to its end.
    async fn session(&mut self, start: Lsn, patience: &mut Patience) -> Result<Session, LaunchError> {
        let stop = self.stop.clone();
        let opened = tokio::select! {
            opened = timeout(OPENING, self.open(start)) => opened,
            () = async { stop.cancelled().await; sleep(CLOSING).await } => return Ok(Session::Stop(None)),
        };
        let (receiver, confirmed) = opened.map_err(|_| LaunchError::SourceSilent { waited: OPENING })??;
        self.dispatcher.begin_session(start, confirmed);
        receiver.may_confirm();
        info!(start = %start, slot = self.options.start.slot, "streaming");
        self.observer.streaming(patience.sessions > 0);
        *patience = Patience { sessions: patience.sessions + 1, ..Patience::new(&self.options) };
        self.stream(receiver).await
    }

    /// Waits for the first lane; `None` when told to stop before.
    async fn first_lane(&mut self) -> Option<Lsn> {
        self.dispatcher.end_session();
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.dispatcher.command(command);
            }
            if let Some(start) = self.dispatcher.start() {
                return Some(start);
            }
            self.observer.idle();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                command = self.commands.recv() => self.dispatcher.command(command?),
            };
        }
    }

    /// Starts streaming; tells where the slot stands.
    async fn open(&mut self, start: Lsn) -> Result<(WalReceiver, Lsn), LaunchError> {
        let only = self.options.only.take();
        let options = &self.options;
        let mut conn = match only {
            Some(only) => only,
            None if self.once => return Err(SourceError::SlotMissing { slot: options.start.slot.clone() }.into()),
            None => WireConnection::connect(&options.connect, &options.application_name, Purpose::Replication).await?,
        };
        conn.reader.set_frame_limit(options.max_frame);
        let identity = identity::identify(&mut conn).await?;
        options.facts.is_same(&identity)?;
        let served = self.dispatcher.lowest().map_or(start, EndLsn::lsn);
        // A server restored from a backup leaves out what it commits below the position it is asked to start from.
        if identity.flush_lsn < served {
            return Err(LaunchError::SourceChanged {
                what: "the end of its WAL",
                before: format!("{served} or above"),
                now: identity.flush_lsn.to_string(),
            });
        }
        let text = match self.dispatcher.takes_binary() {
            true => self.format.obstacle(),
            false => Some("a target of a new version, or a table on its way in, takes nothing else".to_owned()),
        };
        match &text {
            Some(reason) => info!(reason, "values come as text"),
            None => info!("values come in binary"),
        }
        let (start, binary) = (Some(start), text.is_none());
        let from = StartOptions { start, binary, hold_confirmation: true, ..options.start.clone() };
        let receiver = match WalReceiver::start(conn, &from, self.account.confirmed()).await {
            Err(error) if is_as_on_standbys(&error) && self.leads_to_standby().await? => {
                return Err(SourceError::NotPromoted { slot: options.start.slot.clone() }.into());
            }
            started => started.map_err(slot_gone)?,
        };
        let confirmed = self.check_slot(served).await?;
        Ok((receiver, confirmed))
    }

    async fn leads_to_standby(&self) -> Result<bool, LaunchError> {
        let client = Client::connect(&self.options.connect, &self.options.application_name).await?;
        Ok(identity::in_recovery(&client).await?)
    }

    /// Where the slot stands, which may not be above what the targets were served up to: the server starts there, and
    /// does not say so. Asked while the slot is ours, so that nobody else moves it, and before anything is confirmed;
    /// what was received is not handed on before.
    async fn check_slot(&self, served: Lsn) -> Result<Lsn, LaunchError> {
        let options = &self.options;
        let client = Client::connect(&options.connect, &options.application_name).await?;
        let slot = slot::inspect(&client, &options.start.slot).await?;
        match slot.and_then(|slot| slot.confirmed_flush) {
            Some(confirmed) if confirmed > served => Err(LaunchError::SourceChanged {
                what: "the slot's confirmed position",
                before: format!("{served} or below"),
                now: confirmed.to_string(),
            }),
            confirmed => Ok(confirmed.unwrap_or(Lsn::ZERO)),
        }
    }

    /// One session. Lanes that attach meanwhile join it between two transactions, unless they need what has passed.
    async fn stream(&mut self, mut receiver: WalReceiver) -> Result<Session, LaunchError> {
        let mut path = Path {
            decoder: Decoder::new(ProtocolVersion::V1, Streaming::Off).binary(receiver.is_binary()),
            assembler: Assembler::new(self.options.part_bytes),
            deliveries: Vec::new(),
        };
        match self.feed(&mut receiver, &mut path).await {
            Ok(Fed::Stop) => Ok(Session::Stop(Some(Box::new(receiver)))),
            Ok(Fed::Enough) => {
                receiver.stop().await?;
                Ok(Session::Again)
            }
            Err(LaunchError::Stranger(stranger)) => {
                self.format.met(&stranger);
                receiver.stop().await?;
                Ok(Session::Again)
            }
            Err(error) => Err(error),
        }
    }

    /// Feeds the lanes until they need another session.
    async fn feed(&mut self, receiver: &mut WalReceiver, path: &mut Path) -> Result<Fed, LaunchError> {
        loop {
            if self.dispatcher.is_empty() || (receiver.is_binary() && !self.dispatcher.takes_binary()) {
                return Ok(Fed::Enough);
            }
            // In this order: stopping before working, a new lane before more for the others.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Fed::Stop),
                Some(command) = self.commands.recv(), if self.dispatcher.is_between_transactions() => {
                    if self.dispatcher.command(command) {
                        return Ok(Fed::Enough);
                    }
                }
                () = self.options.gait.rest(), if self.options.gait.rests() => {}
                received = receiver.next(), if !self.options.gait.rests() => {
                    let mut bytes = path.take(received?, &mut self.dispatcher, &self.stop).await?;
                    for _ in 0..STRETCH {
                        if !self.options.gait.goes_on(bytes) {
                            break;
                        }
                        let Some(received) = receiver.buffered()? else { break };
                        bytes += path.take(received, &mut self.dispatcher, &self.stop).await?;
                    }
                    self.options.gait.has_passed(bytes);
                    self.dispatcher.late(receiver.late());
                }
            }
        }
    }
}

/// Whether it is what standbys say of slots that wait for a promotion: 55000 of one that is kept as the primary has
/// it (`CreateDecodingContext`), 0A000 of any before PostgreSQL 16 (`CheckLogicalDecodingRequirements`); both in
/// logical.c.
fn is_as_on_standbys(error: &SourceError) -> bool {
    match error {
        SourceError::SlotUnusable { .. } => true,
        SourceError::Postgres { source, .. } => source.code() == Some("0A000"),
        _ => false,
    }
}

/// A slot that is gone may be lost, or about to be made anew by `walferry slot reset`, which has the stream's lock
/// then: whoever becomes the active one finds out.
fn slot_gone(error: SourceError) -> LaunchError {
    match error {
        SourceError::SlotMissing { slot } => LaunchError::SourceChanged {
            what: "its replication slot",
            before: format!("\"{slot}\""),
            now: "gone".to_owned(),
        },
        error => error.into(),
    }
}

/// How long to wait after an error, by what has happened since the last good session.
struct Patience {
    sessions: u64,
    backoff: ExponentialBackoff,
    max: Duration,
    halted: Duration,
    /// Whether it has been said that somebody else has the slot.
    said: bool,
}

impl Patience {
    fn new(options: &PipelineOptions) -> Self {
        let max = options.retry_max_interval;
        let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_delay(max);
        let backoff = backoff.with_jitter().without_max_times().build();
        Self { sessions: 0, backoff, max, halted: options.halted_retry_interval, said: false }
    }

    /// Reports the error, and gives the time to wait. Whoever holds the slot lets go of it sooner or later; then every
    /// moment counts, and it is said once.
    fn wait(&mut self, error: &LaunchError, observer: &dyn PathObserver) -> Duration {
        let occupied = matches!(error, LaunchError::Source(SourceError::SlotActive { .. }));
        if !(occupied && self.said) {
            observer.failed(error);
        }
        self.said = occupied;
        match error.verdict() {
            Verdict::Halt { .. } => self.halted,
            Verdict::Retry if occupied => OCCUPIED,
            Verdict::Retry => again(error, self.backoff.next().unwrap_or(self.max)),
        }
    }
}

/// From one frame to what the dispatcher takes.
struct Path {
    decoder: Decoder,
    assembler: Assembler,
    deliveries: Vec<Delivery>,
}

impl Path {
    /// Gives the message's size, in bytes.
    async fn take(
        &mut self,
        received: Received,
        dispatcher: &mut Dispatcher,
        stop: &CancellationToken,
    ) -> Result<usize, LaunchError> {
        // What is not handed on any more is not to be passed over either.
        if stop.is_cancelled() {
            return Ok(0);
        }
        let mut bytes = 0;
        match received {
            Received::Data { start, payload, .. } => {
                bytes = payload.len();
                let message = self.decoder.decode(payload)?;
                if let Message::Relation { relation, .. } = &message
                    && let Some(stranger) = Stranger::of(relation).filter(|_| relation.binary)
                {
                    return Err(LaunchError::Stranger(stranger));
                }
                self.assembler.push(message, start, &mut self.deliveries)?;
            }
            Received::Keepalive { wal_end, reply_requested } => {
                let quiet = self.assembler.keepalive(wal_end);
                // A source that shuts down asks, and waits until everything it has sent is confirmed (`WalSndDone`,
                // walsender.c): idle positions are stored now, not some day.
                let asked = quiet.clone().filter(|_| reply_requested);
                self.deliveries.extend(quiet);
                self.deliver(dispatcher, stop).await?;
                if let Some(Delivery::Quiet(end)) = asked {
                    dispatcher.store(end);
                }
            }
        }
        self.deliver(dispatcher, stop).await?;
        Ok(bytes)
    }

    /// Hands on what is complete.
    async fn deliver(&mut self, dispatcher: &mut Dispatcher, stop: &CancellationToken) -> Result<(), LaunchError> {
        for delivery in self.deliveries.drain(..) {
            if stop.is_cancelled() {
                break;
            }
            dispatcher.deliver(delivery, stop).await?;
        }
        Ok(())
    }
}
