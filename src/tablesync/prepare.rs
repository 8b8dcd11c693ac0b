//! What happens before the first row: preflight, plans, and the transaction in which the tables become this run's and
//! empty.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CopyError;
use super::fate::{Fate, fate, obstacle};
use super::job::{CopyJob, CopyScope};
use super::order::{self, ForeignKey};
use super::plan::{Given, TablePlan, plan};
use super::preflight::{self, Finding, Weight};
use super::readable;
use super::source_tables::SourceFacts;
use super::state::{self, TableState};
use super::statement;
use super::target_tables::{Kind, TargetCatalog};
use crate::postgres::holders::{Locks, holders};
use crate::postgres::{Client, PgError, binary};
use crate::relation::TableName;
use crate::source::publication::PublishedTable;
use crate::sql::Sql;

/// What is to be done.
pub(super) struct Prepared {
    /// In this order.
    pub waves: Vec<Vec<TablePlan>>,
    /// The foreign keys that the target checks.
    pub keys: Vec<ForeignKey>,
}

/// Gives the plans in waves. When it returns, every table is marked `copying` by this run, and empty unless its rows
/// are to be overwritten, or to become the source's.
pub(super) async fn prepare(job: &CopyJob) -> Result<Prepared, CopyError> {
    let scope = &job.scope;
    let failed = |source| CopyError::Prepare { target: scope.target_name.clone(), source: Box::new(source) };
    let name = job.application_name();
    let connected = tokio::try_join!(Client::connect(&job.target, &name), Client::connect(&job.source, &name));
    let (target, source) = connected.map_err(failed)?;
    target.batch(&job.target_settings()).await.map_err(failed)?;
    let names: BTreeSet<TableName> = scope.tables.iter().map(|table| table.name.clone()).collect();
    let asked = tokio::try_join!(TargetCatalog::load(&target, &names), SourceFacts::load(&source, &scope.tables));
    let (catalog, facts) = asked.map_err(failed)?;
    let findings = preflight::inspect(&target, scope, &catalog).await.map_err(failed)?;
    refuse_or_warn(scope, findings)?;
    if scope.insert_published {
        refuse_or_warn(scope, readable::findings(&source, scope, &catalog).await.map_err(failed)?)?;
    }
    let binary_proven = [&source, &target].iter().all(|client| binary::is_proven(client.server_version()));
    drop(source);
    let order = waves(scope, names, &catalog)?;
    let delete_order: Vec<&TableName> = order.iter().rev().flatten().collect();
    let begun = begin(&target, job, &catalog, &delete_order).await;
    let begun = match begun {
        Err(error) if error.code() == Some("55P03") => {
            target.batch(&ROLLBACK).await.map_err(failed)?;
            let oids: Vec<u32> = catalog.tables.values().map(|table| table.oid).collect();
            let holders = holders(&target, &oids, Locks::All).await.map_err(failed)?;
            return Err(CopyError::Blocked { target: scope.target_name.clone(), holders, source: Box::new(error) });
        }
        begun => begun.map_err(failed)?,
    };
    let aligned = match begun {
        Begun::With { aligned } => aligned,
        Begun::Not { occupied } => {
            let findings = preflight::judge(scope, &catalog, &occupied).into_iter().filter(stops).collect();
            return Err(CopyError::Findings { target: scope.target_name.clone(), findings });
        }
    };
    let waves = plans(scope, &catalog, &facts, binary_proven, &aligned, &order);
    Ok(Prepared { waves, keys: if scope.replica_role { Vec::new() } else { catalog.foreign_keys } })
}

fn stops(finding: &Finding) -> bool {
    finding.weight == Weight::Stops
}

fn refuse_or_warn(scope: &CopyScope, findings: Vec<Finding>) -> Result<(), CopyError> {
    for finding in findings.iter().filter(|finding| !stops(finding)) {
        tracing::warn!(target_name = scope.target_name, table = %finding.table, "table {}", finding.problem);
    }
    if findings.iter().any(stops) {
        return Err(CopyError::Findings { target: scope.target_name.clone(), findings });
    }
    Ok(())
}

/// With the replica role nothing is checked on the target, so everything goes at once.
fn waves(
    scope: &CopyScope,
    names: BTreeSet<TableName>,
    catalog: &TargetCatalog,
) -> Result<Vec<BTreeSet<TableName>>, CopyError> {
    if scope.replica_role {
        return Ok(vec![names]);
    }
    order::waves(&names, &catalog.foreign_keys).map_err(|_| CopyError::Findings {
        target: scope.target_name.clone(),
        findings: preflight::judge(scope, catalog, &BTreeSet::new()),
    })
}

fn plans(
    scope: &CopyScope,
    catalog: &TargetCatalog,
    source: &SourceFacts,
    binary_proven: bool,
    aligned: &BTreeSet<TableName>,
    order: &[BTreeSet<TableName>],
) -> Vec<Vec<TablePlan>> {
    let by_name: BTreeMap<&TableName, &PublishedTable> =
        scope.tables.iter().map(|table| (&table.name, table)).collect();
    let of = |name: &TableName| {
        let self_reference = !scope.replica_role && order::refers_to_itself(name, &catalog.foreign_keys);
        let given = Given {
            settings: &scope.settings,
            aligned: aligned.contains(name),
            insert_published: scope.insert_published,
            self_reference,
            source,
            binary_proven,
        };
        // Preflight has found both.
        Some(plan(by_name.get(name)?, catalog.tables.get(name)?, given))
    };
    order.iter().map(|wave| wave.iter().filter_map(of).collect()).collect()
}

const BEGIN: Sql = Sql::new("BEGIN");
const COMMIT: Sql = Sql::new("COMMIT");
const ROLLBACK: Sql = Sql::new("ROLLBACK");

/// What came of beginning.
enum Begun {
    /// It has, and the rows of these tables are to become the source's.
    With { aligned: BTreeSet<TableName> },
    /// Nothing is done: these are not to be touched, and hold rows by now.
    Not { occupied: BTreeSet<TableName> },
}

/// Marks and empties, in one transaction.
async fn begin(
    target: &Client,
    job: &CopyJob,
    catalog: &TargetCatalog,
    delete_order: &[&TableName],
) -> Result<Begun, PgError> {
    let scope = &job.scope;
    target.batch(&BEGIN).await?;
    let origin = |table: &PublishedTable| (table.name.clone(), table.origin(&job.publication));
    let former = state::take_over(target, &job.run(), &scope.tables.iter().map(origin).collect()).await?;
    let mut aligned = BTreeSet::new();
    if scope.insert_published {
        let fates = fates(scope, catalog, &former);
        let of = |wanted: &[Fate]| {
            let fated = delete_order.iter().filter(|name| fates.get(**name).is_some_and(|fate| wanted.contains(fate)));
            let kind = |name: &&TableName| catalog.tables.get(*name).map_or(Kind::Plain, |table| table.kind);
            fated.map(|name| (*name, kind(name))).collect::<Vec<_>>()
        };
        let occupied = preflight::occupied(target, &of(&[Fate::Refused])).await?;
        if !occupied.is_empty() {
            target.batch(&ROLLBACK).await?;
            return Ok(Begun::Not { occupied });
        }
        // An empty table is filled in ranges, side by side.
        aligned = preflight::occupied(target, &of(&[Fate::Aligned])).await?;
        empty(target, &of(&[Fate::Go])).await?;
    }
    target.batch(&COMMIT).await?;
    Ok(Begun::With { aligned })
}

/// What becomes of each table's rows.
fn fates<'a>(
    scope: &'a CopyScope,
    catalog: &TargetCatalog,
    former: &BTreeMap<TableName, TableState>,
) -> BTreeMap<&'a TableName, Fate> {
    let fate = |table: &'a PublishedTable| {
        let target = catalog.tables.get(&table.name)?;
        let can_be_aligned = obstacle(scope, catalog, table, target).is_none();
        Some((&table.name, fate(&scope.settings, former.get(&table.name), can_be_aligned)))
    };
    scope.tables.iter().filter_map(fate).collect()
}

const SAVEPOINT: Sql = Sql::new("SAVEPOINT emptying");
const BACK: Sql = Sql::new("ROLLBACK TO SAVEPOINT emptying");

/// All at once by TRUNCATE. Where that is refused, because a table that is not emptied refers to one of them (0A000)
/// or because the role may not (42501), row by row, children before parents.
async fn empty(target: &Client, tables: &[(&TableName, Kind)]) -> Result<(), PgError> {
    if tables.is_empty() {
        return Ok(());
    }
    target.batch(&SAVEPOINT).await?;
    match target.batch(&statement::truncate(tables)).await {
        Ok(()) => return Ok(()),
        Err(error) if matches!(error.code(), Some("0A000" | "42501")) => {
            tracing::info!(reason = %error, "tables cannot be truncated before the copy and are emptied row by row");
        }
        Err(error) => return Err(error),
    }
    target.batch(&BACK).await?;
    // As TRUNCATE does: what was written before is there when it is deleted.
    for (table, kind) in tables {
        target.batch(&statement::lock_out_writers(table, *kind)).await?;
    }
    for (table, kind) in tables {
        target.batch(&statement::delete(table, *kind)).await?;
    }
    Ok(())
}
