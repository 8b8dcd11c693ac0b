//! What a target transaction does with the progress row: it holds the row first, and moves it last. Pure.
//!
//! The row has a new version with every commit, and while any transaction runs on the target, however idle, the old
//! ones stay: an hour's are a million, and whoever looks the row up by its name passes them all. So it is found by
//! where its last version lies ([`Tid`]), as the transaction before has left it, and by name only where that is not
//! known.

use bytes::Bytes;

use super::{Epoch, Stream};
use crate::change::Commit;
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::wire::Param;
use crate::sql::Sql;

/// Where a version of a row lies: its `ctid`, as text. Another one lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tid(Bytes);

impl Tid {
    /// As a server gave it.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }
}

/// A statement about the progress row. Its answer is where the row lies then; where it is not as expected, it raises
/// `division_by_zero`, which aborts the transaction.
pub struct Touch {
    /// The statement.
    pub sql: Sql,
    /// The types of its parameters.
    pub types: &'static [u32],
    /// Its parameters.
    pub params: Vec<Param>,
}

/// `pg_type.oid` of text, tid, int8, timestamptz and pg_lsn (`pg_type.dat`).
const TEXT: u32 = 25;
const TID: u32 = 27;
const INT8: u32 = 20;
const TIMESTAMPTZ: u32 = 1184;
const PG_LSN: u32 = 3220;

const HOLD: Sql = Sql::new(
    "WITH held AS (SELECT ctid FROM walferry.progress WHERE stream = $1 AND end_lsn = $2 AND epoch = $3 FOR UPDATE)
     SELECT (SELECT ctid FROM held), 1 / count(*) FROM held",
);

const HOLD_AT: Sql = Sql::new(
    "WITH held AS (SELECT ctid FROM walferry.progress WHERE ctid = $4 AND stream = $1 AND end_lsn = $2 AND epoch = $3
                   FOR UPDATE)
     SELECT (SELECT ctid FROM held), 1 / count(*) FROM held",
);

const ADVANCE: Sql = Sql::new(
    "WITH moved AS (
         UPDATE walferry.progress
         SET end_lsn = $3, commit_time = coalesce($4, commit_time), timeline = $5,
             commit_lsn = coalesce($6, commit_lsn), updated_at = now()
         WHERE stream = $1 AND end_lsn = $2 RETURNING ctid)
     SELECT (SELECT ctid FROM moved), 1 / count(*) FROM moved",
);

const ADVANCE_AT: Sql = Sql::new(
    "WITH moved AS (
         UPDATE walferry.progress
         SET end_lsn = $3, commit_time = coalesce($4, commit_time), timeline = $5,
             commit_lsn = coalesce($6, commit_lsn), updated_at = now()
         WHERE ctid = $7 AND stream = $1 AND end_lsn = $2 RETURNING ctid)
     SELECT (SELECT ctid FROM moved), 1 / count(*) FROM moved",
);

/// Holds the row where it is expected for the length of the transaction: stream, position, epoch. Fails when it is not
/// there, or was claimed since. Whoever may still be applying the same (a session that was given up here and lives on
/// there) has the row, and is waited for, before its rows are met.
///
/// `lies` is where it was seen last. Somebody may have written to it since, and left it where it is otherwise (who
/// pauses a target does): then it lies elsewhere, and this fails, too.
pub fn hold(stream: &Stream, at: EndLsn, epoch: Epoch, lies: Option<&Tid>) -> Touch {
    let params = vec![name(stream), lsn(at.lsn()), int8(epoch.0)];
    touch((HOLD, &[TEXT, PG_LSN, INT8]), (HOLD_AT, &[TEXT, PG_LSN, INT8, TID]), params, lies)
}

/// Moves the row from where it is expected. `lies` as in [`hold`].
pub fn advance(stream: &Stream, from: EndLsn, to: EndLsn, commit: Option<&Commit>, lies: Option<&Tid>) -> Touch {
    let time = |commit: &Commit| Param::Binary(Bytes::copy_from_slice(&commit.time.0.to_be_bytes()));
    let params = vec![
        name(stream),
        lsn(from.lsn()),
        lsn(to.lsn()),
        commit.map_or(Param::Null, time),
        int8(i64::from(stream.timeline)),
        commit.map_or(Param::Null, |commit| lsn(commit.commit_lsn.lsn())),
    ];
    touch(
        (ADVANCE, &[TEXT, PG_LSN, PG_LSN, TIMESTAMPTZ, INT8, PG_LSN]),
        (ADVANCE_AT, &[TEXT, PG_LSN, PG_LSN, TIMESTAMPTZ, INT8, PG_LSN, TID]),
        params,
        lies,
    )
}

type Form = (Sql, &'static [u32]);

fn touch(by_name: Form, by_place: Form, mut params: Vec<Param>, lies: Option<&Tid>) -> Touch {
    let (sql, types) = match lies {
        Some(_) => by_place,
        None => by_name,
    };
    params.extend(lies.map(|tid| Param::Text(tid.0.clone())));
    Touch { sql, types, params }
}

fn name(stream: &Stream) -> Param {
    Param::Text(Bytes::copy_from_slice(stream.name.as_bytes()))
}

fn lsn(lsn: Lsn) -> Param {
    Param::Binary(Bytes::copy_from_slice(&lsn.as_u64().to_be_bytes()))
}

fn int8(value: i64) -> Param {
    Param::Binary(Bytes::copy_from_slice(&value.to_be_bytes()))
}
