//! When to read: at once, or after a moment in which more arrives. Pure.
//!
//! In: the server's clock as it sends, and when it committed what it sends. Out: how long to leave the socket alone.
//!
//! A walsender sends each change by a system call of its own, and one that finds its reader asleep wakes it. A reader
//! that reads whatever is there is woken for every change, which costs both sides several times what the change itself
//! costs; one that comes by now and then finds thousands. But who waits adds to the time a transaction takes to its
//! target, and a connection that is full stops its sender.
//!
//! What it costs is the waking, not the reading: to leave the socket alone means that no thread waits for it, as a
//! runtime's does while only a task sleeps. So whoever reads has a thread of its own, which sleeps.
//!
//! What decides is how late the server is already, by its own clock: the time between a transaction's commit and
//! its being sent. A server that keeps up is read from at once. One that is late by [`LATE`] has more to send, and
//! pauses of up to a twentieth of that make it catch up sooner. A steady load that can be followed at once is followed
//! at once, and one that cannot makes the server late. Only an empty socket is left alone.
//!
//! How long pauses get within that depends on the way ([`Reach`]). A Unix socket is full after some hundred messages. A
//! near server's segments arrive as they are sent, one for each message, which costs it more than half of its time; but
//! once the window, kept narrow, is full, what it sends gathers, and leaves as one. So there a pause takes as long as
//! [`GULP`] bytes to gather, most of them behind a full window; unless longer pauses bring no more, because everything
//! is full and the sender stands still. A distant server has a wide window, and a network card to gather for.
//!
//! Measured on loopback, 2 cores, 360,000 transactions of one row each, nothing but reading: 6.0 s without pauses, with
//! congestion control by cubic 5.0 s with any pause where the window grows, 2.2 s as here; 2.2 s over a Unix socket.

use std::time::Duration;

use crate::change::PgTime;
use crate::postgres::Reach;

/// How late a server is that has a backlog, and not a disk that takes its time for each commit.
const LATE: Duration = Duration::from_millis(10);

/// A pause is this part of the lateness at most.
const SHARE: u32 = 20;

/// What is to gather in a pause, in bytes.
const GULP: usize = 768 * 1024;

/// What a message is wrapped in: CopyData's tag and length, XLogData's tag, positions and clock.
const WRAP: usize = 30;

/// What has gathered at a near server comes by windows, and the socket looks empty between two of them. So it is looked
/// at again after so long …
const GLANCE: Duration = Duration::from_micros(50);

/// … unless the last look brought less than this.
const FLOW: usize = 8 * 1024;

/// … or after so many looks: a fast server sends as much without having gathered anything.
const LOOKS: u32 = 32;

/// So many pauses tell what one of their length brings.
const ENOUGH: usize = 2;

/// So many go by until other ones are tried again.
const PATIENCE: usize = 16;

/// What is known of the server's haste.
#[derive(Debug)]
pub(super) struct Pace {
    reach: Reach,
    shortest: Duration,
    longest: Duration,
    /// When the transaction at hand was committed.
    commit: Option<PgTime>,
    late: Duration,
    /// Bytes since the last look at the socket.
    brought: usize,
    /// The same since the last pause.
    gathered: usize,
    /// Looks since the last pause.
    looks: u32,
    /// The last pause.
    pause: Duration,
    /// How many of its length there were, and what they brought together.
    alike: (usize, usize),
    /// Those before and what one of them brought, while it is tried whether others are better.
    before: Option<(Duration, usize)>,
    /// Longer ones were in vain: next, shorter ones are tried.
    full: bool,
    /// Pauses that go by until others are tried.
    patience: usize,
}

impl Pace {
    /// Of a server that is reached so.
    pub(super) fn new(reach: Reach) -> Self {
        let (shortest, longest) = match reach {
            Reach::Socket => (200, 200),
            Reach::Near => (500, 16_000),
            Reach::Far => (500, 1_000),
        };
        let shortest = Duration::from_micros(shortest);
        Self {
            reach,
            shortest,
            longest: Duration::from_micros(longest),
            commit: None,
            late: Duration::ZERO,
            brought: 0,
            gathered: 0,
            looks: 0,
            pause: shortest,
            alike: (0, 0),
            before: None,
            full: false,
            patience: 0,
        }
    }

    /// The server has sent a message of so many bytes, by its clock; `commit` if it begins a transaction.
    pub(super) fn sent(&mut self, bytes: usize, sent: PgTime, commit: Option<PgTime>) {
        self.brought += WRAP + bytes;
        self.commit = commit.or(self.commit);
        let late = self.commit.map_or(0, |commit| sent.0.saturating_sub(commit.0));
        let late = Duration::from_micros(u64::try_from(late).unwrap_or(0));
        self.late = if late < LATE { Duration::ZERO } else { late };
    }

    /// How long to leave the socket, which is empty, alone now; `None`: not at all.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let brought = std::mem::take(&mut self.brought);
        self.gathered += brought;
        if self.late.is_zero() {
            (self.gathered, self.before) = (0, None);
            self.take(self.shortest);
            return None;
        }
        self.looks += 1;
        if self.reach == Reach::Near && brought >= FLOW && self.looks < LOOKS {
            return Some(GLANCE);
        }
        self.looks = 0;
        self.alike.0 += 1;
        self.alike.1 += std::mem::take(&mut self.gathered);
        self.patience = self.patience.saturating_sub(1);
        let longest = self.longest.min(self.late / SHARE).max(self.shortest);
        if self.alike.0 >= ENOUGH {
            let brings = self.alike.1 / self.alike.0;
            let wanted = self.wanted(brings).clamp(self.shortest, longest);
            self.take(wanted);
        } else {
            self.pause = self.pause.min(longest);
        }
        Some(self.pause)
    }

    /// From now on pauses have this length.
    fn take(&mut self, pause: Duration) {
        (self.pause, self.alike) = (pause, (0, 0));
    }

    /// How long pauses had better be, if those of the present length bring so much.
    fn wanted(&mut self, brings: usize) -> Duration {
        if let Some((before, brought)) = self.before.take().filter(|(before, _)| *before != self.pause) {
            let in_vain = if self.pause > before { brings < brought + brought / 8 } else { brings < brought / 8 * 7 };
            if in_vain {
                self.full = self.pause > before;
                self.patience = PATIENCE;
                return before;
            }
        }
        if brings > GULP {
            return self.pause / 2;
        }
        if brings >= GULP / 2 || self.patience > 0 {
            return self.pause;
        }
        self.before = Some((self.pause, brings));
        if self.full && self.pause > self.shortest { self.pause / 2 } else { self.pause * 2 }
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
    const SHORTEST: Duration = Duration::from_micros(500);

    /// What was committed is sent that many microseconds later.
    fn after(late: i64) -> Pace {
        let mut pace = Pace::new(Reach::Near);
        pace.sent(100, PgTime(SECOND + late), Some(PgTime(SECOND)));
        pace
    }

    /// The pauses of a reader whose server is so late, and what gathers in a pause of so many microseconds.
    fn pauses(mut pace: Pace, late: i64, gathers: impl Fn(u64) -> u64) -> Vec<Duration> {
        let mut pauses = vec![pace.pause().unwrap()];
        for _ in 0..200 {
            let brought = gathers(pauses.last().unwrap().as_micros() as u64);
            pace.sent(brought as usize, PgTime(SECOND + late), Some(PgTime(SECOND)));
            if pace.reach == Reach::Near && brought >= FLOW as u64 {
                assert_eq!(pace.pause(), Some(GLANCE), "there may be more");
            }
            pauses.push(pace.pause().unwrap());
        }
        pauses
    }

    /// The length to which pauses come where so many bytes arrive in a millisecond.
    fn steady(late: i64, rate: u64) -> Duration {
        *pauses(after(late), late, |micros| rate * micros / 1000).last().unwrap()
    }

    #[test]
    fn what_is_sent_as_it_is_committed_is_read_at_once() {
        assert_eq!(after(9_999).pause(), None);
        assert_eq!(Pace::new(Reach::Near).pause(), None, "and so is the first message");
    }

    #[test]
    fn a_late_server_is_left_alone_for_a_twentieth_of_its_lateness_at_most() {
        assert_eq!(after(10_000).pause(), Some(SHORTEST));
        assert_eq!(steady(10_000, 1_000), SHORTEST);
        assert_eq!(steady(100_000, 1_000), Duration::from_millis(5));
        assert_eq!(steady(3600 * SECOND, 1_000), Duration::from_millis(16));
    }

    #[test]
    fn what_gathers_in_a_pause_is_bounded() {
        let gathered = 100_000 * steady(3600 * SECOND, 100_000).as_micros() as usize / 1000;
        assert!((GULP / 2..=GULP).contains(&gathered), "{gathered} bytes");
        assert_eq!(steady(3600 * SECOND, 100_000_000), SHORTEST);
    }

    #[test]
    fn a_connection_that_is_full_is_not_left_to_stand_still() {
        for room in [1_000, 20_000, 100_000, 300_000] {
            let fills = |micros: u64| (micros * 50).min(room);
            let pauses = pauses(after(3600 * SECOND), 3600 * SECOND, fills);
            // The time for which a sender without any room stands still, as part of all.
            let idle: u64 = pauses.iter().map(|pause| (pause.as_micros() as u64).saturating_sub(room / 50)).sum();
            let all: u64 = pauses.iter().map(|pause| pause.as_micros() as u64).sum();
            // With the shortest pauses, that is as much as can be had where they are too long already.
            let least =
                100 * SHORTEST.as_micros().saturating_sub(room as u128 / 50) as u64 / SHORTEST.as_micros() as u64;
            assert!(idle * 100 / all <= least.max(40), "{room}: {idle} of {all}: {pauses:?}");
            // Not that it never pauses either.
            assert!(all / pauses.len() as u64 >= (room / 50 / 2).clamp(500, 8_000), "{room}: {pauses:?}");
        }
    }

    #[test]
    fn a_way_on_which_a_longer_pause_brings_nothing_or_too_much_has_short_ones() {
        for (reach, longest) in [(Reach::Socket, 200), (Reach::Far, 1_000)] {
            let mut pace = Pace::new(reach);
            pace.sent(100, PgTime(3600 * SECOND), Some(PgTime(SECOND)));
            let pauses = pauses(pace, 3600 * SECOND, |micros| micros);
            assert_eq!(pauses.into_iter().max(), Some(Duration::from_micros(longest)), "{reach:?}");
        }
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
