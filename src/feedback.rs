//! The ledger: how far the source has been received, and how far each target has got; out of it, what the source may
//! forget.
//!
//! ```text
//! received ≥ dispatched(t) ≥ durable(t) for each target t;  confirmed = the lowest durable(t)
//! ```
//! In: received positions from the receiver, dispatched ones from whoever fills the queues, durable ones from the apply
//! workers. Out: [`ConfirmedFlush`], made here and nowhere else, from [`DurableLsn`]s of all targets and nothing else:
//! not from a keepalive, not from what was sent, not while any target's progress is unknown. Reporting too much loses
//! transactions for good; reporting too little costs disk on the source.
//!
//! With each replication session every target becomes doubtful until it has recognised its last commit in what the
//! session brings: a source that was restored from a backup looks like the one before. Until then nothing is confirmed
//! beyond where that commit starts; so a slot that is confirmed beyond a target's last commit is proof of that target's
//! history.

use crate::change::TargetId;
use crate::lsn::{CommitLsn, ConfirmedFlush, DurableLsn, EndLsn, Lsn};

/// How far everyone is. Targets are counted when it is made; a [`TargetId`] beyond that is a mistake of the program.
#[derive(Clone, Debug)]
pub struct Ledger {
    received: Option<Lsn>,
    targets: Vec<Entry>,
}

impl Entry {
    /// What the source may forget for this target's part.
    fn bound(&self) -> Option<Lsn> {
        let durable = self.durable?.end_lsn().lsn();
        let doubtful = self.last.filter(|_| !self.recognised);
        Some(doubtful.map_or(durable, |last| durable.min(last.lsn())))
    }
}

/// How far one target is.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    dispatched: Option<EndLsn>,
    durable: Option<DurableLsn>,
    /// The last commit it was given; `None`: none yet, so there is nothing to recognise.
    last: Option<CommitLsn>,
    /// Whether it has recognised its history in the session at hand.
    recognised: bool,
    /// Whether it is fed through another slot, and has no part in what is confirmed through this one.
    elsewhere: bool,
}

impl Ledger {
    /// A ledger for `targets` targets, of none of which anything is known yet.
    pub fn new(targets: usize) -> Self {
        Self { received: None, targets: vec![Entry::default(); targets] }
    }

    /// The source has been received up to here. A lower position than before changes nothing: a session that starts
    /// again repeats what it had sent.
    pub fn received(&mut self, lsn: Lsn) {
        self.received = self.received.max(Some(lsn));
    }

    /// Everything up to this commit has been queued for the target. Going back needs [`Ledger::rewind`].
    pub fn dispatched(&mut self, target: TargetId, end: EndLsn) {
        let dispatched = &mut self.targets[target.0].dispatched;
        debug_assert!(*dispatched <= Some(end), "dispatched went back from {dispatched:?} to {end:?}");
        *dispatched = (*dispatched).max(Some(end));
    }

    /// The target's queue was dropped, or the session starts again: what follows `end` will be dispatched once more.
    pub fn rewind(&mut self, target: TargetId, end: EndLsn) {
        self.targets[target.0].dispatched = Some(end);
    }

    /// The target was given this commit.
    pub fn given(&mut self, target: TargetId, commit: CommitLsn) {
        self.targets[target.0].last = Some(commit);
    }

    /// The target has progress up to here on its disk. That never goes back; a lower one is a mistake of the program,
    /// and ignored, since the higher one may have been confirmed.
    pub fn durable(&mut self, target: TargetId, durable: DurableLsn) {
        let stored = &mut self.targets[target.0].durable;
        debug_assert!(*stored <= Some(durable), "durable went back from {stored:?} to {durable:?}");
        *stored = (*stored).max(Some(durable));
    }

    /// A target that comes (back) has progress up to here on its disk, and applied this commit last, as was just read
    /// from it. Lower than before when the target was restored from a backup; whoever lets it come back has made sure
    /// that nothing above was confirmed.
    pub fn stands_at(&mut self, target: TargetId, durable: DurableLsn, last: Option<CommitLsn>) {
        let entry = &mut self.targets[target.0];
        (entry.dispatched, entry.durable, entry.last) = (Some(durable.end_lsn()), Some(durable), last);
    }

    /// The target is fed through another slot from now on, which keeps for it what it needs.
    pub fn leaves(&mut self, target: TargetId) {
        self.targets[target.0].elsewhere = true;
    }

    /// The target is to be fed through this slot (again), from progress that it has on its disk: from now on nothing
    /// above is confirmed that was not confirmed before.
    pub fn joins(&mut self, target: TargetId, durable: Option<DurableLsn>, last: Option<CommitLsn>) {
        let dispatched = durable.map(|durable| durable.end_lsn());
        self.targets[target.0] = Entry { dispatched, durable, last, ..Entry::default() };
    }

    /// Whether the target has a part in what is confirmed through this slot.
    pub fn counts(&self, target: TargetId) -> bool {
        !self.targets[target.0].elsewhere
    }

    /// What the target is known to have on its disk.
    pub fn durable_lsn(&self, target: TargetId) -> Option<DurableLsn> {
        self.targets[target.0].durable
    }

    /// The last commit that the target was given.
    pub fn last(&self, target: TargetId) -> Option<CommitLsn> {
        self.targets[target.0].last
    }

    /// A session begins: whether it brings what the targets have followed is not known yet.
    pub fn session_begins(&mut self) {
        self.targets.iter_mut().for_each(|target| target.recognised = false);
    }

    /// The target has recognised its last commit in this session, or need not.
    pub fn recognised(&mut self, target: TargetId) {
        self.targets[target.0].recognised = true;
    }

    /// Whether the target has recognised its last commit in this session.
    pub fn has_recognised(&self, target: TargetId) -> bool {
        self.targets[target.0].recognised
    }

    /// What the source may forget: the lowest stored progress of those that count; of a doubtful target no more than
    /// what precedes its last commit. `None` while any is unknown, or without targets.
    pub fn confirmed(&self) -> Option<ConfirmedFlush> {
        // `None` is less than every position, so one unknown makes the whole unknown.
        let counting = self.targets.iter().filter(|target| !target.elsewhere);
        counting.map(Entry::bound).min().flatten().map(ConfirmedFlush::new)
    }

    /// How far the source has been received.
    pub fn received_lsn(&self) -> Option<Lsn> {
        self.received
    }

    /// How far the target's queue has been filled.
    pub fn dispatched_lsn(&self, target: TargetId) -> Option<EndLsn> {
        self.targets[target.0].dispatched
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn durable(bytes: u64) -> DurableLsn {
        DurableLsn::new(Lsn::new(bytes))
    }

    fn commit(bytes: u64) -> CommitLsn {
        CommitLsn::new(Lsn::new(bytes))
    }

    fn end(bytes: u64) -> EndLsn {
        EndLsn::new(Lsn::new(bytes))
    }

    /// A ledger of targets that have all recognised their history.
    fn known(targets: usize) -> Ledger {
        let mut ledger = Ledger::new(targets);
        (0..targets).for_each(|target| ledger.recognised(TargetId(target)));
        ledger
    }

    #[test]
    fn nothing_is_confirmed_while_one_target_is_unknown() {
        let mut ledger = known(2);
        ledger.received(Lsn::new(900));
        ledger.durable(TargetId(0), durable(500));
        ledger.dispatched(TargetId(1), end(700));
        assert_eq!(ledger.confirmed(), None);
        ledger.durable(TargetId(1), durable(300));
        assert_eq!(ledger.confirmed(), Some(ConfirmedFlush::new(Lsn::new(300))));
    }

    #[test]
    fn nothing_is_confirmed_without_targets() {
        let mut ledger = Ledger::new(0);
        ledger.received(Lsn::new(900));
        assert_eq!(ledger.confirmed(), None);
    }

    #[test]
    fn a_target_that_is_fed_elsewhere_holds_nothing_back_until_it_joins_again() {
        let mut ledger = known(2);
        let (away, other) = (TargetId(0), TargetId(1));
        let confirmed = |ledger: &Ledger| ledger.confirmed().map(|flush| flush.lsn().as_u64());
        ledger.durable(away, durable(100));
        ledger.durable(other, durable(500));
        assert_eq!(confirmed(&ledger), Some(100));
        ledger.leaves(away);
        assert_eq!((confirmed(&ledger), ledger.counts(away)), (Some(500), false));
        ledger.joins(away, Some(durable(480)), Some(commit(470)));
        assert_eq!((confirmed(&ledger), ledger.counts(away)), (Some(470), true), "it has not recognised its history");
        ledger.recognised(away);
        assert_eq!(confirmed(&ledger), Some(480));
        ledger.joins(away, None, None);
        assert_eq!(confirmed(&ledger), None, "where it is, is not known");
        ledger.leaves(away);
        ledger.leaves(other);
        assert_eq!(confirmed(&ledger), None, "there is nobody to feed");
    }

    #[test]
    fn a_doubtful_target_lets_nothing_be_confirmed_beyond_its_last_commit() {
        let mut ledger = Ledger::new(2);
        let (ahead, behind) = (TargetId(0), TargetId(1));
        ledger.stands_at(ahead, durable(500), Some(commit(450)));
        ledger.stands_at(behind, durable(300), Some(commit(290)));
        let confirmed = |ledger: &Ledger| ledger.confirmed().map(|flush| flush.lsn().as_u64());
        assert_eq!(confirmed(&ledger), Some(290));
        ledger.recognised(behind);
        assert_eq!(confirmed(&ledger), Some(300));
        ledger.durable(behind, durable(600));
        assert_eq!(confirmed(&ledger), Some(450), "the other may have followed another history");
        ledger.recognised(ahead);
        assert_eq!(confirmed(&ledger), Some(500));
        ledger.session_begins();
        assert_eq!(confirmed(&ledger), Some(290));
    }

    #[test]
    fn a_target_that_was_given_nothing_has_nothing_to_recognise() {
        let mut ledger = Ledger::new(1);
        ledger.stands_at(TargetId(0), durable(300), None);
        assert_eq!(ledger.confirmed(), Some(ConfirmedFlush::new(Lsn::new(300))));
        ledger.given(TargetId(0), commit(350));
        ledger.durable(TargetId(0), durable(360));
        ledger.session_begins();
        assert_eq!(ledger.confirmed(), Some(ConfirmedFlush::new(Lsn::new(350))));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "durable went back")]
    fn stored_progress_that_goes_back_is_a_mistake_of_the_program() {
        let mut ledger = Ledger::new(1);
        ledger.durable(TargetId(0), durable(2));
        ledger.durable(TargetId(0), durable(1));
    }

    proptest! {
        #[test]
        fn confirmed_never_passes_a_target_and_never_goes_back(
            targets in 1usize..5,
            events in prop::collection::vec((0usize..5, 0u8..6, 1u64..100), 0..200),
        ) {
            let mut ledger = known(targets);
            let (mut doubtful, mut last) = (vec![false; targets], vec![0; targets]);
            let mut stored: Vec<Option<u64>> = vec![None; targets];
            let mut before = None;
            for (target, event, step) in events {
                let target = target % targets;
                let id = TargetId(target);
                match event {
                    0 => ledger.received(Lsn::new(step * 100)),
                    1 => {
                        let last = ledger.dispatched_lsn(id).map_or(0, |end| end.lsn().as_u64());
                        ledger.dispatched(id, end(last + step));
                    }
                    2 => {
                        let end = stored[target].unwrap_or(0) + 2 * step;
                        (stored[target], last[target]) = (Some(end), end - step);
                        ledger.given(id, commit(end - step));
                        ledger.durable(id, durable(end));
                    }
                    3 => ledger.rewind(id, end(step)),
                    4 => {
                        ledger.session_begins();
                        doubtful.fill(true);
                    }
                    _ => {
                        ledger.recognised(id);
                        doubtful[target] = false;
                    }
                }
                let confirmed = ledger.confirmed();
                let bound = |target: usize| stored[target].map(|end| if doubtful[target] { last[target] } else { end });
                let lowest = (0..targets).map(bound).min().flatten();
                prop_assert_eq!(confirmed.map(|flush| flush.lsn().as_u64()), lowest);
                prop_assert!(event == 4 || confirmed >= before, "only a new session begins lower");
                before = confirmed;
            }
        }
    }
}
