//! Dead letters: a change of one row that the target does not take is set aside in `walferry.dead_letter` there, in the
//! target transaction that holds the rest of what the source committed; and is applied later, by command.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | which errors are of one row |
//! | `image.rs` | rows as JSON, and back (pure) |
//! | `render.rs` | values in binary as text |
//! | `version.rs` | whether a row is as it was (pure) |
//! | `letter.rs` | a letter as it was written, made a change again |
//! | `lettered.rs` | which tables have letters, so that a row that is missing is looked for there |
//! | `write.rs` | a change becomes a letter |
//! | `store.rs` | letters read, counted and dropped |
//! | `retry.rs` | a letter becomes a change |
//! | `watch.rs` | how many there are |
//!
//! # Exactly once
//! A letter is a row of the same transaction as the data and the progress row: it is there if and only if the position
//! has passed its change. Where it cannot be written, the target halts as it would without.
//!
//! # Never older over newer
//! A row that a letter is about goes on being changed by the source. So a letter notes which version of its row it has
//! met (`found`), and is applied only to that one; letters of one key are applied in their order, each carrying its
//! successors along. A row that is not there has no version: what deletes it, or brings it anew, marks the letters that
//! have lain for it (`superseded_lsn`). For that every DELETE and TRUNCATE of a table with letters is made to raise
//! when it finds no row, or marks by itself. Whoever applies a letter holds the progress row, so nothing of the stream
//! is applied at the same time.

mod image;
mod letter;
mod lettered;
mod render;
mod retry;
mod store;
mod version;
pub(super) mod watch;
mod write;

pub use self::image::{Image, Value};
pub use self::lettered::Lettered;
pub use self::retry::{Outcome, Retrier};
pub use self::store::{Choice, Letter, count, drop_letters, ids, list};
pub(super) use self::write::{Missing, RENAMED};

use crate::lsn::Lsn;
use crate::relation::TableName;

/// What to do with a change of one row that the target does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The target halts.
    Halt,
    /// It is set aside.
    DeadLetter,
}

/// A change that was set aside: what is reported of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Of which table.
    pub table: TableName,
    /// Of which row.
    pub key: String,
    /// `insert`, `update` or `delete`.
    pub what: &'static str,
    /// Of what the target answered; `None`: the row was not there.
    pub sqlstate: Option<String>,
    /// What it answered, without values.
    pub error: String,
    /// What helps.
    pub hint: String,
    /// Where the source's transaction ends, as far as that is known.
    pub lsn: Lsn,
}

/// Whether an error with this SQLSTATE is of the one row that was refused (documentation: appendix "PostgreSQL Error
/// Codes"). All other errors of the target are of its set-up (a column, a right, a type that is missing), or pass.
///
/// - Class 22, data exceptions: a value is not what its column takes: too long, out of range, not in the encoding.
/// - Class 23: a constraint does not hold for the row. (`23514` too when a partitioned table has no partition for it.)
/// - 54000: the row is larger than a page or an index takes.
/// - P0001: a trigger of the target raises an exception of its own; what goes wrong in one has other codes.
///
/// Not 42501: that row security refuses a row is told by the same code as that the role lacks a right.
pub(super) fn is_of_one_row(code: &str) -> bool {
    matches!(code.get(..2), Some("22" | "23")) || matches!(code, "54000" | "P0001")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_one_row_is_told_from_the_set_up_and_from_what_passes() {
        for code in ["22001", "22003", "22P05", "23502", "23503", "23505", "23514", "23P01", "54000", "P0001"] {
            assert!(is_of_one_row(code), "{code}");
        }
        for code in ["42501", "42703", "42P01", "53100", "40P01", "55P03", "57014", "54001", "0A000", "P0004", "", "2"]
        {
            assert!(!is_of_one_row(code), "{code}");
        }
    }
}
