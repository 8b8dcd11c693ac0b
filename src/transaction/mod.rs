//! Messages of one replication session in, [`crate::change::Delivery`] in commit order out.
//!
//! pgoutput (protocol version 1) sends each transaction whole and after its commit, in the order in which the commit
//! records stand in the WAL (`ReorderBufferCommit` replays one at a time). So nothing has to be sorted here; what is
//! left to do is
//! - to give every row the [`crate::relation::Relation`] it was written under (`catalog.rs`),
//! - to cut what is large into parts, so that no more than `part_bytes` (or one change) is gathered at a time,
//! - to know when a keepalive means something,
//! - to refuse what cannot be a sequence of transactions, before any of it reaches a target.
//!
//! An [`Assembler`] lives as long as its replication session: a new session announces its relations again, and cuts the
//! transaction it stopped in from its beginning.
//!
//! # A trace
//! Two transactions, a heartbeat outside of them and idle moments, as PostgreSQL 15 sent them (tests/golden), with
//! keepalives added:
//! ```text
//! keepalive wal_end   0/1D82708                       → Quiet(0/1D82708): no commit before it is still to come
//! Begin     final_lsn 0/1D828C8                       a transaction is open: a keepalive now means nothing
//! Relation  public.items                              remembered
//! Insert    public.items, twice                       gathered
//! Commit    0/1D828C8, end 0/1D828F8                  → Part { index 0, both INSERTs, commit, end 0/1D828F8 }
//! keepalive wal_end   0/1D828C8                       nothing: below the commit already delivered
//! Begin     final_lsn 0/1D829A0                       not below 0/1D828F8; anything lower would be an error
//! Update    public.items                              gathered
//! Commit    0/1D829A0, end 0/1D829D0                  → Part { index 0, [Update], commit, end 0/1D829D0 }
//! Message   0/1D83150, not transactional              → Message, at once
//! keepalive wal_end   0/1D83198                       → Quiet(0/1D83198)
//! ```
//! The first transaction's identity is 0/1D828F8, where its commit record ends. 0/1D828C8, where it starts, says which
//! side of a snapshot it is on. The positions of the single changes say nothing and are not kept.
//!
//! # Logical messages
//! A transactional one is a change of its transaction. One that is not transactional is sent the moment the server
//! decodes it (`ReorderBufferQueueMessage`), which is never while a transaction is being replayed, also when it was
//! written within one: it arrives before that one's Begin. It is delivered at once wherever it comes, since it
//! has no place in the order of commits.

mod assembler;
mod catalog;
mod error;
#[cfg(test)]
mod tests;

pub use assembler::Assembler;
pub use error::{AssemblyError, Fault};
