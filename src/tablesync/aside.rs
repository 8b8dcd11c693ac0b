//! Tables that have failed by themselves: set aside, so that what is copied of the others comes to its end.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::CopyError;
use super::order::ForeignKey;
use super::plan::TablePlan;
use crate::relation::TableName;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Aside(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tables: BTreeSet<TableName>,
    first: Option<CopyError>,
}

impl Aside {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain data: a panic elsewhere leaves it readable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a table aside; the first error is what the copy ends with.
    pub fn set(&self, table: &TableName, error: CopyError) {
        let mut inner = self.lock();
        inner.tables.insert(table.clone());
        inner.first.get_or_insert(error);
    }

    /// Whether a table is set aside.
    pub fn has(&self, table: &TableName) -> bool {
        self.lock().tables.contains(table)
    }

    /// What the copy ends with, if any table was set aside.
    pub fn first_error(&self) -> Option<CopyError> {
        self.lock().first.take()
    }

    /// Leaves out the tables whose foreign keys lead to one that is set aside, and sets them aside with it: their rows
    /// would be refused.
    pub fn without_children(&self, wave: Vec<TablePlan>, keys: &[ForeignKey]) -> Vec<TablePlan> {
        let mut inner = self.lock();
        let waits = |plan: &TablePlan| {
            keys.iter()
                .any(|key| key.child == plan.table && key.parent != plan.table && inner.tables.contains(&key.parent))
        };
        let (waiting, kept): (Vec<TablePlan>, Vec<TablePlan>) = wave.into_iter().partition(waits);
        inner.tables.extend(waiting.into_iter().map(|plan| plan.table));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Piece, Write};
    use super::*;

    #[test]
    fn descendants_wait_and_nobody_else_does() {
        let name = |name: &str| TableName::new("s", name);
        let plan =
            |table: &str| TablePlan { table: name(table), write: Write::Nothing, pieces: vec![Piece::default()] };
        let key = |(child, parent): &(&str, &str)| ForeignKey { child: name(child), parent: name(parent) };
        let keys: Vec<ForeignKey> =
            [("order", "customer"), ("line", "order"), ("item", "item")].iter().map(key).collect();
        let kept = |aside: &Aside, tables: &[&str]| {
            let plans = aside.without_children(tables.iter().map(|table| plan(table)).collect(), &keys);
            plans.into_iter().map(|plan| plan.table.name).collect::<Vec<_>>()
        };
        let aside = Aside::default();
        assert_eq!(kept(&aside, &["order", "item"]), ["order", "item"]);
        assert!(aside.first_error().is_none());
        aside.set(&name("customer"), CopyError::SourceChanged { table: name("customer") });
        aside.set(&name("item"), CopyError::Cancelled);
        assert_eq!(kept(&aside, &["order", "other"]), ["other"]);
        assert_eq!(kept(&aside, &["line", "more"]), ["more"]);
        assert!(matches!(aside.first_error(), Some(CopyError::SourceChanged { .. })));
    }
}
