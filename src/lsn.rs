//! Positions in the write-ahead log, one type per meaning, so that they cannot be mixed up.
//!
//! | type | meaning | made by |
//! |---|---|---|
//! | [`Lsn`] | any byte position in the WAL | anyone |
//! | [`CommitLsn`] | where a transaction's commit record starts (`final_lsn` of Begin) | the decoder |
//! | [`EndLsn`] | where that record ends; *the* identity of a transaction | the decoder, stored progress |
//! | [`DurableLsn`] | a target has progress up to here on its disk | `apply/progress.rs` only |
//! | [`ConfirmedFlush`] | what the source may forget | `feedback.rs` only |
//!
//! `Lsn` 0/0 is PostgreSQL's `InvalidXLogRecPtr`: it means *unknown*, so it is never stored here; an unknown
//! position is an `Option`. `tests/tidy.rs` holds the last two rows of the table.

use std::fmt;
use std::str::FromStr;

/// A byte position in the source's write-ahead log, written `16/B374D848` as PostgreSQL does (`pg_lsn`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The smallest position; only ever a lower bound in comparisons, never sent to a server.
    pub const ZERO: Lsn = Lsn(0);

    /// The position at this many bytes from the beginning of the WAL.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// As [`Lsn::new`], with PostgreSQL's invalid position 0/0 read as "unknown".
    pub fn known(bytes: u64) -> Option<Self> {
        (bytes != 0).then_some(Self(bytes))
    }

    /// Bytes from the beginning of the WAL.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// How many bytes of WAL lie between `earlier` and here; 0 when `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN such as `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a WAL position such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let plain = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.chars().take(40).collect()))
    }
}

macro_rules! position {
    ($(#[$doc:meta])* $name:ident, $visibility:vis new) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Lsn);

        impl $name {
            /// Gives the position this meaning; see the module's table for who may.
            $visibility const fn new(lsn: Lsn) -> Self {
                Self(lsn)
            }

            /// The bare position.
            pub const fn lsn(self) -> Lsn {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

position! {
    /// Where a transaction's commit record starts. A table copied under a snapshot taken at `L` already holds exactly
    /// the transactions whose commit LSN is below `L` (PostgreSQL: `SnapBuildXactNeedsSkip`, `start_decoding_at`).
    CommitLsn, pub new
}
position! {
    /// Where a transaction's commit record ends. Skip rule, progress row and feedback all use it.
    EndLsn, pub new
}
position! {
    /// A target has stored progress up to here, and on its disk: a crash does not take it back. Made by
    /// `apply/progress.rs` only.
    DurableLsn, pub(crate) new
}
position! {
    /// The flush position reported to the source, which may then forget what lies before. Made by `feedback.rs` only.
    ConfirmedFlush, pub(crate) new
}

impl DurableLsn {
    /// The end of the last transaction that is durable.
    pub const fn end_lsn(self) -> EndLsn {
        EndLsn(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_postgresql_prints() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("1/10".parse::<Lsn>().unwrap().as_u64(), 0x1_0000_0010);
    }

    #[test]
    fn refuses_what_is_not_a_position() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "x/1", "123456789/0", "+1/0", "1/-1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text} was accepted");
        }
    }
}
