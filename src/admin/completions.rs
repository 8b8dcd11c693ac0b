//! `walferry completions`: the script with which a shell completes commands and options.

use clap::CommandFactory;

use super::CommandError;
use super::output::line;
use crate::cli::{Cli, Completions, ExitCode};

/// Prints the shell's script.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(completions: Completions) -> Result<ExitCode, CommandError> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut command, name, &mut script);
    line(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Success)
}
