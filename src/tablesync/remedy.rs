//! The statements that mend what preflight finds, for an operator to run on the target. Pure.

use crate::relation::TableName;
use crate::source::publication::{PublishedColumn, PublishedTable};
use crate::sql::Sql;

/// The table as published: columns, types, NOT NULL and the replica identity as primary key. A sketch: defaults, other
/// constraints and indexes are the operator's.
pub fn create_table(published: &PublishedTable, schema_exists: bool) -> Sql {
    let column = |column: &PublishedColumn| {
        let not_null = Sql::new(if column.not_null { " NOT NULL" } else { "" });
        Sql::format("{} {}{}", &[&Sql::ident(&column.name), &type_of(column), &not_null])
    };
    let mut lines: Vec<Sql> = published.columns.iter().map(column).collect();
    if !published.identity_columns.is_empty() {
        lines.push(Sql::format("PRIMARY KEY ({})", &[&idents(&published.identity_columns)]));
    }
    let table = Sql::format("CREATE TABLE {} ({})", &[&Sql::table(&published.name), &Sql::join(&lines, ", ")]);
    match schema_exists {
        true => table,
        false => Sql::format("CREATE SCHEMA {}; {}", &[&Sql::ident(&published.name.schema), &table]),
    }
}

/// The missing column with the source's type.
pub fn add_column(table: &TableName, column: &PublishedColumn) -> Sql {
    Sql::format("ALTER TABLE {} ADD COLUMN {} {}", &[&Sql::table(table), &Sql::ident(&column.name), &type_of(column)])
}

/// Lets a column that the source does not send stay empty.
pub fn drop_not_null(table: &TableName, column: &str) -> Sql {
    Sql::format("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", &[&Sql::table(table), &Sql::ident(column)])
}

/// A key to merge by.
pub fn add_key(table: &TableName, columns: &[String]) -> Sql {
    Sql::format("ALTER TABLE {} ADD PRIMARY KEY ({})", &[&Sql::table(table), &idents(columns)])
}

/// Privileges on a table.
pub fn grant(privileges: &Sql, table: &TableName, role: &str) -> Sql {
    Sql::format("GRANT {} ON TABLE {} TO {}", &[privileges, &Sql::table(table), &Sql::ident(role)])
}

/// The schema.
pub fn grant_usage(schema: &str, role: &str) -> Sql {
    Sql::format("GRANT USAGE ON SCHEMA {} TO {}", &[&Sql::ident(schema), &Sql::ident(role)])
}

/// Temporary tables.
pub fn grant_temporary(database: &str, role: &str) -> Sql {
    Sql::format("GRANT TEMPORARY ON DATABASE {} TO {}", &[&Sql::ident(database), &Sql::ident(role)])
}

/// Foreign keys and triggers that can be switched off.
pub fn grant_replica_role(role: &str) -> Sql {
    Sql::format("GRANT SET ON PARAMETER session_replication_role TO {}", &[&Sql::ident(role)])
}

/// Row level security that does not apply to the role.
pub fn bypass_row_security(role: &str) -> Sql {
    Sql::format("ALTER ROLE {} BYPASSRLS", &[&Sql::ident(role)])
}

fn idents(names: &[String]) -> Sql {
    let names: Vec<Sql> = names.iter().map(|name| Sql::ident(name)).collect();
    Sql::join(&names, ", ")
}

/// `format_type` of the source: quoted and, since sessions have an empty search path, qualified.
fn type_of(column: &PublishedColumn) -> Sql {
    Sql::from_catalog(column.type_name.clone())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_missing_table_is_sketched_from_what_is_published() {
        let mut published = fixture::published("T", &["id", "v"]);
        published.columns[0].not_null = true;
        assert_eq!(
            create_table(&published, false).as_str(),
            r#"CREATE SCHEMA "s"; CREATE TABLE "s"."T" ("id" integer NOT NULL, "v" integer, PRIMARY KEY ("id"))"#
        );
        published.identity_columns.clear();
        assert_eq!(
            create_table(&published, true).as_str(),
            r#"CREATE TABLE "s"."T" ("id" integer NOT NULL, "v" integer)"#
        );
    }
}
