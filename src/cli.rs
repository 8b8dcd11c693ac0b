//! The command line: every subcommand and flag, and the exit codes. No behaviour: `main.rs` carries out what is parsed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// What the process answers to whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done; nothing to complain about.
    Success = 0,
    /// Something failed while running.
    Failure = 1,
    /// The command line or the configuration is wrong (clap uses the same number), or, for check, a server is.
    Usage = 2,
    /// Refused or halted: it would not be safe, or will not work, until somebody acts.
    Refused = 3,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Every exit code with what it means; `for COMMAND: ` introduces what it means for one command only.
pub const EXIT_CODES: [(ExitCode, &str); 4] = [
    (ExitCode::Success, "success; for check: nothing found that stops replication; for status: all is in step"),
    (
        ExitCode::Failure,
        "a failure while running (a server cannot be reached); for check: warnings, when strict; \
         for status: not all is in step",
    ),
    (
        ExitCode::Usage,
        "the command line or the configuration is wrong; for check: something was found that stops replication",
    ),
    (ExitCode::Refused, "refused or halted: somebody has to act first; the message says how"),
];

fn exit_codes() -> String {
    let line = |(code, meaning): &(ExitCode, &str)| format!("\n  {}  {meaning}", *code as u8);
    EXIT_CODES.iter().fold("Exit codes:".to_owned(), |text, code| text + &line(code))
}

/// Keeps PostgreSQL databases in step with a source PostgreSQL: copies once, then follows the WAL and applies every
/// committed transaction, in commit order, exactly once.
#[derive(Debug, Parser)]
#[command(name = "walferry", version, after_help = exit_codes())]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file [default: $WALFERRY_CONFIG, else walferry.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: copy what is not copied yet, then follow the source until told to stop
    ///
    /// SIGTERM and SIGINT commit what is queued and stop; SIGHUP reloads the configuration. A second daemon on the same
    /// stream waits and takes over when the first one goes.
    Run,
    /// Check both sides before replicating, and print what mends each finding
    ///
    /// Changes nothing: a publication that walferry would create is created in a transaction that is rolled back. Exits
    /// with 2 when a finding would stop replication, with 0 otherwise, or with 1 for warnings where --strict is given.
    Check(Check),
    /// Show the slot, each target's lag and state, the tables, conflicts and errors
    ///
    /// Asks the daemon, or the servers where none answers. Exits with 1 when something is not in step, with 3 when it
    /// is halted, or its slot of no use, until somebody acts.
    Status(Output),
    /// Show or manage the replication slot on the source
    #[command(subcommand)]
    Slot(SlotCommand),
    /// Print the resolved configuration, secrets hidden
    Config(ConfigFlags),
    /// Have the running daemon take over its changed configuration, as SIGHUP does
    ///
    /// Prints what became of each key. Needs http.token_file. A file that is wrong changes nothing.
    Reload(Output),
    /// Have the running daemon leave a target alone, or go on with it
    #[command(subcommand)]
    Target(TargetCommand),
    /// Show the tables, add or remove one, or have the running daemon copy one again or leave it alone
    ///
    /// The others are not disturbed: a table is copied beside the stream, which takes it over once it has caught up.
    #[command(subcommand)]
    Table(TableCommand),
    /// List, apply or drop the changes of rows that targets did not take (apply.on_error = "dead_letter")
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
    /// Have the running daemon log by another level until its configuration is read again
    ///
    /// Needs http.token_file.
    LogLevel(LogLevel),
    /// Replicate a live workload between throwaway local servers, kill the daemon, and compare row by row
    ///
    /// Needs PostgreSQL's server binaries on this machine and no configuration. Everything it starts and writes is in a
    /// temporary directory and gone at the end.
    Demo(Demo),
    /// Print a shell's completion script
    ///
    /// Packages install these scripts. Without one, have the shell read it when it starts: for bash, a line
    /// "source <(walferry completions bash)" in ~/.bashrc.
    Completions(Completions),
    /// Write the manual pages into a directory
    ///
    /// One page for each command, and walferry.toml(5) for the configuration. Packages install them; one is read with
    /// "man -l FILE".
    Man(ManualPages),
}

/// The subcommands of `slot`.
#[derive(Debug, Subcommand)]
pub enum SlotCommand {
    /// List the logical slots on the source, with what each keeps back
    List(Output),
    /// Create the publication and the slot; the next run copies the tables
    Create(Output),
    /// Drop the slot, so that the source no longer keeps WAL for this stream
    ///
    /// A slot that walferry cannot have made (physical, of another plugin or database, temporary) is left alone.
    Drop(SlotChange),
    /// Drop and create the slot anew, and mark the tables to be copied again
    ///
    /// The way back when the slot was lost or the source was restored. The next run empties the tables on the targets
    /// and copies them; with copy.mode = "merge" it brings them up to date in their place, and with
    /// copy.existing_rows = "merge" it keeps their rows, also those that the source has deleted meanwhile. A slot that
    /// walferry cannot have made (physical, of another plugin or database, temporary) is left alone.
    Reset(SlotChange),
}

/// The subcommands of `target`.
#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// Apply nothing more to a target, and leave it alone, until told to go on
    ///
    /// What was received for it already is applied first, where that takes no longer than apply.drain_timeout. The
    /// target remembers: a restart, or another daemon, leaves it alone as well. The source keeps its WAL meanwhile.
    /// Needs http.token_file.
    Pause(OneTarget),
    /// Go on with a paused target from where it is, or try one that has failed at once
    ///
    /// Needs http.token_file.
    Resume(OneTarget),
    /// Copy all tables of a target again, and go on from there
    ///
    /// The way back for one target that cannot go on from where it is: it was restored from a backup, or what it needs
    /// is gone from the source. Its tables are emptied first (but see copy.mode); the other targets are not
    /// disturbed. Needs http.token_file.
    Resync(OneTarget),
}

/// The subcommands of `table`.
#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// List each target's tables, with how far each is
    ///
    /// Asks the daemon, or the servers where none answers.
    List(Output),
    /// Add a table of the source to the publication; a running daemon copies and follows it within seconds
    ///
    /// The source's role has to own the table and the publication: where it does not, the statement for whoever does is
    /// printed. The table has to be on the targets already.
    Add(OneTable),
    /// Take a table out of the publication; its rows stay on the targets
    ///
    /// As for add, the source's role has to own the publication.
    Remove(OneTable),
    /// Copy tables again, beside the stream
    ///
    /// On the target they are emptied first (but see copy.mode). For tables that are quarantined, or differ from
    /// the source. Needs http.token_file.
    Resync(SomeTables),
    /// Leave the changes of tables out until told to go on
    ///
    /// Their rows on the target stay as they are. The target remembers: a restart, or another daemon, leaves them out
    /// as well. Needs http.token_file.
    Pause(SomeTables),
    /// Go on with tables that are paused or quarantined, by copying them again
    ///
    /// Needs http.token_file.
    Resume(SomeTables),
}

/// What `table add` and `table remove` are about.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct OneTable {
    /// The table, as schema.table; exactly as it is written in the catalogue
    #[arg(value_name = "TABLE")]
    pub name: String,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What `table resync`, `table pause` and `table resume` are about.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct SomeTables {
    /// Tables, as schema.table, or patterns as in the configuration
    #[arg(required = true, value_name = "TABLE")]
    pub tables: Vec<String>,
    /// On this target only [default: on every target]
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// The subcommands of `dead-letter`.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List the changes that lie in walferry.dead_letter of each target, by key and error
    List(DeadLetters),
    /// Apply changes to the target as it is now, in their order, and take them out
    ///
    /// Each in a transaction of its own, while the daemon waits. A change is applied only to the row that it has met:
    /// one that has been written, deleted or come since may be newer, and is left alone, and so is what waits behind an
    /// older change of the same row. Exits with 3 when any is left.
    Retry(RetryLetters),
    /// Take changes out without applying them
    Drop(DropLetters),
}

/// Which dead letters `list` shows.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DeadLetters {
    /// Which of them.
    #[command(flatten)]
    pub of: LettersOf,
    /// Print the rows' values, too
    #[arg(long)]
    pub values: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Of what dead letters are.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct LettersOf {
    /// Only those of this target
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// Only those of this table
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub table: Option<String>,
}

/// Which dead letters `retry` and `drop` are about.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ChosenLetters {
    /// Their numbers, as list shows them; with more than one target, say --target
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<i64>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// Which of them.
    #[command(flatten)]
    pub of: LettersOf,
}

/// Flags of `dead-letter retry`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RetryLetters {
    /// Which.
    #[command(flatten)]
    pub chosen: ChosenLetters,
    /// Apply them whatever their rows are now, over newer ones too
    #[arg(long)]
    pub force: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `dead-letter drop`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DropLetters {
    /// Which.
    #[command(flatten)]
    pub chosen: ChosenLetters,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What `target pause` and `target resume` are about.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct OneTarget {
    /// The target's name in the configuration
    pub name: String,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct ConfigFlags {
    /// Ask the running daemon what it would take over from its file, and what needs a restart
    #[arg(long)]
    pub diff: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// The argument of `log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct LogLevel {
    /// error, warn, info, debug, trace, or directives such as info,walferry::apply=debug
    pub level: String,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Check {
    /// Exit with 1 when there are warnings
    #[arg(long)]
    pub strict: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of the commands that give a slot up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct SlotChange {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Also when a daemon is using the slot: it is disconnected first
    #[arg(long)]
    pub force: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `demo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Demo {
    /// Leave the servers' directory in place at the end, and print where it is
    #[arg(long)]
    pub keep: bool,
    /// How long the workload runs, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub duration: u64,
    /// How many transactions the workload tries to commit in each second
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
}

/// What `completions` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Where `man` writes to.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ManualPages {
    /// The directory; it is made if it is not there
    pub directory: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_file_may_be_named_before_and_after_the_command() {
        for line in ["walferry -c x.toml run", "walferry run --config x.toml", "walferry slot list -c x.toml"] {
            assert_eq!(parse(line).config, Some(PathBuf::from("x.toml")), "{line}");
        }
        assert_eq!(parse("walferry run").config, None);
    }

    #[test]
    fn every_command_of_the_manual_is_there() {
        let Command::Check(check) = parse("walferry check --json").command else { panic!("no check") };
        assert!(check.output.json && !check.strict);
        assert!(matches!(parse("walferry status").command, Command::Status(Output { json: false })));
        assert!(matches!(parse("walferry config").command, Command::Config(_)));
        assert!(matches!(parse("walferry slot create").command, Command::Slot(SlotCommand::Create(_))));
        let Command::Slot(SlotCommand::Reset(reset)) = parse("walferry slot reset --yes --force --json").command else {
            panic!("not a reset")
        };
        assert!(reset.yes && reset.force && reset.output.json);
        let Command::Slot(SlotCommand::Drop(drop)) = parse("walferry slot drop").command else { panic!("not a drop") };
        assert!(!drop.yes && !drop.force);
        let Command::Target(TargetCommand::Pause(pause)) = parse("walferry target pause staging").command else {
            panic!("not a pause")
        };
        assert_eq!(pause.name, "staging");
        assert!(matches!(parse("walferry target resume x").command, Command::Target(TargetCommand::Resume(_))));
        let letters = |line: &str| match parse(line).command {
            Command::DeadLetter(command) => command,
            _ => panic!("{line}"),
        };
        let DeadLetterCommand::Retry(retry) = letters("walferry dead-letter retry 3 5 --target x --force") else {
            panic!("not a retry")
        };
        assert_eq!((&*retry.chosen.ids, retry.chosen.of.target.as_deref()), (&[3, 5][..], Some("x")));
        assert!(retry.force && !retry.chosen.all);
        let DeadLetterCommand::Drop(drop) = letters("walferry dead-letter drop --all -y") else { panic!("not a drop") };
        assert!(drop.yes && drop.chosen.all);
        assert!(matches!(letters("walferry dead-letter list --values"), DeadLetterCommand::List(list) if list.values));
        let resync = parse("walferry table resync public.a public.b* --target x").command;
        let Command::Table(TableCommand::Resync(resync)) = resync else { panic!("not a resync") };
        assert_eq!((resync.tables.len(), resync.target.as_deref()), (2, Some("x")));
        assert!(matches!(parse("walferry table list").command, Command::Table(TableCommand::List(_))));
        assert!(matches!(parse("walferry table add a.b").command, Command::Table(TableCommand::Add(_))));
        let Command::Demo(demo) = parse("walferry demo --keep --duration 5 --rate 10").command else {
            panic!("no demo")
        };
        assert_eq!(demo, Demo { keep: true, duration: 5, rate: 10 });
        let completions = parse("walferry completions zsh").command;
        assert!(matches!(completions, Command::Completions(Completions { shell: Shell::Zsh })));
        let Command::Man(pages) = parse("walferry man pages").command else { panic!("no pages") };
        assert_eq!(pages.directory, PathBuf::from("pages"));
    }

    #[test]
    fn a_wrong_command_line_is_a_usage_error() {
        for line in [
            "walferry",
            "walferry rum",
            "walferry run --fast",
            "walferry demo --duration 0",
            "walferry slot",
            "walferry dead-letter retry",
            "walferry dead-letter drop 3 --all",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Usage as i32, "{line}");
        }
    }

    #[test]
    fn the_help_says_what_the_exit_codes_mean() {
        let help = Cli::command().render_help().to_string();
        for code in [ExitCode::Success, ExitCode::Failure, ExitCode::Usage, ExitCode::Refused] {
            assert!(help.contains(&format!("\n  {}  ", code as u8)), "{help}");
        }
    }
}
