//! `walferry table resync|pause|resume`.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::admin::CommandError;
use crate::admin::daemon::{ask, tell};
use crate::admin::output::{self, line};
use crate::cli::{ExitCode, SomeTables};
use crate::config::Config;
use crate::relation::TableName;
use crate::telemetry::control::TableAction;
use crate::telemetry::state::TableState;
use crate::telemetry::status::{StatusSnapshot, TableStatus};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// How long a target may take to begin, beside what is still applied.
const PATIENCE: Duration = Duration::from_secs(10);

/// A table that was told of.
#[derive(Debug, Deserialize)]
struct Told {
    target: String,
    schema: String,
    name: String,
}

impl Told {
    fn status<'a>(&self, status: &'a StatusSnapshot) -> Option<&'a TableStatus> {
        status
            .tables
            .iter()
            .find(|table| (&table.target, &table.schema, &table.name) == (&self.target, &self.schema, &self.name))
    }

    fn shown(&self) -> String {
        format!("{} of target {}", TableName::new(&self.schema, &self.name), self.target)
    }
}

/// Has the daemon do it with the tables, and waits until it has begun.
///
/// # Errors
/// The daemon does not answer, refuses, or has not begun in time.
pub async fn run(config: &Config, tables: &SomeTables, action: TableAction) -> Result<ExitCode, CommandError> {
    let silent = |error| CommandError::at("nothing was changed", error);
    let before = ask(&config.http).await.map_err(silent)?;
    let path = match action {
        TableAction::Resync => "/api/v1/tables/resync",
        TableAction::Pause => "/api/v1/tables/pause",
        TableAction::Resume => "/api/v1/tables/resume",
    };
    let body = json!({ "tables": tables.tables, "target": tables.target });
    let (_, answer) = tell(&config.http, Method::POST, path, Some(body)).await.map_err(silent)?;
    let told: Vec<Told> = serde_json::from_value(answer["tables"].clone())
        .map_err(|source| CommandError::failed("the daemon's answer is not understood").because(source))?;
    let deadline = Instant::now() + config.apply.drain_timeout + PATIENCE;
    loop {
        let silent = |error| CommandError::at("the daemon was told; how far it is, it does not say", error);
        let now = ask(&config.http).await.map_err(silent)?;
        let begun = |told: &&Told| has_begun(told.status(&before), told.status(&now), action);
        let waiting: Vec<String> = told.iter().filter(|told| !begun(told)).map(Told::shown).collect();
        if waiting.is_empty() {
            return print(&told, &now, action, tables);
        }
        if Instant::now() >= deadline {
            let what = format!("the daemon was told, and has not begun with {}", waiting.join(", "));
            let hint = "It does once the target is fed again: `walferry status` says why it is not.";
            return Err(CommandError::refused(what, hint));
        }
        sleep(LOOK).await;
    }
}

/// Whether the daemon has begun with what it was told, by how the table was before.
fn has_begun(before: Option<&TableStatus>, now: Option<&TableStatus>, action: TableAction) -> bool {
    let Some(now) = now else { return false };
    let is_stopped = matches!(now.state, TableState::Paused | TableState::Quarantined);
    match action {
        TableAction::Pause => now.state == TableState::Paused,
        TableAction::Resume => !is_stopped,
        // One that is in step again already was copied from another position on.
        TableAction::Resync => match now.state {
            TableState::Ready => before.is_some_and(|before| before.copy_lsn != now.copy_lsn),
            _ => !is_stopped,
        },
    }
}

fn print(
    told: &[Told],
    now: &StatusSnapshot,
    action: TableAction,
    tables: &SomeTables,
) -> Result<ExitCode, CommandError> {
    let states = told.iter().filter_map(|told| Some((told, told.status(now)?)));
    if tables.output.json {
        let shown: Vec<serde_json::Value> = states
            .map(|(told, status)| {
                json!({ "target": told.target, "schema": told.schema, "name": told.name, "state": status.state })
            })
            .collect();
        output::json(&shown)?;
        return Ok(ExitCode::Success);
    }
    for (told, status) in states {
        let what = match action {
            TableAction::Pause => "is paused: its changes are left out until it goes on, and then it is copied again",
            TableAction::Resync | TableAction::Resume if status.state == TableState::Ready => "is in step",
            TableAction::Resync | TableAction::Resume => "is copied again, while the others go on",
        };
        line(&format!("Table {} {what}.", told.shown()))?;
    }
    Ok(ExitCode::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_told_from_what_was_so_before() {
        let table = |state, copy_lsn: &str| {
            Some(TableStatus { state, copy_lsn: Some(copy_lsn.to_owned()), ..TableStatus::default() })
        };
        let begun = |before: &Option<TableStatus>, now: &Option<TableStatus>, action| {
            has_begun(before.as_ref(), now.as_ref(), action)
        };
        let ready = table(TableState::Ready, "0/1");
        assert!(!begun(&ready, &ready, TableAction::Resync));
        assert!(begun(&ready, &table(TableState::Ready, "0/2"), TableAction::Resync));
        assert!(begun(&ready, &table(TableState::Copying, "0/1"), TableAction::Resync));
        let quarantined = table(TableState::Quarantined, "0/1");
        assert!(!begun(&quarantined, &quarantined, TableAction::Resync));
        assert!(!begun(&quarantined, &quarantined, TableAction::Resume));
        assert!(begun(&quarantined, &ready, TableAction::Resume));
        assert!(!begun(&ready, &ready, TableAction::Pause) && !begun(&ready, &None, TableAction::Pause));
        assert!(begun(&ready, &table(TableState::Paused, "0/1"), TableAction::Pause));
    }
}
