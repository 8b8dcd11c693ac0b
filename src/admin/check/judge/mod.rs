//! What follows from the facts: each check a small judgement, pure, which gives findings.
//!
//! | file | idea |
//! |---|---|
//! | `server.rs` | of any server: version, encoding, clock, poolers, limits |
//! | `source.rs` | the source's settings and slot |
//! | `publication.rs` | what is published, how rows are told apart, what may be read |
//! | `target.rs` | the target itself, its position, what it does besides |
//! | `copy.rs` | what the initial copy would complain about, and its room |
//! | `columns.rs` | columns and types that differ |
//! | `constraints.rs` | keys, constraints and indexes that differ; foreign keys to and from elsewhere |
//! | `partitions.rs` | partitions that take no row |

mod columns;
mod constraints;
mod copy;
#[cfg(test)]
mod fixture;
mod partitions;
mod publication;
mod server;
pub mod source;
pub mod target;

use super::code::Code;
use super::facts;
use super::finding::Finding;
