//! Tables that are not copied, and would lose rows when a table they refer to is emptied.
//!
//! TRUNCATE is refused while they refer to it, so the table is emptied by DELETE; and where foreign keys are at work,
//! that carries on by ON DELETE CASCADE, SET NULL or SET DEFAULT into tables that are not walferry's to change.

use std::collections::{BTreeMap, BTreeSet};

use super::fate::{Fate, fate, obstacle};
use super::preflight::{Finding, Matter, occupied};
use super::state::TableState;
use super::target_tables::{Kind, TargetCatalog, TargetTable};
use super::{CopyScope, remedy};
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::source::publication::PublishedTable;
use crate::sql::Sql;

/// A foreign key by which a table that is not copied would change.
struct Reference {
    child: TableName,
    kind: Kind,
    /// Whether the role may look for rows in the child.
    may_look: bool,
    action: String,
    parent: TableName,
}

/// `$1`: the tables to copy. `$2`: those of them that will be emptied. Of a partitioned table's foreign key each
/// partition has a copy of its own: so it is judged by the partitions, which may be copied by themselves.
const REFERENCES: Sql = Sql::new(
    "SELECT DISTINCT cn.nspname::text, c.relname::text, c.relkind::text, \
     has_schema_privilege(cn.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
       AND NOT row_security_active(c.oid), \
     CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END, parent.oid \
     FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace \
     CROSS JOIN LATERAL \
       (SELECT k.confrelid AS oid UNION SELECT relid::oid FROM pg_partition_ancestors(k.confrelid) AS relid) AS parent \
     WHERE k.contype = 'f' AND k.confdeltype IN ('c', 'n', 'd') AND parent.oid = ANY ($2::oid[]) \
     AND c.relkind <> 'p' \
     AND k.conrelid <> ALL ($1::oid[]) AND NOT EXISTS \
       (SELECT FROM pg_partition_ancestors(k.conrelid) AS relid WHERE relid::oid = ANY ($1::oid[])) \
     ORDER BY 6, 1, 2",
);

/// For each table that will be emptied, or lose rows, those that must not change by it and would.
pub(super) async fn findings(
    client: &Client,
    scope: &CopyScope,
    catalog: &TargetCatalog,
    states: &[TableState],
) -> Result<Vec<Finding>, PgError> {
    let states: BTreeMap<&TableName, &TableState> = states.iter().map(|state| (&state.name, state)).collect();
    let copied: BTreeMap<u32, &TableName> = catalog.tables.iter().map(|(name, table)| (table.oid, name)).collect();
    let loses = |(published, target): &(&PublishedTable, &TargetTable)| {
        let can_be_aligned = obstacle(scope, catalog, published, target).is_none();
        let fate = fate(&scope.settings, states.get(&published.name).copied(), can_be_aligned);
        matches!(fate, Fate::Go | Fate::Aligned)
    };
    let both = scope.tables.iter().filter_map(|table| Some((table, catalog.tables.get(&table.name)?)));
    let emptied: Vec<u32> = both.filter(loses).map(|(_, target)| target.oid).collect();
    if emptied.is_empty() {
        return Ok(Vec::new());
    }
    let oids: Vec<u32> = copied.keys().copied().collect();
    let mut references = Vec::new();
    for row in client.query(&REFERENCES, &[&oids, &emptied]).await? {
        let Some(parent) = copied.get(&row.get::<_, u32>(5)) else { continue };
        references.push(Reference {
            child: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            kind: if row.get::<_, &str>(2) == "p" { Kind::Partitioned } else { Kind::Plain },
            may_look: row.get(3),
            action: row.get(4),
            parent: (*parent).clone(),
        });
    }
    let asked: BTreeMap<&TableName, Kind> =
        references.iter().filter(|one| one.may_look).map(|one| (&one.child, one.kind)).collect();
    let occupied = occupied(client, &asked.into_iter().collect::<Vec<_>>()).await?;
    Ok(judge(&references, &occupied, catalog))
}

/// A table without rows has none to lose; one that cannot be looked into may have.
fn judge(references: &[Reference], occupied: &BTreeSet<TableName>, catalog: &TargetCatalog) -> Vec<Finding> {
    let at_risk = |one: &&Reference| !one.may_look || occupied.contains(&one.child);
    let finding = |one: &Reference| {
        let problem = format!(
            "loses rows when it is copied, and on the target that would carry on into table {} (ON DELETE \
             {}), which is not copied; let the role set session_replication_role, or drop that foreign key",
            one.child, one.action
        );
        let sql = catalog.grants_parameters.then(|| remedy::grant_replica_role(&catalog.role));
        Finding::stops(&one.parent, Matter::Cascades, problem, sql)
    };
    references.iter().filter(at_risk).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_holds_rows_or_cannot_be_looked_into_stops_the_copy() {
        let reference = |child: &str, may_look| Reference {
            child: TableName::new("s", child),
            kind: Kind::Plain,
            may_look,
            action: "SET NULL".to_owned(),
            parent: TableName::new("s", "t"),
        };
        let references = [reference("full", true), reference("empty", true), reference("closed", false)];
        let catalog = TargetCatalog { role: "me".to_owned(), grants_parameters: true, ..TargetCatalog::default() };
        let found = judge(&references, &[TableName::new("s", "full")].into(), &catalog);
        assert_eq!(found.len(), 2);
        assert!(found[0].problem.contains("table s.full (ON DELETE SET NULL)"), "{}", found[0].problem);
        assert!(found[1].problem.contains("table s.closed"), "{}", found[1].problem);
        let sql = r#"GRANT SET ON PARAMETER session_replication_role TO "me""#;
        assert_eq!(found[0].sql.as_ref().map(Sql::as_str), Some(sql));
    }
}
