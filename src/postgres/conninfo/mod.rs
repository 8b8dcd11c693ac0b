//! Connection strings as libpq takes them, resolved to [`ConnectOptions`].
//!
//! ```text
//! text ──▶ url | keyval ──▶ settings ──▶ + service file ──▶ + PG* variables ──▶ resolve ──▶ ConnectOptions
//!                          by keyword                                        hosts, tls, password file, defaults
//! ```
//! What the string says wins over the service file, that over the environment, that over the defaults. Facts:
//! PostgreSQL docs, chapter "libpq": Connection Strings, Parameter Key Words, Environment Variables, The Password
//! File, The Connection Service File, SSL Support; fe-connect.c.
//!
//! Different from libpq, each on purpose:
//! - Where nothing says otherwise: `connect_timeout` 10 s, `keepalives_idle` 30 s, `keepalives_interval` 10 s,
//!   `keepalives_count` 3. libpq's defaults are for interactive use.
//! - Errors show neither the string nor text that may be a piece of a password.
//! - In a URL, a misplaced `@` or `?` must be percent-encoded (see `url.rs`).
//! - Values are checked here, not when a connection reaches them.
//! - `sslcert`, `sslkey` and `sslrootcert` files that are named must exist.
//! - What walferry cannot do is an error, never ignored: `sslcrl`, `require_auth`, `gssencmode=require`, `requirepeer`
//!   with a socket, and others (`keyword.rs`).
//! - `PGDATESTYLE`, `PGTZ`, `PGGEQO` have no effect: walferry pins its sessions' settings.

mod environment;
mod error;
mod hosts;
mod keyval;
mod keyword;
mod options;
mod passfile;
mod renewal;
mod resolve;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod url;

pub use environment::Environment;
pub use error::ConnInfoError;
pub use options::{
    ChannelBinding, ConnectOptions, Host, HostAddress, RootCert, SslMode, TargetSessionAttrs, TlsOptions,
};
pub use renewal::Renewal;
pub use settings::Origin;
use url::PASSWORD_HINT;
