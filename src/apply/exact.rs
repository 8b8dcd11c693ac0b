//! Exact apply: every change in source order, prepared statements, one Sync for the whole target transaction.
//!
//! BEGIN, rows, progress and COMMIT travel in one flight, so at low load a source transaction is on the target after
//! one round trip. When the target refuses anything in a flight of several transactions, nothing of it is done; they
//! are then sent one by one, and the one that was refused change by change (see `conflict.rs`).
//!
//! A transaction too large for one batch arrives in pieces: the target transaction stays open until its Commit. A
//! piece runs under a savepoint, so that it can fall back alone: its earlier pieces are no longer in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::bulk::bench::Bench;
use super::bulk::{BulkMode, Ready};
use super::dead_letter::{Lettered, OnError, SetAside};
use super::error::{ApplyError, ConflictKind};
use super::flight::{Flight, Step};
use super::load::load;
use super::observer::Observer;
use super::progress::{self, Epoch, Stream};
use super::queue::{Ahead, Batch, Held};
use super::session::Session;
use super::statement::GUARD;
use super::truncation;
use crate::change::{Change, Commit, Part};
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::binary;
use crate::postgres::{PgError, ServerError};
use crate::relation::{Displayed, Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Datum, OldRow, Row};
use crate::sql::Sql;

/// What to do about conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The target is made to agree with the source.
    SourceWins,
    /// The target halts.
    Stop,
}

/// What an [`Applier`] applies, and on whose behalf.
#[derive(Clone)]
pub struct AppliedTo {
    /// The stream whose progress row is moved.
    pub stream: Stream,
    /// By which claim of it.
    pub epoch: Epoch,
    /// What to do about conflicts.
    pub policy: ConflictPolicy,
    /// What to do with a change of one row that the target does not take.
    pub on_error: OnError,
    /// When changes are applied in bulk.
    pub bulk: BulkMode,
    /// The tables that have been copied: others must be copied before their changes can be applied. Each with the
    /// source's table of which it is a copy, if that was noted: another one of its name is another table.
    pub copied: Arc<HashMap<TableName, Option<RelationId>>>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

/// Applies to one target what it is given, in order.
pub struct Applier {
    pub(super) session: Session,
    pub(super) stream: Stream,
    pub(super) epoch: Epoch,
    pub(super) policy: ConflictPolicy,
    pub(super) on_error: OnError,
    /// Whether a change may be set aside now.
    pub(super) may_set_aside: bool,
    /// Which tables have dead letters.
    pub(super) lettered: Lettered,
    /// Changes that were set aside, to be reported as `mended` is.
    pub(super) set_aside: Vec<SetAside>,
    /// Whether the transaction at hand has set changes aside whose positions are not written down yet.
    pub(super) unfinished: bool,
    /// Whether any has been written since somebody last asked.
    pub(super) wrote_letters: bool,
    pub(super) bulk: BulkMode,
    pub(super) bench: Bench,
    /// The next batch, made ready while the last one flew.
    pub(super) ready: Option<Ready>,
    pub(super) copied: Arc<HashMap<TableName, Option<RelationId>>>,
    pub(super) observer: Arc<dyn Observer>,
    /// Where the progress row stands.
    pub(super) stored: EndLsn,
    /// Whether a transaction in pieces is open.
    pub(super) open: bool,
    /// When the target transaction at hand began.
    begun: Instant,
    /// Conflicts that were mended, to be reported once that is not undone any more: a rollback forgets them.
    pub(super) mended: Vec<Met>,
    /// The conflict that this worker halted at last, so that trying again does not count it again.
    pub(super) halted_at: Option<Met>,
}

/// A conflict that was met: what is reported of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub kind: ConflictKind,
    pub table: TableName,
    pub key: String,
    pub lsn: Lsn,
}

const BEGIN: Sql = Sql::new("BEGIN");
const COMMIT: Sql = Sql::new("COMMIT");
pub(super) const SAVEPOINT: Sql = Sql::new("SAVEPOINT walferry_piece");
pub(super) const RELEASE: Sql = Sql::new("RELEASE SAVEPOINT walferry_piece");
pub(super) const ROLLBACK_TO: Sql = Sql::new("ROLLBACK TO SAVEPOINT walferry_piece");

impl Applier {
    /// An applier for an open session whose target has stored progress up to `stored`.
    pub fn new(session: Session, options: AppliedTo, stored: EndLsn) -> Self {
        let AppliedTo { stream, epoch, policy, on_error, bulk, copied, observer } = options;
        let begun = Instant::now();
        Self {
            session,
            stream,
            epoch,
            policy,
            on_error,
            may_set_aside: true,
            lettered: Lettered::default(),
            set_aside: Vec::new(),
            unfinished: false,
            wrote_letters: false,
            bulk,
            bench: Bench::default(),
            ready: None,
            copied,
            observer,
            stored,
            open: false,
            begun,
            mended: Vec::new(),
            halted_at: None,
        }
    }

    /// Applies whole transactions in one target transaction. What `ahead` shows meanwhile is to be applied next.
    ///
    /// # Errors
    /// What the target refuses, even one by one; transactions before the refused one are committed then.
    pub async fn batch(&mut self, batch: &Batch, ahead: &mut Ahead<'_>) -> Result<(), ApplyError> {
        let result = self.try_batch(batch, ahead).await;
        if self.lies_elsewhere(&result) { self.try_batch(batch, ahead).await } else { result }
    }

    async fn try_batch(&mut self, batch: &Batch, ahead: &mut Ahead<'_>) -> Result<(), ApplyError> {
        self.session.tidy().await?;
        let parts: Vec<Arc<Part>> =
            batch.transactions.iter().filter(|part| end(part).is_some_and(|end| end > self.stored)).cloned().collect();
        if parts.is_empty() && batch.end <= self.stored {
            return Ok(());
        }
        if let Err(error) = self.resolve(&parts).await {
            // What precedes the transaction that does not fit is applied.
            return if parts.len() > 1 { self.one_by_one(batch, &parts).await } else { Err(error) };
        }
        self.begun = Instant::now();
        if self.planned_batch(batch, &parts, ahead).await? {
            return Ok(());
        }
        // What was refused may have been mended meanwhile.
        self.resolve(&parts).await?;
        let mut flight = Flight::new(&mut self.session);
        begin(&mut flight, &self.stream, self.epoch, self.stored)?;
        let changes = parts.iter().flat_map(|part| part.changes.iter().map(|change| (change, position(part))));
        for (at, (change, lsn)) in changes.enumerate() {
            load(&mut flight, self.policy, &self.lettered, change, at, lsn)?;
        }
        finish(&mut flight, &self.stream, self.stored, batch)?;
        let landed = flight.fly().await?;
        let Some((step, error)) = landed.failed else {
            self.committed(batch.end, batch.commit, &parts, &landed.missing);
            return Ok(());
        };
        self.rollback().await?;
        self.give_up_on(step, error)?;
        self.one_by_one(batch, &parts).await
    }

    async fn one_by_one(&mut self, batch: &Batch, parts: &[Arc<Part>]) -> Result<(), ApplyError> {
        for part in parts {
            let result = self.exact_piece(part).await;
            self.roll_back_if(&result).await?;
            result?;
        }
        if self.stored >= batch.end {
            return Ok(());
        }
        let result = self.advance(batch.end, batch.commit, &[], &[]).await;
        self.roll_back_if(&result).await?;
        result
    }

    /// Applies the next piece of a transaction. What `ahead` shows meanwhile is to be applied next.
    ///
    /// # Errors
    /// What the target refuses, even change by change. The transaction is then rolled back.
    pub async fn piece(&mut self, part: &Arc<Part>, ahead: &mut Ahead<'_>) -> Result<(), ApplyError> {
        let mut result = self.try_piece(part, ahead).await;
        self.roll_back_if(&result).await?;
        if part.index == 0 && self.lies_elsewhere(&result) {
            result = self.try_piece(part, ahead).await;
            self.roll_back_if(&result).await?;
        }
        result
    }

    /// Whether the progress row may stand where it is expected after all, and only lie elsewhere than it did. It is
    /// looked for by name then.
    fn lies_elsewhere(&mut self, result: &Result<(), ApplyError>) -> bool {
        matches!(result, Err(ApplyError::Fenced { .. })) && self.session.progress_lies.forget()
    }

    async fn roll_back_if(&mut self, result: &Result<(), ApplyError>) -> Result<(), PgError> {
        if result.is_err() && self.session.is_open() { self.rollback().await } else { Ok(()) }
    }

    async fn try_piece(&mut self, part: &Arc<Part>, ahead: &mut Ahead<'_>) -> Result<(), ApplyError> {
        self.session.tidy().await?;
        self.resolve(std::slice::from_ref(part)).await?;
        if part.index == 0 {
            self.begun = Instant::now();
        }
        let planned = self.planned_piece(part, ahead).await?;
        if planned { self.end_piece(part, &[]).await } else { self.exact_piece(part).await }
    }

    async fn exact_piece(&mut self, part: &Arc<Part>) -> Result<(), ApplyError> {
        self.session.tidy().await?;
        self.resolve(std::slice::from_ref(part)).await?;
        if !self.open {
            self.begun = Instant::now();
        }
        let mut flight = Flight::new(&mut self.session);
        if !self.open {
            begin(&mut flight, &self.stream, self.epoch, self.stored)?;
        }
        flight.control(&SAVEPOINT, Step::Control)?;
        for (at, change) in part.changes.iter().enumerate() {
            load(&mut flight, self.policy, &self.lettered, change, at, position(part))?;
        }
        flight.control(&RELEASE, Step::Control)?;
        self.open = true;
        let landed = flight.fly().await?;
        let mut missing = landed.missing;
        if let Some((step, error)) = landed.failed {
            self.give_up_on(step, error)?;
            self.session.control(&ROLLBACK_TO).await?;
            self.forget().await?;
            missing = self.stepwise(part).await?;
        }
        self.end_piece(part, &missing).await
    }

    /// The piece is applied: commits, if it is the last one.
    async fn end_piece(&mut self, part: &Arc<Part>, missing: &[usize]) -> Result<(), ApplyError> {
        let parts = std::slice::from_ref(part);
        match part.commit {
            Some(commit) => {
                self.finish_letters(&commit).await?;
                self.advance(commit.end_lsn, Some(commit), parts, missing).await
            }
            None => {
                self.observer.applied(parts);
                self.report_mended();
                self.report_missing(parts, missing);
                Ok(())
            }
        }
    }

    /// Moves the progress row and commits: the open transaction, or one of its own.
    async fn advance(
        &mut self,
        end: EndLsn,
        commit: Option<Commit>,
        parts: &[Arc<Part>],
        missing: &[usize],
    ) -> Result<(), ApplyError> {
        let mut flight = Flight::new(&mut self.session);
        if !self.open {
            begin(&mut flight, &self.stream, self.epoch, self.stored)?;
        }
        let held = Held::default();
        finish(&mut flight, &self.stream, self.stored, &Batch { transactions: Vec::new(), end, commit, held })?;
        let landed = flight.fly().await?;
        if let Some((step, error)) = landed.failed {
            self.give_up_on(step, error.clone())?;
            return Err(ApplyError::RefusedCommit { lsn: end.lsn(), source: error });
        }
        self.committed(end, commit, parts, missing);
        Ok(())
    }

    /// Rolls the open transaction back, if there is one.
    ///
    /// # Errors
    /// As [`crate::postgres::WireConnection::query`].
    pub async fn rollback(&mut self) -> Result<(), PgError> {
        self.open = false;
        self.mended.clear();
        self.set_aside.clear();
        self.unfinished = false;
        // A ROLLBACK outside a transaction is a warning.
        self.session.control(&Sql::new("ROLLBACK")).await?;
        self.forget().await
    }

    /// See [`Session::forget`]; what was made ready goes with it.
    pub(super) async fn forget(&mut self) -> Result<(), PgError> {
        self.ready = None;
        self.session.forget().await
    }

    /// Matches every table the parts name.
    pub(super) async fn resolve(&mut self, parts: &[Arc<Part>]) -> Result<(), ApplyError> {
        self.lettered.load(&self.session.client, &self.stream.name).await?;
        let mut last: Option<&Arc<Relation>> = None;
        let mut unknown: Vec<(&Arc<Relation>, Lsn)> = Vec::new();
        for part in parts {
            part.changes.iter().try_for_each(|change| believable(change, part))?;
            for relation in part.changes.iter().flat_map(relations) {
                if last.is_some_and(|last| Arc::ptr_eq(last, relation)) {
                    continue;
                }
                last = Some(relation);
                let is_copy_of = |of: &Option<RelationId>| of.is_none_or(|of| of == relation.id);
                if !self.copied.get(&relation.name).is_some_and(is_copy_of) {
                    return Err(ApplyError::NewTable(relation.name.clone()));
                }
                let noted = || unknown.iter().any(|(noted, _)| Arc::ptr_eq(noted, relation));
                if !self.session.has_met(relation) && !noted() {
                    unknown.push((relation, position(part)));
                }
            }
        }
        self.session.meet(&unknown).await
    }

    /// Whether a refusal may be met in smaller steps; the error if not, as when it is of the progress row.
    pub(super) fn give_up_on(&self, step: Step, error: Box<ServerError>) -> Result<(), ApplyError> {
        if step == Step::Progress && error.code == GUARD {
            return Err(ApplyError::Fenced { stream: self.stream.name.clone(), expected: self.stored });
        }
        let error = PgError::Server(error);
        if step == Step::Progress || error.verdict() == Verdict::Retry { Err(error.into()) } else { Ok(()) }
    }

    pub(super) fn committed(&mut self, end: EndLsn, commit: Option<Commit>, parts: &[Arc<Part>], missing: &[usize]) {
        self.stored = end;
        self.open = false;
        self.observer.applied(parts);
        self.report_mended();
        self.report_missing(parts, missing);
        let time = commit.map(|commit| commit.time);
        self.observer.committed(end, time, Some(self.begun.elapsed()));
    }

    /// Reports the conflicts that were mended, and what was set aside.
    fn report_mended(&mut self) {
        for Met { kind, table, key, lsn } in self.mended.drain(..) {
            self.observer.conflict(kind, &table, &key, lsn);
        }
        self.set_aside.drain(..).for_each(|letter| self.observer.dead_letter(&letter));
    }

    /// Reports the changes that touched no row: DELETEs that found none (where a foreign key of the table cascades and
    /// fires, that is normal), and INSERTs that the target left out.
    pub(super) fn report_missing(&self, parts: &[Arc<Part>], missing: &[usize]) {
        if missing.is_empty() {
            return;
        }
        let changes: Vec<(&Change, Lsn)> =
            parts.iter().flat_map(|part| part.changes.iter().map(|change| (change, position(part)))).collect();
        for &(change, lsn) in missing.iter().filter_map(|at| changes.get(*at)) {
            let (relation, kind, key) = match change {
                Change::Insert { relation, new } => {
                    (relation, ConflictKind::InsertIgnored, key(relation, None, Some(new)))
                }
                Change::Delete { relation, old } => {
                    let known = self.session.known(relation);
                    if !self.session.replica_role && known.is_some_and(|table| table.info.cascaded) {
                        continue;
                    }
                    (relation, ConflictKind::DeleteMissing, key(relation, Some(old), None))
                }
                Change::Update { .. } | Change::Truncate { .. } | Change::Message(_) => continue,
            };
            self.observer.conflict(kind, &relation.name, &key, lsn);
        }
    }
}

/// Adds the beginning of a target transaction, which goes on only if the progress row is where it was left, and nobody
/// has claimed it since.
pub(super) fn begin(flight: &mut Flight<'_>, stream: &Stream, epoch: Epoch, stored: EndLsn) -> Result<(), PgError> {
    flight.control(&BEGIN, Step::Control)?;
    flight.progress(|page| progress::hold(stream, stored, epoch, page))?;
    flight.control(&truncation::DEFER, Step::Control)
}

/// Adds the end of a target transaction: the progress row, and COMMIT.
pub(super) fn finish(flight: &mut Flight<'_>, stream: &Stream, from: EndLsn, batch: &Batch) -> Result<(), PgError> {
    flight.progress(|page| progress::advance(stream, from, batch.end, batch.commit.as_ref(), page))?;
    flight.control(&COMMIT, Step::Commit)
}

/// With REPLICA IDENTITY FULL every UPDATE is logged with the old row (`ExtractReplicaIdentity` in heapam.c).
/// Without one it is of a partition that has another identity than its root, and the row cannot be found by what
/// is announced.
fn believable(change: &Change, part: &Part) -> Result<(), ApplyError> {
    let Change::Update { relation, old: None, .. } = change else { return Ok(()) };
    if relation.identity != ReplicaIdentity::Full {
        return Ok(());
    }
    Err(ApplyError::Schema {
        table: relation.name.clone(),
        problem: "it has REPLICA IDENTITY FULL on the source, and a partition of it has not".to_owned(),
        lsn: position(part),
        hint: format!(
            "On the source: ALTER TABLE … REPLICA IDENTITY FULL for each partition, or for {} … REPLICA IDENTITY \
             DEFAULT. Then copy the table again: what was logged before cannot be applied.",
            relation.name
        ),
    })
}

/// The tables a change is about.
fn relations(change: &Change) -> &[Arc<Relation>] {
    match change {
        Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
            std::slice::from_ref(relation)
        }
        Change::Truncate { relations, .. } => relations,
        Change::Message(_) => &[],
    }
}

fn end(part: &Part) -> Option<EndLsn> {
    part.commit.map(|commit| commit.end_lsn)
}

/// What an error says of where a change was found.
pub(super) fn position(part: &Part) -> Lsn {
    let commit = part.commit.map(|commit| commit.end_lsn.lsn());
    commit.or(part.begin.commit_lsn.map(|commit| commit.lsn())).unwrap_or(Lsn::ZERO)
}

/// A row by its key, for messages: `id=5, tenant=7`. Rows without a key have no name: their values stay private.
pub(super) fn key(relation: &Relation, old: Option<&OldRow>, new: Option<&Row>) -> String {
    const SHOWN: usize = 60;
    let row = old.map(OldRow::row).or(new);
    if relation.identity == ReplicaIdentity::Full || row.is_none() {
        return "row without a key".to_owned();
    }
    let columns = relation.columns.iter().enumerate().filter(|(_, column)| column.is_key);
    let shown: Vec<String> = columns
        .filter_map(|(at, column)| {
            let value = match row?.get(at)? {
                Datum::Text(text) => String::from_utf8_lossy(text).chars().take(SHOWN).collect(),
                Datum::Binary(bytes) => {
                    let shown = binary::shown(column.type_oid, bytes).unwrap_or_else(|| "(binary)".to_owned());
                    shown.chars().take(SHOWN).collect()
                }
                Datum::Null | Datum::Unchanged => "NULL".to_owned(),
            };
            Some(format!("{}={value}", Displayed(&column.name)))
        })
        .collect();
    if shown.is_empty() { "row without a key".to_owned() } else { shown.join(", ") }
}
