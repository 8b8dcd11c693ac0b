//! From options to an authenticated session: in go hosts, out comes the first session that fits, or words on why none
//! did.
//!
//! | file | idea |
//! |---|---|
//! | `attempts.rs` | the order of hosts, addresses and encryptions; `target_session_attrs`; the messages |
//! | `dial.rs` | names to addresses, sockets and their options |
//! | `encrypt.rs` | the SSLRequest and what may follow it |
//! | `link.rs` | a stream that is TCP, Unix or TLS |
//! | `order.rs` | hosts that do not answer come last for a while |
//! | `reach.rs` | how far away the server is, for who reads from it |
//!
//! Who speaks the start-up on the stream is not known here: the wire connection and tokio-postgres both implement
//! [`Dialect`].

mod attempts;
mod dial;
mod encrypt;
mod link;
mod order;
mod reach;

use std::future::Future;
use std::sync::Arc;

use secrecy::SecretString;

pub(crate) use self::attempts::{connect, reopen};
pub(crate) use self::dial::{Address, UserTimeout};
pub(crate) use self::link::{Link, LinkReader, LinkWriter};
pub use self::reach::Reach;
pub(crate) use self::reach::narrow;
use super::{ConnectOptions, PgError};
use crate::error::Verdict;
use crate::sql::Sql;

/// A stream on which the start-up can begin.
pub(crate) struct Opened {
    pub(crate) link: Link,
    /// `tls-server-end-point`, when there is TLS and its certificate has one.
    pub(crate) end_point: Option<Vec<u8>>,
    /// Where the stream leads, for cancel requests.
    pub(crate) address: Address,
    pub(crate) reach: Reach,
}

/// One server that is being tried.
#[derive(Clone)]
pub(crate) struct Target<'a> {
    pub(crate) options: &'a ConnectOptions,
    /// `host:port/dbname`, for messages.
    pub(crate) peer: Arc<str>,
    pub(crate) password: Option<&'a SecretString>,
}

/// Start-up, authentication and session pinning.
pub(crate) trait Dialect: Sync {
    /// What it yields.
    type Session: Session;

    /// Speaks it.
    fn start(&self, opened: Opened, target: &Target<'_>)
    -> impl Future<Output = Result<Self::Session, PgError>> + Send;
}

/// What choosing among servers asks of a session.
pub(crate) trait Session: Send {
    /// The first value a statement returns.
    fn ask(&mut self, sql: &Sql) -> impl Future<Output = Result<Option<String>, PgError>> + Send;
}

/// The server wants a password and there is none.
pub(crate) fn no_password(peer: &str) -> PgError {
    PgError::no_session(
        format!("{peer}: the server asks for a password and none is configured"),
        Verdict::halt("give the password in the connection string, PGPASSWORD or the password file"),
    )
}

/// Authentication that cannot be done, or must not.
pub(crate) fn authentication(peer: &str, why: &str, hint: &str) -> PgError {
    PgError::no_session(format!("{peer}: authentication: {why}"), Verdict::halt(hint))
}

/// Channel binding is demanded and cannot be had.
pub(crate) fn unbound(peer: &str) -> PgError {
    authentication(
        peer,
        "channel_binding=require, but the server does not offer SCRAM-SHA-256-PLUS on this connection",
        "use TLS, a scram-sha-256 password and no TLS-ending proxy, or set channel_binding=prefer",
    )
}
