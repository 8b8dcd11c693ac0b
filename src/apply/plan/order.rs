//! From rows' ways to groups, in an order that keeps the target's constraints satisfied at every step.
//!
//! | first | of tables that nothing refers to: the rows that go, which may hold unique values that others get |
//! | then, table by table, those referred to before those that refer | changed rows; then new ones, among them rows
//!   with keys that changed ones had |
//! | last | of tables that are referred to: the rows that go, those that refer before those referred to |
//!
//! The rows that go must come first for unique values and last for foreign keys. Where both matter in one table, and
//! where changed rows take unique values over from each other, the target may refuse the order: then the changes are
//! applied one by one.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::keyed::{Entry, Keyed, bytes, same};
use super::whole::Whole;
use super::{Merged, Rows, Table, Traits, Unplannable};
use crate::relation::Relation;
use crate::row::Row;

/// Rows of one table that are written in the same way.
#[derive(Debug)]
pub struct Group<'a> {
    /// The table.
    pub relation: &'a Arc<Relation>,
    /// What is done.
    pub action: Action,
    /// To which rows; there is one at least.
    pub rows: Vec<PlannedRow<'a>>,
}

/// What is done to the rows of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Every row is there, and goes.
    Delete,
    /// Every row is there, and gets new values in all columns but `unset`, those of its key only with `rekey`.
    Update {
        unset: Vec<u16>,
        rekey: bool,
    },
    /// No row is there, nor to be there.
    Absent,
    /// No row is there, and comes.
    Insert,
    /// As Delete and Update, for rows without a key: one of those that are equal.
    DeleteEqual,
    UpdateEqual,
}

/// A row of a group.
#[derive(Clone, Debug)]
pub struct PlannedRow<'a> {
    /// As the target has it: its key, or all of it.
    pub old: Option<&'a Row>,
    /// As it is afterwards.
    pub new: Option<Merged<'a>>,
}

/// One table's groups.
#[derive(Default)]
struct Sorted<'a> {
    deletes: Vec<Group<'a>>,
    changes: Vec<Group<'a>>,
    inserts: Vec<Group<'a>>,
}

/// The groups of what was gathered.
pub(super) fn groups(tables: Vec<Table<'_>>) -> Result<Vec<Group<'_>>, Unplannable> {
    let tables = parents_first(tables);
    let (mut first, mut then, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for Table { relation, traits, rows } in tables {
        let Sorted { deletes, changes, inserts } = match rows {
            Rows::Keyed(keyed) => by_key(relation, &traits, keyed)?,
            Rows::Whole(whole) => by_whole(relation, whole),
            Rows::Inserted(rows) => {
                let rows = rows.into_iter().map(|new| PlannedRow { old: None, new: Some(new) }).collect();
                Sorted { inserts: group(relation, Action::Insert, rows).into_iter().collect(), ..Sorted::default() }
            }
        };
        if traits.referenced {
            last.extend(deletes)
        } else {
            first.extend(deletes)
        }
        // Rows that refer to rows of their own table: to new ones as well.
        if traits.parents.contains(&traits.table) {
            then.extend(inserts);
            then.extend(changes);
        } else {
            then.extend(changes);
            then.extend(inserts);
        }
    }
    first.extend(then);
    first.extend(last.into_iter().rev());
    Ok(first)
}

/// In a circle of foreign keys the order is as good as any other.
fn parents_first(tables: Vec<Table<'_>>) -> Vec<Table<'_>> {
    if tables.iter().all(|table| table.traits.parents.is_empty()) {
        return tables;
    }
    let places: HashMap<u32, usize> = tables.iter().enumerate().map(|(at, table)| (table.traits.table, at)).collect();
    let mut order = Vec::with_capacity(tables.len());
    let mut seen = vec![false; tables.len()];
    for start in 0..tables.len() {
        // Depth first: a table comes after all it refers to.
        let mut open = vec![(start, 0)];
        while let Some((at, parent)) = open.pop() {
            if parent == 0 && std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match tables[at].traits.parents.get(parent) {
                Some(id) => {
                    open.push((at, parent + 1));
                    open.extend(places.get(id).filter(|next| !seen[**next]).map(|next| (*next, 0)));
                }
                None => order.push(at),
            }
        }
    }
    let mut tables: Vec<Option<Table<'_>>> = tables.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| tables[at].take()).collect()
}

fn by_key<'a>(relation: &'a Arc<Relation>, traits: &Traits, keyed: Keyed<'a>) -> Result<Sorted<'a>, Unplannable> {
    let (key, entries) = keyed.into_entries();
    let (mut deletes, mut absent, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    let mut plain = Vec::new();
    let mut updates: Vec<(Action, Vec<PlannedRow<'a>>)> = Vec::new();
    let mut update = |unset: Vec<u16>, rekey: bool, row| {
        // Most are so.
        if unset.is_empty() && !rekey {
            return plain.push(row);
        }
        let action = Action::Update { unset, rekey };
        match updates.iter_mut().find(|(known, _)| *known == action) {
            Some((_, rows)) => rows.push(row),
            None => updates.push((action, vec![row])),
        }
    };
    for Entry { at, origin, last, replaced, displaced, .. } in entries {
        match (origin, last) {
            (None, None) => {
                if !displaced {
                    absent.push(PlannedRow { old: Some(at), new: None });
                }
            }
            (None, new @ Some(_)) => inserts.push(PlannedRow { old: None, new }),
            (Some(_), None) => deletes.push(PlannedRow { old: origin, new: None }),
            (Some(old), Some(new)) => {
                let rekey = !same(&key, old, new.newest());
                if replaced && (rekey || !traits.overwrites) {
                    // Rows that others refer to go last, and this one must go before it comes.
                    if traits.referenced {
                        return Err(Unplannable::Keys);
                    }
                    deletes.push(PlannedRow { old: origin, new: None });
                    inserts.push(PlannedRow { old: None, new: Some(new) });
                } else if rekey && (traits.referenced || !traits.rekeys) {
                    return Err(Unplannable::Keys);
                } else {
                    update(new.unset(), rekey, PlannedRow { old: origin, new: Some(new) });
                }
            }
        }
    }
    let sorted = |action, rows| group(relation, action, sort(&key, rows));
    updates.insert(0, (Action::Update { unset: Vec::new(), rekey: false }, plain));
    let changes = updates.into_iter().filter_map(|(action, rows)| sorted(action, rows)).collect();
    let mut arrivals: Vec<Group<'a>> = sorted(Action::Absent, absent).into_iter().collect();
    arrivals.extend(sorted(Action::Insert, inserts));
    Ok(Sorted { deletes: sorted(Action::Delete, deletes).into_iter().collect(), changes, inserts: arrivals })
}

fn by_whole<'a>(relation: &'a Arc<Relation>, whole: Whole<'a>) -> Sorted<'a> {
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    for super::whole::Entry { origin: old, last: new } in whole.into_entries() {
        match (&old, &new) {
            (None, None) => {}
            (None, Some(_)) => inserts.push(PlannedRow { old, new }),
            (Some(_), None) => deletes.push(PlannedRow { old, new }),
            (Some(_), Some(_)) => updates.push(PlannedRow { old, new }),
        }
    }
    let groups = |action, rows| group(relation, action, rows).into_iter().collect();
    Sorted {
        deletes: groups(Action::DeleteEqual, deletes),
        changes: groups(Action::UpdateEqual, updates),
        inserts: groups(Action::Insert, inserts),
    }
}

fn group<'a>(relation: &'a Arc<Relation>, action: Action, rows: Vec<PlannedRow<'a>>) -> Option<Group<'a>> {
    (!rows.is_empty()).then_some(Group { relation, action, rows })
}

/// By key, so that neighbours in the index are met one after the other: shorter values first, which orders numbers.
/// What a key begins with is fetched once: the rows lie all over the memory.
fn sort<'a>(key: &[usize], rows: Vec<PlannedRow<'a>>) -> Vec<PlannedRow<'a>> {
    let place = |row: &PlannedRow<'a>| {
        let found = row.old.or(row.new.as_ref().map(Merged::newest));
        let value = bytes(key.first().and_then(|at| found?.get(*at)));
        let mut head = [0; 8];
        let length = value.len().min(head.len());
        head[..length].copy_from_slice(&value[..length]);
        (value.len(), u64::from_be_bytes(head))
    };
    let mut placed: Vec<((usize, u64), PlannedRow<'a>)> = rows.into_iter().map(|row| (place(&row), row)).collect();
    let decided = key.len() == 1;
    placed.sort_by(|(one, row), (other, next)| {
        one.cmp(other).then_with(|| match decided && one.0 <= size_of::<u64>() {
            true => Ordering::Equal,
            false => whole(row, key).cmp(whole(next, key)),
        })
    });
    placed.into_iter().map(|(_, row)| row).collect()
}

/// All of a row's key.
fn whole<'a>(row: &PlannedRow<'a>, key: &[usize]) -> impl Iterator<Item = (usize, &'a [u8])> {
    let row = row.old.or(row.new.as_ref().map(Merged::newest));
    key.iter().map(move |at| bytes(row.and_then(|row| row.get(*at)))).map(|value| (value.len(), value))
}
