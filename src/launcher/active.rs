//! One stretch of being the active daemon: standing by, making ready, all tasks beside each other, and their end in
//! order.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::board::Board;
use super::dispatch::{self, Dispatcher};
use super::error::LaunchError;
use super::format::Format;
use super::gauges::Gauges;
use super::life::Left;
use super::pipeline::{PathObserver, Pipeline, PipelineOptions};
use super::place::Places;
use super::setup::Setup;
use super::startup;
use super::target::{Shared, TargetTask};
use super::thread::Thread;
use super::watch::{Held, Watch};
use super::wish::Wishes;
use crate::postgres::Client;
use crate::source::heartbeat;
use crate::source::lock::StreamLock;
use crate::source::wal_receiver::WalReceiver;
use crate::telemetry::state::SourceState;

/// How often a standby asks whether it is its turn. It asks and does not wait in the server (`pg_advisory_lock`): the
/// snapshot of a statement that waits keeps the source from cleaning up.
const STANDBY_INTERVAL: Duration = Duration::from_millis(200);

/// How long to wait for whoever looks at the source to be done with it.
const CLOSING: Duration = Duration::from_secs(1);

/// From standby to the end of this daemon's being the active one.
///
/// # Errors
/// What ended it, other than `stop`.
pub(super) async fn active(
    setup: &Arc<Setup>,
    board: &Arc<Board>,
    stop: &CancellationToken,
    left: &mut Left,
) -> Result<(), LaunchError> {
    board.source_state(SourceState::Connecting);
    let kept = left.held.take();
    let prepared = async {
        let (client, lock) = match kept {
            Some(held) if held.is_of(setup).await => (held.client, held.lock),
            _ => {
                let client = Client::connect(&setup.source, &setup.application_name()).await?;
                let lock = acquire(setup, board, &client, &left.wishes).await?;
                (client, lock)
            }
        };
        let prepared = startup::prepare(setup, &client, board).await?;
        Ok::<_, LaunchError>((client, lock, prepared))
    };
    let (client, lock, prepared) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        prepared = prepared => prepared?,
    };
    left.was_active = true;
    let gauges = Gauges::new(setup.targets.len());
    let (commands, received) = mpsc::unbounded_channel();
    let to_path = commands.clone();
    let publication = tokio::sync::watch::Sender::new(Arc::new(prepared.publication));
    // What stops this stretch of being active: the signal, or the failure of one of its tasks.
    let ending = stop.child_token();
    let shared = Arc::new(Shared {
        setup: Arc::clone(setup),
        facts: prepared.facts.clone(),
        server_version: client.server_version(),
        own: prepared.own.clone(),
        board: Arc::clone(board),
        commands,
        publication: publication.clone(),
        gauges: gauges.clone(),
        places: Places::default(),
        wishes: left.wishes.clone(),
        stop: ending.clone(),
    });
    // All are made before the first one runs, and looks at what is published: the snapshot is older than that.
    let task = |place| TargetTask::new(Arc::clone(&shared), place, prepared.snapshot.clone()).run();
    let tasks: Vec<_> = (0..setup.targets.len()).map(task).collect();
    let targets: JoinSet<()> = tasks.into_iter().collect();
    drop((shared, prepared.snapshot));
    let format = Format::new(setup.config.source.values, client.server_version(), publication.subscribe());
    let facts = prepared.facts.clone();
    let watch = Watch {
        setup: Arc::clone(setup),
        facts,
        board: Arc::clone(board),
        gauges,
        client,
        lock,
        publication,
        said: RefCell::default(),
        commands: to_path,
    };
    let path = pipeline(setup, board, prepared.facts, format, received, &ending);
    left.held = together(setup, board, path, watch, targets, &ending).await?;
    Ok(())
}

/// Waits until no other daemon is the active one.
async fn acquire(setup: &Setup, board: &Board, client: &Client, wishes: &Wishes) -> Result<StreamLock, LaunchError> {
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
            wishes.forget();
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
    let options = PipelineOptions::new(setup, &setup.stream, facts);
    let apply = &setup.config.apply;
    let dispatcher = Dispatcher::new(
        Arc::clone(board.main()),
        setup.targets.len(),
        apply.progress_bytes,
        apply.isolate_after.is_some(),
    );
    Pipeline::new(options, Arc::clone(board) as Arc<dyn PathObserver>, dispatcher, format, commands, stop.clone())
}

/// Runs the tasks until one ends, or all are told to stop; then stops the others in order. Gives the lock, if all was
/// well.
async fn together(
    setup: &Arc<Setup>,
    board: &Board,
    path: Pipeline,
    watch: Watch,
    mut targets: JoinSet<()>,
    ending: &CancellationToken,
) -> Result<Option<Held>, LaunchError> {
    let beats = beats(setup, ending);
    let watched = CancellationToken::new();
    let watching = watch.run(&watched);
    tokio::pin!(watching);
    let health = board.health().clone();
    let reading = async move { health.beating("reading the stream", path.run()).await };
    let mut path = Thread::start("walferry-source", reading).map_err(|error| failed(&error))?;
    let early = tokio::select! {
        ended = path.ended() => Early::Path(ended.unwrap_or_else(|| Err(failed(&"it panicked")))),
        ended = &mut watching => Early::Watch(ended),
        error = first_failed(&mut targets) => Early::Target(error),
    };
    let watches = !matches!(early, Early::Watch(_));
    let (failure, receiver) = match early {
        Early::Path(Ok(receiver)) => (None, receiver),
        Early::Path(Err(error)) => (Some(error), None),
        early => {
            let failure = early.failure();
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
    match failure {
        Some(error) => Err(error),
        None if watches => Ok(tokio::time::timeout(CLOSING, watching).await.ok().and_then(Result::ok)),
        None => Ok(None),
    }
}

/// The path's thread does not do its work.
fn failed(why: &dyn std::fmt::Display) -> LaunchError {
    LaunchError::TaskFailed { what: format!("reading the stream: {why}") }
}

/// What ended first.
enum Early {
    Path(Result<Option<WalReceiver>, LaunchError>),
    Watch(Result<Held, LaunchError>),
    Target(LaunchError),
}

impl Early {
    fn failure(self) -> Option<LaunchError> {
        match self {
            Self::Path(ended) => ended.err(),
            Self::Watch(ended) => ended.err(),
            Self::Target(error) => Some(error),
        }
    }
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
