//! The targets' lag over the last minutes, for the status page. Pure: what was observed goes in, with its time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is kept of each stretch of this length is the largest lag in it, so that no peak is lost.
const WINDOW: Duration = Duration::from_secs(5);

/// So many windows are kept: ten minutes.
const WINDOWS: usize = 120;

/// What `/api/v1/lag` says: each target's lag over the last ten minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagReport {
    /// The length of a window, in seconds.
    pub window_seconds: u64,
    /// When the last window began, as `2026-01-31T12:00:00Z`; `None` before there is one.
    pub last: Option<String>,
    /// By target: the largest lag in each window, in seconds, the oldest first. `None`: not known. The lists end with
    /// the same window, and that of a target that came later is shorter.
    pub targets: BTreeMap<String, Vec<Option<f64>>>,
}

/// Windows of the past.
#[derive(Debug, Default)]
pub struct LagHistory {
    /// The last window, counted from the epoch.
    last: u64,
    targets: BTreeMap<String, VecDeque<Option<f64>>>,
}

impl LagHistory {
    /// These are all the targets there are, with their lag in seconds.
    pub fn record(&mut self, now: SystemTime, lags: Vec<(String, Option<f64>)>) {
        let window = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / WINDOW.as_secs();
        // A clock that is set back goes on in the window at hand.
        let passed = window.saturating_sub(self.last);
        self.last = self.last.max(window);
        self.targets.retain(|name, _| lags.iter().any(|(known, _)| known == name));
        for (name, lag) in lags {
            let windows = self.targets.entry(name).or_default();
            // Of windows in which nobody looked nothing is known.
            for _ in 0..passed.min(WINDOWS as u64) {
                if !windows.is_empty() {
                    windows.push_back(None);
                }
            }
            match windows.back_mut() {
                Some(largest) => *largest = if lag > *largest { lag } else { *largest },
                None => windows.push_back(lag),
            }
            while windows.len() > WINDOWS {
                windows.pop_front();
            }
        }
    }

    /// What is known of the last minutes.
    pub fn report(&self) -> LagReport {
        let rounded = |lag: &Option<f64>| lag.map(|seconds| (seconds * 1000.0).round() / 1000.0);
        let target = |(name, windows): (&String, &VecDeque<Option<f64>>)| {
            (name.clone(), windows.iter().map(rounded).collect::<Vec<_>>())
        };
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(self.last * WINDOW.as_secs());
        LagReport {
            window_seconds: WINDOW.as_secs(),
            last: (self.last > 0).then(|| humantime::format_rfc3339_seconds(last).to_string()),
            targets: self.targets.iter().map(target).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
    }

    fn history(lags: &[(u64, Option<f64>)]) -> LagHistory {
        let mut history = LagHistory::default();
        lags.iter().for_each(|(seconds, lag)| history.record(at(*seconds), vec![("t".to_owned(), *lag)]));
        history
    }

    #[test]
    fn a_window_keeps_its_peak() {
        let report = history(&[(0, Some(0.0)), (1, Some(2.5)), (4, Some(0.1)), (5, Some(0.0625))]).report();
        assert_eq!(report.targets["t"], [Some(2.5), Some(0.063)]);
        assert_eq!((report.window_seconds, report.last.as_deref()), (5, Some("2001-09-09T01:46:45Z")));
    }

    #[test]
    fn what_nobody_saw_is_not_known() {
        let report = history(&[(0, Some(1.0)), (16, None), (17, Some(3.0)), (2, Some(4.0))]).report();
        assert_eq!(report.targets["t"], [Some(1.0), None, None, Some(4.0)], "a clock set back changes no past");
        assert_eq!(LagHistory::default().report().last, None);
    }

    #[test]
    fn ten_minutes_are_kept_of_the_targets_there_are() {
        let mut history = history(&Vec::from_iter((0..10_000).map(|second| (second, Some(second as f64)))));
        assert_eq!(history.report().targets["t"].len(), 120);
        assert_eq!(history.report().targets["t"].last(), Some(&Some(9_999.0)));
        history.record(at(1_000_000), vec![("t".to_owned(), None), ("u".to_owned(), Some(0.5))]);
        let targets = history.report().targets;
        assert_eq!((targets["t"].len(), targets["t"].iter().flatten().count()), (120, 0));
        assert_eq!(targets["u"], [Some(0.5)]);
        history.record(at(1_000_000), vec![("u".to_owned(), None)]);
        assert_eq!(Vec::from_iter(history.report().targets.keys()), ["u"]);
    }
}
