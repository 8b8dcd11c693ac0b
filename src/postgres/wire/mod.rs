//! The wire connection: replication, pipelined apply and COPY, on postgres-protocol's frontend messages.
//!
//! In go messages and COPY data, out come frames: slices of what was read, parsed by whoever wants them. Large values
//! pass in both directions without being copied; memory stays bounded whatever a row's size.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | [`WireConnection`]: connecting, simple queries |
//! | `startup.rs` | start-up and authentication |
//! | `reader.rs` | bytes to frames |
//! | `writer.rs` | messages to bytes; Bind by hand |
//! | `exchange.rs` | writing and reading at once, so that neither side waits for the other for ever |
//! | `copy.rs` | COPY in both directions, and scripts around it |
//! | `cancel.rs` | cancel requests |
//!
//! After a server's error a connection can be used again (it is read up to ReadyForQuery), unless the error was FATAL.
//! After [`PgError::Connection`] or [`PgError::Protocol`] it cannot.

mod cancel;
mod copy;
mod exchange;
mod reader;
mod startup;
mod writer;

use std::sync::Arc;

use bytes::{Buf, Bytes};
use postgres_protocol::message::frontend;

pub use self::cancel::Canceller;
pub use self::copy::Answer;
pub use self::exchange::Progress;
pub use self::reader::WireReader;
pub use self::writer::WireWriter;
use super::presence::Presence;
use super::transport::{self, Address, Dialect, Opened, Reach, Session, Target, UserTimeout};
use super::{ConnectOptions, PgError, answer, session};
use crate::sql::Sql;

/// What the connection is for: decides the startup parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `replication=database`: replication commands and simple queries only.
    Replication,
    /// An ordinary session.
    Ordinary,
    /// An ordinary session of which much is read, no faster than its reader wants: the server is not to run ahead.
    Paced,
}

/// One message from the server, not yet parsed.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The message's type.
    pub tag: u8,
    /// What follows tag and length.
    pub body: Bytes,
}

impl Frame {
    /// The text of a CommandComplete (`INSERT 0 1`).
    pub fn command_tag(&self) -> Option<&str> {
        let text = self.body.strip_suffix(b"\0").filter(|_| self.tag == b'C')?;
        std::str::from_utf8(text).ok()
    }

    /// The number of rows a CommandComplete reports; `None` for commands that have none.
    pub fn rows(&self) -> Option<u64> {
        self.command_tag()?.rsplit(' ').next()?.parse().ok()
    }
}

/// A row of a simple query, as text.
pub type TextRow = Vec<Option<String>>;

/// A statement's parameter.
#[derive(Clone, Debug)]
pub enum Param {
    /// SQL NULL.
    Null,
    /// As the type's input function reads it.
    Text(Bytes),
    /// As the type's receive function reads it.
    Binary(Bytes),
}

/// Both halves of a connection whose start-up, authentication and session pinning are done.
pub struct WireConnection {
    /// May be moved to a task of its own.
    pub reader: WireReader,
    /// As above.
    pub writer: WireWriter,
    server_version: u32,
    peer: Arc<str>,
    canceller: Canceller,
    reach: Reach,
    direct: bool,
    running: Running,
}

/// What has been begun and not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Nothing,
    /// Statements whose answers are still to be read, COPY TO STDOUT among them.
    Script,
    CopyIn,
}

impl WireConnection {
    /// Connects (all hosts, TLS, authentication), pins the session settings that decide what text means.
    ///
    /// # Errors
    /// [`PgError::Connect`]: which server, which step, why, and what to do.
    pub async fn connect(options: &ConnectOptions, application_name: &str, purpose: Purpose) -> Result<Self, PgError> {
        transport::connect(options, &WireDialect { application_name, purpose }).await
    }

    /// A connection over streams on which everything that [`Self::connect`] does is done, as streams in memory: nothing
    /// is sent for it, and nothing awaited. Its statements cannot be cancelled, whatever server `options` name.
    pub fn over(reader: WireReader, writer: WireWriter, server_version: u32, options: ConnectOptions) -> Self {
        let peer: Arc<str> = reader.peer().into();
        let canceller = Canceller::new(options, Address::Unix("/nowhere".into()), None, peer.clone());
        let (reach, running) = (Reach::Socket, Running::Nothing);
        Self { reader, writer, server_version, peer, canceller, reach, direct: true, running }
    }

    /// `server_version_num`.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// Who is at the other end, for messages: `host:port/dbname`, never a secret.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// How the server is reached.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The server process that was promised at the start. Not the one that serves where a pooler stands in between.
    pub fn process_id(&self) -> Option<i32> {
        self.canceller.process_id()
    }

    /// Whether it leads to the server itself: not to a pooler.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// What can ask the server to stop this connection's statement while it runs.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// One statement or replication command by the simple protocol; its rows as text. (Several statements: the rows of
    /// all, one after the other.)
    pub async fn query(&mut self, sql: &Sql) -> Result<Vec<TextRow>, PgError> {
        self.send_query(sql)?;
        self.send().await?;
        let mut rows = Vec::new();
        loop {
            let frame = self.reader.frame().await?;
            match frame.tag {
                b'D' => rows.push(self.text_row(frame.body)?),
                b'T' | b'C' | b'I' => {}
                b'Z' => return Ok(rows),
                b'E' => return Err(self.fail(frame).await),
                b'G' => {
                    // A COPY FROM STDIN would wait for data for ever.
                    frontend::copy_fail("not started as a COPY", self.writer.buffer())
                        .map_err(|_| self.reader.violation("CopyFail"))?;
                    self.send().await?;
                }
                _ => return Err(self.reader.unexpected(&frame, "a simple query")),
            }
        }
    }

    /// As [`WireConnection::query`], for what is answered soon: see `answer.rs`. After no answer the connection is of
    /// no use any more.
    pub async fn query_soon(&mut self, sql: &Sql) -> Result<Vec<TextRow>, PgError> {
        let peer = Arc::clone(&self.peer);
        answer::answered(&peer, self.query(sql)).await
    }

    /// Sends a statement that answers CopyBothResponse (START_REPLICATION). From then on frames are the caller's.
    pub async fn start_copy_both(&mut self, sql: &Sql) -> Result<(), PgError> {
        self.send_query(sql)?;
        self.send().await?;
        let frame = self.reader.frame().await?;
        match frame.tag {
            b'W' => Ok(()),
            b'E' => Err(self.fail(frame).await),
            _ => Err(self.reader.unexpected(&frame, "the answer to a COPY")),
        }
    }

    /// Terminate and close. Without it a server finds out by itself that its client is gone.
    pub async fn close(mut self) -> Result<(), PgError> {
        frontend::terminate(self.writer.buffer());
        self.writer.flush().await?;
        self.writer.shutdown().await.map_err(|error| PgError::io(&self.peer, error))
    }

    fn send_query(&mut self, sql: &Sql) -> Result<(), PgError> {
        if self.running != Running::Nothing {
            return Err(PgError::Usage {
                message: format!("{}: a COPY or script is still running on this connection", self.peer),
            });
        }
        frontend::query(sql.as_str(), self.writer.buffer()).map_err(|error| PgError::Usage {
            message: format!("{}: the statement cannot be sent: {error}", self.peer),
        })
    }

    /// Sends what has gathered; a server that closed the connection is asked why.
    async fn send(&mut self) -> Result<(), PgError> {
        match self.writer.flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words(error).await),
        }
    }

    /// The error, once the session can be used again.
    async fn fail(&mut self, frame: Frame) -> PgError {
        self.running = Running::Nothing;
        let error = self.reader.server_error(frame);
        // After FATAL there is no ReadyForQuery, only the end: the server's word is worth more than that.
        while let Ok(frame) = self.reader.frame().await {
            if frame.tag == b'Z' {
                break;
            }
        }
        error
    }

    fn text_row(&self, mut body: Bytes) -> Result<TextRow, PgError> {
        let short = || self.reader.violation("a row that ends early");
        if body.len() < 2 {
            return Err(short());
        }
        let count = usize::from(body.get_u16());
        let mut row = Vec::with_capacity(count.min(body.len()));
        for _ in 0..count {
            if body.len() < 4 {
                return Err(short());
            }
            let length = body.get_i32();
            let Ok(length) = usize::try_from(length) else {
                row.push(None);
                continue;
            };
            if body.len() < length {
                return Err(short());
            }
            let value = String::from_utf8(body.split_to(length).into());
            row.push(Some(value.map_err(|_| self.reader.violation("text that is not UTF-8"))?));
        }
        Ok(row)
    }
}

struct WireDialect<'a> {
    application_name: &'a str,
    purpose: Purpose,
}

impl Dialect for WireDialect<'_> {
    type Session = WireConnection;

    async fn start(&self, opened: Opened, target: &Target<'_>) -> Result<WireConnection, PgError> {
        let peer = target.peer.clone();
        let (name, purpose, reach) = (self.application_name, self.purpose, opened.reach);
        if purpose != Purpose::Ordinary && reach == Reach::Near {
            transport::narrow(&opened.link);
        }
        let user_timeout = UserTimeout::of(&opened.link, target.options);
        let (reader, writer) = opened.link.split();
        let mut reader = WireReader::over(reader, peer.clone());
        let mut writer = WireWriter::over(writer, peer.clone());
        let key = startup::start(&mut reader, &mut writer, target, opened.end_point, name, purpose).await?;
        let canceller = Canceller::new(target.options.clone(), opened.address, key, peer.clone());
        let reported = reader.parameter("server_version").and_then(session::version_number);
        let server_version = reported.ok_or_else(|| reader.violation("the server reports no version"))?;
        let running = Running::Nothing;
        let mut connection =
            WireConnection { direct: false, reader, writer, server_version, peer, canceller, reach, running };
        let pinned = connection.query(&session::pin(server_version)).await?;
        let process = pinned.into_iter().flatten().flatten().last().and_then(|process| process.parse().ok());
        // A pooler promises a process of its own making.
        let process = process.filter(|_| connection.process_id() == process);
        connection.direct = process.is_some();
        if let Some(process) = process.filter(|_| purpose != Purpose::Replication && reach != Reach::Socket) {
            connection.reader.attend(Presence::new(target, name, process));
            user_timeout.take_off();
        }
        Ok(connection)
    }
}

impl Session for WireConnection {
    async fn ask(&mut self, sql: &Sql) -> Result<Option<String>, PgError> {
        Ok(self.query(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }
}
