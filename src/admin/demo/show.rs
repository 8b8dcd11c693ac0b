//! The course of a demonstration: a line each second, the daemon started, killed and started again, until everything
//! has arrived.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::lines;
use super::shop::DATABASE;
use super::steps::{HAS_LAST, LAST};
use super::workload::Workload;
use crate::admin::CommandError;
use crate::admin::output::{grouped, line};
use crate::admin::throwaway::Server;
use crate::postgres::Client;
use crate::sql::Sql;
use crate::telemetry::status::StatusSnapshot;

/// How long the targets may take after the last write.
const PATIENCE: Duration = Duration::from_secs(90);

const CHANGED_ROWS: Sql = Sql::new(
    "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables \
     WHERE schemaname = 'shop'",
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Start,
    Kill,
}

/// When what happens to the daemon, in seconds from the start of the workload; the last first.
fn schedule(duration: u64) -> Vec<(u64, Event)> {
    let first = (duration / 3 + 1).max(3);
    let second = (2 * duration / 3 + 1).max(first + 2);
    let mut events = vec![
        // The application writes already: the initial copy takes place under its writes.
        (1, Event::Start),
        (first, Event::Kill),
        (first + 1, Event::Start),
        (second, Event::Kill),
        (second + 1, Event::Start),
    ];
    events.sort_by_key(|(at, _)| Reverse(*at));
    events
}

/// A running demonstration.
pub struct Show<'a> {
    source: Client,
    targets: Vec<(&'a Server, Client)>,
    daemon: Daemon,
    started: Instant,
    rows_before: u64,
    events: Vec<(u64, Event)>,
    written: u64,
    /// Whether the last transaction is written.
    last: bool,
}

impl<'a> Show<'a> {
    /// Everything is ready; nothing runs yet.
    ///
    /// # Errors
    /// A server cannot be reached.
    pub async fn prepare(
        source: &Server,
        targets: &'a [Server],
        daemon: Daemon,
        duration: u64,
    ) -> Result<Self, CommandError> {
        let mut clients = Vec::new();
        for target in targets {
            clients.push((target, target.connect(DATABASE).await?));
        }
        let source = source.connect(DATABASE).await?;
        let rows_before = changed_rows(&source).await?;
        let events = schedule(duration);
        Ok(Self {
            source,
            targets: clients,
            daemon,
            started: Instant::now(),
            rows_before,
            events,
            written: 0,
            last: false,
        })
    }

    /// Lets the workload run for its time and everything arrive.
    ///
    /// # Errors
    /// The daemon ends by itself, a server is lost, or not everything arrives in time.
    pub async fn run(&mut self, workload: Workload, duration: Duration) -> Result<(), CommandError> {
        self.started = Instant::now();
        line(&lines::header(&self.names()))?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut workload = Some(workload);
        let mut deadline = None;
        loop {
            ticks.tick().await;
            self.daemon.must_run()?;
            self.due_events()?;
            if let Some(running) = &workload {
                self.written = running.written.committed.load(Ordering::Relaxed);
            }
            let status = self.daemon.ask().await.ok();
            self.show(status.as_ref()).await?;
            if self.started.elapsed() >= duration
                && let Some(running) = workload.take()
            {
                self.end(running).await?;
                deadline = Some(Instant::now() + PATIENCE);
            }
            if let Some(deadline) = deadline
                && self.events.is_empty()
            {
                if self.arrived(status.as_ref()).await? {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(late(status.as_ref()));
                }
            }
        }
    }

    /// Stops the daemon as a service manager would.
    ///
    /// # Errors
    /// It does not stop well.
    pub async fn stop_daemon(&mut self) -> Result<(), CommandError> {
        self.daemon.stop().await
    }

    fn names(&self) -> Vec<&'static str> {
        self.targets.iter().map(|(server, _)| server.name).collect()
    }

    fn due_events(&mut self) -> Result<(), CommandError> {
        let now = self.started.elapsed().as_secs();
        // One at a time, so that the time between kill and start can be seen.
        let Some((_, event)) = self.events.pop_if(|(at, _)| *at <= now) else { return Ok(()) };
        match event {
            Event::Start => {
                let pid = self.daemon.start()?;
                line(&format!("         --> walferry run (pid {pid})"))
            }
            Event::Kill => {
                self.daemon.kill()?;
                line("         --> kill -9 the daemon")
            }
        }
    }

    async fn show(&self, status: Option<&StatusSnapshot>) -> Result<(), CommandError> {
        let rows = changed_rows(&self.source).await?.saturating_sub(self.rows_before);
        line(&lines::second(self.started.elapsed(), self.written, rows, &self.names(), status))
    }

    async fn end(&mut self, workload: Workload) -> Result<(), CommandError> {
        let written = std::sync::Arc::clone(&workload.written);
        workload.stop().await?;
        self.written = written.committed.load(Ordering::Relaxed);
        let rolled_back = written.rolled_back.load(Ordering::Relaxed);
        line(&format!(
            "         --> the workload has stopped: {} transactions committed, {} rolled back",
            grouped(self.written),
            grouped(rolled_back)
        ))
    }

    /// The last transaction is written when every table is in step: then it comes by the stream, after all others. With
    /// the copy of its table it would say nothing of other tables.
    async fn arrived(&mut self, status: Option<&StatusSnapshot>) -> Result<bool, CommandError> {
        if !self.last {
            if status.is_some_and(|status| status.not_ready().is_empty()) {
                self.source.batch(&LAST).await.map_err(|error| CommandError::at("writing to the source", error))?;
                (self.last, self.written) = (true, self.written + 1);
            }
            return Ok(false);
        }
        for (server, client) in &self.targets {
            let row = client
                .query_one(&HAS_LAST, &[])
                .await
                .map_err(|error| CommandError::at(format!("asking {}", server.name), error))?;
            if !row.get::<_, bool>(0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn changed_rows(client: &Client) -> Result<u64, CommandError> {
    let row = client
        .query_one(&CHANGED_ROWS, &[])
        .await
        .map_err(|error| CommandError::at("reading the source's statistics", error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

fn late(status: Option<&StatusSnapshot>) -> CommandError {
    let reasons = status.map_or_else(|| vec!["the daemon does not answer".to_owned()], StatusSnapshot::not_ready);
    CommandError::failed(format!(
        "not everything has arrived {} s after the last write; {}",
        PATIENCE.as_secs(),
        if reasons.is_empty() { "the daemon says that all is well".to_owned() } else { reasons.join("; ") }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_killed_twice_and_runs_at_the_end() {
        for duration in [1, 6, 20, 600] {
            let mut events = schedule(duration);
            events.reverse();
            let kinds: Vec<Event> = events.iter().map(|(_, event)| *event).collect();
            assert_eq!(kinds, [Event::Start, Event::Kill, Event::Start, Event::Kill, Event::Start]);
            assert!(events.is_sorted_by(|(one, _), (other, _)| one < other), "{events:?}");
        }
        assert_eq!(schedule(20).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [15, 14, 8, 7, 1]);
    }
}
