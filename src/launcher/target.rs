//! One target's task: attach it, let its worker run, and attach it again whenever it comes back.
//!
//! Attaching is the same at every start, after every failure, and for a target or table that is new: check positions,
//! copy what is not copied, then be fed from the stored progress on.

mod attach;
mod own;
mod pause;
mod promoted;
mod shared;
mod tables;

pub use shared::Shared;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::board::TargetBoard;
use super::dispatch::{Attach, Command};
use super::error::LaunchError;
use super::gap::Gap;
use super::lane::OwnLane;
use super::setup::{Setup, TargetSetup};
use super::tables::TableLane;
use super::wish::{Wanted, Wish};
use crate::apply::observer::Observer;
use crate::apply::progress::{Epoch, LastCommit};
use crate::apply::queue::queue;
use crate::apply::session::Session;
use crate::apply::worker::{self, Ended, WorkerOptions};
use crate::config::OnError;
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::binary;
use crate::relation::{RelationId, TableName};
use crate::route::TargetRoute;
use crate::source::publication::Publication;
use crate::source::slot::Snapshot;
use crate::telemetry::state::TargetState;
use own::Joining;

/// One target's task.
pub struct TargetTask {
    shared: Arc<Shared>,
    place: usize,
    /// The snapshot of the slot's making, for the first copy only, and what was published before it was taken.
    snapshot: Option<(Arc<Snapshot>, Arc<Publication>)>,
    publication: watch::Receiver<Arc<Publication>>,
    /// As it was when the target was attached.
    attached_to: Arc<Publication>,
    /// Tables that the stream has brought and that were not copied.
    uncopied: HashSet<TableName>,
    refused: Option<Refused>,
    /// Tables on their way in.
    incoming: Vec<TableLane>,
    /// Tables whose changes are left out until somebody acts.
    stopped: HashSet<TableName>,
    observer: Arc<TargetBoard>,
    wanted: Wanted,
    /// The lane that it has to itself; `None`: it is fed with the others.
    own: Option<OwnLane>,
    joining: Joining,
    /// When to look next at a slot of its own that it needs no more; `None`: there is none.
    left_over: Option<Instant>,
    /// Whether the slot of its own was given up, so that it has to be copied again.
    given_up: bool,
    /// While the source had no room for a slot of its own, the others wait for it until then.
    patient_until: Instant,
    /// Since when it is not fed.
    away: Instant,
    backoff: ExponentialBackoff,
    /// Where it was when it was attached last.
    stood: Option<EndLsn>,
}

/// What came of attaching a target and feeding it.
enum Turn {
    /// It is to be attached again.
    Again,
    /// The end of all.
    End,
    /// The same, after a while.
    Failed(LaunchError),
}

/// What a target is found to be.
enum Found {
    /// To be fed.
    Ready(Box<Attached>),
    /// To be left alone, since this time if it says so.
    Paused(Option<String>),
}

/// A target ready to be fed.
struct Attached {
    session: Session,
    epoch: Epoch,
    stored: EndLsn,
    last: Option<LastCommit>,
    copied: HashMap<TableName, CopiedTable>,
}

/// A table that is copied.
struct CopiedTable {
    /// Its changes apply from here on.
    from: Lsn,
    /// Which of the source's it is, if that was noted.
    of: Option<RelationId>,
}

/// The last session found the target to have followed another history. To ask again would make the stream be read
/// again for all: it is not asked before there is another session, or the target stands elsewhere.
struct Refused {
    session: Option<u64>,
    stored: EndLsn,
    gap: Gap,
}

impl TargetTask {
    /// The task of the target at `place`.
    pub fn new(shared: Arc<Shared>, place: usize, snapshot: Option<Arc<Snapshot>>) -> Self {
        let observer = Arc::new(TargetBoard { board: Arc::clone(&shared.board), id: shared.setup.targets[place].id });
        let publication = shared.publication.subscribe();
        let attached_to = Arc::clone(&publication.borrow());
        let snapshot = snapshot.map(|snapshot| (snapshot, Arc::clone(&attached_to)));
        let wanted = shared.wishes.of(&shared.setup.targets[place].name);
        let (uncopied, refused) = (HashSet::new(), None);
        let has_own = shared.own.contains(&shared.setup.targets[place].id);
        let backoff = backoff(&shared.setup);
        let mut task = Self {
            shared,
            place,
            snapshot,
            publication,
            attached_to,
            uncopied,
            refused,
            incoming: Vec::new(),
            stopped: HashSet::new(),
            observer,
            wanted,
            own: None,
            joining: Joining::Not,
            left_over: None,
            given_up: false,
            patient_until: Instant::now(),
            away: Instant::now(),
            backoff,
            stood: None,
        };
        if has_own {
            task.found_own();
        }
        task
    }

    fn target(&self) -> &TargetSetup {
        &self.shared.setup.targets[self.place]
    }

    /// Runs until told to stop: then ends when what is queued is applied.
    pub async fn run(mut self) {
        let stop = self.shared.stop.clone();
        loop {
            let (mut news, mut of_tables) = (self.wanted.news(), self.wanted.news_of_tables());
            let failure = match self.turn(&stop).await {
                Turn::Again => continue,
                Turn::End => break,
                Turn::Failed(failure) => failure,
            };
            let verdict = failure.verdict();
            self.shared.board.target_failed(self.target().id, &failure, &verdict);
            let wait = match verdict {
                Verdict::Retry => self.backoff.next().unwrap_or(self.shared.setup.retry_max_interval()),
                Verdict::Halt { .. } => self.shared.setup.config.apply.halted_retry_interval,
            };
            let due = self.due();
            tokio::select! {
                () = stop.cancelled() => break,
                // To be paused, or tried at once by who has mended it.
                _ = news.changed() => {}
                _ = of_tables.changed() => {}
                () = due => self.meet_due("away for long").await,
                () = sleep(wait) => {}
            }
        }
        if let Some(mut own) = self.own.take() {
            own.end().await;
        }
    }

    /// From attaching the target to the end of its being fed, or of its pause.
    async fn turn(&mut self, stop: &CancellationToken) -> Turn {
        self.shared.board.target_state(self.target().id, TargetState::Connecting);
        let wanted = self.wanted.clone();
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => return Turn::End,
            () = wanted.until(Wish::Pause) => Ok(Found::Paused(None)),
            found = self.attach() => found,
        };
        match found {
            Ok(Found::Ready(attached)) => self.serve(*attached, stop).await,
            Ok(Found::Paused(since)) => self.rest(since, stop).await,
            Err(error) => {
                // The next copy takes a new one: as long as it is held, the source cannot clean up behind it.
                self.snapshot = None;
                self.give_up_joining();
                Turn::Failed(error)
            }
        }
    }

    /// The target is left alone for as long as its operator wants.
    async fn rest(&mut self, mut since: Option<String>, stop: &CancellationToken) -> Turn {
        self.give_up_joining();
        self.incoming.clear();
        self.begin_pause(since.clone());
        loop {
            let due = self.due();
            tokio::select! {
                () = stop.cancelled() => return Turn::End,
                () = due => self.meet_due("paused for long").await,
                () = self.paused(&mut since) => break,
            }
        }
        self.shared.board.paused_at(self.target().id, None);
        self.backoff = backoff(&self.shared.setup);
        Turn::Again
    }

    /// Has it fed until that ends, and tells what is next.
    async fn serve(&mut self, attached: Attached, stop: &CancellationToken) -> Turn {
        // Only who gets on is forgiven.
        if self.stood.replace(attached.stored) != Some(attached.stored) {
            self.backoff = backoff(&self.shared.setup);
        }
        let commands = match self.commands() {
            Ok(commands) => commands,
            Err(error) => return Turn::Failed(error),
        };
        let ended = self.feed(attached, commands).await;
        self.away = Instant::now();
        if !matches!(self.joining, Joining::Ready) {
            self.give_up_joining();
        }
        if !stop.is_cancelled() && self.is_overdue() {
            self.give_up_slot().await;
            return Turn::Again;
        }
        match ended {
            _ if stop.is_cancelled() => Turn::End,
            _ if self.wanted.is(Wish::Pause) || self.wanted.is(Wish::Resync) => Turn::Again,
            // Something was wanted; but whoever wanted it may want it no more.
            Ended::Cancelled => Turn::Again,
            // The path is gone. With the main one, all is about to end.
            Ended::Drained => self.lane_failure().await.map_or(Turn::End, Turn::Failed),
            Ended::CaughtUp => match &self.refused {
                Some(refused) => Turn::Failed(refused.gap.clone().into()),
                None => Turn::Again,
            },
            Ended::Lost(error) => match self.without_table(error).await {
                Ok(()) => Turn::Again,
                Err(error) => Turn::Failed(error),
            },
        }
    }

    /// Waits until it is to be isolated, for not being fed; or, if it has a slot of its own, until that is given up.
    fn due(&self) -> impl Future<Output = ()> + use<> {
        let (shared, id, away) = (Arc::clone(&self.shared), self.target().id, self.away);
        let (has_own, overdue) = (self.own.is_some(), self.overdue());
        async move {
            match has_own {
                true => overdue.await,
                false => own::due(&shared, id, away).await,
            }
        }
    }

    /// Does what was due.
    async fn meet_due(&mut self, why: &str) {
        match self.own.is_some() {
            true => self.give_up_slot().await,
            false => self.isolate(why).await,
        }
    }

    /// Why its own lane feeds nobody any more, if it is that lane which does not.
    async fn lane_failure(&mut self) -> Option<LaunchError> {
        self.own.as_mut()?.failure().await
    }

    /// Has the worker fed until it ends. A change of the publication ends it too: what is new must be copied first.
    async fn feed(&mut self, attached: Attached, commands: mpsc::UnboundedSender<Command>) -> Ended {
        let (setup, target) = (Arc::clone(&self.shared.setup), self.target());
        let id = target.id;
        let Attached { session, epoch, stored, last, copied } = attached;
        let of = copied.iter().map(|(name, table)| (name.clone(), table.of)).collect();
        let copied = copied.into_iter().map(|(name, table)| (name, table.from)).collect();
        let options = self.worker_options(epoch, of);
        let tables = [&setup.tables, &target.tables].into_iter().flatten().cloned().collect();
        let (sender, receiver) = queue(setup.config.apply.queue_bytes);
        self.shared.gauges.set(id, receiver.gauge());
        let route = TargetRoute::new(id, tables, copied).without(self.left_out());
        let (refused, mut refusal) = oneshot::channel();
        let text_only = !binary::is_proven(session.client.server_version());
        let slow = Arc::new(Notify::new());
        let patient_until = self.patient_until;
        let attach =
            Attach { id, sender, stored, last, route, text_only, slow: Arc::clone(&slow), patient_until, refused };
        if commands.send(Command::Attach(Box::new(attach))).is_err() {
            return Ended::Drained;
        }
        info!(target = target.name, from = %stored, "applying");
        self.shared.board.target_state(id, TargetState::Applying);
        let given_up = self.shared.stop.child_token();
        let worker = worker::run(options, session, stored, receiver, given_up.clone());
        tokio::pin!(worker);
        let drain_timeout = setup.config.apply.drain_timeout;
        let overdue = self.overdue();
        let parting = pause::parting(id, self.wanted.clone(), commands.clone(), given_up, drain_timeout, overdue);
        tokio::pin!(parting);
        let (mut looks, mut failing) = (interval(own::LOOK), None);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = &mut worker => {
                    let session = self.shared.board.lane(self.target().id).session();
                    self.refused = refusal.try_recv().ok().map(|gap| Refused { session, stored, gap });
                    return ended;
                }
                () = &mut parting => {
                    let target = &self.target().name;
                    warn!(target, "what is queued was not applied in time (apply.drain_timeout); it will come again");
                    return Ended::Cancelled;
                }
                Ok(()) = self.publication.changed() => {
                    if !self.is_stale() {
                        continue;
                    }
                    // The lane is frozen, and the worker ends once it has applied what it was given.
                    if commands.send(Command::Detach(id)).is_err() {
                        return worker.await;
                    }
                }
                // The path has let go of it, and it applies what it was given.
                () = slow.notified() => self.isolate("slower than the others").await,
                _ = looks.tick() => {
                    if self.keeps_failing(&mut failing) && commands.send(Command::Detach(id)).is_ok() {
                        self.isolate("away for long").await;
                        failing = None;
                    }
                    self.look_at_joining(&commands);
                    // Without a path the worker ends as well.
                    if self.look_at_tables() && commands.send(Command::Detach(id)).is_err() {
                        continue;
                    }
                    self.drop_left_over().await;
                }
            }
        }
    }

    /// How what comes of these tables is applied.
    fn worker_options(&self, epoch: Epoch, copied: HashMap<TableName, Option<RelationId>>) -> WorkerOptions {
        let (stream, observer) = (self.shared.facts.stream(&self.shared.setup), Arc::clone(&self.observer));
        let quarantines = self.shared.setup.config.apply.on_error == OnError::QuarantineTable;
        let options = self.shared.worker_options(self.target(), (stream, epoch), copied, observer as Arc<dyn Observer>);
        WorkerOptions { quarantines, ..options }
    }

    /// Whether the publication, as it has changed, means something else for this target than when it was attached.
    fn is_stale(&mut self) -> bool {
        let now = Arc::clone(&self.publication.borrow_and_update());
        let setup = &self.shared.setup;
        let wanted = |publication| {
            let wanted = setup.wanted(self.target(), publication);
            wanted.into_iter().map(|table| (table.name, table.oid, table.entries)).collect::<HashSet<_>>()
        };
        wanted(&now) != wanted(&self.attached_to)
    }
}

fn backoff(setup: &Setup) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(std::time::Duration::from_millis(100))
        .with_max_delay(setup.retry_max_interval())
        .with_jitter()
        .without_max_times()
        .build()
}
