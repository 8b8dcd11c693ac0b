//! What is wrong with a configuration, shown with its place: file, line, caret, cause and way out.
//!
//! The line is shown as it stands in the file, unless it may hold a connection string or a token: then only its key is.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Judged, Verdict};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `apply.batch_bytes`; empty when the text could not be read so far.
    pub key: String,
    /// Where in the text, in bytes; `None` when something is missing.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read and does not say something usable.
    #[error("{report}")]
    Invalid {
        /// Everything found, in the order of the keys.
        problems: Vec<Problem>,
        /// The same for people.
        report: String,
    },
}

impl ConfigError {
    /// The problems of the text of the file `name`.
    pub(super) fn invalid(name: &str, text: &str, problems: Vec<Problem>) -> Self {
        let shown = problems.iter().map(|problem| Shown { name, text, problem }.to_string());
        let report = shown.collect::<Vec<_>>().join("\n\n");
        Self::Invalid { problems, report }
    }
}

impl Judged for ConfigError {
    fn verdict(&self) -> Verdict {
        match self {
            ConfigError::Read { .. } => Verdict::halt(
                "name the file with -c FILE or WALFERRY_CONFIG; without either, walferry.toml is read from the current \
                 directory. config.example.toml is a file to start from",
            ),
            ConfigError::Invalid { .. } => Verdict::halt("mend the file; config.example.toml explains every key"),
        }
    }
}

/// What toml says, as a problem; values that it quotes are left out, they may be secret.
pub(super) fn from_toml(error: &toml::de::Error) -> Problem {
    let message = error.message();
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (message, None),
    };
    let what = match what.split_once("string \"") {
        Some((before, _)) => format!("{before}text"),
        None => what.replace("unknown field", "unknown key"),
    };
    let what = if what.contains("://") { "not readable".to_owned() } else { what };
    Problem {
        key: String::new(),
        span: error.span(),
        message: what,
        help: expected.map(|expected| format!("expected {expected}")),
    }
}

/// A problem with the file and text that it is in.
struct Shown<'a> {
    name: &'a str,
    text: &'a str,
    problem: &'a Problem,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { key, span, message, help } = self.problem;
        let place = span.as_ref().map(|span| Place::of(self.text, span));
        f.write_str(self.name)?;
        if let Some(place) = &place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        if !key.is_empty() {
            write!(f, ": {key}")?;
        }
        write!(f, ": {message}")?;
        if let Some(place) = &place {
            let margin = " ".repeat(place.line.to_string().len());
            write!(f, "\n {margin} |\n {} | {}\n {margin} | {}", place.line, place.shown, place.carets)?;
            if let Some(help) = help {
                write!(f, "\n {margin} = {help}")?;
            }
        } else if let Some(help) = help {
            write!(f, "\n = {help}")?;
        }
        Ok(())
    }
}

/// A place in the text, counted from 1, and its line.
struct Place {
    line: usize,
    column: usize,
    shown: String,
    carets: String,
}

impl Place {
    fn of(text: &str, span: &Range<usize>) -> Self {
        let start = boundary(text, span.start);
        let end = boundary(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let full = text[line_start..line_end].trim_end();
        let column = text[line_start..start].chars().count();
        let width = text[start..end.min(line_end)].chars().count().max(1);
        let in_string = ["\"\"\"", "'''"].iter().any(|quotes| text[..line_start].matches(quotes).count() % 2 == 1);
        let (shown, carets) = match may_show(full) && !in_string {
            true => (full.to_owned(), format!("{}{}", " ".repeat(column), "^".repeat(width))),
            false => {
                let key = full.split('=').next().unwrap_or_default().trim_end();
                let bare = key.chars().all(|c| c.is_ascii_alphanumeric() || "_-. ".contains(c));
                let key = if bare && (key.ends_with("url") || key.contains("token")) { key } else { "" };
                (format!("{key} = [hidden]").trim_start_matches(" = ").to_owned(), "^".to_owned())
            }
        };
        // A tab counts as one column; drawn as one blank, the carets stand below what they mean.
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: column + 1,
            shown: shown.replace('\t', " "),
            carets,
        }
    }
}

/// The place itself, or the next one before it where a character starts.
fn boundary(text: &str, place: usize) -> usize {
    (0..=place.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

/// Whether a text may be, or hold, a connection string with its password.
pub(super) fn may_be_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["://", "password", "@"].iter().any(|sign| text.contains(sign))
}

/// Whether a line surely holds no connection string and no token: the former have a scheme or `key=value` pairs in one
/// value.
fn may_show(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let value = line.split_once('=').map_or("", |(_, value)| value).trim();
    let only_variable = value.strip_prefix("\"${").and_then(|rest| rest.strip_suffix("}\""));
    let plain_variable = only_variable.is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'));
    let section = line.trim_start().starts_with('[');
    let secret = may_be_secret(&line) || line.contains("url") || line.contains("token") || value.contains('=');
    plain_variable || !secret && (section || line.contains('=') || !line.contains(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, needle: &str) -> String {
        let start = text.find(needle).unwrap();
        let problem = Problem {
            key: "a.b".to_owned(),
            span: Some(start..start + needle.len()),
            message: "is bad".to_owned(),
            help: Some("make it good".to_owned()),
        };
        Shown { name: "walferry.toml", text, problem: &problem }.to_string()
    }

    #[test]
    fn a_problem_points_at_its_line() {
        let expected = "walferry.toml:2:5: a.b: is bad\n   |\n 2 | b = 5\n   |     ^\n   = make it good";
        assert_eq!(shown("[a]\nb = 5\n", "5"), expected);
    }

    #[test]
    fn lines_that_may_hold_a_connection_string_are_not_shown() {
        for line in [
            "url = \"postgres://u:hunter2@h\"",
            "url = \"hunter2",
            "  host=h password=pass=hunter2=",
            "url = \"\"\"\nhunter2=\n\"\"\"",
            "urk = \"host=h password=hunter2\"",
            "urk = \"host=h hunter2\"",
            "  host=h user=u hunter2\"\"\"",
            "source = { url = \"hunter2\" }",
            "token = \"hunter2\"",
            "hunter2\"\"\"",
            "'hunter2'",
        ] {
            let text = shown(line, "hunter2");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_place_is_counted_in_characters_and_may_be_the_end() {
        assert!(shown("ä = \"öü\" x", "x").starts_with("walferry.toml:1:10: "));
        let after = Problem { key: String::new(), span: Some(99..120), message: "ends".to_owned(), help: None };
        let text = Shown { name: "f", text: "ä = ö", problem: &after }.to_string();
        assert!(text.starts_with("f:1:6: ends\n"), "{text}");
    }

    #[test]
    fn a_variable_may_be_shown_and_so_may_a_section() {
        assert!(shown("url = \"${SOURCE_URL}\"", "SOURCE").contains("${SOURCE_URL}"));
        assert!(shown("[[target]]", "target").contains("[[target]]"));
    }
}
