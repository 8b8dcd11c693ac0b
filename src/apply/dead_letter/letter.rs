//! A letter as it was written, made a change again.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::image::{Image, Value};
use super::store;
use crate::apply::session::Session;
use crate::change::{Begin, Change, Commit, Part, PgTime};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::postgres::PgError;
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Cell, OldRow, Row};
use crate::sql::Sql;

/// A letter that is to be applied.
pub(super) struct Stored {
    pub id: i64,
    pub table: TableName,
    /// `insert`, `update` or `delete`.
    pub what: &'static str,
    pub change: Change,
    pub key: Option<String>,
    pub new_key: Option<String>,
    pub found: Option<String>,
    pub commit_lsn: CommitLsn,
    pub end_lsn: EndLsn,
    pub superseded_lsn: Option<String>,
}

impl Stored {
    /// As a transaction of its own.
    pub(super) fn part(&self) -> Part {
        let commit = Commit { commit_lsn: self.commit_lsn, end_lsn: self.end_lsn, time: PgTime(0) };
        let begin = Begin { xid: 0, commit_lsn: Some(self.commit_lsn), commit_time: None };
        let memory = self.change.memory();
        Part { begin, origin: None, index: 0, changes: vec![self.change.clone()], commit: Some(commit), memory }
    }
}

/// Reads a letter within the open transaction, and locks it.
///
/// # Errors
/// As [`crate::postgres::WireConnection::query`].
pub(super) async fn read(session: &mut Session, stream: &str, id: i64) -> Result<Option<Stored>, PgError> {
    let letter = Sql::format(
        "SELECT schema_name, table_name, operation, key, new_key, old::text, old_is_full::text, new::text, found,
                commit_lsn::text, end_lsn::text, superseded_lsn::text
         FROM walferry.dead_letter WHERE id = {} AND stream = {} FOR UPDATE",
        &[&Sql::number(id), &Sql::literal(stream)],
    );
    let Some(mut row) = session.wire.query(&letter).await?.into_iter().next() else { return Ok(None) };
    let peer = session.wire.peer();
    let wrong = || PgError::Usage { message: format!("{peer}: letter {id} is not as walferry writes them") };
    let mut column = |at: usize| row.get_mut(at).and_then(Option::take);
    let table = TableName::new(column(0).ok_or_else(wrong)?, column(1).ok_or_else(wrong)?);
    let what = column(2).ok_or_else(wrong)?;
    let (key, new_key) = (column(3), column(4));
    let mut image = |at: usize| store::read(column(at), peer);
    let (named, old, new) = (store::read(key.clone(), peer)?, image(5)?, image(7)?);
    let is_full = column(6).as_deref() == Some("true");
    let relation = relation(&table, named.as_ref(), old.as_ref(), new.as_ref(), is_full);
    let old = old.map(|old| row_of(&relation, &old));
    let old = old.map(|old| if is_full { OldRow::Full(old) } else { OldRow::Key(old) });
    let new = new.map(|new| row_of(&relation, &new));
    let (what, change) = match (what.as_str(), old, new) {
        ("insert", _, Some(new)) => ("insert", Change::Insert { relation, new }),
        ("update", old, Some(new)) => ("update", Change::Update { relation, old, new }),
        ("delete", Some(old), _) => ("delete", Change::Delete { relation, old }),
        _ => return Err(wrong()),
    };
    let found = column(8);
    let mut lsn = |at: usize| column(at).and_then(|text| text.parse::<Lsn>().ok()).unwrap_or(Lsn::ZERO);
    let (commit_lsn, end_lsn) = (CommitLsn::new(lsn(9)), EndLsn::new(lsn(10)));
    let superseded_lsn = column(11);
    Ok(Some(Stored { id, table, what, change, key, new_key, found, commit_lsn, end_lsn, superseded_lsn }))
}

/// The table as its letter knows it. Values are text, but for those that are kept in binary.
fn relation(
    table: &TableName,
    key: Option<&Image>,
    old: Option<&Image>,
    new: Option<&Image>,
    is_full: bool,
) -> Arc<Relation> {
    let type_of = |name: &str| {
        let mut values = [new, old].into_iter().flatten().filter_map(|image| image.get(name));
        values.find_map(|value| match value {
            Value::Bytes(_, type_oid) => *type_oid,
            _ => None,
        })
    };
    let widest = new.or(old).map(|image| image.0.as_slice()).unwrap_or_default();
    let columns: Vec<Column> = widest
        .iter()
        .map(|(name, _)| Column {
            name: name.clone(),
            type_oid: type_of(name).unwrap_or(0),
            type_modifier: -1,
            is_key: is_full || key.is_some_and(|key| key.get(name).is_some()),
        })
        .collect();
    let binary = columns.iter().any(|column| column.type_oid != 0);
    let identity = if is_full || key.is_none() { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
    Arc::new(Relation { id: RelationId(0), name: table.clone(), identity, columns, binary })
}

/// A column whose value is kept in binary in one row may be text in the other: then that is given in the type's text.
fn row_of(relation: &Relation, image: &Image) -> Row {
    let mut bytes = BytesMut::new();
    let cells: Vec<Cell> = relation
        .columns
        .iter()
        .map(|column| {
            let value = image.get(&column.name).unwrap_or(&Value::Null);
            let (text, value) = match value {
                Value::Null => return Cell::Null,
                Value::Unchanged => return Cell::Unchanged,
                Value::Text(text) => (true, text.as_bytes()),
                Value::Bytes(bytes, type_oid) => (type_oid.is_none(), bytes.as_slice()),
            };
            let (offset, length) = (bytes.len() as u32, value.len() as u32);
            bytes.extend_from_slice(value);
            if text { Cell::Text { offset, length } } else { Cell::Binary { offset, length } }
        })
        .collect();
    Row::new(Bytes::from(bytes), cells.into()).expect("each cell lies within the bytes that it was added with")
}
