//! The board: what every stage reports, turned into metrics and status; and the account of each target's lane, which
//! turns it into feedback for the source.

mod tables;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{debug, error, info, warn};

use super::account::Account;
use super::pipeline::PathObserver;
use crate::apply::dead_letter::SetAside;
use crate::apply::error::{ApplyError, ConflictKind};
use crate::apply::observer::Observer;
use crate::apply::progress::LastCommit;
use crate::change::{Change, Part, PgTime, TargetId};
use crate::error::{Judged, Verdict, chain};
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::postgres::Expiry;
use crate::relation::TableName;
use crate::tablesync::{CopyError, CopyObserver, CopyProgress, CopyState};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{CertificateMetrics, Metrics, SourceMetrics, TargetMetrics};
use crate::telemetry::state::{SlotState, SourceState, TableState, TargetState};
use crate::telemetry::status::LastError;

/// Shared by all stages of one stream.
pub struct Board {
    main: Arc<Account>,
    health: Health,
    metrics: Metrics,
    source: SourceMetrics,
    certificates: CertificateMetrics,
    targets: Vec<Target>,
}

struct Target {
    name: String,
    metrics: TargetMetrics,
    certificates: CertificateMetrics,
    /// The lane that feeds it.
    lane: Mutex<Arc<Account>>,
    /// WAL kept on the source for its own slot.
    kept: Mutex<Option<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data: a panic elsewhere leaves it readable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// A board for a stream with these targets; their ids are their places.
    pub fn new(targets: &[String], health: Health, metrics: Metrics) -> Self {
        let main = Arc::new(Account::new(targets));
        let target = |name: &String| Target {
            name: name.clone(),
            metrics: metrics.target(name),
            certificates: metrics.certificates(Some(name)),
            lane: Mutex::new(Arc::clone(&main)),
            kept: Mutex::default(),
        };
        Self {
            source: metrics.source(),
            certificates: metrics.certificates(None),
            targets: targets.iter().map(target).collect(),
            health,
            metrics,
            main,
        }
    }

    /// What it tells the outside.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The main lane's account.
    pub fn main(&self) -> &Arc<Account> {
        &self.main
    }

    /// The account of the lane that feeds this target.
    pub fn lane(&self, id: TargetId) -> Arc<Account> {
        Arc::clone(&lock(&self.targets[id.0].lane))
    }

    /// Whether a target is fed by a lane of its own.
    pub fn is_fed_alone(&self, id: TargetId) -> bool {
        !Arc::ptr_eq(&self.lane(id), &self.main)
    }

    /// Another lane feeds this target from now on.
    pub fn fed_by(&self, id: TargetId, lane: &Arc<Account>) {
        *lock(&self.targets[id.0].lane) = Arc::clone(lane);
        let own = !Arc::ptr_eq(lane, &self.main);
        self.targets[id.0].metrics.own_slot.set(if own { 1.0 } else { 0.0 });
        self.health.target(self.name(id), |target| target.own_slot = own);
    }

    /// So much WAL is kept on the source for a target's own slot; `None`: it has none.
    pub fn own_slot_keeps(&self, id: TargetId, bytes: Option<u64>) {
        *lock(&self.targets[id.0].kept) = bytes;
        self.targets[id.0].metrics.own_slot_retained.set(bytes.map_or(f64::NAN, |bytes| bytes as f64));
    }

    /// So much WAL was kept for a target's own slot when the source was last asked.
    pub fn kept_by_own_slot(&self, id: TargetId) -> Option<u64> {
        *lock(&self.targets[id.0].kept)
    }

    /// The names of all targets, in their places.
    pub fn names(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.name.clone()).collect()
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

    /// A target's own lane does not get on.
    pub fn lane_failed(&self, id: TargetId, error: &dyn Judged) {
        let (target, message) = (self.name(id), chain(error));
        let hint = match error.verdict() {
            Verdict::Retry => {
                warn!(target, "the slot of its own: {message}; trying again");
                None
            }
            Verdict::Halt { hint } => {
                error!(target, hint, "the slot of its own: {message}");
                Some(hint)
            }
        };
        let error = LastError::new(message, hint, SystemTime::now());
        self.health.target(target, |status| status.last_error = Some(error));
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
        for target in &self.targets {
            lock(&target.lane).wal_end(end);
        }
    }

    /// A target that comes (back) has progress up to here on its disk.
    pub fn stands_at(&self, id: TargetId, position: DurableLsn, last: Option<LastCommit>) {
        self.health.target(self.name(id), |target| target.durable_lsn = Some(position.to_string()));
        self.lane(id).stands_at(id, position, last);
    }

    /// A target has progress on its disk.
    fn durable(&self, id: TargetId, position: DurableLsn) {
        self.health.target(self.name(id), |target| target.durable_lsn = Some(position.to_string()));
        self.lane(id).durable(id, position);
    }

    /// What a target does.
    pub fn target_state(&self, id: TargetId, state: TargetState) {
        self.targets[id.0].metrics.set_state(state);
        self.health.target(self.name(id), |target| target.state = state);
        self.rests();
    }

    /// Whether a target is in this state.
    pub fn is(&self, id: TargetId, state: TargetState) -> bool {
        self.health.target(self.name(id), |target| target.state == state)
    }

    /// Since when a target is paused; `None`: it is not, or does not know it yet.
    pub fn paused_at(&self, id: TargetId, since: Option<String>) {
        self.health.target(self.name(id), |target| target.paused_at = since);
    }

    /// Nothing is read from the source, nor will be, while every target is paused.
    pub fn rests(&self) {
        let reading = self.main.session().is_some();
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
        self.tries_again(id, message, hint);
    }

    /// Another attempt at a target, or at some of its tables, will follow on this error.
    fn tries_again(&self, id: TargetId, message: String, hint: Option<String>) {
        let error = LastError::new(message, hint, SystemTime::now());
        self.targets[id.0].metrics.retries.increment(1);
        self.health.target(self.name(id), |status| {
            status.retries += 1;
            status.last_error = Some(error);
        });
    }

    /// Brings lag, queue and positions up to date; called every second or so.
    pub fn tick(&self, now: SystemTime, queue_bytes: impl Fn(TargetId) -> u64) {
        let (received, confirmed) = (self.main.received_lsn(), *self.main.confirmed().borrow());
        let streaming = self.health.update(|status| status.source.state == SourceState::Streaming);
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
            let id = TargetId(place);
            let (bytes, seconds) = self.lane(id).lag(id, streaming, now);
            let queue = queue_bytes(id);
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

impl PathObserver for Board {
    fn streaming(&self, again: bool) {
        self.source_state(SourceState::Streaming);
        if again {
            self.source.reconnects.increment(1);
            self.health.update(|status| status.source.reconnects += 1);
        }
    }

    fn failed(&self, error: &dyn Judged) {
        self.source_failed(error);
    }

    fn idle(&self) {
        self.rests();
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
        self.board.lane(self.id).committed(self.id, end, commit_time);
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

    fn dead_letter(&self, letter: &SetAside) {
        let target = &self.board.targets[self.id.0];
        target.metrics.dead_letters.increment(1);
        let SetAside { table, key, what, sqlstate, error, hint, lsn } = letter;
        let sqlstate = sqlstate.as_deref().unwrap_or("none");
        warn!(target = target.name, table = %table, key, sqlstate, lsn = %lsn, hint, "dead letter: {what}: {error}");
    }

    fn dead_letters(&self, waiting: u64) {
        let target = &self.board.targets[self.id.0];
        target.metrics.dead_letters_waiting.set(waiting as f64);
        self.board.health.target(&target.name, |status| status.dead_letters = waiting);
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
            _ => TableState::Copied,
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
