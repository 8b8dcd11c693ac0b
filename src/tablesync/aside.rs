//! Tables that have failed by themselves: set aside, so that what is copied of the others comes to its end. Where the
//! target checks foreign keys, with all that these tie to one: it would have to be copied again with it
//! (`order::closure`), however far it has come.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::CopyError;
use super::order::{ForeignKey, closure};
use crate::relation::TableName;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Those that the target checks.
    keys: Vec<ForeignKey>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: BTreeSet<TableName>,
    first: Option<CopyError>,
}

impl Aside {
    pub fn new(keys: Vec<ForeignKey>) -> Self {
        Self { keys, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain data: a panic elsewhere leaves it readable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a table aside, with those that are tied to it; the first error is what the copy ends with.
    pub fn set(&self, table: &TableName, error: CopyError) {
        let all = self.keys.iter().flat_map(|key| [key.child.clone(), key.parent.clone()]).collect();
        let failed = BTreeSet::from([table.clone()]);
        let tied = closure(&failed, &all, &self.keys);
        let mut inner = self.lock();
        inner.tables.extend(failed.into_iter().chain(tied));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_foreign_keys_tie_to_a_table_is_set_aside_with_it_and_nothing_else() {
        let name = |name: &str| TableName::new("s", name);
        let key = |(child, parent): &(&str, &str)| ForeignKey { child: name(child), parent: name(parent) };
        let keys = [("order", "customer"), ("line", "order"), ("item", "item"), ("part", "whole")];
        let aside = Aside::new(keys.iter().map(key).collect());
        let set = |aside: &Aside| {
            let all = ["customer", "order", "line", "item", "part", "whole", "other"];
            all.into_iter().filter(|table| aside.has(&name(table))).collect::<Vec<_>>()
        };
        assert!(aside.first_error().is_none());
        aside.set(&name("order"), CopyError::SourceChanged { table: name("order") });
        assert_eq!(set(&aside), ["customer", "order", "line"]);
        aside.set(&name("item"), CopyError::Cancelled);
        aside.set(&name("other"), CopyError::Cancelled);
        assert_eq!(set(&aside), ["customer", "order", "line", "item", "other"]);
        assert!(matches!(aside.first_error(), Some(CopyError::SourceChanged { .. })));
    }

    #[test]
    fn without_checks_a_table_goes_alone() {
        let aside = Aside::new(Vec::new());
        let name = |name: &str| TableName::new("s", name);
        aside.set(&name("order"), CopyError::Cancelled);
        assert!(aside.has(&name("order")) && !aside.has(&name("customer")));
    }
}
