//! Creating, dropping and resetting the slot.
//!
//! The order is such that a crash in between leaves nothing that could be mistaken: a target is registered before the
//! slot is there (a slot nobody knows is not ours), and positions are forgotten before the slot goes (a target
//! without a position is copied again; one with a position and no slot is refused).

use super::standing::{self, Known};
use super::{Done, guard};
use crate::admin::{CommandError, servers};
use crate::apply::progress::{self, Stream};
use crate::config::{CopyMode, ExistingRows};
use crate::launcher::setup::Setup;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::source::publication::{self, Chosen};
use crate::source::{identity, slot};
use crate::tablesync::state;

const COPY_NEXT: &str = "The next walferry run copies the tables, then follows the source.";

/// What becomes of the rows on the targets.
pub fn fate(setup: &Setup) -> &'static str {
    match (setup.config.copy.existing_rows, setup.config.copy.mode) {
        (ExistingRows::Merge, _) => {
            "kept (copy.existing_rows = \"merge\": rows of the same key are overwritten, and rows that the source has \
             deleted meanwhile stay)"
        }
        (ExistingRows::Refuse | ExistingRows::Truncate, CopyMode::Merge) => {
            "brought up to date in their place (copy.mode = \"merge\"; what walferry check calls not-merged is emptied)"
        }
        (ExistingRows::Refuse | ExistingRows::Truncate, CopyMode::Replace) => "emptied",
    }
}

/// Creates publication and slot; `done` says how far it came.
///
/// # Errors
/// The slot is there, or a target has followed one that is gone.
pub async fn create(setup: &Setup, source: &Client, done: &mut Done) -> Result<(), CommandError> {
    let _lock = guard::take(setup, source, false).await?;
    if let Some(found) = guard::own_slot(setup, source).await? {
        let hint = match (found.check_usable(&setup.source.dbname), standing::known(setup).await) {
            (Err(error), _) => crate::error::chain(&error),
            (Ok(()), Known::Yes) => {
                "It is ready for walferry run; walferry slot reset drops and creates it anew.".to_owned()
            }
            (Ok(()), _) => "No target that answers knows it, and walferry run follows no slot that might be another \
                            program's: set source.slot to another name; or, if it is left over, walferry slot reset \
                            drops and creates it anew."
                .to_owned(),
        };
        return Err(CommandError::refused(format!("the slot \"{}\" exists already", setup.stream), hint));
    }
    let targets = connect_all(setup).await?;
    for (target, client) in setup.targets.iter().zip(&targets) {
        let stored = progress::read(client, &setup.stream).await.map_err(servers::at(target))?;
        if let Some(end) = stored.and_then(|stored| stored.end_lsn) {
            return Err(CommandError::refused(
                format!(
                    "target \"{}\" has followed a slot of this name up to {end}, and that slot is gone",
                    target.name
                ),
                "What came after is lost: walferry slot reset creates the slot and has the tables copied again.",
            ));
        }
    }
    let conn = replication(setup).await?;
    ensure_publication(setup, source, done).await?;
    make(setup, source, &targets, conn, done).await?;
    COPY_NEXT.clone_into(&mut done.next);
    Ok(())
}

/// Drops the slot.
///
/// # Errors
/// There is none, it cannot be walferry's, or somebody uses it.
pub async fn drop(setup: &Setup, source: &Client, force: bool, done: &mut Done) -> Result<(), CommandError> {
    let _lock = guard::take(setup, source, force).await?;
    guard::drop_slot(setup, source, force).await?;
    done.done.push(format!("Dropped the slot \"{}\" on {}.", setup.stream, source.peer()));
    "The targets keep their rows and their positions. The source no longer keeps WAL for them: they can only go on by \
     walferry slot reset, which has their tables copied again."
        .clone_into(&mut done.next);
    Ok(())
}

/// Drops and creates the slot, and marks on every target what must be copied again; `done` says how far it came.
///
/// # Errors
/// The slot cannot be walferry's, somebody uses it, or a target cannot be reached; then nothing was changed. Or a later
/// step fails; then another reset begins anew.
pub async fn reset(setup: &Setup, source: &Client, force: bool, done: &mut Done) -> Result<(), CommandError> {
    let _lock = guard::take(setup, source, force).await?;
    let targets = connect_all(setup).await?;
    let conn = replication(setup).await?;
    ensure_publication(setup, source, done).await?;
    for (target, client) in setup.targets.iter().zip(&targets) {
        progress::migrate(client).await.map_err(servers::at(target))?;
        let marked = state::begin_again(client, &setup.stream).await.map_err(servers::at(target))?;
        done.done.push(format!(
            "Target \"{}\": forgot its position, marked {marked} tables to be copied again.",
            target.name
        ));
    }
    let failed = |error| CommandError::at("slot reset", error);
    if slot::inspect(source, &setup.stream).await.map_err(failed)?.is_some() {
        guard::drop_slot(setup, source, force).await?;
        done.done.push(format!("Dropped the slot \"{}\" on {}.", setup.stream, source.peer()));
    }
    make(setup, source, &targets, conn, done).await?;
    done.next = format!(
        "The rows of these tables on the targets stay as they are until the next walferry run; then they are {}, and \
         copied again under a new snapshot.",
        fate(setup)
    );
    Ok(())
}

async fn connect_all(setup: &Setup) -> Result<Vec<Client>, CommandError> {
    let mut clients = Vec::with_capacity(setup.targets.len());
    for target in &setup.targets {
        clients.push(servers::target(setup, target).await?);
    }
    Ok(clients)
}

async fn replication(setup: &Setup) -> Result<WireConnection, CommandError> {
    let conn = WireConnection::connect(&setup.source, &setup.application_name(), Purpose::Replication).await;
    conn.map_err(|error| CommandError::at("cannot connect to the source for replication", error))
}

/// Publication first, committed, before the slot: changes from before it was there could not be decoded by it.
async fn ensure_publication(setup: &Setup, source: &Client, done: &mut Done) -> Result<(), CommandError> {
    let name = &setup.config.source.publication;
    let failed = |error| CommandError::at("the publication cannot be used", error);
    let existed = publication::exists(source, name).await.map_err(failed)?;
    let chooses = |table: &crate::relation::TableName| setup.chooses(table);
    let chosen = setup.tables.as_ref().map(|_| &chooses as Chosen<'_>);
    let publication = publication::ensure(source, name, chosen).await.map_err(failed)?;
    if !existed {
        done.done.push(format!("Created the publication \"{name}\" with {} tables.", publication.tables.len()));
    }
    Ok(())
}

async fn make(
    setup: &Setup,
    source: &Client,
    targets: &[Client],
    mut conn: WireConnection,
    done: &mut Done,
) -> Result<(), CommandError> {
    let failed = |error| CommandError::at("creating the slot", error);
    let identity = identity::identify(&mut conn).await.map_err(failed)?;
    let stream = Stream {
        name: setup.stream.clone(),
        system_identifier: identity.system_identifier,
        timeline: identity.timeline,
        database: identity.database,
        slot: setup.stream.clone(),
    };
    for (target, client) in setup.targets.iter().zip(targets) {
        progress::migrate(client).await.map_err(servers::at(target))?;
        progress::register(client, &stream).await.map_err(servers::at(target))?;
    }
    let snapshot = slot::create(conn, &setup.stream, false, true, source).await.map_err(failed)?;
    done.done.push(format!("Created the slot \"{}\" on {} at {}.", setup.stream, source.peer(), snapshot.lsn));
    snapshot.release().await.map_err(failed)
}
