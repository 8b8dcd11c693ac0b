//! What can keep a stream, or one target of it, from running.

use crate::apply::error::ApplyError;
use crate::apply::progress::ProgressError;
use crate::error::{Judged, Verdict};
use crate::lsn::{EndLsn, Lsn};
use crate::pgoutput::DecodeError;
use crate::postgres::PgError;
use crate::postgres::conninfo::ConnInfoError;
use crate::route::{PatternError, RouteError};
use crate::source::SourceError;
use crate::tablesync::CopyError;
use crate::telemetry::http::HttpError;
use crate::transaction::AssemblyError;

use super::format::Stranger;
use super::gap::Gap;

/// Everything that ends an attempt. Most is a stage's own error; what only shows when stages are put together is here.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A connection string.
    #[error("{key} cannot be used")]
    ConnectionString {
        /// The key in the configuration.
        key: String,
        /// Why not.
        source: ConnInfoError,
    },
    /// A table pattern.
    #[error("{key} cannot be used")]
    Patterns {
        /// The key in the configuration.
        key: String,
        /// Why not.
        source: PatternError,
    },
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Progress(#[from] ProgressError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Gap(#[from] Gap),
    /// The slot is not there, though a target has followed it.
    #[error("the slot \"{slot}\" does not exist on the source, but target \"{target}\" has applied up to {stored}")]
    SlotLost { slot: String, target: String, stored: EndLsn },
    /// The slot is not there, for the source was promoted without it.
    #[error(
        "the slot \"{slot}\" does not exist on the source, which was promoted to timeline {timeline} at {switch}, and \
         target \"{target}\" has applied up to {stored}{}",
        if .stored.lsn() > *.switch { ", beyond what this source ever had" } else { "" }
    )]
    SlotNotPromoted { slot: String, target: String, stored: EndLsn, timeline: u32, switch: Lsn },
    /// The slot is not there yet, and may come with a promotion.
    #[error(
        "the source is a standby without the slot \"{slot}\", and target \"{target}\" has applied up to {stored}: \
         waiting for the primary, or for this server's promotion"
    )]
    Standby { slot: String, target: String, stored: EndLsn },
    /// The slot is there, but no target knows it.
    #[error("the slot \"{slot}\" exists on the source, but no target has ever been fed from it")]
    ForeignSlot { slot: String },
    /// No target can be reached to ask whether the slot is ours.
    #[error("no target can be reached that knows the stream \"{stream}\"")]
    NobodyKnows { stream: String },
    /// A target that can be reached and does not answer.
    #[error("target \"{target}\" has not answered for {} s", .waited.as_secs())]
    NoAnswer { target: String, waited: std::time::Duration },
    /// A source that can be reached and does not answer.
    #[error("the source has not answered for {} s", .waited.as_secs())]
    SourceSilent { waited: std::time::Duration },
    /// Two ends of the stream are one database.
    #[error("target \"{target}\" is the same database as {other}")]
    SameDatabase { target: String, other: String },
    /// A task of one target has ended by a mistake of the program.
    #[error("the task of a target has failed: {what}")]
    TaskFailed { what: String },
    /// Another server, or the same on another timeline, answers now.
    #[error("the source has changed: {what} was {before}, and is {now}")]
    SourceChanged { what: &'static str, before: String, now: String },
    /// A table with this column cannot be followed in a session whose values come in binary: another one follows, in
    /// text.
    #[error("{0}: its values must come as text")]
    Stranger(Stranger),
    /// Another daemon has become the active one.
    #[error("another walferry has taken over the stream \"{stream}\"")]
    TakenOver { stream: String },
}

impl LaunchError {
    /// Whether it may pass at any moment and costs little to ask: no server could be reached, as while it restarts or
    /// another takes its place, or it is not promoted yet.
    pub fn is_of_absence(&self) -> bool {
        match self {
            Self::Postgres(error) | Self::Source(SourceError::Postgres { source: error, .. }) => {
                matches!(error, PgError::Connect { .. })
            }
            Self::Source(SourceError::NotPromoted { .. }) | Self::Standby { .. } => true,
            _ => false,
        }
    }

    /// Whether no session of the source's could be had, or what answered does not speak the protocol. While the daemon
    /// runs, that may be a server on its way up, or a password on its way in: it is tried again, slowly.
    pub fn is_of_connection(&self) -> bool {
        let postgres = match self {
            Self::Postgres(error) => error,
            Self::Source(SourceError::Postgres { source, .. }) => source,
            _ => return false,
        };
        matches!(postgres, PgError::Connect { .. } | PgError::Connection { .. } | PgError::Protocol { .. })
    }
}

impl Judged for LaunchError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::ConnectionString { source, .. } => source.verdict(),
            Self::Patterns { source, .. } => source.verdict(),
            Self::Http(error) => error.verdict(),
            Self::Postgres(error) => error.verdict(),
            Self::Source(error) => error.verdict(),
            Self::Decode(error) => error.verdict(),
            Self::Assembly(error) => error.verdict(),
            Self::Route(error) => error.verdict(),
            Self::Progress(error) => error.verdict(),
            Self::Copy(error) => error.verdict(),
            Self::Apply(error) => error.verdict(),
            Self::Gap(gap) => gap.verdict(),
            Self::SlotLost { .. } => Verdict::halt(
                "Changes since then are gone with the slot: run `walferry slot reset` to make a new slot and copy the \
                 tables again.",
            ),
            Self::SlotNotPromoted { .. } => Verdict::halt(
                "The standby did not have it: before PostgreSQL 17 none does; from 17 on it takes \
                 sync_replication_slots on the standby, and a slot with `failover` (`walferry check`). If this is the \
                 server to follow from now on, run `walferry slot reset` to make a new slot and copy the tables again.",
            ),
            Self::ForeignSlot { slot } => Verdict::halt(format!(
                "If it belongs to something else, set source.slot to another name. If it is left over, drop it \
                 (SELECT pg_drop_replication_slot('{slot}');) or run `walferry slot reset`, and the tables are copied \
                 anew."
            )),
            Self::SameDatabase { .. } => Verdict::halt(
                "What is written there would come back, or be applied twice: let the url lead to another database.",
            ),
            Self::Standby { .. }
            | Self::NobodyKnows { .. }
            | Self::NoAnswer { .. }
            | Self::SourceSilent { .. }
            | Self::SourceChanged { .. }
            | Self::TaskFailed { .. }
            | Self::Stranger(_)
            | Self::TakenOver { .. } => Verdict::Retry,
        }
    }
}
