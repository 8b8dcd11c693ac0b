//! Apply: what comes from the source's commits goes into one target, exactly once and in commit order.
//!
//! ```text
//!   queue ──▶ worker ──▶ exact ──(refused)──▶ conflict
//!               │          └── session ── table, statement, flight
//!               └── progress (the row that moves with the data)
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `queue.rs` | bounded in bytes; consecutive transactions become one batch |
//! | `worker.rs` | the loop: take, apply, retry, reconnect |
//! | `silence.rs` | whether the target is there at all, where that does not show |
//! | `exact.rs` | a batch in one flight: BEGIN, rows, progress, COMMIT, one Sync |
//! | `load.rs` | a change as a step of a flight |
//! | `conflict.rs` | change by change where the target refused one |
//! | `dead_letter/` | a change that the target does not take is set aside, and applied later by command |
//! | `truncation.rs` | TRUNCATE, and what does its work where the target refuses it |
//! | `flight.rs` | statements sent together, answers told apart |
//! | `flush.rs` | from committed to durable, beside the applying |
//! | `flushed.rs` | what is outstanding there (pure) |
//! | `session.rs` | connections, matched tables, prepared statements |
//! | `table.rs` | a source table matched to the target's (pure) |
//! | `statement.rs` | the SQL of a change (pure) |
//! | `progress.rs` | the progress row, and the schema it lives in |
//! | `progress/touch.rs` | how a transaction holds and moves it, whatever old versions of it there are (pure) |
//! | `observer.rs` | who is told |
//!
//! # Why exactly once
//! Let the progress row stand at `0/300`. A batch of the transactions ending at `0/400` and `0/500` is sent as
//! `BEGIN; SELECT … FROM progress WHERE end_lsn = 0/300 FOR UPDATE; …;
//! UPDATE progress SET end_lsn = 0/500 WHERE end_lsn = 0/300; COMMIT`.
//! * The daemon, the target or the line dies before COMMIT takes effect: neither rows nor row of progress are there;
//!   after the restart the stream is read from `0/300`.
//! * It dies after COMMIT took effect, before the answer arrives: rows and `0/500` are there. After a reconnect the
//!   row is read: `0/500` is the batch's end, so the batch is done. After a restart the stream is read from `0/500`.
//! * The target dies after it has answered, and comes back without what was not on its disk yet: rows and `0/500` are
//!   gone together, the row stands at `0/300` or `0/400`. The source was not told of more: only what is on the target's
//!   disk is confirmed (`flush.rs`). The connection is gone with the target; the row is read, found behind, and the
//!   stream is read again from there. So it is for a daemon that starts in between: what it reads may be taken back,
//!   and it has it written to the disk before it believes it.
//! * Another daemon, or a session of this one that was given up and lives on at the target, is applying the same batch:
//!   it holds the row and is waited for. Then the row stands at `0/500`, no row has `0/300`, and the first statement
//!   raises an error before any row is met.
//! * Positions between are stored only at ends of source transactions: a source transaction never spans two commits.

pub mod bulk;
pub mod conflict;
pub mod dead_letter;
pub mod error;
pub mod exact;
pub mod flight;
mod flush;
mod flushed;
mod load;
pub mod observer;
pub mod plan;
pub mod progress;
pub mod queue;
pub mod session;
mod silence;
pub mod statement;
pub mod table;
pub mod truncation;
pub mod worker;
