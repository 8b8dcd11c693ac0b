//! walferry keeps PostgreSQL databases in step with a source PostgreSQL: it copies the tables once under a replication
//! slot's snapshot, then applies every committed transaction to each target, in commit order, exactly once.
//!
//! # The way of the data
//!
//! ```text
//! source server                                                                      target servers
//!   walsender ─▶ source ─▶ pgoutput ─▶ transaction ─▶ route ─▶ queue[t] ─▶ apply, one worker per t ─▶ COMMIT
//!       ▲        frames    messages    whole ones,    what t   bounded     rows and progress            │
//!       │                              or parts       gets     in bytes    in one transaction           │
//!       └─────── source ◀────── feedback: the lowest position that is durable on every target ◀─────────┘
//! ```
//!
//! One direction, one place per step; nothing knows what stands above it. What passes between the stages are the types
//! of layer 0. All targets share one slot and what reads it, the main lane; one that is away, paused or slow has a lane
//! of its own until it has caught up (`launcher/lane.rs`), and so have tables that come later (`launcher/tables.rs`).
//!
//! # Layers
//!
//! A module imports only lower layers; `tests/tidy.rs` holds this.
//!
//! | layer | modules |
//! |---|---|
//! | 6 | `admin`: one file per subcommand |
//! | 5 | `launcher`: wires the picture above; start, restart, drain |
//! | 4 | `tablesync`: the initial copy and the hand-over to the stream |
//! | 3 | `source`: publication, slot, receiving, status updates. `apply`: one worker per target |
//! | 2 | `transaction`, `route`, `feedback`: pure stages. `postgres`: the client both sides share |
//! | 1 | `pgoutput`: the decoder. `config`, `cli`, `telemetry`: services |
//! | 0 | `lsn`, `relation`, `row`, `change`, `sql`, `error`: the vocabulary; no I/O, no async, no clock |
//!
//! # Invariants
//!
//! - A target's progress is stored in the same target transaction as the rows it speaks of.
//! - received ≥ dispatched(t) ≥ durable(t) for each target t of a lane, and confirmed ≤ the lowest durable(t). At any
//!   moment one slot is confirmed no further than durable(t), whatever lane t is in. What is durable and what is
//!   confirmed are types of their own (`lsn`), each made in one file. What a target has only committed is not durable:
//!   a crash may take it back, together with the progress that speaks of it.
//! - A transaction is identified by its end LSN. A source transaction never spans two target commits.
//! - A session is believed to bring the history that a target has followed only once the target's last commit has come
//!   again in it, or the slot was confirmed beyond that commit (`launcher/dispatch.rs`).
//! - No change is skipped silently: an error is retried, or it halts what it concerns and says what helps (`error`).
//! - Memory is bounded, whatever the size of a transaction, a row or a backlog.
//!
//! # Assumptions about PostgreSQL
//!
//! - A slot sends committed transactions in the order of their commit records, and after a reconnect it sends again
//!   every transaction that ends above the start position.
//! - START_REPLICATION below the slot's `confirmed_flush_lsn` starts there silently (`CreateDecodingContext`): whoever
//!   starts compares the two first.
//! - A crash takes back the last commits only, never one without those after it; and a commit that waited for the disk
//!   keeps all before it.
//! - Up to the switch between their timelines a promoted server's WAL is its former primary's; what commits on the new
//!   timeline ends above the switch.
//! - A snapshot exported with a slot shows exactly the transactions whose commit record lies below its consistent
//!   point.
//!
//! # Deliberately absent
//!
//! No queue on disk, no plug-ins, no scripting language, no second writer on a target's progress.

pub mod admin;
pub mod apply;
pub mod change;
pub mod cli;
pub mod config;
pub mod error;
pub mod feedback;
pub mod launcher;
pub mod lsn;
pub mod pgoutput;
pub mod postgres;
pub mod relation;
pub mod route;
pub mod row;
pub mod source;
pub mod sql;
pub mod tablesync;
pub mod telemetry;
pub mod transaction;
