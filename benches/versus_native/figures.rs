//! Medians and ratios: pure.

use crate::drain::{Drain, Drained, Round};

/// The middle one; of an even number the mean of the two in the middle. `None` of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// The median of what is known in each round; `None` where it is known in none.
pub fn over_rounds(drained: &Drained, figure: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
    median(drained.rounds.iter().filter_map(figure))
}

/// How many times as fast as native: the median of the rounds' ratios.
pub fn speed(drained: &Drained) -> Option<f64> {
    over_rounds(drained, |round| Some(round.native.seconds / round.walferry.seconds))
}

/// Processor time of the walsenders with walferry, as a part of that with native.
pub fn walsender_ratio(drained: &Drained) -> Option<f64> {
    over_rounds(drained, |round| {
        Some(round.walferry.usage.walsender_cpu? / positive(round.native.usage.walsender_cpu?)?)
    })
}

/// Microseconds of the daemon's processor time for each change that reached a target.
pub fn daemon_micros(drained: &Drained) -> Option<f64> {
    let changes = drained.changes as f64 * drained.targets as f64;
    over_rounds(drained, |round| Some(round.walferry.usage.daemon_cpu? * 1e6 / changes))
}

/// Of all processes that replicate, for each change that reached a target, in microseconds.
pub fn all_micros(drained: &Drained, of: impl Fn(&Round) -> &Drain) -> Option<f64> {
    let changes = drained.changes as f64 * drained.targets as f64;
    over_rounds(drained, |round| {
        let usage = of(round).usage;
        let seconds = usage.walsender_cpu? + usage.target_cpu? + usage.daemon_cpu.unwrap_or_default();
        Some(seconds * 1e6 / changes)
    })
}

/// The most memory the daemon has had in any round.
pub fn daemon_memory(drained: &Drained) -> Option<u64> {
    drained.rounds.iter().filter_map(|round| round.walferry.usage.daemon_memory).max()
}

fn positive(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}
