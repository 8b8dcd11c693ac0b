//! How fast a copy may go, and what catches up with it, so that it leaves servers and network to others.
//!
//! A limit is as gentle as its stretches are short: a server that gets a second's work at once has others wait for it
//! as if there were none. So bytes pass in pieces of [`Rate::AT_ONCE`], each as soon as those before it have had their
//! time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A timer's resolution. What comes later than that is not made up for.
const TICK: Duration = Duration::from_millis(1);

/// A limit, for all the copies that share it: their bytes count together.
#[derive(Debug)]
pub struct Rate {
    /// Bytes in a second.
    limit: u64,
    /// When all that has passed has had its time.
    busy_until: Mutex<Instant>,
}

impl Rate {
    /// So many bytes go at once: servers are at it for a fraction of a millisecond.
    pub const AT_ONCE: usize = 32 * 1024;

    /// Of so many bytes in a second; `None` for 0, which is no limit.
    pub fn new(limit: u64) -> Option<Self> {
        (limit > 0).then(|| Self { limit, busy_until: Mutex::new(Instant::now()) })
    }

    /// So many bytes have passed: waits until the next may.
    pub async fn pass(&self, bytes: usize) {
        if let Some(free) = self.after(bytes) {
            sleep_until(free).await;
        }
    }

    /// So many bytes have passed: when the next may, if that is not at once.
    pub fn after(&self, bytes: usize) -> Option<Instant> {
        let now = Instant::now();
        let free = self.reserve(bytes, now);
        (free > now + TICK).then_some(free)
    }

    /// When the next may pass, if these do now.
    fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.limit as f64);
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        *busy_until = (*busy_until).max(now - TICK) + takes;
        *busy_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_time_that_has_passed_unused_is_gone() {
        assert!(Rate::new(0).is_none());
        let rate = Rate::new(1000).unwrap();
        let start = Instant::now() + Duration::from_secs(60);
        let at = |millis: u64| start + Duration::from_millis(millis);
        let free = |bytes, now| rate.reserve(bytes, now) + TICK;
        assert_eq!(free(500, at(0)), at(500));
        assert_eq!(free(500, at(0)), at(1000), "another worker's come after those");
        assert_eq!(free(100, at(1000)), at(1100));
        assert_eq!(free(100, at(9000)), at(9100), "a pause is not made up for");
    }

    #[tokio::test(start_paused = true)]
    async fn short_waits_add_up_to_the_rate() {
        let rate = Rate::new(100 << 20).unwrap();
        let begun = Instant::now();
        for _ in 0..6400 {
            rate.pass(Rate::AT_ONCE).await;
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((1.99..2.01).contains(&took), "200 MiB in {took} s");
    }
}
