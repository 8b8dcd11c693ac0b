//! The stream: in goes START_REPLICATION, out come pgoutput's messages and keepalives, in the order of the WAL.
//!
//! Reading is the caller's pace and nothing else: when nobody calls [`WalReceiver::next`], the server's sending blocks,
//! and the status task (`status.rs`) goes on telling it that we are alive. Nothing here decides what is confirmed; that
//! comes in by a watch and goes out as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use postgres_protocol::message::frontend;
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::SourceError;
use super::answer::{first, parsed};
use super::pace::Pace;
use super::silence::{Silence, Step};
use super::slot::slot_error;
use super::status::{Shared, StatusTask};
use crate::change::PgTime;
use crate::lsn::{ConfirmedFlush, Lsn};
use crate::pgoutput::begun;
use crate::postgres::wire::Frame;
use crate::postgres::{PgError, WireConnection, WireReader, WireWriter};
use crate::sql::Sql;

/// How long [`WalReceiver::stop`] waits for the server to let go of the slot.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// A server may be busy for seconds before it answers, with the end of a large transaction for instance.
const SHORTEST_SILENCE: Duration = Duration::from_secs(10);

/// What to stream, and how.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The slot.
    pub slot: String,
    /// The publication. That it exists is the caller's to check ([`super::publication::exists`]), at every start and
    /// while the stream runs: PostgreSQL 18 only warns in its own log and skips the changes.
    pub publication: String,
    /// Where to start. A server starts at the slot's `confirmed_flush_lsn` when that is further on, without a word;
    /// whether this is a gap is the caller's to decide, before. `None`: there.
    pub start: Option<Lsn>,
    /// At most this much time between status updates; a third of the server's `wal_sender_timeout` if that is less.
    pub status_interval: Duration,
    /// After this much silence, in spite of having asked, the connection counts as dead, where the server has no
    /// `wal_sender_timeout`. Where it has one, that holds in both directions, but never less than [`SHORTEST_SILENCE`].
    pub silence_limit: Duration,
    /// Logical messages too; the heartbeat is one.
    pub messages: bool,
    /// Values in binary where their type has it.
    pub binary: bool,
    /// Nothing is confirmed before [`WalReceiver::may_confirm`]. Servers before the minor versions of May 2025 let a
    /// confirmation move a slot backward (`LogicalConfirmReceivedLocation`), and with it hide where it stood.
    pub hold_confirmation: bool,
}

impl StartOptions {
    /// The usual: from where the slot stands, with messages, values as text.
    pub fn new(slot: impl Into<String>, publication: impl Into<String>) -> Self {
        Self {
            slot: slot.into(),
            publication: publication.into(),
            start: None,
            status_interval: Duration::from_secs(10),
            silence_limit: Duration::from_secs(60),
            messages: true,
            binary: false,
            hold_confirmation: false,
        }
    }
}

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A pgoutput message.
    Data {
        /// The position it was decoded at; of a Commit, the transaction's end.
        start: Lsn,
        /// The same in logical streaming (`WalSndPrepareWrite`).
        wal_end: Lsn,
        /// The message.
        payload: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// Everything that committed before it has been sent.
        wal_end: Lsn,
        /// The server wants an update at once (it was sent one). With updates by timer it hardly asks unless it is
        /// shutting down, and then it waits for `wal_end` to be confirmed: when nothing is outstanding, store it as
        /// progress and confirm it now.
        reply_requested: bool,
    },
}

/// A running stream. Dropped, it closes the connection, and the server releases the slot when it notices;
/// [`Self::stop`] is quicker.
pub struct WalReceiver {
    reader: WireReader,
    status: Option<AbortOnDropHandle<Result<WireWriter, SourceError>>>,
    shared: Arc<Shared>,
    silence: Silence,
    pace: Box<Pace>,
    silence_limit: Duration,
    stop: CancellationToken,
    binary: bool,
    peer: String,
}

impl WalReceiver {
    /// Starts streaming on a connection opened for replication. `confirmed` is what status updates report as flushed.
    ///
    /// # Errors
    /// [`SourceError::SlotActive`] while somebody else streams: a standby waits and tries again.
    /// [`SourceError::SlotMissing`], [`SourceError::SlotUnusable`].
    pub async fn start(
        mut conn: WireConnection,
        options: &StartOptions,
        confirmed: watch::Receiver<Option<ConfirmedFlush>>,
    ) -> Result<Self, SourceError> {
        let sender_timeout = wal_sender_timeout(&mut conn).await?;
        let sql = start_sql(options)?;
        conn.start_copy_both(&sql).await.map_err(|error| slot_error(&options.slot, "streaming from", error))?;
        let interval = sender_timeout.map_or(options.status_interval, |limit| options.status_interval.min(limit / 3));
        let silence_limit = sender_timeout.map_or(options.silence_limit, |limit| limit.max(SHORTEST_SILENCE));
        let (peer, reach) = (conn.peer().to_owned(), conn.reach());
        let (shared, stop) = (Arc::new(Shared::default()), CancellationToken::new());
        shared.hold(options.hold_confirmation);
        tracing::info!(
            slot = options.slot,
            peer,
            start = options.start.map(tracing::field::display),
            status_interval = ?interval,
            "streaming"
        );
        let WireConnection { reader, writer, .. } = conn;
        let status = StatusTask {
            writer,
            shared: shared.clone(),
            confirmed,
            interval: interval.max(Duration::from_millis(10)),
            patience: silence_limit,
            stop: stop.clone(),
            peer: peer.clone(),
        };
        let status = Some(AbortOnDropHandle::new(tokio::spawn(status.run())));
        let now = Instant::now();
        let (silence, pace) = (Silence::new(silence_limit, now), Box::new(Pace::new(reach)));
        Ok(Self { reader, status, shared, silence, pace, silence_limit, stop, binary: options.binary, peer })
    }

    /// The next message; waits for it. Cancel-safe.
    ///
    /// # Errors
    /// Whatever ends the stream, a failure of the status updates included: without them the server would close anyway.
    pub async fn next(&mut self) -> Result<Received, SourceError> {
        if let Some(received) = self.buffered()? {
            return Ok(received);
        }
        self.silence.listening(Instant::now());
        if let Some(pause) = self.pace.pause() {
            // Whatever else is true of the task: only an empty socket is worth a pause.
            if let Some(frame) = unconstrained(self.reader.frame()).now_or_never()
                && let Some(received) = self.taken(frame)?
            {
                return Ok(received);
            }
            // The thread, and not only this task: see `pace.rs`.
            std::thread::sleep(pause);
        }
        loop {
            let Some(status) = &mut self.status else { return Err(self.status_gone()) };
            tokio::select! {
                biased;
                frame = self.reader.frame() => {
                    if let Some(received) = self.taken(frame)? {
                        return Ok(received);
                    }
                }
                ended = status => {
                    self.status = None;
                    return Err(ended.ok().and_then(Result::err).unwrap_or_else(|| self.status_gone()));
                }
                () = sleep_until(self.silence.deadline()) => match self.silence.step(Instant::now()) {
                    Step::Ask => self.shared.ask(),
                    Step::GiveUp => {
                        return Err(SourceError::Silent { peer: self.peer.clone(), silent: self.silence_limit });
                    }
                }
            }
        }
    }

    /// The next message if it is already in memory.
    pub fn buffered(&mut self) -> Result<Option<Received>, SourceError> {
        // A finished status task has an error, which `next` awaits and returns.
        if self.status.as_ref().is_none_or(|status| status.is_finished()) {
            return Ok(None);
        }
        while let Some(frame) = self.reader.buffered_frame().map_err(streaming)? {
            if let Some(received) = self.take(frame)? {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// By how much the server is late with what it sends; zero while it keeps up.
    pub fn late(&self) -> Duration {
        self.pace.late()
    }

    /// Whether values come in binary.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// What is confirmed may be reported, if it was held back.
    pub fn may_confirm(&self) {
        self.shared.hold(false);
    }

    /// The furthest position seen, of data or a keepalive.
    pub fn received(&self) -> Option<Lsn> {
        Lsn::known(self.shared.received())
    }

    /// Ends the stream in good order: a last status update with what is confirmed now, CopyDone, and the server's word
    /// that the slot is free. What still arrives meanwhile is dropped; it will be sent again.
    ///
    /// # Errors
    /// [`SourceError::NotReleased`] when the server takes too long, or what went wrong on the way.
    pub async fn stop(mut self) -> Result<(), SourceError> {
        let deadline = Instant::now() + STOP_DEADLINE;
        let released = timeout_at(deadline, self.say_goodbye()).await;
        released.unwrap_or_else(|_| Err(SourceError::NotReleased { peer: self.peer.clone(), waited: STOP_DEADLINE }))
    }

    async fn say_goodbye(&mut self) -> Result<(), SourceError> {
        self.stop.cancel();
        let status = self.status.take().ok_or_else(|| self.status_gone())?;
        let mut writer = status.await.map_err(|_| self.status_gone())??;
        loop {
            let frame = self.reader.frame().await.map_err(streaming)?;
            match frame.tag {
                // ReadyForQuery: the slot was released before it (`StartLogicalReplication` in walsender.c).
                b'Z' => break,
                b'E' => return Err(streaming(self.reader.server_error(frame))),
                _ => {}
            }
        }
        frontend::terminate(writer.buffer());
        writer.flush().await.map_err(SourceError::during("closing the stream"))
    }

    fn status_gone(&self) -> SourceError {
        SourceError::StatusTask { peer: self.peer.clone() }
    }

    /// What a read has brought.
    fn taken(&mut self, frame: Result<Frame, PgError>) -> Result<Option<Received>, SourceError> {
        self.silence.broken(Instant::now());
        self.take(frame.map_err(streaming)?)
    }

    /// What a frame says; `None` when it says nothing that matters.
    fn take(&mut self, frame: Frame) -> Result<Option<Received>, SourceError> {
        match frame.tag {
            b'd' => {
                let (received, clock) = parse(frame.body)
                    .ok_or_else(|| streaming(self.reader.violation("a replication message that is none")))?;
                match &received {
                    Received::Data { start, wal_end, payload } => {
                        self.shared.advance((*start).max(*wal_end).as_u64());
                        self.pace.sent(payload.len(), clock, begun(payload));
                    }
                    Received::Keepalive { wal_end, reply_requested } => {
                        self.shared.advance(wal_end.as_u64());
                        if *reply_requested {
                            self.shared.reply();
                        }
                    }
                }
                Ok(Some(received))
            }
            b'E' => Err(streaming(self.reader.server_error(frame))),
            // CopyDone, or the CommandComplete of a server that shuts down (`WalSndDone`).
            b'c' | b'C' => Err(SourceError::Ended { peer: self.peer.clone() }),
            _ => Err(streaming(self.reader.unexpected(&frame, "a replication stream"))),
        }
    }
}

fn streaming(source: PgError) -> SourceError {
    SourceError::Postgres { doing: "streaming".to_owned(), source }
}

/// What CopyData holds, and the server's clock as it sent it (documentation: "Streaming Replication Protocol", XLogData
/// and Primary keepalive message); `None` when it is neither.
fn parse(mut body: Bytes) -> Option<(Received, PgTime)> {
    let kind = body.try_get_u8().ok()?;
    match kind {
        b'w' => {
            let start = Lsn::new(body.try_get_u64().ok()?);
            let wal_end = Lsn::new(body.try_get_u64().ok()?);
            let clock = PgTime(body.try_get_i64().ok()?);
            Some((Received::Data { start, wal_end, payload: body }, clock))
        }
        b'k' => {
            let wal_end = Lsn::new(body.try_get_u64().ok()?);
            let clock = PgTime(body.try_get_i64().ok()?);
            Some((Received::Keepalive { wal_end, reply_requested: body.try_get_u8().ok()? != 0 }, clock))
        }
        _ => None,
    }
}

fn start_sql(options: &StartOptions) -> Result<Sql, SourceError> {
    // The replication grammar has no escape strings (repl_scanner.l), so a backslash cannot be written safely.
    if options.publication.contains('\\') {
        return Err(SourceError::Publication {
            name: options.publication.clone(),
            problem: "has a backslash in its name, which the replication protocol cannot express".to_owned(),
            remedy: "rename it: ALTER PUBLICATION … RENAME TO …".to_owned(),
            sql: Vec::new(),
        });
    }
    // A list of identifiers inside of a literal (`SplitIdentifierString` in pgoutput.c).
    let publication = Sql::literal(Sql::ident(&options.publication).as_str());
    let mut parameters = vec![Sql::new("proto_version '1'"), Sql::format("publication_names {}", &[&publication])];
    if options.messages {
        parameters.push(Sql::new("messages 'true'"));
    }
    if options.binary {
        parameters.push(Sql::new("binary 'true'"));
    }
    // An Lsn prints digits and a slash; 0/0 has the server start where the slot stands.
    let start = Sql::from_catalog(options.start.unwrap_or(Lsn::ZERO).to_string());
    Ok(Sql::format(
        "START_REPLICATION SLOT {} LOGICAL {} ({})",
        &[&Sql::ident(&options.slot), &start, &Sql::join(&parameters, ", ")],
    ))
}

/// The server's patience with this session; `None` when it has no limit.
async fn wal_sender_timeout(conn: &mut WireConnection) -> Result<Option<Duration>, SourceError> {
    let sql = Sql::new("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'");
    let rows = conn.query_soon(&sql).await.map_err(SourceError::during("reading wal_sender_timeout"))?;
    // In its unit, milliseconds, whatever way it was written.
    let milliseconds: u64 = parsed(&first(rows, "pg_settings")?, 0, "wal_sender_timeout")?;
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_names_slot_publication_and_position() {
        let options = StartOptions { start: Lsn::known(0x16_B374_D848), ..StartOptions::new("s", "it's \"p\"") };
        assert_eq!(
            start_sql(&options).unwrap().as_str(),
            "START_REPLICATION SLOT \"s\" LOGICAL 16/B374D848 \
             (proto_version '1', publication_names '\"it''s \"\"p\"\"\"', messages 'true')"
        );
        let options = StartOptions { binary: true, messages: false, ..StartOptions::new("s", "p") };
        let sql = start_sql(&options).unwrap();
        assert!(sql.as_str().ends_with("LOGICAL 0/0 (proto_version '1', publication_names '\"p\"', binary 'true')"));
        assert!(start_sql(&StartOptions::new("s", "back\\slash")).is_err());
    }

    #[test]
    fn data_and_keepalives_are_read() {
        let mut data = vec![b'w'];
        data.extend([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9]);
        data.extend(b"payload");
        let (start, wal_end) = (Lsn::new(0x1_0000_0002), Lsn::new(0x1_0000_0003));
        let payload = Bytes::from_static(b"payload");
        assert_eq!(parse(data.into()), Some((Received::Data { start, wal_end, payload }, PgTime(9))));
        let mut keepalive = vec![b'k'];
        keepalive.extend([0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 1]);
        assert_eq!(parse(keepalive.into()), Some((Received::Keepalive { wal_end, reply_requested: true }, PgTime(9))));
    }

    #[test]
    fn what_ends_early_or_is_unknown_is_refused() {
        for length in 0..18 {
            assert_eq!(parse(Bytes::from(vec![b'k'; length])), None);
        }
        for length in 1..25 {
            assert_eq!(parse(Bytes::from(vec![b'w'; length])), None);
        }
        assert_eq!(parse(Bytes::from_static(b"s0000000000000000000000000")), None);
    }
}
