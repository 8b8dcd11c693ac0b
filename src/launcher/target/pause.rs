//! A paused target: it is left alone, and the source keeps its WAL, until an operator lets it go on.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::TargetTask;
use crate::apply::progress;
use crate::change::TargetId;
use crate::error::chain;
use crate::launcher::dispatch::Command;
use crate::launcher::error::LaunchError;
use crate::launcher::wish::{Wanted, Wish};
use crate::postgres::Client;
use crate::telemetry::state::TargetState;

/// Waits until the target is to be paused, or something else is wanted of it or of one of its tables, or its slot is
/// `given_up`: then it is fed no more, and a worker that does not get on, because of that table perhaps, gives up
/// (`cancel`). Ends when the worker is still at what it was given after `patience`.
pub(super) async fn parting(
    id: TargetId,
    wanted: Wanted,
    commands: mpsc::UnboundedSender<Command>,
    cancel: CancellationToken,
    patience: Duration,
    given_up: impl Future<Output = ()>,
) {
    tokio::select! {
        () = wanted.until(Wish::Pause) => {}
        () = wanted.until(Wish::Resync) => {}
        () = wanted.until_of_tables() => {}
        () = given_up => {}
    }
    // A path that is gone feeds nobody.
    let _: Result<(), mpsc::error::SendError<Command>> = commands.send(Command::Detach(id));
    cancel.cancel();
    tokio::time::sleep(patience).await;
}

impl TargetTask {
    /// From now on it is paused; `since` is when it was, if the target says so.
    pub(super) fn begin_pause(&mut self, since: Option<String>) {
        // As long as a snapshot is held, the source cannot clean up behind it.
        self.snapshot = None;
        let (board, id) = (&self.shared.board, self.target().id);
        board.paused_at(id, since);
        board.target_state(id, TargetState::Paused);
        info!(target = self.target().name, "paused; the source keeps its WAL until the target goes on");
    }

    /// Holds still until told to go on, or dropped. A target that does not know `since` when it is paused is told as
    /// soon as it can be reached.
    pub(super) async fn paused(&self, since: &mut Option<String>) {
        let mut said = false;
        loop {
            tokio::select! {
                () = self.wanted.until(Wish::Resume) => break,
                () = self.wanted.until(Wish::Pause) => {}
            }
            // To its end: what is written must not be overtaken by going on.
            let wait = match self.note().await {
                Ok(noted) => {
                    *since = Some(noted);
                    self.shared.board.paused_at(self.target().id, since.clone());
                    self.wanted.noted(Wish::Pause);
                    continue;
                }
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        let (target, error) = (&self.target().name, chain(&error));
                        warn!(target, "would go on if this daemon ended: the target cannot be told: {error}");
                    }
                    self.shared.setup.retry_max_interval()
                }
            };
            tokio::select! {
                () = self.wanted.until(Wish::Resume) => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Has the target remember, and tells since when it is paused.
    async fn note(&self) -> Result<String, LaunchError> {
        let client = Client::connect(&self.target().connect, &self.shared.setup.application_name()).await?;
        Ok(progress::pause(&client, &self.shared.setup.stream).await?)
    }
}
