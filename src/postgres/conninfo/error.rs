//! What can be wrong with a connection string and the files it leads to. No message ever repeats a password, nor the
//! string itself: text that could be a piece of a badly quoted password is described by its place instead.

use std::path::PathBuf;

use super::settings::Origin;
use crate::error::{Judged, Verdict};

/// A connection string, `PG*` variable, service file or certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnInfoError {
    /// The string is neither a URL nor `key=value` pairs.
    #[error("the connection string cannot be read: {what}")]
    Syntax {
        /// What is wrong, and where.
        what: String,
        /// How to write it.
        hint: &'static str,
    },
    /// A keyword that does not exist.
    #[error("{}", unknown(keyword.as_deref(), *origin, *meant))]
    UnknownKeyword {
        /// As written; `None` when it may be a piece of a password.
        keyword: Option<String>,
        origin: Origin,
        /// The keyword that is close.
        meant: Option<&'static str>,
    },
    /// A value that its keyword does not take.
    #[error("{keyword} ({origin}) is {}, but must be {expected}", shown(value.as_deref()))]
    Invalid {
        keyword: &'static str,
        origin: Origin,
        /// As written; `None` when it may be a piece of a password.
        value: Option<String>,
        expected: &'static str,
    },
    /// Something libpq can do and walferry cannot, and that must not be ignored.
    #[error("{keyword} ({origin}) is not supported: {why}")]
    Unsupported { keyword: &'static str, origin: Origin, why: &'static str },
    /// Values that do not fit together.
    #[error("{what}")]
    Conflict { what: String, hint: &'static str },
    /// A file that was asked for cannot be read or used.
    #[error("{role} {} cannot be used: {why}", path.display())]
    File { role: &'static str, path: PathBuf, why: String, hint: String },
    /// No service file defines the service.
    #[error("service \"{service}\" is not defined in {}", paths(searched))]
    ServiceNotFound { service: String, searched: Vec<PathBuf> },
    /// A line of the service file cannot be read.
    #[error("service file {}, line {line}: {what}", path.display())]
    ServiceFile { path: PathBuf, line: usize, what: String },
    /// Nothing says who to connect as.
    #[error("no user is given, and the operating system has no name for the user walferry runs as")]
    NoUser,
}

fn unknown(keyword: Option<&str>, origin: Origin, meant: Option<&str>) -> String {
    let what = match keyword {
        Some(keyword) => format!("unknown keyword \"{keyword}\" ({origin})"),
        None => format!("unknown keyword ({origin}; not shown here as it may be part of a password)"),
    };
    meant.map_or_else(|| what.clone(), |meant| format!("{what}; did you mean {meant}?"))
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "not valid".to_owned(), |value| format!("\"{value}\""))
}

fn paths(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "any service file: there is none".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

impl Judged for ConnInfoError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Syntax { hint, .. } | Self::Conflict { hint, .. } => Verdict::halt(*hint),
            Self::UnknownKeyword { keyword: None, .. } => Verdict::halt(super::PASSWORD_HINT),
            Self::UnknownKeyword { meant: Some(meant), .. } => {
                Verdict::halt(format!("Write {meant}, or leave it out."))
            }
            Self::UnknownKeyword { .. } => {
                Verdict::halt("Leave it out; the PostgreSQL manual lists the keywords under \"Parameter Key Words\".")
            }
            Self::Invalid { keyword, origin, value: None, .. } if *origin == Origin::Text => {
                Verdict::halt(format!("Correct {keyword}. {}", super::PASSWORD_HINT))
            }
            Self::Invalid { keyword, origin, .. } => Verdict::halt(format!("Correct {keyword} in {origin}.")),
            Self::Unsupported { origin: Origin::Variable(variable), .. } => Verdict::halt(format!("Unset {variable}.")),
            Self::Unsupported { keyword, origin, .. } => Verdict::halt(format!("Remove {keyword} from {origin}.")),
            Self::File { hint, .. } => Verdict::halt(hint.clone()),
            Self::ServiceNotFound { service, .. } => Verdict::halt(format!(
                "Add a section [{service}] to ~/.pg_service.conf or the file PGSERVICEFILE names, or correct the name."
            )),
            Self::ServiceFile { path, line, .. } => Verdict::halt(format!(
                "Write keyword=value, without spaces around =, in {} line {line}.",
                path.display()
            )),
            Self::NoUser => Verdict::halt("Add a user to the connection string, or set PGUSER."),
        }
    }
}
