//! A lane's account: what its path has received and handed on, what the targets that it feeds have on their disks, and,
//! out of both, what may be confirmed through its slot and how far each target is behind.
//!
//! A lane is a slot, the path that reads it, and the targets fed from it. Every target is in the account of every lane,
//! and counts in that of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::lag::{Stream, Unread, Waiting, lag};
use crate::apply::progress::LastCommit;
use crate::change::{Commit, PgTime, TargetId};
use crate::feedback::Ledger;
use crate::lsn::{ConfirmedFlush, DurableLsn, EndLsn, Lsn};

/// Shared by all stages of one lane.
pub struct Account {
    ledger: Mutex<Ledger>,
    confirmed: watch::Sender<Option<ConfirmedFlush>>,
    waiting: Vec<Mutex<Waiting>>,
    names: Vec<String>,
    /// When the source was last heard of through this lane.
    heard: Mutex<Option<SystemTime>>,
    unread: Mutex<Unread>,
    sessions: Mutex<Sessions>,
}

/// Replication sessions of this lane.
#[derive(Clone, Copy, Debug, Default)]
struct Sessions {
    lost: u64,
    running: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data: a panic elsewhere leaves it readable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    /// Of a lane that feeds all of these targets; their ids are their places.
    pub fn new(names: &[String]) -> Self {
        Self::with(Ledger::new(names.len()), names)
    }

    /// Of a lane that feeds one of these targets.
    pub fn of(id: TargetId, names: &[String]) -> Self {
        let mut ledger = Ledger::new(names.len());
        (0..names.len()).map(TargetId).filter(|other| *other != id).for_each(|other| ledger.leaves(other));
        Self::with(ledger, names)
    }

    fn with(ledger: Ledger, names: &[String]) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            confirmed: watch::Sender::new(None),
            waiting: names.iter().map(|_| Mutex::default()).collect(),
            names: names.to_vec(),
            heard: Mutex::default(),
            unread: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// The name of a target.
    pub fn name(&self, id: TargetId) -> &str {
        &self.names[id.0]
    }

    /// A replication session begins: every target has to recognise its history in it. What was confirmed before is not
    /// repeated to a server that may be another one.
    pub fn session_begins(&self) {
        let mut ledger = lock(&self.ledger);
        ledger.session_begins();
        self.confirmed.send_replace(ledger.confirmed());
        lock(&self.sessions).running = true;
    }

    /// It has ended.
    pub fn session_ends(&self) {
        lock(&self.sessions).running = false;
    }

    /// The connection was lost: another server, or the same one restored, may answer at the next.
    pub fn session_lost(&self) {
        lock(&self.sessions).lost += 1;
    }

    /// Tells sessions with one and the same server from others; `None` while there is none.
    pub fn session(&self) -> Option<u64> {
        let sessions = *lock(&self.sessions);
        sessions.running.then_some(sessions.lost)
    }

    /// A target has recognised its history in this session.
    pub fn recognised(&self, id: TargetId) {
        lock(&self.ledger).recognised(id);
        self.confirm();
    }

    /// What may be confirmed to the source, as it changes.
    pub fn confirmed(&self) -> watch::Receiver<Option<ConfirmedFlush>> {
        self.confirmed.subscribe()
    }

    /// The source's WAL ends here now.
    pub fn wal_end(&self, end: Lsn) {
        lock(&self.unread).seen(SystemTime::now(), end);
    }

    /// Every commit up to here has been received and handed on.
    pub fn received(&self, lsn: Lsn) {
        lock(&self.ledger).received(lsn);
        *lock(&self.heard) = Some(SystemTime::now());
    }

    /// Up to where every commit has been received and handed on.
    pub fn received_lsn(&self) -> Option<Lsn> {
        lock(&self.ledger).received_lsn()
    }

    /// A target that comes (back) has progress up to here on its disk.
    pub fn stands_at(&self, id: TargetId, position: DurableLsn, last: Option<LastCommit>) {
        lock(&self.ledger).stands_at(id, position, last.map(|last| last.commit_lsn));
        self.confirm();
    }

    /// A target is fed from its stored progress on.
    pub fn attached(&self, id: TargetId, stored: EndLsn) {
        lock(&self.ledger).rewind(id, stored);
        *lock(&self.waiting[id.0]) = Waiting::attached(stored);
    }

    /// A target is no longer fed.
    pub fn detached(&self, id: TargetId) {
        lock(&self.waiting[id.0]).detached(SystemTime::now());
    }

    /// A target was sent the transaction of this commit.
    pub fn dispatched(&self, id: TargetId, commit: &Commit) {
        lock(&self.waiting[id.0]).sent(commit.end_lsn, commit.time);
        let mut ledger = lock(&self.ledger);
        ledger.dispatched(id, commit.end_lsn);
        ledger.given(id, commit.commit_lsn);
    }

    /// A target's progress was sent on, without a transaction.
    pub fn advanced(&self, id: TargetId, end: EndLsn) {
        lock(&self.waiting[id.0]).advanced(end);
        lock(&self.ledger).dispatched(id, end);
    }

    /// A target has committed everything up to here; the last of it committed on the source at `time`.
    pub fn committed(&self, id: TargetId, end: EndLsn, time: Option<PgTime>) {
        lock(&self.waiting[id.0]).stored(end.lsn(), time);
    }

    /// A target has progress on its disk.
    pub fn durable(&self, id: TargetId, position: DurableLsn) {
        lock(&self.ledger).durable(id, position);
        self.confirm();
    }

    /// Under the ledger's lock: what was confirmed in the last session must not come after the next has begun.
    fn confirm(&self) {
        let ledger = lock(&self.ledger);
        let Some(confirmed) = ledger.confirmed() else { return };
        self.confirmed.send_if_modified(|sent| {
            let forward = *sent < Some(confirmed);
            *sent = (*sent).max(Some(confirmed));
            forward
        });
    }

    /// The target is fed through another lane from now on: it holds nothing back here, and is behind there as it is
    /// here.
    pub fn hand_over(&self, id: TargetId, to: &Account) {
        let waiting = *lock(&self.waiting[id.0]);
        *lock(&to.waiting[id.0]) = waiting;
        lock(&self.ledger).leaves(id);
        self.confirm();
    }

    /// The target, which is fed through `from`, is to be fed through this lane: from now on nothing more is confirmed
    /// here than what it has there.
    pub fn take_in(&self, id: TargetId, from: &Account) {
        let (durable, last) = {
            let there = lock(&from.ledger);
            (there.durable_lsn(id), there.last(id))
        };
        lock(&self.ledger).joins(id, durable, last);
    }

    /// The target is to be fed through this lane, from a position that is not known yet: nothing more is confirmed here
    /// until it is.
    pub fn take_in_unknown(&self, id: TargetId) {
        lock(&self.ledger).joins(id, None, None);
    }

    /// It will not be, for now.
    pub fn let_go(&self, id: TargetId) {
        lock(&self.ledger).leaves(id);
        self.confirm();
    }

    /// What the target is known to have on its disk.
    pub fn durable_lsn(&self, id: TargetId) -> Option<DurableLsn> {
        lock(&self.ledger).durable_lsn(id)
    }

    /// Whether the target has recognised its history in the session at hand.
    pub fn has_recognised(&self, id: TargetId) -> bool {
        self.session().is_some() && lock(&self.ledger).has_recognised(id)
    }

    /// Whether the target is fed, and has stored all that it was sent.
    pub fn has_stored_all(&self, id: TargetId) -> bool {
        lock(&self.waiting[id.0]).has_stored_all()
    }

    /// Whether another target than this one is fed through this lane now.
    pub fn feeds_another(&self, id: TargetId) -> bool {
        let ledger = lock(&self.ledger);
        let fed = |at: usize| ledger.counts(TargetId(at)) && lock(&self.waiting[at]).is_attached();
        (0..self.waiting.len()).any(|at| at != id.0 && fed(at))
    }

    /// How far a target is behind, in bytes and in seconds, while the source is heard of (`streaming`) or not.
    pub fn lag(&self, id: TargetId, streaming: bool, now: SystemTime) -> (Option<u64>, Option<f64>) {
        let received = self.received_lsn();
        let unread = {
            let mut unread = lock(&self.unread);
            unread.reached(received.unwrap_or(Lsn::ZERO));
            *unread
        };
        let silence = if streaming { None } else { Some(*lock(&self.heard)) };
        let waiting = *lock(&self.waiting[id.0]);
        lag(waiting, Stream { received, unread, silence }, now)
    }
}
