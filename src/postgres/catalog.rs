//! What a server's catalogue says about tables: in go names, out comes what apply must know to write to them.

use super::{Client, PgError};
use std::collections::HashMap;

use crate::relation::TableName;
use crate::sql::Sql;

/// OIDs from here on are given by each server as objects are made (`FirstNormalObjectId`, access/transam.h).
pub const FIRST_USER_OID: u32 = 16_384;

/// A table as it is on the server asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Schema and name.
    pub name: TableName,
    /// `pg_class.oid` on that server.
    pub oid: u32,
    /// Whether it is partitioned (`relkind = 'p'`): row positions are then unique per partition only.
    pub partitioned: bool,
    /// All columns that are not dropped, in order.
    pub columns: Vec<ColumnInfo>,
    /// Valid unique indexes without expressions and predicates; the primary key first.
    pub unique: Vec<UniqueIndex>,
    /// Whether a foreign key of this table removes or changes its rows when the referenced row goes.
    pub cascaded: bool,
    /// Whether a foreign key of the table changes its rows when the row they refer to changes its key.
    pub rekeyed: bool,
    /// Whether rows of other tables are removed or changed by their foreign keys when a row of this one goes.
    pub referenced: bool,
    /// Whether triggers (other than those of constraints) or rules of the table, or of its partitions, fire in an
    /// ordinary session.
    pub fires: bool,
    /// The same with `session_replication_role = replica`.
    pub fires_as_replica: bool,
}

/// A column as it is on the server asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInfo {
    /// `pg_attribute.attname`.
    pub name: String,
    /// `pg_attribute.atttypid` on that server.
    pub type_oid: u32,
    /// The type's name, quoted and qualified: without its modifier, also where SQL's own spelling has one (`bit`).
    pub type_name: Sql,
    /// The type below any domains.
    pub base_type_oid: u32,
    /// Its name, as above.
    pub base_type_name: Sql,
    /// Whether a cast from text goes by the type's input function (`pg_cast` has no function of its own for it).
    pub read_from_text: bool,
    /// The enum below a domain, quoted: its operators do not take the domain (`enforce_generic_type_consistency` looks
    /// through domains over arrays and ranges only).
    pub enum_below: Option<Sql>,
    /// `attgenerated`: computed by the server, cannot be written.
    pub generated: bool,
    /// `attidentity = 'a'`: INSERT needs OVERRIDING SYSTEM VALUE, UPDATE cannot set it.
    pub identity_always: bool,
    /// A collation under which strings of different bytes can be equal.
    pub loose_collation: bool,
}

/// A unique index that can find a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// `pg_class.relname` of the index: what a violation's constraint name says.
    pub name: String,
    /// Key columns with the equality operator of the index's operator class, ready for use: `OPERATOR(public.=)`.
    pub columns: Vec<(String, Sql)>,
    /// Whether it is the primary key.
    pub primary: bool,
    /// Checked at the end of the statement or transaction: rows may be equal for a while.
    pub deferrable: bool,
    /// Every key column is NOT NULL.
    pub not_null: bool,
}

impl TableInfo {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.name == name)
    }
}

const TABLES: Sql = Sql::new(
    "SELECT c.oid, c.relkind = 'p',
            EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
                    AND f.confdeltype IN ('c', 'n', 'd')),
            EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
                    AND f.confupdtype IN ('c', 'n', 'd')),
            EXISTS (SELECT FROM pg_constraint f WHERE f.confrelid = c.oid AND f.contype = 'f'
                    AND f.confdeltype IN ('c', 'n', 'd')),
            '{O,A}' && acts.modes, '{R,A}' && acts.modes, wanted.number
     FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (schema, name, number)
     JOIN pg_namespace n ON n.nspname = wanted.schema
     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
     CROSS JOIN LATERAL (
         WITH whole(oid) AS (SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid::regclass))
         SELECT ARRAY(
             SELECT t.tgenabled::text FROM pg_trigger t JOIN whole ON whole.oid = t.tgrelid WHERE NOT t.tgisinternal
             UNION
             SELECT r.ev_enabled::text FROM pg_rewrite r JOIN whole ON whole.oid = r.ev_class WHERE r.ev_type <> '1')
     ) AS acts(modes)
     WHERE c.relkind IN ('r', 'p')",
);

const COLUMNS: Sql = Sql::new(
    "WITH RECURSIVE base(relid, attnum, typid) AS (
         SELECT a.attrelid, a.attnum, a.atttypid FROM pg_attribute a
         WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
         UNION ALL
         SELECT b.relid, b.attnum, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typid AND t.typtype = 'd'
     )
     SELECT a.attname::text, a.atttypid, b.typid, a.attgenerated <> '', a.attidentity = 'a',
            coalesce(NOT l.collisdeterministic, false),
            t.typtype = 'e' AND a.atttypid <> t.oid, n.nspname::text, t.typname::text,
            own_n.nspname::text, own.typname::text,
            NOT EXISTS (SELECT FROM pg_cast k WHERE k.castsource = 'text'::regtype AND k.casttarget = t.oid
                        AND k.castmethod = 'f'), a.attrelid
     FROM pg_attribute a
     JOIN base b ON b.relid = a.attrelid AND b.attnum = a.attnum
     JOIN pg_type t ON t.oid = b.typid AND t.typtype <> 'd'
     JOIN pg_namespace n ON n.oid = t.typnamespace
     JOIN pg_type own ON own.oid = a.atttypid
     JOIN pg_namespace own_n ON own_n.oid = own.typnamespace
     LEFT JOIN pg_collation l ON l.oid = a.attcollation
     WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attrelid, a.attnum",
);

// Strategy 3 of btree is equality (docs: Index Methods and Operator Classes). A unique index over another access
// method (PostgreSQL 18's WITHOUT OVERLAPS) has no such row and drops out.
const UNIQUE: Sql = Sql::new(
    "SELECT i.indexrelid, x.relname::text, i.indisprimary, NOT i.indimmediate,
            a.attname::text, a.attnotnull, o.oprname::text, n.nspname::text, i.indnkeyatts::int, i.indrelid
     FROM pg_index i
     JOIN pg_class x ON x.oid = i.indexrelid
     CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS k
     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k]
     JOIN pg_opclass c ON c.oid = i.indclass[k]
     JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype
          AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3 AND m.amopmethod = x.relam
     JOIN pg_am am ON am.oid = x.relam AND am.amname = 'btree'
     JOIN pg_operator o ON o.oid = m.amopopr
     JOIN pg_namespace n ON n.oid = o.oprnamespace
     WHERE i.indrelid = ANY ($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
     ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid, k",
);

/// Those of these tables, each named once, that there are (what has the name and is no table is left out), with three
/// questions whatever their number.
///
/// # Errors
/// As [`Client::query`].
pub async fn tables(client: &Client, names: &[&TableName]) -> Result<HashMap<TableName, TableInfo>, PgError> {
    let (schemas, relations): (Vec<&str>, Vec<&str>) =
        names.iter().map(|name| (name.schema.as_str(), name.name.as_str())).unzip();
    let found = client.query(&TABLES, &[&schemas, &relations]).await?;
    let oids: Vec<u32> = found.iter().map(|row| row.get(0)).collect();
    let mut columns: HashMap<u32, Vec<ColumnInfo>> = HashMap::new();
    for row in client.query(&COLUMNS, &[&oids]).await? {
        columns.entry(row.get(12)).or_default().push(column(&row));
    }
    let mut unique = unique_indexes(client, &oids).await?;
    let mut tables = HashMap::new();
    for row in found {
        let (oid, number): (u32, i64) = (row.get(0), row.get(7));
        let Some(name) = usize::try_from(number - 1).ok().and_then(|at| names.get(at)) else { continue };
        let info = TableInfo {
            name: TableName::clone(name),
            oid,
            partitioned: row.get(1),
            columns: columns.remove(&oid).unwrap_or_default(),
            unique: unique.remove(&oid).unwrap_or_default(),
            cascaded: row.get(2),
            rekeyed: row.get(3),
            referenced: row.get(4),
            fires: row.get(5),
            fires_as_replica: row.get(6),
        };
        tables.insert(info.name.clone(), info);
    }
    Ok(tables)
}

/// A row of [`COLUMNS`].
fn column(row: &tokio_postgres::Row) -> ColumnInfo {
    let type_name = |at: usize| Sql::table(&TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1)));
    let base_type_name = type_name(7);
    ColumnInfo {
        name: row.get(0),
        type_oid: row.get(1),
        type_name: type_name(9),
        base_type_oid: row.get(2),
        enum_below: row.get::<_, bool>(6).then(|| base_type_name.clone()),
        base_type_name,
        read_from_text: row.get(11),
        generated: row.get(3),
        identity_always: row.get(4),
        loose_collation: row.get(5),
    }
}

/// The foreign keys of the database: the table that refers (partitions have entries of their own), and the one it
/// refers to.
///
/// # Errors
/// As [`Client::query`].
pub async fn foreign_keys(client: &Client) -> Result<Vec<(u32, u32)>, PgError> {
    let keys = Sql::new("SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f'");
    Ok(client.query(&keys, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn unique_indexes(client: &Client, tables: &[u32]) -> Result<HashMap<u32, Vec<UniqueIndex>>, PgError> {
    struct Found {
        table: u32,
        id: u32,
        keys: i32,
        index: UniqueIndex,
    }
    let mut indexes: Vec<Found> = Vec::new();
    for row in client.query(&UNIQUE, &[&tables]).await? {
        let id: u32 = row.get(0);
        if indexes.last().is_none_or(|last| last.id != id) {
            let index = UniqueIndex {
                name: row.get(1),
                columns: Vec::new(),
                primary: row.get(2),
                deferrable: row.get(3),
                not_null: true,
            };
            indexes.push(Found { table: row.get(9), id, keys: row.get(8), index });
        }
        if let Some(Found { index, .. }) = indexes.last_mut() {
            let operator = operator(row.get(7), row.get(6));
            index.columns.push((row.get(4), operator));
            index.not_null &= row.get::<_, bool>(5);
        }
    }
    // An index with a key column whose operator was not found cannot be used to find a row.
    indexes.retain(|found| found.index.columns.len() == found.keys as usize);
    let mut of: HashMap<u32, Vec<UniqueIndex>> = HashMap::new();
    for found in indexes {
        of.entry(found.table).or_default().push(found.index);
    }
    Ok(of)
}

/// `OPERATOR("schema".=)`. An operator's name cannot be quoted and consists of operator characters only.
fn operator(schema: &str, name: &str) -> Sql {
    let name = Sql::from_catalog(name.to_owned());
    Sql::format("OPERATOR({}.{})", &[&Sql::ident(schema), &name])
}

/// The OIDs of those of these tables that there are.
///
/// # Errors
/// As [`Client::query`].
pub async fn oids(
    client: &Client,
    tables: impl Iterator<Item = &TableName>,
) -> Result<HashMap<TableName, u32>, PgError> {
    let found = Sql::new(
        "SELECT n.nspname::text, c.relname::text, c.oid FROM unnest($1::text[], $2::text[]) AS t (nsp, rel)
         JOIN pg_namespace n ON n.nspname = t.nsp JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.rel",
    );
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let rows = client.query(&found, &[&schemas, &names]).await?;
    let entry =
        |row: &tokio_postgres::Row| (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2));
    Ok(rows.iter().map(entry).collect())
}

/// The present name of a table; `None` when it is gone.
///
/// # Errors
/// As [`Client::query`].
pub async fn name(client: &Client, oid: u32) -> Result<Option<TableName>, PgError> {
    let name = Sql::new(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = $1",
    );
    let row = client.query_opt(&name, &[&oid]).await?;
    Ok(row.map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))))
}

/// The name of a built-in type with its modifier, as the server prints it (`numeric(10,2)`); for messages that offer a
/// statement. `None` for a type the server does not have.
///
/// # Errors
/// As [`Client::query`].
pub async fn type_name(client: &Client, oid: u32, modifier: i32) -> Result<Option<String>, PgError> {
    let name = Sql::new("SELECT format_type(oid, $2) FROM pg_type WHERE oid = $1");
    Ok(client.query_opt(&name, &[&oid, &modifier]).await?.map(|row| row.get(0)))
}
