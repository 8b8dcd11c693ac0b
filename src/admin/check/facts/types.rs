//! Types of columns that are not built in, and the extensions they come from.

use std::collections::BTreeMap;

use super::tables::name;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// Extensions of a database: name, and version.
pub type Extensions = BTreeMap<String, String>;

/// A column's type that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The table.
    pub table: TableName,
    /// The column.
    pub column: String,
    /// The type itself, or that of an array's elements: its schema and name.
    pub name: TableName,
    /// What it is.
    pub made: Made,
}

/// How a type was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// CREATE TYPE … AS ENUM, with its labels in order.
    Enum(Vec<String>),
    /// CREATE DOMAIN, with the type below as SQL prints it.
    Domain(String),
    /// By an extension: which, and the schema it is in.
    Extension(String, String),
    /// A composite, a range, a base type.
    Otherwise,
}

/// Of a domain the type below is not followed. 16384 is FirstNormalObjectId.
const COLUMN_TYPES: Sql = Sql::new(
    "SELECT n.nspname::text, c.relname::text, a.attname::text, tn.nspname::text, t.typname::text, t.typtype::text, \
     ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder), \
     CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END, e.extname::text, en.nspname::text \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     JOIN pg_type ct ON ct.oid = a.atttypid \
     JOIN pg_type t ON t.oid = CASE WHEN ct.typcategory = 'A' AND ct.typelem <> 0 THEN ct.typelem ELSE ct.oid END \
     JOIN pg_namespace tn ON tn.oid = t.typnamespace \
     LEFT JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e' \
     LEFT JOIN pg_extension e ON e.oid = d.refobjid LEFT JOIN pg_namespace en ON en.oid = e.extnamespace \
     WHERE c.oid = ANY ($1::oid[]) AND t.oid >= 16384 ORDER BY 1, 2, a.attnum",
);

/// Types that are not built in, of the columns of these tables.
///
/// # Errors
/// The server answers what it should not.
pub async fn of_columns(client: &Client, tables: &[u32]) -> Result<Vec<ColumnType>, PgError> {
    let mut found = Vec::new();
    for row in client.query(&COLUMN_TYPES, &[&tables]).await? {
        let extension: Option<String> = row.get(8);
        let made = match (extension, row.get::<_, &str>(5), row.get::<_, Option<String>>(7)) {
            (Some(extension), ..) => Made::Extension(extension, row.get(9)),
            (None, "e", _) => Made::Enum(row.get(6)),
            (None, "d", Some(base)) => Made::Domain(base),
            _ => Made::Otherwise,
        };
        found.push(ColumnType { table: name(&row, 0), column: row.get(2), name: name(&row, 3), made });
    }
    Ok(found)
}

/// Those of these types that are there, with the labels of enums.
///
/// # Errors
/// The server answers what it should not.
pub async fn named<'a>(
    client: &Client,
    names: impl IntoIterator<Item = &'a TableName>,
) -> Result<BTreeMap<TableName, Vec<String>>, PgError> {
    let (schemas, types): (Vec<&str>, Vec<&str>) =
        names.into_iter().map(|name| (name.schema.as_str(), name.name.as_str())).unzip();
    let asked = Sql::new(
        "SELECT n.nspname::text, t.typname::text, \
         ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder) \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE (n.nspname, t.typname) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
    );
    let rows = client.query(&asked, &[&schemas, &types]).await?;
    Ok(rows.iter().map(|row| (name(row, 0), row.get(2))).collect())
}

/// What is installed in this database.
///
/// # Errors
/// The server answers what it should not.
pub async fn extensions(client: &Client) -> Result<Extensions, PgError> {
    let rows = client.query(&Sql::new("SELECT extname::text, extversion FROM pg_extension"), &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
