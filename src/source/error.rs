//! What can go wrong at the source: in goes what a server said or did not say, out comes what to do about it.

use std::time::Duration;

use crate::error::{Judged, Verdict};
use crate::postgres::PgError;
use crate::sql::Sql;

/// An error of the source side.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A statement or the connection failed.
    #[error("{doing} failed")]
    Postgres {
        /// What was being done, and to what.
        doing: String,
        /// Why it failed.
        #[source]
        source: PgError,
    },
    /// The server answered something that cannot be used.
    #[error("unusable answer from the source: {0}")]
    Answer(String),
    /// The publication is missing, or lacks something that walferry may not or must not add by itself.
    #[error("publication \"{name}\" {problem}")]
    Publication {
        /// `pg_publication.pubname`.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// What mends it, with the statement.
        remedy: String,
        /// The statements alone, to be run on the source in this order; none where none mends it.
        sql: Vec<Sql>,
    },
    /// There is no such slot.
    #[error("replication slot \"{slot}\" does not exist")]
    SlotMissing {
        /// `pg_replication_slots.slot_name`.
        slot: String,
    },
    /// Somebody else streams from the slot: another walferry of the same stream, or the server has not yet noticed that
    /// an earlier connection is gone. A standby waits for this to pass.
    #[error("replication slot \"{slot}\" is in use{}", by_whom(*.pid))]
    SlotActive {
        /// As above.
        slot: String,
        /// `pg_replication_slots.active_pid`.
        pid: Option<i32>,
    },
    /// The slot is still being created, or its creation was just given up.
    #[error("replication slot \"{slot}\" has no consistent point yet: its creation is not finished")]
    SlotUnfinished {
        /// As above.
        slot: String,
    },
    /// The slot is on a standby, which keeps it for the day that it is promoted.
    #[error(
        "the source is a standby that has not been promoted: nobody may stream from replication slot \"{slot}\" there \
         before"
    )]
    NotPromoted {
        /// As above.
        slot: String,
    },
    /// The slot exists and is of no use.
    #[error("replication slot \"{slot}\" cannot be used: {why}")]
    SlotUnusable {
        /// As above.
        slot: String,
        /// Of another kind, of somebody else, or its WAL is gone.
        why: String,
        /// The way out.
        remedy: String,
    },
    /// The connection is open and nobody answers (half-open), or the server hangs.
    #[error("{peer} has sent nothing for {} s, not even an answer to a request for one", .silent.as_secs())]
    Silent {
        /// `host:port/dbname`.
        peer: String,
        /// For how long.
        silent: Duration,
    },
    /// The server ended the stream in good order, as it does when it shuts down.
    #[error("{peer} has ended the stream")]
    Ended {
        /// `host:port/dbname`.
        peer: String,
    },
    /// The server did not let go of the slot in time; it will when it notices that the connection is closed.
    #[error("{peer} did not end the stream within {} s", .waited.as_secs())]
    NotReleased {
        /// `host:port/dbname`.
        peer: String,
        /// For how long.
        waited: Duration,
    },
    /// Status updates stopped without an error of their own.
    #[error("the task that sends status updates to {peer} is gone")]
    StatusTask {
        /// `host:port/dbname`.
        peer: String,
    },
}

impl SourceError {
    /// Says what was being done when a statement failed: `.map_err(SourceError::during("reading …"))`.
    pub(super) fn during(doing: impl Into<String>) -> impl FnOnce(PgError) -> Self {
        let doing = doing.into();
        move |source| SourceError::Postgres { doing, source }
    }
}

fn by_whom(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" by server process {pid}")).unwrap_or_default()
}

impl Judged for SourceError {
    fn verdict(&self) -> Verdict {
        match self {
            SourceError::Postgres { source, .. } => source.verdict(),
            SourceError::Answer(_) => Verdict::halt(
                "check that the source is PostgreSQL 14 or later and that no pooler stands between it and walferry",
            ),
            SourceError::Publication { remedy, .. } | SourceError::SlotUnusable { remedy, .. } => Verdict::halt(remedy),
            SourceError::SlotMissing { slot } => Verdict::halt(format!(
                "if \"{slot}\" was lost (failover, upgrade, a managed server's clean-up), run `walferry slot reset`: \
                 it creates the slot anew and has the tables copied again"
            )),
            SourceError::SlotActive { .. }
            | SourceError::SlotUnfinished { .. }
            | SourceError::NotPromoted { .. }
            | SourceError::Silent { .. }
            | SourceError::Ended { .. }
            | SourceError::NotReleased { .. }
            | SourceError::StatusTask { .. } => Verdict::Retry,
        }
    }
}
