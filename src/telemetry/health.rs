//! What the daemon is doing now, as plain data: written by the stages piece by piece, read whole by HTTP and `status`.
//!
//! The snapshot sits behind a mutex that is held for a field's change or a copy, never across a wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::MissedTickBehavior;

use super::lag_history::{LagHistory, LagReport};
use super::status::{StatusSnapshot, TargetStatus};

/// The one snapshot of the process; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    snapshot: Arc<Mutex<StatusSnapshot>>,
    /// When each part of the daemon that runs now last showed that it gets on.
    beats: Arc<Mutex<BTreeMap<&'static str, Instant>>>,
    lags: Arc<Mutex<LagHistory>>,
}

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);

/// How long a daemon may give no sign of life. Far above any pause of a loaded machine.
const SILENCE: Duration = Duration::from_secs(60);

impl Health {
    /// A snapshot of a stream that has not started, with these targets.
    pub fn new<'a>(stream: &str, targets: impl IntoIterator<Item = &'a str>) -> Self {
        let health = Self::default();
        health.update(|status| {
            status.stream = stream.to_owned();
            status.version = env!("CARGO_PKG_VERSION").to_owned();
            targets.into_iter().for_each(|name| {
                status.target(name);
            });
        });
        health
    }

    /// Changes part of it. `change` must be quick: everybody else waits.
    pub fn update<T>(&self, change: impl FnOnce(&mut StatusSnapshot) -> T) -> T {
        // A panic while changing plain data leaves plain data: go on with it.
        change(&mut self.snapshot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These are the targets from now on, in this order: of others nothing is shown any more.
    pub fn keep_targets(&self, names: &[String]) {
        self.update(|status| {
            let known = std::mem::take(&mut status.targets);
            for name in names {
                let target = known.iter().find(|target| target.name == *name).cloned();
                status
                    .targets
                    .extend(target.or_else(|| Some(TargetStatus { name: name.clone(), ..Default::default() })));
            }
            status.tables.retain(|table| names.contains(&table.target));
        });
    }

    /// Changes one target's part; see [`Health::update`].
    pub fn target<T>(&self, name: &str, change: impl FnOnce(&mut TargetStatus) -> T) -> T {
        self.update(|status| change(status.target(name)))
    }

    /// Remembers the targets' lag of this moment, as the snapshot has it.
    pub fn remember_lag(&self, now: SystemTime) {
        let lags = self.update(|status| {
            let lag = |target: &TargetStatus| (target.name.clone(), target.lag_seconds);
            status.targets.iter().map(lag).collect::<Vec<_>>()
        });
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).record(now, lags);
    }

    /// The targets' lag over the last minutes.
    pub fn lags(&self) -> LagReport {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).report()
    }

    /// Runs a part of the daemon, and gives signs of life beside it, in the same task: one that is stuck for good, in
    /// whatever state it is, gives none any more.
    pub async fn beating<T>(&self, part: &'static str, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                ended = &mut work => {
                    self.beats(|beats| beats.remove(part));
                    return ended;
                }
                _ = beats.tick() => self.beat(part, Instant::now()),
            }
        }
    }

    /// A sign of life.
    pub fn beat(&self, part: &'static str, now: Instant) {
        self.beats(|beats| beats.insert(part, now));
    }

    /// Which part has given no sign of life for longest, and for how long; `None` while none has begun.
    pub fn silent(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let silent = |(part, beat): (&&'static str, &Instant)| (*part, now.saturating_duration_since(*beat));
        self.beats(|beats| beats.iter().map(silent).max_by_key(|(_, silent)| *silent))
    }

    fn beats<T>(&self, with: impl FnOnce(&mut BTreeMap<&'static str, Instant>) -> T) -> T {
        with(&mut self.beats.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why the process should be replaced; `None` while it works, or has not begun.
    pub fn dead(&self, now: Instant) -> Option<String> {
        let stuck = self.silent(now).filter(|(_, silent)| *silent > SILENCE);
        let stuck = stuck.map(|(part, silent)| format!("{part} has been stuck for {} s", silent.as_secs()));
        self.update(|status| status.dead.clone()).or(stuck)
    }

    /// A copy of the whole.
    pub fn snapshot(&self) -> StatusSnapshot {
        self.update(|status| status.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::state::{SourceState, TargetState};

    fn running() -> Health {
        let health = Health::new("walferry", ["staging", "analytics"]);
        health.update(|status| {
            status.source.state = SourceState::Streaming;
            status.targets.iter_mut().for_each(|target| target.state = TargetState::Applying);
        });
        health
    }

    #[test]
    fn a_daemon_that_gives_no_sign_of_life_any_more_is_dead() {
        let (health, begun) = (running(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(health.dead(after(3600)), None, "it has not begun");
        health.beat("the daemon", begun);
        assert_eq!(health.dead(after(60)), None);
        assert_eq!(health.dead(after(61)).as_deref(), Some("the daemon has been stuck for 61 s"));
        health.beat("the daemon", after(61));
        assert_eq!(health.dead(after(62)), None, "it was slow");
        assert_eq!(health.dead(begun), None, "clocks of two threads need not agree");
        health.beat("the stream", after(70));
        health.beat("the daemon", after(130));
        assert_eq!(health.dead(after(131)).as_deref(), Some("the stream has been stuck for 61 s"));
    }

    #[tokio::test]
    async fn a_part_beats_for_as_long_as_it_runs() {
        let health = running();
        let began = health.clone();
        let answer = health.beating("the daemon", async move {
            while began.silent(Instant::now()).is_none() {
                tokio::task::yield_now().await;
            }
            7
        });
        assert_eq!(answer.await, 7);
        assert_eq!(health.dead(Instant::now() + SILENCE * 2), None, "it has ended, it is not stuck");
    }
}
