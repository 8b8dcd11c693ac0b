//! From a batch's changes to groups of rows, by net effect.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use walferry::apply::plan::{Identity, Planner, Stage, Traits};
use walferry::change::Change;

use crate::cases::{CASES, Case, Operation, ROWS, Shape};

#[divan::bench(args = CASES)]
fn batch(bencher: Bencher, case: Case) {
    let part = case.part();
    let traits = traits(case);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| plan(&part.changes, &traits));
}

/// Each row is changed ten times.
#[divan::bench(args = [
    Case { shape: Shape::Mixed, operation: Operation::Update },
    Case { shape: Shape::Json, operation: Operation::UpdateToast },
])]
fn hot_keys(bencher: Bencher, case: Case) {
    let changes: Vec<Change> = case.part().changes.iter().take(ROWS / 10).cycle().take(ROWS).cloned().collect();
    let traits = traits(case);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| plan(&changes, &traits));
}

/// The plan of these changes of one table.
pub fn plan<'a>(changes: &'a [Change], traits: &Arc<Traits>) -> Vec<Stage<'a>> {
    let mut planner = Planner::default();
    for (at, change) in changes.iter().enumerate() {
        planner.push(at, change, |_| Arc::clone(traits)).expect("what can be planned");
    }
    planner.finish().expect("what can be planned")
}

/// A table that has to do with no other.
pub fn traits(case: Case) -> Arc<Traits> {
    let identity = if case.is_full() { Identity::Whole } else { Identity::Key(Arc::from([0])) };
    Arc::new(Traits { table: 1, identity, overwrites: true, rekeys: true, parents: Vec::new(), referenced: false })
}
