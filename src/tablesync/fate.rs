//! What becomes of the rows that a table holds on the target when it is copied. Pure.
//!
//! In: the settings, how far an earlier copy came, what ties the table. Out: a [`Fate`], and why a table that is to be
//! brought up to date in its place has to be emptied in spite of it.

use std::fmt;

use super::plan::{merge_key, writable};
use super::state::{CopyState, TableState};
use super::target_tables::{TargetCatalog, TargetTable};
use super::{CopyMode, CopyScope, CopySettings, ExistingRows};
use crate::source::publication::PublishedTable;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// If there are any, the copy does not begin.
    Refused,
    /// They go first.
    Go,
    /// Those of the same key are overwritten, and the others stay.
    Overwritten,
    /// They become the source's.
    Aligned,
}

/// Of a table that was `former`ly copied, or never; `can_be_aligned`: nothing stands against it ([`obstacle`]).
///
/// A merge commits all its rows at once with `done`, so rows that are counted of an unfinished copy are of one that was
/// none: half of a table, of which nothing is known but that it is walferry's.
pub(super) fn fate(settings: &CopySettings, former: Option<&TableState>, can_be_aligned: bool) -> Fate {
    let former = former.filter(|state| state.was_begun());
    let is_half = former.is_some_and(|state| state.state == CopyState::Copying && state.rows > 0);
    match (settings.existing_rows, former) {
        (ExistingRows::Merge, _) if !is_half => Fate::Overwritten,
        (ExistingRows::Refuse | ExistingRows::Truncate, Some(_))
            if settings.mode == CopyMode::Merge && !is_half && can_be_aligned =>
        {
            Fate::Aligned
        }
        (ExistingRows::Refuse, None) => Fate::Refused,
        _ => Fate::Go,
    }
}

/// Why a table's rows cannot become the source's while they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Nothing tells which rows are the same.
    NoKey,
    /// Children go before their parents when rows are deleted, and after them when they are inserted.
    ForeignKeys,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Obstacle::NoKey => "on the target it has no unique key of copied columns that are all NOT NULL",
            Obstacle::ForeignKeys => {
                "foreign keys of the target tie it to others, and the role may not set session_replication_role"
            }
        })
    }
}

/// See [`Obstacle`].
pub(super) fn obstacle(
    scope: &CopyScope,
    catalog: &TargetCatalog,
    published: &PublishedTable,
    target: &TargetTable,
) -> Option<Obstacle> {
    let is_tied = || catalog.foreign_keys.iter().any(|key| [&key.child, &key.parent].contains(&&published.name));
    if merge_key(published, target, &writable(published, target)).is_none() {
        Some(Obstacle::NoKey)
    } else if !scope.replica_role && is_tied() {
        Some(Obstacle::ForeignKeys)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::super::order::ForeignKey;
    use super::*;
    use crate::lsn::Lsn;
    use crate::relation::TableName;

    #[test]
    fn rows_that_were_there_before_the_first_copy_go_only_when_they_may() {
        let found = |state, rows| TableState {
            name: TableName::new("s", "t"),
            state,
            copy_lsn: Lsn::new(1),
            rows,
            origin: None,
            error: None,
        };
        let begun = found(CopyState::Copying, 0);
        let halfway = found(CopyState::Copying, 5);
        let done = found(CopyState::Done, 5);
        let all = [None, Some(&begun), Some(&halfway), Some(&done)];
        let fates = |existing_rows, mode, can_be_aligned| {
            let settings = CopySettings { existing_rows, mode, ..fixture::settings(1) };
            all.map(|former| fate(&settings, former, can_be_aligned))
        };
        use CopyMode::{Merge, Replace};
        use Fate::{Aligned, Go, Overwritten};
        assert_eq!(fates(ExistingRows::Refuse, Replace, true), [Fate::Refused, Go, Go, Go]);
        assert_eq!(fates(ExistingRows::Truncate, Replace, true), [Go, Go, Go, Go]);
        for mode in [Replace, Merge] {
            assert_eq!(fates(ExistingRows::Merge, mode, true), [Overwritten, Overwritten, Go, Overwritten]);
        }
        assert_eq!(fates(ExistingRows::Refuse, Merge, true), [Fate::Refused, Aligned, Go, Aligned]);
        assert_eq!(fates(ExistingRows::Truncate, Merge, true), [Go, Aligned, Go, Aligned]);
        assert_eq!(fates(ExistingRows::Refuse, Merge, false), [Fate::Refused, Go, Go, Go]);
    }

    #[test]
    fn a_table_without_a_key_or_with_foreign_keys_that_are_checked_has_to_be_emptied() {
        let (published, mut target) = (fixture::published("t", &["id"]), fixture::target(&["id"]));
        let mut scope = fixture::scope(vec![published.clone()]);
        let mut catalog = TargetCatalog::default();
        let why = |scope: &CopyScope, catalog: &TargetCatalog, target: &TargetTable| {
            obstacle(scope, catalog, &published, target)
        };
        assert_eq!(why(&scope, &catalog, &target), None);
        let other = TableName::new("s", "other");
        catalog.foreign_keys = vec![ForeignKey { child: other, parent: published.name.clone() }];
        assert_eq!(why(&scope, &catalog, &target), Some(Obstacle::ForeignKeys));
        scope.replica_role = true;
        assert_eq!(why(&scope, &catalog, &target), None);
        target.keys.clear();
        assert_eq!(why(&scope, &catalog, &target), Some(Obstacle::NoKey));
    }
}
