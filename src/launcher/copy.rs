//! A copy, put together: what is to be copied to one target, what would stop it, and the snapshot under which it is
//! made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::error::LaunchError;
use super::setup::{Setup, TargetSetup};
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::relation::TableName;
use crate::source::publication::{Publication, PublishedTable};
use crate::source::slot::{self, Snapshot};
use crate::tablesync::{self, CopyJob, CopyScope, CopyState, Finding, Weight};

/// How long a target may fail or not answer in the middle of a copy, before the snapshot is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// These tables of the publication, to this target.
pub fn scope(
    setup: &Setup,
    target: &TargetSetup,
    publication: &Publication,
    tables: Vec<PublishedTable>,
    replica_role: bool,
) -> CopyScope {
    CopyScope {
        stream: setup.stream.clone(),
        target_name: target.name.clone(),
        tables,
        insert_published: publication.insert,
        truncate_published: publication.truncate,
        replica_role,
        settings: setup.copy.clone(),
    }
}

/// What would stop the copy, found before anything is written, or a snapshot taken. What is only to be known is logged.
///
/// # Errors
/// The target cannot be asked.
pub async fn obstacles(client: &Client, scope: &CopyScope) -> Result<Vec<Finding>, LaunchError> {
    let findings = tablesync::preflight(client, scope).await?;
    let (stops, warns): (Vec<Finding>, Vec<Finding>) =
        findings.into_iter().partition(|finding| finding.weight == Weight::Stops);
    for finding in warns {
        warn!(target = scope.target_name, table = %finding.table, "{}", finding.problem);
    }
    Ok(stops)
}

/// A snapshot of the source now, with a slot that goes with it.
///
/// # Errors
/// As [`slot::create`].
pub async fn snapshot(setup: &Setup, client: &Client) -> Result<Snapshot, LaunchError> {
    let name = setup.application_name();
    let conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
    Ok(slot::create(conn, &temporary_slot(&setup.stream), true, false, client).await?)
}

/// A table is not what it was before its snapshot was taken, so that a copy of it would not be complete.
pub fn told_of_change(target: &str, table: &TableName) {
    info!(target, table = %table, "was changed while the copy's snapshot was taken: another one is taken");
}

/// The copy of what is in scope under this snapshot, after which a table is as `then` says.
pub fn job(
    setup: &Setup,
    target: &TargetSetup,
    scope: CopyScope,
    publication: &str,
    snapshot: &Snapshot,
    then: CopyState,
) -> Arc<CopyJob> {
    Arc::new(CopyJob {
        source: setup.source.clone(),
        target: target.connect.clone(),
        scope,
        publication: publication.to_owned(),
        snapshot: snapshot.name.clone(),
        copy_lsn: snapshot.lsn,
        copier: unique(),
        then,
        lock_timeout: setup.config.apply.lock_timeout,
        patience: PATIENCE,
    })
}

/// What no other copy is called, of this daemon or another.
pub fn unique() -> String {
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
