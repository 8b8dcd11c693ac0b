//! The client that both sides share: in go connection strings and statements, out come sessions, rows, frames, and
//! errors that know their verdict.
//!
//! ```text
//! conninfo ──▶ transport ──▶ tls ──▶ wire     replication, pipelined apply, COPY
//!  options     hosts, order,            └────▶ reader, writer, exchange, copy
//!              sockets, retries      └▶ client   catalogue queries, DDL (tokio-postgres)
//!                                         └────▶ catalog
//! ```
//!
//! | module | idea |
//! |---|---|
//! | `conninfo/` | connection strings, `PG*` variables, service and password file → [`ConnectOptions`] |
//! | `transport/` | which host, address and encryption to try in which order; sockets; why it did not work |
//! | `tls/` | `sslmode` on rustls: trust, names, client certificates, channel binding |
//! | `session.rs` | the settings every session is pinned to, because they decide what text means |
//! | `wire/` | our own connection: frames without copies, bounded memory, writing and reading at once |
//! | `client.rs` | tokio-postgres behind [`crate::sql::Sql`], on the same transport |
//! | `answer.rs` | how long a server may leave unanswered what asks little |
//! | `presence.rs` | whether the server still has a session that it leaves without an answer |
//! | `binary.rs` | which types mean the same in binary on every server |
//! | `catalog.rs` | the catalogue queries both sides share |
//! | `holders.rs` | who holds the locks that are waited for |
//! | `error.rs` | [`PgError`], [`ServerError`]: what went wrong, without row values or secrets |
//! | `redact.rs` | whose words an error's are, and texts without what they quote |
//! | `sqlstate.rs` | the one table from SQLSTATE to verdict |
//!
//! Why two clients: tokio-postgres has no replication protocol, decides itself when to flush, and assembles every
//! message; for a catalogue query it is just right.

pub(crate) mod answer;
pub mod binary;
pub mod catalog;
pub mod client;
pub mod conninfo;
pub mod error;
pub mod holders;
mod presence;
mod redact;
mod session;
mod sqlstate;
mod tls;
mod transport;
pub mod wire;

pub use client::Client;
pub use conninfo::ConnectOptions;
pub use error::{PgError, ServerError};
pub use tls::{Certificates, Expiry};
pub use transport::Reach;
pub use wire::{WireConnection, WireReader, WireWriter};
