//! Frames of a `pgoutput` session in, [`Message`]s out: protocol versions 1 to 4, text and binary columns.
//!
//! | tag | name | since | layout after the tag |
//! |---|---|---|---|
//! | `B` | Begin | 1 | final_lsn u64, commit_time i64, xid u32 |
//! | `M` | Message | 1 | \[xid\] flags u8 (1 transactional), lsn u64, prefix str, length u32, content |
//! | `C` | Commit | 1 | flags u8 (0), commit_lsn u64, end_lsn u64, commit_time i64 |
//! | `O` | Origin | 1 | lsn u64 (0/0: unknown), name str |
//! | `R` | Relation | 1 | \[xid\] oid u32, schema str, name str, identity u8 (d n f i), columns u16 × column |
//! | `Y` | Type | 1 | \[xid\] oid u32, schema str, name str |
//! | `I` | Insert | 1 | \[xid\] relation u32, `N` row |
//! | `U` | Update | 1 | \[xid\] relation u32, (`K` or `O` row)?, `N` row |
//! | `D` | Delete | 1 | \[xid\] relation u32, `K` or `O` row |
//! | `T` | Truncate | 1 | \[xid\] count u32, flags u8 (1 cascade, 2 restart identity), count × u32 |
//! | `S` | Stream Start | 2 | xid u32, first u8 |
//! | `E` | Stream Stop | 2 | |
//! | `c` | Stream Commit | 2 | xid u32, flags u8 (0), commit_lsn u64, end_lsn u64, commit_time i64 |
//! | `A` | Stream Abort | 2 | xid u32, subxid u32, with streaming `parallel` (4): lsn u64 (0/0: unknown), time i64 |
//! | `b` | Begin Prepare | 3 | prepare_lsn u64, end_lsn u64, time i64, xid u32, gid str |
//! | `P` | Prepare | 3 | flags u8 (0), then as Begin Prepare |
//! | `K` | Commit Prepared | 3 | flags u8 (0), commit_lsn u64, end_lsn u64, time i64, xid u32, gid str |
//! | `r` | Rollback Prepared | 3 | flags u8 (0), prepare_end u64, end u64, prepared i64, time i64, xid u32, gid str |
//! | `p` | Stream Prepare | 3 | as Prepare |
//!
//! A column of a relation is flags u8 (1 key), name str, type u32, modifier i32.
//! A row is columns u16 × (`n` null, `u` unchanged TOAST, `t` or `b` with length u32 and so many bytes). A str is
//! UTF-8 and ends with a zero byte; an empty schema means `pg_catalog`. `[xid]` u32 is there exactly between Stream
//! Start and Stream Stop, which is the one thing that a [`Decoder`] remembers. Integers are big-endian.
//! Source: PostgreSQL documentation, "Logical Replication Message Formats"; `src/backend/replication/logical/proto.c`.
//!
//! # Total: every frame is a message or an error
//! - *No panic.* All bytes are read through `reader.rs`, whose every read is checked against what is left; no other
//!   code here indexes a frame.
//! - *No memory beyond a fixed multiple of the frame.* A count is compared with the bytes left, at the least bytes each
//!   thing takes, before anything is reserved (a column value takes at least 1 and costs one [`crate::row::Cell`]; a
//!   column description at least 10). Values are not copied: they share the frame.
//! - *No guess.* Unknown tags, flags and kinds, bytes left over, 0/0 where the protocol has a position, messages of
//!   another version or place are errors, and the stream stops: what they would have changed is not known.

mod decoder;
mod error;
mod message;
mod reader;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, ProtocolVersion, Streaming, begun};
pub use error::{DecodeError, Fault};
pub use message::{Abort, Message, Prepared, PreparedRollback};
