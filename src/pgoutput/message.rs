//! The messages as values: what each says, free of its layout. The table in [`super`] says which is which.
//!
//! Rows still name their relation by [`RelationId`]: only `transaction/` remembers what a relation looked like.
//! `xid` of a message is present exactly inside a stream block: the (sub)transaction that the change belongs to.

use crate::change::{self, PgTime};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::relation::{Relation, RelationId};
use crate::row::{OldRow, Row};

/// One pgoutput message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A transaction starts; all of it follows, up to its Commit.
    Begin { final_lsn: CommitLsn, commit_time: PgTime, xid: u32 },
    /// `pg_logical_emit_message`.
    Logical { xid: Option<u32>, message: change::Message },
    /// The transaction is complete.
    Commit { commit: change::Commit },
    /// The transaction was itself received by replication. Its position there may be unknown, and is in a stream block.
    Origin { lsn: Option<Lsn>, name: String },
    /// What the rows of a relation look like from here on.
    Relation { xid: Option<u32>, relation: Relation },
    /// The name of a type that is not built in. Of a domain: the schema and name of its base type.
    Type { xid: Option<u32>, oid: u32, schema: String, name: String },
    /// A new row.
    Insert { xid: Option<u32>, relation: RelationId, new: Row },
    /// A changed row.
    Update { xid: Option<u32>, relation: RelationId, old: Option<OldRow>, new: Row },
    /// A row that is gone.
    Delete { xid: Option<u32>, relation: RelationId, old: OldRow },
    /// Relations emptied by one statement.
    Truncate { xid: Option<u32>, relations: Vec<RelationId>, cascade: bool, restart_identity: bool },
    /// A block of a transaction still in progress starts.
    StreamStart { xid: u32, first: bool },
    /// The block ends; other transactions may come in between.
    StreamStop,
    /// A streamed transaction is complete.
    StreamCommit { xid: u32, commit: change::Commit },
    /// A streamed (sub)transaction was rolled back; `subxid` equals `xid` when it is the whole of it.
    StreamAbort { xid: u32, subxid: u32, abort: Option<Abort> },
    /// A transaction that was prepared starts.
    BeginPrepare { prepared: Prepared },
    /// The prepared transaction is complete, and undecided.
    Prepare { prepared: Prepared },
    /// A prepared transaction was committed.
    CommitPrepared { commit: change::Commit, xid: u32, gid: String },
    /// A prepared transaction was rolled back.
    RollbackPrepared { rollback: PreparedRollback },
    /// A streamed transaction was prepared.
    StreamPrepare { prepared: Prepared },
}

impl Message {
    /// The message's name in PostgreSQL's documentation.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Begin { .. } => "Begin",
            Message::Logical { .. } => "Message",
            Message::Commit { .. } => "Commit",
            Message::Origin { .. } => "Origin",
            Message::Relation { .. } => "Relation",
            Message::Type { .. } => "Type",
            Message::Insert { .. } => "Insert",
            Message::Update { .. } => "Update",
            Message::Delete { .. } => "Delete",
            Message::Truncate { .. } => "Truncate",
            Message::StreamStart { .. } => "Stream Start",
            Message::StreamStop => "Stream Stop",
            Message::StreamCommit { .. } => "Stream Commit",
            Message::StreamAbort { .. } => "Stream Abort",
            Message::BeginPrepare { .. } => "Begin Prepare",
            Message::Prepare { .. } => "Prepare",
            Message::CommitPrepared { .. } => "Commit Prepared",
            Message::RollbackPrepared { .. } => "Rollback Prepared",
            Message::StreamPrepare { .. } => "Stream Prepare",
        }
    }
}

/// Where and when a streamed transaction was rolled back; sent with streaming `parallel` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// `None` when it ended with a crash of the server, which leaves no abort record (`ReorderBufferAbortOld`).
    pub lsn: Option<Lsn>,
    /// When, by the source's clock; 0 as above.
    pub time: PgTime,
}

/// A transaction at its PREPARE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Where the prepare record starts.
    pub prepare_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: EndLsn,
    /// When it was prepared, by the source's clock.
    pub time: PgTime,
    /// The transaction.
    pub xid: u32,
    /// The name it was prepared under.
    pub gid: String,
}

/// A prepared transaction at its ROLLBACK PREPARED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRollback {
    /// Where the prepare record ended.
    pub prepare_end_lsn: Lsn,
    /// Where the rollback's record ends.
    pub rollback_end_lsn: EndLsn,
    /// When it was prepared.
    pub prepare_time: PgTime,
    /// When it was rolled back.
    pub rollback_time: PgTime,
    /// The transaction.
    pub xid: u32,
    /// The name it was prepared under.
    pub gid: String,
}
