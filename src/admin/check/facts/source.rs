//! What the source says of itself, as far as a check cares. Nothing is changed: the session is read-only, but for a
//! publication that is missing, which is made in a transaction that is always rolled back.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use super::server::{self, ServerFacts};
use super::tables::{self, Tables, name};
use super::types::{self, ColumnType, Extensions};
use crate::admin::{CommandError, servers};
use crate::error::{Judged, Verdict, chain};
use crate::launcher::gap::SourceFacts as Position;
use crate::launcher::setup::Setup;
use crate::lsn::Lsn;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, PgError, WireConnection};
use crate::relation::TableName;
use crate::source::publication::{self, Chosen, Leaf, Publication, PublishedTable};
use crate::source::slot::{self, Slot, SlotUser};
use crate::source::{SourceError, identity};
use crate::sql::Sql;

/// See the module.
#[derive(Debug, Default)]
pub struct SourceFacts {
    /// What any server is asked.
    pub server: ServerFacts,
    /// `wal_level`.
    pub wal_level: String,
    /// A standby.
    pub in_recovery: bool,
    /// The role is a superuser or has REPLICATION.
    pub may_replicate: bool,
    /// `max_replication_slots`, and how many there are.
    pub slots: (i64, i64),
    /// `max_wal_senders`, and how many there are.
    pub senders: (i64, i64),
    /// `max_slot_wal_keep_size` in megabytes; -1: no limit.
    pub keep_megabytes: i64,
    /// `wal_sender_timeout` in milliseconds; 0: none.
    pub sender_timeout: i64,
    /// `idle_replication_slot_timeout` (18 and later), in seconds; 0: none.
    pub idle_slot_timeout: i64,
    /// Prepared transactions of the whole server.
    pub prepared: i64,
    /// Physical slots in use that the stream does not wait for (`synchronized_standby_slots`, 17 and later).
    pub unawaited: Vec<String>,
    /// Large objects.
    pub large_objects: i64,
    /// Why no replication connection can be had.
    pub no_replication: Option<NoReplication>,
    /// For the comparison with targets; `None` when replication connections cannot be had.
    pub position: Option<Position>,
    /// The slot, if it is there.
    pub slot: Option<Slot>,
    /// Where the slots of single targets are confirmed, by the target's name.
    pub own_slots: BTreeMap<String, Lsn>,
    /// Who streams from it.
    pub slot_user: Option<SlotUser>,
    /// Whether a target knows the stream; `None` until all have been asked, or when some cannot be.
    pub known: Option<bool>,
    /// Targets that have tables to be copied yet: each takes a slot and a WAL sender for that long.
    pub copying: i64,
    /// How many read rows at a time for each of them (`copy.workers`).
    pub copy_workers: i64,
    /// `application_name` of the daemon of this stream.
    pub daemon: String,
    /// The publication, or what is wrong with it.
    pub publication: PublicationFacts,
    /// Chosen tables that are unlogged.
    pub unlogged: Vec<TableName>,
    /// Patterns of `source.tables` that match no published table.
    pub unmatched: Vec<String>,
    /// Published tables (or their partitions) and what the role lacks for reading them.
    pub unreadable: Vec<Unreadable>,
    /// Sequences that belong to columns of published tables.
    pub sequences: i64,
    /// Definitions of the chosen tables.
    pub tables: Tables,
    /// Types of their columns that are not built in.
    pub types: Vec<ColumnType>,
    /// What is installed.
    pub extensions: Extensions,
    /// What the chosen tables take on the disk, indexes and all.
    pub bytes: u64,
}

/// How the publication is.
#[derive(Debug, Default)]
pub enum PublicationFacts {
    /// It could not be asked for.
    #[default]
    Unknown,
    /// There, and complete.
    Complete(Publication),
    /// Not there; walferry may make it, and this is what it would be. `None`: that could not be found out now, because
    /// other sessions have locked the tables.
    ToBeMade(Option<Publication>),
    /// Not there or incomplete.
    Wrong {
        /// What is wrong.
        problem: String,
        /// What mends it, in words.
        remedy: String,
        /// The statements for it.
        sql: Vec<Sql>,
        /// The publication, if it is there.
        found: Option<Publication>,
    },
}

impl PublicationFacts {
    /// What is published.
    pub fn published(&self) -> Option<&Publication> {
        match self {
            Self::Complete(publication)
            | Self::ToBeMade(Some(publication))
            | Self::Wrong { found: Some(publication), .. } => Some(publication),
            _ => None,
        }
    }
}

/// Why no replication connection can be had.
#[derive(Debug)]
pub struct NoReplication {
    /// What was answered.
    pub error: String,
    /// The way out, where the error knows it.
    pub hint: Option<String>,
    /// All connections are taken: it says nothing of the role.
    pub crowded: bool,
}

/// A table whose rows cannot be read, all of them.
#[derive(Debug)]
pub struct Unreadable {
    /// The table or partition.
    pub table: TableName,
    /// No USAGE on its schema.
    pub schema_closed: bool,
    /// No SELECT on it.
    pub no_select: bool,
    /// Row level security would hide rows.
    pub row_security: bool,
}

/// Asks the source.
///
/// # Errors
/// It cannot be reached, or answers what it should not.
pub async fn gather(setup: &Setup) -> Result<SourceFacts, CommandError> {
    let client = servers::source(setup).await?;
    let daemon = setup.source.application_name.clone().unwrap_or_else(|| setup.application_name());
    let mut facts = settings(&client).await.map_err(unasked)?;
    facts.server = server::ask(&client, &setup.source, &daemon).await.map_err(unasked)?;
    facts.daemon = daemon;
    facts.copy_workers = i64::try_from(setup.copy.workers).unwrap_or(i64::MAX);
    replication(setup, &mut facts).await;
    facts.slot = slot::inspect(&client, &setup.stream).await.map_err(unasked)?;
    if let (Some(position), Some(slot)) = (&mut facts.position, &facts.slot) {
        position.confirmed = slot.confirmed_flush;
    }
    let own = slot::lane::of(&client, &setup.stream).await.map_err(unasked)?;
    facts.own_slots = own_slots(setup, &own);
    if let Some(pid) = facts.slot.as_ref().and_then(|slot| slot.active_pid) {
        facts.slot_user = Some(slot::user(&client, pid).await.map_err(unasked)?);
    }
    facts.publication = publication(setup, &client).await.map_err(unasked)?;
    facts.unlogged = unlogged(setup, &client).await.map_err(unasked)?;
    about_tables(setup, &client, &mut facts).await.map_err(unasked)?;
    Ok(facts)
}

/// Those that can be gone on from.
fn own_slots(setup: &Setup, slots: &[Slot]) -> BTreeMap<String, Lsn> {
    let own = |name: &str| slots.iter().find(|slot| slot.name == slot::lane::name(&setup.stream, name));
    let usable = |name: &String| own(name).filter(|slot| !slot.is_lost())?.confirmed_flush;
    setup.targets.iter().filter_map(|target| Some((target.name.clone(), usable(&target.name)?))).collect()
}

fn unasked<E: Judged + Send + Sync + 'static>(error: E) -> CommandError {
    CommandError::at("the source cannot be asked", error)
}

async fn about_tables(setup: &Setup, client: &Client, facts: &mut SourceFacts) -> Result<(), PgError> {
    let Some(published) = facts.publication.published() else { return Ok(()) };
    let names = published.tables.iter().map(|table| &table.name);
    let unmatched = setup.tables.iter().flat_map(|tables| tables.unmatched(names.clone()));
    facts.unmatched = unmatched.map(str::to_owned).collect();
    let chosen: Vec<&PublishedTable> = published.tables.iter().filter(|table| setup.chooses(&table.name)).collect();
    facts.unreadable = unreadable(client, &chosen).await?;
    let oids: Vec<u32> = chosen.iter().map(|table| table.oid).collect();
    facts.sequences = client.query_one(&SEQUENCES, &[&oids]).await?.get(0);
    facts.tables = tables::load(client, chosen.iter().map(|table| &table.name)).await?;
    facts.types = types::of_columns(client, &oids).await?;
    facts.extensions = types::extensions(client).await?;
    let leaves: Vec<u32> = chosen.iter().flat_map(|table| &table.leaves).map(|leaf| leaf.oid).collect();
    facts.bytes = client.query_one(&BYTES, &[&leaves]).await?.get::<_, i64>(0).unsigned_abs();
    Ok(())
}

const SETTINGS: Sql = Sql::new(
    "SELECT current_setting('wal_level'), pg_is_in_recovery(), \
     (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), \
     current_setting('max_replication_slots')::bigint, (SELECT count(*) FROM pg_replication_slots), \
     current_setting('max_wal_senders')::bigint, (SELECT count(*) FROM pg_stat_replication), \
     (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), \
     (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'), \
     coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0), \
     (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(*) FROM pg_prepared_xacts), \
     ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'physical' AND active AND slot_name <> \
     ALL (string_to_array(replace(current_setting('synchronized_standby_slots', true), ' ', ''), ',')) ORDER BY 1)",
);

async fn settings(client: &Client) -> Result<SourceFacts, PgError> {
    client.batch(&Sql::new("SET default_transaction_read_only = on")).await?;
    let row = client.query_one(&SETTINGS, &[]).await?;
    Ok(SourceFacts {
        wal_level: row.get(0),
        in_recovery: row.get(1),
        may_replicate: row.get(2),
        slots: (row.get(3), row.get(4)),
        senders: (row.get(5), row.get(6)),
        keep_megabytes: row.get(7),
        sender_timeout: row.get(8),
        idle_slot_timeout: row.get(9),
        large_objects: row.get(10),
        prepared: row.get(11),
        unawaited: row.get(12),
        ..SourceFacts::default()
    })
}

/// Whether the role may replicate is best asked by doing so: managed servers have their own ways of allowing it.
async fn replication(setup: &Setup, facts: &mut SourceFacts) {
    match position(setup).await {
        Ok(position) => facts.position = Some(position),
        Err(error) => {
            let hint = match error.verdict() {
                Verdict::Halt { hint } => Some(hint),
                Verdict::Retry => None,
            };
            // too_many_connections: of max_wal_senders, of max_connections, or of the role's own limit. An error of
            // connecting has its SQLSTATE in its text.
            let error = chain(&error);
            let crowded = error.contains("(SQLSTATE 53300)");
            facts.no_replication = Some(NoReplication { error, hint, crowded });
        }
    }
}

/// Where the source's WAL ends, once the targets have been asked: one that is fed meanwhile may have got beyond where
/// it ended before. The slots' positions are those from before, which the targets cannot fall behind.
pub async fn look_again(setup: &Setup, facts: &mut SourceFacts) {
    if let Some(known) = &mut facts.position
        && let Ok(now) = position(setup).await
        && now.system_identifier == known.system_identifier
    {
        known.flushed = known.flushed.max(now.flushed);
    }
}

async fn position(setup: &Setup) -> Result<Position, SourceError> {
    let doing = || "opening a replication connection".to_owned();
    let mut conn = WireConnection::connect(&setup.source, &setup.application_name(), Purpose::Replication)
        .await
        .map_err(|source| SourceError::Postgres { doing: doing(), source })?;
    let found = identity::identify(&mut conn).await?;
    let history = identity::timeline_history(&mut conn, found.timeline).await?;
    Ok(Position {
        system_identifier: found.system_identifier,
        timeline: found.timeline,
        switches: history.into_iter().map(|switch| (switch.timeline, switch.switch)).collect(),
        flushed: found.flush_lsn,
        database: found.database,
        slot: setup.stream.clone(),
        confirmed: None,
    })
}

/// Where walferry may make the publication, what it would be is found out by making it and rolling that back.
async fn publication(setup: &Setup, client: &Client) -> Result<PublicationFacts, SourceError> {
    let name = &setup.config.source.publication;
    let chooses = |table: &TableName| setup.chooses(table);
    let chosen = setup.tables.as_ref().map(|_| &chooses as Chosen<'_>);
    match publication::rehearse(client, name, chosen).await {
        Ok((publication, false)) => Ok(PublicationFacts::Complete(publication)),
        Ok((publication, true)) => Ok(PublicationFacts::ToBeMade(Some(publication))),
        Err(SourceError::Publication { problem, remedy, sql, .. }) => {
            let found = publication::read(client, name).await?;
            Ok(PublicationFacts::Wrong { problem, remedy, sql, found })
        }
        // lock_not_available
        Err(SourceError::Postgres { source, .. }) if source.code() == Some("55P03") => {
            Ok(PublicationFacts::ToBeMade(None))
        }
        Err(error) => Err(error),
    }
}

async fn unlogged(setup: &Setup, client: &Client) -> Result<Vec<TableName>, PgError> {
    let unlogged = Sql::new(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
         ORDER BY 1, 2",
    );
    let rows = client.query(&unlogged, &[]).await?;
    Ok(rows.iter().map(|row| name(row, 0)).filter(|name| setup.chooses(name)).collect())
}

/// COPY reads the published columns, and those of the row filter.
async fn unreadable(client: &Client, tables: &[&PublishedTable]) -> Result<Vec<Unreadable>, PgError> {
    let filters = Sql::new(
        "SELECT d.objid, a.attname::text FROM pg_depend d JOIN pg_attribute a \
         ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0 \
         WHERE d.classid = 'pg_publication_rel'::regclass AND d.refclassid = 'pg_class'::regclass \
         AND d.objid = ANY ($1::oid[])",
    );
    let entries: Vec<u32> = tables.iter().flat_map(|table| table.entries.iter().copied()).collect();
    let mut needed: BTreeSet<(u32, String)> = BTreeSet::new();
    for row in client.query(&filters, &[&entries]).await? {
        let entry: u32 = row.get(0);
        let filtered = tables.iter().filter(|table| table.entries.contains(&entry));
        let leaves = filtered.flat_map(|table| &table.leaves);
        needed.extend(leaves.map(|leaf| (leaf.oid, row.get(1))));
    }
    let mut leaves: Vec<u32> = Vec::new();
    for table in tables {
        leaves.extend(table.leaves.iter().map(|leaf| leaf.oid));
        let columns = |leaf: &Leaf| {
            let oid = leaf.oid;
            table.columns.iter().map(move |column| (oid, column.name.clone())).collect::<Vec<_>>()
        };
        needed.extend(table.leaves.iter().flat_map(columns));
    }
    let (oids, columns): (Vec<u32>, Vec<String>) = needed.into_iter().unzip();
    let sql = Sql::new(
        "SELECT * FROM (SELECT n.nspname::text, c.relname::text, NOT has_schema_privilege(n.oid, 'USAGE') AS closed, \
         NOT has_any_column_privilege(c.oid, 'SELECT') OR c.oid IN (SELECT oid \
         FROM unnest($2::oid[], $3::text[]) AS needed (oid, attname) JOIN pg_attribute a \
         ON a.attrelid = needed.oid AND a.attname = needed.attname AND NOT a.attisdropped \
         WHERE NOT has_column_privilege(a.attrelid, a.attnum, 'SELECT')) AS no_select, \
         row_security_active(c.oid) AS hidden \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[])) t \
         WHERE closed OR no_select OR hidden ORDER BY 1, 2",
    );
    let rows = client.query(&sql, &[&leaves, &oids, &columns]).await?;
    let one = |row: &Row| Unreadable {
        table: name(row, 0),
        schema_closed: row.get(2),
        no_select: row.get(3),
        row_security: row.get(4),
    };
    Ok(rows.iter().map(one).collect())
}

const SEQUENCES: Sql = Sql::new(
    "SELECT count(DISTINCT d.objid) FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
     AND d.refobjid = ANY ($1::oid[])",
);

/// An estimate: a partition may be dropped meanwhile.
const BYTES: Sql =
    Sql::new("SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE oid = ANY ($1::oid[])");
