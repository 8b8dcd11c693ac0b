//! One worker's connections to its target: the wire connection that applies, the client that reads the catalogue, and
//! what both have learned: matched tables and prepared statements.
//!
//! Nothing in here survives a reconnect; a data error throws away the tables and statements too, so that what was
//! mended on the target in the meantime is seen.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::message::frontend;

use super::bulk::traits::{self, Manner};
use super::error::ApplyError;
use super::progress::Lies;
use super::statement::{self, Shape, Statement, Value};
use super::table::{Difference, TargetTable};
use crate::lsn::Lsn;
use crate::postgres::catalog::TableInfo;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, ConnectOptions, PgError, WireConnection, catalog};
use crate::relation::{Displayed, Relation, RelationId, TableName};
use crate::sql::Sql;

/// Prepared statements kept on the server; past this many all are dropped and prepared anew as needed.
const MAX_PREPARED: usize = 4_000;

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Where the target is.
    pub connect: ConnectOptions,
    /// `application_name`.
    pub application_name: String,
    /// `lock_timeout` of the apply session.
    pub lock_timeout: Option<Duration>,
    /// `statement_timeout` of the apply session.
    pub statement_timeout: Option<Duration>,
    /// Whether a COMMIT of the apply session waits for the target's disk.
    pub synchronous_commit: bool,
}

/// An open session.
pub struct Session {
    /// Applies.
    pub wire: WireConnection,
    /// Reads the catalogue, and has what is committed written to disk (`flush.rs`).
    pub client: Arc<Client>,
    /// Whether triggers and foreign keys are off here (`session_replication_role = replica`).
    pub replica_role: bool,
    /// The wire connection is of no use any more.
    pub broken: bool,
    /// Where the progress row lies.
    pub progress_lies: Arc<Lies>,
    /// By relation, one for each version of it that a flight may hold, the last one last.
    tables: HashMap<RelationId, Vec<Matched>>,
    /// What the tables were on the server when they were last seen: one that is renamed is told from one that is gone.
    oids: HashMap<TableName, u32>,
    /// What the catalogue has just said of tables that are matched now.
    looked_up: HashMap<TableName, TableInfo>,
    /// The target's foreign keys, where they are checked, as last seen.
    foreign_keys: Option<Vec<(u32, u32)>>,
    prepared: usize,
    /// Statements of no table: those that frame a transaction.
    frames: HashMap<Sql, Arc<str>>,
    /// Counts up for ever: a statement's name is never used twice in a session.
    names: u64,
}

struct Matched {
    /// As last announced: the same as the table's own, and quicker to compare.
    announced: Arc<Relation>,
    table: Arc<TargetTable>,
    manner: Manner,
    statements: HashMap<Shape, Prepared>,
}

impl Matched {
    fn is_of(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.announced, relation) || self.announced == *relation
    }
}

/// A statement the server knows, or will know when the flight it is sent in arrives.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Its name on the server.
    pub name: Arc<str>,
    /// Where its parameters come from.
    pub values: Arc<[Value]>,
}

impl Session {
    /// Connects and pins the session.
    ///
    /// # Errors
    /// As [`WireConnection::connect`].
    pub async fn open(options: &SessionOptions) -> Result<Self, PgError> {
        let (connect, name) = (&options.connect, &options.application_name);
        let (mut wire, client) = tokio::try_join!(
            WireConnection::connect(connect, name, Purpose::Ordinary),
            Client::connect(connect, name),
        )?;
        let client = Arc::new(client);
        let millis = |limit: Option<Duration>| Sql::number(limit.map_or(0, |limit| limit.as_millis() as i64));
        // Every statement finds its rows by one index: plan it once, and never by reading the whole table because the
        // table happened to be empty when it was planned, or more rows were expected. (What is turned off is chosen
        // where there is no other way, at a cost that would have it compiled.) Nor by a bitmap: one that outgrows
        // work_mem has every row of its pages compared with every key of an array.
        let settings = Sql::format(
            "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; \
             SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_memoize = off; SET jit = off; \
             SET lock_timeout = {}; SET statement_timeout = {}",
            &[&millis(options.lock_timeout), &millis(options.statement_timeout)],
        );
        wire.query(&settings).await?;
        if !options.synchronous_commit {
            wire.query(&Sql::new("SET synchronous_commit = off")).await?;
        }
        let replica_role = take_replica_role(&mut wire).await?;
        Ok(Self {
            wire,
            client,
            replica_role,
            broken: false,
            progress_lies: Arc::default(),
            tables: HashMap::new(),
            oids: HashMap::new(),
            looked_up: HashMap::new(),
            foreign_keys: None,
            prepared: 0,
            frames: HashMap::new(),
            names: 0,
        })
    }

    /// Notes what these tables are on the server now.
    ///
    /// # Errors
    /// As [`Client::query`].
    pub async fn remember(&mut self, tables: impl Iterator<Item = &TableName>) -> Result<(), PgError> {
        self.oids = catalog::oids(&self.client, tables).await?;
        Ok(())
    }

    /// Takes over what an earlier session of the same target has noted.
    pub fn succeed(&mut self, earlier: &mut Session) {
        self.oids = std::mem::take(&mut earlier.oids);
    }

    /// Asks for tables as [`Self::table`] does, and the catalogue about all of them at once.
    ///
    /// # Errors
    /// As there.
    pub async fn meet(&mut self, relations: &[(&Arc<Relation>, Lsn)]) -> Result<(), ApplyError> {
        let unmatched = relations.iter().filter(|(relation, _)| self.known(relation).is_none());
        // Two versions of a table have one name.
        let names: BTreeSet<&TableName> = unmatched.map(|(relation, _)| &relation.name).collect();
        self.looked_up = match names.len() {
            0 | 1 => HashMap::new(),
            _ => catalog::tables(&self.client, &Vec::from_iter(names)).await?,
        };
        for (relation, lsn) in relations {
            self.table(relation, *lsn).await?;
        }
        Ok(())
    }

    /// The target's side of a relation, matched now if it is not known yet or has changed.
    ///
    /// # Errors
    /// [`ApplyError::Schema`] when the two do not fit.
    pub async fn table(&mut self, relation: &Arc<Relation>, lsn: Lsn) -> Result<Arc<TargetTable>, ApplyError> {
        let mut versions = self.tables.get_mut(&relation.id).into_iter().flatten();
        if let Some(known) = versions.find(|matched| matched.is_of(relation)) {
            known.announced = Arc::clone(relation);
            return Ok(Arc::clone(&known.table));
        }
        let table = Arc::new(self.match_table(relation, lsn).await?);
        let manner = self.find_manner(&table).await?;
        let announced = Arc::clone(relation);
        let matched = Matched { announced, table: Arc::clone(&table), manner, statements: HashMap::new() };
        self.tables.entry(relation.id).or_default().push(matched);
        Ok(table)
    }

    /// Whether [`Self::table`] was asked for this relation as it is announced now.
    pub fn has_met(&self, relation: &Arc<Relation>) -> bool {
        let mut versions = self.tables.get(&relation.id).into_iter().flatten().rev();
        versions.any(|matched| Arc::ptr_eq(&matched.announced, relation))
    }

    /// The target's side of this version of a relation, if it has been matched: the rows of a version have its columns.
    pub fn known(&self, relation: &Arc<Relation>) -> Option<&Arc<TargetTable>> {
        self.matched(relation).map(|matched| &matched.table)
    }

    /// As [`Self::known`], of a relation that was matched.
    ///
    /// # Errors
    /// When it was not: a mistake of the program.
    pub fn matched_table(&self, relation: &Arc<Relation>) -> Result<Arc<TargetTable>, PgError> {
        self.known(relation).cloned().ok_or_else(|| PgError::Protocol {
            peer: self.wire.peer().to_owned(),
            message: format!("{} was not matched before it was used", relation.name),
        })
    }

    /// How its changes are applied.
    pub fn manner(&self, relation: &Arc<Relation>) -> Option<&Manner> {
        self.matched(relation).map(|matched| &matched.manner)
    }

    fn matched(&self, relation: &Arc<Relation>) -> Option<&Matched> {
        self.tables.get(&relation.id)?.iter().rev().find(|matched| matched.is_of(relation))
    }

    async fn find_manner(&mut self, table: &TargetTable) -> Result<Manner, PgError> {
        if !self.replica_role && self.foreign_keys.is_none() {
            self.foreign_keys = Some(catalog::foreign_keys(&self.client).await?);
        }
        Ok(traits::manner(table, self.replica_role, self.foreign_keys.as_deref().unwrap_or_default()))
    }

    async fn match_table(&mut self, relation: &Arc<Relation>, lsn: Lsn) -> Result<TargetTable, ApplyError> {
        let schema =
            |problem: String, hint: String| ApplyError::Schema { table: relation.name.clone(), problem, lsn, hint };
        let looked_up = match self.looked_up.remove(&relation.name) {
            None => catalog::tables(&self.client, &[&relation.name]).await?.remove(&relation.name),
            found => found,
        };
        let Some(info) = looked_up else {
            let moved = match self.oids.get(&relation.name) {
                Some(oid) => catalog::name(&self.client, *oid).await?,
                None => None,
            };
            return Err(match moved {
                Some(now) => {
                    schema(format!("the table is now called {now} on the target"), rename(&now, &relation.name))
                }
                None => ApplyError::Gone { table: relation.name.clone(), lsn },
            });
        };
        self.oids.insert(relation.name.clone(), info.oid);
        match TargetTable::new(Arc::clone(relation), info) {
            Ok(table) => Ok(table),
            Err(Difference::MissingColumns(columns)) => {
                let names: Vec<String> =
                    columns.iter().map(|&at| Displayed(&relation.columns[at].name).to_string()).collect();
                let mut statement = Vec::new();
                for (name, &at) in names.iter().zip(&columns) {
                    let column = &relation.columns[at];
                    let type_name = catalog::type_name(&self.client, column.type_oid, column.type_modifier).await?;
                    let built_in = type_name.filter(|_| column.type_oid < catalog::FIRST_USER_OID);
                    let type_name = built_in.unwrap_or_else(|| "<the source's type>".to_owned());
                    statement.push(format!("ADD COLUMN {name} {type_name}"));
                }
                let hint = format!(
                    "ALTER TABLE {} {}; with the DEFAULT that the source gave it, so that rows already there get \
                     the same.",
                    relation.name,
                    statement.join(", ")
                );
                Err(schema(format!("the target has no column {}", names.join(", ")), hint))
            }
        }
    }

    /// The prepared statement for a shape of change; the Parse message is put into the flight when it is new.
    ///
    /// # Errors
    /// When the statement cannot be encoded.
    pub fn prepare(&mut self, table: &TargetTable, shape: Shape) -> Result<Prepared, PgError> {
        let mut versions = self.tables.get_mut(&table.relation.id).into_iter().flatten();
        let matched = versions.find(|matched| std::ptr::eq(&*matched.table, table));
        if let Some(known) = matched.as_ref().and_then(|matched| matched.statements.get(&shape)) {
            return Ok(known.clone());
        }
        let Statement { sql, types, values } = statement::statement(table, &shape);
        let name = next_name(&mut self.names);
        parse(&mut self.wire, &name, &sql, &types)?;
        let prepared = Prepared { name, values: values.into() };
        if let Some(matched) = matched {
            matched.statements.insert(shape, prepared.clone());
            self.prepared += 1;
        }
        Ok(prepared)
    }

    /// Where the parameters of a shape's statement come from.
    pub fn values(&self, table: &TargetTable, shape: &Shape) -> Arc<[Value]> {
        let mut versions = self.tables.get(&table.relation.id).into_iter().flatten();
        let matched = versions.find(|matched| std::ptr::eq(&*matched.table, table));
        match matched.and_then(|matched| matched.statements.get(shape)) {
            Some(prepared) => Arc::clone(&prepared.values),
            None => statement::statement(table, shape).values.into(),
        }
    }

    /// The name of a prepared statement that belongs to no table; the Parse message is put into the flight when it is
    /// new.
    ///
    /// # Errors
    /// When the statement cannot be encoded.
    pub fn frame(&mut self, sql: &Sql, types: &[u32]) -> Result<Arc<str>, PgError> {
        if let Some(name) = self.frames.get(sql) {
            return Ok(Arc::clone(name));
        }
        let name = next_name(&mut self.names);
        parse(&mut self.wire, &name, sql, types)?;
        self.frames.insert(sql.clone(), Arc::clone(&name));
        Ok(name)
    }

    /// Forgets tables and statements, here and on the server. Not within a flight.
    ///
    /// # Errors
    /// As [`WireConnection::query`].
    pub async fn forget(&mut self) -> Result<(), PgError> {
        self.tables.clear();
        self.looked_up.clear();
        self.foreign_keys = None;
        self.forget_statements().await
    }

    /// Forgets statements, here and on the server. Not within a flight.
    ///
    /// # Errors
    /// As [`WireConnection::query`].
    pub async fn forget_statements(&mut self) -> Result<(), PgError> {
        self.tables.values_mut().flatten().for_each(|matched| matched.statements.clear());
        self.prepared = 0;
        self.frames.clear();
        self.control(&Sql::new("DEALLOCATE ALL")).await
    }

    /// Runs a statement whose answer does not matter. Not within a flight.
    ///
    /// # Errors
    /// As [`WireConnection::query`].
    pub async fn control(&mut self, sql: &Sql) -> Result<(), PgError> {
        let answer = self.wire.query(sql).await;
        self.broken |= answer.as_ref().is_err_and(|error| error.server().is_none());
        answer.map(drop)
    }

    /// Whether removing a row of this table removes or changes rows of others: foreign keys fire and cascade.
    pub fn cascades_from(&self, table: &TargetTable) -> bool {
        !self.replica_role && table.info.referenced
    }

    /// Whether both connections can still be used, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.broken && !self.client.is_closed()
    }

    /// Keeps the number of statements on the server bounded, and forgets past versions of tables. Not within a flight.
    ///
    /// # Errors
    /// As [`WireConnection::query`].
    pub async fn tidy(&mut self) -> Result<(), PgError> {
        for versions in self.tables.values_mut() {
            versions.drain(..versions.len().saturating_sub(1));
        }
        if self.prepared > MAX_PREPARED { self.forget_statements().await } else { Ok(()) }
    }
}

/// A statement's name that has not been used in the session.
fn next_name(names: &mut u64) -> Arc<str> {
    *names += 1;
    format!("w{names}").into()
}

/// The statement that gives a table its former name back.
fn rename(now: &TableName, before: &TableName) -> String {
    let schema = match now.schema == before.schema {
        true => String::new(),
        false => format!("ALTER TABLE {} SET SCHEMA {};", Sql::table(now), Sql::ident(&before.schema)),
    };
    let name = match now.name == before.name {
        true => String::new(),
        false => {
            let moved = TableName::new(&*before.schema, &*now.name);
            format!("ALTER TABLE {} RENAME TO {};", Sql::table(&moved), Sql::ident(&before.name))
        }
    };
    [schema, name].join(" ").trim().to_owned()
}

/// Puts a Parse message into the flight.
///
/// # Errors
/// When the statement cannot be encoded.
pub fn parse(wire: &mut WireConnection, name: &str, sql: &Sql, types: &[u32]) -> Result<(), PgError> {
    let types = types.iter().copied();
    let peer = wire.peer().to_owned();
    frontend::parse(name, sql.as_str(), types, wire.writer.buffer())
        .map_err(|source| PgError::Connection { peer, source })
}

/// Turns triggers and foreign keys off where the role may: superusers, and from PostgreSQL 15 on whoever was granted
/// SET ON PARAMETER session_replication_role. Where it may not, they fire, and commit order keeps them satisfied.
async fn take_replica_role(wire: &mut WireConnection) -> Result<bool, PgError> {
    match wire.query(&Sql::new("SET session_replication_role = replica")).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("42501") => Ok(false),
        Err(error) => Err(error),
    }
}
