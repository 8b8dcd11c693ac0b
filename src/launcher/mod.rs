//! The daemon: puts the stages together, starts them, waits as a standby, and stops them in order.
//!
//! | file | what it does |
//! |---|---|
//! | `setup.rs` | the configuration, ready for use |
//! | `startup.rs` | is the slot ours, and may it be followed? |
//! | `gap.rs` | may this target be fed from it? (pure) |
//! | `pipeline.rs` | THE PATH |
//! | `place.rs` | is the target a database of its own? |
//! | `dispatch.rs` | from the path to the targets' queues |
//! | `follow.rs` | which copied tables are still followed |
//! | `format.rs` | text or binary (pure) |
//! | `thread.rs` | the thread on which the path runs |
//! | `target.rs` | one target: fed, and attached again whenever it comes back |
//! | `target/attach.rs` | checked, copied, ready to be fed |
//! | `board.rs` | what all report: feedback, metrics, status |
//! | `lag.rs` | how far a target is behind (pure) |
//! | `watch.rs` | lock, slot, publication, lag |
//! | `signals.rs` | SIGTERM, SIGINT, SIGHUP |
//!
//! # One daemon is the active one
//! Three things see to it, each on its own: an advisory lock on the source, so that a second daemon waits before it
//! touches anything; the slot, which the server lets one connection use; and the progress row's compare-and-set, which
//! makes a daemon that has not noticed that it was replaced fail without having written anything.
//!
//! # When the source fails
//! What may pass is tried again with backoff. What needs somebody ends the daemon, with the way out; but once it has
//! been the active one, a server that refuses its connection, or is none, is tried again as slowly as a halted target:
//! failovers and passwords on their way in look like that.
//!
//! # Stopping
//! `stop` is given: the path stops reading and closes the queues; copies and waits end at once; workers commit what is
//! queued, store their progress and have it on the target's disk; the last positions are confirmed; the replication
//! connection is closed in order, so that the slot is free at once. Whatever takes longer than `apply.drain_timeout` is
//! cut off: as after a crash, what is not committed comes again.

mod board;
mod dispatch;
pub mod error;
mod follow;
mod format;
pub mod gap;
mod gauges;
mod lag;
mod pipeline;
mod place;
pub mod setup;
mod signals;
mod startup;
mod target;
mod thread;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::board::Board;
use self::dispatch::Dispatcher;
use self::error::LaunchError;
use self::format::Format;
use self::gauges::Gauges;
use self::pipeline::{Pipeline, PipelineOptions};
use self::place::Places;
use self::setup::Setup;
use self::target::{Shared, TargetTask};
use self::thread::Thread;
use self::watch::Watch;
use crate::config::Config;
use crate::error::{Judged, Verdict};
use crate::postgres::Client;
use crate::source::heartbeat;
use crate::source::lock::StreamLock;
use crate::source::wal_receiver::{StartOptions, WalReceiver};
use crate::telemetry::health::Health;
use crate::telemetry::http::Server;
use crate::telemetry::logging::LogControl;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_manager::ServiceManager;
use crate::telemetry::state::SourceState;

/// How often a standby asks whether it is its turn. It asks and does not wait in the server (`pg_advisory_lock`): the
/// snapshot of a statement that waits keeps the source from cleaning up.
const STANDBY_INTERVAL: Duration = Duration::from_millis(200);

/// Part of a transaction in memory: four parts fill a queue, so that large transactions flow.
const PARTS_PER_QUEUE: u64 = 4;

/// Runs the daemon until a signal stops it.
///
/// # Errors
/// What does not pass and concerns the whole stream; a single target's errors do not end the daemon.
pub async fn run(config: Config, file: Option<PathBuf>, log: LogControl) -> anyhow::Result<()> {
    let names: Vec<String> = config.targets.iter().map(|target| target.name.clone()).collect();
    let health = Health::new(&config.source.slot, names.iter().map(String::as_str));
    let metrics = Metrics::new(&config.source.slot);
    let bound = Server::bind(config.http.listen, metrics.clone(), health.clone()).await;
    let server = bound.map_err(LaunchError::from)?;
    let closing = CancellationToken::new();
    let server = tokio::spawn({
        let closing = closing.clone();
        async move { server.run(closing).await }
    });
    let stop = CancellationToken::new();
    let manager = ServiceManager::default();
    signals::listen(stop.clone(), config.clone(), file, log, manager.clone())?;
    let told = tokio::spawn(manager.keep_told(health.clone(), stop.clone()));
    let result = health.clone().beating("the daemon", stream(config, &names, health, metrics, &stop)).await;
    told.abort();
    closing.cancel();
    server.await??;
    result
}

async fn stream(
    config: Config,
    names: &[String],
    health: Health,
    metrics: Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let setup = Arc::new(Setup::new(config)?);
    let delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(setup.retry_max_interval())
        .with_jitter()
        .without_max_times();
    let mut backoff = delays.build();
    let mut was_active = false;
    loop {
        let begun = Instant::now();
        let board = Arc::new(Board::new(names, health.clone(), metrics.clone()));
        let error = match active(&setup, &board, stop, &mut was_active).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        board.source_failed(&error);
        // What went well for long is not held against it.
        if begun.elapsed() > setup.retry_max_interval() {
            backoff = delays.build();
        }
        let wait = match error.verdict() {
            Verdict::Retry => backoff.next().unwrap_or(setup.retry_max_interval()),
            Verdict::Halt { .. } if was_active && error.is_of_connection() => setup.config.apply.halted_retry_interval,
            Verdict::Halt { .. } => return Err(error.into()),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// From standby to the end of this daemon's being the active one.
async fn active(
    setup: &Arc<Setup>,
    board: &Arc<Board>,
    stop: &CancellationToken,
    was_active: &mut bool,
) -> Result<(), LaunchError> {
    board.source_state(SourceState::Connecting);
    let prepared = async {
        let client = Client::connect(&setup.source, &setup.application_name()).await?;
        let lock = acquire(setup, board, &client).await?;
        let prepared = startup::prepare(setup, &client, board).await?;
        Ok::<_, LaunchError>((client, lock, prepared))
    };
    let (client, lock, prepared) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        prepared = prepared => prepared?,
    };
    *was_active = true;
    let gauges = Gauges::new(setup.targets.len());
    let (commands, received) = mpsc::unbounded_channel();
    let publication = tokio::sync::watch::Sender::new(Arc::new(prepared.publication));
    // What stops this stretch of being active: the signal, or the failure of one of its tasks.
    let ending = stop.child_token();
    let shared = Arc::new(Shared {
        setup: Arc::clone(setup),
        facts: prepared.facts.clone(),
        board: Arc::clone(board),
        commands,
        publication: publication.clone(),
        gauges: gauges.clone(),
        places: Places::default(),
        stop: ending.clone(),
    });
    // All are made before the first one runs, and looks at what is published: the snapshot is older than that.
    let task = |place| TargetTask::new(Arc::clone(&shared), place, prepared.snapshot.clone()).run();
    let tasks: Vec<_> = (0..setup.targets.len()).map(task).collect();
    let targets: JoinSet<()> = tasks.into_iter().collect();
    drop((shared, prepared.snapshot));
    let format = Format::new(setup.config.source.values, client.server_version(), publication.subscribe());
    let watch = Watch { setup: Arc::clone(setup), board: Arc::clone(board), gauges, client, lock, publication };
    let path = pipeline(setup, board, prepared.facts, format, received, &ending);
    together(setup, board, path, watch, targets, &ending).await
}

/// Waits until no other daemon is the active one.
async fn acquire(setup: &Setup, board: &Board, client: &Client) -> Result<StreamLock, LaunchError> {
    let mut waiting = false;
    loop {
        if let Some(lock) = StreamLock::try_acquire(client, &setup.stream).await? {
            if waiting {
                info!(stream = setup.stream, "taking over");
            }
            return Ok(lock);
        }
        if !waiting {
            waiting = true;
            info!(stream = setup.stream, "another walferry is active; waiting as standby");
            board.source_state(SourceState::Standby);
        }
        tokio::time::sleep(STANDBY_INTERVAL).await;
    }
}

fn pipeline(
    setup: &Setup,
    board: &Arc<Board>,
    facts: startup::Facts,
    format: Format,
    commands: mpsc::UnboundedReceiver<dispatch::Command>,
    stop: &CancellationToken,
) -> Pipeline {
    let config = &setup.config;
    let options = PipelineOptions {
        connect: setup.source.clone(),
        application_name: setup.application_name(),
        start: StartOptions {
            status_interval: config.source.status_interval,
            ..StartOptions::new(config.source.slot.clone(), config.source.publication.clone())
        },
        facts,
        max_frame: usize::try_from(config.source.max_frame).unwrap_or(usize::MAX),
        part_bytes: usize::try_from(config.apply.queue_bytes / PARTS_PER_QUEUE).unwrap_or(usize::MAX),
        retry_max_interval: setup.retry_max_interval(),
        halted_retry_interval: config.apply.halted_retry_interval,
    };
    let dispatcher = Dispatcher::new(Arc::clone(board), setup.targets.len(), config.apply.progress_bytes);
    Pipeline::new(options, Arc::clone(board), dispatcher, format, commands, stop.clone())
}

/// Runs the tasks until one ends, or all are told to stop; then stops the others in order.
async fn together(
    setup: &Arc<Setup>,
    board: &Board,
    path: Pipeline,
    watch: Watch,
    mut targets: JoinSet<()>,
    ending: &CancellationToken,
) -> Result<(), LaunchError> {
    let beats = beats(setup, ending);
    let watched = CancellationToken::new();
    let watching = watch.run(&watched);
    tokio::pin!(watching);
    let health = board.health().clone();
    let reading = async move { health.beating("reading the stream", path.run()).await };
    let mut path = Thread::start("walferry-source", reading).map_err(|error| failed(&error))?;
    let early = tokio::select! {
        ended = path.ended() => Early::Path(ended.unwrap_or_else(|| Err(failed(&"it panicked")))),
        ended = &mut watching => Early::Other(ended.err()),
        error = first_failed(&mut targets) => Early::Other(Some(error)),
    };
    let (failure, receiver) = match early {
        Early::Path(Ok(receiver)) => (None, receiver),
        Early::Path(Err(error)) => (Some(error), None),
        Early::Other(failure) => {
            ending.cancel();
            let receiver = match path.ended().await {
                Some(Ok(receiver)) => receiver,
                Some(Err(error)) => {
                    warn!("the stream ended as well: {}", crate::error::chain(&error));
                    None
                }
                None => None,
            };
            (failure, receiver)
        }
    };
    ending.cancel();
    board.source_state(SourceState::Draining);
    let drained = async { while targets.join_next().await.is_some() {} };
    if tokio::time::timeout(setup.config.apply.drain_timeout, drained).await.is_err() {
        warn!("what is queued was not applied in time (apply.drain_timeout); it will come again");
    }
    targets.shutdown().await;
    if let Some(receiver) = receiver
        && let Err(error) = receiver.stop().await
    {
        warn!("the replication connection did not close in order: {}", crate::error::chain(&error));
    }
    watched.cancel();
    if let Some(beats) = beats {
        beats.abort();
    }
    failure.map_or(Ok(()), Err)
}

/// The path's thread does not do its work.
fn failed(why: &dyn std::fmt::Display) -> LaunchError {
    LaunchError::TaskFailed { what: format!("reading the stream: {why}") }
}

/// What ended first.
enum Early {
    Path(Result<Option<WalReceiver>, LaunchError>),
    Other(Option<LaunchError>),
}

/// Waits for a target's task that ends by a mistake of the program. Those that end in order, end when all do.
async fn first_failed(targets: &mut JoinSet<()>) -> LaunchError {
    while let Some(ended) = targets.join_next().await {
        if let Err(error) = ended {
            return LaunchError::TaskFailed { what: error.to_string() };
        }
    }
    std::future::pending().await
}

/// Starts the heartbeat, if there is to be one.
fn beats(setup: &Arc<Setup>, ending: &CancellationToken) -> Option<tokio::task::JoinHandle<()>> {
    let interval = setup.config.source.heartbeat_interval?;
    let (setup, ending) = (Arc::clone(setup), ending.clone());
    Some(tokio::spawn(async move { heartbeat::run(&setup.source, &setup.stream, interval, ending).await }))
}
