//! The board: what every stage reports, turned into feedback for the source, metrics, and status.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::lag::{Stream, Unread, Waiting, lag};
use crate::apply::error::{ApplyError, ConflictKind};
use crate::apply::observer::Observer;
use crate::apply::progress::LastCommit;
use crate::change::{Change, Commit, Part, PgTime, TargetId};
use crate::error::{Judged, Verdict, chain};
use crate::feedback::Ledger;
use crate::lsn::{ConfirmedFlush, DurableLsn, EndLsn, Lsn};
use crate::postgres::Expiry;
use crate::relation::TableName;
use crate::tablesync::{CopyError, CopyObserver, CopyProgress, CopyState};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{CertificateMetrics, Metrics, SourceMetrics, TargetMetrics};
use crate::telemetry::state::{SlotState, SourceState, TableState, TargetState};
use crate::telemetry::status::LastError;

/// Shared by all stages of one stream.
pub struct Board {
    ledger: Mutex<Ledger>,
    confirmed: watch::Sender<Option<ConfirmedFlush>>,
    health: Health,
    metrics: Metrics,
    source: SourceMetrics,
    certificates: CertificateMetrics,
    targets: Vec<Target>,
    /// When the source was last heard of.
    heard: Mutex<Option<SystemTime>>,
    unread: Mutex<Unread>,
    sessions: Mutex<Sessions>,
}

/// Replication sessions of this board.
#[derive(Clone, Copy, Debug, Default)]
struct Sessions {
    lost: u64,
    running: bool,
}

struct Target {
    name: String,
    metrics: TargetMetrics,
    certificates: CertificateMetrics,
    waiting: Mutex<Waiting>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data: a panic elsewhere leaves it readable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// A board for a stream with these targets; their ids are their places.
    pub fn new(targets: &[String], health: Health, metrics: Metrics) -> Self {
        let target = |name: &String| Target {
            name: name.clone(),
            metrics: metrics.target(name),
            certificates: metrics.certificates(Some(name)),
            waiting: Mutex::default(),
        };
        Self {
            ledger: Mutex::new(Ledger::new(targets.len())),
            confirmed: watch::Sender::new(None),
            source: metrics.source(),
            certificates: metrics.certificates(None),
            targets: targets.iter().map(target).collect(),
            health,
            metrics,
            heard: Mutex::default(),
            unread: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// What it tells the outside.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// A replication session begins: every target has to recognise its history in it. What was confirmed before is not
    /// repeated to a server that may be another one.
    pub fn session_begins(&self) {
        let mut ledger = lock(&self.ledger);
        ledger.session_begins();
        self.confirmed.send_replace(ledger.confirmed());
        lock(&self.sessions).running = true;
    }

    /// It has ended.
    pub fn session_ends(&self) {
        lock(&self.sessions).running = false;
    }

    /// The connection was lost: another server, or the same one restored, may answer at the next.
    pub fn session_lost(&self) {
        lock(&self.sessions).lost += 1;
    }

    /// Tells sessions with one and the same server from others; `None` while there is none.
    pub fn session(&self) -> Option<u64> {
        let sessions = *lock(&self.sessions);
        sessions.running.then_some(sessions.lost)
    }

    /// A target has recognised its history in this session.
    pub fn recognised(&self, id: TargetId) {
        lock(&self.ledger).recognised(id);
        self.confirm();
    }

    /// What may be confirmed to the source, as it changes.
    pub fn confirmed(&self) -> watch::Receiver<Option<ConfirmedFlush>> {
        self.confirmed.subscribe()
    }

    /// The name of a target.
    pub fn name(&self, id: TargetId) -> &str {
        &self.targets[id.0].name
    }

    /// What the stream from the source does.
    pub fn source_state(&self, state: SourceState) {
        self.source.set_state(state);
        self.source.connected.set(if state == SourceState::Streaming { 1.0 } else { 0.0 });
        self.health.update(|status| status.source.state = state);
    }

    /// A replication connection was opened after the first.
    pub fn reconnected(&self) {
        self.source.reconnects.increment(1);
        self.health.update(|status| status.source.reconnects += 1);
    }

    /// The stream from the source has failed.
    pub fn source_failed(&self, error: &dyn Judged) {
        let message = chain(error);
        let hint = match error.verdict() {
            Verdict::Retry => {
                warn!("source: {message}; trying again");
                self.source_state(SourceState::Retrying);
                None
            }
            Verdict::Halt { hint } => {
                error!(hint, "source: {message}");
                self.source_state(SourceState::Halted);
                Some(hint)
            }
        };
        let error = LastError::new(message, hint, SystemTime::now());
        self.health.update(|status| status.source.last_error = Some(error));
    }

    /// What the source says of the slot.
    pub fn slot(&self, state: SlotState, retained: Option<u64>, safe: Option<u64>) {
        let gauge = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64);
        self.source.set_slot_state(state);
        self.source.retained_wal_bytes.set(gauge(retained));
        self.source.safe_wal_bytes.set(gauge(safe));
        self.health.update(|status| {
            status.source.slot_state = state;
            status.source.retained_wal_bytes = retained;
            status.source.safe_wal_bytes = safe;
        });
    }

    /// When the certificates on the way to a target, or without one to the source, stop being valid.
    pub fn certificates(&self, target: Option<TargetId>, expiry: Expiry) {
        let metrics = target.map_or(&self.certificates, |id| &self.targets[id.0].certificates);
        let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.server.set(expiry.server.map_or(f64::NAN, unix));
        metrics.client.set(expiry.client.map_or(f64::NAN, unix));
    }

    /// The source's WAL ends here now.
    pub fn wal_end(&self, end: Lsn) {
        lock(&self.unread).seen(SystemTime::now(), end);
    }

    /// Every commit up to here has been received and handed on.
    pub fn received(&self, lsn: Lsn) {
        lock(&self.ledger).received(lsn);
        *lock(&self.heard) = Some(SystemTime::now());
    }

    /// A target that comes (back) has progress up to here on its disk.
    pub fn stands_at(&self, id: TargetId, position: DurableLsn, last: Option<LastCommit>) {
        lock(&self.ledger).stands_at(id, position, last.map(|last| last.commit_lsn));
        self.report(id, position);
    }

    /// A target is fed from its stored progress on.
    pub fn attached(&self, id: TargetId, stored: EndLsn) {
        lock(&self.ledger).rewind(id, stored);
        *lock(&self.targets[id.0].waiting) = Waiting::attached(stored);
    }

    /// A target is no longer fed.
    pub fn detached(&self, id: TargetId) {
        lock(&self.targets[id.0].waiting).detached(SystemTime::now());
    }

    /// A target was sent the transaction of this commit.
    pub fn dispatched(&self, id: TargetId, commit: &Commit) {
        lock(&self.targets[id.0].waiting).sent(commit.end_lsn, commit.time);
        let mut ledger = lock(&self.ledger);
        ledger.dispatched(id, commit.end_lsn);
        ledger.given(id, commit.commit_lsn);
    }

    /// A target's progress was sent on, without a transaction.
    pub fn advanced(&self, id: TargetId, end: EndLsn) {
        lock(&self.targets[id.0].waiting).advanced(end);
        lock(&self.ledger).dispatched(id, end);
    }

    /// A target has progress on its disk.
    fn durable(&self, id: TargetId, position: DurableLsn) {
        lock(&self.ledger).durable(id, position);
        self.report(id, position);
    }

    /// Tells the source what it may forget, and operators where the target stands.
    fn report(&self, id: TargetId, position: DurableLsn) {
        self.health.target(self.name(id), |target| target.durable_lsn = Some(position.to_string()));
        self.confirm();
    }

    /// Under the ledger's lock: what was confirmed in the last session must not come after the next has begun.
    fn confirm(&self) {
        let ledger = lock(&self.ledger);
        let Some(confirmed) = ledger.confirmed() else { return };
        self.confirmed.send_if_modified(|sent| {
            let forward = *sent < Some(confirmed);
            *sent = (*sent).max(Some(confirmed));
            forward
        });
    }

    /// What a target does.
    pub fn target_state(&self, id: TargetId, state: TargetState) {
        self.targets[id.0].metrics.set_state(state);
        self.health.target(self.name(id), |target| target.state = state);
        self.rests();
    }

    /// Since when a target is paused; `None`: it is not, or does not know it yet.
    pub fn paused_at(&self, id: TargetId, since: Option<String>) {
        self.health.target(self.name(id), |target| target.paused_at = since);
    }

    /// Nothing is read from the source, nor will be, while every target is paused.
    pub fn rests(&self) {
        let reading = lock(&self.sessions).running;
        let (source, paused) = self.health.update(|status| (status.source.state, status.all_paused()));
        match source {
            SourceState::Paused if !paused => self.source_state(SourceState::Connecting),
            SourceState::Standby | SourceState::Draining | SourceState::Halted | SourceState::Paused => {}
            _ if paused && !reading => self.source_state(SourceState::Paused),
            _ => {}
        }
    }

    /// A target does not get on.
    pub fn target_failed(&self, id: TargetId, error: &dyn Judged, verdict: &Verdict) {
        let target = self.name(id);
        let message = chain(error);
        let hint = match verdict {
            Verdict::Retry => {
                warn!(target, "{message}; trying again");
                self.target_state(id, TargetState::Retrying);
                None
            }
            Verdict::Halt { hint } => {
                error!(target, hint, "halted: {message}");
                self.target_state(id, TargetState::Halted);
                Some(hint.clone())
            }
        };
        self.targets[id.0].metrics.retries.increment(1);
        let error = LastError::new(message, hint, SystemTime::now());
        self.health.target(target, |status| {
            status.retries += 1;
            status.last_error = Some(error);
        });
    }

    /// A table of a target: how far its copy is.
    pub fn table(&self, id: TargetId, table: &TableName, state: TableState, rows: Option<u64>, copy_lsn: Option<Lsn>) {
        let target = self.name(id);
        let metrics = self.metrics.table(target, &table.to_string());
        metrics.set_state(state);
        if let Some(rows) = rows {
            metrics.copy_rows.set(rows as f64);
        }
        self.health.update(|status| {
            let status = status.table(target, &table.schema, &table.name);
            status.state = state;
            status.rows = rows.unwrap_or(status.rows);
            status.copy_lsn = copy_lsn.map(|lsn| lsn.to_string()).or_else(|| status.copy_lsn.take());
        });
    }

    /// Of a target's tables, these are followed: of others nothing is shown any more.
    pub fn keep_tables(&self, id: TargetId, followed: impl Fn(&TableName) -> bool) {
        let target = self.name(id);
        self.health.update(|status| {
            status.tables.retain(|table| {
                table.target != target || followed(&TableName::new(table.schema.clone(), table.name.clone()))
            });
        });
    }

    /// Brings lag, queue and positions up to date; called every second or so.
    pub fn tick(&self, now: SystemTime, queue_bytes: impl Fn(TargetId) -> u64) {
        let (received, confirmed) = (lock(&self.ledger).received_lsn(), *self.confirmed.borrow());
        let streaming = self.health.update(|status| status.source.state == SourceState::Streaming);
        let silence = if streaming { None } else { Some(*lock(&self.heard)) };
        let unread = {
            let mut unread = lock(&self.unread);
            unread.reached(received.unwrap_or(Lsn::ZERO));
            *unread
        };
        let stream = Stream { received, unread, silence };
        if let Some(received) = received {
            self.source.received_lsn.set(received.as_u64() as f64);
        }
        if let Some(confirmed) = confirmed {
            self.source.confirmed_lsn.set(confirmed.lsn().as_u64() as f64);
        }
        self.health.update(|status| {
            status.source.received_lsn = received.map(|lsn| lsn.to_string());
            status.source.confirmed_lsn = confirmed.map(|lsn| lsn.to_string());
        });
        for (place, target) in self.targets.iter().enumerate() {
            let waiting = *lock(&target.waiting);
            let (bytes, seconds) = lag(waiting, stream, now);
            let queue = queue_bytes(TargetId(place));
            target.metrics.lag_bytes.set(bytes.map_or(f64::NAN, |bytes| bytes as f64));
            target.metrics.lag_seconds.set(seconds.unwrap_or(f64::NAN));
            target.metrics.queue_bytes.set(queue as f64);
            self.health.target(&target.name, |status| {
                status.lag_bytes = bytes;
                status.lag_seconds = seconds;
                status.queue_bytes = queue;
            });
        }
        self.health.remember_lag(now);
    }
}

/// A target's part of the board, as its apply worker and its copy see it.
pub struct TargetBoard {
    /// The whole.
    pub board: Arc<Board>,
    /// Which target.
    pub id: TargetId,
}

impl Observer for TargetBoard {
    fn committed(&self, end: EndLsn, commit_time: Option<PgTime>, took: Option<Duration>) {
        let target = &self.board.targets[self.id.0];
        lock(&target.waiting).stored(end.lsn(), commit_time);
        target.metrics.commits.increment(1);
        if let Some(took) = took {
            target.metrics.commit_seconds.record(took.as_secs_f64());
        }
        self.board.health.target(&target.name, |status| status.commits += 1);
    }

    fn durable(&self, position: DurableLsn) {
        self.board.durable(self.id, position);
    }

    fn applied(&self, parts: &[Arc<Part>]) {
        let mut rows = [0_u64; 4];
        for change in parts.iter().flat_map(|part| &part.changes) {
            match change {
                Change::Insert { .. } => rows[0] += 1,
                Change::Update { .. } => rows[1] += 1,
                Change::Delete { .. } => rows[2] += 1,
                Change::Truncate { relations, .. } => rows[3] += relations.len() as u64,
                Change::Message(_) => {}
            }
        }
        let transactions = parts.iter().filter(|part| part.commit.is_some()).count() as u64;
        let target = &self.board.targets[self.id.0];
        let counters = &target.metrics.rows;
        let counters = [&counters.insert, &counters.update, &counters.delete, &counters.truncate];
        target.metrics.transactions.increment(transactions);
        self.board.health.target(&target.name, |status| {
            status.transactions += transactions;
            for ((name, rows), counter) in ["insert", "update", "delete", "truncate"].iter().zip(rows).zip(counters) {
                if rows > 0 {
                    counter.increment(rows);
                    *status.rows.entry((*name).to_owned()).or_default() += rows;
                }
            }
        });
    }

    fn conflict(&self, kind: ConflictKind, table: &TableName, key: &str, lsn: Lsn) {
        let target = &self.board.targets[self.id.0];
        let counters = &target.metrics.conflicts;
        let counter = match kind {
            ConflictKind::InsertExists => &counters.insert_exists,
            ConflictKind::UpdateExists => &counters.update_exists,
            ConflictKind::UpdateMissing => &counters.update_missing,
            ConflictKind::DeleteMissing => &counters.delete_missing,
            ConflictKind::InsertIgnored => &counters.insert_ignored,
        };
        counter.increment(1);
        warn!(target = target.name, table = %table, key, lsn = %lsn, "conflict: {kind}");
        self.board.health.target(&target.name, |status| {
            *status.conflicts.entry(kind.name().to_owned()).or_default() += 1;
        });
    }

    fn in_bulk(&self, changes: u64) {
        self.board.targets[self.id.0].metrics.bulk_changes.increment(changes);
    }

    fn fell_back(&self, table: Option<&TableName>, code: &str) {
        let target = &self.board.targets[self.id.0];
        target.metrics.bulk_fallbacks.increment(1);
        let table = table.map(tracing::field::display);
        debug!(target = target.name, table, code, "not as planned: applied change by change");
    }

    fn running(&self) {
        info!(target = self.board.name(self.id), "goes on");
        self.board.target_state(self.id, TargetState::Applying);
    }

    fn failed(&self, error: &ApplyError, verdict: &Verdict) {
        self.board.target_failed(self.id, error, verdict);
    }
}

impl CopyObserver for TargetBoard {
    fn progress(&self, progress: &CopyProgress<'_>) {
        let state = match progress.state {
            CopyState::Copying => TableState::Copying,
            CopyState::Done => TableState::Copied,
        };
        self.board.table(self.id, progress.table, state, Some(progress.rows), None);
        self.board.health.update(|status| {
            let table = status.table(progress.target, &progress.table.schema, &progress.table.name);
            (table.bytes, table.size_bytes) = (progress.bytes, Some(progress.size));
        });
    }

    fn trouble(&self, error: &CopyError) {
        let hint = match error.verdict() {
            Verdict::Retry => None,
            Verdict::Halt { hint } => Some(hint),
        };
        let error = LastError::new(chain(error), hint, SystemTime::now());
        self.board.health.target(self.board.name(self.id), |status| status.last_error = Some(error));
    }
}
