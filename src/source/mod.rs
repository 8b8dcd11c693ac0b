//! The source: in goes a server, out come its identity, its publication, a slot with a snapshot, and the stream.
//!
//! ```text
//! identity ─▶ publication ─▶ slot ──▶ snapshot ──▶ (initial copy)
//!                             └─────▶ wal_receiver ──▶ (decoder) … (feedback)
//!                                        ▲ silence         │ ConfirmedFlush
//!                                      status ◀────────────┘
//! lock: one active daemon      heartbeat: a commit now and then
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `identity.rs` | which server, which timeline |
//! | `publication/` | what is published, and creating it when walferry may |
//! | `slot/` | looking at slots, creating one with a snapshot, refusing what is not ours or lost |
//! | `wal_receiver.rs` | the stream itself |
//! | `status.rs` | status updates, by a task of their own |
//! | `pace.rs` | when to read at once, and when to let more arrive |
//! | `silence.rs` | when a silent connection is a dead one |
//! | `heartbeat.rs` | logical messages that keep a quiet database's slot moving |
//! | `lock.rs` | one active daemon per stream |
//! | `answer.rs` | columns of an answer |
//! | `error.rs` | [`SourceError`] |
//!
//! # Why nothing is lost or doubled here
//!
//! Two things are promised: what is streamed begins exactly where the snapshot ends, and the server keeps every
//! transaction until this side has said, by way of a [`ConfirmedFlush`](crate::lsn::ConfirmedFlush), that it need not.
//!
//! ```text
//! WAL            0/100     0/140       0/180      0/1C0        0/200      0/240
//! transactions   A begins  B begins               A commits    B commits  C commits
//! slot                     creation    consistent point 0/180
//! snapshot                             (nothing of A, B)
//! stream                                          A            B          C
//! ```
//!
//! 1. *Creation.* The server waits for transactions it saw only in part. At the consistent point, here 0/180, it
//!    exports
//!    a snapshot: it shows what committed before 0/180 and nothing else. A and B commit after it, so the stream brings
//!    them whole, although they began before. What commits below is copied, what commits from there on is streamed.
//! 2. *Confirming.* Status updates report B's end, say 0/210, as flushed only once the watch says so, and the watch
//!    holds what every target has on its disk. Killed before that, the slot is at 0/180 and A, B come again; the
//!    targets, whose progress is 0/210, skip them. Killed after it, C is the next to come. There is no third case:
//!    written is what was received and frees nothing.
//! 3. *Starting.* START_REPLICATION below the slot's confirmed position starts, silently, at that position. So the
//!    caller
//!    compares before it starts; asking for 0/180 when the slot is at 0/210 would be the gap.
//! 4. *Keepalives.* Inside of a transaction a keepalive's end may be beyond changes that have not been applied. It
//!    moves
//!    only `received`, never the flushed position.

mod answer;
mod error;
pub mod heartbeat;
pub mod identity;
pub mod lock;
mod pace;
pub mod publication;
mod silence;
pub mod slot;
mod status;
pub mod wal_receiver;

pub use error::SourceError;
pub use identity::Identity;
pub use publication::Publication;
pub use slot::Slot;
pub use wal_receiver::{Received, StartOptions, WalReceiver};
