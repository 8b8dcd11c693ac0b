//! A change as a step of a flight: which statement, with which values.

use std::sync::Arc;

use super::conflict::CASCADES;
use super::dead_letter::Lettered;
use super::error::{ApplyError, ConflictKind};
use super::exact::{ConflictPolicy, key};
use super::flight::{Flight, Step, Values};
use super::statement::Shape;
use super::table::TargetTable;
use super::truncation;
use crate::change::Change;
use crate::lsn::Lsn;
use crate::postgres::PgError;
use crate::row::{Datum, OldRow, Row};

/// Adds a change to the flight.
pub(super) fn load(
    flight: &mut Flight<'_>,
    policy: ConflictPolicy,
    lettered: &Lettered,
    change: &Change,
    at: usize,
    lsn: Lsn,
) -> Result<(), ApplyError> {
    match change {
        Change::Insert { relation, new } => {
            let table = flight.table(relation)?;
            let row = Values { new: Some(new), old: None, old_is_full: false, by_new: false };
            flight.change(&table, Shape::Insert, row, Step::Counted(at))?;
        }
        Change::Update { relation, old, new } => {
            let table = flight.table(relation)?;
            let shape = update_shape(&table, old.as_ref(), new);
            if matches!(shape, Shape::Replace { .. }) && flight.cascades_from(&table) {
                return Err(ApplyError::Conflict {
                    table: relation.name.clone(),
                    key: key(relation, old.as_ref(), Some(new)),
                    kind: ConflictKind::UpdateExists,
                    lsn,
                    hint: CASCADES.to_owned(),
                });
            }
            let old_is_full = matches!(old, Some(OldRow::Full(_)));
            let row = Values { new: Some(new), old: old.as_ref().map(OldRow::row), old_is_full, by_new: false };
            flight.change(&table, shape, row, Step::Change(at))?;
        }
        Change::Delete { relation, old } => {
            let table = flight.table(relation)?;
            let normal = table.info.cascaded && !flight.replica_role();
            // A row that is not there may wait in a dead letter.
            let waits = lettered.has(&relation.name);
            // A row that is not found by all of it may be there by its key.
            let guarded = waits || ((policy == ConflictPolicy::Stop || table.differs_from_key()) && !normal);
            let row = Values { new: None, old: Some(old.row()), old_is_full: true, by_new: false };
            flight.change(&table, Shape::Delete { guarded }, row, Step::Counted(at))?;
        }
        Change::Truncate { relations, restart_identity, .. } => {
            let tables = relations.iter().map(|relation| flight.table(relation));
            let tables: Vec<Arc<TargetTable>> = tables.collect::<Result<_, PgError>>()?;
            flight.control(&truncation::CHECK, Step::Change(at))?;
            flight.once(&truncation::truncate(&tables, *restart_identity), Step::Change(at))?;
            flight.control(&truncation::DEFER, Step::Change(at))?;
            for table in relations.iter().filter(|relation| lettered.has(&relation.name)) {
                flight.once(&lettered.supersede_all(&table.name, lsn), Step::Change(at))?;
            }
        }
        Change::Message(_) => {}
    }
    Ok(())
}

/// Which columns an UPDATE sets. An identity column that UPDATE cannot set is left out when it has not changed.
pub(super) fn update_shape(table: &TargetTable, old: Option<&OldRow>, new: &Row) -> Shape {
    let mut unset = Vec::new();
    let mut replace = false;
    for column in &table.written {
        let at = column.index;
        let unchanged = new.get(at) == Some(Datum::Unchanged);
        let known = match old {
            Some(OldRow::Full(old)) => Some(old.get(at) == new.get(at)),
            Some(OldRow::Key(old)) if table.relation.columns[at].is_key => Some(old.get(at) == new.get(at)),
            None if table.relation.columns[at].is_key => Some(true),
            _ => None,
        };
        replace |= column.identity_always && known == Some(false) && !unchanged;
        if unchanged || (column.identity_always && known == Some(true)) {
            unset.push(at as u16);
        }
    }
    if replace { Shape::Replace { unset } } else { Shape::Update { unset } }
}
