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
//! session brings: a source that was restored from a backup looks like the one before. Until all have, nothing more is
//! confirmed; so a slot that is confirmed beyond a target's last commit is proof of that target's history.

use crate::change::TargetId;
use crate::lsn::{ConfirmedFlush, DurableLsn, EndLsn, Lsn};

/// How far everyone is. Targets are counted when it is made; a [`TargetId`] beyond that is a mistake of the program.
#[derive(Clone, Debug)]
pub struct Ledger {
    received: Option<Lsn>,
    targets: Vec<Entry>,
}

/// How far one target is.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    dispatched: Option<EndLsn>,
    durable: Option<DurableLsn>,
    /// Whether it has recognised its history in the session at hand.
    recognised: bool,
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

    /// The target has stored progress up to here. Stored progress never goes back; a lower one is a mistake of the
    /// program, and ignored, since the higher one may have been confirmed.
    pub fn durable(&mut self, target: TargetId, durable: DurableLsn) {
        let stored = &mut self.targets[target.0].durable;
        debug_assert!(*stored <= Some(durable), "durable went back from {stored:?} to {durable:?}");
        *stored = (*stored).max(Some(durable));
    }

    /// A target that comes (back) has stored progress up to here, as was just read from it. Lower than before when the
    /// target was restored from a backup; whoever lets it come back has made sure that nothing above was confirmed.
    pub fn stands_at(&mut self, target: TargetId, durable: DurableLsn) {
        let entry = &mut self.targets[target.0];
        (entry.dispatched, entry.durable) = (Some(durable.end_lsn()), Some(durable));
    }

    /// A session begins: whether it brings what the targets have followed is not known yet.
    pub fn session_begins(&mut self) {
        self.targets.iter_mut().for_each(|target| target.recognised = false);
    }

    /// The target has recognised its last commit in this session, or need not.
    pub fn recognised(&mut self, target: TargetId) {
        self.targets[target.0].recognised = true;
    }

    /// What the source may forget: the lowest stored progress. `None` while any is unknown or doubtful, or without
    /// targets.
    pub fn confirmed(&self) -> Option<ConfirmedFlush> {
        // `None` is less than every position, so one unknown makes the whole unknown.
        let known = self.targets.iter().map(|target| target.durable.filter(|_| target.recognised));
        let lowest = known.min().flatten()?;
        Some(ConfirmedFlush::new(lowest.end_lsn().lsn()))
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
    fn nothing_is_confirmed_for_a_target_that_has_not_recognised_its_history() {
        let mut ledger = known(2);
        ledger.durable(TargetId(0), durable(500));
        ledger.durable(TargetId(1), durable(300));
        assert_eq!(ledger.confirmed(), Some(ConfirmedFlush::new(Lsn::new(300))));
        ledger.session_begins();
        ledger.recognised(TargetId(0));
        ledger.durable(TargetId(0), durable(600));
        assert_eq!(ledger.confirmed(), None, "the other may have followed another history");
        ledger.recognised(TargetId(1));
        assert_eq!(ledger.confirmed(), Some(ConfirmedFlush::new(Lsn::new(300))));
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
            let mut doubtful = vec![false; targets];
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
                        stored[target] = Some(stored[target].unwrap_or(0) + step);
                        ledger.durable(id, durable(stored[target].unwrap()));
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
                let lowest = stored.iter().copied().min().flatten().filter(|_| !doubtful.contains(&true));
                prop_assert_eq!(confirmed.map(|flush| flush.lsn().as_u64()), lowest);
                prop_assert!(confirmed.is_none() || confirmed >= before);
                before = confirmed.or(before);
            }
        }
    }
}
