//! When silence means that the connection is dead: in go moments, out comes when to ask and when to give up.
//!
//! Half the limit passes in silence, then the server is asked for a sign of life; a live one answers at once. After the
//! other half the connection is given up. Time in which nobody listened does not count: the answer may lie in the
//! socket.

use std::time::Duration;

use tokio::time::Instant;

/// What to do now that the deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the server for an answer.
    Ask,
    /// It was asked and did not answer.
    GiveUp,
}

/// How long nothing has come.
#[derive(Debug)]
pub(super) struct Silence {
    half: Duration,
    since: Instant,
    asked: bool,
}

impl Silence {
    /// Gives up after `limit`.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { half: limit / 2, since: now, asked: false }
    }

    /// Something came.
    pub(super) fn broken(&mut self, now: Instant) {
        (self.since, self.asked) = (now, false);
    }

    /// Somebody starts to listen. A deadline that passed meanwhile is set anew.
    pub(super) fn listening(&mut self, now: Instant) {
        if now >= self.deadline() {
            self.broken(now);
        }
    }

    /// Until when to listen before [`Self::step`].
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.half
    }

    /// The deadline has passed while somebody listened.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if self.asked {
            return Step::GiveUp;
        }
        (self.since, self.asked) = (now, true);
        Step::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn it_asks_first_and_gives_up_when_nothing_comes() {
        let start = Instant::now();
        let mut silence = Silence::new(LIMIT, start);
        assert_eq!(silence.deadline(), start + LIMIT / 2);
        assert_eq!(silence.step(start + LIMIT / 2), Step::Ask);
        assert_eq!(silence.deadline(), start + LIMIT);
        assert_eq!(silence.step(start + LIMIT), Step::GiveUp);
    }

    #[test]
    fn an_answer_starts_it_anew() {
        let start = Instant::now();
        let mut silence = Silence::new(LIMIT, start);
        silence.step(start + LIMIT / 2);
        silence.broken(start + LIMIT / 2);
        assert_eq!(silence.step(start + LIMIT), Step::Ask);
    }

    #[test]
    fn time_in_which_nobody_listened_does_not_count() {
        let start = Instant::now();
        let mut silence = Silence::new(LIMIT, start);
        silence.step(start + LIMIT / 2);
        let later = start + 10 * LIMIT;
        silence.listening(later);
        assert_eq!(silence.deadline(), later + LIMIT / 2);
        assert_eq!(silence.step(later + LIMIT / 2), Step::Ask);
    }

    #[test]
    fn a_listener_who_comes_and_goes_does_not_put_it_off() {
        let start = Instant::now();
        let mut silence = Silence::new(LIMIT, start);
        for second in 0..30 {
            silence.listening(start + Duration::from_secs(second));
        }
        assert_eq!(silence.deadline(), start + LIMIT / 2);
    }
}
