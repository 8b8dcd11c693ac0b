//! How long a target may hold up a copy: while it lasts, the source keeps what its snapshot can still see.
//!
//! A target that fails is noticed by the workers ([`Patience`]); one that hangs, by asking it on another connection
//! ([`hung`]). A statement that takes hours is neither: the server answers meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::CopyError;
use super::job::CopyJob;
use crate::postgres::{Client, PgError};
use crate::sql::Sql;

/// Since when nothing but errors has come of all attempts.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    failing: Mutex<Option<Instant>>,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { limit, failing: Mutex::default() }
    }

    fn failing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows were committed, or many bytes have gone by.
    pub fn gets_on(&self) {
        *self.failing() = None;
    }

    /// An attempt has failed at this time; whether that is enough.
    pub fn is_over(&self, now: Instant) -> bool {
        now.duration_since(*self.failing().get_or_insert(now)) >= self.limit
    }
}

/// Resolves when the target has not answered for as long as the job has patience.
pub(super) async fn hung(job: &CopyJob) -> CopyError {
    let mut answered = Instant::now();
    loop {
        tokio::time::sleep(job.patience / 10).await;
        // A server that refuses has answered.
        let source = match tokio::time::timeout(job.patience, ask(job)).await {
            Ok(Err(error)) if error.code().is_none() => Some(Box::new(error)),
            Ok(_) => {
                answered = Instant::now();
                continue;
            }
            Err(_) => None,
        };
        let waited = answered.elapsed();
        if waited >= job.patience {
            return CopyError::Hung { target: job.scope.target_name.clone(), waited, source };
        }
    }
}

async fn ask(job: &CopyJob) -> Result<(), PgError> {
    let target = Client::connect(&job.target, &job.application_name()).await?;
    target.batch(&Sql::new("SELECT 1")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_errors_have_lasted_with_nothing_between() {
        let patience = Patience::new(Duration::from_secs(300));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!patience.is_over(at(0)));
        assert!(!patience.is_over(at(299)));
        patience.gets_on();
        assert!(!patience.is_over(at(400)));
        assert!(!patience.is_over(at(699)));
        assert!(patience.is_over(at(700)));
    }
}
