//! The daemon: puts the stages together, starts them, waits as a standby, and stops them in order.
//!
//! | file | what it does |
//! |---|---|
//! | `control.rs` | what is asked of the daemon: signals, and commands over HTTP |
//! | `life.rs` | from one stretch of being active to the next: retries, reloads |
//! | `active.rs` | one such stretch, from standing by to its end |
//! | `simulation.rs` | all of it but the servers, under seeds (a test) |
//! | `setup.rs` | the configuration, ready for use |
//! | `startup.rs` | is the slot ours, and may it be followed? |
//! | `gap.rs` | may this target be fed from it? (pure) |
//! | `pipeline.rs` | THE PATH |
//! | `place.rs` | is the target a database of its own? |
//! | `dispatch.rs` | from the path to the targets' queues |
//! | `follow.rs` | which copied tables are still followed |
//! | `format.rs` | text or binary (pure) |
//! | `gait.rs` | how fast |
//! | `thread.rs` | the thread on which the path runs |
//! | `target.rs` | one target: fed, and attached again whenever it comes back |
//! | `target/attach.rs` | checked, copied, ready to be fed |
//! | `target/own.rs` | when it gets a lane of its own, and joins the others again |
//! | `target/pause.rs` | left alone until told to go on |
//! | `target/tables.rs` | the tables that it does not have yet |
//! | `tables.rs` | tables brought in beside the stream |
//! | `copy.rs` | a copy, put together |
//! | `target/promoted.rs` | on with a source that was promoted |
//! | `account.rs` | one lane's positions: what may be confirmed, who is behind |
//! | `board.rs` | what all report: metrics, status |
//! | `board/tables.rs` | what is told of a target's tables |
//! | `lag.rs` | how far a target is behind (pure) |
//! | `lane.rs` | a slot and a path for one target |
//! | `side.rs` | a path beside the main one |
//! | `lane/choice.rs` | which slot feeds a target, and its way from one lane to the other (pure) |
//! | `share.rs` | when a standby needs the slot to move (pure) |
//! | `watch.rs` | lock, slot, publication, lag |
//! | `wish.rs` | which targets are to pause, or to go on |
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
//! # When another server takes the source's place
//! Whoever connects again, path or watch, compares system identifier and timeline with those that were found at the
//! start. When they differ, all is begun anew, and every target checked: it goes on if the promoted server has all that
//! the target has (`target/promoted.rs`), else it is refused, with both positions. A standby that has not been promoted
//! yet is waited for.
//!
//! # Reloading
//! What can be taken over at once is. For the rest the stream is drained, as when stopping, and begun anew within the
//! same process, which keeps the stream's lock meanwhile: no standby takes it for gone.
//!
//! # Stopping
//! `stop` is given: the path stops reading and closes the queues; copies and waits end at once; workers commit what is
//! queued, store their progress and have it on the target's disk; the last positions are confirmed; the replication
//! connection is closed in order, so that the slot is free at once. Whatever takes longer than `apply.drain_timeout` is
//! cut off: as after a crash, what is not committed comes again.

mod account;
mod active;
mod board;
mod control;
mod copy;
mod dispatch;
pub mod error;
mod follow;
mod format;
mod gait;
pub mod gap;
mod gauges;
mod lag;
mod lane;
mod life;
mod pipeline;
mod place;
pub mod setup;
mod share;
mod side;
#[cfg(test)]
mod simulation;
mod startup;
mod tables;
mod target;
mod thread;
mod watch;
mod wish;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::control::Control;
use self::error::LaunchError;
use self::wish::Wishes;
use crate::config::Config;
use crate::telemetry::control::Commands;
use crate::telemetry::health::Health;
use crate::telemetry::http::{Access, Daemon, Server};
use crate::telemetry::logging::LogControl;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_manager::ServiceManager;

/// Runs the daemon until a signal stops it.
///
/// # Errors
/// What does not pass and concerns the whole stream; a single target's errors do not end the daemon.
pub async fn run(config: Config, file: Option<PathBuf>, log: LogControl) -> anyhow::Result<()> {
    let health = Health::new(&config.source.slot, config.targets.iter().map(|target| target.name.as_str()));
    let metrics = Metrics::new(&config.source.slot);
    let (commands, requests) = Commands::new();
    let access = Access::new(config.http.token_file.clone());
    let daemon = Daemon { metrics: metrics.clone(), health: health.clone(), commands, access };
    let bound = Server::bind(config.http.listen, daemon).await;
    let server = bound.map_err(LaunchError::from)?;
    let closing = CancellationToken::new();
    let server = tokio::spawn({
        let closing = closing.clone();
        async move { server.run(closing).await }
    });
    let stop = CancellationToken::new();
    let manager = ServiceManager::default();
    let (wanted, wants) = tokio::sync::watch::channel(Arc::new(config));
    let wishes = Wishes::default();
    let control =
        Control { wanted, wishes: wishes.clone(), health: health.clone(), file, log, manager: manager.clone() };
    control.listen(requests, stop.clone())?;
    let told = tokio::spawn(manager.keep_told(health.clone(), stop.clone()));
    let result = health.clone().beating("the daemon", life::live(wants, wishes, health, metrics, &stop)).await;
    told.abort();
    closing.cancel();
    server.await??;
    result
}
