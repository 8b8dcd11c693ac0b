//! Whether a server still has a session that it leaves without an answer.
//!
//! Where the way to a server is cut off without a word, the kernel finds out by itself (`keepalives`): unless something
//! in between, a proxy or a balancer, keeps this end's half of it open. Then only the server can tell, over another
//! connection. A statement that takes its time is not mistaken for that, and a server that does not answer at all says
//! nothing: its sessions may go on once it does. With `tcp_user_timeout` they are not waited for longer than that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::transport::Target;
use super::wire::Purpose;
use super::{ConnectOptions, PgError, WireConnection};
use crate::sql::Sql;

/// What takes longer makes the server be asked, …
const LONG: Duration = Duration::from_secs(10);

/// … and it has this long to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// No server is asked more often, however short `tcp_user_timeout` is: each time costs it a session.
const OFTEN: Duration = Duration::from_secs(3);

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

    /// Waits until the server says that it has no such session any more, or cannot be asked for too long. Cancel-safe,
    /// and cheap for as long as it does not take long.
    pub(super) async fn ended(&self) -> PgError {
        let limit = self.options.user_timeout();
        let mut heard = Instant::now();
        let failed = |kind, why| PgError::io(&self.peer, io::Error::new(kind, why));
        loop {
            sleep(limit.map_or(LONG, |limit| limit.clamp(OFTEN, LONG))).await;
            match timeout(PATIENCE, self.is_there()).await {
                Ok(Ok(Some(false))) => {
                    let why = "the server has ended the session, and this end was not told";
                    return failed(io::ErrorKind::ConnectionAborted, why);
                }
                Ok(Ok(Some(true))) => heard = Instant::now(),
                Ok(Err(error)) if self.is_word_of_server(&error) => heard = Instant::now(),
                Ok(Ok(None) | Err(_)) | Err(_) if limit.is_some_and(|limit| heard.elapsed() >= limit) => {
                    return failed(io::ErrorKind::TimedOut, "the server was not heard of for tcp_user_timeout");
                }
                Ok(Ok(None) | Err(_)) | Err(_) => {}
            }
        }
    }

    /// Whether the server itself refuses to say, as one does that has no room for another client. (What refuses for it,
    /// a firewall or a balancer, does so whether the server lives or not.)
    fn is_word_of_server(&self, error: &PgError) -> bool {
        match error {
            PgError::Server(_) => true,
            PgError::Connect { answered, .. } => answered.contains(&self.peer),
            _ => false,
        }
    }

    /// Whether the server has the session; `None`: another one has answered. Boxed: its connection has a presence too,
    /// which it will not live to ask for.
    fn is_there(&self) -> Pin<Box<dyn Future<Output = Result<Option<bool>, PgError>> + Send + '_>> {
        Box::pin(async {
            let name = &self.application_name;
            let mut beside = WireConnection::connect(&self.options, name, Purpose::Ordinary).await?;
            // Another server knows nothing, and whoever comes through a pooler is served by others at other times.
            if beside.peer() != &*self.peer || !beside.is_direct() {
                return Ok(None);
            }
            // Every role sees every process (`pg_stat_get_activity` in pgstatfuncs.c).
            let session = "SELECT 1 FROM pg_catalog.pg_stat_activity WHERE pid = {}";
            let found = beside.query(&Sql::format(session, &[&Sql::number(self.process)])).await?;
            Ok(Some(!found.is_empty()))
        })
    }
}
