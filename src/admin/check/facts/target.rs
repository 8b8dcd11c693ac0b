//! What a target says of itself, as far as a check cares. Nothing is changed: the session is read-only.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::server::{self, ServerFacts};
use super::source::SourceFacts;
use super::tables::{self, Tables, name};
use super::types::{self, Extensions};
use crate::admin::{CommandError, servers};
use crate::apply::progress::{self, Stored};
use crate::launcher::setup::{Setup, TargetSetup};
use crate::lsn::Lsn;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::source::publication::PublishedTable;
use crate::sql::Sql;
use crate::tablesync::{self, CopyScope, CopyState};

/// See the module.
#[derive(Debug, Default)]
pub struct TargetFacts {
    /// What any server is asked.
    pub server: ServerFacts,
    /// A standby.
    pub in_recovery: bool,
    /// `default_transaction_read_only`.
    pub read_only: bool,
    /// `pg_control_system()`, where the role may ask.
    pub system_identifier: Option<String>,
    /// Whether walferry's schema is there.
    pub schema: bool,
    /// Whether the role may make it, or may use the one that is there, and the tables in it.
    pub may_use_schema: bool,
    /// Whether walferry's tables are in it, as far as that can be seen.
    pub schema_filled: bool,
    /// Whether the role may turn triggers and foreign keys off.
    pub replica_role: bool,
    /// The stream's row.
    pub stored: Option<Stored>,
    /// Where the slot that it has to itself on the source is confirmed.
    pub own_slot: Option<Lsn>,
    /// Whether tables are to be copied to it yet.
    pub copying: bool,
    /// How many write rows at a time then (`copy.workers`).
    pub copy_workers: i64,
    /// Inactive slots that keep WAL without a limit, but for the stream's own.
    pub idle_slots: Vec<String>,
    /// Patterns of its `tables` that match no published table.
    pub unmatched: Vec<String>,
    /// Whether tables could be looked at: not before the publication is there.
    pub tables_known: bool,
    /// The tables it gets.
    pub wanted: Vec<PublishedTable>,
    /// Those of them that are there.
    pub tables: Tables,
    /// Those of the source's types that are there, with the labels of enums.
    pub types: BTreeMap<TableName, Vec<String>>,
    /// What is installed.
    pub extensions: Extensions,
    /// What the initial copy would complain about.
    pub copy: Vec<tablesync::Finding>,
    /// What is done to rows besides, by table or partition.
    pub besides: Vec<Besides>,
    /// Foreign keys between tables that it gets and others.
    pub foreign_keys: Vec<OuterKey>,
}

/// What a table, or a partition, does to rows that are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Besides {
    /// Which.
    pub table: TableName,
    /// It is unlogged.
    pub unlogged: bool,
    /// Triggers that fire, in the replica role where the role may take it.
    pub triggers: Vec<String>,
    /// Rules for INSERT, UPDATE or DELETE, likewise.
    pub rules: Vec<String>,
}

/// A foreign key with one end outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterKey {
    /// `pg_constraint.conname`.
    pub name: String,
    /// The table that refers.
    pub child: TableName,
    /// The table that is referred to.
    pub parent: TableName,
    /// Whether the child is the one that is replicated; else the parent.
    pub child_is_wanted: bool,
}

/// Asks the target. `source`: what the source has said, as far as it has.
///
/// # Errors
/// It cannot be reached, or answers what it should not.
pub async fn gather(setup: &Setup, target: &TargetSetup, source: &SourceFacts) -> Result<TargetFacts, CommandError> {
    let client = servers::target(setup, target).await?;
    ask(setup, target, source, &client).await.map_err(|error| CommandError::at("it cannot be asked", error))
}

const SETTINGS: Sql = Sql::new(
    "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean, \
     to_regnamespace('walferry') IS NOT NULL, has_database_privilege(current_database(), 'CREATE')",
);

/// Asked first: without USAGE a name in the schema cannot even be looked up.
const MAY_USE: Sql = Sql::new("SELECT has_schema_privilege('walferry', 'USAGE')");

/// Whether walferry's tables are there, and whether the role may do what walferry does, or make them.
const MAY_WRITE: Sql = Sql::new(
    "SELECT made, CASE WHEN made THEN allowed ELSE has_schema_privilege('walferry', 'CREATE') END \
     FROM (SELECT count(*) > 0 AS made, coalesce(bool_and(has_table_privilege(c.oid, 'SELECT') \
               AND (c.relname = 'migration' OR has_table_privilege(c.oid, 'INSERT') \
                    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))), true) \
                AS allowed \
           FROM pg_class c WHERE c.relnamespace = to_regnamespace('walferry') \
           AND c.relname IN ('migration', 'progress', 'table_state')) t",
);

async fn ask(
    setup: &Setup,
    target: &TargetSetup,
    source: &SourceFacts,
    client: &Client,
) -> Result<TargetFacts, PgError> {
    let row = client.query_one(&SETTINGS, &[]).await?;
    client.batch(&Sql::new("SET default_transaction_read_only = on")).await?;
    let daemon = target.connect.application_name.clone().unwrap_or_else(|| setup.application_name());
    let mut facts = TargetFacts {
        server: server::ask(client, &target.connect, &daemon).await?,
        in_recovery: row.get(0),
        read_only: row.get(1),
        schema: row.get(2),
        may_use_schema: row.get(3),
        copy_workers: i64::try_from(setup.copy.workers).unwrap_or(i64::MAX),
        system_identifier: system_identifier(client).await?,
        replica_role: replica_role(client).await?,
        own_slot: source.own_slots.get(&target.name).copied(),
        idle_slots: client.query(&IDLE_SLOTS, &[&setup.stream]).await?.iter().map(|row| row.get(0)).collect(),
        ..TargetFacts::default()
    };
    if facts.schema {
        facts.may_use_schema = client.query_one(&MAY_USE, &[]).await?.get(0);
        if facts.may_use_schema {
            let row = client.query_one(&MAY_WRITE, &[]).await?;
            (facts.schema_filled, facts.may_use_schema) = (row.get(0), row.get(1));
        }
    }
    if !facts.schema || facts.may_use_schema {
        facts.stored = progress::read(client, &setup.stream).await?;
        about_tables(setup, target, source, client, &mut facts).await?;
    }
    Ok(facts)
}

const IDLE_SLOTS: Sql = Sql::new(
    "SELECT slot_name::text FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL \
     AND slot_name <> $1::text AND current_setting('max_slot_wal_keep_size') = '-1' AND NOT pg_is_in_recovery() \
     ORDER BY 1",
);

async fn about_tables(
    setup: &Setup,
    target: &TargetSetup,
    source: &SourceFacts,
    client: &Client,
    facts: &mut TargetFacts,
) -> Result<(), PgError> {
    let Some(publication) = source.publication.published() else { return Ok(()) };
    let names = publication.tables.iter().map(|table| &table.name);
    let unmatched = target.tables.iter().flat_map(|tables| tables.unmatched(names.clone()));
    facts.unmatched = unmatched.map(str::to_owned).collect();
    let tables = setup.wanted(target, publication);
    facts.copying = publication.insert && copying(setup, client, &tables).await?;
    besides(client, &tables, facts).await?;
    facts.tables = tables::load(client, tables.iter().map(|table| &table.name)).await?;
    facts.types = types::named(client, source.types.iter().map(|found| &found.name)).await?;
    facts.extensions = types::extensions(client).await?;
    facts.foreign_keys = outer_keys(client, &facts.tables).await?;
    let scope = CopyScope {
        stream: setup.stream.clone(),
        target_name: target.name.clone(),
        tables,
        insert_published: publication.insert,
        truncate_published: publication.truncate,
        replica_role: facts.replica_role,
        settings: setup.copy.clone(),
    };
    facts.copy = tablesync::preflight(client, &scope).await?;
    facts.wanted = scope.tables;
    facts.tables_known = true;
    Ok(())
}

/// Whether one of these tables is not copied yet.
async fn copying(setup: &Setup, client: &Client, tables: &[PublishedTable]) -> Result<bool, PgError> {
    let states = tablesync::state::load(client, &setup.stream).await?;
    let done = |name: &TableName| states.iter().any(|table| table.name == *name && table.state == CopyState::Done);
    Ok(tables.iter().any(|table| !done(&table.name)))
}

/// What the target itself would lose, or do besides: unlogged tables, triggers and rules. Of a partitioned table its
/// partitions count. (A view's rule is its query; a table's rule for SELECT cannot be.)
async fn besides(client: &Client, tables: &[PublishedTable], facts: &mut TargetFacts) -> Result<(), PgError> {
    let asked = Sql::new(
        "SELECT DISTINCT n.nspname::text, c.relname::text, c.relpersistence = 'u', \
         ARRAY(SELECT tgname::text FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal \
               AND tgenabled::text IN ('A', $3) ORDER BY tgname), \
         ARRAY(SELECT rulename::text FROM pg_rewrite WHERE ev_class = c.oid AND ev_type <> '1' \
               AND ev_enabled::text IN ('A', $3) ORDER BY rulename) \
         FROM unnest($1::text[], $2::text[]) AS wanted (schema_name, table_name) \
         JOIN pg_namespace wn ON wn.nspname = wanted.schema_name \
         JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.table_name AND w.relkind IN ('r', 'p') \
         CROSS JOIN LATERAL (SELECT w.oid UNION SELECT relid::oid FROM pg_partition_tree(w.oid)) AS part (oid) \
         JOIN pg_class c ON c.oid = part.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2",
    );
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.name.schema.as_str(), table.name.name.as_str())).unzip();
    let enabled = if facts.replica_role { "R" } else { "O" };
    for row in client.query(&asked, &[&schemas, &names, &enabled]).await? {
        let found = Besides { table: name(&row, 0), unlogged: row.get(2), triggers: row.get(3), rules: row.get(4) };
        if found.unlogged || !found.triggers.is_empty() || !found.rules.is_empty() {
            facts.besides.push(found);
        }
    }
    Ok(())
}

/// A partition's copy of its table's foreign key is that table's. A table is inside with a table above it, or with
/// partitions below.
const OUTER_KEYS: Sql = Sql::new(
    "SELECT k.conname::text, cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text, child.wanted \
     FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace \
     JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace \
     CROSS JOIN LATERAL (SELECT k.conrelid = ANY ($1::oid[]) \
       OR EXISTS (SELECT FROM pg_partition_ancestors(k.conrelid) AS a WHERE a.relid::oid = ANY ($1::oid[])) \
       OR EXISTS (SELECT FROM pg_partition_tree(k.conrelid) AS t WHERE t.relid::oid = ANY ($1::oid[]))) \
       AS child (wanted) \
     CROSS JOIN LATERAL (SELECT k.confrelid = ANY ($1::oid[]) \
       OR EXISTS (SELECT FROM pg_partition_ancestors(k.confrelid) AS a WHERE a.relid::oid = ANY ($1::oid[])) \
       OR EXISTS (SELECT FROM pg_partition_tree(k.confrelid) AS t WHERE t.relid::oid = ANY ($1::oid[]))) \
       AS parent (wanted) \
     WHERE k.contype = 'f' AND k.conparentid = 0 AND child.wanted <> parent.wanted ORDER BY 2, 3, 1",
);

async fn outer_keys(client: &Client, tables: &Tables) -> Result<Vec<OuterKey>, PgError> {
    let oids: Vec<u32> = tables.values().map(|table| table.oid).collect();
    let rows = client.query(&OUTER_KEYS, &[&oids]).await?;
    let key = |row: &Row| OuterKey {
        name: row.get(0),
        child: name(row, 1),
        parent: name(row, 3),
        child_is_wanted: row.get(5),
    };
    Ok(rows.iter().map(key).collect())
}

/// `None` where the function was taken away from the role, as some managed servers do.
async fn system_identifier(client: &Client) -> Result<Option<String>, PgError> {
    let asked = client.query_one(&Sql::new("SELECT system_identifier::text FROM pg_control_system()"), &[]).await;
    optional(asked.map(|row| row.get(0)))
}

async fn replica_role(client: &Client) -> Result<bool, PgError> {
    let set = client.batch(&Sql::new("SET session_replication_role = replica")).await;
    Ok(optional(set)?.is_some())
}

/// `None` for insufficient_privilege.
fn optional<T>(answer: Result<T, PgError>) -> Result<Option<T>, PgError> {
    match answer {
        Err(error) if error.code() == Some("42501") => Ok(None),
        answer => answer.map(Some),
    }
}
