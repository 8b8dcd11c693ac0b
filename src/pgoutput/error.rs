//! What can be wrong with a frame. Never holds a value of a row: errors are logged.

use crate::error::{Judged, Verdict};

/// A frame that is not a message of the protocol. Nothing of it was used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source sent {message} in a form that is not pgoutput (at byte {offset} of {length}): {fault}")]
pub struct DecodeError {
    /// The message's name, as far as its tag told.
    pub message: &'static str,
    /// How far reading came, in bytes.
    pub offset: usize,
    /// The frame's length in bytes.
    pub length: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A field, or what a count promises, lies past the end.
    #[error("it ends before its fields do")]
    Truncated,
    /// Bytes after the last field.
    #[error("{0} bytes follow its last field")]
    Trailing(usize),
    /// A frame of 4 GB or more: positions in it would not fit the protocol's own 32 bits.
    #[error("it is longer than any message can be")]
    TooLong,
    /// A string without its end.
    #[error("a string does not end")]
    Unterminated,
    /// A string that is not text in the session's encoding.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// The first byte names no message.
    #[error("no message has the tag 0x{0:02x}")]
    UnknownTag(u8),
    /// A message that the negotiated protocol version or streaming mode does not have.
    #[error("it was not asked for: the session speaks {0}")]
    NotNegotiated(&'static str),
    /// A message that has no place inside a stream block, or none outside.
    #[error("it has no place {0} a stream block")]
    Misplaced(&'static str),
    /// A position that must be known is 0/0.
    #[error("its {0} is 0/0")]
    UnknownPosition(&'static str),
    /// A transaction id of 0 where there must be one.
    #[error("its transaction id is 0")]
    NoTransactionId,
    /// Flags that no known version sends.
    #[error("its flags are 0x{0:02x}")]
    UnknownFlags(u8),
    /// `relreplident` is none of d, n, f, i.
    #[error("0x{0:02x} is no replica identity")]
    UnknownIdentity(u8),
    /// A row is introduced by a byte that has no place there.
    #[error("0x{0:02x} introduces no row there")]
    UnknownRow(u8),
    /// A column's kind is none of n, u, t, b.
    #[error("0x{0:02x} is no kind of column value")]
    UnknownColumn(u8),
}

impl Judged for DecodeError {
    fn verdict(&self) -> Verdict {
        Verdict::halt(
            "The server sent something that is not pgoutput, or a version of it that walferry does not know; nothing \
             of it was applied. Check that `source.url` leads to a PostgreSQL server (14 to 18) and not through a \
             proxy that rewrites data; if it does, report this message with the server's version.",
        )
    }
}
