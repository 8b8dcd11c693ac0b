//! Whether a server still has a session that it leaves without an answer.
//!
//! Where the way to a server is cut off without a word, the kernel finds out by itself (`keepalives`,
//! `tcp_user_timeout`): unless something in between, a proxy or a balancer, keeps this end's half of it open. Then only
//! the server can tell, over another connection. A statement that takes its time is not mistaken for that, and a server
//! that does not answer at all says nothing: its sessions may go on once it does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::transport::Target;
use super::wire::Purpose;
use super::{ConnectOptions, PgError, WireConnection};
use crate::sql::Sql;

/// What takes longer makes the server be asked, …
const LONG: Duration = Duration::from_secs(10);

/// … and it has this long to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session, and how to reach its server beside it.
#[derive(Debug)]
pub(super) struct Presence {
    options: ConnectOptions,
    application_name: String,
    peer: Arc<str>,
    process: i32,
}

impl Presence {
    /// Of the session on this server that this process of it serves.
    pub(super) fn new(target: &Target<'_>, application_name: &str, process: i32) -> Self {
        let (options, peer) = (target.options.clone(), Arc::clone(&target.peer));
        Self { options, application_name: application_name.to_owned(), peer, process }
    }

    /// Waits until the server says that it has no such session any more. Cancel-safe, and cheap for as long as it does
    /// not take long.
    pub(super) async fn ended(&self) -> PgError {
        loop {
            sleep(LONG).await;
            if let Ok(Ok(false)) = timeout(PATIENCE, self.is_there()).await {
                let unheard = "the server has ended the session, and this end was not told";
                return PgError::io(&self.peer, io::Error::new(io::ErrorKind::ConnectionAborted, unheard));
            }
        }
    }

    /// Boxed: its connection has a presence too, which it will not live to ask for.
    fn is_there(&self) -> Pin<Box<dyn Future<Output = Result<bool, PgError>> + Send + '_>> {
        Box::pin(async {
            let name = &self.application_name;
            let mut beside = WireConnection::connect(&self.options, name, Purpose::Ordinary).await?;
            // Another server knows nothing, and whoever comes through a pooler is served by others at other times.
            if beside.peer() != &*self.peer || !beside.is_direct() {
                return Ok(true);
            }
            // Every role sees every process (`pg_stat_get_activity` in pgstatfuncs.c).
            let session = "SELECT 1 FROM pg_catalog.pg_stat_activity WHERE pid = {}";
            let found = beside.query(&Sql::format(session, &[&Sql::number(self.process)])).await?;
            Ok(!found.is_empty())
        })
    }
}
