//! What a target says of itself, as far as a check cares. Nothing is changed: the session is read-only.

use std::collections::BTreeMap;

use crate::admin::servers;
use crate::apply::progress::{self, Stored};
use crate::launcher::setup::{Setup, TargetSetup};
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::source::publication::{Publication, PublishedTable};
use crate::sql::Sql;
use crate::tablesync::{self, CopyScope, CopyState};

use super::CommandError;

/// See the module.
#[derive(Debug, Default)]
pub struct TargetFacts {
    /// `server_version_num`.
    pub version: u32,
    /// The session's role.
    pub role: String,
    /// The database.
    pub database: String,
    /// A standby, or a database or role that only reads.
    pub read_only: bool,
    /// `server_encoding`.
    pub encoding: String,
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
    /// Whether tables are to be copied to it yet.
    pub copying: bool,
    /// Tables, or partitions of them, that are unlogged.
    pub unlogged: Vec<TableName>,
    /// Tables, or partitions of them, with triggers that fire in spite of the replica role, and which.
    pub replica_triggers: Vec<(TableName, Vec<String>)>,
    /// Patterns of its `tables` that match no published table.
    pub unmatched: Vec<String>,
    /// What the initial copy would complain about.
    pub copy: Vec<tablesync::Finding>,
    /// Columns whose types differ: table, column, the source's type, the target's.
    pub other_types: Vec<(TableName, String, String, String)>,
    /// Whether tables could be looked at: not before the publication is there.
    pub tables_known: bool,
}

/// Asks the target.
///
/// # Errors
/// It cannot be reached, or answers what it should not.
pub async fn gather(
    setup: &Setup,
    target: &TargetSetup,
    publication: Option<&Publication>,
) -> Result<TargetFacts, CommandError> {
    let client = servers::target(setup, target).await?;
    ask(setup, target, publication, &client).await.map_err(|error| CommandError::at("it cannot be asked", error))
}

const SETTINGS: Sql = Sql::new(
    "SELECT current_user::text, current_database()::text, \
     pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean, \
     current_setting('server_encoding'), to_regnamespace('walferry') IS NOT NULL, \
     has_database_privilege(current_database(), 'CREATE')",
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
    publication: Option<&Publication>,
    client: &Client,
) -> Result<TargetFacts, PgError> {
    let row = client.query_one(&SETTINGS, &[]).await?;
    client.batch(&Sql::new("SET default_transaction_read_only = on")).await?;
    let mut facts = TargetFacts {
        version: client.server_version(),
        role: row.get(0),
        database: row.get(1),
        read_only: row.get(2),
        encoding: row.get(3),
        schema: row.get(4),
        may_use_schema: row.get(5),
        system_identifier: system_identifier(client).await?,
        replica_role: replica_role(client).await?,
        ..TargetFacts::default()
    };
    if facts.schema {
        facts.may_use_schema = client.query_one(&MAY_USE, &[]).await?.get(0);
        if facts.may_use_schema {
            let row = client.query_one(&MAY_WRITE, &[]).await?;
            (facts.schema_filled, facts.may_use_schema) = (row.get(0), row.get(1));
        }
    }
    let readable = !facts.schema || facts.may_use_schema;
    if readable {
        facts.stored = progress::read(client, &setup.stream).await?;
    }
    let Some(publication) = publication.filter(|_| readable) else { return Ok(facts) };
    let names = publication.tables.iter().map(|table| &table.name);
    let unmatched = target.tables.iter().flat_map(|tables| tables.unmatched(names.clone()));
    facts.unmatched = unmatched.map(str::to_owned).collect();
    let tables = setup.wanted(target, publication);
    facts.copying = publication.insert && copying(setup, client, &tables).await?;
    persistence(client, &tables, &mut facts).await?;
    facts.other_types = other_types(client, &tables).await?;
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
    facts.tables_known = true;
    Ok(facts)
}

/// Whether one of these tables is not copied yet.
async fn copying(setup: &Setup, client: &Client, tables: &[PublishedTable]) -> Result<bool, PgError> {
    let states = tablesync::state::load(client, &setup.stream).await?;
    let done = |name: &TableName| states.iter().any(|table| table.name == *name && table.state == CopyState::Done);
    Ok(tables.iter().any(|table| !done(&table.name)))
}

/// What the target itself would lose, or do beside: unlogged tables, triggers that the replica role does not keep from
/// firing. Of a partitioned table its partitions count.
async fn persistence(client: &Client, tables: &[PublishedTable], facts: &mut TargetFacts) -> Result<(), PgError> {
    let asked = Sql::new(
        "SELECT DISTINCT n.nspname::text, c.relname::text, c.relpersistence = 'u', \
         ARRAY(SELECT tgname::text FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal \
               AND tgenabled IN ('A', 'R') ORDER BY tgname) \
         FROM unnest($1::text[], $2::text[]) AS wanted (schema_name, table_name) \
         JOIN pg_namespace wn ON wn.nspname = wanted.schema_name \
         JOIN pg_class w ON w.relnamespace = wn.oid AND w.relname = wanted.table_name AND w.relkind IN ('r', 'p') \
         CROSS JOIN LATERAL (SELECT w.oid UNION SELECT relid::oid FROM pg_partition_tree(w.oid)) AS part (oid) \
         JOIN pg_class c ON c.oid = part.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2",
    );
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.name.schema.as_str(), table.name.name.as_str())).unzip();
    for row in client.query(&asked, &[&schemas, &names]).await? {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let triggers: Vec<String> = row.get(3);
        if row.get(2) {
            facts.unlogged.push(name.clone());
        }
        if !triggers.is_empty() && facts.replica_role {
            facts.replica_triggers.push((name, triggers));
        }
    }
    Ok(())
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

async fn other_types(
    client: &Client,
    tables: &[PublishedTable],
) -> Result<Vec<(TableName, String, String, String)>, PgError> {
    let types = Sql::new(
        "SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod) \
         FROM unnest($1::text[], $2::text[]) AS wanted (schema_name, table_name) \
         JOIN pg_namespace n ON n.nspname = wanted.schema_name \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.table_name \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped",
    );
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.name.schema.as_str(), table.name.name.as_str())).unzip();
    let mut found = BTreeMap::new();
    for row in client.query(&types, &[&schemas, &names]).await? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        found.insert((table, row.get::<_, String>(2)), row.get::<_, String>(3));
    }
    let mut others = Vec::new();
    for table in tables {
        for column in &table.columns {
            if let Some(type_name) = found.get(&(table.name.clone(), column.name.clone()))
                && *type_name != column.type_name
            {
                others.push((table.name.clone(), column.name.clone(), column.type_name.clone(), type_name.clone()));
            }
        }
    }
    Ok(others)
}
