//! Whether a target is there at all, where what is applied does not tell: it has been closed while there was nothing to
//! do, or takes long and does not answer elsewhere either.

use std::time::Duration;

use tokio::time::sleep;

use super::error::ApplyError;
use super::session::{Session, SessionOptions};
use crate::postgres::Client;
use crate::sql::Sql;

/// What takes longer makes the target be asked, …
const LONG: Duration = Duration::from_secs(10);

/// … and it has this long to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answered by a session that is open.
static ANYTHING: Sql = Sql::new("SELECT 1");

/// Waits until the target has closed the session, and gives what it says of that.
pub async fn closed(session: &Session) -> ApplyError {
    loop {
        session.client.closed().await;
        if let Err(error) = session.client.query(&ANYTHING, &[]).await {
            return error.into();
        }
    }
}

/// Waits until the target answers neither on the session beside the one that applies, nor to a new connection. Either
/// alone may be held up although the target works: the first waits for the disk at times, and for a second one there
/// may be no room.
pub async fn silence(beside: &Client, options: &SessionOptions) -> ApplyError {
    loop {
        sleep(LONG).await;
        let answered = tokio::select! {
            Ok(_) = beside.query(&ANYTHING, &[]) => true,
            Ok(_) = Client::connect(&options.connect, &options.application_name) => true,
            () = sleep(PATIENCE) => false,
        };
        if !answered {
            return ApplyError::Silent { waited: LONG + PATIENCE };
        }
    }
}
