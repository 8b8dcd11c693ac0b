//! `walferry table`: the tables, one by one, the others undisturbed.
//!
//! | file | idea |
//! |---|---|
//! | `list.rs` | how far each is, from the daemon, else from the servers |
//! | `publish.rs` | in and out of the publication |
//! | `ask.rs` | copied again, left out, gone on with: told to the daemon, which is then asked until it is so |

mod ask;
mod list;
mod publish;

use super::CommandError;
use crate::cli::{ExitCode, TableCommand};
use crate::config::Config;
use crate::source::publication::alter::Alteration;
use crate::telemetry::control::TableAction;

/// Carries the command out.
///
/// # Errors
/// Who refuses, or does not answer.
pub async fn run(config: Config, command: &TableCommand) -> Result<ExitCode, CommandError> {
    match command {
        TableCommand::List(output) => list::run(config, *output).await,
        TableCommand::Add(table) => publish::run(config, table, Alteration::Add).await,
        TableCommand::Remove(table) => publish::run(config, table, Alteration::Drop).await,
        TableCommand::Resync(tables) => ask::run(&config, tables, TableAction::Resync).await,
        TableCommand::Pause(tables) => ask::run(&config, tables, TableAction::Pause).await,
        TableCommand::Resume(tables) => ask::run(&config, tables, TableAction::Resume).await,
    }
}
