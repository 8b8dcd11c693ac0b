//! PostgreSQL servers for an occasion (the demonstration, a benchmark): in go the server's programs, out come running
//! servers on 127.0.0.1, in a directory of their own.
//!
//! Whatever ends it (the end of the work, an error, a panic, SIGKILL), nothing stays: every process and the directory
//! belong to values that clean up when dropped, and a watcher does so when this process is gone.
//!
//! | file | idea |
//! |---|---|
//! | `binaries.rs` | where this machine has the programs |
//! | `account.rs` | who the servers run as |
//! | `site.rs` | the directory, and everything in it |
//! | `initdb.rs`, `server.rs` | a data directory, and the server on it |
//! | `watcher.rs` | what cleans up when this process cannot |

pub mod account;
pub mod binaries;
mod initdb;
pub mod server;
pub mod site;
pub mod watcher;

pub use binaries::Binaries;
pub use server::Server;
pub use site::Site;
pub use watcher::{End, Watcher};
