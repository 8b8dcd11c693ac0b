//! From messages to a transaction.

use divan::Bencher;
use divan::counter::ItemsCount;
use walferry::lsn::Lsn;

use crate::cases::{CASES, Case, ROWS, assembler};

#[divan::bench(args = CASES)]
fn transaction(bencher: Bencher, case: Case) {
    let messages = case.transaction();
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| (assembler(), messages.clone(), Vec::with_capacity(1)))
        .bench_local_refs(|(assembler, messages, out)| {
            for message in messages.drain(..) {
                assembler.push(message, Lsn::new(1), out).expect("a transaction");
            }
        });
}
