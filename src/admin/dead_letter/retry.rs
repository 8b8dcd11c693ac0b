//! Each letter by itself, in their order; what became of each is told as it is known.

use serde::Serialize;

use super::{choice, chosen_targets, missing, no_such, table};
use crate::admin::output::{self, line};
use crate::admin::{CommandError, servers};
use crate::apply::dead_letter::{self as letters, Outcome, Retrier};
use crate::apply::session::SessionOptions;
use crate::cli::{ExitCode, RetryLetters};
use crate::launcher::setup::{Setup, TargetSetup};

/// What became of a letter.
#[derive(Debug, Serialize)]
struct Tried {
    target: String,
    id: i64,
    /// `applied`, `refused`, or `gone`: somebody else has taken it.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Tried {
    fn new(target: &str, id: i64, outcome: Outcome) -> Self {
        let bare = |outcome| Self { target: target.to_owned(), id, outcome, sqlstate: None, why: None, hint: None };
        match outcome {
            Outcome::Applied => bare("applied"),
            Outcome::Missing => bare("gone"),
            Outcome::Refused { sqlstate, why, hint } => {
                Self { sqlstate, why: Some(why), hint: Some(hint), ..bare("refused") }
            }
        }
    }

    fn sentence(&self) -> String {
        let Self { target, id, outcome, .. } = self;
        let Some(why) = &self.why else { return format!("{target} {id}: {outcome}") };
        let sqlstate = self.sqlstate.as_ref().map_or_else(String::new, |code| format!(" (SQLSTATE {code})"));
        let hint = self.hint.as_deref().unwrap_or_default();
        format!("{target} {id}: still refused: {why}{sqlstate}. {hint}")
    }
}

/// Applies the chosen letters. [`ExitCode::Refused`] when any is left.
///
/// # Errors
/// A target cannot be reached, or is busy: the letters before are applied, as was told.
pub(super) async fn run(setup: &Setup, flags: &RetryLetters) -> Result<ExitCode, CommandError> {
    let mut all = Vec::new();
    let mut ended = Ok(());
    for target in chosen_targets(setup, &flags.chosen)? {
        ended = of_target(setup, target, flags, &mut all).await;
        if ended.is_err() {
            break;
        }
    }
    if flags.output.json {
        output::json(&all)?;
    } else if all.is_empty() && ended.is_ok() {
        line("There are no dead letters.")?;
    }
    ended?;
    let left = all.iter().any(|tried| tried.outcome == "refused");
    Ok(if left { ExitCode::Refused } else { ExitCode::Success })
}

async fn of_target(
    setup: &Setup,
    target: &TargetSetup,
    flags: &RetryLetters,
    all: &mut Vec<Tried>,
) -> Result<(), CommandError> {
    let table = table(&flags.chosen.of)?;
    let client = servers::target(setup, target).await?;
    let chosen = letters::ids(&client, &setup.stream, choice(&flags.chosen, table.as_ref()));
    let ids = chosen.await.map_err(servers::at(target))?;
    if let Some(id) = missing(&flags.chosen, &ids) {
        return Err(no_such(target, id));
    }
    let apply = &setup.config.apply;
    let options = SessionOptions {
        connect: target.connect.clone(),
        application_name: servers::application_name(setup),
        lock_timeout: apply.lock_timeout,
        statement_timeout: apply.statement_timeout,
        synchronous_commit: true,
    };
    let mut retrier = Retrier::connect(&options, &setup.stream).await.map_err(servers::at(target))?;
    for id in ids {
        let what = format!("target \"{}\", letter {id}", target.name);
        let outcome = retrier.retry(id, flags.force).await.map_err(|error| CommandError::at(what, error))?;
        let tried = Tried::new(&target.name, id, outcome);
        if !flags.output.json {
            line(&tried.sentence())?;
        }
        all.push(tried);
    }
    Ok(())
}
