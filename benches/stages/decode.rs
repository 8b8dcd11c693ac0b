//! From the bytes of messages to messages.

use divan::Bencher;
use divan::counter::ItemsCount;

use crate::cases::{CASES, Case, ROWS, decoder};

#[divan::bench(args = CASES)]
fn messages(bencher: Bencher, case: Case) {
    let frames = case.rows();
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| (decoder(), frames.clone(), Vec::with_capacity(ROWS)))
        .bench_local_refs(|(decoder, frames, out)| {
            out.extend(frames.drain(..).map(|frame| decoder.decode(frame).expect("a message")));
        });
}
