//! The catalogue and DDL client: tokio-postgres behind [`Sql`], never `&str`.
//!
//! It connects by the same transport, TLS and authentication rules as the wire connection: tokio-postgres is handed a
//! stream that is already encrypted.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postgres_types::ToSql;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio_postgres::config::{ChannelBinding as TokioBinding, Config, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Row, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::conninfo::ChannelBinding as WantedBinding;
use super::transport::{self, Dialect, Link, Opened, Session, Target, authentication, no_password, unbound};
use super::{ConnectOptions, PgError, session};
use crate::sql::Sql;

/// A connection for catalogue queries, DDL, administration. Its session is pinned (see `session.rs`).
pub struct Client {
    inner: tokio_postgres::Client,
    server_version: u32,
    peer: Arc<str>,
    connection: AbortHandle,
    ended: CancellationToken,
}

impl Client {
    /// Connects (all hosts, TLS, password) and pins the session; `application_name` names the use.
    ///
    /// # Errors
    /// [`PgError::Connect`]: which server, which step, why, and what to do.
    pub async fn connect(options: &ConnectOptions, application_name: &str) -> Result<Self, PgError> {
        transport::connect(options, &ClientDialect { application_name }).await
    }

    /// All rows.
    pub async fn query(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PgError> {
        self.inner.query(sql.as_str(), params).await.map_err(|error| self.error(&error))
    }

    /// Exactly one row.
    pub async fn query_one(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Row, PgError> {
        self.inner.query_one(sql.as_str(), params).await.map_err(|error| self.error(&error))
    }

    /// At most one row.
    pub async fn query_opt(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, PgError> {
        self.inner.query_opt(sql.as_str(), params).await.map_err(|error| self.error(&error))
    }

    /// Returns the number of rows affected.
    pub async fn execute(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<u64, PgError> {
        self.inner.execute(sql.as_str(), params).await.map_err(|error| self.error(&error))
    }

    /// One or more statements without parameters, by the simple protocol.
    pub async fn batch(&self, sql: &Sql) -> Result<(), PgError> {
        self.inner.batch_execute(sql.as_str()).await.map_err(|error| self.error(&error))
    }

    /// `server_version_num`, e.g. 150018.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Waits until the connection is gone: closed by the server or the network, as far as that can be seen without
    /// sending anything.
    pub async fn closed(&self) {
        self.ended.cancelled().await;
    }

    /// Who is at the other end, for messages: `host:port/dbname`, never a secret.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    fn error(&self, error: &tokio_postgres::Error) -> PgError {
        PgError::from_client(&self.peer, error)
    }
}

/// A statement still running at the server would otherwise keep its connection, and its locks, until it ends.
impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

struct ClientDialect<'a> {
    application_name: &'a str,
}

impl Dialect for ClientDialect<'_> {
    type Session = Client;

    async fn start(&self, opened: Opened, target: &Target<'_>) -> Result<Client, PgError> {
        let config = config(target, self.application_name);
        let stream = Bound { link: opened.link, end_point: opened.end_point };
        let (inner, mut connection) =
            config.connect_raw(stream, Negotiated).await.map_err(|error| startup_error(&target.peer, &error))?;
        let version = connection.parameter("server_version").and_then(session::version_number);
        // Polled by hand: awaited as a future it would log notices, which may quote values.
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
            // Whoever asks something from now on is refused, and need not wait.
            drop(connection);
            drop(guard);
        });
        let client = Client {
            inner,
            server_version: version.ok_or_else(|| PgError::protocol(&target.peer, "the server reports no version"))?,
            peer: target.peer.clone(),
            connection: task.abort_handle(),
            ended,
        };
        client.batch(&session::pin_client(client.server_version)).await?;
        Ok(client)
    }
}

impl Session for Client {
    async fn ask(&mut self, sql: &Sql) -> Result<Option<String>, PgError> {
        let answers = self.inner.simple_query(sql.as_str()).await.map_err(|error| self.error(&error))?;
        Ok(answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }
}

fn config(target: &Target<'_>, application_name: &str) -> Config {
    let options = target.options;
    let mut config = Config::new();
    config
        .user(&options.user)
        .dbname(&options.dbname)
        .application_name(options.application_name.as_deref().unwrap_or(application_name))
        // The stream is what it is to be: tokio-postgres must neither ask for TLS nor refuse to bind to it.
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct)
        .channel_binding(match options.channel_binding {
            WantedBinding::Disable => TokioBinding::Disable,
            WantedBinding::Prefer => TokioBinding::Prefer,
            WantedBinding::Require => TokioBinding::Require,
        });
    if let Some(password) = target.password {
        config.password(password.expose_secret());
    }
    if let Some(options) = &options.options {
        config.options(options);
    }
    config
}

/// tokio-postgres says which kind of error it is in its text only.
fn startup_error(peer: &str, error: &tokio_postgres::Error) -> PgError {
    let text = error.to_string();
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if text.starts_with("invalid configuration") {
        return no_password(peer);
    }
    if cause.contains("did not use channel binding") {
        return unbound(peer);
    }
    if text.starts_with("authentication error") {
        return authentication(
            peer,
            &cause,
            "check that the server uses scram-sha-256 (not GSSAPI), and that it is the server you mean",
        );
    }
    PgError::from_client(peer, error)
}

/// The stream as tokio-postgres wants it.
struct Bound {
    link: Link,
    end_point: Option<Vec<u8>>,
}

impl AsyncRead for Bound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Bound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }
}

impl TlsStream for Bound {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}

/// The handshake that has already taken place.
struct Negotiated;

impl TlsConnect<Bound> for Negotiated {
    type Stream = Bound;
    type Error = Infallible;
    type Future = Ready<Result<Bound, Infallible>>;

    fn connect(self, stream: Bound) -> Self::Future {
        ready(Ok(stream))
    }
}
