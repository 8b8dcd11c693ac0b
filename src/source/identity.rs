//! Which server, which timeline: what is compared with a target's stored progress before anything is applied.
//!
//! In goes a replication connection, out come IDENTIFY_SYSTEM's answer and the timeline's history (documentation:
//! "Streaming Replication Protocol"). A server restored from a backup keeps its system identifier and gets a new
//! timeline; a promoted standby does too. The switch points tell whether a target holds what the new timeline never
//! had.

use super::SourceError;
use super::answer::{first, parsed, text};
use crate::lsn::Lsn;
use crate::postgres::{Client, PgError, WireConnection};
use crate::sql::Sql;

/// Who the source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made by initdb, kept by physical copies.
    pub system_identifier: String,
    /// The timeline WAL is written (on a standby: received) on.
    pub timeline: u32,
    /// Flushed (on a standby: replayed) up to here.
    pub flush_lsn: Lsn,
    /// The database connected to.
    pub database: String,
    /// `server_version_num`.
    pub server_version: u32,
}

/// Where a timeline ended and the next began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that ended.
    pub timeline: u32,
    /// The first position that does not belong to it any more.
    pub switch: Lsn,
}

/// Asks a connection opened for replication who the server is.
pub async fn identify(conn: &mut WireConnection) -> Result<Identity, SourceError> {
    let asked = conn.query_soon(&Sql::new("IDENTIFY_SYSTEM")).await;
    let row = first(asked.map_err(SourceError::during("IDENTIFY_SYSTEM"))?, "IDENTIFY_SYSTEM")?;
    Ok(Identity {
        system_identifier: text(&row, 0, "the system identifier")?,
        timeline: parsed(&row, 1, "the timeline")?,
        flush_lsn: parsed(&row, 2, "the flush position")?,
        database: text(&row, 3, "the database of a replication connection")?,
        server_version: conn.server_version(),
    })
}

/// Whether the server is a standby.
pub async fn in_recovery(client: &Client) -> Result<bool, PgError> {
    Ok(client.query_one(&Sql::new("SELECT pg_is_in_recovery()"), &[]).await?.get(0))
}

/// Where `timeline`'s ancestors ended, oldest first. The first timeline has no history (and the server no file for it).
pub async fn timeline_history(conn: &mut WireConnection, timeline: u32) -> Result<Vec<TimelineSwitch>, SourceError> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let asked = conn.query_soon(&Sql::format("TIMELINE_HISTORY {}", &[&Sql::number(timeline)])).await;
    let rows = asked.map_err(SourceError::during(format!("TIMELINE_HISTORY {timeline}")))?;
    parse_history(&text(&first(rows, "TIMELINE_HISTORY")?, 1, "the timeline's history")?)
}

/// Reads a history file: per line a timeline, where it ended, and why; `#` begins a comment (`readTimeLineHistory` in
/// timeline.c).
fn parse_history(content: &str) -> Result<Vec<TimelineSwitch>, SourceError> {
    let mut switches: Vec<TimelineSwitch> = Vec::new();
    for line in content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let timeline = fields.next().and_then(|field| field.parse().ok());
        let switch = fields.next().and_then(|field| field.parse().ok());
        let (Some(timeline), Some(switch)) = (timeline, switch) else {
            return Err(SourceError::Answer("a timeline history with a line that is none".to_owned()));
        };
        if switches.last().is_some_and(|last| last.timeline >= timeline) {
            return Err(SourceError::Answer("a timeline history out of order".to_owned()));
        }
        switches.push(TimelineSwitch { timeline, switch });
    }
    Ok(switches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_names_each_ancestor_and_its_end() {
        let content = "1\t0/5000000\tno recovery target specified\n\n# comment\n2\t16/B374D848\tbefore 2000-01-01\n";
        let switch = |timeline, lsn: &str| TimelineSwitch { timeline, switch: lsn.parse().unwrap() };
        assert_eq!(parse_history(content).unwrap(), [switch(1, "0/5000000"), switch(2, "16/B374D848")]);
        assert_eq!(parse_history("").unwrap(), []);
    }

    #[test]
    fn a_history_that_cannot_be_one_is_refused() {
        for content in ["x\t0/1\n", "1\n", "1\tnowhere\n", "2\t0/1\n1\t0/2\n", "-1\t0/1\n"] {
            assert!(parse_history(content).is_err(), "{content:?} was accepted");
        }
    }
}
