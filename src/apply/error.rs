//! What can stop a target, and what to do about it.

use std::time::Duration;

use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::postgres::{PgError, ServerError};
use crate::relation::{Displayed, TableName};

/// Why a target does not get on. Row values are never in it; a row is named by its key.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The connection, or a statement of walferry's own.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The target refuses a change.
    #[error("{table} ({key}): the target refuses {what} of the transaction that committed at {lsn}")]
    Refused {
        table: TableName,
        key: String,
        what: &'static str,
        lsn: Lsn,
        hint: String,
        #[source]
        source: Box<ServerError>,
    },
    /// The target refuses the transaction as a whole, when it commits.
    #[error("the target refuses the transaction that committed at {lsn}")]
    RefusedCommit {
        lsn: Lsn,
        #[source]
        source: Box<ServerError>,
    },
    /// A conflict, under `conflicts = "stop"` or beyond what can be mended from the stream.
    #[error("{table} ({key}): {kind} in the transaction that committed at {lsn}")]
    Conflict { table: TableName, key: String, kind: ConflictKind, lsn: Lsn, hint: String },
    /// The target's table does not fit the source's.
    #[error("{table}: {problem}; found at {lsn}")]
    Schema { table: TableName, problem: String, lsn: Lsn, hint: String },
    /// The progress row is not where this session left it, or another one has claimed it.
    #[error(
        "stream \"{stream}\": the progress row on the target was moved, or claimed, by somebody else (expected \
         {expected})"
    )]
    Fenced { stream: String, expected: EndLsn },
    /// The progress row stands where neither the last nor the present commit left it: the target has crashed and lost
    /// commits that were not on its disk yet, was restored, or somebody else has moved it.
    #[error(
        "stream \"{stream}\": the target's progress is {found}, where {expected} was committed; what it lacks comes \
         again"
    )]
    Moved { stream: String, expected: EndLsn, found: String },
    /// A table that the stream brings and that has not been copied: at most another one of its name.
    #[error("{0} was added to the publication, or made anew, and has not been copied yet")]
    NewTable(TableName),
    /// A table that was copied is not on the target any more.
    #[error("{table} is gone on the target; found at {lsn}")]
    Gone { table: TableName, lsn: Lsn },
    /// The target is there no more, though the connection is.
    #[error("the target has not answered for {} s", .waited.as_secs())]
    Silent { waited: Duration },
    /// The parts of a large transaction applied so far are lost with the connection; it must be sent again.
    #[error("a transaction in progress was lost")]
    Restart(#[source] Box<ApplyError>),
}

/// The ways in which a target can differ from what a change expects. Names as in PostgreSQL 18's conflict types,
/// which has none for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// The row to be inserted exists, or one with an equal unique value.
    InsertExists,
    /// The row to be updated would equal another in a unique value.
    UpdateExists,
    /// The row to be updated is not there.
    UpdateMissing,
    /// The row to be deleted is not there.
    DeleteMissing,
    /// The row was not inserted: a trigger or rule of the target left it out.
    InsertIgnored,
}

impl ConflictKind {
    /// The name in metrics, logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InsertExists => "insert_exists",
            Self::UpdateExists => "update_exists",
            Self::UpdateMissing => "update_missing",
            Self::DeleteMissing => "delete_missing",
            Self::InsertIgnored => "insert_ignored",
        }
    }
}

impl std::fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl ApplyError {
    /// [`Self::Moved`], to where the row was found, if it was.
    pub(super) fn moved(stream: &str, expected: EndLsn, found: Option<EndLsn>) -> Self {
        let found = found.map_or_else(|| "gone".to_owned(), |end| end.to_string());
        Self::Moved { stream: stream.to_owned(), expected, found }
    }
}

impl ApplyError {
    /// The table whose change the target refuses, and would refuse again, as far as that can be said of one table.
    pub fn refused_table(&self) -> Option<&TableName> {
        match self {
            Self::Refused { table, .. } | Self::Conflict { table, .. } | Self::Schema { table, .. } => Some(table),
            Self::Restart(cause) => cause.refused_table(),
            _ => None,
        }
    }
}

impl Judged for ApplyError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Postgres(error) => error.verdict(),
            Self::Refused { hint, .. } | Self::Conflict { hint, .. } | Self::Schema { hint, .. } => {
                Verdict::halt(hint.clone())
            }
            Self::RefusedCommit { .. } => Verdict::halt(
                "A constraint checked at the end of the transaction does not hold on the target: compare the tables' \
                 constraints on both sides and mend the target's rows or constraint.",
            ),
            Self::Fenced { .. } | Self::Moved { .. } | Self::NewTable(_) | Self::Gone { .. } | Self::Silent { .. } => {
                Verdict::Retry
            }
            Self::Restart(cause) => cause.verdict(),
        }
    }
}

/// The hint for a TRUNCATE that is refused because tables outside refer to the table.
pub fn referenced(table: &TableName) -> String {
    format!(
        "A table that the source did not empty refers to {table} on the target, and must not be emptied with it: drop \
         that foreign key on the target, or let the role set session_replication_role (GRANT SET ON PARAMETER \
         session_replication_role, PostgreSQL 15 and later)."
    )
}

/// The hint for a refused change: what usually helps with this SQLSTATE.
pub fn hint(table: &TableName, error: &ServerError) -> String {
    let shown = |name: &Option<String>, what: &str| match name {
        Some(name) => Displayed(name).to_string(),
        None => what.to_owned(),
    };
    let constraint = shown(&error.constraint, "the constraint");
    match error.code.as_str() {
        "23502" => {
            let column = shown(&error.column, "the column");
            format!(
                "The target requires a value that the source does not send: ALTER TABLE {table} ALTER COLUMN {column} \
                 DROP NOT NULL; or give the column a default."
            )
        }
        "23503" => format!(
            "The row it refers to is not on the target: add that row, or ALTER TABLE {table} DROP CONSTRAINT \
             {constraint}; or let the role set session_replication_role (GRANT SET ON PARAMETER \
             session_replication_role, PostgreSQL 15 and later)."
        ),
        "23505" | "23P01" => format!(
            "Another row of the target stands in the way of {constraint}: remove that row, or the constraint if the \
             source does not have it."
        ),
        "23514" => {
            format!(
                "The target has a check that the source does not: ALTER TABLE {table} DROP CONSTRAINT {constraint};"
            )
        }
        "42501" => format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {table} TO the target role; with row security, the role \
             needs BYPASSRLS or must own the table."
        ),
        code if code.starts_with("22") => {
            format!("A value does not fit the target's column: make the column types of {table} those of the source.")
        }
        _ => format!("Mend {table} on the target; walferry tries again by itself."),
    }
}
