//! A target's share of a transaction.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use walferry::change::{Change, Part, TargetId};
use walferry::relation::{Relation, RelationId, TableName};
use walferry::route::{Patterns, Routed, TargetRoute};
use walferry::row::READ;

use crate::cases::{Case, Operation, ROWS, Shape};

/// Bytes after which it is settled whether rows may stay in the memory they arrived in: two of the stretches that
/// `src/route/density.rs` looks at.
const SETTLED: usize = 2 * 4 * READ;

/// How many of the rows are for the target.
#[derive(Clone, Copy, Debug)]
enum Share {
    /// All: the target gets what the others get.
    Whole,
    /// Two in three: it gets a transaction of its own, of rows that stay where they are.
    Dense,
    /// One in ten: these rows are copied.
    Sparse,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Share::Whole => "whole",
            Share::Dense => "two_in_three",
            Share::Sparse => "one_in_ten",
        })
    }
}

#[divan::bench(args = [Share::Whole, Share::Dense, Share::Sparse])]
fn mixed_insert(bencher: Bencher, share: Share) {
    let part = Arc::new(part(share));
    let tables = Patterns::parse(&["public.mixed".to_owned()]).expect("a pattern");
    let mut route = TargetRoute::new(TargetId(0), vec![tables], HashMap::new());
    for _ in 0..=SETTLED / part.memory {
        route.route(&part).expect("a share");
    }
    let whole = matches!(route.route(&part), Ok(Routed::Whole(shared)) if Arc::ptr_eq(&shared, &part));
    assert_eq!(whole, matches!(share, Share::Whole));
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| route.route(&part));
}

/// A transaction of two tables, of which one is for the target.
fn part(share: Share) -> Part {
    let mut part = Case { shape: Shape::Mixed, operation: Operation::Insert }.part();
    let mut other: Option<Arc<Relation>> = None;
    for (at, change) in part.changes.iter_mut().enumerate() {
        let wanted = match share {
            Share::Whole => true,
            Share::Dense => at % 3 < 2,
            Share::Sparse => at % 10 == 0,
        };
        if let (false, Change::Insert { relation, .. }) = (wanted, change) {
            let other = other.get_or_insert_with(|| {
                let name = TableName::new("public", "other");
                Arc::new(Relation { id: RelationId(1), name, ..Relation::clone(relation) })
            });
            *relation = Arc::clone(other);
        }
    }
    part
}
