//! What of a target's commits is on its disk: the bookkeeping. Pure.
//!
//! In: what was committed, and what reads of the stored position have found, each of which made durable what it found.
//! Out: whether something is outstanding, and what has become durable; or that commits were lost.
//!
//! A COMMIT that was answered is to be seen by every read that is sent after it. So whoever notes what is committed
//! ([`Flushed::mark`]) before it sends the read must find that, or more: what the target has committed meanwhile. Less
//! means that the target has lost commits.

use crate::lsn::EndLsn;

/// How far a target has committed, and how much of that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flushed {
    committed: EndLsn,
    durable: EndLsn,
}

/// What was committed when a read was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(EndLsn);

impl Mark {
    pub(super) fn end(self) -> EndLsn {
        self.0
    }
}

/// A read has found less than was committed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

impl Flushed {
    /// Of a target whose stored position is durable.
    pub(super) fn new(stored: EndLsn) -> Self {
        Self { committed: stored, durable: stored }
    }

    /// The target has answered a COMMIT that stored this position.
    pub(super) fn committed(&mut self, end: EndLsn) {
        self.committed = self.committed.max(end);
    }

    /// Whether something committed is not known to be durable.
    pub(super) fn is_outstanding(&self) -> bool {
        self.durable < self.committed
    }

    /// To be taken before a read is sent.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.committed)
    }

    /// The read has found this position, and made it durable. Tells whether it is further than what was.
    pub(super) fn found(&mut self, mark: Mark, found: EndLsn) -> Result<bool, Lost> {
        if found < mark.0 {
            return Err(Lost);
        }
        let further = found > self.durable;
        self.durable = self.durable.max(found);
        Ok(further)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lsn::Lsn;

    fn end(lsn: u64) -> EndLsn {
        EndLsn::new(Lsn::new(lsn))
    }

    #[test]
    fn a_read_makes_durable_what_was_committed_before_it_and_no_more() {
        let mut flushed = Flushed::new(end(10));
        assert!(!flushed.is_outstanding());
        flushed.committed(end(20));
        let mark = flushed.mark();
        flushed.committed(end(30));
        assert_eq!(flushed.found(mark, end(20)), Ok(true));
        assert!(flushed.is_outstanding(), "30 came after the read was sent");
        assert_eq!(flushed.found(flushed.mark(), end(30)), Ok(true));
        assert!(!flushed.is_outstanding());
        assert_eq!(flushed.found(flushed.mark(), end(30)), Ok(false));
    }

    #[test]
    fn a_commit_whose_answer_comes_after_the_read_that_found_it_is_not_outstanding() {
        let mut flushed = Flushed::new(end(10));
        flushed.committed(end(20));
        assert_eq!(flushed.found(flushed.mark(), end(30)), Ok(true));
        flushed.committed(end(30));
        assert!(!flushed.is_outstanding());
    }

    #[test]
    fn a_target_that_shows_less_than_it_has_answered_has_lost_it() {
        let mut flushed = Flushed::new(end(10));
        flushed.committed(end(20));
        assert_eq!(flushed.found(flushed.mark(), end(10)), Err(Lost));
        assert!(flushed.is_outstanding());
    }

    /// A target: what it shows, and what of that is on its disk.
    #[derive(Clone, Copy, Debug)]
    struct Target {
        shown: u64,
        disk: u64,
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The target commits.
        Commit,
        /// The answers to all its COMMITs arrive.
        Answered,
        /// By itself it writes some of its WAL.
        Writes,
        /// A read is sent.
        Sent,
        /// The read is carried out.
        Read,
        /// The read's answer arrives.
        Found,
        /// The target crashes, and comes back; the answers under way are lost, and the stored position is read anew.
        Crash,
    }

    fn event() -> impl Strategy<Value = Event> {
        use Event::{Answered, Commit, Crash, Found, Read, Sent, Writes};
        prop_oneof![
            4 => Just(Commit), 3 => Just(Answered), 1 => Just(Writes), 3 => Just(Sent), 3 => Just(Read),
            3 => Just(Found), 1 => Just(Crash),
        ]
    }

    proptest! {
        #[test]
        fn durable_is_on_the_disk_and_never_goes_back(events in prop::collection::vec(event(), 0..200)) {
            let mut target = Target { shown: 10, disk: 10 };
            let mut flushed = Flushed::new(end(10));
            let (mut sent, mut read) = (None, None);
            for event in events {
                let before = flushed.durable;
                match event {
                    Event::Commit => target.shown += 1,
                    Event::Answered => flushed.committed(end(target.shown)),
                    Event::Writes => target.disk = target.disk.max(target.shown - 1),
                    Event::Sent => sent = sent.or(Some(flushed.mark())),
                    Event::Read if read.is_none() => {
                        read = sent.map(|mark| (mark, target.shown));
                        target.disk = if read.is_some() { target.shown } else { target.disk };
                    }
                    Event::Found => {
                        let Some((mark, found)) = read.take() else { continue };
                        sent = None;
                        prop_assert!(flushed.found(mark, end(found)).is_ok(), "nothing was lost");
                        prop_assert!(flushed.durable >= mark.end());
                    }
                    Event::Crash => {
                        let lost = target.shown > target.disk && flushed.committed > end(target.disk);
                        target.shown = target.disk;
                        (sent, read) = (None, None);
                        // Whoever goes on without reading the position anew is told.
                        prop_assert_eq!(flushed.clone().found(flushed.mark(), end(target.shown)).is_err(), lost);
                        flushed = Flushed { committed: end(target.shown), durable: flushed.durable };
                    }
                    Event::Read => {}
                }
                prop_assert!(flushed.durable <= end(target.disk), "{:?} of {target:?}", flushed.durable);
                prop_assert!(flushed.durable >= before, "it went back");
            }
        }
    }
}
