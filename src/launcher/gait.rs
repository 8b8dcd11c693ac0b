//! How fast a path goes: as fast as it can, or at first no faster than a limit that it shares with others.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::tablesync::Rate;

/// See the module.
#[derive(Debug, Default)]
pub struct Gait {
    limit: Option<Limit>,
    /// Bytes that have passed and have not had their time.
    owed: usize,
    /// When those before them have had theirs.
    rests_until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Limit {
    rate: Arc<Rate>,
    until: Instant,
    hurry: CancellationToken,
}

impl Limit {
    fn has_ended(&self) -> bool {
        self.hurry.is_cancelled() || Instant::now() >= self.until
    }
}

impl Gait {
    /// As fast as it can.
    pub fn free() -> Self {
        Self::default()
    }

    /// No faster than this until then, so that it arrives however much there is to be caught up with; or until there is
    /// reason to hurry.
    pub fn limited(rate: Arc<Rate>, until: Instant, hurry: CancellationToken) -> Self {
        Self { limit: Some(Limit { rate, until, hurry }), ..Self::default() }
    }

    /// Whether it goes on after so many bytes without a break.
    pub fn goes_on(&self, bytes: usize) -> bool {
        self.limit.is_none() || bytes < Rate::AT_ONCE
    }

    /// So many bytes have passed.
    pub fn has_passed(&mut self, bytes: usize) {
        if self.limit.is_some() {
            self.owed += bytes;
        }
    }

    /// Whether it rests.
    pub fn rests(&self) -> bool {
        self.owed > 0 || self.rests_until.is_some()
    }

    /// Waits until it goes on. Cancel-safe.
    pub async fn rest(&mut self) {
        let Some(limit) = self.limit.clone() else { return };
        tokio::select! {
            biased;
            () = limit.hurry.cancelled() => {}
            () = sleep_until(limit.until) => {}
            () = self.pay(&limit.rate) => {}
        }
        if limit.has_ended() {
            *self = Self::free();
        }
    }

    /// Little by little: others share the limit.
    async fn pay(&mut self, rate: &Rate) {
        loop {
            if let Some(until) = self.rests_until {
                sleep_until(until).await;
                self.rests_until = None;
            }
            if self.owed == 0 {
                return;
            }
            let some = self.owed.min(Rate::AT_ONCE);
            self.owed -= some;
            self.rests_until = rate.after(some);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TWO: Duration = Duration::from_secs(2);

    fn rate() -> Arc<Rate> {
        Arc::new(Rate::new(1 << 20).expect("a limit"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_for_as_long_as_it_was_given() {
        let begun = Instant::now();
        let mut gait = Gait::limited(rate(), begun + TWO, CancellationToken::new());
        assert!(gait.goes_on(1) && !gait.goes_on(1 << 20));
        let mut passed = 0;
        while begun.elapsed() < TWO && passed < 4 << 20 {
            gait.has_passed(4096);
            passed += 4096;
            gait.rest().await;
        }
        assert!((2 << 20..(2 << 20) + 8192).contains(&passed), "{passed} bytes within {:?}", begun.elapsed());
        gait.has_passed(1 << 30);
        assert!(!gait.rests() && gait.goes_on(1 << 30));
    }

    #[tokio::test(start_paused = true)]
    async fn one_large_message_is_not_paid_for_once_the_limit_has_ended_by_nobody() {
        let (begun, rate) = (Instant::now(), rate());
        let mut gait = Gait::limited(Arc::clone(&rate), begun + TWO, CancellationToken::new());
        gait.has_passed(1 << 30);
        gait.rest().await;
        assert_eq!((begun.elapsed().as_secs(), gait.rests()), (2, false));
        rate.pass(1 << 20).await;
        assert_eq!(begun.elapsed().as_secs(), 3, "others do not pay for it either");
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_reason_to_hurry_it_rests_no_longer() {
        let (begun, hurry) = (Instant::now(), CancellationToken::new());
        let mut gait = Gait::limited(rate(), begun + TWO, hurry.clone());
        gait.has_passed(1 << 20);
        let hurrying = async {
            sleep_until(begun + TWO / 4).await;
            hurry.cancel();
        };
        tokio::join!(gait.rest(), hurrying);
        assert_eq!((begun.elapsed(), gait.rests(), gait.goes_on(1 << 20)), (TWO / 4, false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_that_was_broken_off_is_not_begun_anew() {
        let begun = Instant::now();
        let mut gait = Gait::limited(rate(), begun + TWO, CancellationToken::new());
        gait.has_passed(1 << 20);
        for _ in 0..10 {
            assert!(tokio::time::timeout(TWO / 40, gait.rest()).await.is_err());
        }
        gait.rest().await;
        assert_eq!(begun.elapsed().as_millis() / 100, 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn without_a_limit_or_bytes_there_is_no_rest() {
        let mut gait = Gait::free();
        gait.has_passed(1 << 30);
        assert!(!gait.rests() && gait.goes_on(1 << 30));
        let mut gait = Gait::limited(rate(), Instant::now() + TWO, CancellationToken::new());
        gait.has_passed(0);
        assert!(!gait.rests());
    }
}
