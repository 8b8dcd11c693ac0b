//! When to read: at once, or after a moment in which more arrives. Pure.
//!
//! In: the server's clock as it sends, and when it committed what it sends. Out: how long to leave the socket alone.
//!
//! A walsender sends each change by a system call of its own, and one that finds its reader asleep wakes it. A reader
//! that reads whatever is there is woken for every change, which costs both sides several times what the change itself
//! costs; one that comes by now and then finds a thousand. But who waits adds to the time a transaction takes to its
//! target.
//!
//! What it costs is the waking, not the reading: to leave the socket alone means that no thread waits for it, as a
//! runtime's does while only a task sleeps. So whoever reads has a thread of its own, which sleeps.
//!
//! What decides is how late the server is already, by its own clock: the time between a transaction's commit and
//! its being sent. A server that keeps up is read from at once. One that is late by [`LATE`] has more to send, and a
//! pause of a twentieth of that makes it catch up sooner. No rate is measured and nothing is to be adjusted: a steady
//! load that can be followed at once is followed at once, and one that cannot makes the server late.

use std::time::Duration;

use tokio::time::Instant;

use crate::change::PgTime;

/// How late a server is that has a backlog, and not a disk that takes its time for each commit.
const LATE: Duration = Duration::from_millis(10);

/// Between two reads from a late server.
const PAUSE: Duration = Duration::from_micros(500);

/// What is known of the server's haste.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the transaction at hand was committed.
    commit: Option<PgTime>,
    /// When the server sent the last message, by the same clock.
    sent: PgTime,
    /// The last read, and whether it left something unread.
    read: Instant,
    more: bool,
}

impl Pace {
    /// A session that begins.
    pub(super) fn new(now: Instant) -> Self {
        Self { commit: None, sent: PgTime(0), read: now, more: false }
    }

    /// The server has sent a message, by its clock; `commit` if it begins a transaction.
    pub(super) fn sent(&mut self, sent: PgTime, commit: Option<PgTime>) {
        self.sent = sent;
        self.commit = commit.or(self.commit);
    }

    /// There was a read; `more` if it could not take all there was.
    pub(super) fn read(&mut self, now: Instant, more: bool) {
        (self.read, self.more) = (now, more);
    }

    /// How long to sleep before the next read; `None`: not at all.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = PAUSE.checked_sub(now - self.read)?;
        (!self.late().is_zero() && !self.more && !left.is_zero()).then_some(left)
    }

    /// By how much the server is late; zero while it keeps up.
    pub(super) fn late(&self) -> Duration {
        let late = self.commit.map_or(0, |commit| self.sent.0.saturating_sub(commit.0));
        let late = Duration::from_micros(u64::try_from(late).unwrap_or(0));
        if late < LATE { Duration::ZERO } else { late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// After a read of what was committed at 0 and sent that many microseconds later.
    fn after(late: i64, more: bool) -> (Pace, Instant) {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.read(now, more);
        pace.sent(PgTime(SECOND + late), Some(PgTime(SECOND)));
        (pace, now)
    }

    #[test]
    fn what_is_sent_as_it_is_committed_is_read_at_once() {
        let (pace, now) = after(9_999, false);
        assert_eq!(pace.pause(now), None);
        assert_eq!(Pace::new(now).pause(now), None, "and so is the first message");
    }

    #[test]
    fn a_late_server_is_left_alone_for_a_moment_after_each_read() {
        let (pace, now) = after(10_000, false);
        assert_eq!(pace.pause(now), Some(PAUSE));
        assert_eq!(pace.pause(now + PAUSE), None, "what was done meanwhile counts");
    }

    #[test]
    fn what_is_known_to_be_there_is_not_waited_for() {
        let (pace, now) = after(60 * SECOND, true);
        assert_eq!(pace.pause(now), None);
    }

    #[test]
    fn a_large_transaction_grows_late_while_it_is_sent() {
        let (mut pace, now) = after(0, false);
        pace.sent(PgTime(2 * SECOND), None);
        assert_eq!(pace.pause(now), Some(PAUSE));
        pace.sent(PgTime(3 * SECOND), Some(PgTime(3 * SECOND)));
        assert_eq!(pace.pause(now), None, "the next one is not");
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_hurry() {
        assert_eq!(after(-60 * SECOND, false).0.pause(Instant::now()), None);
        let (mut pace, now) = after(0, false);
        pace.sent(PgTime(i64::MIN), Some(PgTime(i64::MAX)));
        assert_eq!(pace.pause(now), None);
    }
}
