//! When to read: at once, or after a moment in which more arrives. Pure.
//!
//! In: the server's clock as it sends, and when it committed what it sends. Out: how long to leave the socket alone.
//!
//! A walsender sends each change by a system call of its own, and one that finds its reader asleep wakes it. A reader
//! that reads whatever is there is woken for every change, which costs both sides several times what the change itself
//! costs; one that comes by now and then finds thousands. And while a reader stays away until the connection has no
//! room, what is sent gathers at the sender and leaves as one, instead of as a segment per change. But who waits adds
//! to the time a transaction takes to its target.
//!
//! What it costs is the waking, not the reading: to leave the socket alone means that no thread waits for it, as a
//! runtime's does while only a task sleeps. So whoever reads has a thread of its own, which sleeps.
//!
//! What decides is how late the server is already, by its own clock: the time between a transaction's commit and
//! its being sent. A server that keeps up is read from at once. One that is late by [`LATE`] has more to send, and a
//! pause of a twentieth of that makes it catch up sooner; the later it is, the longer it is left alone. No rate is
//! measured and nothing is to be adjusted: a steady load that can be followed at once is followed at once, and one that
//! cannot makes the server late. Only an empty socket is left alone, so a pause costs no throughput on a long line:
//! the kernel lets its window grow to what is read in a turn.

use std::time::Duration;

use crate::change::PgTime;

/// How late a server is that has a backlog, and not a disk that takes its time for each commit.
const LATE: Duration = Duration::from_millis(10);

/// A pause is this part of the lateness …
const SHARE: u32 = 20;

/// … and this at most.
const LONGEST: Duration = Duration::from_millis(40);

/// What is known of the server's haste.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the transaction at hand was committed.
    commit: Option<PgTime>,
    late: Duration,
}

impl Pace {
    /// The server has sent a message, by its clock; `commit` if it begins a transaction.
    pub(super) fn sent(&mut self, sent: PgTime, commit: Option<PgTime>) {
        self.commit = commit.or(self.commit);
        let late = self.commit.map_or(0, |commit| sent.0.saturating_sub(commit.0));
        let late = Duration::from_micros(u64::try_from(late).unwrap_or(0));
        self.late = if late < LATE { Duration::ZERO } else { late };
    }

    /// How long to leave an empty socket alone; `None`: not at all.
    pub(super) fn pause(&self) -> Option<Duration> {
        (!self.late.is_zero()).then(|| (self.late / SHARE).min(LONGEST))
    }

    /// By how much the server is late; zero while it keeps up.
    pub(super) fn late(&self) -> Duration {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// What was committed is sent that many microseconds later.
    fn after(late: i64) -> Pace {
        let mut pace = Pace::default();
        pace.sent(PgTime(SECOND + late), Some(PgTime(SECOND)));
        pace
    }

    #[test]
    fn what_is_sent_as_it_is_committed_is_read_at_once() {
        assert_eq!(after(9_999).pause(), None);
        assert_eq!(Pace::default().pause(), None, "and so is the first message");
    }

    #[test]
    fn a_late_server_is_left_alone_for_a_twentieth_of_its_lateness() {
        assert_eq!(after(10_000).pause(), Some(Duration::from_micros(500)));
        assert_eq!(after(100_000).pause(), Some(Duration::from_millis(5)));
        assert_eq!(after(3600 * SECOND).pause(), Some(LONGEST));
    }

    #[test]
    fn a_large_transaction_grows_late_while_it_is_sent() {
        let mut pace = after(0);
        pace.sent(PgTime(SECOND + SECOND / 10), None);
        assert_eq!(pace.pause(), Some(Duration::from_millis(5)));
        pace.sent(PgTime(3 * SECOND), Some(PgTime(3 * SECOND)));
        assert_eq!(pace.pause(), None, "the next one is not");
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_hurry() {
        let mut pace = after(-60 * SECOND);
        assert_eq!(pace.pause(), None);
        pace.sent(PgTime(i64::MIN), Some(PgTime(i64::MAX)));
        assert_eq!(pace.pause(), None);
    }
}
