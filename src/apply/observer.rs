//! Who is told what an apply worker does: metrics, status and feedback hang on it.

use std::sync::Arc;
use std::time::Duration;

use super::dead_letter::SetAside;
use super::error::{ApplyError, ConflictKind};
use crate::change::{Part, PgTime};
use crate::error::Verdict;
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::relation::TableName;

/// Told by a worker; must not block.
pub trait Observer: Send + Sync {
    /// The target has committed this position, and shows what lies before it; a crash may still take it back.
    /// `commit_time` is the source's, when data came with it. `took` is the time from the target transaction's first
    /// statement to the answer to its COMMIT, where that is known.
    fn committed(&self, end: EndLsn, commit_time: Option<PgTime>, took: Option<Duration>);
    /// What was committed up to here is on the target's disk.
    fn durable(&self, position: DurableLsn);
    /// The changes of these parts are in the target (with a transaction in pieces: will be, when it commits).
    fn applied(&self, parts: &[Arc<Part>]);
    /// A conflict was met, and under `source_wins` mended.
    fn conflict(&self, kind: ConflictKind, table: &TableName, key: &str, lsn: Lsn);
    /// A change of one row was set aside.
    fn dead_letter(&self, letter: &SetAside);
    /// So many changes of the stream are set aside on the target.
    fn dead_letters(&self, waiting: u64);
    /// So many changes were applied in bulk.
    fn in_bulk(&self, changes: u64);
    /// What was to be applied in bulk is applied change by change, because of this table, where it is known. `code` is
    /// the SQLSTATE that the target gave; that of a guard where it did not have the rows that were expected.
    fn fell_back(&self, table: Option<&TableName>, code: &str);
    /// The worker gets on (again).
    fn running(&self);
    /// The worker does not get on; it tries again.
    fn failed(&self, error: &ApplyError, verdict: &Verdict);
}
