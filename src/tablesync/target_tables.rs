//! What the target's catalogue says about the tables a copy is to fill.
//!
//! In: the tables' names. Out: a [`TargetCatalog`], read with a fixed number of queries whatever the number of tables,
//! from which preflight, order and statements are decided without asking again.

use std::collections::{BTreeMap, BTreeSet};

use super::order::ForeignKey;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// What is found under a table's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary table.
    Plain,
    /// A partitioned table.
    Partitioned,
    /// A view, a foreign table, anything rows cannot be copied into; `pg_class.relkind`.
    Other(char),
}

/// A column of a target's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetColumn {
    /// `pg_attribute.attname`.
    pub name: String,
    /// `pg_attribute.atttypid` on this server.
    pub type_oid: u32,
    /// The type below any domains.
    pub base_type_oid: u32,
    /// NOT NULL, of the column or of its domain.
    pub not_null: bool,
    /// A default, an identity or a domain's default fills it when it is not written.
    pub has_default: bool,
    /// GENERATED ALWAYS AS (expression): cannot be written.
    pub generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: written by COPY and with OVERRIDING SYSTEM VALUE, never by UPDATE.
    pub identity_always: bool,
}

/// A table of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// `pg_class.relkind`.
    pub kind: Kind,
    /// In the order of the table.
    pub columns: Vec<TargetColumn>,
    /// Unique keys that can arbitrate ON CONFLICT and identify every row: valid, immediate, without expression or
    /// predicate, all columns NOT NULL. The primary key first.
    pub keys: Vec<Vec<String>>,
    /// Of SELECT, INSERT, UPDATE, DELETE, TRUNCATE those the session's role lacks.
    pub missing_privileges: Vec<Sql>,
    /// Whether the role lacks USAGE on the schema.
    pub schema_closed: bool,
    /// Row level security would hide rows from the role.
    pub row_security: bool,
    /// Names of user triggers that fire without `session_replication_role = replica`.
    pub triggers: Vec<String>,
    /// Names of user triggers that fire with it: ENABLE ALWAYS, ENABLE REPLICA.
    pub replica_triggers: Vec<String>,
}

impl TargetTable {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// The target, as far as a copy cares.
#[derive(Clone, Debug, Default)]
pub struct TargetCatalog {
    /// The session's role.
    pub role: String,
    /// The database.
    pub database: String,
    /// Whether the right to set a parameter can be granted (PostgreSQL 15 and later).
    pub grants_parameters: bool,
    /// Whether the role may create temporary tables.
    pub may_create_temporary: bool,
    /// Those of the tables' schemas that exist.
    pub schemas: BTreeSet<String>,
    /// Those of the tables that exist.
    pub tables: BTreeMap<TableName, TargetTable>,
    /// Foreign keys among them.
    pub foreign_keys: Vec<ForeignKey>,
}

const SESSION: Sql = Sql::new(
    "SELECT current_user::text, current_database()::text, has_database_privilege(current_database(), 'TEMP'), \
     ARRAY(SELECT nspname::text FROM pg_namespace WHERE nspname = ANY ($1::text[]))",
);

const TABLES: Sql = Sql::new(
    "SELECT n.nspname::text, c.relname::text, c.oid, c.relkind::text, NOT has_schema_privilege(n.oid, 'USAGE'), \
     ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p \
           WHERE NOT has_table_privilege(c.oid, p)), \
     row_security_active(c.oid), \
     ARRAY(SELECT tgname::text FROM pg_trigger \
           WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname), \
     ARRAY(SELECT tgname::text FROM pg_trigger \
           WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled IN ('R', 'A') ORDER BY tgname) \
     FROM unnest($1::text[], $2::text[]) AS wanted (schema_name, table_name) \
     JOIN pg_namespace n ON n.nspname = wanted.schema_name \
     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.table_name",
);

const COLUMNS: Sql = Sql::new(
    "WITH RECURSIVE below (domain, oid) AS ( \
       SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.typtype = 'd' AND t.oid IN \
         (SELECT atttypid FROM pg_attribute WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped) \
       UNION ALL \
       SELECT b.domain, t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd'), \
     base (domain, oid) AS \
       (SELECT b.domain, b.oid FROM below b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd') \
     SELECT a.attrelid, a.attname::text, a.attnotnull OR t.typnotnull, \
     a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attgenerated <> '', a.attidentity = 'a', \
     a.atttypid, coalesce(b.oid, a.atttypid) \
     FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN base b ON b.domain = a.atttypid \
     WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum",
);

const KEYS: Sql = Sql::new(
    "SELECT i.indrelid, array_agg(a.attname::text ORDER BY k.place) \
     FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place) \
     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
     WHERE i.indrelid = ANY ($1::oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate \
     AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts \
     GROUP BY i.indexrelid, i.indrelid, i.indisprimary HAVING bool_and(a.attnotnull) \
     ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid",
);

/// A foreign key of or to a partition also ties the partitioned tables above it: rows are written to those.
const FOREIGN_KEYS: Sql = Sql::new(
    "SELECT DISTINCT cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text \
     FROM pg_constraint k \
     CROSS JOIN LATERAL \
       (SELECT k.conrelid AS oid UNION SELECT relid::oid FROM pg_partition_ancestors(k.conrelid) AS relid) AS child \
     CROSS JOIN LATERAL \
       (SELECT k.confrelid AS oid UNION SELECT relid::oid FROM pg_partition_ancestors(k.confrelid) AS relid) AS parent \
     JOIN pg_class c ON c.oid = child.oid JOIN pg_namespace cn ON cn.oid = c.relnamespace \
     JOIN pg_class p ON p.oid = parent.oid JOIN pg_namespace pn ON pn.oid = p.relnamespace \
     WHERE k.contype = 'f' AND child.oid = ANY ($1::oid[]) AND parent.oid = ANY ($1::oid[])",
);

impl TargetCatalog {
    /// Reads what the target has under these names.
    pub async fn load(client: &Client, names: impl IntoIterator<Item = &TableName>) -> Result<Self, PgError> {
        let (schemas, tables): (Vec<&str>, Vec<&str>) =
            names.into_iter().map(|name| (name.schema.as_str(), name.name.as_str())).unzip();
        let session = client.query_one(&SESSION, &[&schemas]).await?;
        let mut catalog = Self {
            role: session.get(0),
            database: session.get(1),
            grants_parameters: client.server_version() >= 150_000,
            may_create_temporary: session.get(2),
            schemas: session.get::<_, Vec<String>>(3).into_iter().collect(),
            ..Self::default()
        };
        let mut by_oid = BTreeMap::new();
        for row in client.query(&TABLES, &[&schemas, &tables]).await? {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            by_oid.insert(row.get::<_, u32>(2), name.clone());
            catalog.tables.insert(name, table(&row));
        }
        let oids: Vec<u32> = by_oid.keys().copied().collect();
        for row in client.query(&COLUMNS, &[&oids]).await? {
            catalog.of(&by_oid, row.get(0), |table| table.columns.push(column(&row)));
        }
        for row in client.query(&KEYS, &[&oids]).await? {
            catalog.of(&by_oid, row.get(0), |table| table.keys.push(row.get(1)));
        }
        for row in client.query(&FOREIGN_KEYS, &[&oids]).await? {
            let name = |at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
            catalog.foreign_keys.push(ForeignKey { child: name(0), parent: name(2) });
        }
        Ok(catalog)
    }

    fn of(&mut self, by_oid: &BTreeMap<u32, TableName>, oid: u32, change: impl FnOnce(&mut TargetTable)) {
        if let Some(table) = by_oid.get(&oid).and_then(|name| self.tables.get_mut(name)) {
            change(table);
        }
    }
}

fn table(row: &tokio_postgres::Row) -> TargetTable {
    let kind = match row.get::<_, String>(3).chars().next() {
        Some('r') => Kind::Plain,
        Some('p') => Kind::Partitioned,
        other => Kind::Other(other.unwrap_or('?')),
    };
    TargetTable {
        oid: row.get(2),
        kind,
        columns: Vec::new(),
        keys: Vec::new(),
        schema_closed: row.get(4),
        // Words of the query above, not the server's.
        missing_privileges: row.get::<_, Vec<String>>(5).into_iter().map(Sql::from_catalog).collect(),
        row_security: row.get(6),
        triggers: row.get(7),
        replica_triggers: row.get(8),
    }
}

fn column(row: &tokio_postgres::Row) -> TargetColumn {
    TargetColumn {
        name: row.get(1),
        type_oid: row.get(6),
        base_type_oid: row.get(7),
        not_null: row.get(2),
        has_default: row.get(3),
        generated: row.get(4),
        identity_always: row.get(5),
    }
}
