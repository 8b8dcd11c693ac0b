//! `walferry status`: how the stream is, from the daemon where one answers, else from the servers themselves.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | whom to ask, and the exit code |
//! | `servers.rs` | slot, progress and table states as the servers hold them |
//! | `text.rs` | both as text: pure |

mod servers;
mod text;

use serde::Serialize;

use self::servers::ServersReport;
use super::daemon::ask;
use super::output::{self, line};
use super::{CommandError, servers as sessions};
use crate::cli::{ExitCode, Output};
use crate::config::Config;
use crate::error::chain;
use crate::telemetry::status::StatusSnapshot;

/// What could be found out.
#[derive(Debug, Serialize)]
struct Report {
    /// What the daemon says; `None` when it does not answer.
    daemon: Option<StatusSnapshot>,
    /// What the servers say, when the daemon does not.
    servers: Option<ServersReport>,
    /// What is not as it should be; empty when all is well.
    problems: Vec<String>,
    /// Whether it stays so until somebody acts.
    halted: bool,
}

/// Prints the status. [`ExitCode::Failure`] when something is not as it should be, [`ExitCode::Refused`] when it stays
/// so until somebody acts.
///
/// # Errors
/// The configuration cannot be used. A server that cannot be reached is part of the report.
pub async fn run(config: Config, output: Output) -> Result<ExitCode, CommandError> {
    let report = find_out(config).await?;
    if output.json {
        output::json(&report)?;
    } else {
        match (&report.daemon, &report.servers) {
            (Some(daemon), _) => line(&text::daemon(daemon))?,
            (None, Some(servers)) => line(&text::servers(servers))?,
            (None, None) => {}
        }
        for problem in &report.problems {
            line(&format!("! {problem}"))?;
        }
    }
    Ok(match (report.problems.is_empty(), report.halted) {
        (_, true) => ExitCode::Refused,
        (true, false) => ExitCode::Success,
        (false, false) => ExitCode::Failure,
    })
}

async fn find_out(config: Config) -> Result<Report, CommandError> {
    let why = match ask(&config.http).await {
        Ok(status) if status.stream == config.source.slot => {
            let (problems, halted) = (status.problems(), status.is_halted());
            return Ok(Report { daemon: Some(status), servers: None, problems, halted });
        }
        Ok(status) => format!("the daemon that answers is that of another stream, \"{}\"", status.stream),
        Err(error) => chain(&error),
    };
    let setup = sessions::setup(config)?;
    let report = servers::ask(&setup, why).await;
    let (problems, halted) = (report.problems(), report.source.is_lost());
    Ok(Report { daemon: None, servers: Some(report), problems, halted })
}
