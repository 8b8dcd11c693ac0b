//! Why a sequence of messages is not a sequence of transactions.

use crate::error::{Judged, Verdict};
use crate::lsn::{CommitLsn, Lsn};
use crate::relation::{RelationId, TableName};

/// A message that cannot come where it came. Nothing of it was delivered, and the transaction it broke has no end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source sent {message} out of place{}: {fault}", self.place())]
pub struct AssemblyError {
    /// The message's name.
    pub message: &'static str,
    /// Where the frame starts in the WAL; unknown for messages that describe rather than change.
    pub frame_lsn: Option<Lsn>,
    /// The commit LSN of the transaction that was open.
    pub transaction: Option<CommitLsn>,
    /// What is wrong.
    pub fault: Fault,
}

impl AssemblyError {
    fn place(&self) -> String {
        let frame = self.frame_lsn.map(|lsn| format!(" at {lsn}"));
        let transaction = self.transaction.map(|lsn| format!(" in the transaction that commits at {lsn}"));
        frame.unwrap_or_default() + &transaction.unwrap_or_default()
    }
}

/// What is wrong with a message's place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A change, an origin or a Commit without a Begin before it.
    #[error("no transaction is open")]
    NoTransaction,
    /// A Begin before the last transaction's Commit.
    #[error("the transaction before it has not ended")]
    AlreadyOpen,
    /// Commit names another position than its Begin.
    #[error("it commits at {commit}, but its Begin announced {begin}")]
    OtherCommit {
        /// What the Begin said.
        begin: CommitLsn,
        /// What the Commit says.
        commit: CommitLsn,
    },
    /// A commit record that ends where it starts, or before.
    #[error("its commit record at {start} would end at {end}")]
    EmptyCommitRecord {
        /// Where the record starts.
        start: Lsn,
        /// Where it is said to end.
        end: Lsn,
    },
    /// A commit LSN below what was already reported as complete.
    #[error("it commits at {commit}, but everything before {complete} was complete already")]
    OutOfOrder {
        /// The commit LSN.
        commit: CommitLsn,
        /// The end of the last commit, or a later keepalive's position.
        complete: Lsn,
    },
    /// No Relation message announced this one in the session.
    #[error("relation {} was not announced", .0.0)]
    UnknownRelation(RelationId),
    /// A row that does not fit its relation.
    #[error("a row of table {table} has {row} columns, but the table was announced with {relation}")]
    ColumnCount {
        /// The table.
        table: TableName,
        /// Columns of the row.
        row: usize,
        /// Columns of the Relation message.
        relation: usize,
    },
    /// TRUNCATE of nothing.
    #[error("it names no relation")]
    EmptyTruncate,
    /// More parts than can be counted.
    #[error("the transaction is cut into more than 4,294,967,295 parts; raise the size of a part")]
    TooManyParts,
    /// Streaming of transactions in progress was not asked for, and is not understood here.
    #[error("streaming of transactions in progress was not asked for")]
    Streaming,
    /// Two-phase commit was not asked for, and is not understood here.
    #[error("two-phase commit was not asked for")]
    TwoPhase,
}

impl Judged for AssemblyError {
    fn verdict(&self) -> Verdict {
        Verdict::halt(match self.fault {
            Fault::Streaming | Fault::TwoPhase => {
                "walferry asks for neither: something between it and the source changes the options of \
                 START_REPLICATION. Let `source.url` lead to the server itself."
            }
            _ => {
                "The server's stream contradicts itself; nothing of the transaction was committed anywhere. Check that \
                 `source.url` leads to the PostgreSQL server itself; if it does, report this message with the server's \
                 version."
            }
        })
    }
}
