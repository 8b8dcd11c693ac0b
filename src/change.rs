//! Changes and the transactions they belong to: what every stage after decoding speaks.
//!
//! A transaction travels as one or more [`Part`]s. A small one is a single part that is both first and last; a large
//! one is cut, so that memory stays bounded, and only its last part carries the [`Commit`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};

use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::relation::Relation;
use crate::row::{OldRow, Row};

/// Which of the configured targets: an index into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub usize);

/// One change of one table (TRUNCATE: of several at once).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new row.
    Insert { relation: Arc<Relation>, new: Row },
    /// A changed row. Without `old` the replica identity's values are those of `new`.
    Update { relation: Arc<Relation>, old: Option<OldRow>, new: Row },
    /// A row that is gone.
    Delete { relation: Arc<Relation>, old: OldRow },
    /// Tables emptied by one statement.
    Truncate { relations: Vec<Arc<Relation>>, cascade: bool, restart_identity: bool },
    /// `pg_logical_emit_message` within the transaction.
    Message(Message),
}

/// A logical message: what `pg_logical_emit_message(transactional, prefix, content)` wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where the message stands in the WAL.
    pub lsn: Lsn,
    /// Whether it belongs to its transaction (and vanishes with a rollback).
    pub transactional: bool,
    /// Who it is for; walferry's own is `walferry`.
    pub prefix: String,
    /// Opaque bytes.
    pub content: Bytes,
}

impl Change {
    /// Memory the change takes, in bytes.
    pub fn memory(&self) -> usize {
        let rows = match self {
            Change::Insert { new, .. } => new.memory(),
            Change::Update { old, new, .. } => new.memory() + old.as_ref().map_or(0, |old| old.row().memory()),
            Change::Delete { old, .. } => old.row().memory(),
            Change::Truncate { relations, .. } => relations.len() * size_of::<Arc<Relation>>(),
            Change::Message(message) => message.prefix.len() + message.content.len(),
        };
        size_of::<Self>() + rows
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        let (new, old) = match self {
            Change::Insert { new, .. } => (Some(new), None),
            Change::Update { old, new, .. } => (Some(new), old.as_mut()),
            Change::Delete { old, .. } => (None, Some(old)),
            Change::Truncate { .. } | Change::Message(_) => (None, None),
        };
        new.into_iter().chain(old.map(OldRow::row_mut))
    }

    /// Moves the rows of these changes into memory of their own, out of the memory they arrived in.
    pub fn copy_rows(changes: &mut [Change]) {
        let bytes = changes.iter_mut().flat_map(Change::rows_mut).map(|row| row.copied()).sum();
        let mut memory = BytesMut::with_capacity(bytes);
        changes.iter_mut().flat_map(Change::rows_mut).for_each(|row| row.copy_into(&mut memory));
    }
}

/// A moment as PostgreSQL counts it: microseconds since 2000-01-01 00:00:00 UTC (`TimestampTz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// Seconds from the Unix epoch to PostgreSQL's.
    const EPOCH: Duration = Duration::from_secs(946_684_800);

    /// The moment as Rust counts it. Saturates before the Unix epoch.
    pub fn to_system_time(self) -> SystemTime {
        let micros = self.0.saturating_add(Self::EPOCH.as_micros() as i64);
        UNIX_EPOCH + Duration::from_micros(micros.max(0) as u64)
    }

    /// The moment as PostgreSQL counts it.
    pub fn from_system_time(time: SystemTime) -> Self {
        let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        Self(micros - Self::EPOCH.as_micros() as i64)
    }
}

/// What is known of a transaction when its first change arrives (pgoutput's Begin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The transaction's id on the source.
    pub xid: u32,
    /// Where its commit record starts. `None` for a transaction streamed before its commit.
    pub commit_lsn: Option<CommitLsn>,
    /// When it committed, by the source's clock. `None` as above.
    pub commit_time: Option<PgTime>,
}

/// How a transaction ended (pgoutput's Commit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts.
    pub commit_lsn: CommitLsn,
    /// Where it ends: the transaction's identity.
    pub end_lsn: EndLsn,
    /// When, by the source's clock.
    pub time: PgTime,
}

/// Where a transaction came from when the source itself received it by replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `pg_replication_origin.roname` on the source.
    pub name: String,
    /// The commit's position on the origin server; `None` when the source was not told.
    pub lsn: Option<Lsn>,
}

/// A whole transaction, or a stretch of a large one. Parts of one transaction follow each other without others between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The transaction.
    pub begin: Begin,
    /// Where it came from, if not from this source itself.
    pub origin: Option<Arc<Origin>>,
    /// 0 for the first part.
    pub index: u32,
    /// The changes of this part in source order.
    pub changes: Vec<Change>,
    /// With the last part.
    pub commit: Option<Commit>,
    /// Memory the changes take, in bytes.
    pub memory: usize,
}

impl Part {
    /// Whether the whole transaction is in this part.
    pub fn is_whole(&self) -> bool {
        self.index == 0 && self.commit.is_some()
    }
}

/// What the assembly stage hands on, in commit order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A transaction or its next part.
    Part(Part),
    /// A logical message outside any transaction.
    Message(Message),
    /// Nothing committed before this position is still to come, and no transaction is open.
    Quiet(EndLsn),
}
