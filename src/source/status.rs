//! Status updates: in go what was received and what may be forgotten, out go Standby status update messages.
//!
//! A task of its own owns the connection's writing half, so that updates flow by timer also while nobody reads the
//! stream: a server that hears nothing for `wal_sender_timeout` closes the connection, and it counts what it hears, not
//! what it could send (`WalSndCheckTimeOut` in walsender.c).
//!
//! What is reported (documentation: "Streaming Replication Protocol"):
//!
//! | field | value |
//! |---|---|
//! | written | the last position received |
//! | flushed, applied | the [`ConfirmedFlush`], never more, never less than before; 0/0 while it is held back |
//!
//! 0/0 says "unknown": `ProcessStandbyReplyMessage` advances a slot only for a flush position that is not
//! `InvalidXLogRecPtr`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend::{self, CopyData};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::SourceError;
use crate::change::PgTime;
use crate::lsn::ConfirmedFlush;
use crate::postgres::{PgError, WireWriter};

/// Two updates are at least this far apart. Short enough for a source that waits for this stream at every commit
/// (`synchronous_standby_names`), long enough that updates cost nothing under load.
const GAP: Duration = Duration::from_millis(10);
/// A server that asks for a reply again and again this soon after each one is shutting down.
const INSISTING: Duration = Duration::from_secs(1);
/// How long a server that is shutting down waits for targets that are behind.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// What the reader and the task that writes tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    received: AtomicU64,
    /// Whether nothing may be confirmed yet.
    held: AtomicBool,
    reply: Notify,
    ask: Notify,
}

impl Shared {
    /// The last position received; 0 when there is none.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A position was received; only ever forward.
    pub(super) fn advance(&self, position: u64) {
        // One writer: no compare-and-set needed.
        if position > self.received() {
            self.received.store(position, Ordering::Relaxed);
        }
    }

    /// Nothing may be confirmed from now on, or it may.
    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// The server wants an update now.
    pub(super) fn reply(&self) {
        self.reply.notify_one();
    }

    /// The reader wants to hear from the server now.
    pub(super) fn ask(&self) {
        self.ask.notify_one();
    }
}

/// The task's state.
pub(super) struct StatusTask {
    pub(super) writer: WireWriter,
    pub(super) shared: Arc<Shared>,
    pub(super) confirmed: watch::Receiver<Option<ConfirmedFlush>>,
    /// Time between updates when nothing happens.
    pub(super) interval: Duration,
    /// How long one update may take to leave.
    pub(super) patience: Duration,
    /// Ends the task, with a last update and CopyDone.
    pub(super) stop: CancellationToken,
    pub(super) peer: String,
}

impl StatusTask {
    /// Sends updates until told to stop; gives the writing half back.
    pub(super) async fn run(mut self) -> Result<WireWriter, SourceError> {
        let mut position = Position::default();
        let mut watching = true;
        let mut last = self.send(&mut position, false).await?;
        // When the next update is due: by timer, or sooner because something wants it.
        let mut due = last + self.interval;
        let mut ask = false;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.finish(&mut position).await,
                () = sleep_until(due) => {
                    last = self.send(&mut position, std::mem::take(&mut ask)).await?;
                    due = last + self.interval;
                }
                () = self.shared.ask.notified() => {
                    ask = true;
                    due = due.min(last + GAP);
                }
                () = self.shared.reply.notified() => {
                    position.asked(Instant::now(), last);
                    due = due.min(last + GAP);
                }
                changed = self.confirmed.changed(), if watching => {
                    // Without a sender nothing more is confirmed; the last word stays true.
                    watching = changed.is_ok();
                    due = due.min(last + GAP);
                }
            }
        }
    }

    async fn send(&mut self, position: &mut Position, ask: bool) -> Result<Instant, SourceError> {
        let held = self.shared.held.load(Ordering::Relaxed);
        let confirmed = self.confirmed.borrow_and_update().filter(|_| !held);
        let confirmed = confirmed.map_or(0, |confirmed| confirmed.lsn().as_u64());
        let now = Instant::now();
        let update = Update {
            written: self.shared.received(),
            flushed: position.flushed(confirmed, now, &self.peer),
            clock: PgTime::from_system_time(SystemTime::now()),
            ask,
        };
        update.write(self.writer.buffer());
        self.flush().await?;
        tracing::trace!(written = update.written, flushed = update.flushed, ask, "status update sent");
        Ok(now)
    }

    async fn finish(mut self, position: &mut Position) -> Result<WireWriter, SourceError> {
        self.send(position, false).await?;
        frontend::copy_done(self.writer.buffer());
        self.flush().await?;
        Ok(self.writer)
    }

    async fn flush(&mut self) -> Result<(), SourceError> {
        let sent = match timeout(self.patience, self.writer.flush()).await {
            Ok(sent) => sent,
            Err(_) => Err(PgError::Connection {
                peer: self.peer.clone(),
                source: std::io::Error::new(std::io::ErrorKind::TimedOut, "the server takes nothing any more"),
            }),
        };
        sent.map_err(SourceError::during("sending a status update"))
    }
}

/// What is reported as flushed.
#[derive(Debug, Default)]
struct Position {
    flushed: u64,
    /// Since when the server has been asking without pause.
    insisting: Option<Instant>,
    last_asked: Option<Instant>,
}

impl Position {
    /// The server asked for a reply at `now`; the last update was sent at `sent`.
    ///
    /// By itself it asks when half of `wal_sender_timeout` has passed in silence. Only a server that is shutting down
    /// asks right after it was told, again and again, until the flushed position (the written one, while flushed is
    /// unknown) is the last of its WAL (`WalSndDone`).
    fn asked(&mut self, now: Instant, sent: Instant) {
        let pause = self.last_asked.replace(now).is_none_or(|last| now.duration_since(last) > INSISTING);
        if pause || now.duration_since(sent) > INSISTING {
            self.insisting = None;
        } else {
            self.insisting.get_or_insert(now);
        }
    }

    /// What to report. A source that shuts down is not held up for ever by a target that is behind: after a while
    /// "unknown" lets it go, and its slot stays where it is.
    fn flushed(&mut self, confirmed: u64, now: Instant, peer: &str) -> u64 {
        // Older servers would move a slot backward when told so (`LogicalConfirmReceivedLocation` in logical.c).
        self.flushed = self.flushed.max(confirmed);
        let still = self.last_asked.is_some_and(|last| now.duration_since(last) <= INSISTING);
        match self.insisting {
            Some(since) if still && now.duration_since(since) >= SHUTDOWN_GRACE => {
                tracing::debug!(peer, "the source shuts down: not held up for targets that are behind");
                0
            }
            _ => self.flushed,
        }
    }
}

/// A Standby status update.
struct Update {
    written: u64,
    flushed: u64,
    clock: PgTime,
    /// Asks the server to answer at once.
    ask: bool,
}

impl Update {
    fn write(&self, out: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(self.written);
        body.put_u64(self.flushed);
        body.put_u64(self.flushed);
        body.put_i64(self.clock.0);
        body.put_u8(u8::from(self.ask));
        CopyData::new(body).expect("34 bytes are within any limit").write(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_what_the_manual_says() {
        let mut out = BytesMut::new();
        Update { written: 0x16_0000_0002, flushed: 1, clock: PgTime(-2), ask: true }.write(&mut out);
        let mut expected = vec![b'd', 0, 0, 0, 38, b'r'];
        expected.extend([0, 0, 0, 0x16, 0, 0, 0, 2]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
        expected.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 1]);
        assert_eq!(out, expected);
    }

    #[test]
    fn received_only_goes_forward() {
        let shared = Shared::default();
        shared.advance(5);
        shared.advance(3);
        assert_eq!(shared.received(), 5);
    }

    #[test]
    fn what_was_reported_as_flushed_is_never_taken_back() {
        let mut position = Position::default();
        let now = Instant::now();
        assert_eq!(position.flushed(0, now, "peer"), 0);
        assert_eq!(position.flushed(7, now, "peer"), 7);
        assert_eq!(position.flushed(6, now, "peer"), 7);
    }

    #[test]
    fn a_server_that_shuts_down_is_let_go_after_a_while() {
        let mut position = Position::default();
        let start = Instant::now();
        for tenth in 0..=110 {
            let now = start + Duration::from_millis(tenth * 100);
            position.asked(now, now - GAP);
            let flushed = position.flushed(7, now, "peer");
            assert_eq!(flushed == 0, tenth > 100, "after {tenth} tenths of a second: {flushed}");
        }
        // It did not shut down after all, or it asks as it always does.
        assert_eq!(position.flushed(7, start + Duration::from_secs(20), "peer"), 7);
        position.asked(start + Duration::from_secs(30), start);
        assert_eq!(position.flushed(7, start + Duration::from_secs(30), "peer"), 7);
    }
}
