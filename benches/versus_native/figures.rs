//! Medians and ratios: pure.

use crate::both::Way;
use crate::drain::Drained;
use crate::replica::Usage;

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

/// The value below which this part of the sorted ones lie, in percent. 0 of none.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or_default()
}

/// The median of what is known of each round; `None` where it is known of none.
pub fn over<R>(rounds: &[R], figure: impl Fn(&R) -> Option<f64>) -> Option<f64> {
    median(rounds.iter().filter_map(figure))
}

/// How many times as fast as native: the median of the rounds' ratios of seconds, or of milliseconds.
pub fn speed<R>(rounds: &[R], times: impl Fn(&R) -> (f64, f64)) -> Option<f64> {
    over(rounds, |round| {
        let (native, walferry) = times(round);
        Some(native / positive(walferry)?)
    })
}

/// The most memory the daemon has had in any round.
pub fn daemon_memory<R>(rounds: &[R], usage: impl Fn(&R) -> Usage) -> Option<u64> {
    rounds.iter().filter_map(|round| usage(round).daemon_memory).max()
}

impl Drained {
    /// How many times as fast as native.
    pub fn speed(&self) -> Option<f64> {
        speed(&self.rounds, |round| (round.both.native.seconds, round.both.walferry.seconds))
    }

    /// How many times as fast as native the source alone sends it.
    pub fn limit(&self) -> Option<f64> {
        speed(&self.rounds, |round| (round.both.native.seconds, round.alone.seconds))
    }

    /// Seconds of processor time of one kind of process. What has as much of it as the drain took is what it waited
    /// for.
    pub fn cpu(&self, way: Way, of: impl Fn(Usage) -> Option<f64>) -> Option<f64> {
        over(&self.rounds, |round| of(round.both.of(way).usage))
    }

    /// Microseconds of processor time of the daemon for each change that reached a target.
    pub fn daemon_micros(&self) -> Option<f64> {
        over(&self.rounds, |round| Some(round.both.walferry.usage.daemon_cpu? * 1e6 / self.arrived()))
    }

    /// Changes that reached a target.
    fn arrived(&self) -> f64 {
        self.changes as f64 * self.targets as f64
    }
}

fn positive(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}
