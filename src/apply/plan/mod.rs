//! The plan: what a batch comes to. In go changes in the order in which the source made them, out come groups of rows
//! to be written by one statement each, in the order in which the target's constraints allow it. Pure.
//!
//! ```text
//!   changes ─▶ per table: net effect per key (keyed, whole) ─▶ groups in order (order)
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | which change goes where; barriers |
//! | `merged.rs` | a row's values after several changes |
//! | `keyed.rs` | net effect where rows have a key |
//! | `whole.rs` | net effect where rows are told apart by all of their values |
//! | `order.rs` | groups, and the order of groups |
//!
//! # A trace
//! ```text
//! INSERT 7 (a)   UPDATE 7 (b)                 → insert 7 (b)
//! UPDATE 5 (a)   UPDATE 5 (b)                 → update 5 (b)
//! UPDATE 5 (a, long)   UPDATE 5 (b, TOAST unchanged)   → update 5 (b, long)
//! DELETE 5       INSERT 5 (c)                 → update 5 (c), all columns
//! INSERT 8       DELETE 8                     → 8 must not be there
//! UPDATE 5 → 6   UPDATE 6 → 7                 → update 5, its key becomes 7
//! TRUNCATE                                    → everything before it, the TRUNCATE, everything after it
//! ```
//! What is planned has the same outcome as the changes one by one, and expects the same of the target: an update or
//! delete finds its row, an insert finds none. Where the target is otherwise, the number of rows that a group touches
//! tells, or the target refuses it; then the changes are applied one by one, which mends and reports what was met.

mod keyed;
mod merged;
mod order;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::merged::Merged;
pub use self::order::{Action, Group, PlannedRow};

use self::keyed::Keyed;
use self::whole::Whole;
use crate::change::Change;
use crate::relation::{Relation, RelationId};
use crate::row::{OldRow, Row};

/// What the plan must know of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traits {
    /// The target's OID of the table.
    pub table: u32,
    /// How a row is told from others.
    pub identity: Identity,
    /// Whether a row that is deleted and inserted anew may be overwritten instead.
    pub overwrites: bool,
    /// Whether an UPDATE can change a key.
    pub rekeys: bool,
    /// The tables its rows refer to, by the target's OIDs, where the target checks that.
    pub parents: Vec<u32>,
    /// Whether rows of other tables, or of the table itself, refer to its rows, and the target checks that.
    pub referenced: bool,
}

/// How a row is told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By these columns (places in the source's rows): no two rows are equal in all of them.
    Key(Arc<[usize]>),
    /// By all its values; there may be several of the same. Every change brings the whole old row.
    Whole,
    /// Not at all: rows are only inserted.
    Nothing,
}

/// The batch must be applied change by change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplannable {
    /// The changes contradict each other, as where a constraint was deferred on the source.
    #[error("a row is inserted where one is, or changed where none is")]
    Contradiction,
    /// A row is to be found and the table has no way to.
    #[error("a row without a key is changed")]
    NoKey,
    /// Keys change hands in a table that others refer to, or that cannot have them changed.
    #[error("keys change hands")]
    Keys,
}

/// What is done between two barriers.
#[derive(Debug)]
pub enum Stage<'a> {
    /// These groups, in this order.
    Groups(Vec<Group<'a>>),
    /// A TRUNCATE, by its place among the changes.
    Truncate(usize, &'a Change),
}

/// A plan in the making.
#[derive(Default)]
pub struct Planner<'a> {
    done: Vec<Stage<'a>>,
    tables: Vec<Table<'a>>,
    places: HashMap<RelationId, usize>,
    /// The table of the last change: most changes are of the same one.
    last: Option<usize>,
}

/// One table's changes since the last barrier.
struct Table<'a> {
    relation: &'a Arc<Relation>,
    traits: Arc<Traits>,
    rows: Rows<'a>,
}

enum Rows<'a> {
    Keyed(Keyed<'a>),
    Whole(Whole<'a>),
    Inserted(Vec<Merged<'a>>),
}

impl<'a> Planner<'a> {
    /// Takes the next change, the `at`-th of all. `traits` are those of its table; of a TRUNCATE, whose tables are all
    /// to be planned, they are not asked for.
    ///
    /// # Errors
    /// When the batch must be applied change by change.
    pub fn push(
        &mut self,
        at: usize,
        change: &'a Change,
        traits: impl FnOnce(&'a Arc<Relation>) -> Arc<Traits>,
    ) -> Result<(), Unplannable> {
        match change {
            Change::Insert { relation, new } => self.table(relation, traits)?.insert(new),
            Change::Update { relation, old, new } => self.table(relation, traits)?.update(old.as_ref(), new),
            Change::Delete { relation, old } => self.table(relation, traits)?.delete(old),
            Change::Truncate { .. } => {
                self.barrier()?;
                self.done.push(Stage::Truncate(at, change));
                Ok(())
            }
            Change::Message(_) => Ok(()),
        }
    }

    /// The plan.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Vec<Stage<'a>>, Unplannable> {
        self.barrier()?;
        Ok(self.done)
    }

    fn table(
        &mut self,
        relation: &'a Arc<Relation>,
        traits: impl FnOnce(&'a Arc<Relation>) -> Arc<Traits>,
    ) -> Result<&mut Table<'a>, Unplannable> {
        let same = |table: &Table<'_>| Arc::ptr_eq(table.relation, relation) || table.relation == relation;
        let place = match self.last.filter(|last| Arc::ptr_eq(self.tables[*last].relation, relation)) {
            Some(last) => last,
            None => {
                let known = self.places.get(&relation.id).copied();
                // A version of the table with other columns: what was gathered must be there before.
                if known.is_some_and(|place| !same(&self.tables[place])) {
                    self.barrier()?;
                }
                match self.places.get(&relation.id) {
                    Some(place) => *place,
                    None => self.add(relation, traits(relation)),
                }
            }
        };
        self.last = Some(place);
        Ok(&mut self.tables[place])
    }

    fn add(&mut self, relation: &'a Arc<Relation>, traits: Arc<Traits>) -> usize {
        let rows = match &traits.identity {
            Identity::Key(columns) => Rows::Keyed(Keyed::new(Arc::clone(columns))),
            Identity::Whole => Rows::Whole(Whole::default()),
            Identity::Nothing => Rows::Inserted(Vec::new()),
        };
        self.tables.push(Table { relation, traits, rows });
        let place = self.tables.len() - 1;
        self.places.insert(relation.id, place);
        place
    }

    /// What was gathered comes before what follows.
    fn barrier(&mut self) -> Result<(), Unplannable> {
        self.last = None;
        self.places.clear();
        let tables = std::mem::take(&mut self.tables);
        if !tables.is_empty() {
            self.done.push(Stage::Groups(order::groups(tables)?));
        }
        Ok(())
    }
}

impl<'a> Table<'a> {
    fn insert(&mut self, new: &'a Row) -> Result<(), Unplannable> {
        match &mut self.rows {
            Rows::Keyed(keyed) => keyed.insert(new),
            Rows::Whole(whole) => {
                whole.insert(new);
                Ok(())
            }
            Rows::Inserted(rows) => {
                rows.push(Merged::new(new));
                Ok(())
            }
        }
    }

    fn update(&mut self, old: Option<&'a OldRow>, new: &'a Row) -> Result<(), Unplannable> {
        match (&mut self.rows, old) {
            (Rows::Keyed(keyed), old) => keyed.update(old, new),
            (Rows::Whole(whole), Some(OldRow::Full(old))) => {
                whole.update(old, new);
                Ok(())
            }
            (Rows::Whole(_), _) | (Rows::Inserted(_), _) => Err(Unplannable::NoKey),
        }
    }

    fn delete(&mut self, old: &'a OldRow) -> Result<(), Unplannable> {
        match (&mut self.rows, old) {
            (Rows::Keyed(keyed), old) => keyed.delete(old),
            (Rows::Whole(whole), OldRow::Full(old)) => {
                whole.delete(old);
                Ok(())
            }
            (Rows::Whole(_), OldRow::Key(_)) | (Rows::Inserted(_), _) => Err(Unplannable::NoKey),
        }
    }
}
