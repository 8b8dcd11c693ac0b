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
//! its being sent. A server that keeps up is read from at once. One that is late by [`LATE`] has more to send, and
//! pauses of up to a twentieth of that make it catch up sooner. Within that they are as long as it takes for [`GULP`]
//! to gather: in less, little is gained, and more would fill what the connection holds, and stop the server. A steady
//! load that can be followed at once is followed at once, and one that cannot makes the server late. Only an empty
//! socket is left alone, so a pause costs no throughput on a long line: the kernel lets its window grow to what is
//! read in a turn.

use std::time::Duration;

use crate::change::PgTime;

/// How late a server is that has a backlog, and not a disk that takes its time for each commit.
const LATE: Duration = Duration::from_millis(10);

/// A pause is this part of the lateness at most …
const SHARE: u32 = 20;

/// … and between these.
const SHORTEST: Duration = Duration::from_micros(500);
const LONGEST: Duration = Duration::from_millis(40);

/// What is to gather in a pause, in bytes.
const GULP: usize = 1 << 20;

/// What is known of the server's haste.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the transaction at hand was committed.
    commit: Option<PgTime>,
    late: Duration,
    /// Bytes since the last pause.
    brought: usize,
    /// The last pause.
    pause: Duration,
}

impl Pace {
    /// The server has sent a message of so many bytes, by its clock; `commit` if it begins a transaction.
    pub(super) fn sent(&mut self, bytes: usize, sent: PgTime, commit: Option<PgTime>) {
        self.brought += bytes;
        self.commit = commit.or(self.commit);
        let late = self.commit.map_or(0, |commit| sent.0.saturating_sub(commit.0));
        let late = Duration::from_micros(u64::try_from(late).unwrap_or(0));
        self.late = if late < LATE { Duration::ZERO } else { late };
    }

    /// How long to leave the socket, which is empty, alone now; `None`: not at all.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let wanted = match std::mem::take(&mut self.brought) {
            brought if brought > GULP => self.pause / 2,
            brought if brought < GULP / 2 => self.pause * 2,
            _ => self.pause,
        };
        if self.late.is_zero() {
            self.pause = SHORTEST;
            return None;
        }
        self.pause = wanted.min(LONGEST).min(self.late / SHARE).max(SHORTEST);
        Some(self.pause)
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
        pace.sent(100, PgTime(SECOND + late), Some(PgTime(SECOND)));
        pace
    }

    /// The length to which pauses come where so many bytes arrive in a millisecond.
    fn steady(late: i64, rate: usize) -> Duration {
        let (mut pace, mut pause) = (after(late), SHORTEST);
        for _ in 0..20 {
            pace.sent(rate * pause.as_micros() as usize / 1000, PgTime(SECOND + late), None);
            pause = pace.pause().unwrap();
        }
        pause
    }

    #[test]
    fn what_is_sent_as_it_is_committed_is_read_at_once() {
        assert_eq!(after(9_999).pause(), None);
        assert_eq!(Pace::default().pause(), None, "and so is the first message");
    }

    #[test]
    fn a_late_server_is_left_alone_for_a_twentieth_of_its_lateness_at_most() {
        assert_eq!(after(10_000).pause(), Some(SHORTEST));
        assert_eq!(steady(10_000, 1_000), SHORTEST);
        assert_eq!(steady(100_000, 1_000), Duration::from_millis(5));
        assert_eq!(steady(3600 * SECOND, 1_000), LONGEST);
    }

    #[test]
    fn what_gathers_in_a_pause_is_bounded() {
        let pause = steady(3600 * SECOND, 100_000);
        let gathered = 100_000 * pause.as_micros() as usize / 1000;
        assert!((GULP / 2..=GULP).contains(&gathered), "{gathered} bytes in {pause:?}");
        assert_eq!(steady(3600 * SECOND, 100_000_000), SHORTEST);
    }

    #[test]
    fn a_large_transaction_grows_late_while_it_is_sent() {
        let mut pace = after(0);
        pace.sent(100, PgTime(SECOND + SECOND / 10), None);
        assert_eq!(pace.pause(), Some(SHORTEST));
        pace.sent(100, PgTime(3 * SECOND), Some(PgTime(3 * SECOND)));
        assert_eq!(pace.pause(), None, "the next one is not");
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_hurry() {
        let mut pace = after(-60 * SECOND);
        assert_eq!(pace.pause(), None);
        pace.sent(100, PgTime(i64::MIN), Some(PgTime(i64::MAX)));
        assert_eq!(pace.pause(), None);
    }
}
