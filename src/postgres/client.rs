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
use std::time::Duration;

use postgres_types::ToSql;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding as TokioBinding, Config, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Row, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::conninfo::ChannelBinding as WantedBinding;
use super::presence::Presence;
use super::transport::{self, Dialect, Link, Opened, Session, Target, authentication, no_password, unbound};
use super::{ConnectOptions, PgError, answer, session};
use crate::sql::Sql;

/// A connection for catalogue queries, DDL, administration. Its session is pinned (see `session.rs`).
pub struct Client {
    inner: tokio_postgres::Client,
    server_version: u32,
    peer: Arc<str>,
    presence: Option<Presence>,
    answers_soon: bool,
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

    /// All rows. Where the server is one that answers soon (`answers_soon`), it has to, here as in all but
    /// [`Client::batch`].
    pub async fn query(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PgError> {
        self.answered(self.inner.query(sql.as_str(), params)).await
    }

    /// Exactly one row.
    pub async fn query_one(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Row, PgError> {
        self.answered(self.inner.query_one(sql.as_str(), params)).await
    }

    /// At most one row.
    pub async fn query_opt(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, PgError> {
        self.answered(self.inner.query_opt(sql.as_str(), params)).await
    }

    /// Returns the number of rows affected.
    pub async fn execute(&self, sql: &Sql, params: &[&(dyn ToSql + Sync)]) -> Result<u64, PgError> {
        self.answered(self.inner.execute(sql.as_str(), params)).await
    }

    /// One or more statements without parameters, by the simple protocol. They may take as long as they want.
    pub async fn batch(&self, sql: &Sql) -> Result<(), PgError> {
        self.waited_for(self.inner.batch_execute(sql.as_str())).await
    }

    /// `server_version_num`, e.g. 150018.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed() || self.ended.is_cancelled()
    }

    /// Waits until the connection is gone: closed by the server or the network, as far as that can be seen without
    /// sending anything.
    pub async fn closed(&self) {
        self.ended.cancelled().await;
    }

    /// The error of whoever finds it closed.
    pub fn lost(&self) -> PgError {
        PgError::io(&self.peer, io::Error::new(io::ErrorKind::ConnectionAborted, "the connection is closed"))
    }

    /// Who is at the other end, for messages: `host:port/dbname`, never a secret.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether the server answers within this time. If not, the connection is closed.
    pub async fn answers_within(&self, patience: Duration) -> bool {
        let answers = timeout(patience, self.batch(&Sql::new("SELECT 1"))).await.is_ok_and(|answer| answer.is_ok());
        if !answers {
            self.close();
        }
        answers
    }

    /// Closes the connection: what is asked and will be, fails.
    pub fn close(&self) {
        self.ended.cancel();
        self.connection.abort();
    }

    /// The answer of a server that answers soon, or of another one.
    async fn answered<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, PgError> {
        let asked = self.waited_for(asked);
        if !self.answers_soon {
            return asked.await;
        }
        let answer = answer::answered(&self.peer, asked).await;
        if matches!(&answer, Err(PgError::Connection { source, .. }) if source.kind() == io::ErrorKind::TimedOut) {
            self.close();
        }
        answer
    }

    /// The answer, unless the server has ended the session unheard.
    async fn waited_for<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, PgError> {
        let Some(presence) = &self.presence else { return asked.await.map_err(|error| self.error(&error)) };
        tokio::select! {
            biased;
            answer = asked => answer.map_err(|error| self.error(&error)),
            error = presence.ended() => {
                self.close();
                Err(error)
            }
        }
    }

    fn error(&self, error: &tokio_postgres::Error) -> PgError {
        PgError::from_client(&self.peer, error)
    }
}

/// A statement still running at the server would otherwise keep its connection, and its locks, until it ends.
impl Drop for Client {
    fn drop(&mut self) {
        self.close();
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
        let mut client = Client {
            inner,
            server_version: version.ok_or_else(|| PgError::protocol(&target.peer, "the server reports no version"))?,
            peer: target.peer.clone(),
            presence: None,
            answers_soon: target.options.answers_soon,
            connection: task.abort_handle(),
            ended,
        };
        let pinned = client.inner.simple_query(session::pin_client(client.server_version).as_str()).await;
        let pinned = pinned.map_err(|error| client.error(&error))?;
        let process = pinned.iter().rev().find_map(first_value).and_then(|process| process.parse().ok());
        client.presence = process.map(|process| Presence::new(target, self.application_name, process));
        Ok(client)
    }
}

impl Session for Client {
    async fn ask(&mut self, sql: &Sql) -> Result<Option<String>, PgError> {
        let answers = self.inner.simple_query(sql.as_str()).await.map_err(|error| self.error(&error))?;
        Ok(answers.iter().find_map(first_value).map(str::to_owned))
    }
}

fn first_value(answer: &SimpleQueryMessage) -> Option<&str> {
    match answer {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
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
