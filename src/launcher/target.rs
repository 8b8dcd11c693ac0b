//! One target's task: attach it, let its worker run, and attach it again whenever it comes back.
//!
//! Attaching is the same at every start, after every failure, and for a target or table that is new: check positions,
//! copy what is not copied, then be fed from the stored progress on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::board::{Board, TargetBoard};
use super::dispatch::{Attach, Command};
use super::error::LaunchError;
use super::follow;
use super::gap::{self, SourceFacts};
use super::gauges::Gauges;
use super::setup::{Setup, TargetSetup};
use super::startup::Facts;
use crate::apply::error::ApplyError;
use crate::apply::exact::AppliedTo;
use crate::apply::progress::{self, Stored};
use crate::apply::queue::queue;
use crate::apply::session::{Session, SessionOptions};
use crate::apply::worker::{self, Ended, WorkerOptions};
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::relation::TableName;
use crate::route::TargetRoute;
use crate::source::SourceError;
use crate::source::identity;
use crate::source::publication::{self, Publication};
use crate::source::slot::{self, Snapshot};
use crate::tablesync::{self, CopyError, CopyJob, CopyScope, CopyState, Finding, Weight};
use crate::telemetry::state::{TableState, TargetState};

/// What all targets' tasks share.
pub struct Shared {
    /// The configuration.
    pub setup: Arc<Setup>,
    /// The source as found at the start.
    pub facts: Facts,
    /// Who is told.
    pub board: Arc<Board>,
    /// The way to the path.
    pub commands: mpsc::Sender<Command>,
    /// What is published, as it changes.
    pub publication: watch::Sender<Arc<Publication>>,
    /// How full the queues are.
    pub gauges: Gauges,
    /// Given when it is time to stop.
    pub stop: CancellationToken,
}

/// One target's task.
pub struct TargetTask {
    shared: Arc<Shared>,
    place: usize,
    /// The snapshot of the slot's making, for the first copy only.
    snapshot: Option<Arc<Snapshot>>,
    publication: watch::Receiver<Arc<Publication>>,
    /// As it was when the target was attached.
    attached_to: Arc<Publication>,
    /// Tables that the stream has brought and that were not copied.
    uncopied: HashSet<TableName>,
    observer: Arc<TargetBoard>,
}

/// A target ready to be fed.
struct Attached {
    session: Session,
    stored: EndLsn,
    copied: HashMap<TableName, Lsn>,
}

impl TargetTask {
    /// The task of the target at `place`.
    pub fn new(shared: Arc<Shared>, place: usize, snapshot: Option<Arc<Snapshot>>) -> Self {
        let observer = Arc::new(TargetBoard { board: Arc::clone(&shared.board), id: shared.setup.targets[place].id });
        let publication = shared.publication.subscribe();
        let attached_to = Arc::clone(&publication.borrow());
        Self { shared, place, snapshot, publication, attached_to, uncopied: HashSet::new(), observer }
    }

    fn target(&self) -> &TargetSetup {
        &self.shared.setup.targets[self.place]
    }

    /// Runs until told to stop: then ends when what is queued is applied.
    pub async fn run(mut self) {
        let mut backoff = self.backoff();
        let stop = self.shared.stop.clone();
        loop {
            self.shared.board.target_state(self.target().id, TargetState::Connecting);
            let attached = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                attached = self.attach() => attached,
            };
            let failure = match attached {
                Ok(attached) => {
                    backoff = self.backoff();
                    match self.feed(attached).await {
                        Ended::Drained | Ended::Cancelled => return,
                        Ended::CaughtUp => continue,
                        Ended::Lost(error) => match self.copy_again(error).await {
                            Ok(()) => continue,
                            Err(error) => error,
                        },
                    }
                }
                Err(error) => {
                    // The next copy takes a new one: as long as it is held, the source cannot clean up behind it.
                    self.snapshot = None;
                    error
                }
            };
            let verdict = failure.verdict();
            self.shared.board.target_failed(self.target().id, &failure, &verdict);
            let wait = match verdict {
                Verdict::Retry => backoff.next().unwrap_or(self.shared.setup.retry_max_interval()),
                Verdict::Halt { .. } => self.shared.setup.config.apply.halted_retry_interval,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether what ended the worker is met by copying a table: one that is new, or that is gone on the target.
    async fn copy_again(&mut self, error: ApplyError) -> Result<(), LaunchError> {
        let error = match error {
            ApplyError::Restart(cause) if matches!(*cause, ApplyError::NewTable(_) | ApplyError::Gone { .. }) => *cause,
            error => error,
        };
        match error {
            ApplyError::NewTable(table) => {
                self.uncopied.insert(table);
                Ok(())
            }
            ApplyError::Gone { table, lsn } => {
                let target = &self.target().name;
                warn!(target, table = %table, lsn = %lsn, "the table is gone on the target: it has to be copied again");
                let client = Client::connect(&self.target().connect, &self.shared.setup.application_name()).await?;
                tablesync::state::forget(&client, &self.shared.setup.stream, &table).await?;
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(std::time::Duration::from_millis(100))
            .with_max_delay(self.shared.setup.retry_max_interval())
            .with_jitter()
            .without_max_times()
            .build()
    }

    /// Has the worker fed until it ends. A change of the publication ends it too: what is new must be copied first.
    async fn feed(&mut self, attached: Attached) -> Ended {
        let (setup, target) = (Arc::clone(&self.shared.setup), self.target());
        let id = target.id;
        let Attached { session, stored, copied } = attached;
        let names: HashSet<TableName> = copied.keys().cloned().collect();
        let tables = [&setup.tables, &target.tables].into_iter().flatten().cloned().collect();
        let (sender, receiver) = queue(setup.config.apply.queue_bytes);
        self.shared.gauges.set(id, receiver.gauge());
        let route = TargetRoute::new(id, tables, copied).without(self.uncopied.clone());
        let options = WorkerOptions {
            session: self.session_options(),
            to: AppliedTo {
                stream: self.shared.facts.stream(&setup),
                policy: setup.conflicts,
                copied: Arc::new(names),
                observer: Arc::clone(&self.observer) as Arc<dyn crate::apply::observer::Observer>,
            },
            batch_bytes: setup.config.apply.batch_bytes,
            retry_max_interval: setup.retry_max_interval(),
            halted_retry_interval: setup.config.apply.halted_retry_interval,
        };
        if self.shared.commands.send(Command::Attach(Box::new(Attach { id, sender, stored, route }))).await.is_err() {
            return Ended::Cancelled;
        }
        info!(target = target.name, from = %stored, "applying");
        self.shared.board.target_state(id, TargetState::Applying);
        let worker = worker::run(options, session, stored, receiver, self.shared.stop.clone());
        tokio::pin!(worker);
        loop {
            tokio::select! {
                ended = &mut worker => return ended,
                Ok(()) = self.publication.changed() => {
                    if !self.is_stale() {
                        continue;
                    }
                    // The lane is frozen, and the worker ends once it has applied what it was given.
                    if self.shared.commands.send(Command::Detach(id)).await.is_err() {
                        return worker.await;
                    }
                }
            }
        }
    }

    fn session_options(&self) -> SessionOptions {
        let setup = &self.shared.setup;
        SessionOptions {
            connect: self.target().connect.clone(),
            application_name: setup.application_name(),
            lock_timeout: setup.config.apply.lock_timeout,
            statement_timeout: setup.config.apply.statement_timeout,
        }
    }

    async fn attach(&mut self) -> Result<Attached, LaunchError> {
        let mut session = Session::open(&self.session_options()).await?;
        let stream = self.shared.facts.stream(&self.shared.setup);
        progress::migrate(&session.client).await?;
        progress::register(&session.client, &stream).await?;
        let stored = self.read(&session.client).await?;
        let source = Client::connect(&self.shared.setup.source, &self.shared.setup.application_name()).await?;
        self.check(&session.client, &source, &stored).await?;
        let publication = self.published(&source).await?;
        let stored = self.copy(&session, stored, &publication).await?;
        let copied = self.tables(&session.client).await?;
        session.remember(copied.keys()).await?;
        let end = stored.end_lsn.ok_or_else(|| progress::ProgressError::Taken(stream.name.clone()))?;
        if let Some(durable) = stored.durable() {
            self.shared.board.stands_at(self.target().id, durable);
        }
        Ok(Attached { session, stored: end, copied })
    }

    /// The publication as it is now; everybody is told when it is another than was known.
    async fn published(&mut self, source: &Client) -> Result<Arc<Publication>, LaunchError> {
        let setup = &self.shared.setup;
        let name = &setup.config.source.publication;
        let now = publication::read(source, name).await?.ok_or_else(|| publication::missing(name))?;
        let now = Arc::new(now);
        self.shared.publication.send_if_modified(|known| {
            let differs = setup.chosen(known) != setup.chosen(&now);
            if differs {
                *known = Arc::clone(&now);
            }
            differs
        });
        self.attached_to = Arc::clone(&now);
        Ok(now)
    }

    /// Whether the publication, as it has changed, means something else for this target than when it was attached.
    fn is_stale(&mut self) -> bool {
        let now = Arc::clone(&self.publication.borrow_and_update());
        let setup = &self.shared.setup;
        let wanted = |publication| {
            let wanted = setup.wanted(self.target(), publication);
            wanted.into_iter().map(|table| (table.name, table.oid, table.entry)).collect::<HashSet<_>>()
        };
        wanted(&now) != wanted(&self.attached_to)
    }

    async fn read(&self, client: &Client) -> Result<Stored, LaunchError> {
        let stream = &self.shared.setup.stream;
        let stored = progress::read(client, stream).await?;
        stored.ok_or_else(|| progress::ProgressError::Taken(stream.clone()).into())
    }

    /// Whether what the target has and what the slot gives fit together. Asks the source anew each time.
    async fn check(&self, target: &Client, source: &Client, stored: &Stored) -> Result<(), LaunchError> {
        let setup = &self.shared.setup;
        let name = setup.application_name();
        let mut conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
        let identity = identity::identify(&mut conn).await?;
        let switches = match identity.timeline > stored.timeline {
            true => identity::timeline_history(&mut conn, identity.timeline).await?,
            false => Vec::new(),
        };
        let Some(slot) = slot::inspect(source, &setup.stream).await? else {
            let (slot, target) = (setup.stream.clone(), self.target().name.clone());
            return Err(match stored.end_lsn {
                Some(stored) => LaunchError::SlotLost { slot, target, stored },
                None => SourceError::SlotMissing { slot }.into(),
            });
        };
        slot.check_usable(&identity.database)?;
        let facts = SourceFacts {
            system_identifier: identity.system_identifier,
            timeline: identity.timeline,
            switches: switches.into_iter().map(|switch| (switch.timeline, switch.switch)).collect(),
            flushed: identity.flush_lsn,
            database: identity.database,
            slot: slot.name,
            confirmed: slot.confirmed_flush,
        };
        match stored.end_lsn {
            Some(end) => gap::check(stored, end, &facts)?,
            None => gap::check_new(&tablesync::state::load(target, &setup.stream).await?, &facts)?,
        }
        Ok(())
    }

    /// Copies what is published for this target and not copied yet; gives a new target its first position.
    async fn copy(
        &mut self,
        session: &Session,
        stored: Stored,
        publication: &Publication,
    ) -> Result<Stored, LaunchError> {
        let shared = Arc::clone(&self.shared);
        let setup = &shared.setup;
        let wanted = setup.wanted(self.target(), publication);
        self.uncopied.retain(|table| wanted.iter().all(|wanted| wanted.name != *table));
        for table in &self.uncopied {
            let target = &self.target().name;
            info!(target, table = %table, "not in the publication any more: its changes are left out");
        }
        let (stream, target) = (&setup.stream, &self.target().name);
        follow::forget_lost(&session.client, stream, target, publication, &wanted).await?;
        let pending = tablesync::pending(&session.client, &setup.stream, &wanted, session.replica_role).await?;
        if pending.is_empty() && stored.end_lsn.is_some() {
            follow::note(&session.client, stream, publication, &wanted).await?;
            return Ok(stored);
        }
        let id = self.target().id;
        shared.board.target_state(id, TargetState::Copying);
        let scope = CopyScope {
            stream: setup.stream.clone(),
            target_name: self.target().name.clone(),
            tables: pending,
            insert_published: publication.insert,
            truncate_published: publication.truncate,
            replica_role: session.replica_role,
            settings: setup.copy.clone(),
        };
        self.preflight(&session.client, &scope).await?;
        let snapshot = self.snapshot().await?;
        if stored.end_lsn.is_none() {
            let durable = progress::position(&session.client, &shared.facts.stream(setup), snapshot.lsn).await?;
            shared.board.stands_at(id, durable);
        }
        for table in &scope.tables {
            shared.board.table(id, &table.name, TableState::Pending, Some(0), None);
        }
        info!(target = self.target().name, tables = scope.tables.len(), snapshot = %snapshot.lsn, "copying");
        let job = Arc::new(CopyJob {
            source: setup.source.clone(),
            target: self.target().connect.clone(),
            scope,
            snapshot: snapshot.name.clone(),
            copy_lsn: snapshot.lsn,
            copier: copier(),
        });
        let observer = Arc::clone(&self.observer) as Arc<dyn tablesync::CopyObserver>;
        tablesync::copy(job, observer, &shared.stop).await?;
        follow::note(&session.client, &setup.stream, publication, &wanted).await?;
        self.read(&session.client).await
    }

    /// Finds what would stop the copy before anything is written, or a snapshot taken.
    async fn preflight(&self, client: &Client, scope: &CopyScope) -> Result<(), LaunchError> {
        let target = &self.target().name;
        let findings = tablesync::preflight(client, scope).await?;
        let (stops, warns): (Vec<Finding>, Vec<Finding>) =
            findings.into_iter().partition(|finding| finding.weight == Weight::Stops);
        for finding in warns {
            warn!(target, table = %finding.table, "{}", finding.problem);
        }
        if stops.is_empty() {
            return Ok(());
        }
        Err(CopyError::Findings { target: target.clone(), findings: stops }.into())
    }

    /// The snapshot of the slot's making for the first copy, else one of its own, from a slot that goes with it.
    async fn snapshot(&mut self) -> Result<Arc<Snapshot>, LaunchError> {
        if let Some(snapshot) = self.snapshot.take() {
            return Ok(snapshot);
        }
        let setup = &self.shared.setup;
        let name = setup.application_name();
        let client = Client::connect(&setup.source, &name).await?;
        let conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
        let slot = temporary_slot(&setup.stream);
        Ok(Arc::new(slot::create(conn, &slot, true, false, &client).await?))
    }

    /// The tables that are copied, each with the position from which its changes apply.
    async fn tables(&self, client: &Client) -> Result<HashMap<TableName, Lsn>, LaunchError> {
        let id = self.target().id;
        let states = tablesync::state::load(client, &self.shared.setup.stream).await?;
        let done = states.into_iter().filter(|table| table.state == CopyState::Done);
        Ok(done
            .map(|table| {
                let (rows, lsn) = (Some(table.rows), Some(table.copy_lsn));
                self.shared.board.table(id, &table.name, TableState::Ready, rows, lsn);
                (table.name, table.copy_lsn)
            })
            .collect())
    }
}

/// Unique to each copy.
fn copier() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{}", std::process::id(), now.as_nanos(), next())
}

/// The name of a slot that exists only for its snapshot: at most 63 bytes, unique on the source.
fn temporary_slot(stream: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:.24}_copy_{}_{}_{}", stream, std::process::id(), now.as_millis() % 1_000_000_000, next())
}

fn next() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
