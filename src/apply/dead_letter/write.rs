//! A change that the target does not take becomes a letter, within the open target transaction.

use std::sync::Arc;

use bytes::Bytes;

use super::image::{Image, Value};
use super::{OnError, SetAside, is_of_one_row, render};
use crate::apply::error::{ApplyError, ConflictKind};
use crate::apply::exact::{Applier, key, position};
use crate::apply::flight::{Flight, Step, Values};
use crate::apply::session::Session;
use crate::apply::statement::{GUARD, Shape};
use crate::apply::table::TargetTable;
use crate::change::{Change, Commit, Part};
use crate::error::{Judged, Verdict};
use crate::lsn::Lsn;
use crate::postgres::wire::Param;
use crate::postgres::{Client, PgError, ServerError};
use crate::relation::{Relation, ReplicaIdentity};
use crate::row::{OldRow, Row};
use crate::sql::Sql;

const SAVEPOINT: Sql = Sql::new("SAVEPOINT walferry_letter");
const RELEASE: Sql = Sql::new("RELEASE SAVEPOINT walferry_letter");
const ROLLBACK_TO: Sql = Sql::new("ROLLBACK TO SAVEPOINT walferry_letter");

/// What to do when a row is missing because a letter has its former key.
pub(in crate::apply) const RENAMED: &str = "The row has another key on the target: the change that gives it this one \
    lies in walferry.dead_letter: walferry dead-letter list shows it, retry applies it, drop gives it up.";

const INSERT: Sql = Sql::new(
    "INSERT INTO walferry.dead_letter
         (stream, schema_name, table_name, operation, key, new_key, old, old_is_full, new, sqlstate, error, found)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
);

/// text, text, text, text, text, text, json, bool, json, text, text, text.
const INSERT_TYPES: [u32; 12] = [25, 25, 25, 25, 25, 25, 114, 16, 114, 25, 25, 25];

/// Why a row is missing, in a table that has letters.
pub(in crate::apply) enum Missing {
    /// It has its former key: what gives it this one is a letter.
    Renamed,
    /// The row that is to be deleted has never come, or has another value, because of letters that are pointless from
    /// now on; or a cascade has removed it. That is no conflict.
    AsExpected,
    /// Nothing of the kind.
    Conflict,
}

/// A change of one row, as its letter has it.
pub(super) struct Keyed<'a> {
    pub what: &'static str,
    pub relation: &'a Arc<Relation>,
    pub old: Option<&'a OldRow>,
    pub new: Option<&'a Row>,
}

impl<'a> Keyed<'a> {
    /// `None`: it is of no single row.
    pub(super) fn of(change: &'a Change) -> Option<Self> {
        let (what, relation, old, new) = match change {
            Change::Insert { relation, new } => ("insert", relation, None, Some(new)),
            Change::Update { relation, old, new } => ("update", relation, old.as_ref(), Some(new)),
            Change::Delete { relation, old } => ("delete", relation, Some(old), None),
            Change::Truncate { .. } | Change::Message(_) => return None,
        };
        Some(Self { what, relation, old, new })
    }
}

/// The places of the columns that name a row: those by which the target finds it, else the replica identity's. None
/// where rows have no names.
pub(super) fn key_columns(table: &TargetTable) -> Vec<usize> {
    let named = |(at, column): (usize, &crate::relation::Column)| column.is_key.then_some(at);
    match table.key {
        Some(key) => table.uniques[key].iter().map(|(at, _)| *at).collect(),
        None if table.relation.identity == ReplicaIdentity::Full => Vec::new(),
        None => table.relation.columns.iter().enumerate().filter_map(named).collect(),
    }
}

/// An error's words, as any database's encoding has them: hidden values are shown as an ellipsis.
pub(super) fn plain(error: &str) -> String {
    error.replace('…', "...")
}

/// What the images of a change come to.
struct Images {
    key: Option<String>,
    new_key: Option<String>,
    old: Option<String>,
    new: Option<String>,
}

impl Images {
    async fn of(client: &Client, change: &Keyed<'_>, table: &TargetTable) -> Result<Self, PgError> {
        let relation = change.relation;
        let old = match change.old {
            Some(old) => Some(render::values(client, relation, old.row()).await?),
            None => None,
        };
        let new = match change.new {
            Some(new) => Some(render::values(client, relation, new).await?),
            None => None,
        };
        let image = |values: &[Value], chosen: &dyn Fn(usize) -> bool| {
            let named = relation.columns.iter().zip(values).enumerate().filter(|(at, _)| chosen(*at));
            Image(named.map(|(_, (column, value))| (column.name.clone(), value.clone())).collect()).to_json()
        };
        let columns = key_columns(table);
        let named = |values: &[Value]| {
            let mut columns = columns.clone();
            // One order, in whichever the source names them.
            columns.sort_by_key(|at| &relation.columns[*at].name);
            let value = |at: &usize| match (&values[*at], &old) {
                (Value::Unchanged, Some(old)) => old[*at].clone(),
                (value, _) => value.clone(),
            };
            let named = columns.iter().map(|at| (relation.columns[*at].name.clone(), value(at))).collect();
            (!columns.is_empty()).then(|| Image(named).to_json())
        };
        let (old_key, new_key) = (old.as_deref().and_then(named), new.as_deref().and_then(named));
        let key = old_key.or_else(|| new_key.clone());
        let is_full = matches!(change.old, Some(OldRow::Full(_)));
        Ok(Self {
            new_key: new_key.filter(|new_key| key.as_ref() != Some(new_key)),
            key,
            old: old.as_deref().map(|old| image(old, &|at| is_full || relation.columns[at].is_key)),
            new: new.as_deref().map(|new| image(new, &|_| true)),
        })
    }
}

/// The versions of the rows that have this row's key; `None` when there are none, or it cannot be told: no row has a
/// key that is not of the column's type.
///
/// # Errors
/// Any other error of the target.
pub(super) async fn versions(
    session: &mut Session,
    table: &TargetTable,
    row: Values<'_>,
) -> Result<Option<String>, PgError> {
    if key_columns(table).is_empty() {
        return Ok(None);
    }
    let mut flight = Flight::new(session);
    flight.control(&SAVEPOINT, Step::Control)?;
    let located = if table.key.is_some() { table.by_key_alone() } else { table.clone() };
    flight.change(&located, Shape::Versions, row, Step::Ask)?;
    flight.control(&RELEASE, Step::Control)?;
    let landed = flight.fly().await?;
    let Some((_, error)) = landed.failed else { return Ok(landed.answer) };
    if !error.code.starts_with("22") {
        return Err(error.into());
    }
    session.control(&ROLLBACK_TO).await?;
    session.control(&RELEASE).await?;
    session.forget_statements().await?;
    Ok(None)
}

impl Applier {
    /// Whether changes are set aside.
    pub(in crate::apply) fn sets_aside(&self) -> bool {
        self.on_error == OnError::DeadLetter && self.may_set_aside
    }

    /// Deals with one refused change: mends it, or sets it aside.
    pub(in crate::apply) async fn mend_or_set_aside(
        &mut self,
        part: &Part,
        at: usize,
        refusal: Box<ServerError>,
    ) -> Result<(), ApplyError> {
        if !self.sets_aside() {
            return self.mend(part, at, refusal).await;
        }
        self.session.control(&SAVEPOINT).await?;
        let Err(error) = self.mend(part, at, refusal.clone()).await else {
            return Ok(self.session.control(&RELEASE).await?);
        };
        let Some(change) = Keyed::of(&part.changes[at]) else { return Err(error) };
        let (sqlstate, words) = match &error {
            ApplyError::Refused { source, .. } if is_of_one_row(&source.code) => {
                (Some(source.code.clone()), source.safe_message())
            }
            ApplyError::Conflict { kind, .. } if refusal.code == GUARD => (None, kind.to_string()),
            ApplyError::Conflict { kind, .. } => {
                (Some(refusal.code.clone()), format!("{kind}: {}", refusal.safe_message()))
            }
            _ => return Err(error),
        };
        let hint = match error.verdict() {
            Verdict::Halt { hint } => hint,
            Verdict::Retry => return Err(error),
        };
        // What was mended so far.
        self.session.control(&ROLLBACK_TO).await?;
        let lsn = position(part);
        let key = key(change.relation, change.old, change.new);
        let table = change.relation.name.clone();
        let letter = SetAside { table, key, what: change.what, sqlstate, error: words, hint, lsn };
        if let Some(why) = self.write_letter(&change, &letter).await? {
            // Loudly, and as without.
            tracing::warn!(table = %letter.table, error = %why, "not written to walferry.dead_letter");
            return Err(error);
        }
        self.lettered.add(&letter.table);
        self.set_aside.push(letter);
        self.unfinished = true;
        Ok(self.session.control(&RELEASE).await?)
    }

    /// Writes the letter; gives what the target refuses of it.
    async fn write_letter(
        &mut self,
        change: &Keyed<'_>,
        letter: &SetAside,
    ) -> Result<Option<Box<ServerError>>, ApplyError> {
        let table = self.session.table(change.relation, letter.lsn).await?;
        let images = Images::of(&self.session.client, change, &table).await?;
        let is_full = matches!(change.old, Some(OldRow::Full(_)));
        let row = Values { new: change.new, old: change.old.map(OldRow::row), old_is_full: is_full, by_new: false };
        let found = match change.what {
            // What is there is in its way, or has come later.
            "insert" => None,
            _ => versions(&mut self.session, &table, row).await?,
        };
        let text = |text: &str| Param::Text(Bytes::copy_from_slice(text.as_bytes()));
        let or_null = |value: Option<String>| value.map_or(Param::Null, |value| Param::Text(Bytes::from(value)));
        let params = [
            text(self.lettered.stream()),
            text(&letter.table.schema),
            text(&letter.table.name),
            text(change.what),
            or_null(images.key),
            or_null(images.new_key),
            or_null(images.old),
            text(if is_full { "true" } else { "false" }),
            or_null(images.new),
            or_null(letter.sqlstate.clone()),
            text(&plain(&letter.error)),
            or_null(found),
        ];
        let mut flight = Flight::new(&mut self.session);
        flight.frame(&INSERT, &INSERT_TYPES, &mut params.into_iter(), Step::Control)?;
        let landed = flight.fly().await?;
        match landed.failed {
            Some((_, error)) if PgError::Server(error.clone()).verdict() == Verdict::Retry => {
                Err(PgError::Server(error).into())
            }
            failed => Ok(failed.map(|(_, error)| error)),
        }
    }

    /// Writes down where the transaction's letters are from, before it commits. With a transaction in pieces it was not
    /// known.
    pub(in crate::apply) async fn finish_letters(&mut self, commit: &Commit) -> Result<(), ApplyError> {
        if !std::mem::take(&mut self.unfinished) {
            return Ok(());
        }
        self.wrote_letters = true;
        let [commit_lsn, end_lsn] =
            [commit.commit_lsn.lsn(), commit.end_lsn.lsn()].map(|lsn| Sql::literal(&lsn.to_string()));
        let time = humantime::format_rfc3339_micros(commit.time.to_system_time()).to_string();
        let finish = Sql::format(
            "UPDATE walferry.dead_letter SET commit_lsn = {}::pg_lsn, end_lsn = {}::pg_lsn,
                 commit_time = {}::timestamptz
             WHERE stream = {} AND end_lsn IS NULL",
            &[&commit_lsn, &end_lsn, &Sql::literal(&time), &Sql::literal(self.lettered.stream())],
        );
        Ok(self.session.control(&finish).await?)
    }

    /// Why the row of an UPDATE or DELETE is not there. Where letters lie for a row of its key, they are pointless from
    /// now on: the change deletes the row, or brings all of it.
    pub(in crate::apply) async fn why_missing(
        &mut self,
        table: &TargetTable,
        change: &Change,
        kind: ConflictKind,
        lsn: Lsn,
    ) -> Result<Missing, ApplyError> {
        let (Some(keyed), name) = (Keyed::of(change), &table.relation.name) else { return Ok(Missing::Conflict) };
        if !matches!(kind, ConflictKind::UpdateMissing | ConflictKind::DeleteMissing) || !self.lettered.has(name) {
            return Ok(Missing::Conflict);
        }
        let Some(key) = Images::of(&self.session.client, &keyed, table).await?.key else {
            return Ok(Missing::Conflict);
        };
        let (key, of) = (Sql::literal(&key), self.lettered.of(name));
        let renamed = Sql::format(
            "SELECT 1 FROM walferry.dead_letter WHERE {} AND new_key = {} AND superseded_lsn IS NULL LIMIT 1",
            &[&of, &key],
        );
        if !self.session.wire.query(&renamed).await?.is_empty() {
            return Ok(Missing::Renamed);
        }
        let supersede = Sql::format(
            "UPDATE walferry.dead_letter SET superseded_lsn = {}::pg_lsn
             WHERE {} AND key = {} AND superseded_lsn IS NULL RETURNING 1",
            &[&Sql::literal(&lsn.to_string()), &of, &key],
        );
        let waited = !self.session.wire.query(&supersede).await?.is_empty();
        let cascaded = table.info.cascaded && !self.session.replica_role;
        match kind {
            ConflictKind::DeleteMissing if waited || cascaded => Ok(Missing::AsExpected),
            _ => Ok(Missing::Conflict),
        }
    }

    /// The letters of tables that were emptied are pointless from now on.
    pub(in crate::apply) async fn supersede_truncated(
        &mut self,
        part: &Part,
        change: &Change,
    ) -> Result<(), ApplyError> {
        let Change::Truncate { relations, .. } = change else { return Ok(()) };
        for relation in relations.iter().filter(|relation| self.lettered.has(&relation.name)) {
            self.session.control(&self.lettered.supersede_all(&relation.name, position(part))).await?;
        }
        Ok(())
    }
}
