//! What happens before the first row: preflight, plans, and the transaction in which the tables become this run's and
//! empty.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CopyError;
use super::job::{CopyJob, CopyScope, ExistingRows};
use super::order::{self, ForeignKey};
use super::plan::{Given, TablePlan, plan};
use super::preflight::{self, Finding, Weight};
use super::readable;
use super::source_tables::SourceFacts;
use super::state::{self, CopyState, TableState};
use super::statement;
use super::target_tables::{Kind, TargetCatalog};
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
/// are to be merged with.
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
    let occupied = match begun {
        Err(error) if error.code() == Some("55P03") => {
            let holders = holders(&target, &catalog).await.map_err(failed)?;
            return Err(CopyError::Blocked { target: scope.target_name.clone(), holders, source: Box::new(error) });
        }
        begun => begun.map_err(failed)?,
    };
    refuse_or_warn(scope, preflight::judge(scope, &catalog, &occupied).into_iter().filter(stops).collect())?;
    let waves = plans(scope, &catalog, &facts, binary_proven, &order);
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
    order: &[BTreeSet<TableName>],
) -> Vec<Vec<TablePlan>> {
    let by_name: BTreeMap<&TableName, &PublishedTable> =
        scope.tables.iter().map(|table| (&table.name, table)).collect();
    let of = |name: &TableName| {
        let self_reference = !scope.replica_role && order::refers_to_itself(name, &catalog.foreign_keys);
        let given = Given {
            settings: &scope.settings,
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

/// Marks and empties, in one transaction. When tables that are not to be touched hold rows by now, nothing is done
/// and they are given.
async fn begin(
    target: &Client,
    job: &CopyJob,
    catalog: &TargetCatalog,
    delete_order: &[&TableName],
) -> Result<BTreeSet<TableName>, PgError> {
    let scope = &job.scope;
    target.batch(&BEGIN).await?;
    let origin = |table: &PublishedTable| (table.name.clone(), table.origin(&job.publication));
    let former = state::take_over(target, &job.run(), &scope.tables.iter().map(origin).collect()).await?;
    if scope.insert_published {
        let kind = |name: &&TableName| catalog.tables.get(*name).map_or(Kind::Plain, |table| table.kind);
        let with_kind = |name: &&'_ TableName| kind(name);
        if scope.settings.existing_rows == ExistingRows::Refuse {
            let begun = |name: &TableName| former.get(name).is_some_and(TableState::was_begun);
            let fresh = delete_order.iter().filter(|name| !begun(name));
            let fresh: Vec<_> = fresh.map(|name| (*name, with_kind(name))).collect();
            let occupied = preflight::occupied(target, &fresh).await?;
            if !occupied.is_empty() {
                target.batch(&ROLLBACK).await?;
                return Ok(occupied);
            }
        }
        let stale = delete_order.iter().filter(|name| to_be_emptied(scope.settings.existing_rows, former.get(**name)));
        let stale: Vec<_> = stale.map(|name| (*name, with_kind(name))).collect();
        empty(target, &stale).await?;
    }
    target.batch(&COMMIT).await?;
    Ok(BTreeSet::new())
}

const HOLDERS: Sql = Sql::new(
    "SELECT DISTINCT l.pid, coalesce(a.application_name, ''), coalesce(a.state, 'unknown') \
     FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
     WHERE l.locktype = 'relation' AND l.granted AND d.datname = current_database() \
     AND l.relation = ANY ($1::oid[]) AND l.pid <> pg_backend_pid() ORDER BY l.pid LIMIT 20",
);

/// Who holds locks on the tables now that waiting for them was given up.
async fn holders(target: &Client, catalog: &TargetCatalog) -> Result<String, PgError> {
    target.batch(&ROLLBACK).await?;
    let oids: Vec<u32> = catalog.tables.values().map(|table| table.oid).collect();
    let rows = target.query(&HOLDERS, &[&oids]).await?;
    let holder = |row: &tokio_postgres::Row| {
        format!("process {} ({}, {})", row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, &str>(2))
    };
    Ok(match rows.is_empty() {
        true => "another session".to_owned(),
        false => rows.iter().map(holder).collect::<Vec<_>>().join(", "),
    })
}

/// Whether a table's rows go before it is copied. A merge commits all its rows at once with `done`, so under `Merge`
/// rows of an unfinished copy are there only if that copy was not a merge.
pub(super) fn to_be_emptied(existing: ExistingRows, former: Option<&TableState>) -> bool {
    let former = former.filter(|state| state.was_begun());
    match existing {
        ExistingRows::Truncate => true,
        ExistingRows::Refuse => former.is_some(),
        ExistingRows::Merge => former.is_some_and(|state| state.state == CopyState::Copying && state.rows > 0),
    }
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
    for (table, kind) in tables {
        target.batch(&statement::delete(table, *kind)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    #[test]
    fn rows_that_were_there_before_the_first_copy_go_only_when_they_may() {
        let found = |state, rows| TableState {
            name: TableName::new("s", "t"),
            state,
            copy_lsn: Lsn::new(1),
            rows,
            origin: None,
            error: None,
        };
        let begun = found(CopyState::Copying, 0);
        let halfway = found(CopyState::Copying, 5);
        let done = found(CopyState::Done, 5);
        let emptied = |existing| [None, Some(&begun), Some(&halfway), Some(&done)].map(|f| to_be_emptied(existing, f));
        assert_eq!(emptied(ExistingRows::Refuse), [false, true, true, true]);
        assert_eq!(emptied(ExistingRows::Truncate), [true, true, true, true]);
        assert_eq!(emptied(ExistingRows::Merge), [false, false, true, false]);
    }
}
