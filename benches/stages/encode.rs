//! From groups of rows to the parameters of their statement, and to lines of COPY.

use divan::Bencher;
use divan::counter::ItemsCount;
use walferry::apply::bulk::encode;
use walferry::apply::plan::{Group, Stage};
use walferry::apply::statement::Value;
use walferry::apply::table::Wire;
use walferry::change::Part;

use crate::cases::{CASES, Case, Operation, ROWS, Shape};
use crate::plan::{plan, traits};

#[divan::bench(args = CASES)]
fn parameters(bencher: Bencher, case: Case) {
    let (part, values) = (case.part(), values(case));
    let group = group(case, &part);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| encode::parameters(&group.rows, ROWS as u64, &values));
}

#[divan::bench(args = Shape::ALL)]
fn copy_lines(bencher: Bencher, shape: Shape) {
    let case = Case { shape, operation: Operation::Insert };
    let part = case.part();
    let group = group(case, &part);
    let columns: Vec<usize> = (0..shape.columns().len()).collect();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| encode::lines(&group.rows, &columns));
}

/// The one group that the case's rows come to.
fn group(case: Case, part: &Part) -> Group<'_> {
    match plan(&part.changes, &traits(case)).pop() {
        Some(Stage::Groups(mut groups)) if groups.len() == 1 && groups[0].rows.len() == ROWS => groups.remove(0),
        other => panic!("not one group: {other:?}"),
    }
}

/// The parameters of the case's statement.
fn values(case: Case) -> Vec<(Value, Wire)> {
    let columns = case.shape.columns().len();
    let key = || std::iter::once(Value::Old(0));
    let values: Vec<Value> = match case.operation {
        Operation::Insert => (0..columns).map(Value::New).collect(),
        Operation::Update => key().chain((1..columns).map(Value::New)).chain([Value::Count]).collect(),
        Operation::UpdateToast => key().chain((1..columns - 1).map(Value::New)).chain([Value::Count]).collect(),
        Operation::UpdateFull => {
            (0..columns).map(Value::Old).chain((0..columns).map(Value::New)).chain([Value::Count]).collect()
        }
        Operation::Delete => key().chain([Value::Count]).collect(),
    };
    values.into_iter().map(|value| (value, Wire::Text)).collect()
}
