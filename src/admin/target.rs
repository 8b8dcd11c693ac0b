//! `walferry target pause|resume|resync`: told to the daemon, which is then asked until it is so.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::CommandError;
use super::daemon::{ask, tell};
use super::output::{self, line};
use crate::cli::{ExitCode, OneTarget, TargetCommand};
use crate::config::Config;
use crate::telemetry::state::TargetState;
use crate::telemetry::status::{StatusSnapshot, TargetStatus};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// How long it may take, beside what is still applied.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a target may take to write down that it is paused.
const NOTING: Duration = Duration::from_secs(3);

/// Has the daemon do as asked, and waits until that is so.
///
/// # Errors
/// The daemon does not answer, refuses, or is not done in time.
pub async fn run(config: &Config, command: &TargetCommand) -> Result<ExitCode, CommandError> {
    let (target, what) = match command {
        TargetCommand::Pause(target) => (target, "pause"),
        TargetCommand::Resume(target) => (target, "resume"),
        TargetCommand::Resync(target) => (target, "resync"),
    };
    let name = &target.name;
    if config.targets.iter().all(|target| target.name != *name) {
        let names: Vec<&str> = config.targets.iter().map(|target| target.name.as_str()).collect();
        let hint = format!("The targets are {}.", names.join(", "));
        return Err(CommandError::refused(format!("there is no target \"{name}\""), hint));
    }
    let silent = |error| CommandError::at("nothing was changed", error);
    let before = copies(&ask(&config.http).await.map_err(silent)?, name);
    let told = tell(&config.http, Method::POST, &format!("/api/v1/targets/{name}/{what}"), None).await;
    told.map_err(silent)?;
    let status = match command {
        TargetCommand::Pause(_) => paused(config, name).await?,
        TargetCommand::Resume(_) => until(config, name, PATIENCE, |target| target.state != TargetState::Paused)
            .await?
            .map_err(|status| CommandError::failed(format!("target {name} was told, and is still {}", status.state)))?,
        TargetCommand::Resync(_) => begun(config, name, &before).await?,
    };
    print(&status, target)
}

/// From where on each of its tables is followed.
fn copies(status: &StatusSnapshot, name: &str) -> Vec<(String, String, Option<String>)> {
    let tables = status.tables.iter().filter(|table| table.target == name);
    tables.map(|table| (table.schema.clone(), table.name.clone(), table.copy_lsn.clone())).collect()
}

/// Waits until its tables are being copied, or have been.
async fn begun(
    config: &Config,
    name: &str,
    before: &[(String, String, Option<String>)],
) -> Result<TargetStatus, CommandError> {
    let deadline = Instant::now() + config.apply.drain_timeout + PATIENCE;
    loop {
        let silent = |error| CommandError::at("the daemon was told; how far it is, it does not say", error);
        let mut status = ask(&config.http).await.map_err(silent)?;
        let target = status.target(name).clone();
        if target.state == TargetState::Copying || copies(&status, name) != before {
            return Ok(target);
        }
        if Instant::now() >= deadline {
            let what = format!("the daemon was told, and has not begun: target {name} is {}", target.state);
            return Err(CommandError::refused(
                what,
                "It does once the target can be reached; `walferry status` says more.",
            ));
        }
        sleep(LOOK).await;
    }
}

/// Waits until it is paused, and a moment longer until it knows.
async fn paused(config: &Config, name: &str) -> Result<TargetStatus, CommandError> {
    let patience = config.apply.drain_timeout + PATIENCE;
    let paused = |target: &TargetStatus| target.state == TargetState::Paused;
    let status = until(config, name, patience, paused).await?;
    status.map_err(|status| CommandError::failed(format!("target {name} was told, and is still {}", status.state)))?;
    let knows = |target: &TargetStatus| !paused(target) || target.paused_at.is_some();
    Ok(until(config, name, NOTING, knows).await?.unwrap_or_else(|status| status))
}

/// The target's status, once it is as it should be; or, when that takes too long, as it is then.
async fn until(
    config: &Config,
    name: &str,
    patience: Duration,
    is_so: impl Fn(&TargetStatus) -> bool,
) -> Result<Result<TargetStatus, TargetStatus>, CommandError> {
    let begun = Instant::now();
    loop {
        let silent = |error| CommandError::at("the daemon was told; how far it is, it does not say", error);
        let status = ask(&config.http).await.map_err(silent)?;
        let found = status.targets.into_iter().find(|target| target.name == name);
        let target = found.ok_or_else(|| CommandError::failed(format!("target {name} is gone from the daemon")))?;
        match (is_so(&target), begun.elapsed() < patience) {
            (true, _) => return Ok(Ok(target)),
            (false, true) => sleep(LOOK).await,
            (false, false) => return Ok(Err(target)),
        }
    }
}

fn print(status: &TargetStatus, target: &OneTarget) -> Result<ExitCode, CommandError> {
    let TargetStatus { name, state, paused_at, durable_lsn, .. } = status;
    if target.output.json {
        let shown = json!({ "target": name, "state": state, "paused_at": paused_at, "durable_lsn": durable_lsn });
        output::json(&shown)?;
        return Ok(ExitCode::Success);
    }
    let at = durable_lsn.as_ref().map_or_else(String::new, |lsn| format!(", at {lsn}"));
    line(&match (state, paused_at) {
        (TargetState::Paused, Some(since)) => {
            format!("Target {name} is paused since {since}{at}. The source keeps its WAL until it goes on.")
        }
        (TargetState::Paused, None) => format!(
            "Target {name} is paused{at}. It cannot be told, and would go on should the daemon end before it is. The \
             source keeps its WAL until it goes on."
        ),
        (TargetState::Copying, _) => format!("Target {name} is copied again from the beginning."),
        _ => format!("Target {name} goes on{at}: {state}."),
    })?;
    Ok(ExitCode::Success)
}
