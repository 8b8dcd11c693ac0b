//! The configuration: one TOML file in, one checked [`Config`] out.
//!
//! ```text
//! config.example.toml ─▶ file (as written) ─┐
//! walferry.toml ───────▶ file (as written) ─┴▶ resolve ─▶ Config ─▶ render (secrets hidden), diff (reload)
//!                environment, url_file ────────┘
//! ```
//! Defaults live once, in `config.example.toml`: what the user's file leaves out is taken from there. What a mistake
//! is, `resolve` says; it reports all of them, each with its line.

mod diff;
mod file;
mod interpolate;
mod problem;
mod reader;
mod render;
mod resolve;
mod secret;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use diff::{Difference, Effect};
pub use file::EXAMPLE;
pub use problem::{ConfigError, Problem};
pub use secret::{ConnectionString, Secret};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "walferry.toml";

/// The environment variable that names the file when `-c` does not.
const FILE_VARIABLE: &str = "WALFERRY_CONFIG";

/// Everything the configuration says, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where changes come from.
    pub source: Source,
    /// Where they go: at least one, with different names.
    #[serde(rename = "target")]
    pub targets: Vec<Target>,
    /// The initial copy.
    pub copy: Copy,
    /// Applying transactions.
    pub apply: Apply,
    /// The HTTP server for metrics and health.
    pub http: Http,
    /// The log.
    pub log: Log,
}

/// `[source]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// How to reach the source.
    pub url: ConnectionString,
    /// The slot, and the stream's name: 1 to 63 of `a-z`, `0-9`, `_`, as PostgreSQL asks of slots.
    pub slot: String,
    /// The publication: 1 to 63 bytes, any characters.
    pub publication: String,
    /// Table patterns `schema.table`, `*` for any text, `!` in front leaves out; `None`: all that is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<String>>,
    /// The format in which rows' values come.
    pub values: Values,
    /// Between heartbeats; `None`: there are none.
    #[serde(serialize_with = "render::optional_duration")]
    pub heartbeat_interval: Option<Duration>,
    /// Upper bound between status updates.
    #[serde(serialize_with = "render::duration")]
    pub status_interval: Duration,
    /// The largest replication message accepted, in bytes; at most 2 GiB - 1, the protocol's own limit.
    #[serde(serialize_with = "render::size")]
    pub max_frame: u64,
    /// Bytes of WAL that a slot of the stream may keep on the source; zero: it is not watched.
    #[serde(serialize_with = "render::size")]
    pub max_retained_wal: u64,
    /// What to do when it keeps more.
    pub on_max_retained_wal: OnRetained,
}

/// One `[[target]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name, unique: 1 to 63 of `A-Z`, `a-z`, `0-9`, `_`, `-`.
    pub name: String,
    /// How to reach it.
    pub url: ConnectionString,
    /// As [`Source::tables`], of those that the source's patterns leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<String>>,
}

/// `[copy]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// What to do with target tables that hold rows already.
    pub existing_rows: ExistingRows,
    /// What becomes of a table's rows when it is copied again.
    pub mode: CopyMode,
    /// Connections that copy at once, per target: 1 to 64.
    pub workers: usize,
    /// How many bytes a second all copies together take at most; 0: no limit.
    #[serde(serialize_with = "render::size")]
    pub max_rate: u64,
    /// Tables of more bytes are copied in ctid ranges of about this many bytes.
    #[serde(serialize_with = "render::size")]
    pub range_bytes: u64,
}

/// What the initial copy does with a target table that holds rows already.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExistingRows {
    /// Halt, and say so.
    Refuse,
    /// Empty it first.
    Truncate,
    /// Keep them; rows of the source replace those of the same key.
    Merge,
}

/// What a copy does with the rows of a table that walferry has copied before.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMode {
    /// Empty it first.
    Replace,
    /// Write what differs, and delete what the source has not.
    Merge,
}

/// `[apply]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Apply {
    /// Memory of the changes that one target commit may hold, in bytes; larger transactions come in parts.
    #[serde(serialize_with = "render::size")]
    pub batch_bytes: u64,
    /// Memory of the changes that wait for one target, in bytes.
    #[serde(serialize_with = "render::size")]
    pub queue_bytes: u64,
    /// Whether each target commit waits for the target's disk; if not, what is committed is made durable afterwards.
    pub synchronous_commit: bool,
    /// What to do when a row is not as the change expects it.
    pub conflicts: ConflictPolicy,
    /// What to do when a target refuses a change for good.
    pub on_error: OnError,
    /// When many changes are written by one statement.
    pub bulk: Bulk,
    /// Upper bound of the wait between attempts after a passing error.
    #[serde(serialize_with = "render::duration")]
    pub retry_max_interval: Duration,
    /// Between attempts of a halted target.
    #[serde(serialize_with = "render::duration")]
    pub halted_retry_interval: Duration,
    /// How long a stop may take to commit what is queued; zero: it commits nothing more.
    #[serde(serialize_with = "render::duration")]
    pub drain_timeout: Duration,
    /// How long a target may be away or paused before it gets a slot of its own; `None`: for ever, and one that is
    /// slower than the others gets none either.
    #[serde(serialize_with = "render::optional_duration")]
    pub isolate_after: Option<Duration>,
    /// Bytes of WAL that may be kept for one that is away or paused before it gets one at once.
    #[serde(serialize_with = "render::size")]
    pub isolate_at: u64,
    /// Bytes of WAL after which an idle stream's progress is stored on the targets.
    #[serde(serialize_with = "render::size")]
    pub progress_bytes: u64,
    /// `statement_timeout` of apply sessions; `None`: no limit.
    #[serde(serialize_with = "render::optional_duration")]
    pub statement_timeout: Option<Duration>,
    /// `lock_timeout` of apply sessions; `None`: no limit.
    #[serde(serialize_with = "render::optional_duration")]
    pub lock_timeout: Option<Duration>,
}

/// What to do when a row is there already, or is missing.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictPolicy {
    /// Make the row as the source has it.
    SourceWins,
    /// Halt the target.
    Stop,
}

/// What to do when a slot keeps more WAL than it may.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRetained {
    /// Say so.
    Warn,
    /// Say so, and drop it if it is the slot of a single target, which is copied again once it is back.
    DropLane,
}

/// What to do when a target refuses a change, and would again.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Halt the target.
    Halt,
    /// Keep it in `walferry.dead_letter` on the target, and go on.
    DeadLetter,
    /// Leave the changes of that table out until it is copied again.
    QuarantineTable,
}

/// The format in which the source sends rows' values.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// Binary where every published column's type is the same in it everywhere, else text.
    Auto,
    /// Text.
    Text,
}

/// When many changes are written by one statement.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bulk {
    /// Where there are enough of them.
    Auto,
    /// Wherever it is possible.
    Always,
    /// Never.
    Never,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Http {
    /// Where to listen; `None`: nowhere.
    #[serde(serialize_with = "render::address")]
    pub listen: Option<SocketAddr>,
    /// The file that holds the token by which the daemon takes commands; `None`: it takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// A level or tracing directives, checked.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl Config {
    /// Reads and checks the file `path`, else the one that `WALFERRY_CONFIG` names, else `walferry.toml`.
    ///
    /// # Errors
    /// The file cannot be read, or anything in it is wrong.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = || std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        let path = path.map(PathBuf::from).or_else(named).unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path.to_string_lossy(), |name: &str| std::env::var(name).ok()),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// Checks the text of the file `name`; relative paths in it start at that file's directory. `environment` looks up
    /// a variable.
    ///
    /// # Errors
    /// Anything is wrong; the error lists all of it.
    pub fn parse(text: &str, name: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let written =
            file::parse(text).map_err(|error| ConfigError::invalid(name, text, vec![problem::from_toml(&error)]))?;
        let directory = Path::new(name).parent().unwrap_or(Path::new(""));
        resolve::resolve(&written, directory, &environment)
            .map_err(|problems| ConfigError::invalid(name, text, problems))
    }
}
