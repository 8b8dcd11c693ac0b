//! Definitions of tables, asked the same way on source and target.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// Tables by name.
pub type Tables = BTreeMap<TableName, TableFacts>;

/// A table, as far as it can differ between the sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFacts {
    /// `pg_class.oid`.
    pub oid: u32,
    /// It is a partition.
    pub is_partition: bool,
    /// In their order.
    pub columns: Vec<ColumnFacts>,
    /// Valid ones.
    pub indexes: Vec<IndexFacts>,
    /// Check and exclusion constraints: name and definition.
    pub constraints: Vec<(String, String)>,
    /// `pg_get_partkeydef` of a partitioned table.
    pub partition_key: Option<String>,
    /// Its partitions, one level down: name and bound.
    pub partitions: Vec<(TableName, String)>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnFacts {
    /// `pg_attribute.attname`.
    pub name: String,
    /// As `format_type` prints it with an empty `search_path`.
    pub type_name: String,
    /// `pg_attribute.attnotnull`.
    pub not_null: bool,
    /// It belongs to the primary key, so that it cannot be NULL.
    pub in_primary_key: bool,
    /// A default or an identity fills it when it is not written.
    pub has_default: bool,
    /// The default's expression.
    pub default: Option<DefaultFacts>,
    /// GENERATED … AS IDENTITY: `ALWAYS` or `BY DEFAULT`.
    pub identity: Option<String>,
    /// The expression of a generated column.
    pub expression: Option<String>,
    /// It is generated when it is read, not when it is written (18 and later).
    pub is_virtual: bool,
    /// Its collation, quoted, where that is not its type's.
    pub collation: Option<String>,
}

/// A column's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultFacts {
    /// As SQL prints it.
    pub expression: String,
    /// The sequence it takes from.
    pub sequence: Option<TableName>,
    /// It needs nothing besides that somebody has made.
    pub portable: bool,
}

/// An index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexFacts {
    /// The index, in its table's schema.
    pub name: String,
    /// The constraint that it belongs to.
    pub constraint: Option<String>,
    /// UNIQUE.
    pub unique: bool,
    /// Of the primary key.
    pub primary: bool,
    /// Columns and expressions as SQL prints them, sorted.
    pub keys: Vec<String>,
    /// The predicate of a partial one.
    pub predicate: Option<String>,
}

impl TableFacts {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// What all queries here begin from: `c` is each of the tables.
const WANTED: Sql = Sql::new(
    "unnest($1::text[], $2::text[]) AS wanted (schema_name, table_name) \
     JOIN pg_namespace n ON n.nspname = wanted.schema_name \
     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.table_name AND c.relkind IN ('r', 'p')",
);

const COLUMNS: Sql = Sql::new(
    "SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
     EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)), \
     a.attgenerated = '' AND (a.atthasdef OR a.attidentity <> ''), \
     CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END, \
     CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END, a.attgenerated::text = 'v', \
     CASE WHEN a.attcollation <> t.typcollation THEN quote_ident(on_.nspname) || '.' || quote_ident(o.collname) END, \
     CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END, needs.made, needs.schema, needs.sequence \
     FROM {} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
     LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE s.oid IS NULL) > 0 AS made, \
         min(sn.nspname::text) AS schema, min(s.relname::text) AS sequence \
       FROM pg_depend p LEFT JOIN pg_class s ON s.oid = p.refobjid AND p.refclassid = 'pg_class'::regclass \
         AND s.relkind = 'S' LEFT JOIN pg_namespace sn ON sn.oid = s.relnamespace \
       WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refobjid <> c.oid) AS needs ON true \
     LEFT JOIN pg_collation o ON o.oid = a.attcollation LEFT JOIN pg_namespace on_ ON on_.oid = o.collnamespace \
     ORDER BY 1, 2, a.attnum",
);

const INDEXES: Sql = Sql::new(
    "SELECT n.nspname::text, c.relname::text, x.relname::text, k.conname::text, i.indisunique, i.indisprimary, \
     ARRAY(SELECT pg_get_indexdef(i.indexrelid, place, false) FROM generate_series(1, i.indnkeyatts::int) AS place \
           ORDER BY 1), pg_get_expr(i.indpred, i.indrelid) \
     FROM {} JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid JOIN pg_class x ON x.oid = i.indexrelid \
     LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x') \
     ORDER BY 1, 2, i.indisprimary DESC, 3",
);

const CONSTRAINTS: Sql = Sql::new(
    "SELECT n.nspname::text, c.relname::text, k.conname::text, pg_get_constraintdef(k.oid) \
     FROM {} JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('c', 'x') ORDER BY 1, 2, 3",
);

const PARTITIONS: Sql = Sql::new(
    "SELECT n.nspname::text, c.relname::text, pn.nspname::text, p.relname::text, pg_get_expr(p.relpartbound, p.oid) \
     FROM {} JOIN pg_inherits i ON i.inhparent = c.oid JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition \
     JOIN pg_namespace pn ON pn.oid = p.relnamespace ORDER BY 1, 2, 3, 4",
);

/// Partitioned tables below these.
const BELOW: Sql = Sql::new(
    "SELECT DISTINCT bn.nspname::text, b.relname::text FROM {} CROSS JOIN LATERAL pg_partition_tree(c.oid) AS t \
     JOIN pg_class b ON b.oid = t.relid AND b.relkind = 'p' AND b.oid <> c.oid \
     JOIN pg_namespace bn ON bn.oid = b.relnamespace",
);

/// Those of the tables that are there, and the partitioned ones below them, with a fixed number of queries.
///
/// # Errors
/// The server answers what it should not.
pub async fn load<'a>(client: &Client, names: impl IntoIterator<Item = &'a TableName>) -> Result<Tables, PgError> {
    let mut names: BTreeSet<TableName> = names.into_iter().cloned().collect();
    let below = ask(client, &BELOW, &names).await?;
    names.extend(below.iter().map(|row| name(row, 0)));
    let ask = async |template| ask(client, &template, &names).await;
    let mut found = Tables::new();
    let head = Sql::new(
        "SELECT n.nspname::text, c.relname::text, c.oid, c.relispartition, \
         CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END FROM {}",
    );
    for row in ask(head).await? {
        let table = TableFacts {
            oid: row.get(2),
            is_partition: row.get(3),
            partition_key: row.get(4),
            ..TableFacts::default()
        };
        found.insert(name(&row, 0), table);
    }
    for row in ask(COLUMNS).await? {
        of(&mut found, &row, |table| table.columns.push(column(&row)));
    }
    for row in ask(INDEXES).await? {
        of(&mut found, &row, |table| table.indexes.push(index(&row)));
    }
    for row in ask(CONSTRAINTS).await? {
        of(&mut found, &row, |table| table.constraints.push((row.get(2), row.get(3))));
    }
    for row in ask(PARTITIONS).await? {
        of(&mut found, &row, |table| table.partitions.push((name(&row, 2), row.get(4))));
    }
    Ok(found)
}

/// Asks about the tables of these names; `template` has a place for them.
async fn ask(client: &Client, template: &Sql, names: &BTreeSet<TableName>) -> Result<Vec<Row>, PgError> {
    let (schemas, tables): (Vec<&str>, Vec<&str>) =
        names.iter().map(|name| (name.schema.as_str(), name.name.as_str())).unzip();
    let template = template.as_str();
    let (before, after) = template.split_once("{}").unwrap_or((template, ""));
    let sql = Sql::from_catalog(format!("{before}{WANTED}{after}"));
    client.query(&sql, &[&schemas, &tables]).await
}

/// Schema and table from this column of a row on.
pub fn name(row: &Row, at: usize) -> TableName {
    TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1))
}

fn of(tables: &mut Tables, row: &Row, change: impl FnOnce(&mut TableFacts)) {
    if let Some(table) = tables.get_mut(&name(row, 0)) {
        change(table);
    }
}

fn column(row: &Row) -> ColumnFacts {
    let sequence = row.get::<_, Option<String>>(13).zip(row.get::<_, Option<String>>(14));
    let default = row.get::<_, Option<String>>(11).map(|expression| DefaultFacts {
        expression,
        sequence: sequence.map(|(schema, name)| TableName::new(schema, name)),
        portable: !row.get::<_, Option<bool>>(12).unwrap_or(false),
    });
    ColumnFacts {
        default,
        name: row.get(2),
        type_name: row.get(3),
        not_null: row.get(4),
        in_primary_key: row.get(5),
        has_default: row.get(6),
        identity: row.get(7),
        expression: row.get(8),
        is_virtual: row.get(9),
        collation: row.get(10),
    }
}

fn index(row: &Row) -> IndexFacts {
    IndexFacts {
        name: row.get(2),
        constraint: row.get(3),
        unique: row.get(4),
        primary: row.get(5),
        keys: row.get(6),
        predicate: row.get(7),
    }
}
