//! Tables that are brought into a target beside the stream: while they are copied and catch up, the target is fed
//! everything else, and nobody waits for them.
//!
//! ```text
//! temporary slot, snapshot at L ─▶ copy ─▶ changes from L on, through that slot ─▶ abreast ─▶ taken over by the stream
//!        table_state: copying ──────────▶ catching up ──────────────────────────────────────▶ done, from X on
//! ```
//! A lane of tables is a temporary slot, a path that reads it, and a worker with a progress row of its own; so its
//! changes are applied exactly once, whatever happens to its connection to the target. What is lost with the daemon, or
//! with the connection to the source, is lost with its slot: the tables are then copied again, under another snapshot.
//!
//! # How fast
//! Where copies have a limit (`copy.max_rate`), the lane catches up under it: a walsender and a worker at full speed
//! are noticed by who shares their servers. The limit ends when it has lasted as long as the copy, as soon as the lane
//! is near (the target waits for it then), and if it falls behind further (the source keeps all WAL since its
//! snapshot).
//!
//! # Taking over
//! Once the lane is near, the target is fed nothing for a moment. It stands at M then; the lane goes on until it is at
//! M or beyond, at X, and ends. One transaction says that its tables are done, from X on, and removes the lane's
//! progress. So the stream, which goes on from M, leaves out what of these tables committed before X, and brings what
//! committed since: nothing twice, nothing missing, whatever dies when. Before that transaction the tables are to be
//! copied again; after it they are the stream's.
//!
//! # Why no row falls between
//! The slot's making waits until all transactions have ended that ran when it began (`SnapBuildWaitSnapshot` in
//! snapbuild.c), so whatever was written before the table was in the publication is in the snapshot. Whether what is
//! published has changed meanwhile is looked at afterwards: then another snapshot is taken.

mod board;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use self::board::{Quiet, TablesBoard};
use super::account::Account;
use super::board::TargetBoard;
use super::copy;
use super::dispatch::{Attach, Command};
use super::error::LaunchError;
use super::gait::Gait;
use super::pipeline::PipelineOptions;
use super::setup::TargetSetup;
use super::side::SidePath;
use super::target::Shared;
use crate::apply::dead_letter::OnError;
use crate::apply::progress::{self, Epoch, Stream};
use crate::apply::queue::queue;
use crate::apply::session::Session;
use crate::apply::worker::{self, Ended};
use crate::change::TargetId;
use crate::config::Values;
use crate::error::{Judged, Verdict};
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::postgres::Client;
use crate::relation::{RelationId, TableName};
use crate::route::TargetRoute;
use crate::source::publication::{self, Publication, PublishedTable};
use crate::source::slot::Snapshot;
use crate::tablesync::{self, CopyError, CopyScope, CopyState};

/// So little may be lacking in tables that are taken over: the target waits for it.
const NEAR: u64 = 1 << 20;

/// A lane that is behind by this part more than it was at first does not gain under its limit.
const LOSING: u64 = 8;

/// Looks in a row that must find them near.
const STEADY: u32 = 2;

/// Between two looks at how far a lane is, while the target waits for it.
const LOOK: Duration = Duration::from_millis(10);

/// After an attempt to take over that did not succeed.
const REST: Duration = Duration::from_secs(30);

/// Some tables of a target, on their way in. Dropped, it ends.
pub struct TableLane {
    /// As they were published when it was begun.
    pub tables: Vec<PublishedTable>,
    /// The name of its progress row.
    pub name: String,
    id: TargetId,
    stage: watch::Receiver<Option<Abreast>>,
    /// How far it was behind when that was seen first, in bytes of WAL.
    behind_at_first: Option<u64>,
    near: u32,
    not_before: Instant,
    task: AbortOnDropHandle<()>,
}

/// A copy beside the stream leaves the servers' other processors to it. On two that source and target share, two
/// workers bring in 2 GB in 7.6 s, for which the other tables lag 25 ms (p99), and one in 9.7 s, for which they lag 11.
const WORKERS: usize = 1;

/// Tables that are copied, and whose changes are applied.
#[derive(Clone)]
struct Abreast {
    copier: String,
    account: Arc<Account>,
    commands: mpsc::UnboundedSender<Command>,
    /// Ends the limit under which they catch up.
    hurry: CancellationToken,
}

impl Abreast {
    /// How far they are behind a target that stands here, in bytes of WAL; `None`: not known yet.
    fn behind(&self, id: TargetId, target: Lsn) -> Option<u64> {
        let durable = self.account.durable_lsn(id).map(|durable| durable.end_lsn().lsn());
        self.account.received_lsn().max(durable).map(|at| target.bytes_since(at))
    }
}

impl TableLane {
    /// Begins to bring these tables in.
    pub fn begin(shared: &Arc<Shared>, place: usize, tables: Vec<PublishedTable>) -> Self {
        let (stage, stages) = watch::channel(None);
        let target = &shared.setup.targets[place];
        let name = format!("{}/tables/{}", shared.setup.stream, copy::unique());
        let bringing = Bringing {
            shared: Arc::clone(shared),
            place,
            tables: tables.clone(),
            name: name.clone(),
            board: Arc::new(TargetBoard { board: Arc::clone(&shared.board), id: target.id }),
            stage,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(bringing.run()));
        Self {
            tables,
            name,
            id: target.id,
            stage: stages,
            behind_at_first: None,
            near: 0,
            not_before: Instant::now(),
            task,
        }
    }

    /// Whether these are, by name and by what they are on the source, among what is to be brought in.
    pub fn is_of(&self, pending: &[PublishedTable]) -> bool {
        self.tables.iter().all(|table| pending.iter().any(|other| is_same(table, other)))
    }

    /// Whether it brings this table in.
    pub fn has(&self, table: &PublishedTable) -> bool {
        self.tables.iter().any(|own| is_same(own, table))
    }

    /// Looks how far it is behind a target that stands here; tells whether it can be taken over.
    pub fn look(&mut self, target: Lsn) -> bool {
        let near = match &*self.stage.borrow() {
            None => {
                self.behind_at_first = None;
                false
            }
            Some(abreast) => abreast.behind(self.id, target).is_some_and(|behind| {
                let at_first = *self.behind_at_first.get_or_insert(behind);
                // The target waits for what is near. What does not gain keeps the source from removing WAL.
                if behind <= NEAR || behind > at_first.saturating_add(at_first / LOSING).saturating_add(NEAR) {
                    abreast.hurry.cancel();
                }
                let lag = abreast.account.lag(self.id, true, SystemTime::now()).1;
                behind <= NEAR && lag.is_some_and(|lag| lag < 1.0)
            }),
        };
        self.near = if near && Instant::now() >= self.not_before { self.near + 1 } else { 0 };
        self.is_near()
    }

    /// Whether the last looks have found that it can be taken over.
    pub fn is_near(&self) -> bool {
        self.near >= STEADY
    }

    /// It has not been taken over.
    pub fn rest(&mut self) {
        (self.near, self.not_before) = (0, Instant::now() + REST);
    }

    /// Whether it does nothing any more.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until everything that ends at or before `target` is applied to its tables. Tells whether it is; not if it
    /// has failed meanwhile, and begins anew.
    pub async fn reach(&mut self, target: EndLsn) -> bool {
        let Some(Abreast { account, commands, .. }) = self.stage.borrow_and_update().clone() else { return false };
        loop {
            if account.durable_lsn(self.id).is_some_and(|durable| durable.end_lsn() >= target) {
                return true;
            }
            // Where nothing comes for them, their progress moves only if it is asked to.
            if commands.send(Command::Store(self.id)).is_err() || !matches!(self.stage.has_changed(), Ok(false)) {
                return false;
            }
            sleep(LOOK).await;
        }
    }

    /// Ends it, once it has applied what it was given. Gives who has copied its tables; `None`: it has failed instead.
    pub async fn end(mut self) -> Option<String> {
        let Abreast { copier, commands, .. } = self.stage.borrow_and_update().clone()?;
        commands.send(Command::Detach(self.id)).ok()?;
        tokio::select! {
            ended = &mut self.task => ended.ok().map(|()| copier),
            Ok(()) = self.stage.changed() => None,
        }
    }
}

fn is_same(one: &PublishedTable, other: &PublishedTable) -> bool {
    (&one.name, one.oid, &one.entries) == (&other.name, other.oid, &other.entries)
}

/// What brings tables in, beside the target's own task.
struct Bringing {
    shared: Arc<Shared>,
    place: usize,
    tables: Vec<PublishedTable>,
    name: String,
    board: Arc<TargetBoard>,
    stage: watch::Sender<Option<Abreast>>,
}

/// Tables that are copied, as of a snapshot.
struct Copied {
    /// How long the copy took.
    took: Duration,
    tables: BTreeMap<TableName, RelationId>,
    copier: String,
    epoch: Epoch,
    position: DurableLsn,
}

impl Bringing {
    fn target(&self) -> &TargetSetup {
        &self.shared.setup.targets[self.place]
    }

    /// Tries until its tables have caught up, and it is told that they are taken over.
    async fn run(self) {
        let setup = &self.shared.setup;
        let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(200)).with_jitter();
        let backoff = backoff.with_max_delay(setup.retry_max_interval()).without_max_times();
        let mut delays = backoff.build();
        loop {
            let begun = Instant::now();
            let Err(error) = self.attempt().await else { return };
            if self.shared.stop.is_cancelled() {
                return;
            }
            self.stage.send_replace(None);
            if begun.elapsed() > setup.retry_max_interval() {
                delays = backoff.build();
            }
            let verdict = error.verdict();
            let names: Vec<&TableName> = self.tables.iter().map(|table| &table.name).collect();
            self.board.board.tables_failed(self.board.id, &names, &error, &verdict);
            sleep(match verdict {
                Verdict::Retry => delays.next().unwrap_or(setup.retry_max_interval()),
                Verdict::Halt { .. } => setup.config.apply.halted_retry_interval,
            })
            .await;
        }
    }

    async fn attempt(&self) -> Result<(), LaunchError> {
        let (shared, target) = (&self.shared, self.target());
        let name = shared.setup.application_name();
        let options = shared.session_options(target);
        let (session, source) = tokio::join!(Session::open(&options), Client::connect(&shared.setup.source, &name));
        let (session, source) = (session?, source?);
        loop {
            let publication = self.published(&source).await?;
            let scope = self.scope(&session, &publication).await?;
            info!(target = target.name, tables = scope.tables.len(), "are copied beside the stream");
            let snapshot = copy::snapshot(&shared.setup, &source).await?;
            // What came to a table while the snapshot was waited for would be neither in the copy nor in what is
            // applied.
            if let Some(table) = publication.changed_in(&*self.published(&source).await?, &scope.tables) {
                copy::told_of_change(&target.name, &table.name);
                continue;
            }
            let copied = self.copy(&session.client, scope, &publication.name, &snapshot).await?;
            drop((source, session));
            return self.follow(copied, snapshot).await;
        }
    }

    /// What is published now. Tables that are others than they were are for another lane: whoever has begun this one is
    /// told.
    async fn published(&self, source: &Client) -> Result<Arc<Publication>, LaunchError> {
        let name = &self.shared.setup.config.source.publication;
        let publication = publication::read(source, name).await?;
        let publication = Arc::new(publication.ok_or_else(|| publication::missing(name))?);
        self.shared.tell_published(&publication);
        Ok(publication)
    }

    /// What is to be copied. Tables that cannot be are left out, and told of, unless foreign keys are at work: tables
    /// that are tied go together.
    async fn scope(&self, session: &Session, publication: &Publication) -> Result<CopyScope, LaunchError> {
        let (setup, target) = (&self.shared.setup, self.target());
        let wanted = setup.wanted(target, publication);
        let now = |table: &PublishedTable| wanted.iter().find(|other| is_same(table, other)).cloned();
        let changed = |table: &PublishedTable| CopyError::SourceChanged { table: table.name.clone() };
        let tables: Result<Vec<_>, _> =
            self.tables.iter().map(|table| now(table).ok_or_else(|| changed(table))).collect();
        let mut scope = copy::scope(setup, target, publication, tables?, session.replica_role);
        scope.settings.workers = WORKERS;
        let findings = copy::obstacles(&session.client, &scope).await?;
        let stopped: BTreeSet<TableName> = findings.iter().map(|finding| finding.table.clone()).collect();
        if stopped.is_empty() {
            return Ok(scope);
        }
        let error = CopyError::Findings { target: target.name.clone(), findings };
        scope.tables.retain(|table| !stopped.contains(&table.name));
        if scope.tables.is_empty() || !session.replica_role {
            return Err(error.into());
        }
        let verdict = error.verdict();
        self.board.board.tables_failed(self.board.id, &stopped.iter().collect::<Vec<_>>(), &error, &verdict);
        Ok(scope)
    }

    /// Copies, and tells what is copied; of what is not, it is said why.
    async fn copy(
        &self,
        client: &Client,
        scope: CopyScope,
        publication: &str,
        snapshot: &Snapshot,
    ) -> Result<Copied, LaunchError> {
        let (setup, id) = (&self.shared.setup, self.board.id);
        // Whoever applied through this lane before must be done with it before its tables are emptied.
        let (epoch, position) = progress::register_lane(client, &self.stream(), &setup.stream, snapshot.lsn).await?;
        let relation = |table: &PublishedTable| (table.name.clone(), RelationId(table.oid));
        let mut tables: BTreeMap<TableName, RelationId> = scope.tables.iter().map(relation).collect();
        let job = copy::job(setup, self.target(), scope, publication, snapshot, CopyState::CatchingUp);
        let copier = job.copier.clone();
        let observer = Arc::clone(&self.board) as Arc<dyn tablesync::CopyObserver>;
        let begun = Instant::now();
        let ended = tablesync::copy(job, observer, &self.shared.stop).await;
        let done = tablesync::state::copied_by(client, &setup.stream, &copier).await?;
        if let Err(error) = ended {
            if done.is_empty() {
                return Err(error.into());
            }
            let failed: Vec<&TableName> = tables.keys().filter(|name| !done.contains(name)).collect();
            let verdict = error.verdict();
            self.board.board.tables_failed(id, &failed, &error, &verdict);
        }
        tables.retain(|name, _| done.contains(name));
        Ok(Copied { took: begun.elapsed(), tables, copier, epoch, position })
    }

    /// The lane's progress row.
    fn stream(&self) -> Stream {
        Stream { name: self.name.clone(), ..self.shared.facts.stream(&self.shared.setup) }
    }

    /// Applies the tables' changes since the snapshot, until told that they are taken over.
    async fn follow(&self, copied: Copied, snapshot: Snapshot) -> Result<(), LaunchError> {
        let (shared, target) = (&self.shared, self.target());
        let (setup, id) = (&shared.setup, target.id);
        let Copied { took, tables, copier, epoch, position } = copied;
        let stored = position.end_lsn();
        let account = Arc::new(Account::of(id, &shared.board.names()));
        account.stands_at(id, position, None);
        let options = PipelineOptions::new(setup, &snapshot.slot, shared.facts.clone());
        let hurry = CancellationToken::new();
        let gait = |rate| Gait::limited(rate, Instant::now() + took, hurry.clone());
        let gait = setup.copy.rate.clone().map_or_else(Gait::free, gait);
        let options = PipelineOptions { only: Some(snapshot.into_connection()), gait, ..options };
        // What may be asked for in binary depends on all that is published, and once streaming there is no second try.
        let what = "reading the slot of tables that are brought in";
        let mut path = SidePath::start(what, shared, &account, options, Values::Text, Arc::new(Quiet))?;
        let mut session = Session::open(&shared.session_options(target)).await?;
        session.remember(tables.keys()).await?;
        let names: BTreeSet<TableName> = tables.keys().cloned().collect();
        let observer =
            TablesBoard { target: Arc::clone(&self.board), account: Arc::clone(&account), tables: names.clone() };
        let of = tables.into_iter().map(|(name, relation)| (name, Some(relation))).collect();
        let mut worker_options = shared.worker_options(target, (self.stream(), epoch), of, Arc::new(observer));
        // Dead letters are the stream's.
        worker_options.to.on_error = OnError::Halt;
        let (sender, receiver) = queue(setup.config.apply.queue_bytes);
        let patterns = [&setup.tables, &target.tables].into_iter().flatten().cloned().collect();
        let from: HashMap<TableName, Lsn> = names.into_iter().map(|table| (table, stored.lsn())).collect();
        let route = TargetRoute::new(id, patterns, from).only_copied();
        // Nobody else is fed through this path: nobody waits for this feed, and nothing is refused.
        let (slow, (refused, _refusal)) = (Arc::new(Notify::new()), oneshot::channel());
        let patient_until = Instant::now();
        let attach = Attach { id, sender, stored, last: None, route, text_only: true, slow, patient_until, refused };
        let commands = path.commands().clone();
        if commands.send(Command::Attach(Box::new(attach))).is_err() {
            return Err(path.failure().await);
        }
        self.stage.send_replace(Some(Abreast { copier, account, commands, hurry }));
        let ended = tokio::select! {
            ended = worker::run(worker_options, session, stored, receiver, shared.stop.child_token()) => ended,
            error = path.failure() => return Err(error),
        };
        match ended {
            Ended::CaughtUp | Ended::Cancelled => path.end().await,
            Ended::Drained => Err(path.failure().await),
            Ended::Lost(error) => Err(error.into()),
        }
    }
}
