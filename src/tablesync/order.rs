//! In which order tables can be filled while the target checks its foreign keys. Pure.
//!
//! In: the tables to copy and the target's foreign keys. Out: waves (parents before children), or the tables that
//! reference each other in a circle; and which finished tables have to be copied again with an unfinished one.

use std::collections::{BTreeMap, BTreeSet};

use crate::relation::TableName;

/// A foreign key of the target: rows of `child` refer to rows of `parent`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignKey {
    /// `pg_constraint.conrelid`, or a partitioned table above it.
    pub child: TableName,
    /// `pg_constraint.confrelid`, or a partitioned table above it.
    pub parent: TableName,
}

/// Tables that refer to each other in a circle, so that none can be filled first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub BTreeSet<TableName>);

/// Levels of `tables`: each refers only to tables of earlier levels, to itself, or to tables that are not listed.
pub fn waves(tables: &BTreeSet<TableName>, keys: &[ForeignKey]) -> Result<Vec<BTreeSet<TableName>>, Cycle> {
    let keys = between_two(tables, keys);
    let mut left = tables.clone();
    let mut waves = Vec::new();
    while !left.is_empty() {
        let wave = without_partner(&left, &keys, |key| (&key.child, &key.parent));
        if wave.is_empty() {
            return Err(circle(left, &keys));
        }
        left.retain(|table| !wave.contains(table));
        waves.push(wave);
    }
    Ok(waves)
}

/// Of `done`, the tables that foreign keys tie to one of `unfinished`, directly or through others of the two sets.
///
/// A child's rows of one snapshot may refer to parents that the other snapshot does not hold, in both directions; and
/// emptying one of them takes the ground from under its children. So the tie has no direction.
pub fn closure(
    unfinished: &BTreeSet<TableName>,
    done: &BTreeSet<TableName>,
    keys: &[ForeignKey],
) -> BTreeSet<TableName> {
    let mut tied: BTreeMap<&TableName, Vec<&TableName>> = BTreeMap::new();
    for key in keys {
        tied.entry(&key.child).or_default().push(&key.parent);
        tied.entry(&key.parent).or_default().push(&key.child);
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<&TableName> = unfinished.iter().collect();
    while let Some(table) = open.pop() {
        for next in tied.get(table).into_iter().flatten() {
            if done.contains(*next) && !unfinished.contains(*next) && found.insert((*next).clone()) {
                open.push(next);
            }
        }
    }
    found
}

/// Whether `table` has a foreign key to itself.
pub fn refers_to_itself(table: &TableName, keys: &[ForeignKey]) -> bool {
    keys.iter().any(|key| key.child == *table && key.parent == *table)
}

fn between_two<'a>(tables: &BTreeSet<TableName>, keys: &'a [ForeignKey]) -> BTreeSet<&'a ForeignKey> {
    let both = |key: &&ForeignKey| tables.contains(&key.child) && tables.contains(&key.parent);
    keys.iter().filter(|key| key.child != key.parent).filter(both).collect()
}

/// The tables of `left` that have no partner in `left`; `ends` names a key's table and partner.
fn without_partner<'a>(
    left: &BTreeSet<TableName>,
    keys: &BTreeSet<&'a ForeignKey>,
    ends: impl Fn(&'a ForeignKey) -> (&'a TableName, &'a TableName),
) -> BTreeSet<TableName> {
    let bound: BTreeSet<&TableName> = keys
        .iter()
        .map(|key| ends(key))
        .filter(|(_, partner)| left.contains(*partner))
        .map(|(table, _)| table)
        .collect();
    left.iter().filter(|table| !bound.contains(table)).cloned().collect()
}

/// What is stuck also holds the circle's descendants: those nothing refers to are taken off until none is left.
fn circle(mut stuck: BTreeSet<TableName>, keys: &BTreeSet<&ForeignKey>) -> Cycle {
    loop {
        let ends = without_partner(&stuck, keys, |key| (&key.parent, &key.child));
        if ends.is_empty() {
            return Cycle(stuck);
        }
        stuck.retain(|table| !ends.contains(table));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(name: &str) -> TableName {
        TableName::new("s", name)
    }

    fn set(names: &[&str]) -> BTreeSet<TableName> {
        names.iter().map(|name| table(name)).collect()
    }

    fn keys(pairs: &[(&str, &str)]) -> Vec<ForeignKey> {
        pairs.iter().map(|(child, parent)| ForeignKey { child: table(child), parent: table(parent) }).collect()
    }

    #[test]
    fn parents_come_in_earlier_waves_than_children() {
        let keys = keys(&[("line", "order"), ("order", "customer"), ("line", "item"), ("customer", "elsewhere")]);
        let waves = waves(&set(&["line", "order", "customer", "item", "alone"]), &keys).unwrap();
        assert_eq!(waves, [set(&["alone", "customer", "item"]), set(&["order"]), set(&["line"])]);
    }

    #[test]
    fn a_table_that_refers_to_itself_is_no_circle() {
        assert_eq!(waves(&set(&["tree"]), &keys(&[("tree", "tree")])).unwrap(), [set(&["tree"])]);
        assert!(refers_to_itself(&table("tree"), &keys(&[("tree", "tree")])));
        assert!(!refers_to_itself(&table("tree"), &keys(&[("tree", "bush")])));
    }

    #[test]
    fn a_circle_is_named_without_its_ancestors_and_descendants() {
        let keys = keys(&[("a", "b"), ("b", "a"), ("child", "a"), ("grandchild", "child"), ("b", "root")]);
        let cycle = waves(&set(&["a", "b", "child", "grandchild", "root"]), &keys).unwrap_err();
        assert_eq!(cycle, Cycle(set(&["a", "b"])));
    }

    #[test]
    fn finished_parents_children_and_siblings_of_an_unfinished_table_are_copied_again() {
        let keys = keys(&[("line", "order"), ("payment", "order"), ("order", "customer"), ("x", "y"), ("z", "gone")]);
        let done = set(&["line", "order", "customer", "x", "y", "z"]);
        assert_eq!(closure(&set(&["payment"]), &done, &keys), set(&["line", "order", "customer"]));
        assert_eq!(closure(&set(&["y"]), &done, &keys), set(&["x"]));
        assert_eq!(closure(&set(&[]), &done, &keys), set(&[]));
    }

    fn graph() -> impl Strategy<Value = (BTreeSet<TableName>, Vec<ForeignKey>)> {
        let name = || (0..12_u8).prop_map(|n| table(&n.to_string()));
        let key = (name(), name()).prop_map(|(child, parent)| ForeignKey { child, parent });
        (prop::collection::btree_set(name(), 0..12), prop::collection::vec(key, 0..20))
    }

    proptest! {
        #[test]
        fn every_table_is_in_one_wave_after_all_its_parents((tables, keys) in graph()) {
            match waves(&tables, &keys) {
                Ok(waves) => {
                    let level = |t: &TableName| waves.iter().position(|wave| wave.contains(t));
                    prop_assert_eq!(waves.iter().map(BTreeSet::len).sum::<usize>(), tables.len());
                    for key in between_two(&tables, &keys) {
                        prop_assert!(level(&key.child) > level(&key.parent));
                    }
                }
                Err(Cycle(stuck)) => {
                    // In a circle, or between two: each refers to one of them and is referred to by one of them.
                    prop_assert!(!stuck.is_empty());
                    let keys = between_two(&stuck, &keys);
                    for t in &stuck {
                        prop_assert!(keys.iter().any(|key| key.child == *t) && keys.iter().any(|key| key.parent == *t));
                    }
                }
            }
        }

        #[test]
        fn no_foreign_key_joins_a_copied_table_with_one_left_alone((tables, keys) in graph(), cut in 0..12_usize) {
            let unfinished: BTreeSet<_> = tables.iter().take(cut).cloned().collect();
            let done: BTreeSet<_> = tables.difference(&unfinished).cloned().collect();
            let again = closure(&unfinished, &done, &keys);
            let copied: BTreeSet<_> = unfinished.union(&again).cloned().collect();
            prop_assert!(again.is_subset(&done));
            if unfinished.is_empty() { prop_assert!(again.is_empty()); }
            for key in between_two(&tables, &keys) {
                prop_assert_eq!(copied.contains(&key.child), copied.contains(&key.parent));
            }
        }
    }
}
