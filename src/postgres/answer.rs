//! A server that does not answer: in goes a question that asks little, out comes its answer, or that there was none.
//!
//! Where a connection's other end is gone without a word, behind a proxy even for the kernel, nothing else would ever
//! end the wait. Only what the server answers at once may be asked so, or after a lock that it waits for no longer than
//! `lock_timeout` (see `session.rs`): not what copies, scans or waits for transactions.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::PgError;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The answer of the server `peer`, if it comes in time.
///
/// # Errors
/// What the question came to, or [`PgError::Connection`]: the connection is of no use any more.
pub(crate) async fn answered<T>(peer: &str, asked: impl Future<Output = Result<T, PgError>>) -> Result<T, PgError> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(PgError::io(peer, silent())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Judged, Verdict};

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_named_and_asked_again_by_another_connection() {
        let error = answered("db.example:5432/app", std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(error.verdict(), Verdict::Retry);
        let said = crate::error::chain(&error);
        assert!(said.contains("db.example:5432/app") && said.contains("no answer for 120 s"), "{said}");
        let late = async {
            tokio::time::sleep(PATIENCE / 2).await;
            Ok(7)
        };
        assert_eq!(answered("db", late).await.unwrap(), 7);
    }
}
