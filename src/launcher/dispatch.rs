//! Handing on: every part of every transaction goes to the queue of every target that wants it, in order.
//!
//! A target's *feed* knows up to where it was served. After the stream was read again from an earlier position, what a
//! feed has been served before is skipped by that alone. A feed whose queue is full is waited for; unless its worker is
//! failing, or hangs while others wait: then the feed is frozen, holds up nobody, and is served again from its stored
//! progress once it is back.
//!
//! # The same history
//! A source that was restored from a backup, and has written on past the position that a target has reached, looks
//! right by system identifier, timeline, slot and position. So each session is read from the last commit on that a feed
//! was given: it comes first, with the same record and time, or the WAL is another one, and the feed is refused before
//! it is given anything. So it is if, between that commit and the position it was served up to, there is now something
//! for it: there was nothing before. Only where the slot has been confirmed beyond that commit it need not come: that a
//! slot was told so is part of the history. To keep it so, nothing is confirmed beyond a target's last commit in a
//! session in which it has not recognised it ([`crate::feedback`]).

mod feed;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::account::Account;
use super::gap::Gap;
use crate::apply::progress::LastCommit;
use crate::apply::queue::Item;
use crate::change::{Commit, Delivery, Part, TargetId};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::route::{RouteError, Routed};
pub use feed::Attach;
use feed::{Feed, HeldUp, Offer, advance, offer, settle};

/// What the targets' tasks ask of the path.
pub enum Command {
    /// Feed a target.
    Attach(Box<Attach>),
    /// Stop feeding it: it will come back.
    Detach(TargetId),
    /// Have it store how far it has been served.
    Store(TargetId),
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

/// All feeds.
pub struct Dispatcher {
    feeds: Vec<Feed>,
    account: Arc<Account>,
    /// How many targets there are, with or without a feed.
    targets: usize,
    progress_bytes: u64,
    /// Whether a target for which the others wait is left to a lane of its own.
    isolates: bool,
    session: Option<Session>,
    /// By how much the source is late.
    late: Duration,
}

impl Dispatcher {
    /// No feeds yet, of so many targets. A feed without changes has its progress stored after `progress_bytes` of WAL.
    pub fn new(account: Arc<Account>, targets: usize, progress_bytes: u64, isolates: bool) -> Self {
        Self { feeds: Vec::new(), account, targets, progress_bytes, isolates, session: None, late: Duration::ZERO }
    }

    /// The account of its feed.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether nobody is fed.
    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Whether values may come in binary.
    pub fn takes_binary(&self) -> bool {
        self.feeds.iter().all(|feed| !feed.text_only)
    }

    /// Whether commands may be carried out: not in the middle of a transaction, which feeds that have its first parts
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
            Command::Store(id) => {
                if let Some(end) = self.session.map(|session| EndLsn::new(session.seen)) {
                    self.store_for(end, |feed| feed.id == id);
                }
                false
            }
        }
    }

    /// Adds a feed, in the place of an earlier one of the same target. Tells whether what it needs has been handed on
    /// already, so that the stream must be read again.
    fn attach(&mut self, attach: Attach) -> bool {
        let Attach { id, sender, stored, last, route, text_only, slow, patient_until, refused } = attach;
        self.feeds.retain(|feed| feed.id != id);
        self.account.attached(id, stored);
        let mut feed = Feed {
            id,
            sender,
            route,
            dispatched: stored,
            last,
            doubtful: true,
            open: false,
            text_only,
            slow,
            patient_until,
            held_up: HeldUp::default(),
            refused,
        };
        let again = self.session.as_ref().is_some_and(|session| {
            let missed = stored.lsn() < session.seen || session.begun.is_some_and(|begun| begun.lsn() >= stored.lsn());
            let known = settle(&mut feed, session, &self.account);
            missed || (!known && feed.needs() < session.seen)
        });
        feed.sender.set_late(self.late);
        self.feeds.push(feed);
        again
    }

    /// Where the stream must be read from for every feed to get what it needs; `None` without feeds.
    pub fn start(&self) -> Option<Lsn> {
        self.feeds.iter().map(Feed::needs).min()
    }

    /// The lowest position that a feed was served up to: the server must not begin above. `None` without feeds.
    pub fn lowest(&self) -> Option<EndLsn> {
        self.feeds.iter().map(|feed| feed.dispatched).min()
    }

    /// Tells the workers by how much the source is late; zero: it is not.
    pub fn late(&mut self, late: Duration) {
        if std::mem::replace(&mut self.late, late) != late {
            self.feeds.iter().for_each(|feed| feed.sender.set_late(late));
        }
    }

    /// The session has ended: transactions that were cut short will come again.
    pub fn end_session(&mut self) {
        self.session = None;
        self.late(Duration::ZERO);
        self.account.session_ends();
        self.abort_open();
    }

    /// A session begins at `start`, with the slot at `confirmed`: a feed that comes later and needs more makes it begin
    /// again.
    pub fn begin_session(&mut self, start: Lsn, confirmed: Lsn) {
        self.account.session_begins();
        let seen = start.max(confirmed);
        let session = Session { seen, confirmed, last: None, begun: None };
        for feed in &mut self.feeds {
            feed.doubtful = true;
            settle(feed, &session, &self.account);
        }
        self.session = Some(session);
    }

    fn abort_open(&mut self) {
        for feed in self.feeds.iter_mut().filter(|feed| feed.open) {
            feed.sender.mark(Item::Abort);
            feed.open = false;
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
                self.feeds.iter_mut().for_each(|feed| feed.route.pass_over(message.content.len()));
            }
            Delivery::Quiet(end) => {
                self.refuse(|feed| feed.passes(end));
                self.feeds.iter_mut().for_each(|feed| feed.route.pass_over(0));
                self.passed(end);
            }
        }
        Ok(())
    }

    async fn part(&mut self, part: &Arc<Part>, stop: &CancellationToken) -> Result<(), RouteError> {
        self.recognise(part);
        let mut frozen = Vec::new();
        let alone = self.targets == 1;
        for at in 0..self.feeds.len() {
            let (before, rest) = self.feeds.split_at_mut(at);
            let Some((feed, after)) = rest.split_first_mut() else { break };
            // Positions served up to lie between commit records: a commit record that starts below one also ends there.
            if part.begin.commit_lsn.is_some_and(|commit| commit.lsn() < feed.dispatched.lsn()) {
                continue;
            }
            let routed = match feed.route.route(part)? {
                Routed::Whole(routed) | Routed::Subset(routed) => routed,
                Routed::Nothing => continue,
            };
            let others_wait =
                || before.iter().chain(&*after).any(|other| other.sender.is_low() && !other.sender.is_failing());
            match offer(feed, &routed, alone, self.isolates, others_wait, stop).await {
                Offer::Taken => {
                    feed.open = routed.commit.is_none();
                    if let Some(commit) = routed.commit {
                        (feed.dispatched, feed.last) = (commit.end_lsn, Some(LastCommit::from(&commit)));
                        self.account.dispatched(feed.id, &commit);
                    }
                }
                Offer::Stopped => return Ok(()),
                Offer::Failing => {
                    let target = self.account.name(feed.id);
                    warn!(target, "its queue is full and it does not get on: the other targets go on without it");
                    frozen.push(at);
                }
                Offer::Slow => {
                    feed.slow.notify_one();
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

    /// Every feed looks for its last commit, and at what else it had; one that does not find it is refused.
    fn recognise(&mut self, part: &Part) {
        let before = |feed: &Feed| part.begin.commit_lsn.is_some_and(|commit| commit.lsn() < feed.dispatched.lsn());
        if !self.feeds.iter().any(|feed| feed.doubtful || before(feed)) {
            return;
        }
        self.refuse(|feed| {
            feed.recognise(&part.begin)?;
            if before(feed) { feed.served(part) } else { Ok(()) }
        });
        for feed in self.feeds.iter().filter(|feed| !feed.doubtful) {
            self.account.recognised(feed.id);
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

    /// Takes out the feeds that do not find what they must.
    fn refuse(&mut self, mut judge: impl FnMut(&mut Feed) -> Result<(), Gap>) {
        for at in (0..self.feeds.len()).rev() {
            if let Err(gap) = judge(&mut self.feeds[at]) {
                self.take_out(at, Some(gap));
            }
        }
    }

    /// Takes a target's feed out, if it has one: its worker applies what it has, and comes back by attaching again.
    fn detach(&mut self, id: TargetId) {
        if let Some(at) = self.feeds.iter().position(|feed| feed.id == id) {
            self.take_out(at, None);
        }
    }

    /// Takes a feed out: its worker applies what it has, and comes back by attaching again, or learns why not.
    fn take_out(&mut self, at: usize, gap: Option<Gap>) {
        let feed = self.feeds.swap_remove(at);
        if let Some(gap) = gap {
            // Without a listener the target is on its way back already, and will be refused again. Said before the
            // worker learns that it ends.
            let _ = feed.refused.send(gap);
        }
        if feed.open {
            feed.sender.mark(Item::Abort);
        }
        self.account.detached(feed.id);
        feed.sender.freeze();
    }

    /// Everything up to `end` has been handed on: feeds that have had nothing for long get their progress stored.
    fn passed(&mut self, end: EndLsn) {
        let Some(session) = &mut self.session else { return };
        // A walsender that has just started names positions below its start: it reads from the slot's restart_lsn.
        session.seen = session.seen.max(end.lsn());
        self.account.received(session.seen);
        for feed in self.feeds.iter_mut().filter(|feed| !feed.open) {
            if end.lsn().bytes_since(feed.dispatched.lsn()) >= self.progress_bytes {
                advance(&self.account, feed, end);
            }
        }
    }

    /// Has every feed's progress stored up to here, where nothing before it is still to come.
    pub fn store(&mut self, end: EndLsn) {
        self.store_for(end, |_| true);
    }

    fn store_for(&mut self, end: EndLsn, chosen: impl Fn(&Feed) -> bool) {
        let behind = |feed: &&mut Feed| !feed.open && !feed.doubtful && feed.dispatched < end;
        for feed in self.feeds.iter_mut().filter(behind).filter(|feed| chosen(feed)) {
            advance(&self.account, feed, end);
        }
    }

    /// The end: what is queued is still applied, and every feed's progress moves up to what has been handed on.
    pub fn close(mut self) {
        self.abort_open();
        if let Some(session) = self.session {
            self.store(EndLsn::new(session.seen));
        }
    }
}

#[cfg(test)]
mod tests;
