//! The stream's life: from one stretch of being active to the next. What ends one is an error, which is met with a wait
//! or ends the daemon; a changed configuration; or the order to stop.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::active::active;
use super::board::Board;
use super::error::LaunchError;
use super::setup::{Setup, TargetSetup};
use super::watch::Held;
use super::wish::Wishes;
use crate::config::Config;
use crate::error::{Judged, Verdict};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// What one stretch of being active leaves to the next.
#[derive(Default)]
pub(super) struct Left {
    /// Whether this daemon has been the active one.
    pub was_active: bool,
    /// The stream's lock, unless the stretch has failed.
    pub held: Option<Held>,
    /// What operators want of the targets and is not written there yet.
    pub wishes: Wishes,
}

/// Lives by the configuration that is wanted, as it changes, until told to stop.
///
/// # Errors
/// What does not pass and concerns the whole stream.
pub async fn live(
    mut wants: watch::Receiver<Arc<Config>>,
    wishes: Wishes,
    health: Health,
    metrics: Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut left = Left { wishes, ..Left::default() };
    let mut setup = setup(&mut wants)?;
    let mut backoff = delays(&setup);
    loop {
        let begun = Instant::now();
        let names: Vec<String> = setup.targets.iter().map(|target| target.name.clone()).collect();
        health.keep_targets(&names);
        left.wishes.keep(&names);
        let board = Arc::new(Board::new(&names, health.clone(), metrics.clone()));
        let ended = stretch(&setup, &board, &mut wants, stop, &mut left).await;
        // What went well for long is not held against it.
        if begun.elapsed() > setup.retry_max_interval() {
            backoff = delays(&setup);
        }
        if let Err(error) = ended {
            board.source_failed(&error);
            let wait = match error.verdict() {
                Verdict::Retry => again(&error, backoff.next().unwrap_or(setup.retry_max_interval())),
                Verdict::Halt { .. } if left.was_active && error.is_of_connection() => {
                    setup.config.apply.halted_retry_interval
                }
                Verdict::Halt { .. } => return Err(error.into()),
            };
            wait_for(wait, &mut wants, stop).await;
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        let again = self::setup(&mut wants)?;
        if again.config != setup.config {
            let is_gone = |target: &TargetSetup| again.targets.iter().all(|other| other.name != target.name);
            if setup.targets.iter().any(is_gone) {
                metrics.begin_anew();
            }
            setup = again;
            backoff = delays(&setup);
        }
    }
}

/// While there is no server, or none that was promoted yet, it is asked for this often.
const ABSENT: Duration = Duration::from_secs(2);

/// How long to wait after an error that may pass, for which this wait would be due.
pub(super) fn again(error: &LaunchError, due: Duration) -> Duration {
    if error.is_of_absence() { due.min(ABSENT) } else { due }
}

/// Waits, unless it is time to stop, or another configuration is wanted meanwhile.
async fn wait_for(wait: Duration, wants: &mut watch::Receiver<Arc<Config>>, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
        Ok(()) = wants.changed() => {}
    }
}

/// Whoever accepted the configuration has found that it can be used.
fn setup(wants: &mut watch::Receiver<Arc<Config>>) -> Result<Arc<Setup>, LaunchError> {
    let config = Config::clone(&wants.borrow_and_update());
    Setup::new(config).map(Arc::new)
}

fn delays(setup: &Setup) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(setup.retry_max_interval())
        .with_jitter()
        .without_max_times()
        .build()
}

/// One stretch of being active, which also ends in order when another configuration is wanted.
async fn stretch(
    setup: &Arc<Setup>,
    board: &Arc<Board>,
    wants: &mut watch::Receiver<Arc<Config>>,
    stop: &CancellationToken,
    left: &mut Left,
) -> Result<(), LaunchError> {
    let ending = stop.child_token();
    let active = active(setup, board, &ending, left);
    tokio::pin!(active);
    tokio::select! {
        ended = &mut active => ended,
        Ok(()) = wants.changed() => {
            info!("the configuration has changed: what is queued is applied, then the stream begins anew");
            ending.cancel();
            active.await
        }
    }
}
