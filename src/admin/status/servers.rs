//! The stream as the servers hold it: the slot on the source; progress and table states on each target.
//!
//! What cannot be reached is part of the report, with the reason.

use futures_util::future::join_all;
use serde::Serialize;

use crate::admin::{CommandError, servers};
use crate::apply::{dead_letter, progress};
use crate::error::{Judged, Verdict, chain};
use crate::launcher::setup::{Setup, TargetSetup};
use crate::lsn::Lsn;
use crate::postgres::Client;
use crate::source::lock::StreamLock;
use crate::source::slot;
use crate::sql::Sql;
use crate::tablesync::{CopyState, state};
use crate::telemetry::status::dead_letters;

/// See the module.
#[derive(Debug, Default, Serialize)]
pub struct ServersReport {
    /// The stream's name.
    pub stream: String,
    /// Why the daemon was not asked, or did not answer.
    pub daemon: String,
    /// The source.
    pub source: SourceReport,
    /// In the configuration's order.
    pub targets: Vec<TargetReport>,
}

/// The source.
#[derive(Debug, Default, Serialize)]
pub struct SourceReport {
    /// Why it could not be asked.
    pub error: Option<String>,
    /// The end of its WAL.
    pub wal_lsn: Option<String>,
    /// The server process of the daemon that holds the stream.
    pub held_by: Option<i32>,
    /// The slot; `None` when there is none.
    pub slot: Option<SlotReport>,
}

/// The slot.
#[derive(Debug, Default, Serialize)]
pub struct SlotReport {
    /// Who streams from it.
    pub active_pid: Option<i32>,
    /// Up to where everything is confirmed.
    pub confirmed_lsn: Option<String>,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: Option<String>,
    /// WAL kept for it, in bytes.
    pub retained_bytes: Option<u64>,
    /// Why it is of no use.
    pub unusable: Option<String>,
    /// Whether it stays so.
    pub lost: bool,
    /// It may lose what it needs at the next checkpoint.
    pub at_risk: bool,
}

/// A target.
#[derive(Debug, Default, Serialize)]
pub struct TargetReport {
    /// Its name in the configuration.
    pub name: String,
    /// Why it could not be asked.
    pub error: Option<String>,
    /// Whether it knows the stream.
    pub registered: bool,
    /// Up to where it has applied; `None`: nothing copied yet.
    pub end_lsn: Option<String>,
    /// WAL of the source beyond that, in bytes. Not all of it need concern the target.
    pub lag_bytes: Option<u64>,
    /// When its last transaction committed on the source.
    pub commit_time: Option<String>,
    /// Since when it is paused; `None`: it is not.
    pub paused_at: Option<String>,
    /// Changes of rows that it did not take and that lie in its `walferry.dead_letter`.
    pub dead_letters: u64,
    /// Its tables.
    pub tables: Vec<TableReport>,
}

/// A table of a target.
#[derive(Debug, Serialize)]
pub struct TableReport {
    /// Schema and name as an operator would type them.
    pub table: String,
    /// `copying`, `catching up`, `done`, `paused` or `quarantined`.
    pub state: &'static str,
    /// Rows copied.
    pub rows: u64,
    /// From where on its changes apply.
    pub copy_lsn: String,
}

impl ServersReport {
    /// What is not as it should be.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let source = &self.source;
        if let Some(error) = &source.error {
            problems.push(format!("source: {error}"));
        } else {
            if source.held_by.is_none() {
                problems.push("no daemon runs for this stream".to_owned());
            }
            match &source.slot {
                None => problems.push(format!("the slot \"{}\" does not exist", self.stream)),
                Some(SlotReport { unusable: Some(why), .. }) => problems.push(why.clone()),
                Some(slot) if slot.at_risk => problems.push(
                    "the slot may lose WAL that it needs at the next checkpoint (wal_status unreserved)".to_owned(),
                ),
                Some(_) => {}
            }
        }
        for target in &self.targets {
            problems.extend(target.problem().map(|problem| format!("target {}: {problem}", target.name)));
            problems.extend(dead_letters(&target.name, target.dead_letters));
        }
        problems
    }
}

impl SourceReport {
    /// Whether there is a slot that no daemon can go on with.
    pub fn is_lost(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.lost)
    }
}

impl TargetReport {
    fn problem(&self) -> Option<String> {
        let count = |states: &[CopyState]| {
            let is_it = |table: &&TableReport| states.iter().any(|state| state.as_str() == table.state);
            self.tables.iter().filter(is_it).count()
        };
        let copying = count(&[CopyState::Copying, CopyState::CatchingUp]);
        let quarantined = count(&[CopyState::Quarantined]);
        match (&self.error, self.registered, &self.end_lsn) {
            (Some(error), ..) => Some(error.clone()),
            (None, false, _) => Some("does not know the stream yet".to_owned()),
            (None, true, None) => Some("nothing has been copied yet".to_owned()),
            (None, true, Some(_)) if quarantined > 0 => {
                Some(format!("{quarantined} tables are quarantined: walferry table list says why"))
            }
            (None, true, Some(_)) if copying > 0 => Some(format!("{copying} tables are not copied yet")),
            (None, true, Some(_)) => self.paused_at.as_ref().map(|since| format!("is paused since {since}")),
        }
    }
}

/// Asks all servers at once.
pub async fn ask(setup: &Setup, daemon: String) -> ServersReport {
    let (source, targets) =
        tokio::join!(source(setup), join_all(setup.targets.iter().map(|target| self::target(setup, target))));
    let (source, wal) = match source {
        Ok((report, wal)) => (report, wal),
        Err(error) => (SourceReport { error: Some(chain(&error)), ..SourceReport::default() }, None),
    };
    let mut reports = Vec::new();
    for (target, answer) in setup.targets.iter().zip(targets) {
        let mut report =
            answer.unwrap_or_else(|error| TargetReport { error: Some(chain(&error)), ..TargetReport::default() });
        report.name.clone_from(&target.name);
        let end: Option<Lsn> = report.end_lsn.as_deref().and_then(|text| text.parse().ok());
        report.lag_bytes = wal.zip(end).map(|(wal, end)| wal.bytes_since(end));
        reports.push(report);
    }
    ServersReport { stream: setup.stream.clone(), daemon, source, targets: reports }
}

const WAL_END: Sql =
    Sql::new("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text");

async fn source(setup: &Setup) -> Result<(SourceReport, Option<Lsn>), CommandError> {
    let client = servers::source(setup).await?;
    let failed = |error| CommandError::at("cannot be asked", error);
    let slot = slot::inspect(&client, &setup.stream).await.map_err(failed)?;
    let held_by = StreamLock::holder(&client, &setup.stream).await.map_err(failed)?;
    let wal = client.query_one(&WAL_END, &[]).await.map_err(|error| CommandError::at("cannot be asked", error))?;
    let wal: Option<Lsn> = wal.get::<_, Option<String>>(0).and_then(|text| text.parse().ok());
    let report = |slot: slot::Slot| {
        let error = slot.check_usable(&setup.source.dbname).err();
        SlotReport {
            lost: error.as_ref().is_some_and(|error| matches!(error.verdict(), Verdict::Halt { .. })),
            unusable: error.as_ref().map(|error| chain(error)),
            at_risk: slot.is_at_risk(),
            active_pid: slot.active_pid,
            confirmed_lsn: slot.confirmed_flush.map(|lsn| lsn.to_string()),
            wal_status: slot.wal_status,
            retained_bytes: slot.retained_bytes,
        }
    };
    let slot = slot.map(report);
    Ok((SourceReport { error: None, wal_lsn: wal.map(|lsn| lsn.to_string()), held_by, slot }, wal))
}

async fn target(setup: &Setup, target: &TargetSetup) -> Result<TargetReport, CommandError> {
    let client = servers::target(setup, target).await?;
    let failed = |error| CommandError::at("cannot be asked", error);
    let Some(stored) = progress::read(&client, &setup.stream).await.map_err(failed)? else {
        return Ok(TargetReport::default());
    };
    let tables = state::load(&client, &setup.stream).await.map_err(failed)?;
    Ok(TargetReport {
        registered: true,
        end_lsn: stored.end_lsn.map(|end| end.to_string()),
        paused_at: stored.paused_at,
        dead_letters: dead_letter::count(&client, &setup.stream).await.map_err(failed)?,
        commit_time: commit_time(&client, &setup.stream).await.map_err(failed)?,
        tables: tables
            .into_iter()
            .map(|table| TableReport {
                table: table.name.to_string(),
                state: table.state.as_str(),
                rows: table.rows,
                copy_lsn: table.copy_lsn.to_string(),
            })
            .collect(),
        ..TargetReport::default()
    })
}

async fn commit_time(client: &Client, stream: &str) -> Result<Option<String>, crate::postgres::PgError> {
    let time = Sql::new(
        "SELECT to_char(commit_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM walferry.progress \
         WHERE stream = $1",
    );
    Ok(client.query_opt(&time, &[&stream]).await?.and_then(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> ServersReport {
        let slot = SlotReport { wal_status: Some("reserved".to_owned()), ..SlotReport::default() };
        let source = SourceReport { held_by: Some(7), slot: Some(slot), ..SourceReport::default() };
        let target = TargetReport {
            name: "one".to_owned(),
            registered: true,
            end_lsn: Some("0/1".to_owned()),
            ..TargetReport::default()
        };
        ServersReport { source, targets: vec![target], ..ServersReport::default() }
    }

    #[test]
    fn a_stream_in_good_order_has_no_problems() {
        assert!(healthy().problems().is_empty());
    }

    #[test]
    fn each_thing_that_is_wrong_is_a_problem() {
        let mut report = healthy();
        report.source.held_by = None;
        assert_eq!(report.problems(), ["no daemon runs for this stream"]);
        report.source.slot = None;
        assert_eq!(report.problems().len(), 2);
        assert!(!report.source.is_lost(), "a slot that is not there may be made");
        report.source.slot = Some(SlotReport { lost: true, ..SlotReport::default() });
        assert!(report.source.is_lost());
        report.source.error = Some("refused".to_owned());
        assert_eq!(report.problems(), ["source: refused"]);

        let problem = |change: fn(&mut TargetReport)| {
            let mut report = healthy();
            change(&mut report.targets[0]);
            report.problems()
        };
        assert_eq!(problem(|target| target.registered = false), ["target one: does not know the stream yet"]);
        assert_eq!(problem(|target| target.end_lsn = None), ["target one: nothing has been copied yet"]);
        assert_eq!(problem(|target| target.error = Some("gone".to_owned())), ["target one: gone"]);
        let paused = |target: &mut TargetReport| target.paused_at = Some("2026-01-31T12:00:00Z".to_owned());
        assert_eq!(problem(paused), ["target one: is paused since 2026-01-31T12:00:00Z"]);
        let lettered = ["1 row is in walferry.dead_letter of target one: \"walferry dead-letter list\""];
        assert_eq!(problem(|target| target.dead_letters = 1), lettered);
        let copying = |target: &mut TargetReport| {
            let table = || TableReport { table: "t".to_owned(), state: "copying", rows: 0, copy_lsn: String::new() };
            target.tables.push(table());
        };
        assert_eq!(problem(copying), ["target one: 1 tables are not copied yet"]);
        let quarantined = |target: &mut TargetReport| {
            let (table, copy_lsn) = ("t".to_owned(), String::new());
            target.tables.push(TableReport { table, state: "quarantined", rows: 0, copy_lsn });
        };
        assert_eq!(problem(quarantined), ["target one: 1 tables are quarantined: walferry table list says why"]);
    }
}
