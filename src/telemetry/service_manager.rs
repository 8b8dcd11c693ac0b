//! What a service manager is told, where one asks for it (`NOTIFY_SOCKET`, sd_notify(3)): that the daemon is ready, how
//! it is, that it reloads and stops, and, for its watchdog (`WATCHDOG_USEC`, sd_watchdog_enabled(3)), that it gets on.
//!
//! Without a socket in the environment nothing is sent. One that cannot be written to is warned of once: the daemon's
//! work does not depend on it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Health;
use super::state::SourceState;
use super::status::StatusSnapshot;

/// Between two looks at how the daemon is.
const LOOK: Duration = Duration::from_millis(500);

/// The least that a part of the daemon may be silent for, whatever the watchdog's time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    told: Arc<Mutex<Told>>,
    failed: Arc<AtomicBool>,
}

/// What it was told already.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    line: String,
}

impl Told {
    /// What it is to be told now.
    fn news(&mut self, status: &StatusSnapshot) -> Vec<String> {
        let mut news = Vec::new();
        // A standby does what it is there for, and so does a daemon of which nothing is wanted.
        let source = status.source.state;
        let begun = matches!(source, SourceState::Streaming | SourceState::Paused) || status.stands_by();
        if begun && !std::mem::replace(&mut self.ready, true) {
            news.push(NotifyState::Ready.to_string());
        }
        let line = status.line();
        if line != self.line {
            news.push(NotifyState::Status(&line).to_string());
            self.line = line;
        }
        news
    }
}

impl ServiceManager {
    /// Keeps it told until dropped; from `stop` on, also that the daemon is stopping.
    pub async fn keep_told(self, health: Health, stop: CancellationToken) {
        let watchdog = sd_notify::watchdog_enabled();
        let mut looks = tokio::time::interval(watchdog.map_or(LOOK, |watchdog| LOOK.min(watchdog / 4)));
        let mut stopping = false;
        loop {
            tokio::select! {
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.send(&[NotifyState::Stopping.to_string()]);
                }
                _ = looks.tick() => {}
            }
            let mut news = self.told().news(&health.snapshot());
            if watchdog.is_some_and(|watchdog| gets_on(&health, watchdog, Instant::now())) {
                news.push(NotifyState::Watchdog.to_string());
            }
            self.send(&news);
        }
    }

    /// The configuration is read anew.
    pub fn reloading(&self) {
        if self.is_ready() {
            let now = NotifyState::monotonic_usec_now().map(|now| now.to_string());
            self.send(&[NotifyState::Reloading.to_string(), now.unwrap_or_default()]);
        }
    }

    /// That is done, whatever came of it.
    pub fn reloaded(&self) {
        // Before the first time, it would end the start.
        if self.is_ready() {
            self.send(&[NotifyState::Ready.to_string()]);
        }
    }

    fn is_ready(&self) -> bool {
        self.told().ready
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, news: &[String]) {
        let states: Vec<_> = news.iter().map(|line| NotifyState::Custom(line)).collect();
        let sent = if states.is_empty() { Ok(()) } else { sd_notify::notify(&states) };
        if let Err(error) = sent {
            self.failed(&error);
        }
    }

    fn failed(&self, error: &io::Error) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            warn!("the service manager cannot be told how the daemon is (NOTIFY_SOCKET): {error}");
        }
    }
}

/// Whether every part of the daemon has shown that it gets on, well within the watchdog's time.
fn gets_on(health: &Health, watchdog: Duration, now: Instant) -> bool {
    let patience = (watchdog / 2).max(PATIENCE);
    health.dead(now).is_none() && health.silent(now).is_none_or(|(_, silent)| silent < patience)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::state::TargetState;

    fn status(source: SourceState) -> StatusSnapshot {
        let mut status = Health::new("walferry", ["staging"]).snapshot();
        status.source.state = source;
        status
    }

    #[test]
    fn it_is_ready_once_it_streams_and_says_what_it_does_when_that_changes() {
        let mut told = Told::default();
        let connecting = "STATUS=the source is connecting (and 1 more)";
        assert_eq!(told.news(&status(SourceState::Connecting)), [connecting]);
        assert_eq!(told.news(&status(SourceState::Connecting)), [""; 0]);
        let mut streaming = status(SourceState::Streaming);
        assert_eq!(told.news(&streaming), ["READY=1", "STATUS=target staging is connecting"]);
        streaming.target("staging").state = TargetState::Applying;
        assert_eq!(told.news(&streaming), ["STATUS=streaming, 1 of 1 targets in step"]);
        assert_eq!(told.news(&status(SourceState::Retrying)).len(), 1, "it is ready once");
        assert_eq!(told.news(&streaming), ["STATUS=streaming, 1 of 1 targets in step"]);
    }

    #[test]
    fn a_daemon_that_is_wanted_to_pause_is_ready() {
        let mut paused = status(SourceState::Paused);
        paused.target("staging").state = TargetState::Paused;
        assert_eq!(Told::default().news(&paused)[0], "READY=1");
    }

    #[test]
    fn a_standby_is_ready() {
        let standby = "STATUS=standing by: another daemon is the active one";
        assert_eq!(Told::default().news(&status(SourceState::Standby)), ["READY=1", standby]);
    }

    #[test]
    fn a_reload_does_not_end_the_start() {
        let manager = ServiceManager::default();
        assert!(!manager.is_ready());
        manager.told().news(&status(SourceState::Streaming));
        assert!(manager.is_ready());
    }

    #[test]
    fn the_watchdog_is_fed_while_every_part_gets_on() {
        let (health, begun) = (Health::new("walferry", []), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let fed = |now| gets_on(&health, Duration::from_secs(30), now);
        assert!(fed(begun), "nothing has begun");
        health.beat("the daemon", begun);
        health.beat("reading the stream", begun);
        assert!(fed(after(14)));
        health.beat("the daemon", after(20));
        assert!(!fed(after(20)), "the stream is stuck");
        health.beat("reading the stream", after(20));
        assert!(fed(after(21)));
        health.update(|status| status.dead = Some("it is broken".to_owned()));
        assert!(!fed(after(21)));
    }
}
