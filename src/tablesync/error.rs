//! What can go wrong with a copy, and what to do about it.

use std::time::Duration;

use super::preflight::{Finding, Weight};
use crate::error::{Judged, Verdict};
use crate::postgres::PgError;
use crate::relation::TableName;

/// A copy that did not come to its end. Nothing of it is left open, neither at the source nor on the target.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source could not be read.
    #[error("cannot read table {table} from the source")]
    Source {
        /// The table.
        table: TableName,
        /// Why.
        source: Box<PgError>,
    },
    /// The target did not take a table's rows.
    #[error("cannot copy table {table} to target \"{target}\"")]
    Target {
        /// The table.
        table: TableName,
        /// The target's name.
        target: String,
        /// Why.
        source: Box<PgError>,
    },
    /// The copy could not be prepared: connections, catalogue, state.
    #[error("cannot prepare the copy to target \"{target}\"")]
    Prepare {
        /// The target's name.
        target: String,
        /// Why.
        source: Box<PgError>,
    },
    /// The tables are locked on the target, and cannot be emptied.
    #[error(
        "the tables cannot be emptied before the copy to target \"{target}\": {holders} kept them locked for longer \
         than apply.lock_timeout; there the transaction has to end"
    )]
    Blocked {
        /// The target's name.
        target: String,
        /// Who holds locks on them.
        holders: String,
        /// What the target said.
        source: Box<PgError>,
    },
    /// The target has not answered for so long that the source's snapshot is given up.
    #[error("target \"{target}\" has not answered for {} s during the copy", .waited.as_secs())]
    Hung {
        /// The target's name.
        target: String,
        /// For how long.
        waited: Duration,
        /// What came instead, if anything.
        source: Option<Box<PgError>>,
    },
    /// The exported snapshot is gone, with its connection or with the source server.
    #[error("the snapshot of the initial copy is gone")]
    SnapshotLost {
        /// What the source said.
        source: Box<PgError>,
    },
    /// The source's table is no longer what the snapshot or the publication's description knows.
    #[error("table {table} was truncated, rewritten or altered on the source since the copy's snapshot was taken")]
    SourceChanged {
        /// The table.
        table: TableName,
    },
    /// The target's columns are not of the types that make bytes mean there what they mean on the source.
    #[error("columns of table {table} have changed their types on the target since the copy began")]
    TypesChanged {
        /// The table.
        table: TableName,
    },
    /// Another run of the daemon has made itself the copier.
    #[error("another run of walferry has taken over the copy of table {table}")]
    TakenOver {
        /// The table.
        table: TableName,
    },
    /// Preflight found what stops the copy. Nothing was written.
    #[error("the initial copy to target \"{target}\" cannot begin: {}", problems(.findings))]
    Findings {
        /// The target's name.
        target: String,
        /// All that stop it.
        findings: Vec<Finding>,
    },
    /// Stopped from outside.
    #[error("the initial copy was stopped")]
    Cancelled,
}

fn problems(findings: &[Finding]) -> String {
    let stops: Vec<&Finding> = findings.iter().filter(|finding| finding.weight == Weight::Stops).collect();
    let shown: Vec<String> = stops.iter().take(5).map(|f| format!("table {} {}", f.table, f.problem)).collect();
    let more = stops.len().saturating_sub(shown.len());
    if more == 0 { shown.join("; ") } else { format!("{}; and {more} more", shown.join("; ")) }
}

impl CopyError {
    /// Whether the same piece may be tried again under the same snapshot.
    pub(super) fn is_passing(&self) -> bool {
        let cause = match self {
            CopyError::Source { source, .. } | CopyError::Target { source, .. } => source,
            _ => return false,
        };
        cause.verdict() == Verdict::Retry
    }

    /// Whether text may be taken where binary was not: where a receive function, or COPY, does not take the bytes.
    /// Class 22 (data exceptions), another element type (42804), no such function (42883), a value that ends early
    /// (08P01), and what receive functions say without a SQLSTATE of its own (XX000).
    pub(super) fn refuses_binary(&self) -> bool {
        match self {
            CopyError::Source { source, .. } | CopyError::Target { source, .. } => source
                .code()
                .is_some_and(|code| code.starts_with("22") || matches!(code, "42804" | "42883" | "08P01" | "XX000")),
            CopyError::TypesChanged { .. } => true,
            _ => false,
        }
    }

    /// Whether it is one table that fails, so that the others can be copied to their ends: by what does not pass, or by
    /// locks and conflicts (classes 55 and 40) that have lasted too long.
    pub(super) fn concerns_one_table(&self) -> bool {
        match self {
            CopyError::Source { source, .. } | CopyError::Target { source, .. } => {
                let contended = |code: &str| code.starts_with("55") || code.starts_with("40");
                !self.is_passing() || source.code().is_some_and(contended)
            }
            CopyError::SourceChanged { .. } => true,
            _ => false,
        }
    }
}

impl Judged for CopyError {
    fn verdict(&self) -> Verdict {
        match self {
            CopyError::Source { source, .. } | CopyError::Prepare { source, .. } => source.verdict(),
            CopyError::Target { source, table, .. } => match source.verdict() {
                Verdict::Retry => Verdict::Retry,
                Verdict::Halt { hint } => {
                    Verdict::halt(format!("mend table {table} on the target or the row at the source; {hint}"))
                }
            },
            CopyError::SnapshotLost { .. } | CopyError::SourceChanged { .. } => Verdict::Retry,
            CopyError::TypesChanged { .. } | CopyError::TakenOver { .. } => Verdict::Retry,
            CopyError::Blocked { .. } | CopyError::Hung { .. } | CopyError::Cancelled => Verdict::Retry,
            CopyError::Findings { findings, .. } => {
                let sql: Vec<&str> = findings.iter().filter_map(|f| f.sql.as_ref()).map(|sql| sql.as_str()).collect();
                Verdict::halt(match sql.is_empty() {
                    true => "`walferry check` lists every finding".to_owned(),
                    false => format!("on the target: {}", sql.join("; ")),
                })
            }
        }
    }
}
