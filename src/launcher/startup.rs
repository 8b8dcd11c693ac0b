//! Before the first change flows: is the slot ours, who knows it, and may it be used?
//!
//! In: the source and the targets as they answer. Out: a slot that may be followed, with the snapshot of its making
//! when it was made just now; or the reason why not. The order matters: a target is registered *before* the slot is
//! made, so that after a crash between the two a slot that nobody knows is certainly not ours, and a slot that is
//! missing though a target has a position is certainly lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::try_join;
use tracing::{info, warn};

use super::board::Board;
use super::error::LaunchError;
use super::place;
use super::setup::{Setup, TargetSetup};
use crate::apply::progress::{self, Stored, Stream};
use crate::change::TargetId;
use crate::error::{Judged, chain};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::source::identity::{self, Identity};
use crate::source::publication::{self, Publication};
use crate::source::slot::{self, Snapshot};
use crate::telemetry::state::SourceState;

/// Between two looks at targets that cannot be reached, while none can be asked whether the slot is ours.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How long a target may take to answer while the start of all waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What must stay the same for as long as the stream runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `IDENTIFY_SYSTEM`.
    pub system_identifier: String,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: u32,
    /// The source database.
    pub database: String,
}

impl Facts {
    /// Whether this is still the same server on the same timeline. If not, every target is checked anew.
    ///
    /// # Errors
    /// [`LaunchError::SourceChanged`].
    pub fn is_same(&self, identity: &Identity) -> Result<(), LaunchError> {
        let differs = |what, before: &dyn ToString, now: &dyn ToString| {
            let (before, now) = (before.to_string(), now.to_string());
            if before == now { Ok(()) } else { Err(LaunchError::SourceChanged { what, before, now }) }
        };
        differs("its system identifier", &self.system_identifier, &identity.system_identifier)?;
        differs("its timeline", &self.timeline, &identity.timeline)
    }

    /// The stream as progress rows name it.
    pub fn stream(&self, setup: &Setup) -> Stream {
        Stream {
            name: setup.stream.clone(),
            system_identifier: self.system_identifier.clone(),
            timeline: self.timeline,
            database: self.database.clone(),
            slot: setup.stream.clone(),
        }
    }
}

/// A slot that may be followed.
pub struct Prepared {
    /// The source as found.
    pub facts: Facts,
    /// What is published.
    pub publication: Publication,
    /// The snapshot of the slot's making, if it was made just now.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The targets that have slots of their own.
    pub own: BTreeSet<TargetId>,
}

/// Makes sure of publication and slot.
///
/// # Errors
/// The reason why the slot may not be followed, or why that cannot be found out.
pub async fn prepare(setup: &Setup, client: &Client, board: &Board) -> Result<Prepared, LaunchError> {
    let name = &setup.config.source.slot;
    let identified = async {
        let name = setup.application_name();
        let mut conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
        let identity = identity::identify(&mut conn).await?;
        Ok::<_, LaunchError>((conn, identity))
    };
    let found = async { Ok(slot::inspect(client, name).await?) };
    let ((mut conn, identity), found) = try_join!(identified, found)?;
    let facts = Facts {
        system_identifier: identity.system_identifier.clone(),
        timeline: identity.timeline,
        database: identity.database.clone(),
    };
    let missing = match &found {
        Some(found) => found.check_usable(&facts.database).map(|()| None)?,
        None => Some(Missing::of(&mut conn, client, identity.timeline).await?),
    };
    let (publication, targets) = try_join!(publish(setup, client), ask_targets(setup, board, missing.as_ref()))?;
    if found.is_some() {
        let own = own_slots(setup, client).await?;
        return Ok(Prepared { facts, publication, snapshot: None, own });
    }
    register(setup, &facts, client, targets).await?;
    board.source_state(SourceState::Copying);
    info!(slot = name, "creating the slot; this waits for every transaction that runs on the source now");
    let snapshot = slot::create(conn, name, false, true, client).await?;
    info!(slot = name, lsn = %snapshot.lsn, "slot created");
    // Whatever is left of an earlier slot of this name is of no use to anybody.
    for left in slot::lane::of(client, name).await? {
        give_up(client, &left.name).await;
    }
    Ok(Prepared { facts, publication, snapshot: Some(Arc::new(snapshot)), own: BTreeSet::new() })
}

/// The source, where the slot is not.
struct Missing {
    in_recovery: bool,
    timeline: u32,
    /// Where its timeline left the one before.
    switch: Option<Lsn>,
}

impl Missing {
    async fn of(conn: &mut WireConnection, client: &Client, timeline: u32) -> Result<Self, LaunchError> {
        let in_recovery = identity::in_recovery(client).await?;
        let switch = identity::timeline_history(conn, timeline).await?.last().map(|last| last.switch);
        Ok(Self { in_recovery, timeline, switch })
    }

    /// Why a target that stands here must have it.
    fn needed(&self, setup: &Setup, target: &TargetSetup, stored: &Stored, end: EndLsn) -> LaunchError {
        let (slot, target, timeline) = (setup.stream.clone(), target.name.clone(), self.timeline);
        match self.switch.filter(|_| stored.timeline < timeline) {
            _ if self.in_recovery => LaunchError::Standby { slot, target, stored: end },
            Some(switch) => LaunchError::SlotNotPromoted { slot, target, stored: end, timeline, switch },
            None => LaunchError::SlotLost { slot, target, stored: end },
        }
    }
}

/// The targets that have slots of their own. Slots of targets that are not followed any more are dropped.
async fn own_slots(setup: &Setup, client: &Client) -> Result<BTreeSet<TargetId>, LaunchError> {
    let mut own = BTreeSet::new();
    for found in slot::lane::of(client, &setup.stream).await? {
        let named = |target: &&TargetSetup| slot::lane::name(&setup.stream, &target.name) == found.name;
        match setup.targets.iter().find(named) {
            Some(target) => _ = own.insert(target.id),
            None => give_up(client, &found.name).await,
        }
    }
    Ok(own)
}

/// Drops a slot that nobody needs; if it does not go, the next start tries again.
async fn give_up(client: &Client, slot: &str) {
    match slot::drop(client, slot).await {
        Ok(()) => info!(slot, "dropped: it was the own slot of a target that is not followed any more"),
        Err(error) => warn!(slot, "of no use any more, and cannot be dropped: {}", chain(&error)),
    }
}

/// The publication, made if it may be.
async fn publish(setup: &Setup, client: &Client) -> Result<Publication, LaunchError> {
    let name = &setup.config.source.publication;
    let chooses = |table: &crate::relation::TableName| setup.chooses(table);
    let chosen =
        setup.tables.as_ref().map(|_| &chooses as &(dyn Fn(&crate::relation::TableName) -> bool + Send + Sync));
    let publication = publication::ensure(client, name, chosen).await?;
    let names = || publication.tables.iter().map(|table| &table.name);
    for pattern in setup.tables.iter().flat_map(|tables| tables.unmatched(names())) {
        warn!(pattern, "source.tables: no published table matches");
    }
    for target in &setup.targets {
        for pattern in target.tables.iter().flat_map(|tables| tables.unmatched(names())) {
            warn!(target = target.name, pattern, "tables: no published table matches");
        }
    }
    Ok(publication)
}

/// What one target says of the stream.
async fn ask(setup: &Setup, target: &TargetSetup) -> Result<(Client, Option<Stored>), LaunchError> {
    let client = Client::connect(&target.connect, &setup.application_name()).await?;
    let stored = progress::read(&client, &setup.stream).await?;
    Ok((client, stored))
}

/// A target that hangs is as good as one that cannot be reached.
async fn in_time<T>(
    target: &TargetSetup,
    work: impl Future<Output = Result<T, LaunchError>>,
) -> Result<T, LaunchError> {
    let late = |_| Err(LaunchError::NoAnswer { target: target.name.clone(), waited: PATIENCE });
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(late)
}

/// Finds out from the targets whether a slot that is there is ours, or whether one that is not there is lost. Waits for
/// targets that cannot be reached only as long as none of the others can tell. The connections to those that answered
/// are given, in the targets' order.
async fn ask_targets(
    setup: &Setup,
    board: &Board,
    missing: Option<&Missing>,
) -> Result<Vec<Option<Client>>, LaunchError> {
    let mut warned = false;
    loop {
        let answers = join_all(setup.targets.iter().map(|target| in_time(target, ask(setup, target)))).await;
        let mut unreachable = 0;
        let mut known = false;
        let mut clients = Vec::new();
        for (target, answer) in setup.targets.iter().zip(answers) {
            match answer {
                Ok((client, stored)) => {
                    clients.push(Some(client));
                    known |= stored.is_some();
                    let end = stored.as_ref().and_then(|stored| stored.end_lsn);
                    if let (Some(missing), Some(stored), Some(end)) = (missing, &stored, end) {
                        return Err(missing.needed(setup, target, stored, end));
                    }
                }
                Err(error) => {
                    clients.push(None);
                    unreachable += 1;
                    if !warned {
                        board.target_failed(target.id, &error, &error.verdict());
                    }
                }
            }
        }
        match (missing.is_none(), known, unreachable) {
            (true, true, _) => return Ok(clients),
            (true, false, 0) => return Err(LaunchError::ForeignSlot { slot: setup.stream.clone() }),
            (false, _, unreachable) if unreachable < setup.targets.len() => return Ok(clients),
            _ => warned = true,
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Makes the stream known to every target that can be reached, over the connection there is or a new one; one at least.
async fn register(
    setup: &Setup,
    facts: &Facts,
    source: &Client,
    targets: Vec<Option<Client>>,
) -> Result<(), LaunchError> {
    let stream = facts.stream(setup);
    let one = async |target: &TargetSetup, open: Option<Client>| -> Result<(), LaunchError> {
        let client = match open {
            Some(open) => open,
            None => Client::connect(&target.connect, &setup.application_name()).await?,
        };
        place::apart(target, &client, source).await?;
        progress::migrate(&client).await?;
        Ok(progress::register(&client, &stream).await?)
    };
    let attempts = setup.targets.iter().zip(targets).map(|(target, open)| in_time(target, one(target, open)));
    let results = join_all(attempts).await;
    let mut failure = None;
    let mut registered = false;
    for (target, result) in setup.targets.iter().zip(results) {
        match result {
            Ok(()) => registered = true,
            Err(error) => {
                warn!(target = target.name, "cannot be prepared: {}", chain(&error));
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if !registered => match error.verdict() {
            crate::error::Verdict::Halt { .. } => Err(error),
            crate::error::Verdict::Retry => Err(LaunchError::NobodyKnows { stream: setup.stream.clone() }),
        },
        _ => Ok(()),
    }
}
