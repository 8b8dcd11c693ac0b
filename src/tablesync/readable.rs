//! Whether the source lets its rows be read, all of them: asked before anything is emptied for them on the target.
//!
//! In: the published tables and the columns that will be read. Out: findings that stop the copy, each with the
//! statement to be run on the source.

use super::CopyScope;
use super::plan::writable;
use super::preflight::{Finding, Matter};
use super::remedy;
use super::target_tables::TargetCatalog;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// `$1`: the tables that hold the rows. `$2`, `$3`: the columns that are read, each beside its table. Without a column,
/// rows are counted, for which SELECT on any is enough.
const ACCESS: Sql = Sql::new(
    "SELECT c.oid, has_schema_privilege(c.relnamespace, 'USAGE'), \
     has_table_privilege(c.oid, 'SELECT') OR coalesce(p.every, has_any_column_privilege(c.oid, 'SELECT')), \
     row_security_active(c.oid), current_user::text \
     FROM unnest($1::oid[]) AS leaf JOIN pg_class c ON c.oid = leaf \
     LEFT JOIN (SELECT a.attrelid, bool_and(has_column_privilege(a.attrelid, a.attnum, 'SELECT')) AS every \
                FROM unnest($2::oid[], $3::text[]) AS read (leaf, name) \
                JOIN pg_attribute a ON a.attrelid = read.leaf AND a.attname = read.name GROUP BY a.attrelid) p \
     ON p.attrelid = c.oid",
);

/// What the source refuses its role, or hides from it.
pub(super) async fn findings(
    source: &Client,
    scope: &CopyScope,
    catalog: &TargetCatalog,
) -> Result<Vec<Finding>, PgError> {
    let (mut leaves, mut of, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    let mut names = std::collections::HashMap::new();
    for published in &scope.tables {
        let Some(target) = catalog.tables.get(&published.name) else { continue };
        let read = writable(published, target);
        for leaf in &published.leaves {
            names.insert(leaf.oid, (&published.name, &leaf.name));
            leaves.push(leaf.oid);
            of.extend(read.iter().map(|_| leaf.oid));
            columns.extend(read.iter().cloned());
        }
    }
    let mut found = Vec::new();
    for row in source.query(&ACCESS, &[&leaves, &of, &columns]).await? {
        let Some((table, leaf)) = names.get(&row.get::<_, u32>(0)) else { continue };
        let access = Access { open: row.get(1), select: row.get(2), hides: row.get(3) };
        found.extend(judge(table, leaf, &access, row.get(4)));
    }
    found.sort_by(|a, b| a.table.cmp(&b.table));
    Ok(found)
}

struct Access {
    /// The schema may be used.
    open: bool,
    /// Every column that is copied may be read.
    select: bool,
    /// Row level security applies to the role.
    hides: bool,
}

fn judge(table: &TableName, leaf: &TableName, access: &Access, role: &str) -> Vec<Finding> {
    let which = if table == leaf { String::new() } else { format!(" in its partition {leaf}") };
    let stops = |matter, problem: &str, sql: &Sql| {
        Finding::stops(table, matter, format!("{problem}{which}; run there {sql}"), None)
    };
    let mut found = Vec::new();
    if !access.open {
        let grant = remedy::grant_usage(&leaf.schema, role);
        found.push(stops(Matter::SchemaClosed, "is in a schema the role may not use on the source", &grant));
    }
    if !access.select {
        let grant = remedy::grant(&Sql::new("SELECT"), leaf, role);
        found.push(stops(Matter::Privilege, "does not allow SELECT to the role on the source", &grant));
    }
    if access.hides {
        let problem = "has row level security on the source, which would hide rows from the role";
        found.push(stops(Matter::RowSecurity, problem, &remedy::bypass_row_security(role)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_said_with_the_statement_for_the_source() {
        let (table, leaf) = (TableName::new("s", "t"), TableName::new("p", "t_1"));
        let said = |leaf, access| {
            judge(&table, leaf, &access, "me").into_iter().map(|finding| finding.problem).collect::<Vec<_>>()
        };
        assert!(said(&table, Access { open: true, select: true, hides: false }).is_empty());
        let all = said(&leaf, Access { open: false, select: false, hides: true });
        assert!(all[0].ends_with(r#"in its partition p.t_1; run there GRANT USAGE ON SCHEMA "p" TO "me""#), "{all:?}");
        assert!(all[1].ends_with(r#"run there GRANT SELECT ON TABLE "p"."t_1" TO "me""#), "{all:?}");
        assert!(all[2].ends_with(r#"run there ALTER ROLE "me" BYPASSRLS"#), "{all:?}");
        let one = said(&table, Access { open: true, select: false, hides: false });
        assert_eq!(
            one,
            [r#"does not allow SELECT to the role on the source; run there GRANT SELECT ON TABLE "s"."t" TO "me""#]
        );
    }
}
