//! The results as text.

use walferry::admin::output::{size, table};

use crate::drain::{Drain, Drained, Round};
use crate::figures::{all_micros, daemon_memory, daemon_micros, over_rounds, speed, walsender_ratio};

/// Medians of the rounds, and ratios as medians of the rounds' ratios.
pub fn drains(all: &[Drained]) -> String {
    let header = [
        "drain",
        "what",
        "native s",
        "walferry s",
        "native rows/s",
        "walferry rows/s",
        "× native",
        "walsender cpu",
        "cpu per row",
        "daemon's",
        "its memory",
    ];
    table(&header, &[2, 3, 4, 5, 6, 7, 8, 9, 10], all.iter().map(row))
}

fn row(drained: &Drained) -> Vec<String> {
    let seconds = |of: fn(&Round) -> &Drain| over_rounds(drained, |round| Some(of(round).seconds));
    let rows = |of: fn(&Round) -> &Drain| seconds(of).map(|seconds| drained.changes as f64 / seconds / 1000.0);
    let cpu = |of: fn(&Round) -> &Drain| shown(all_micros(drained, of), 1);
    vec![
        drained.name.to_owned(),
        drained.title.to_owned(),
        shown(seconds(native), 2),
        shown(seconds(walferry), 2),
        shown(rows(native), 1) + " k",
        shown(rows(walferry), 1) + " k",
        shown(speed(drained), 2),
        shown(walsender_ratio(drained), 2),
        format!("{} → {} µs", cpu(native), cpu(walferry)),
        shown(daemon_micros(drained), 2) + " µs",
        daemon_memory(drained).map_or_else(|| "-".to_owned(), size),
    ]
}

fn native(round: &Round) -> &Drain {
    &round.native
}

fn walferry(round: &Round) -> &Drain {
    &round.walferry
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
