//! A target's own lane: a copy of the stream's slot and a path that reads it for this target only, so that a target
//! that is away, paused or slow holds up neither the others nor what the stream's slot keeps on the source.
//!
//! # Which slot a target is fed from
//! Nobody has to remember it. A slot keeps for a target what it needs as long as it is not confirmed beyond the
//! target's stored progress, and both can be looked at. The order of steps sees to it that one of the two always does:
//!
//! - *Isolating*: while the target counts in the main lane, the main slot keeps what it needs. The copy is made, which
//!   starts where the main slot is confirmed; only when it is there, the target counts in the main lane no more.
//! - *Joining again*: the target counts in the main lane first, so nothing more is confirmed there than what it has;
//!   once it has all that was confirmed there before, it is fed by the main lane; then the copy is dropped.
//!
//! A daemon that dies in between finds the copy, and goes on from it as long as that is possible; else the main slot
//! has what is needed. Whether it has is checked for every target that attaches (`gap.rs`), whatever was meant to be.

pub mod choice;

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use super::account::Account;
use super::board::Board;
use super::dispatch::Command;
use super::error::LaunchError;
use super::pipeline::{PathObserver, PipelineOptions};
use super::side::SidePath;
use super::target::Shared;
use crate::change::TargetId;
use crate::error::{Judged, chain};
use crate::source::slot;

/// One target's own lane.
pub struct OwnLane {
    /// Its slot's name.
    pub slot: String,
    /// Its account, in which this target counts.
    pub account: Arc<Account>,
    path: Option<SidePath>,
}

impl OwnLane {
    /// The lane of a target, whose slot is there or about to be.
    pub fn new(shared: &Shared, id: TargetId) -> Self {
        let (setup, board) = (&shared.setup, &shared.board);
        let slot = slot::lane::name(&setup.stream, board.name(id));
        Self { slot, account: Arc::new(Account::of(id, &board.names())), path: None }
    }

    /// The way to its path, which is started if it is not at work.
    ///
    /// # Errors
    /// When the system has no more threads or files.
    pub fn commands(&mut self, shared: &Shared, id: TargetId) -> Result<mpsc::UnboundedSender<Command>, LaunchError> {
        if let Some(path) = &self.path {
            return Ok(path.commands().clone());
        }
        let setup = &shared.setup;
        let options = PipelineOptions::new(setup, &self.slot, shared.facts.clone());
        let observer = Arc::new(LaneObserver { board: Arc::clone(&shared.board), id });
        let values = setup.config.source.values;
        let path = SidePath::start("reading its own slot", shared, &self.account, options, values, observer)?;
        let commands = path.commands().clone();
        self.path = Some(path);
        Ok(commands)
    }

    /// Why its path has ended by itself; `None`: it was not at work.
    pub async fn failure(&mut self) -> Option<LaunchError> {
        Some(self.path.take()?.failure().await)
    }

    /// Ends its path in order, so that the slot is free at once. What is to be confirmed has been.
    pub async fn end(&mut self) {
        let Some(path) = self.path.take() else { return };
        if let Err(error) = path.end().await {
            warn!(slot = self.slot, "its connection did not close in order: {}", chain(&error));
        }
    }
}

/// Hears of the path of a target's own lane: the source's state is what the main lane's path says.
struct LaneObserver {
    board: Arc<Board>,
    id: TargetId,
}

impl PathObserver for LaneObserver {
    fn streaming(&self, _again: bool) {}

    fn failed(&self, error: &dyn Judged) {
        self.board.lane_failed(self.id, error);
    }

    fn idle(&self) {}
}
