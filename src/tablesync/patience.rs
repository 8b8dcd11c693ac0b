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

/// How the attempts go.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Since when nothing but errors has come of all attempts.
    failing: Option<Instant>,
    /// When something went by last.
    moved: Instant,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { limit, state: Mutex::new(State { failing: None, moved: Instant::now() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows were committed, or many bytes have gone by.
    pub fn gets_on(&self) {
        *self.state() = State { failing: None, moved: Instant::now() };
    }

    /// An attempt has failed at this time; whether that is enough.
    pub fn is_over(&self, now: Instant) -> bool {
        now.duration_since(*self.state().failing.get_or_insert(now)) >= self.limit
    }

    fn moved(&self) -> Instant {
        self.state().moved
    }
}

/// Resolves when the target has neither answered nor taken anything for as long as the job has patience. It is asked on
/// a connection that stays: one more may be one too many for the role or the server.
pub(super) async fn hung(job: &CopyJob, patience: &Patience) -> CopyError {
    let (mut answered, mut client) = (Instant::now(), None);
    loop {
        tokio::time::sleep(job.patience / 10).await;
        let source = match tokio::time::timeout(job.patience, ask(job, &mut client)).await {
            Ok(Ok(())) => {
                answered = Instant::now();
                continue;
            }
            Ok(Err(error)) => Some(Box::new(error)),
            Err(_) => None,
        };
        client = None;
        let waited = answered.max(patience.moved()).elapsed();
        if waited >= job.patience {
            return CopyError::Hung { target: job.scope.target_name.clone(), waited, source };
        }
    }
}

async fn ask(job: &CopyJob, client: &mut Option<Client>) -> Result<(), PgError> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(&job.target, &job.application_name()).await?),
    };
    client.batch(&Sql::new("SELECT 1")).await
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
