//! What servers say of themselves, as far as a check cares. Nothing here judges, and nothing is changed.
//!
//! | file | idea |
//! |---|---|
//! | `server.rs` | what is asked of any server: version, encoding, clock, limits, whether it is itself that answers |
//! | `tables.rs` | definitions of tables, asked the same way on both sides, to be compared |
//! | `types.rs` | types of columns that are not built in, enum labels, extensions |
//! | `source.rs` | settings, slot, publication and rights on the source |
//! | `target.rs` | schema `walferry`, progress, rights and everything beside the tables on a target |

pub mod server;
pub mod source;
pub mod tables;
pub mod target;
pub mod types;
