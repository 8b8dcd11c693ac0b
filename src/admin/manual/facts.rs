//! What the definitions of the command line do not say: the files, variables and signals that matter to a command.

use Commands::{Configured, Only};

use crate::cli::{EXIT_CODES, ExitCode};

/// Something with a name, and what it is to walferry.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    commands: Commands,
    /// A file, a variable, a signal.
    pub name: &'static str,
    /// In one or more sentences.
    pub meaning: &'static str,
}

/// The commands that a fact is about. The program's own page has all facts.
#[derive(Clone, Copy, Debug)]
enum Commands {
    /// Those that work for a configured stream.
    Configured,
    /// These.
    Only(&'static [&'static str]),
}

/// Commands that read no configuration.
const BY_THEMSELVES: &[&str] = &["completions", "demo", "man"];

const fn fact(commands: Commands, name: &'static str, meaning: &'static str) -> Fact {
    Fact { commands, name, meaning }
}

const FILES: &[Fact] = &[
    fact(Configured, "walferry.toml", "In the current directory: the configuration where none is named."),
    fact(
        Only(&["run"]),
        "/etc/walferry/NAME.toml",
        "The configuration of the service walferry@NAME. Readable to all, so without secrets.",
    ),
    fact(
        Only(&["run"]),
        "/etc/walferry/NAME.d/",
        "The secrets of that service, readable to root only: its configuration names the file FILE of this directory \
         as url_file = \"${CREDENTIALS_DIRECTORY}/secret_FILE\".",
    ),
    fact(Configured, "~/.pgpass", "Passwords for what connection strings name, as for every client of PostgreSQL."),
    fact(Configured, "~/.pg_service.conf", "What the service of a connection string stands for."),
    fact(
        Configured,
        "~/.postgresql/",
        "root.crt, postgresql.crt and postgresql.key: certificates and key for TLS where a connection string names no \
         others.",
    ),
    fact(
        Only(&[]),
        "/usr/share/doc/walferry/",
        "The README, which is the manual, and examples/config.example.toml with every key of the configuration. \
         This and the next are below /usr/local/share where walferry is installed there.",
    ),
    fact(
        Only(&[]),
        "/usr/share/walferry/",
        "Alerts for Prometheus, and the statements that prepare a source and a target.",
    ),
];

const ENVIRONMENT: &[Fact] = &[
    fact(Configured, "WALFERRY_CONFIG", "The configuration file, where --config names none."),
    fact(
        Configured,
        "PGHOST, PGPORT, PGUSER, PGPASSWORD, ...",
        "What connection strings leave open, as for every client of PostgreSQL. Any other variable counts where the \
         configuration names it, as ${VARIABLE}.",
    ),
    fact(
        Configured,
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "Root certificates in place of the operating system's, for sslrootcert=system.",
    ),
    fact(
        Only(&["run"]),
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "Set by a service manager that walferry run is to tell when it is ready, what it does, and that it gets on.",
    ),
    fact(Only(&["demo"]), "PATH", "Where walferry demo looks first for PostgreSQL's server programs."),
    fact(Only(&["demo"]), "TMPDIR", "Where walferry demo makes its temporary directory; /tmp without it."),
];

const SIGNALS: &[Fact] = &[
    fact(
        Only(&["run"]),
        "SIGTERM, SIGINT",
        "walferry run commits what is queued, for no longer than apply.drain_timeout, and stops.",
    ),
    fact(
        Only(&["run"]),
        "SIGHUP",
        "walferry run reads the configuration again and takes it over; the log names what needs a restart \
         (source.slot, http.listen, log.format). A file that is wrong changes nothing.",
    ),
    fact(
        Only(&["demo"]),
        "SIGINT, SIGTERM, SIGHUP",
        "walferry demo ends early: what it started is stopped and removed, and the exit status is 1.",
    ),
];

/// The sections of facts of a command's page; `command` is the word after `walferry`, `None` for the program itself.
pub fn sections(command: Option<&str>) -> Vec<(&'static str, Vec<Fact>)> {
    let of = |facts: &[Fact]| facts.iter().filter(|fact| fact.commands.holds(command)).copied().collect::<Vec<_>>();
    let sections = [("FILES", of(FILES)), ("ENVIRONMENT", of(ENVIRONMENT)), ("SIGNALS", of(SIGNALS))];
    sections.into_iter().filter(|(_, facts)| !facts.is_empty()).collect()
}

/// The exit codes that the command has, each with what it means for this command.
pub fn exit_codes(command: Option<&str>) -> Vec<(u8, String)> {
    // These are never refused.
    let refused = command.is_none_or(|command| !["completions", "config", "man"].contains(&command));
    let codes = EXIT_CODES.iter().filter(|(code, _)| refused || *code != ExitCode::Refused);
    codes.map(|(code, meaning)| (*code as u8, for_command(meaning, command))).collect()
}

/// Leaves out what the meaning says of other commands; the program's own page has all of it.
fn for_command(meaning: &str, command: Option<&str>) -> String {
    let Some(command) = command else { return meaning.to_owned() };
    let own = |clause| match str::strip_prefix(clause, "for ").and_then(|rest| rest.split_once(": ")) {
        Some((name, meaning)) => (name == command).then_some(meaning),
        None => Some(clause),
    };
    meaning.split("; ").filter_map(own).collect::<Vec<_>>().join("; ")
}

impl Commands {
    fn holds(self, command: Option<&str>) -> bool {
        let Some(command) = command else { return true };
        match self {
            Configured => !BY_THEMSELVES.contains(&command),
            Only(commands) => commands.contains(&command),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_that_facts_are_about_exists() {
        let command = Cli::command();
        let only = [FILES, ENVIRONMENT, SIGNALS].concat().into_iter().filter_map(|fact| match fact.commands {
            Only(commands) => Some(commands),
            Configured => None,
        });
        for name in only.flatten().chain(BY_THEMSELVES) {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_command_has_what_is_said_of_it_and_of_no_other() {
        let meaning = |command, at: usize| exit_codes(command)[at].1.clone();
        assert_eq!(meaning(Some("check"), 0), "success; nothing found that stops replication");
        assert_eq!(meaning(Some("run"), 0), "success");
        assert!(meaning(Some("status"), 1).ends_with("reached); not all is in step"));
        assert!(meaning(None, 0).contains("for status: all is in step"));
        assert_eq!(exit_codes(Some("slot")).last().unwrap().0, 3);
        assert_eq!(exit_codes(Some("config")).last().unwrap().0, 2);
        let titles = |command| sections(command).into_iter().map(|(title, _)| title).collect::<Vec<_>>();
        assert_eq!(titles(None), ["FILES", "ENVIRONMENT", "SIGNALS"]);
        assert_eq!(titles(Some("run")), ["FILES", "ENVIRONMENT", "SIGNALS"]);
        assert_eq!(titles(Some("check")), ["FILES", "ENVIRONMENT"]);
        assert_eq!(titles(Some("demo")), ["ENVIRONMENT", "SIGNALS"]);
        assert!(titles(Some("man")).is_empty());
    }
}
