//! One key at a time: completes it from the environment, reads what it means, checks its limits, and notes what is
//! wrong instead of stopping, so that all mistakes are reported at once.
//!
//! A key that the file leaves out is read from the defaults. After a problem a placeholder is returned; it never
//! reaches anybody, as `resolve` then returns the problems.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use toml::Spanned;

use super::file::{Text, Texts};
use super::interpolate::{Environment, interpolate};
use super::problem::{Problem, may_be_secret};
use super::render::{show_duration, show_size};
use super::secret::ConnectionString;

/// The least that a token must have, in bytes.
const TOKEN: usize = 16;

const VARIABLE_HELP: &str = "set it in walferry's environment, or write $$ for a plain $";

/// Reads keys and gathers problems.
pub(super) struct Reader<'a> {
    environment: Environment<'a>,
    /// Where relative paths start.
    directory: &'a Path,
    /// Everything found so far.
    pub problems: Vec<Problem>,
}

/// A key's text with its variables filled in.
pub(super) struct Found<'a> {
    /// The key and its place in the file.
    pub key: String,
    pub span: Range<usize>,
    /// As written; safe to show unless it may be a connection string.
    pub written: &'a str,
    /// With the variables' contents; not to be shown.
    pub value: String,
}

impl Found<'_> {
    /// How a message names the file that it is: a variable that is all of it may hold the file's content instead.
    fn file(&self, path: &Path) -> String {
        let variable = self.written.starts_with("${") && self.written.find('}') == Some(self.written.len() - 1);
        if variable { self.written.to_owned() } else { path.display().to_string() }
    }
}

impl<'a> Reader<'a> {
    pub fn new(environment: Environment<'a>, directory: &'a Path) -> Self {
        Self { environment, directory, problems: Vec::new() }
    }

    /// Notes a mistake.
    pub fn problem(&mut self, key: &str, span: Option<Range<usize>>, message: impl Display, help: impl Display) {
        let (message, help) = (message.to_string(), help.to_string());
        self.problems.push(Problem { key: key.to_owned(), span, message, help: (!help.is_empty()).then_some(help) });
    }

    /// The key's text where it is written, else the default's. `None` after a problem.
    pub fn text<'t>(&mut self, key: &str, written: &'t Text, default: &'t Text) -> Option<Found<'t>> {
        let text =
            written.as_ref().or(default.as_ref()).expect("a test reads config.example.toml, which has every key");
        self.fill(key, text)
    }

    /// A text with its variables filled in. `None` after a problem.
    pub fn fill<'t>(&mut self, key: &str, text: &'t Spanned<String>) -> Option<Found<'t>> {
        let written = text.get_ref();
        match interpolate(written, self.environment) {
            Ok(value) => Some(Found { key: key.to_owned(), span: text.span(), written, value }),
            Err(error) => {
                self.problem(key, Some(text.span()), error, VARIABLE_HELP);
                None
            }
        }
    }

    /// Notes that a text does not mean what it should.
    pub fn wrong(&mut self, found: &Found<'_>, what: &str, help: impl Display) {
        let shown = if may_be_secret(found.written) { "[hidden]" } else { found.written };
        self.problem(&found.key, Some(found.span.clone()), format_args!("\"{shown}\" {what}"), help);
    }

    /// A duration between the limits.
    pub fn duration(&mut self, key: &str, text: &Text, default: &Text, limits: RangeInclusive<Duration>) -> Duration {
        let Some(found) = self.text(key, text, default) else { return Duration::ZERO };
        match humantime::parse_duration(&found.value) {
            Ok(value) if limits.contains(&value) => return value,
            Ok(_) => {
                let (least, most) = (show_duration(*limits.start()), show_duration(*limits.end()));
                self.wrong(&found, "is out of range", format_args!("from \"{least}\" to \"{most}\""));
            }
            Err(_) => self.wrong(&found, "is not a duration", "write it as \"30s\", \"500ms\" or \"2m\""),
        }
        Duration::ZERO
    }

    /// A duration where "0s" means none.
    pub fn optional_duration(
        &mut self,
        key: &str,
        text: &Text,
        default: &Text,
        limits: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let found = self.text(key, text, default)?;
        match humantime::parse_duration(&found.value) {
            Ok(Duration::ZERO) => None,
            _ => Some(self.duration(key, text, default, limits)),
        }
    }

    /// A size in bytes between the limits.
    pub fn size(&mut self, key: &str, text: &Text, default: &Text, limits: RangeInclusive<u64>) -> u64 {
        let Some(found) = self.text(key, text, default) else { return 0 };
        match found.value.parse::<ByteSize>() {
            Ok(ByteSize(value)) if limits.contains(&value) => return value,
            Ok(_) => {
                let (least, most) = (show_size(*limits.start()), show_size(*limits.end()));
                self.wrong(&found, "is out of range", format_args!("from \"{least}\" to \"{most}\""));
            }
            Err(_) => self.wrong(&found, "is not a size", "write it as \"64MB\" or \"64MiB\""),
        }
        0
    }

    /// One of an enum's words.
    pub fn choice<T: DeserializeOwned>(&mut self, key: &str, text: &Text, default: &Text) -> Option<T> {
        let found = self.text(key, text, default)?;
        let words: StrDeserializer<'_, ValueError> = found.value.as_str().into_deserializer();
        match T::deserialize(words) {
            Ok(value) => Some(value),
            Err(error) => {
                let error = error.to_string();
                let help = error.split_once("expected ").map_or(error.as_str(), |(_, words)| words);
                self.wrong(&found, "is not a choice", format_args!("expected {}", help.replace('`', "\"")));
                None
            }
        }
    }

    /// Table patterns.
    pub fn tables(&mut self, key: &str, written: &Texts) -> Option<Vec<String>> {
        let list = written.as_ref()?;
        if list.get_ref().is_empty() {
            self.problem(
                key,
                Some(list.span()),
                "the list is empty",
                "name tables, or leave the key out for all of them",
            );
        }
        let mut patterns = Vec::new();
        for text in list.get_ref() {
            let Some(found) = self.fill(key, text) else { continue };
            let bare = found.value.strip_prefix('!').unwrap_or(&found.value);
            match bare.split_once('.') {
                Some((schema, table)) if !schema.is_empty() && !table.is_empty() => patterns.push(found.value),
                _ => self.wrong(&found, "is not a table", "write it as \"schema.table\", with * for any text"),
            }
        }
        Some(patterns)
    }

    /// The file with the token for commands, which must be there and hold one.
    pub fn token_file(&mut self, file: &Text) -> Option<PathBuf> {
        let (key, file) = ("http.token_file", file.as_ref()?);
        let found = self.fill(key, file)?;
        let path = self.directory.join(&found.value);
        let message = match std::fs::read_to_string(&path) {
            Err(error) => format!("cannot read {}: {error}", found.file(&path)),
            Ok(text) if text.trim().len() < TOKEN => format!("{} holds no token", found.file(&path)),
            Ok(_) => return Some(path),
        };
        let help = format!("at least {TOKEN} characters that nobody can guess: openssl rand -hex 32 > FILE");
        self.problem(key, Some(found.span), message, help);
        None
    }

    /// The connection string of `section`, from exactly one of its keys `url` and `url_file`.
    pub fn connection(
        &mut self,
        section: &str,
        header: Option<Range<usize>>,
        url: &Text,
        url_file: &Text,
    ) -> Option<ConnectionString> {
        let key = format!("{section}.url");
        match (url, url_file) {
            (Some(url), None) => {
                let found = self.fill(&key, url)?;
                if found.value.trim().is_empty() {
                    let help = "write a connection string, such as \"postgres://user@host/database\"";
                    self.problem(&key, Some(found.span), "is empty", help);
                    return None;
                }
                Some(ConnectionString::from(found.value))
            }
            (None, Some(file)) => {
                let key = format!("{section}.url_file");
                let found = self.fill(&key, file)?;
                if ["://", "password"].iter().any(|sign| found.value.contains(sign)) {
                    let help = "write it as url, or into a file that is named here";
                    self.problem(&key, Some(found.span), "is a connection string, not the name of a file", help);
                    return None;
                }
                let path = self.directory.join(&found.value);
                let read = ConnectionString::from_file(&path);
                read.inspect_err(|error| {
                    let message = format!("cannot read {}: {error}", found.file(&path));
                    self.problem(&key, Some(found.span), message, "the file must hold the connection string");
                })
                .ok()
            }
            (Some(_), Some(file)) => {
                self.problem(&key, Some(file.span()), "both url and url_file are there", "leave one of them out");
                None
            }
            (None, None) => {
                let help = "add url = \"${VARIABLE}\" or url_file = \"FILE\"";
                self.problem(&key, header, "is missing", help);
                None
            }
        }
    }
}
