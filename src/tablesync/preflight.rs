//! Everything that would make the copy fail, or go wrong, found before anything is written.
//!
//! In: the tables as published and the target's catalogue. Out: all findings at once, each with the statement that
//! mends it where there is one. Deciding ([`judge`]) is pure; [`preflight`] only reads.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CopyError;
use super::fate::{self, Obstacle};
use super::order;
use super::target_tables::{Kind, TargetCatalog, TargetTable};
use super::{CopyMode, CopyScope, ExistingRows, cascade, remedy, state, statement};
use crate::postgres::{Client, PgError};
use crate::relation::{Displayed, TableName};
use crate::source::publication::PublishedTable;
use crate::sql::Sql;

/// Whether a finding keeps the copy from beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It does.
    Stops,
    /// It is to be known.
    Warns,
}

/// What a finding is about, for those who tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matter {
    /// The table is missing.
    Missing,
    /// What has its name is no table.
    NoTable,
    /// On the source its identity is FULL, and its partitions' is not.
    FalselyFull,
    /// A column is missing.
    ColumnMissing,
    /// A column is generated on the target, and sent.
    ColumnGenerated,
    /// A column is generated on the source and not sent, and the target does not compute it.
    ColumnNotSent,
    /// A column must not be left empty, and is not sent.
    ColumnRequired,
    /// The schema may not be used.
    SchemaClosed,
    /// A privilege is missing.
    Privilege,
    /// Row level security hides rows.
    RowSecurity,
    /// Triggers fire.
    Triggers,
    /// Inserts are not published.
    NotCopied,
    /// It holds rows already.
    Occupied,
    /// It has no key to merge by.
    NoMergeKey,
    /// It is emptied where it is to be merged.
    NotMerged,
    /// Foreign keys form a circle.
    Circle,
    /// The role may not create temporary tables.
    NoTemporary,
    /// Emptying it would change a table that is not copied.
    Cascades,
}

/// Something about a table of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub table: TableName,
    /// What it is about.
    pub matter: Matter,
    /// How bad.
    pub weight: Weight,
    /// What, in words.
    pub problem: String,
    /// The statement that mends it, to be run on the target.
    pub sql: Option<Sql>,
}

impl Finding {
    pub(super) fn stops(table: &TableName, matter: Matter, problem: impl Into<String>, sql: Option<Sql>) -> Self {
        Self { table: table.clone(), matter, weight: Weight::Stops, problem: problem.into(), sql }
    }

    fn warns(table: &TableName, matter: Matter, problem: impl Into<String>) -> Self {
        Self { table: table.clone(), matter, weight: Weight::Warns, problem: problem.into(), sql: None }
    }
}

/// Looks at the target through `client` and gives every finding, in the order of the scope's tables.
pub async fn preflight(client: &Client, scope: &CopyScope) -> Result<Vec<Finding>, PgError> {
    let catalog = TargetCatalog::load(client, scope.tables.iter().map(|table| &table.name)).await?;
    inspect(client, scope, &catalog).await
}

/// Fails with [`CopyError::Findings`] when something would stop the copy; what is only to be known is left to
/// [`preflight`].
pub async fn check(client: &Client, scope: &CopyScope) -> Result<(), CopyError> {
    let target = || scope.target_name.clone();
    let failed = |source| CopyError::Prepare { target: target(), source: Box::new(source) };
    let findings = preflight(client, scope).await.map_err(failed)?;
    match findings.iter().any(|finding| finding.weight == Weight::Stops) {
        true => Err(CopyError::Findings { target: target(), findings }),
        false => Ok(()),
    }
}

/// As [`preflight`], with the catalogue at hand.
pub(super) async fn inspect(
    client: &Client,
    scope: &CopyScope,
    catalog: &TargetCatalog,
) -> Result<Vec<Finding>, PgError> {
    let states = state::load(client, &scope.stream).await?;
    let begun = states.iter().filter(|state| state.was_begun());
    let begun: BTreeSet<TableName> = begun.map(|state| state.name.clone()).collect();
    let occupied = occupied(client, &must_be_empty(scope, catalog, &begun)).await?;
    let mut findings = judge(scope, catalog, &occupied);
    if !scope.replica_role && scope.insert_published {
        findings.extend(cascade::findings(client, scope, catalog, &states).await?);
    }
    Ok(findings)
}

/// Tables never begun, when rows in them are not to be touched.
fn must_be_empty<'a>(
    scope: &CopyScope,
    catalog: &'a TargetCatalog,
    begun: &BTreeSet<TableName>,
) -> Vec<(&'a TableName, Kind)> {
    if scope.settings.existing_rows != ExistingRows::Refuse || !scope.insert_published {
        return Vec::new();
    }
    let can_be_asked = |table: &TargetTable| {
        let select = Sql::new("SELECT");
        !table.schema_closed && !table.row_security && !table.missing_privileges.contains(&select)
    };
    let asked = |(name, table): &(&TableName, &TargetTable)| {
        scope.tables.iter().any(|published| published.name == **name)
            && !begun.contains(*name)
            && !matches!(table.kind, Kind::Other(_))
            && can_be_asked(table)
    };
    catalog.tables.iter().filter(asked).map(|(name, table)| (name, table.kind)).collect()
}

/// Which of these tables hold rows. Mostly none: so first it is asked in whose files there is anything, and then a
/// hundred are looked into at once.
pub(super) async fn occupied(client: &Client, tables: &[(&TableName, Kind)]) -> Result<BTreeSet<TableName>, PgError> {
    let mut found = BTreeSet::new();
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|(table, _)| (table.schema.as_str(), table.name.as_str())).unzip();
    let mut asked = Vec::new();
    if !tables.is_empty() {
        for row in client.query(&statement::NOT_BARE, &[&schemas, &names]).await? {
            asked.extend(usize::try_from(row.get::<_, i64>(0) - 1).ok().and_then(|index| tables.get(index)).copied());
        }
    }
    for some in asked.chunks(100) {
        for row in client.query(&statement::occupied(some), &[]).await? {
            let index = usize::try_from(row.get::<_, i64>(0)).ok();
            found.extend(index.and_then(|index| some.get(index)).map(|(table, _)| (*table).clone()));
        }
    }
    Ok(found)
}

/// All findings. `occupied`: tables that hold rows and should not.
pub fn judge(scope: &CopyScope, catalog: &TargetCatalog, occupied: &BTreeSet<TableName>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for published in &scope.tables {
        let name = &published.name;
        let Some(target) = catalog.tables.get(name) else {
            let sql = remedy::create_table(published, catalog.schemas.contains(&name.schema));
            findings.push(Finding::stops(name, Matter::Missing, "is missing on the target", Some(sql)));
            continue;
        };
        if let Kind::Other(kind) = target.kind {
            let problem = format!("is no table on the target but {}", what_is(kind));
            findings.push(Finding::stops(name, Matter::NoTable, problem, None));
            continue;
        }
        if published.falsely_full {
            findings.push(Finding::stops(name, Matter::FalselyFull, FALSELY_FULL, None));
        }
        columns(published, target, &mut findings);
        access(scope, published, target, catalog, &mut findings);
        rows(scope, published, target, occupied.contains(name), &mut findings);
        merging(scope, published, target, catalog, &mut findings);
    }
    if !scope.replica_role {
        findings.extend(circle(scope, catalog));
    }
    if (scope.settings.existing_rows == ExistingRows::Merge || scope.settings.mode == CopyMode::Merge)
        && !catalog.may_create_temporary
        && let Some(first) = scope.tables.first()
    {
        let sql = remedy::grant_temporary(&catalog.database, &catalog.role);
        let problem = "and all others: merging needs temporary tables, which the role may not create on the target";
        findings.push(Finding::stops(&first.name, Matter::NoTemporary, problem, Some(sql)));
    }
    findings
}

const FALSELY_FULL: &str = "has REPLICA IDENTITY FULL on the source and partitions that have not, so that old rows \
    would arrive with values missing; run there ALTER TABLE … REPLICA IDENTITY FULL for each partition, or … REPLICA \
    IDENTITY DEFAULT for the table";

fn what_is(relkind: char) -> &'static str {
    match relkind {
        'v' => "a view",
        'm' => "a materialized view",
        'f' => "a foreign table",
        'S' => "a sequence",
        'i' | 'I' => "an index",
        'c' => "a composite type",
        _ => "something else",
    }
}

fn columns(published: &PublishedTable, target: &TargetTable, findings: &mut Vec<Finding>) {
    let name = &published.name;
    for column in &published.columns {
        let shown = Displayed(&column.name);
        match target.column(&column.name) {
            None => {
                let sql = remedy::add_column(name, column);
                let problem = format!("lacks column {shown} on the target");
                findings.push(Finding::stops(name, Matter::ColumnMissing, problem, Some(sql)));
            }
            Some(found) if found.generated => {
                let problem =
                    format!("generates column {shown} on the target, so the source's values of it are not written");
                findings.push(Finding::warns(name, Matter::ColumnGenerated, problem));
            }
            Some(_) => {}
        }
    }
    for unsent in &published.unsent {
        if target.column(unsent).is_some_and(|column| !column.generated) {
            let problem = format!(
                "has column {} that the source generates and does not send, so on the target it is left to its default",
                Displayed(unsent)
            );
            findings.push(Finding::warns(name, Matter::ColumnNotSent, problem));
        }
    }
    let sent: BTreeSet<&str> = published.columns.iter().map(|column| column.name.as_str()).collect();
    let left_empty = |c: &&super::target_tables::TargetColumn| {
        c.not_null && !c.has_default && !c.generated && !sent.contains(c.name.as_str())
    };
    for column in target.columns.iter().filter(left_empty) {
        let shown = Displayed(&column.name);
        let problem = format!(
            "requires column {shown} (NOT NULL without a default) on the target, which the source does not send"
        );
        let sql = remedy::drop_not_null(name, &column.name);
        findings.push(Finding::stops(name, Matter::ColumnRequired, problem, Some(sql)));
    }
}

fn access(
    scope: &CopyScope,
    published: &PublishedTable,
    target: &TargetTable,
    catalog: &TargetCatalog,
    findings: &mut Vec<Finding>,
) {
    let name = &published.name;
    if target.schema_closed {
        let sql = remedy::grant_usage(&name.schema, &catalog.role);
        let problem = "is in a schema the role may not use on the target";
        findings.push(Finding::stops(name, Matter::SchemaClosed, problem, Some(sql)));
    }
    let truncate = Sql::new("TRUNCATE");
    // Without it, the copy empties tables row by row; only the stream cannot do without.
    let needed = |privilege: &&Sql| **privilege != truncate || scope.truncate_published;
    let missing: Vec<&Sql> = target.missing_privileges.iter().filter(needed).collect();
    if !missing.is_empty() {
        let missing = Sql::join(missing, ", ");
        let sql = remedy::grant(&missing, name, &catalog.role);
        let problem = format!("does not allow {missing} to the role on the target");
        findings.push(Finding::stops(name, Matter::Privilege, problem, Some(sql)));
    }
    if target.row_security {
        let problem = "has row level security on the target, which would hide rows from the role";
        let sql = remedy::bypass_row_security(&catalog.role);
        findings.push(Finding::stops(name, Matter::RowSecurity, problem, Some(sql)));
    }
    let (triggers, why) = match scope.replica_role {
        true => (&target.replica_triggers, "ENABLE ALWAYS or ENABLE REPLICA, so also in the replica role"),
        false => (&target.triggers, "the role may not set session_replication_role"),
    };
    if !triggers.is_empty() {
        let triggers: Vec<String> = triggers.iter().map(|name| Displayed(name).to_string()).collect();
        let problem = format!("has triggers that fire for every row on the target: {} ({why})", triggers.join(", "));
        findings.push(Finding::warns(name, Matter::Triggers, problem));
    }
}

fn rows(
    scope: &CopyScope,
    published: &PublishedTable,
    target: &TargetTable,
    occupied: bool,
    findings: &mut Vec<Finding>,
) {
    let name = &published.name;
    if !scope.insert_published {
        let problem = "is not copied, because the publication does not publish inserts";
        findings.push(Finding::warns(name, Matter::NotCopied, problem));
        return;
    }
    if occupied {
        let sql = statement::truncate(&[(name, target.kind)]);
        let problem = "already holds rows on the target; \
            empty it, or choose existing_rows = \"truncate\" or \"merge\"";
        findings.push(Finding::stops(name, Matter::Occupied, problem, Some(sql)));
    }
}

fn merging(
    scope: &CopyScope,
    published: &PublishedTable,
    target: &TargetTable,
    catalog: &TargetCatalog,
    findings: &mut Vec<Finding>,
) {
    let name = &published.name;
    if !scope.insert_published {
        return;
    }
    let key = &published.identity_columns;
    let add_key = || (!key.is_empty()).then(|| remedy::add_key(name, key));
    let found = fate::obstacle(scope, catalog, published, target);
    if scope.settings.existing_rows == ExistingRows::Merge {
        if let Some(why @ Obstacle::NoKey) = found {
            findings.push(Finding::stops(name, Matter::NoMergeKey, format!("cannot be merged: {why}"), add_key()));
        }
    } else if scope.settings.mode == CopyMode::Merge
        && let Some(why) = found
    {
        let problem = format!("is emptied whenever it is copied again, in spite of copy.mode = \"merge\": {why}");
        let sql = match why {
            Obstacle::NoKey => add_key(),
            Obstacle::ForeignKeys => catalog.grants_parameters.then(|| remedy::grant_replica_role(&catalog.role)),
        };
        findings.push(Finding { sql, ..Finding::warns(name, Matter::NotMerged, problem) });
    }
}

fn circle(scope: &CopyScope, catalog: &TargetCatalog) -> Vec<Finding> {
    let tables: BTreeMap<_, _> = scope.tables.iter().map(|table| (table.name.clone(), ())).collect();
    let circle = order::waves(&tables.into_keys().collect(), &catalog.foreign_keys);
    let Err(order::Cycle(circle)) = circle else { return Vec::new() };
    let shown: Vec<String> = circle.iter().map(ToString::to_string).collect();
    let problem = format!(
        "is in a circle of foreign keys on the target ({}), which can only be filled with \
         session_replication_role = replica",
        shown.join(", ")
    );
    let grant = || catalog.grants_parameters.then(|| remedy::grant_replica_role(&catalog.role));
    let finding = |(at, table)| {
        let sql = if at == 0 { grant() } else { None };
        Finding::stops(table, Matter::Circle, problem.clone(), sql)
    };
    circle.iter().enumerate().map(finding).collect()
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
