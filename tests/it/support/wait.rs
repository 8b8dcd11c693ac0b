//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// A moment after which waiting has failed.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

/// A busy machine may take this many times as long as a quiet one. It costs time only where a test fails.
const PATIENCE: u64 = 3;

/// A deadline for what takes less than this many seconds on a quiet machine: it lies [`PATIENCE`] times as far ahead.
pub fn seconds(seconds: u64) -> Deadline {
    Deadline(Instant::now() + Duration::from_secs(seconds * PATIENCE))
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

/// Awaits something; panics at the deadline, naming `what` was awaited.
pub async fn within<T>(what: &str, deadline: Deadline, future: impl Future<Output = T>) -> T {
    let awaited = tokio::time::timeout_at(deadline.0.into(), future).await;
    awaited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
