//! From committed to durable: the target's disk is not waited for by any COMMIT, but asked for afterwards, of many at
//! once.
//!
//! As in PostgreSQL's own apply worker (`store_flush_position` in worker.c), a COMMIT is answered before it is on disk,
//! and the source is told of it only once it is. While something is outstanding, the stored position is read in a way
//! that makes it durable ([`progress::read_durable`]), beside the applying and over the session's other connection; a
//! target at rest is left in peace.
//!
//! A server's flush position would tell less: where a server answers for its commits by a standby, or by storage of
//! another kind, its own disk is not what counts; and it can stand short of what was written until somebody commits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::dead_letter::SetAside;
use super::error::{ApplyError, ConflictKind};
use super::flushed::{Flushed, Lost, Mark};
use super::observer::Observer;
use super::progress::{self, Lies};
use super::session::Session;
use crate::change::{Part, PgTime};
use crate::error::Verdict;
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::postgres::{Client, PgError};
use crate::relation::TableName;

/// After the first commit in a while: long enough that what belongs together becomes durable together.
const SOON: Duration = Duration::from_millis(10);

/// Between two flushes: what they cost the target's disk is little beside what its WAL writer does
/// (`wal_writer_delay`).
const EVERY: Duration = Duration::from_millis(100);

/// A flush that takes longer is complained of.
const LONG: Duration = Duration::from_secs(30);

/// Passes on what a worker tells, and makes durable what it commits.
pub(super) struct Flush {
    observer: Arc<dyn Observer>,
    stream: String,
    /// Whether a COMMIT that was answered is durable by that alone.
    synchronous: bool,
    state: watch::Sender<State>,
}

struct State {
    flushed: Flushed,
    /// The connection to flush over, and where the row lies that is read; none once it has failed.
    beside: Option<(Arc<Client>, Arc<Lies>)>,
    /// Whether somebody waits for what is outstanding.
    hurried: bool,
    failed: Option<ApplyError>,
}

impl State {
    fn is_due(&self) -> bool {
        self.beside.is_some() && self.flushed.is_outstanding()
    }
}

fn beside(session: &Session) -> (Arc<Client>, Arc<Lies>) {
    (Arc::clone(&session.client), Arc::clone(&session.progress_lies))
}

impl Flush {
    /// For a target whose stored position is durable.
    pub(super) fn new(
        observer: Arc<dyn Observer>,
        stream: &str,
        synchronous: bool,
        stored: EndLsn,
        session: &Session,
    ) -> Self {
        let (flushed, beside) = (Flushed::new(stored), Some(beside(session)));
        let state = watch::Sender::new(State { flushed, beside, hurried: false, failed: None });
        Self { observer, stream: stream.to_owned(), synchronous, state }
    }

    /// Flushes over this session's other connection from now on.
    pub(super) fn attend(&self, session: &Session) {
        self.state.send_modify(|state| (state.beside, state.failed) = (Some(beside(session)), None));
    }

    /// Does not wait for more to come: somebody waits for what is committed now.
    pub(super) fn hurry(&self) {
        self.state.send_modify(|state| state.hurried = true);
    }

    /// Waits until all that is committed is durable, or cannot be made so.
    pub(super) async fn settled(&self) {
        self.hurry();
        self.wait_for(|state| !state.is_due()).await;
    }

    /// Waits until flushing has failed, and tells why. It goes on once it has a connection again.
    pub(super) async fn failed(&self) -> ApplyError {
        loop {
            self.wait_for(|state| state.failed.is_some()).await;
            let mut failed = None;
            self.state.send_modify(|state| failed = state.failed.take());
            if let Some(failed) = failed {
                return failed;
            }
        }
    }

    async fn wait_for(&self, condition: impl FnMut(&State) -> bool) {
        // Without a sender it would fail, and that is ours.
        let _ = self.state.subscribe().wait_for(condition).await;
    }

    /// Makes durable what is committed, for as long as it is polled.
    pub(super) async fn run(&self) -> Infallible {
        let mut next = Instant::now();
        loop {
            self.wait_for(State::is_due).await;
            tokio::select! {
                () = sleep_until(next.max(Instant::now() + SOON)) => {}
                () = self.wait_for(|state| state.hurried) => {}
            }
            next = Instant::now() + EVERY;
            let mut order = None;
            self.state.send_modify(|state| {
                state.hurried = false;
                order = state.beside.clone().map(|beside| (beside, state.flushed.mark()));
            });
            let Some(((client, lies), mark)) = order else { continue };
            let other = |state: &State| !state.beside.as_ref().is_some_and(|(now, _)| Arc::ptr_eq(now, &client));
            tokio::select! {
                found = self.flush(&client, &lies) => self.found(mark, found),
                () = self.wait_for(other) => {}
            }
        }
    }

    /// Where the target stands, on its disk; `None` when the row is gone.
    async fn flush(&self, client: &Client, lies: &Lies) -> Result<Option<DurableLsn>, PgError> {
        let read = progress::find_durable(client, &self.stream, lies.page());
        tokio::pin!(read);
        let found = tokio::select! {
            found = &mut read => found,
            () = sleep(LONG) => {
                warn!(
                    peer = client.peer(),
                    "what is committed does not become durable: the server's disk, or a standby that its commits wait \
                     for, is stuck; the source keeps its WAL until it does"
                );
                read.await
            }
        };
        Ok(found?.and_then(|(_, durable)| durable))
    }

    fn found(&self, mark: Mark, found: Result<Option<DurableLsn>, PgError>) {
        let failed = match found {
            Ok(found) => {
                let mut told = Err(Lost);
                self.state.send_modify(|state| {
                    told = found.map_or(Err(Lost), |found| state.flushed.found(mark, found.end_lsn()));
                });
                match (told, found) {
                    (Ok(true), Some(durable)) => return self.observer.durable(durable),
                    (Ok(_), _) => return,
                    (Err(Lost), found) => ApplyError::moved(&self.stream, mark.end(), found.map(DurableLsn::end_lsn)),
                }
            }
            Err(error) => error.into(),
        };
        self.state.send_modify(|state| (state.beside, state.failed) = (None, Some(failed)));
    }
}

impl Observer for Flush {
    fn committed(&self, end: EndLsn, commit_time: Option<PgTime>, took: Option<Duration>) {
        self.observer.committed(end, commit_time, took);
        if self.synchronous {
            self.observer.durable(progress::answered(end));
        } else {
            self.state.send_modify(|state| state.flushed.committed(end));
        }
    }

    fn durable(&self, position: DurableLsn) {
        self.observer.durable(position);
    }

    fn applied(&self, parts: &[Arc<Part>]) {
        self.observer.applied(parts);
    }

    fn conflict(&self, kind: ConflictKind, table: &TableName, key: &str, lsn: Lsn) {
        self.observer.conflict(kind, table, key, lsn);
    }

    fn dead_letter(&self, letter: &SetAside) {
        self.observer.dead_letter(letter);
    }

    fn dead_letters(&self, waiting: u64) {
        self.observer.dead_letters(waiting);
    }

    fn in_bulk(&self, changes: u64) {
        self.observer.in_bulk(changes);
    }

    fn fell_back(&self, table: Option<&TableName>, code: &str) {
        self.observer.fell_back(table, code);
    }

    fn running(&self) {
        self.observer.running();
    }

    fn failed(&self, error: &ApplyError, verdict: &Verdict) {
        self.observer.failed(error, verdict);
    }
}
