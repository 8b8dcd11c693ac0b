//! Handing on: every part of every transaction goes to the queue of every target that wants it, in order.
//!
//! A target's *lane* knows up to where it was served. After the stream was read again from an earlier position, what a
//! lane has been served before is skipped by that alone. A lane whose queue is full is waited for; unless its worker is
//! failing, or hangs while others wait: then the lane is frozen, holds up nobody, and is served again from its stored
//! progress once it is back.
//!
//! # The same history
//! A source that was restored from a backup, and has written on past the position that a target has reached, looks
//! right by system identifier, timeline, slot and position. So each session is read from the last commit on that a lane
//! was given: it comes first, with the same record and time, or the WAL is another one, and the lane is refused before
//! it is given anything. So it is if, between that commit and the position it was served up to, there is now something
//! for it: there was nothing before. Only where the slot has been confirmed beyond that commit it need not come: that a
//! slot was told so is part of the history. To keep it so, nothing is confirmed beyond a target's last commit in a
//! session in which it has not recognised it ([`crate::feedback`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::account::Account;
use super::gap::Gap;
use crate::apply::progress::LastCommit;
use crate::apply::queue::{Item, Sender};
use crate::change::{Begin, Commit, Delivery, Part, TargetId};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::route::{RouteError, Routed, TargetRoute};

/// A worker that takes nothing from a full queue for this long hangs. Freezing its lane costs it a second reading of
/// the stream, and no work.
const HANGS: Duration = Duration::from_secs(10);

/// The same where freezing costs more: for a worker in the middle of a transaction in parts, which then begins it anew
/// (long enough that a part is applied by then, or it would never get to the end), and for an only target, whose
/// freezing helps nobody but a source that wants to shut down.
const HANGS_LONG: Duration = Duration::from_secs(300);

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
    /// The last commit it has applied.
    pub last: Option<LastCommit>,
    /// What it gets.
    pub route: TargetRoute,
    /// Whether it takes values as text only.
    pub text_only: bool,
    /// Told why, if it must not be fed.
    pub refused: oneshot::Sender<Gap>,
}

struct Lane {
    id: TargetId,
    sender: Sender,
    route: TargetRoute,
    /// Everything that ends here or before has been served.
    dispatched: EndLsn,
    /// The last commit it was given.
    last: Option<LastCommit>,
    /// Whether that commit has still to be recognised in this session.
    doubtful: bool,
    /// Whether the worker has been given the first parts of a transaction and not its last.
    open: bool,
    text_only: bool,
    refused: oneshot::Sender<Gap>,
}

impl Lane {
    /// From where on the stream must be read for this lane.
    fn needs(&self) -> Lsn {
        self.last.map_or(self.dispatched.lsn(), |last| last.commit_lsn.lsn().min(self.dispatched.lsn()))
    }

    /// Looks for the lane's last commit in what the session brings.
    fn recognise(&mut self, begin: &Begin) -> Result<(), Gap> {
        let (Some(last), Some(commit_lsn), Some(time)) = (self.last, begin.commit_lsn, begin.commit_time) else {
            return Ok(());
        };
        if !self.doubtful || commit_lsn < last.commit_lsn {
            return Ok(());
        }
        let found = LastCommit { commit_lsn, time };
        if found == last {
            self.doubtful = false;
            return Ok(());
        }
        Err(Gap::OtherHistory { last, found: Some(found) })
    }

    /// Looks at what the lane has been served before: whether it is what was there.
    fn served(&mut self, part: &Part) -> Result<(), Gap> {
        let begin = &part.begin;
        let (Some(last), Some(commit_lsn), Some(time)) = (self.last, begin.commit_lsn, begin.commit_time) else {
            return Ok(());
        };
        if commit_lsn > last.commit_lsn && self.route.takes_copied(part) {
            return Err(Gap::OtherHistory { last, found: Some(LastCommit { commit_lsn, time }) });
        }
        Ok(())
    }

    /// No commit before `end` is still to come.
    fn passes(&self, end: EndLsn) -> Result<(), Gap> {
        match self.last.filter(|last| self.doubtful && last.commit_lsn.lsn() < end.lsn()) {
            None => Ok(()),
            Some(last) => Err(Gap::OtherHistory { last, found: None }),
        }
    }
}

/// The session at hand.
#[derive(Clone, Copy, Debug)]
struct Session {
    /// Every commit that ends here or before has been handed on, or lies before the start.
    seen: Lsn,
    /// Where the slot stood at the start; known once the server has been asked.
    confirmed: Lsn,
    /// The last commit that came.
    last: Option<LastCommit>,
    /// The transaction of which first parts were handed on, and the last was not.
    begun: Option<CommitLsn>,
}

/// All lanes.
pub struct Dispatcher {
    lanes: Vec<Lane>,
    account: Arc<Account>,
    /// How many targets there are, with or without a lane.
    targets: usize,
    progress_bytes: u64,
    session: Option<Session>,
    /// By how much the source is late.
    late: Duration,
}

impl Dispatcher {
    /// No lanes yet, of so many targets. A lane without changes has its progress stored after `progress_bytes` of WAL.
    pub fn new(account: Arc<Account>, targets: usize, progress_bytes: u64) -> Self {
        Self { lanes: Vec::new(), account, targets, progress_bytes, session: None, late: Duration::ZERO }
    }

    /// Whether nobody is fed.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether values may come in binary.
    pub fn takes_binary(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.text_only)
    }

    /// Whether commands may be carried out: not in the middle of a transaction, which lanes that have its first parts
    /// would have to begin anew.
    pub fn is_between_transactions(&self) -> bool {
        self.is_empty() || self.session.is_none_or(|session| session.begun.is_none())
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
        let Attach { id, sender, stored, last, route, text_only, refused } = attach;
        self.lanes.retain(|lane| lane.id != id);
        self.account.attached(id, stored);
        let mut lane =
            Lane { id, sender, route, dispatched: stored, last, doubtful: true, open: false, text_only, refused };
        let again = self.session.as_ref().is_some_and(|session| {
            let missed = stored.lsn() < session.seen || session.begun.is_some_and(|begun| begun.lsn() >= stored.lsn());
            let known = settle(&mut lane, session, &self.account);
            missed || (!known && lane.needs() < session.seen)
        });
        lane.sender.set_late(self.late);
        self.lanes.push(lane);
        again
    }

    /// Where the stream must be read from for every lane to get what it needs; `None` without lanes.
    pub fn start(&self) -> Option<Lsn> {
        self.lanes.iter().map(Lane::needs).min()
    }

    /// The lowest position that a lane was served up to: the server must not begin above. `None` without lanes.
    pub fn lowest(&self) -> Option<EndLsn> {
        self.lanes.iter().map(|lane| lane.dispatched).min()
    }

    /// Tells the workers by how much the source is late; zero: it is not.
    pub fn late(&mut self, late: Duration) {
        if std::mem::replace(&mut self.late, late) != late {
            self.lanes.iter().for_each(|lane| lane.sender.set_late(late));
        }
    }

    /// The session has ended: transactions that were cut short will come again.
    pub fn end_session(&mut self) {
        self.session = None;
        self.late(Duration::ZERO);
        self.account.session_ends();
        self.abort_open();
    }

    /// A session begins at `start`, with the slot at `confirmed`: a lane that comes later and needs more makes it begin
    /// again.
    pub fn begin_session(&mut self, start: Lsn, confirmed: Lsn) {
        self.account.session_begins();
        let seen = start.max(confirmed);
        let session = Session { seen, confirmed, last: None, begun: None };
        for lane in &mut self.lanes {
            lane.doubtful = true;
            settle(lane, &session, &self.account);
        }
        self.session = Some(session);
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
                self.refuse(|lane| lane.passes(end));
                self.lanes.iter_mut().for_each(|lane| lane.route.pass_over(0));
                self.passed(end);
            }
        }
        Ok(())
    }

    async fn part(&mut self, part: &Arc<Part>, stop: &CancellationToken) -> Result<(), RouteError> {
        self.recognise(part);
        let mut frozen = Vec::new();
        let alone = self.targets == 1;
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
                        (lane.dispatched, lane.last) = (commit.end_lsn, Some(LastCommit::from(&commit)));
                        self.account.dispatched(lane.id, &commit);
                    }
                }
                Offer::Stopped => return Ok(()),
                Offer::Failing => {
                    let target = self.account.name(lane.id);
                    warn!(target, "its queue is full and it does not get on: the other targets go on without it");
                    frozen.push(at);
                }
            }
        }
        for at in frozen.into_iter().rev() {
            self.take_out(at, None);
        }
        self.came(part);
        Ok(())
    }

    /// Every lane looks for its last commit, and at what else it had; one that does not find it is refused.
    fn recognise(&mut self, part: &Part) {
        let before = |lane: &Lane| part.begin.commit_lsn.is_some_and(|commit| commit.lsn() < lane.dispatched.lsn());
        if !self.lanes.iter().any(|lane| lane.doubtful || before(lane)) {
            return;
        }
        self.refuse(|lane| {
            lane.recognise(&part.begin)?;
            if before(lane) { lane.served(part) } else { Ok(()) }
        });
        for lane in self.lanes.iter().filter(|lane| !lane.doubtful) {
            self.account.recognised(lane.id);
        }
    }

    /// A part has been handed on.
    fn came(&mut self, part: &Part) {
        let begun = part.begin.commit_lsn.filter(|_| part.commit.is_none());
        if let Some(session) = &mut self.session {
            session.begun = begun;
            session.last = part.commit.as_ref().map(LastCommit::from).or(session.last);
        }
        if let Some(Commit { end_lsn, .. }) = part.commit {
            self.passed(end_lsn);
        }
    }

    /// Takes out the lanes that do not find what they must.
    fn refuse(&mut self, mut judge: impl FnMut(&mut Lane) -> Result<(), Gap>) {
        for at in (0..self.lanes.len()).rev() {
            if let Err(gap) = judge(&mut self.lanes[at]) {
                self.take_out(at, Some(gap));
            }
        }
    }

    /// Takes a target's lane out, if it has one: its worker applies what it has, and comes back by attaching again.
    fn detach(&mut self, id: TargetId) {
        if let Some(at) = self.lanes.iter().position(|lane| lane.id == id) {
            self.take_out(at, None);
        }
    }

    /// Takes a lane out: its worker applies what it has, and comes back by attaching again, or learns why not.
    fn take_out(&mut self, at: usize, gap: Option<Gap>) {
        let lane = self.lanes.swap_remove(at);
        if let Some(gap) = gap {
            // Without a listener the target is on its way back already, and will be refused again. Said before the
            // worker learns that it ends.
            let _ = lane.refused.send(gap);
        }
        if lane.open {
            lane.sender.mark(Item::Abort);
        }
        self.account.detached(lane.id);
        lane.sender.freeze();
    }

    /// Everything up to `end` has been handed on: lanes that have had nothing for long get their progress stored.
    fn passed(&mut self, end: EndLsn) {
        let Some(session) = &mut self.session else { return };
        // A walsender that has just started names positions below its start: it reads from the slot's restart_lsn.
        session.seen = session.seen.max(end.lsn());
        self.account.received(session.seen);
        for lane in self.lanes.iter_mut().filter(|lane| !lane.open) {
            if end.lsn().bytes_since(lane.dispatched.lsn()) >= self.progress_bytes {
                advance(&self.account, lane, end);
            }
        }
    }

    /// Has every lane's progress stored up to here, where nothing before it is still to come.
    pub fn store(&mut self, end: EndLsn) {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.open && !lane.doubtful && lane.dispatched < end) {
            advance(&self.account, lane, end);
        }
    }

    /// The end: what is queued is still applied, and every lane's progress moves up to what has been handed on.
    pub fn close(mut self) {
        self.abort_open();
        if let Some(session) = self.session {
            self.store(EndLsn::new(session.seen));
        }
    }
}

/// Whether a lane's last commit needs not be recognised: there is none, the slot was confirmed beyond it, or it is what
/// came last.
fn settle(lane: &mut Lane, session: &Session, account: &Account) -> bool {
    let settled = lane.last.is_none_or(|last| last.commit_lsn.lsn() < session.confirmed || session.last == Some(last));
    if settled {
        lane.doubtful = false;
        account.recognised(lane.id);
    }
    settled
}

fn advance(account: &Account, lane: &mut Lane, end: EndLsn) {
    lane.sender.mark(Item::Advance(end));
    lane.dispatched = end;
    account.advanced(lane.id, end);
}

enum Offer {
    Taken,
    Failing,
    Stopped,
}

async fn offer(lane: &Lane, part: &Arc<Part>, alone: bool, stop: &CancellationToken) -> Offer {
    let patience = if lane.open || alone { HANGS_LONG } else { HANGS };
    while !lane.sender.offer(part) {
        if lane.sender.is_failing() {
            return Offer::Failing;
        }
        tokio::select! {
            () = lane.sender.changed() => {}
            () = tokio::time::sleep(patience), if !(alone && lane.open) => return Offer::Failing,
            () = stop.cancelled() => return Offer::Stopped,
        }
    }
    Offer::Taken
}

#[cfg(test)]
mod tests;
