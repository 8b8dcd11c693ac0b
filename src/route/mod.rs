//! What each target gets: a transaction's parts in, for one target the same part, a subset of it, or nothing out.
//!
//! A change goes to a target when its table is chosen by the target's patterns ([`Patterns`]), and when the target does
//! not hold it already: a table copied under a snapshot taken at `L` holds exactly the transactions whose commit LSN is
//! below `L`, so its changes count from the commit at `L` on. Which side a transaction is on is decided by where its
//! commit record *starts*; where it ends, or where its changes stand in the WAL, would be wrong at the border.
//!
//! # A trace
//! `orders` was copied at 0/5000 and `items`, later, at 0/9000; everything else belongs to other targets.
//! ```text
//! commit 0/4FD0..0/5000  orders, items         → nothing: both copies hold it (it commits below 0/5000)
//! commit 0/5000..0/5030  orders, items         → subset: orders (0/5000 is not below 0/5000)
//! commit 0/8FD0..0/9010  items                 → nothing, though it ends above 0/9000
//! commit 0/9010..0/9040  orders, items         → whole
//! commit 0/9040..0/9070  a heartbeat message   → nothing: it does not touch the target at all
//! ```
//!
//! # Large transactions
//! A transaction cut into parts may have nothing for the target in some of them. What arrives at the target is
//! numbered again from 0 without holes, and once one part was sent, the last one is sent as well, even if empty, since
//! it brings the Commit.
//!
//! # Memory
//! Rows share the memory they were read into. Where a target gets little of what is read, its rows are copied out of
//! it, so that they keep alive what is counted of them and not everything beside them (`density.rs`).

mod density;
mod error;
mod patterns;
mod target;
#[cfg(test)]
mod tests;

pub use error::{PatternError, RouteError};
pub use patterns::Patterns;
pub use target::{Routed, TargetRoute};
