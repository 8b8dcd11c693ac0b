//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// A moment after which waiting has failed.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

/// A deadline this many seconds from now.
pub fn seconds(seconds: u64) -> Deadline {
    Deadline(Instant::now() + Duration::from_secs(seconds))
}

impl Deadline {
    /// Whether it has passed.
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }
}

/// How long to wait before a condition is looked at again.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Looks at a condition until it gives a value; panics at the deadline, naming `what` was awaited.
pub async fn wait_for<T>(what: &str, deadline: Deadline, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        // Read before the condition: one that became true just in time counts.
        let late = deadline.passed();
        if let Some(value) = condition().await {
            return value;
        }
        assert!(!late, "waited in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
