//! `walferry reload`, `walferry log-level` and `walferry config --diff`: what a running daemon is told, or would do.

use reqwest::Method;
use serde_json::{Value, json};

use super::CommandError;
use super::daemon::tell;
use super::output::{self, line, table};
use crate::cli::{ExitCode, Output};
use crate::config::{Config, Difference};

/// Has the daemon take its configuration over, and prints what became of each key that has changed.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub async fn reload(config: &Config, output: Output) -> Result<ExitCode, CommandError> {
    let answer = tell(&config.http, Method::POST, "/api/v1/reload", None).await;
    let (_, answer) = answer.map_err(|error| CommandError::at("nothing was reloaded", error))?;
    print(&answer, output)
}

/// Prints what a reload would do.
///
/// # Errors
/// As [`reload`].
pub async fn diff(config: &Config, output: Output) -> Result<ExitCode, CommandError> {
    let answer = tell(&config.http, Method::GET, "/api/v1/reload/preview", None).await;
    let (_, answer) = answer.map_err(|error| CommandError::at("cannot compare with the running daemon", error))?;
    print(&answer, output)
}

/// Has the daemon log by another level.
///
/// # Errors
/// As [`reload`].
pub async fn log_level(config: &Config, level: &str) -> Result<ExitCode, CommandError> {
    let body = Some(json!({ "level": level }));
    let told = tell(&config.http, Method::PUT, "/api/v1/log-level", body).await;
    told.map_err(|error| CommandError::at("the level is as it was", error))?;
    line(&format!("The daemon logs by \"{level}\", until its configuration is read again."))?;
    Ok(ExitCode::Success)
}

fn print(answer: &Value, output: Output) -> Result<ExitCode, CommandError> {
    if output.json {
        output::json(answer)?;
        return Ok(ExitCode::Success);
    }
    let changes: Vec<Difference> = serde_json::from_value(answer["changes"].clone())
        .map_err(|source| CommandError::failed("the daemon's answer is not understood").because(source))?;
    if changes.is_empty() {
        line("The daemon runs by this configuration.")?;
        return Ok(ExitCode::Success);
    }
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
    let row = |change: &Difference| {
        vec![change.key.clone(), shown(&change.before), shown(&change.after), change.effect.to_string()]
    };
    line(&table(&["key", "in force", "in the file", ""], &[], changes.iter().map(row)))?;
    Ok(ExitCode::Success)
}
