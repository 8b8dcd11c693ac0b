//! Change by change: how a transaction goes on where the target refuses one of its changes.
//!
//! Changes are sent in stretches under a savepoint. When one is refused, the stretch before it is sent again without
//! it, the refused change is dealt with alone, and the next stretch follows: n conflicts cost a few round trips each,
//! not one per change. What is dealt with: a row that is there already, a unique value that is taken, a row to be
//! updated that is missing. Under `source_wins` the target is made to agree with the source; what the stream does not
//! hold (an unchanged TOASTed value of a missing row) cannot be mended and halts. All other refusals halt. What halts
//! can be set aside instead where it is of one row (`dead_letter/`).

use std::sync::Arc;

use super::dead_letter::{Missing, RENAMED};
use super::error::{self, ApplyError, ConflictKind};
use super::exact::{Applier, ConflictPolicy, Met, key, position};
use super::flight::{Flight, Landed, Step, Values};
use super::load::{load, update_shape};
use super::statement::{Except, GUARD, Shape};
use super::table::{TargetTable, Written};
use crate::change::{Change, Part};
use crate::error::{Judged, Verdict};
use crate::postgres::{PgError, ServerError};
use crate::row::{Datum, OldRow, Row};
use crate::sql::Sql;

pub(super) const SAVEPOINT: Sql = Sql::new("SAVEPOINT walferry_step");
pub(super) const RELEASE: Sql = Sql::new("RELEASE SAVEPOINT walferry_step");
const ROLLBACK_TO: Sql = Sql::new("ROLLBACK TO SAVEPOINT walferry_step");

/// What to do when mending would remove a row that rows of other tables refer to.
pub(super) const CASCADES: &str = "The row in the way cannot be removed, because rows of other tables refer to it and \
    would go with it (ON DELETE CASCADE or SET): mend it by hand on the target, or let the role set \
    session_replication_role (GRANT SET ON PARAMETER session_replication_role, PostgreSQL 15 and later).";

/// The shortest stretch: after a conflict others are likely near.
const SHORT: usize = 32;

impl Applier {
    /// Applies the part's changes within the open transaction; returns those that touched no row.
    pub(super) async fn stepwise(&mut self, part: &Arc<Part>) -> Result<Vec<usize>, ApplyError> {
        self.resolve(std::slice::from_ref(part)).await?;
        let changes = &part.changes;
        let (mut from, mut length, mut missing) = (0, changes.len(), Vec::new());
        while from < changes.len() {
            let to = changes.len().min(from + length);
            let landed = self.stretch(part, from, to).await?;
            let Some((step, error)) = landed.failed else {
                missing.extend(landed.missing);
                (from, length) = (to, length.saturating_mul(2));
                continue;
            };
            let refused = match step {
                Step::Change(at) | Step::Counted(at) => at,
                Step::Control | Step::Group(_) | Step::Exactly(..) | Step::Ask | Step::Progress | Step::Commit => {
                    return Err(ApplyError::RefusedCommit { lsn: position(part), source: error });
                }
            };
            if refused > from {
                // What precedes it succeeds without it, unless the target changed meanwhile: then that one is next.
                length = refused - from;
                let before = self.stretch(part, from, refused).await?;
                if before.failed.is_some() {
                    continue;
                }
                missing.extend(before.missing);
            }
            self.mend_or_set_aside(part, refused, error).await?;
            (from, length) = (refused + 1, SHORT);
        }
        Ok(missing)
    }

    /// Sends the changes `from..to`; rolls them all back when one is refused.
    async fn stretch(&mut self, part: &Arc<Part>, from: usize, to: usize) -> Result<Landed, ApplyError> {
        let mut flight = Flight::new(&mut self.session);
        flight.control(&SAVEPOINT, Step::Control)?;
        for (at, change) in part.changes.iter().enumerate().take(to).skip(from) {
            load(&mut flight, self.policy, &self.lettered, change, at, position(part))?;
        }
        flight.control(&RELEASE, Step::Control)?;
        let landed = flight.fly().await?;
        self.roll_back_if_refused(&landed).await?;
        Ok(landed)
    }

    pub(super) async fn roll_back_if_refused(&mut self, landed: &Landed) -> Result<(), ApplyError> {
        let Some((_, error)) = &landed.failed else { return Ok(()) };
        let error = PgError::Server(error.clone());
        if error.verdict() == Verdict::Retry {
            return Err(error.into());
        }
        self.session.control(&ROLLBACK_TO).await?;
        // Statements that the refused flight was to prepare are not there.
        self.session.forget_statements().await?;
        Ok(())
    }

    /// Deals with one refused change.
    pub(super) async fn mend(&mut self, part: &Part, at: usize, refusal: Box<ServerError>) -> Result<(), ApplyError> {
        let change = &part.changes[at];
        if matches!(change, Change::Truncate { .. }) {
            self.empty(part, change, refusal).await?;
            return self.supersede_truncated(part, change).await;
        }
        let lsn = position(part);
        let Some(kind) = conflict(change, &refusal) else { return Err(refused(change, part, refusal)) };
        let (relation, old, new) = match change {
            Change::Insert { relation, new } => (relation, None, Some(new)),
            Change::Update { relation, old, new } => (relation, old.as_ref(), Some(new)),
            Change::Delete { relation, old } => (relation, Some(old), None),
            Change::Truncate { .. } | Change::Message(_) => return Err(refused(change, part, refusal)),
        };
        let key = key(relation, old, new);
        let halt = |hint: &str| ApplyError::Conflict {
            table: relation.name.clone(),
            key: key.clone(),
            kind,
            lsn,
            hint: hint.to_owned(),
        };
        let table = self.session.table(relation, lsn).await?;
        let old_is_full = matches!(old, Some(OldRow::Full(_)));
        let row = Values { new, old: old.map(OldRow::row), old_is_full, by_new: false };
        let is_update = kind == ConflictKind::UpdateMissing;
        if is_update && (self.was_rekeyed(&table, row).await? || self.replaced(&table, old, row).await?) {
            return Ok(());
        }
        match self.why_missing(&table, change, kind, lsn).await? {
            Missing::Renamed => return Err(halt(RENAMED)),
            Missing::AsExpected => {
                let outcome = self.agree(&table, kind, old, row).await?;
                return outcome.map_or(Ok(()), |error| Err(refused(change, part, error)));
            }
            Missing::Conflict => {}
        }
        let met = Met { kind, table: relation.name.clone(), key: key.clone(), lsn };
        if self.policy == ConflictPolicy::Stop {
            if !self.sets_aside() && self.halted_at.as_ref() != Some(&met) {
                self.observer.conflict(kind, &relation.name, &key, lsn);
                self.halted_at = Some(met);
            }
            return Err(halt(
                "conflicts = \"stop\": make the target's row agree with the source's as it was before this change, \
                 or set apply.conflicts = \"source_wins\".",
            ));
        }
        let whole = old_is_full || new.is_none_or(|new| new.iter().all(|datum| datum != Datum::Unchanged));
        if !whole && kind != ConflictKind::UpdateExists {
            return Err(halt(
                "The row is missing on the target and the change does not hold all of it (an unchanged TOASTed value): \
                 insert the row on the target as the source has it; with REPLICA IDENTITY FULL on the source it does \
                 not happen again.",
            ));
        }
        let outcome = self.agree(&table, kind, old, row).await?;
        match outcome {
            Some(error) if error.code == GUARD && self.session.cascades_from(&table) => return Err(halt(CASCADES)),
            Some(error) => return Err(refused(change, part, error)),
            None => {}
        }
        self.mended.push(met);
        Ok(())
    }

    /// Makes the target's rows agree with the change.
    async fn agree(
        &mut self,
        table: &TargetTable,
        kind: ConflictKind,
        old: Option<&OldRow>,
        row: Values<'_>,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        match (kind, row.new) {
            (ConflictKind::UpdateExists, Some(new)) => {
                self.update_clearing(table, update_shape(table, old, new), row).await
            }
            (ConflictKind::UpdateMissing, Some(new)) if table.differs_from_key() => {
                match self.update_by_key(table, old, new, row).await? {
                    Some(error) if error.code == GUARD => self.put(table, row).await,
                    outcome => Ok(outcome),
                }
            }
            (ConflictKind::InsertExists | ConflictKind::UpdateMissing, Some(_)) => self.put(table, row).await,
            (ConflictKind::DeleteMissing, None) if table.differs_from_key() => {
                self.alone(&table.by_key(), Shape::Delete { guarded: false }, row).await
            }
            _ => Ok(None),
        }
    }

    /// Sets all of the row that has the old key and differs from the old row elsewhere.
    async fn update_by_key(
        &mut self,
        table: &TargetTable,
        old: Option<&OldRow>,
        new: &Row,
        row: Values<'_>,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        let table = table.by_key();
        let mut shape = update_shape(&table, old, new);
        if let Shape::Update { unset } | Shape::Replace { unset } = &mut shape {
            let fixed = |at: &u16| table.written.iter().any(|c| c.identity_always && c.index == usize::from(*at));
            unset.retain(fixed);
        }
        self.update_clearing(&table, shape, row).await
    }

    /// An UPDATE finds no row where one is, if it may have changed an identity column that the target's UPDATE
    /// cannot set and that the old row does not tell of. Then the row is replaced, which is no conflict.
    async fn replaced(
        &mut self,
        table: &TargetTable,
        old: Option<&OldRow>,
        row: Values<'_>,
    ) -> Result<bool, ApplyError> {
        let Some(new) = row.new else { return Ok(false) };
        let Shape::Update { unset } = update_shape(table, old, new) else { return Ok(false) };
        let unsure = |column: &Written| column.identity_always && !unset.contains(&(column.index as u16));
        if !table.written.iter().any(unsure) || self.session.cascades_from(table) {
            return Ok(false);
        }
        Ok(self.alone(table, Shape::Replace { unset }, row).await?.is_none())
    }

    /// Whether the row of an UPDATE that was not found as it was is there as it will be, because a foreign key of the
    /// target (ON UPDATE CASCADE, ON DELETE SET NULL, …) has been at it: then it is updated, and nothing is amiss.
    async fn was_rekeyed(&mut self, table: &TargetTable, row: Values<'_>) -> Result<bool, ApplyError> {
        let (Some(new), Some(_)) = (row.new, row.old) else { return Ok(false) };
        if self.session.replica_role || !(table.info.rekeyed || table.info.cascaded) {
            return Ok(false);
        }
        let row = Values { by_new: true, ..row };
        Ok(self.alone(table, update_shape(table, None, new), row).await?.is_none())
    }

    /// Makes the target hold the new row, whatever is there: clears other rows that have its unique values, then
    /// overwrites the row that has its key, or inserts it.
    async fn put(&mut self, table: &TargetTable, row: Values<'_>) -> Result<Option<Box<ServerError>>, ApplyError> {
        for unique in (0..table.uniques.len()).filter(|unique| table.key != Some(*unique)) {
            if let Some(error) = self.clear(table, unique, Except::NewKey, row).await? {
                return Ok(Some(error));
            }
        }
        if table.key.is_some() {
            match self.alone(table, Shape::Overwrite, row).await? {
                Some(error) if error.code == GUARD => {}
                outcome => return Ok(outcome),
            }
        }
        // It may be there with another identity.
        if let Some(unique) = table.key.filter(|_| table.written.iter().any(|column| column.identity_always))
            && let Some(error) = self.clear(table, unique, Except::Nothing, row).await?
        {
            return Ok(Some(error));
        }
        self.alone(table, Shape::Insert, row).await
    }

    /// Clears the rows that have the new row's unique values, then updates.
    async fn update_clearing(
        &mut self,
        table: &TargetTable,
        shape: Shape,
        row: Values<'_>,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        for unique in 0..table.uniques.len() {
            if let Some(error) = self.clear(table, unique, Except::Old, row).await? {
                return Ok(Some(error));
            }
        }
        self.alone(table, shape, row).await
    }

    /// Removes the rows that stand in the way, unless rows of other tables would go with them: then it raises.
    async fn clear(
        &mut self,
        table: &TargetTable,
        unique: usize,
        except: Except,
        row: Values<'_>,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        let check = self.session.cascades_from(table);
        self.alone(table, Shape::Clear { unique, except, check }, row).await
    }

    /// One statement under a savepoint of its own.
    async fn alone(
        &mut self,
        table: &TargetTable,
        shape: Shape,
        row: Values<'_>,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        let mut flight = Flight::new(&mut self.session);
        flight.control(&SAVEPOINT, Step::Control)?;
        flight.change(table, shape, row, Step::Change(0))?;
        flight.control(&RELEASE, Step::Control)?;
        let landed = flight.fly().await?;
        self.roll_back_if_refused(&landed).await?;
        Ok(landed.failed.map(|(_, error)| error))
    }
}

/// Which conflict a refusal is; `None` for any other refusal.
fn conflict(change: &Change, refusal: &ServerError) -> Option<ConflictKind> {
    match (change, refusal.code.as_str()) {
        (Change::Insert { .. }, "23505") => Some(ConflictKind::InsertExists),
        (Change::Update { .. }, "23505") => Some(ConflictKind::UpdateExists),
        (Change::Update { .. }, GUARD) => Some(ConflictKind::UpdateMissing),
        (Change::Delete { .. }, GUARD) => Some(ConflictKind::DeleteMissing),
        _ => None,
    }
}

pub(super) fn refused(change: &Change, part: &Part, source: Box<ServerError>) -> ApplyError {
    let lsn = position(part);
    let (table, key, what) = match change {
        Change::Insert { relation, new } => (&relation.name, key(relation, None, Some(new)), "an INSERT"),
        Change::Update { relation, old, new } => (&relation.name, key(relation, old.as_ref(), Some(new)), "an UPDATE"),
        Change::Delete { relation, old } => (&relation.name, key(relation, Some(old), None), "a DELETE"),
        Change::Truncate { relations, .. } => match relations.first() {
            Some(relation) => (&relation.name, format!("and {} more", relations.len() - 1), "a TRUNCATE"),
            None => return ApplyError::RefusedCommit { lsn, source },
        },
        Change::Message(_) => return ApplyError::RefusedCommit { lsn, source },
    };
    let hint = match change {
        Change::Truncate { .. } if source.code == "0A000" => error::referenced(table),
        _ => error::hint(table, &source),
    };
    ApplyError::Refused { table: table.clone(), key, what, lsn, hint, source }
}
