//! The commands beside `run`: each asks, shows or changes something, and ends.
//!
//! | file | command |
//! |---|---|
//! | `check/` | `walferry check`: everything that would stop or surprise, before it does |
//! | `completions.rs` | `walferry completions`: the script that has a shell complete commands and options |
//! | `dead_letter/` | `walferry dead-letter`: list, retry, drop |
//! | `demo/` | `walferry demo`: servers, workload, daemon, kill, comparison |
//! | `manual/` | `walferry man`: the manual pages, of the commands and of the configuration |
//! | `slot/` | `walferry slot`: list, create, drop, reset |
//! | `status/` | `walferry status`: from the daemon, else from the servers |
//! | `table/` | `walferry table`: list, add, remove, resync, pause, resume |
//! | `target.rs` | `walferry target`: pause, resume, resync |
//! | `tell.rs` | `walferry reload`, `log-level`, `config --diff`: what a running daemon is told |
//! | `throwaway/` | PostgreSQL servers for an occasion, which leave nothing behind |
//! | `error.rs` | why a command was refused or failed |
//! | `output.rs` | tables and JSON |
//! | `servers.rs` | sessions on the configured servers |
//! | `daemon.rs` | asking a running daemon over HTTP |

pub mod check;
pub mod completions;
pub mod daemon;
pub mod dead_letter;
pub mod demo;
pub mod error;
pub mod manual;
pub mod output;
pub mod servers;
pub mod slot;
pub mod status;
pub mod table;
pub mod target;
pub mod tell;
pub mod throwaway;

pub use error::CommandError;
