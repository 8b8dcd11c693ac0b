//! The initial copy: the tables of one target, filled from the source as of the slot's snapshot, once and completely.
//!
//! In: the published tables, an exported snapshot with its LSN, the settings ([`CopyJob`]). Out: rows on the target
//! and, per table, a row of `walferry.table_state` that says `done` and from which LSN on the stream has to be
//! applied. The snapshot stays the caller's; what is new since is the stream's.
//!
//! ```text
//!  pending ──▶ prepare ─────────────────────────────▶ worker × n: per piece ───────────────────────▶ done
//!  what is     preflight: all findings, or            target BEGIN, fence
//!  missing     take_over + empty: one transaction     source snapshot ══ pump: COPY out ▶ COPY in ══▶
//!              plan: waves, ctid ranges               count rows (done with the last piece), COMMIT
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `pending` | which tables are to be copied |
//! | `job` | one copy from beginning to end |
//! | `preflight`, `cascade`, `readable`, `remedy` | what would go wrong, and the SQL that mends it |
//! | `prepare` | the transaction that marks and empties |
//! | `fate` | pure: what becomes of the rows that a table holds |
//! | `plan`, `partition`, `order`, `statement`, `merge` | pure: pieces, block ranges, waves, SQL text |
//! | `worker`, `pump`, `rate`, `snapshot` | one piece: retry, bytes and how fast, the source's transaction |
//! | `aside`, `patience` | what fails by itself, and how long a target may hold up the copy |
//! | `state` | `walferry.table_state` and the fence |
//! | `source_tables`, `target_tables` | what the two catalogues say |
//!
//! # Why each row arrives exactly once
//! A piece (a range of a table, or all of it) is one target transaction: fence, rows, count, COMMIT. Pieces of a
//! table commit one by one, and the last one's transaction also says `done`. Who dies when, with a table of three
//! pieces under a snapshot at 0/5000 (the moment, what is on the target afterwards, what follows):
//!
//! - *before `take_over` commits*: nothing. Then: as if it had not begun.
//! - *after it, before the first COMMIT*: `copying`, 0 rows, table empty. Then: the next run takes over, empties,
//!   copies.
//! - *daemon dies after piece 1*: `copying`, piece 1. Then: the same, under a new snapshot at 0/7000: piece 1 goes
//!   too, since rows of 0/5000 and 0/7000 would not fit together; `copy_lsn` becomes 0/7000.
//! - *connection to either side lost in piece 2*: piece 1; piece 2 rolls back. Then: the same run, while its snapshot
//!   lives, repeats piece 2 alone.
//! - *COMMIT of piece 2 sent, answer lost*: pieces 1 and 2, or 1. Then: the run reads `rows_copied` on a new
//!   connection, waiting for the old transaction to end: it repeats piece 2 or goes on.
//! - *COMMIT of piece 3 sent, answer lost*: `done`, or 1 and 2. Then: likewise, by `state`.
//! - *daemon dies after that*: `done` at 0/5000. Then: the table stays, other tables are copied under another
//!   snapshot; each has its own `copy_lsn`.
//! - *another run takes over*: its own `copier`. Then: it waits for transactions under way, then empties; the old
//!   run's next one finds no row at its fence.
//! - *target fails over and has lost piece 2's commit*: piece 1, `rows_copied` of 1. Then: the next count compares,
//!   fails ([`CopyError::TakenOver`]), and the table begins again.
//! - *snapshot's connection dies, source restarts*: as it was. Then: [`CopyError::SnapshotLost`]: the caller takes a
//!   new snapshot.
//! - *source table truncated or rewritten since the snapshot*: the piece rolls back. Then:
//!   [`CopyError::SourceChanged`]: the same (see `snapshot.rs`), once the other tables are done.
//! - *a row of a table is not taken by the target*: the same. A table that fails by itself is set aside, and what is
//!   copied of the others is not thrown away for it.
//! - *the target is down, or hangs, for longer than [`CopyJob::patience`]*: the job ends, so that its snapshot does not
//!   keep the source from cleaning up for ever.
//!
//! A table is emptied by `TRUNCATE` or, where that is refused, `DELETE`, in the transaction that makes the run its
//! copier. With `mode = "merge"` nothing is emptied that was copied before, and with `existing_rows = "merge"` nothing
//! at all: such a table is one piece, through a staging table, so it has happened or has not. With the latter, rows
//! that only the target has stay; among them rows the source deleted between two merges.
//!
//! # Foreign keys
//! With `session_replication_role = replica` they are not checked, and tables go in any order. Without, parents go a
//! wave earlier than children, a table that refers to itself is copied by one statement (the check comes at its end),
//! a circle is a finding, user triggers fire (a warning), and finished tables tied to an unfinished one are copied
//! again with it.

mod aside;
mod cascade;
mod error;
mod fate;
#[cfg(test)]
mod fixture;
mod job;
mod merge;
mod order;
mod partition;
mod patience;
mod pending;
mod plan;
mod preflight;
mod prepare;
mod pump;
mod rate;
mod readable;
mod remedy;
mod snapshot;
mod source_tables;
pub mod state;
mod statement;
mod target_tables;
mod worker;

pub use error::CopyError;
pub use job::{CopyJob, CopyMode, CopyObserver, CopyProgress, CopyScope, CopySettings, ExistingRows, copy};
pub use order::{Cycle, ForeignKey, closure, waves};
pub use pending::pending;
pub use preflight::{Finding, Matter, Weight, check, preflight};
pub use pump::{PumpError, pump};
pub use rate::Rate;
pub use snapshot::{ReadError, Reading};
pub use state::{CopyState, TableState};
