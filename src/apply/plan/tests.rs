//! The plan against a model of the target: what it comes to is what the changes one by one come to, and on the way no
//! constraint is violated.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::relation::{Column, ReplicaIdentity, TableName};
use crate::row::{Cell, Datum};

/// A value: `None` is NULL, and in an UPDATE [`UNCHANGED`] is a TOASTed value that is not sent.
type Value = Option<u8>;

const UNCHANGED: Value = Some(u8::MAX);

fn row(values: &[Value]) -> Row {
    let mut bytes = Vec::new();
    let cell = |value: &Value| match *value {
        None => Cell::Null,
        UNCHANGED => Cell::Unchanged,
        Some(number) => {
            let text = number.to_string();
            let cell = Cell::Text { offset: bytes.len() as u32, length: text.len() as u32 };
            bytes.extend_from_slice(text.as_bytes());
            cell
        }
    };
    let cells = values.iter().map(cell).collect();
    Row::new(Bytes::from(bytes), cells).unwrap()
}

fn value(datum: Option<Datum<'_>>) -> Value {
    match datum {
        Some(Datum::Text(text)) => Some(std::str::from_utf8(text).unwrap().parse().unwrap()),
        Some(Datum::Unchanged) => UNCHANGED,
        _ => None,
    }
}

fn relation(id: u32, columns: usize, identity: ReplicaIdentity) -> Arc<Relation> {
    let column = |at: usize| Column {
        name: format!("c{at}"),
        type_oid: 23,
        type_modifier: -1,
        is_key: at == 0 || identity == ReplicaIdentity::Full,
    };
    let columns = (0..columns).map(column).collect();
    Arc::new(Relation {
        id: RelationId(id),
        name: TableName::new("s", format!("t{id}")),
        identity,
        columns,
        binary: false,
    })
}

fn keyed() -> Traits {
    Traits {
        table: 1,
        identity: Identity::Key(Arc::from([0])),
        overwrites: true,
        rekeys: true,
        parents: Vec::new(),
        referenced: false,
    }
}

/// What is wrong with a step of a plan.
#[derive(Debug, PartialEq, Eq)]
enum Violation {
    /// A row that was to be there is not, or one is that was not to be.
    Expectation,
    /// Two rows of one key at once, in the midst of a statement.
    Unique,
    /// A reference to a row that is not there, after a statement.
    Reference,
}

/// The rows of one table, in the order of no meaning.
type Rows = Vec<Vec<Value>>;

/// Carries out a group as PostgreSQL does: row by row, unique keys checked at each.
fn carry_out(rows: &mut Rows, group: &Group<'_>, has_key: bool) -> Result<(), Violation> {
    let key = |values: &[Value]| values[0];
    let all = |merged: &Merged<'_>| -> Vec<Value> { merged.values().map(|datum| value(Some(datum))).collect() };
    let whole = |row: &Row| -> Vec<Value> { row.iter().map(|datum| value(Some(datum))).collect() };
    let add = |rows: &mut Rows, new: Vec<Value>| {
        if has_key && rows.iter().any(|row| key(row) == key(&new)) {
            return Err(Violation::Unique);
        }
        rows.push(new);
        Ok(())
    };
    for planned in &group.rows {
        let found = planned.old.and_then(|old| {
            let old = whole(old);
            rows.iter().position(|row| if has_key { key(row) == key(&old) } else { *row == old })
        });
        match (&group.action, &planned.new, found) {
            (Action::Absent, None, None) => {}
            (Action::Delete | Action::DeleteEqual, None, Some(at)) => {
                rows.swap_remove(at);
            }
            (Action::Insert, Some(new), None) => add(rows, all(new))?,
            (Action::UpdateEqual, Some(new), Some(at)) => rows[at] = all(new),
            (Action::Update { unset, rekey }, Some(new), Some(at)) => {
                let mut values = rows.swap_remove(at);
                for (column, new) in all(new).into_iter().enumerate() {
                    let is_unset = unset.contains(&(column as u16));
                    assert_eq!(is_unset, new == UNCHANGED, "what is not known is not set");
                    if !is_unset && (column > 0 || *rekey) {
                        values[column] = new;
                    }
                }
                add(rows, values)?;
            }
            _ => return Err(Violation::Expectation),
        }
    }
    Ok(())
}

/// Plans changes of tables and carries the plan out.
fn through_plan(
    changes: &[Change],
    traits: &dyn Fn(&Arc<Relation>) -> Traits,
    tables: &mut BTreeMap<RelationId, Rows>,
    mut check: impl FnMut(&BTreeMap<RelationId, Rows>) -> Result<(), Violation>,
) -> Result<Result<(), Violation>, Unplannable> {
    let mut planner = Planner::default();
    for (at, change) in changes.iter().enumerate() {
        planner.push(at, change, |relation| Arc::new(traits(relation)))?;
    }
    for stage in planner.finish()? {
        match stage {
            Stage::Truncate(at, change) => {
                assert_eq!(&changes[at], change);
                tables.values_mut().for_each(Vec::clear);
            }
            Stage::Groups(groups) => {
                for group in groups {
                    let has_key = matches!(traits(group.relation).identity, Identity::Key(_));
                    let rows = tables.entry(group.relation.id).or_default();
                    let done = carry_out(rows, &group, has_key).and_then(|()| check(tables));
                    if done.is_err() {
                        return Ok(done);
                    }
                }
            }
        }
    }
    Ok(Ok(()))
}

/// What the source may do; whether it can is decided when its turn comes.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Insert(u8, Value, Value),
    /// Of the n-th row: the new key if it changes, new values; the last may be left as it is and not sent.
    Update(usize, Option<u8>, Value, Option<Value>),
    Delete(usize),
    Truncate,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let value = || prop::option::of(0..3_u8);
    let deed = prop_oneof![
        4 => (0..6_u8, value(), value()).prop_map(|(key, a, b)| Deed::Insert(key, a, b)),
        6 => (0..6_usize, prop::option::weighted(0.3, 0..6_u8), value(), prop::option::of(value()))
            .prop_map(|(at, key, a, b)| Deed::Update(at, key, a, b)),
        4 => (0..6_usize).prop_map(Deed::Delete),
        1 => Just(Deed::Truncate),
    ];
    prop::collection::vec(deed, 0..40)
}

/// Does what can be done; gives the changes as the source would send them.
fn source(deeds: &[Deed], relation: &Arc<Relation>, rows: &mut Rows) -> Vec<Change> {
    let full = relation.identity == ReplicaIdentity::Full;
    let free = |rows: &Rows, key: u8| full || rows.iter().all(|row| row[0] != Some(key));
    let mut changes = Vec::new();
    let relation = || Arc::clone(relation);
    for deed in deeds {
        match *deed {
            Deed::Insert(key, a, b) if free(rows, key) => {
                rows.push(vec![Some(key), a, b]);
                changes.push(Change::Insert { relation: relation(), new: row(&[Some(key), a, b]) });
            }
            Deed::Update(at, key, a, b) if at < rows.len() => {
                let old = rows[at].clone();
                let key = key.filter(|key| free(rows, *key)).map_or(old[0], Some);
                rows[at] = vec![key, a, b.unwrap_or(old[2])];
                let sent = row(&[key, a, b.unwrap_or(UNCHANGED)]);
                let old = match full {
                    true => Some(OldRow::Full(row(&old))),
                    false => (key != old[0]).then(|| OldRow::Key(row(&[old[0], None, None]))),
                };
                changes.push(Change::Update { relation: relation(), old, new: sent });
            }
            Deed::Delete(at) if at < rows.len() => {
                let old = rows.swap_remove(at);
                let old = if full { OldRow::Full(row(&old)) } else { OldRow::Key(row(&[old[0], None, None])) };
                changes.push(Change::Delete { relation: relation(), old });
            }
            Deed::Truncate => {
                rows.clear();
                let relations = vec![relation()];
                changes.push(Change::Truncate { relations, cascade: false, restart_identity: false });
            }
            _ => {}
        }
    }
    changes
}

fn sorted(mut rows: Rows) -> Rows {
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn by_key_a_plan_comes_to_what_the_changes_come_to(before in deeds(), then in deeds()) {
        let relation = relation(1, 3, ReplicaIdentity::Default);
        let mut rows = Rows::new();
        source(&before, &relation, &mut rows);
        let mut tables = BTreeMap::from([(relation.id, rows.clone())]);
        let changes = source(&then, &relation, &mut rows);
        for overwrites in [true, false] {
            let mut tables = tables.clone();
            let traits = |_: &Arc<Relation>| Traits { overwrites, ..keyed() };
            let done = through_plan(&changes, &traits, &mut tables, |_| Ok(())).unwrap();
            // Keys that rows hand on to each other, one statement cannot set row by row.
            prop_assume!(done != Err(Violation::Unique));
            prop_assert_eq!(done, Ok(()));
            prop_assert_eq!(sorted(tables.remove(&relation.id).unwrap()), sorted(rows.clone()));
        }
        tables.clear();
    }

    #[test]
    fn by_whole_rows_a_plan_comes_to_what_the_changes_come_to(before in deeds(), then in deeds()) {
        let relation = relation(1, 3, ReplicaIdentity::Full);
        let mut rows = Rows::new();
        source(&before, &relation, &mut rows);
        let mut tables = BTreeMap::from([(relation.id, rows.clone())]);
        let changes = source(&then, &relation, &mut rows);
        let traits = |_: &Arc<Relation>| Traits { identity: Identity::Whole, ..keyed() };
        prop_assert_eq!(through_plan(&changes, &traits, &mut tables, |_| Ok(())).unwrap(), Ok(()));
        prop_assert_eq!(sorted(tables.remove(&relation.id).unwrap()), sorted(rows));
    }

    /// A child's rows refer to a parent's by their second column.
    #[test]
    fn foreign_keys_hold_after_every_statement(
        deeds in prop::collection::vec((any::<bool>(), 0..5_u8, 0..5_u8, 0..3_u8), 0..40),
        child_first: bool,
    ) {
        let (parent, child) = (relation(1, 2, ReplicaIdentity::Default), relation(2, 2, ReplicaIdentity::Default));
        let mut rows: BTreeMap<RelationId, Rows> = BTreeMap::new();
        let mut changes = Vec::new();
        if child_first {
            // So that the child is met first, whatever comes.
            rows.insert(child.id, vec![vec![Some(9), None]]);
            changes.push(Change::Update { relation: Arc::clone(&child), old: None, new: row(&[Some(9), None]) });
        }
        let before = rows.clone();
        for (of_parent, key, other, deed) in deeds {
            let parents = rows.get(&parent.id).cloned().unwrap_or_default();
            let children = rows.get(&child.id).cloned().unwrap_or_default();
            let is_there = |rows: &Rows| rows.iter().position(|row| row[0] == Some(key));
            let relation = if of_parent { &parent } else { &child };
            let place = is_there(if of_parent { &parents } else { &children });
            let referred = children.iter().any(|row| row[1] == Some(key));
            let allowed = of_parent || parents.iter().any(|row| row[0] == Some(other));
            let new = [Some(key), Some(other)];
            let table = rows.entry(relation.id).or_default();
            let relation = Arc::clone(relation);
            match (deed, place) {
                (0, None) if allowed => {
                    table.push(new.to_vec());
                    changes.push(Change::Insert { relation, new: row(&new) });
                }
                (1, Some(at)) if allowed => {
                    table[at] = new.to_vec();
                    changes.push(Change::Update { relation, old: None, new: row(&new) });
                }
                (2, Some(at)) if !(of_parent && referred) => {
                    table.swap_remove(at);
                    changes.push(Change::Delete { relation, old: OldRow::Key(row(&[Some(key), None])) });
                }
                _ => {}
            }
        }
        let traits = |relation: &Arc<Relation>| match relation.id {
            RelationId(1) => Traits { referenced: true, ..keyed() },
            _ => Traits { table: 2, parents: vec![1], ..keyed() },
        };
        let mut tables = before;
        let references = |tables: &BTreeMap<RelationId, Rows>| {
            let parents = tables.get(&RelationId(1)).cloned().unwrap_or_default();
            let holds = |row: &Vec<Value>| row[1].is_none() || parents.iter().any(|parent| parent[0] == row[1]);
            let children = tables.get(&RelationId(2)).into_iter().flatten();
            if children.into_iter().all(holds) { Ok(()) } else { Err(Violation::Reference) }
        };
        prop_assert_eq!(through_plan(&changes, &traits, &mut tables, references).unwrap(), Ok(()));
        for table in [1, 2].map(RelationId) {
            let of = |tables: &BTreeMap<RelationId, Rows>| sorted(tables.get(&table).cloned().unwrap_or_default());
            prop_assert_eq!(of(&tables), of(&rows));
        }
    }
}

/// The actions of a plan with the number of rows of each.
fn outline(changes: &[Change], traits: Traits) -> Vec<String> {
    let mut planner = Planner::default();
    for (at, change) in changes.iter().enumerate() {
        planner.push(at, change, |_| Arc::new(traits.clone())).unwrap();
    }
    let stage = |stage: Stage<'_>| match stage {
        Stage::Truncate(..) => vec!["truncate".to_owned()],
        Stage::Groups(groups) => {
            groups.iter().map(|group| format!("{:?} {}", group.action, group.rows.len()).to_lowercase()).collect()
        }
    };
    planner.finish().unwrap().into_iter().flat_map(stage).collect()
}

#[test]
fn the_trace_of_the_module_is_true() {
    let relation = relation(1, 3, ReplicaIdentity::Default);
    let insert = |key| Change::Insert { relation: Arc::clone(&relation), new: row(&[Some(key), Some(1), Some(1)]) };
    let update =
        |key, a, b| Change::Update { relation: Arc::clone(&relation), old: None, new: row(&[Some(key), a, b]) };
    let rekey = |from, to| Change::Update {
        relation: Arc::clone(&relation),
        old: Some(OldRow::Key(row(&[Some(from), None, None]))),
        new: row(&[Some(to), Some(1), UNCHANGED]),
    };
    let delete =
        |key| Change::Delete { relation: Arc::clone(&relation), old: OldRow::Key(row(&[Some(key), None, None])) };
    let truncate =
        || Change::Truncate { relations: vec![Arc::clone(&relation)], cascade: false, restart_identity: false };
    let update_all = "update { unset: [], rekey: false } 1";
    assert_eq!(outline(&[insert(7), update(7, Some(2), Some(2))], keyed()), ["insert 1"]);
    assert_eq!(outline(&[update(5, Some(1), Some(1)), update(5, Some(2), Some(2))], keyed()), [update_all]);
    assert_eq!(outline(&[update(5, Some(1), Some(1)), update(5, Some(2), UNCHANGED)], keyed()), [update_all]);
    assert_eq!(outline(&[update(5, Some(1), UNCHANGED)], keyed()), ["update { unset: [2], rekey: false } 1"]);
    assert_eq!(outline(&[delete(5), insert(5)], keyed()), [update_all]);
    let own_columns = Traits { overwrites: false, ..keyed() };
    assert_eq!(outline(&[delete(5), insert(5)], own_columns), ["delete 1", "insert 1"]);
    assert_eq!(outline(&[insert(8), delete(8)], keyed()), ["absent 1"]);
    assert_eq!(outline(&[rekey(5, 6), rekey(6, 7)], keyed()), ["update { unset: [2], rekey: true } 1"]);
    assert_eq!(outline(&[insert(1), truncate(), insert(2)], keyed()), ["insert 1", "truncate", "insert 1"]);
}

#[test]
fn another_version_of_a_table_is_a_barrier() {
    let versions = [2, 3].map(|columns| relation(1, columns, ReplicaIdentity::Default));
    let insert = |at: usize, key| {
        let new = row(&vec![Some(key); versions[at].columns.len()]);
        Change::Insert { relation: Arc::clone(&versions[at]), new }
    };
    assert_eq!(
        outline(&[insert(0, 1), insert(0, 2), insert(1, 3), insert(0, 4)], keyed()),
        ["insert 2", "insert 1", "insert 1"]
    );
}

#[test]
fn what_contradicts_itself_or_cannot_be_ordered_is_not_planned() {
    let relation = relation(1, 3, ReplicaIdentity::Default);
    let insert = |key| Change::Insert { relation: Arc::clone(&relation), new: row(&[Some(key), None, None]) };
    let rekey = Change::Update {
        relation: Arc::clone(&relation),
        old: Some(OldRow::Key(row(&[Some(5), None, None]))),
        new: row(&[Some(1), Some(1), None]),
    };
    let plan = |changes: &[&Change], traits: Traits| {
        let mut planner = Planner::default();
        for (at, change) in changes.iter().enumerate() {
            planner.push(at, change, |_| Arc::new(traits.clone()))?;
        }
        planner.finish().map(|stages| stages.len())
    };
    assert_eq!(plan(&[&insert(1), &insert(1)], keyed()), Err(Unplannable::Contradiction));
    assert_eq!(plan(&[&insert(1), &rekey], keyed()), Err(Unplannable::Contradiction));
    assert_eq!(plan(&[&rekey], Traits { referenced: true, ..keyed() }), Err(Unplannable::Keys));
    assert_eq!(plan(&[&rekey], Traits { rekeys: false, ..keyed() }), Err(Unplannable::Keys));
    assert_eq!(plan(&[&rekey], Traits { identity: Identity::Nothing, ..keyed() }), Err(Unplannable::NoKey));
}
