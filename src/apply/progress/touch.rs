//! What a target transaction does with the progress row: it holds the row first, and moves it last. Pure.
//!
//! The row has a new version with every commit, and none goes while somebody on the target may still see it: for a
//! transaction that is left open, an hour's are a million, and whoever looks the row up by its name passes them all.
//! So it is looked for in the page where the transaction before has left it ([`Lies`]), and by name only where it is
//! not there. (Not by its `ctid` alone: a look at the page has the server clear it of old versions, which keeps the
//! table at a page or two: `heap_page_prune_opt` in pruneheap.c, which a TID Scan does not call and a TID Range Scan
//! does.)

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Epoch, Stream};
use crate::change::Commit;
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::wire::Param;
use crate::sql::Sql;

/// A page of the table, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page(u32);

impl Page {
    /// That of a `ctid`, as a server writes it: `(12,3)`.
    pub fn of(ctid: &str) -> Option<Self> {
        let (page, _) = ctid.strip_prefix('(')?.split_once(',')?;
        page.parse().ok().map(Self)
    }

    /// Every `ctid` in it is at or after the first of these, and before the second.
    pub fn bounds(self) -> [String; 2] {
        [format!("({},0)", self.0), format!("({},0)", u64::from(self.0) + 1)]
    }
}

/// Where the progress row lies, as a session has seen it last.
#[derive(Debug, Default)]
pub struct Lies {
    /// The page's number and 1; 0: not known.
    page: AtomicU64,
}

impl Lies {
    /// The page, if it is known.
    pub fn page(&self) -> Option<Page> {
        let known = self.page.load(Ordering::Relaxed).checked_sub(1)?;
        u32::try_from(known).ok().map(Page)
    }

    /// It was seen there.
    pub fn seen(&self, page: Page) {
        self.page.store(u64::from(page.0) + 1, Ordering::Relaxed);
    }

    /// It is not known any more; whether it was.
    pub fn forget(&self) -> bool {
        self.page.swap(0, Ordering::Relaxed) != 0
    }
}

/// A statement about the progress row. Its answer is the row's `ctid`; where the row is not as expected, it raises
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

/// The statement that holds the row, and what else is asked of where it lies.
macro_rules! hold {
    ($and:literal) => {
        Sql::new(concat!(
            "WITH held AS (
                 SELECT ctid FROM walferry.progress WHERE stream = $1 AND end_lsn = $2 AND epoch = $3",
            $and,
            " FOR UPDATE)
             SELECT (SELECT ctid FROM held), 1 / count(*) FROM held"
        ))
    };
}

/// The statement that moves it, likewise.
macro_rules! advance {
    ($and:literal) => {
        Sql::new(concat!(
            "WITH moved AS (
                 UPDATE walferry.progress
                 SET end_lsn = $3, commit_time = coalesce($4, commit_time), timeline = $5,
                     commit_lsn = coalesce($6, commit_lsn), updated_at = now()
                 WHERE stream = $1 AND end_lsn = $2",
            $and,
            " RETURNING ctid)
             SELECT (SELECT ctid FROM moved), 1 / count(*) FROM moved"
        ))
    };
}

const HOLD: Sql = hold!("");
const HOLD_IN: Sql = hold!(" AND ctid >= $4 AND ctid < $5");
const ADVANCE: Sql = advance!("");
const ADVANCE_IN: Sql = advance!(" AND ctid >= $7 AND ctid < $8");

/// Holds the row where it is expected for the length of the transaction: stream, position, epoch. Fails when it is not
/// there, or was claimed since. Whoever may still be applying the same (a session that was given up here and lives on
/// there) has the row, and is waited for, before its rows are met.
///
/// Looked for in a page, it may not be found though it stands where it is expected: somebody has written to it since,
/// as who pauses a target does, or VACUUM FULL has moved it.
pub fn hold(stream: &Stream, at: EndLsn, epoch: Epoch, page: Option<Page>) -> Touch {
    let params = vec![name(stream), lsn(at.lsn()), int8(epoch.0)];
    touch((HOLD, &[TEXT, PG_LSN, INT8]), (HOLD_IN, &[TEXT, PG_LSN, INT8, TID, TID]), params, page)
}

/// Moves the row from where it is expected. `page` as in [`hold`].
pub fn advance(stream: &Stream, from: EndLsn, to: EndLsn, commit: Option<&Commit>, page: Option<Page>) -> Touch {
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
        (ADVANCE_IN, &[TEXT, PG_LSN, PG_LSN, TIMESTAMPTZ, INT8, PG_LSN, TID, TID]),
        params,
        page,
    )
}

type Form = (Sql, &'static [u32]);

fn touch(by_name: Form, in_page: Form, mut params: Vec<Param>, page: Option<Page>) -> Touch {
    let (sql, types) = if page.is_some() { in_page } else { by_name };
    let bounds = page.into_iter().flat_map(Page::bounds);
    params.extend(bounds.map(|tid| Param::Text(Bytes::from(tid))));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_that_of_a_ctid() {
        let bounds = |ctid| Page::of(ctid).map(Page::bounds);
        assert_eq!(bounds("(0,1)"), Some(["(0,0)".to_owned(), "(1,0)".to_owned()]));
        assert_eq!(bounds("(4294967294,291)").map(|[_, end]| end).as_deref(), Some("(4294967295,0)"));
        assert_eq!(["", "1", "(,1)", "(-1,1)", "(x,1)"].map(Page::of), [None; 5]);
    }

    #[test]
    fn where_the_row_lies_is_not_known_before_it_is_seen_nor_after_it_is_forgotten() {
        let lies = Lies::default();
        assert_eq!((lies.page(), lies.forget()), (None, false));
        lies.seen(Page(0));
        assert_eq!(lies.page(), Some(Page(0)));
        assert_eq!((lies.forget(), lies.page()), (true, None));
    }
}
