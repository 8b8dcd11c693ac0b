//! One target's feed: how far it was served, whether it has recognised its history, and how long it is waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::apply::progress::LastCommit;
use crate::apply::queue::{Item, Sender};
use crate::change::{Begin, Part, TargetId};
use crate::launcher::account::Account;
use crate::launcher::gap::Gap;
use crate::lsn::{EndLsn, Lsn};
use crate::route::TargetRoute;

/// A worker that takes nothing from a full queue for this long hangs. Freezing its feed costs it a second reading of
/// the stream, and no work.
const HANGS: Duration = Duration::from_secs(10);

/// The same where freezing costs more: for a worker in the middle of a transaction in parts, which then begins it anew
/// (long enough that a part is applied by then, or it would never get to the end), and for an only target, whose
/// freezing helps nobody but a source that wants to shut down.
const HANGS_LONG: Duration = Duration::from_secs(300);

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
    /// Told when it is slower than the others, which go on without it.
    pub slow: Arc<Notify>,
    /// Until then they wait for it, however slow it is.
    pub patient_until: Instant,
    /// Told why, if it must not be fed.
    pub refused: oneshot::Sender<Gap>,
}

/// A target for whose full queue others, who have not much left to do, wait for more than half of this time is slower
/// than they are: its queue has made up for what passes.
const HOLDS_UP: Duration = Duration::from_secs(1);

/// The same for one in the middle of a transaction in parts, which it then begins anew.
const HOLDS_UP_LONG: Duration = Duration::from_secs(10);

/// Between two looks at whether others wait.
const LOOK: Duration = Duration::from_millis(50);

/// A target that is fed.
pub(super) struct Feed {
    pub(super) id: TargetId,
    pub(super) sender: Sender,
    pub(super) route: TargetRoute,
    /// Everything that ends here or before has been served.
    pub(super) dispatched: EndLsn,
    /// The last commit it was given.
    pub(super) last: Option<LastCommit>,
    /// Whether that commit has still to be recognised in this session.
    pub(super) doubtful: bool,
    /// Whether the worker has been given the first parts of a transaction and not its last.
    pub(super) open: bool,
    pub(super) text_only: bool,
    pub(super) slow: Arc<Notify>,
    pub(super) patient_until: Instant,
    pub(super) held_up: HeldUp,
    pub(super) refused: oneshot::Sender<Gap>,
}

/// For how much of a stretch of time others have waited for a target.
#[derive(Debug, Default)]
pub(super) struct HeldUp {
    since: Option<Instant>,
    waited: Duration,
}

impl HeldUp {
    /// They have waited again. Tells, at the end of a stretch, whether it was for most of it.
    fn again(&mut self, waited: Duration, now: Instant, stretch: Duration) -> bool {
        self.waited += waited;
        let took = now - *self.since.get_or_insert(now - waited);
        if took < stretch {
            return false;
        }
        std::mem::take(self).waited > took / 2
    }
}

impl Feed {
    /// From where on the stream must be read for this feed.
    pub(super) fn needs(&self) -> Lsn {
        self.last.map_or(self.dispatched.lsn(), |last| last.commit_lsn.lsn().min(self.dispatched.lsn()))
    }

    /// Looks for the feed's last commit in what the session brings.
    pub(super) fn recognise(&mut self, begin: &Begin) -> Result<(), Gap> {
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

    /// Looks at what the feed has been served before: whether it is what was there.
    pub(super) fn served(&mut self, part: &Part) -> Result<(), Gap> {
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
    pub(super) fn passes(&self, end: EndLsn) -> Result<(), Gap> {
        match self.last.filter(|last| self.doubtful && last.commit_lsn.lsn() < end.lsn()) {
            None => Ok(()),
            Some(last) => Err(Gap::OtherHistory { last, found: None }),
        }
    }
}

/// Whether a feed's last commit needs not be recognised: there is none, the slot was confirmed beyond it, or it is what
/// came last.
pub(super) fn settle(feed: &mut Feed, session: &Session, account: &Account) -> bool {
    let settled = feed.last.is_none_or(|last| last.commit_lsn.lsn() < session.confirmed || session.last == Some(last));
    if settled {
        feed.doubtful = false;
        account.recognised(feed.id);
    }
    settled
}

/// Has it store that it was served up to here. Where its worker has ended, the target may be fed through another lane by
/// now, and have more.
pub(super) fn advance(account: &Account, feed: &mut Feed, end: EndLsn) {
    if feed.sender.is_gone() {
        return;
    }
    feed.sender.mark(Item::Advance(end));
    feed.dispatched = end;
    account.advanced(feed.id, end);
}

/// What came of offering a part.
pub(super) enum Offer {
    Taken,
    Failing,
    Slow,
    Stopped,
}

/// Waits for room in the feed's queue.
pub(super) async fn offer(
    feed: &mut Feed,
    part: &Arc<Part>,
    alone: bool,
    isolates: bool,
    others_wait: impl Fn() -> bool,
    stop: &CancellationToken,
) -> Offer {
    let patience = if feed.open || alone { HANGS_LONG } else { HANGS };
    let stretch = if feed.open { HOLDS_UP_LONG } else { HOLDS_UP };
    let mut changed = Instant::now();
    while !feed.sender.offer(part) {
        if feed.sender.is_failing() {
            return Offer::Failing;
        }
        let begun = Instant::now();
        tokio::select! {
            () = feed.sender.changed() => changed = Instant::now(),
            () = sleep(LOOK), if isolates => {}
            () = sleep_until(changed + patience), if !(alone && feed.open) => return Offer::Failing,
            () = stop.cancelled() => return Offer::Stopped,
        }
        let may = isolates && Instant::now() >= feed.patient_until;
        if may && others_wait() && feed.held_up.again(begun.elapsed(), Instant::now(), stretch) {
            return Offer::Slow;
        }
    }
    Offer::Taken
}
