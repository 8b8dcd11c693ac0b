//! Handing on: every part of every transaction goes to the queue of every target that wants it, in order.
//!
//! A target's *lane* knows up to where it was served. After the stream was read again from an earlier position, what a
//! lane has been served before is skipped by that alone. A lane whose queue is full is waited for; unless its worker is
//! failing, or hangs while others wait: then the lane is frozen, holds up nobody, and is served again from its stored
//! progress once it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::board::Board;
use crate::apply::queue::{Item, Sender};
use crate::change::{Delivery, Part, TargetId};
use crate::lsn::{EndLsn, Lsn};
use crate::route::{RouteError, Routed, TargetRoute};

/// A worker that takes nothing from a full queue for this long hangs. Freezing its lane costs it a second reading of
/// the stream, and no work.
const HANGS: Duration = Duration::from_secs(10);

/// The same for a worker in the middle of a transaction in parts, which freezing makes it begin anew: long enough
/// that a part is applied by then, or it would never get to the end.
const HANGS_IN_PARTS: Duration = Duration::from_secs(300);

/// What the targets' tasks ask of the path.
pub enum Command {
    /// Feed a target.
    Attach(Box<Attach>),
    /// Stop feeding it: it will come back.
    Detach(TargetId),
}

/// A target that is ready to be fed.
pub struct Attach {
    /// Which.
    pub id: TargetId,
    /// Its queue.
    pub sender: Sender,
    /// Its stored progress.
    pub stored: EndLsn,
    /// What it gets.
    pub route: TargetRoute,
}

struct Lane {
    id: TargetId,
    sender: Sender,
    route: TargetRoute,
    /// Everything that ends here or before has been served.
    dispatched: EndLsn,
    /// Whether the worker has been given the first parts of a transaction and not its last.
    open: bool,
}

/// All lanes.
pub struct Dispatcher {
    lanes: Vec<Lane>,
    board: Arc<Board>,
    progress_bytes: u64,
    /// Every commit that ends here or before has been handed on in this session, or lies before its start.
    seen: Option<Lsn>,
}

impl Dispatcher {
    /// No lanes yet. A lane without changes has its progress stored after `progress_bytes` of WAL.
    pub fn new(board: Arc<Board>, progress_bytes: u64) -> Self {
        Self { lanes: Vec::new(), board, progress_bytes, seen: None }
    }

    /// Does as asked. Tells whether the stream must be read again from an earlier position.
    pub fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Attach(attach) => self.attach(*attach),
            Command::Detach(id) => {
                self.detach(id);
                false
            }
        }
    }

    /// Adds a lane, in the place of an earlier one of the same target. Tells whether what it needs has been handed on
    /// already, so that the stream must be read again.
    fn attach(&mut self, attach: Attach) -> bool {
        let Attach { id, sender, stored, route } = attach;
        self.lanes.retain(|lane| lane.id != id);
        self.board.attached(id, stored);
        self.lanes.push(Lane { id, sender, route, dispatched: stored, open: false });
        self.seen.is_some_and(|seen| stored.lsn() < seen)
    }

    /// Where the stream must be read from for every lane to get what it needs; `None` without lanes.
    pub fn start(&self) -> Option<EndLsn> {
        self.lanes.iter().map(|lane| lane.dispatched).min()
    }

    /// The session has ended: transactions that were cut short will come again.
    pub fn end_session(&mut self) {
        self.seen = None;
        self.abort_open();
    }

    /// A session begins at `start`: a lane that comes later and needs more makes it begin again.
    pub fn begin_session(&mut self, start: EndLsn) {
        self.seen = Some(start.lsn());
    }

    fn abort_open(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.open) {
            lane.sender.mark(Item::Abort);
            lane.open = false;
        }
    }

    /// Hands on what the assembly delivers. Waits for room; ends early, with the delivery not handed on, when `stop` is
    /// given.
    ///
    /// # Errors
    /// When it cannot be decided who gets a change.
    pub async fn deliver(&mut self, delivery: Delivery, stop: &CancellationToken) -> Result<(), RouteError> {
        match delivery {
            Delivery::Part(part) => self.part(&Arc::new(part), stop).await?,
            Delivery::Message(message) => {
                self.lanes.iter_mut().for_each(|lane| lane.route.pass_over(message.content.len()));
            }
            Delivery::Quiet(end) => {
                self.lanes.iter_mut().for_each(|lane| lane.route.pass_over(0));
                self.passed(end);
            }
        }
        Ok(())
    }

    async fn part(&mut self, part: &Arc<Part>, stop: &CancellationToken) -> Result<(), RouteError> {
        let mut frozen = Vec::new();
        let alone = self.lanes.len() == 1;
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            // Positions served up to lie between commit records: a commit record that starts below one also ends there.
            if part.begin.commit_lsn.is_some_and(|commit| commit.lsn() < lane.dispatched.lsn()) {
                continue;
            }
            let routed = match lane.route.route(part)? {
                Routed::Whole(routed) | Routed::Subset(routed) => routed,
                Routed::Nothing => continue,
            };
            match offer(lane, &routed, alone, stop).await {
                Offer::Taken => {
                    lane.open = routed.commit.is_none();
                    if let Some(commit) = routed.commit {
                        lane.dispatched = commit.end_lsn;
                        self.board.dispatched(lane.id, commit.end_lsn, commit.time);
                    }
                }
                Offer::Stopped => return Ok(()),
                Offer::Failing => {
                    let target = self.board.name(lane.id);
                    warn!(target, "its queue is full and it does not get on: the other targets go on without it");
                    frozen.push(at);
                }
            }
        }
        for at in frozen.into_iter().rev() {
            self.freeze(at);
        }
        if let Some(commit) = part.commit {
            self.passed(commit.end_lsn);
        }
        Ok(())
    }

    /// Takes a target's lane out, if it has one: its worker applies what it has, and comes back by attaching again.
    fn detach(&mut self, id: TargetId) {
        if let Some(at) = self.lanes.iter().position(|lane| lane.id == id) {
            self.freeze(at);
        }
    }

    /// Takes a lane out: its worker applies what it has, and comes back by attaching again.
    fn freeze(&mut self, at: usize) {
        let lane = self.lanes.swap_remove(at);
        if lane.open {
            lane.sender.mark(Item::Abort);
        }
        self.board.detached(lane.id);
        lane.sender.freeze();
    }

    /// Everything up to `end` has been handed on: lanes that have had nothing for long get their progress stored.
    fn passed(&mut self, end: EndLsn) {
        // A walsender that has just started names positions below its start: it reads from the slot's restart_lsn.
        let seen = self.seen.map_or(end.lsn(), |seen| seen.max(end.lsn()));
        self.seen = Some(seen);
        self.board.received(seen);
        for lane in self.lanes.iter_mut().filter(|lane| !lane.open) {
            if end.lsn().bytes_since(lane.dispatched.lsn()) >= self.progress_bytes {
                advance(&self.board, lane, end);
            }
        }
    }

    /// Has every lane's progress stored up to here, where nothing before it is still to come.
    pub fn store(&mut self, end: EndLsn) {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.open && lane.dispatched < end) {
            advance(&self.board, lane, end);
        }
    }

    /// The end: what is queued is still applied, and every lane's progress moves up to what has been handed on.
    pub fn close(mut self) {
        self.abort_open();
        if let Some(seen) = self.seen {
            self.store(EndLsn::new(seen));
        }
    }
}

fn advance(board: &Board, lane: &mut Lane, end: EndLsn) {
    lane.sender.mark(Item::Advance(end));
    lane.dispatched = end;
    board.advanced(lane.id, end);
}

enum Offer {
    Taken,
    Failing,
    Stopped,
}

async fn offer(lane: &Lane, part: &Arc<Part>, alone: bool, stop: &CancellationToken) -> Offer {
    let patience = if lane.open { HANGS_IN_PARTS } else { HANGS };
    while !lane.sender.offer(part) {
        if lane.sender.is_failing() {
            return Offer::Failing;
        }
        tokio::select! {
            () = lane.sender.changed() => {}
            () = tokio::time::sleep(patience), if !alone => return Offer::Failing,
            () = stop.cancelled() => return Offer::Stopped,
        }
    }
    Offer::Taken
}

#[cfg(test)]
mod tests;
