//! `walferry dead-letter list | retry | drop`: what targets did not take, looked at on the targets themselves; a daemon
//! may run beside it.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | which letters, list and drop |
//! | `retry.rs` | each letter applied, and what became of it |
//! | `report.rs` | letters as JSON and as text: pure |

mod report;
mod retry;

use std::io::{IsTerminal, Write};

use serde_json::json;

use super::output::{self, line};
use super::{CommandError, servers};
use crate::apply::dead_letter::{self as letters, Choice};
use crate::cli::{ChosenLetters, DeadLetterCommand, DeadLetters, DropLetters, ExitCode, LettersOf};
use crate::config::Config;
use crate::launcher::setup::{Setup, TargetSetup};
use crate::postgres::Client;
use crate::relation::TableName;

/// Carries a `dead-letter` command out.
///
/// # Errors
/// A target cannot be reached, or what was named is not there.
pub async fn run(config: Config, command: &DeadLetterCommand) -> Result<ExitCode, CommandError> {
    let setup = servers::setup(config)?;
    match command {
        DeadLetterCommand::List(list) => self::list(&setup, list).await,
        DeadLetterCommand::Retry(flags) => retry::run(&setup, flags).await,
        DeadLetterCommand::Drop(flags) => drop(&setup, flags).await,
    }
}

/// The targets that are meant.
fn targets<'a>(setup: &'a Setup, of: &LettersOf) -> Result<Vec<&'a TargetSetup>, CommandError> {
    let named = |target: &&TargetSetup| of.target.as_ref().is_none_or(|name| target.name == *name);
    let targets: Vec<&TargetSetup> = setup.targets.iter().filter(named).collect();
    match (&of.target, targets.is_empty()) {
        (Some(name), true) => {
            let names: Vec<&str> = setup.targets.iter().map(|target| target.name.as_str()).collect();
            let hint = format!("The targets are {}.", names.join(", "));
            Err(CommandError::refused(format!("there is no target \"{name}\""), hint))
        }
        _ => Ok(targets),
    }
}

/// As [`targets`], for a change; numbers mean something on one target only.
fn chosen_targets<'a>(setup: &'a Setup, chosen: &ChosenLetters) -> Result<Vec<&'a TargetSetup>, CommandError> {
    let targets = targets(setup, &chosen.of)?;
    if chosen.all || targets.len() < 2 {
        return Ok(targets);
    }
    let hint = "Each target counts by itself: say --target NAME.";
    Err(CommandError::refused("it is not said of which target the letters are", hint))
}

/// The table that is meant, by its name as an operator types it.
fn table(of: &LettersOf) -> Result<Option<TableName>, CommandError> {
    let Some(text) = &of.table else { return Ok(None) };
    let parsed = report::table_name(text);
    parsed.map(Some).ok_or_else(|| {
        let hint = "Write SCHEMA.TABLE, as the list shows it: a name with other letters in double quotes.";
        CommandError::refused(format!("\"{text}\" is not the name of a table"), hint)
    })
}

/// Which of a target's letters are chosen.
fn choice<'a>(chosen: &'a ChosenLetters, table: Option<&'a TableName>) -> Choice<'a> {
    Choice { ids: (!chosen.all).then_some(&chosen.ids), table }
}

async fn list(setup: &Setup, flags: &DeadLetters) -> Result<ExitCode, CommandError> {
    let table = table(&flags.of)?;
    let choice = Choice { ids: None, table: table.as_ref() };
    let (mut found, mut failed) = (Vec::new(), None);
    for target in targets(setup, &flags.of)? {
        let listed = async {
            let client = servers::target(setup, target).await?;
            letters::list(&client, &setup.stream, choice, flags.values).await.map_err(servers::at(target))
        };
        match listed.await {
            Ok(letters) => found.extend(letters.into_iter().map(|letter| (target.name.as_str(), letter))),
            // The others are shown.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if flags.output.json {
        output::json(&found.iter().map(|(target, letter)| report::json(target, letter)).collect::<Vec<_>>())?;
    } else if found.is_empty() && failed.is_none() {
        line("There are no dead letters.")?;
    } else {
        line(&report::text(&found))?;
    }
    failed.map_or(Ok(ExitCode::Success), Err)
}

async fn drop(setup: &Setup, flags: &DropLetters) -> Result<ExitCode, CommandError> {
    let table = table(&flags.chosen.of)?;
    let choice = choice(&flags.chosen, table.as_ref());
    let mut to_drop: Vec<(&TargetSetup, Client, Vec<i64>)> = Vec::new();
    for target in chosen_targets(setup, &flags.chosen)? {
        let client = servers::target(setup, target).await?;
        let ids = letters::ids(&client, &setup.stream, choice).await.map_err(servers::at(target))?;
        to_drop.push((target, client, ids));
    }
    let count: usize = to_drop.iter().map(|(_, _, ids)| ids.len()).sum();
    if count > 0 && !flags.yes {
        agree(count)?;
    }
    let mut dropped = Vec::new();
    for (target, client, ids) in &to_drop {
        // Those that the question was about: others may have come since.
        let choice = Choice { ids: Some(ids), table: None };
        let rows = letters::drop_letters(client, &setup.stream, choice).await.map_err(servers::at(target))?;
        dropped.push(json!({ "target": target.name, "dropped": rows }));
        if !flags.output.json {
            let letters = if rows == 1 { "letter" } else { "letters" };
            line(&format!("Dropped {rows} dead {letters} of target {}.", target.name))?;
        }
    }
    if flags.output.json {
        output::json(&dropped)?;
    }
    match to_drop.iter().find_map(|(target, _, ids)| missing(&flags.chosen, ids).map(|id| (target, id))) {
        Some((target, id)) => Err(no_such(target, id)),
        None => Ok(ExitCode::Success),
    }
}

/// The first of the named letters that was not found.
fn missing(chosen: &ChosenLetters, found: &[i64]) -> Option<i64> {
    chosen.ids.iter().find(|id| !found.contains(id)).copied()
}

fn no_such(target: &TargetSetup, id: i64) -> CommandError {
    let hint = "walferry dead-letter list shows those that there are.";
    CommandError::refused(format!("target {} has no such dead letter: {id}", target.name), hint)
}

fn agree(count: usize) -> Result<(), CommandError> {
    let failed = |source| CommandError::failed("cannot ask").because(source);
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::refused("this gives changes up, and nobody can be asked", "Say --yes."));
    }
    let changes = if count == 1 { "1 change".to_owned() } else { format!("{count} changes") };
    let mut error = std::io::stderr();
    write!(error, "Give up {changes} that the source has and the target has not? [y/N] ")
        .and_then(|()| error.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::failed("nothing was changed")),
    }
}
