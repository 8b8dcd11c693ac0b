//! `walferry slot list | create | drop | reset`: the replication slot on the source, and what targets know of it.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | which command, and what it prints |
//! | `guard.rs` | nothing is changed under a running daemon, and no slot that cannot be walferry's |
//! | `standing.rs` | what the slot is, who uses it, whether a target knows it: said before it is given up |
//! | `change.rs` | create, drop, reset, in an order that a crash cannot harm |

mod change;
mod guard;
mod standing;

use std::io::{IsTerminal, Write};

use serde::Serialize;

use self::standing::{Known, Standing};
use super::output::{self, line, size};
use super::{CommandError, servers};
use crate::cli::{ExitCode, SlotChange, SlotCommand};
use crate::config::Config;
use crate::launcher::setup::{Setup, TargetSetup};
use crate::postgres::Client;
use crate::source::slot::{self, Slot};

/// A slot as it is printed.
#[derive(Debug, Serialize)]
struct SlotReport {
    name: String,
    /// Whether it is this configuration's.
    ours: bool,
    /// The target that has it to itself.
    target: Option<String>,
    plugin: Option<String>,
    database: Option<String>,
    active_pid: Option<i32>,
    confirmed_flush_lsn: Option<String>,
    restart_lsn: Option<String>,
    wal_status: Option<String>,
    invalidation_reason: Option<String>,
    /// Whether it is of no use any more.
    lost: bool,
    retained_bytes: Option<u64>,
    safe_wal_size: Option<i64>,
    temporary: bool,
    failover: bool,
}

impl SlotReport {
    fn new(slot: Slot, setup: &Setup) -> Self {
        let own = |target: &TargetSetup| slot::lane::name(&setup.stream, &target.name) == slot.name;
        Self {
            ours: slot.name == setup.stream,
            target: setup.targets.iter().find(|target| own(target)).map(|target| target.name.clone()),
            lost: slot.is_lost(),
            name: slot.name,
            plugin: slot.plugin,
            database: slot.database,
            active_pid: slot.active_pid,
            confirmed_flush_lsn: slot.confirmed_flush.map(|lsn| lsn.to_string()),
            restart_lsn: slot.restart_lsn.map(|lsn| lsn.to_string()),
            wal_status: slot.wal_status,
            invalidation_reason: slot.invalidation_reason,
            retained_bytes: slot.retained_bytes,
            safe_wal_size: slot.safe_wal_size,
            temporary: slot.temporary,
            failover: slot.failover,
        }
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            match &self.target {
                Some(target) => format!("{} (of target {target})", self.name),
                None => format!("{}{}", self.name, if self.ours { " *" } else { "" }),
            },
            or_dash(&self.plugin),
            self.active_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            or_dash(&self.confirmed_flush_lsn),
            or_dash(&self.wal_status),
            self.retained_bytes.map_or_else(|| "-".to_owned(), size),
            match self.safe_wal_size {
                _ if self.lost => "lost".to_owned(),
                Some(left) => size(left.max(0).unsigned_abs()),
                None => "no limit".to_owned(),
            },
        ]
    }
}

/// What a change has done.
#[derive(Debug, Default, Serialize)]
struct Done {
    /// The slot.
    slot: String,
    /// What was to be known beforehand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    /// In the order in which it was done, as sentences.
    done: Vec<String>,
    /// What is going to happen next, and what to do about it.
    next: String,
}

/// Carries a `slot` command out.
///
/// # Errors
/// A server cannot be reached, a daemon is using the slot, or the user does not agree.
pub async fn run(config: Config, command: &SlotCommand) -> Result<ExitCode, CommandError> {
    let setup = servers::setup(config)?;
    let source = servers::source(&setup).await?;
    let mut done = Done { slot: setup.stream.clone(), ..Done::default() };
    let (changed, json) = match command {
        SlotCommand::List(output) => return list(&setup, &source, output.json).await,
        SlotCommand::Create(output) => (change::create(&setup, &source, &mut done).await, output.json),
        SlotCommand::Drop(flags) => {
            let what =
                format!("Drop the replication slot \"{}\"? Its targets can only go on by a new copy.", setup.stream);
            agree(flags, &Standing::find_out(&setup, &source).await?, &what, &mut done)?;
            (change::drop(&setup, &source, flags.force, &mut done).await, flags.output.json)
        }
        SlotCommand::Reset(flags) => {
            agree(flags, &Standing::find_out(&setup, &source).await?, &reset_what(&setup), &mut done)?;
            (change::reset(&setup, &source, flags.force, &mut done).await, flags.output.json)
        }
    };
    if let Err(error) = changed {
        if !done.done.is_empty() {
            "It failed after that: see the error.".clone_into(&mut done.next);
            report(&done, json)?;
        }
        return Err(error);
    }
    report(&done, json)
}

fn reset_what(setup: &Setup) -> String {
    let targets: Vec<&str> = setup.targets.iter().map(|target| target.name.as_str()).collect();
    format!(
        "Drop and create the replication slot \"{}\", and have the rows of all its tables on {} {}, and the tables \
         copied again?",
        setup.stream,
        targets.join(", "),
        change::fate(setup)
    )
}

async fn list(setup: &Setup, source: &Client, json: bool) -> Result<ExitCode, CommandError> {
    let slots = slot::list(source).await.map_err(|error| CommandError::at("slot list", error))?;
    let slots: Vec<SlotReport> = slots.into_iter().map(|slot| SlotReport::new(slot, setup)).collect();
    if json {
        output::json(&slots)?;
        return Ok(ExitCode::Success);
    }
    if slots.is_empty() {
        line(&format!("{} has no logical slots in this database.", source.peer()))?;
        return Ok(ExitCode::Success);
    }
    let header = ["slot", "plugin", "active pid", "confirmed", "wal", "keeps back", "may still grow"];
    line(&output::table(&header, &[2, 5, 6], slots.iter().map(SlotReport::row)))?;
    if slots.iter().any(|slot| slot.ours) {
        line("* the slot of this configuration")?;
    }
    Ok(ExitCode::Success)
}

fn report(done: &Done, json: bool) -> Result<ExitCode, CommandError> {
    if json {
        output::json(done)?;
    } else {
        done.notes.iter().chain(&done.done).try_for_each(|sentence| line(sentence))?;
        line(&done.next)?;
    }
    Ok(ExitCode::Success)
}

/// Asks, on a terminal, unless `--yes` says that the user has thought about it. What is to be known of the slot is said
/// in either case.
fn agree(flags: &SlotChange, standing: &Standing, what: &str, done: &mut Done) -> Result<(), CommandError> {
    if flags.yes {
        // A slot that a target knows is what one expects.
        if standing.known != Known::Yes {
            done.notes = standing.sentences();
        }
        return Ok(());
    }
    let failed = |source| CommandError::failed("cannot ask").because(source);
    let mut error = std::io::stderr();
    for sentence in standing.sentences() {
        writeln!(error, "{sentence}").map_err(failed)?;
    }
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::refused("this gives the slot up, and nobody can be asked", "Say --yes."));
    }
    write!(error, "{what} [y/N] ").and_then(|()| error.flush()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::failed("nothing was changed")),
    }
}
