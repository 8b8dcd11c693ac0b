//! Which of the published tables have to be copied now.

use std::collections::BTreeSet;

use super::order::closure;
use super::state::{self, CopyState};
use super::target_tables::TargetCatalog;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::source::publication::PublishedTable;

/// Those never begun and those found unfinished, but for those that are stopped; without the replica role also the
/// finished ones that the target's foreign keys tie to one of them: rows of two snapshots would not fit together.
pub async fn pending(
    client: &Client,
    stream: &str,
    published: &[PublishedTable],
    replica_role: bool,
) -> Result<Vec<PublishedTable>, PgError> {
    let states = state::load(client, stream).await?;
    let finished: BTreeSet<&TableName> =
        states.iter().filter(|state| state.state == CopyState::Done).map(|state| &state.name).collect();
    let stopped = |name: &TableName| states.iter().any(|state| state.name == *name && state.state.is_stopped());
    let (done, mut wanted): (BTreeSet<TableName>, BTreeSet<TableName>) =
        published.iter().map(|table| table.name.clone()).partition(|name| finished.contains(name));
    wanted.retain(|name| !stopped(name));
    if !replica_role && !wanted.is_empty() && !done.is_empty() {
        let catalog = TargetCatalog::load(client, wanted.iter().chain(&done)).await?;
        wanted.append(&mut closure(&wanted, &done, &catalog.foreign_keys));
    }
    Ok(published.iter().filter(|table| wanted.contains(&table.name)).cloned().collect())
}
