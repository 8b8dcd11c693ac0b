//! The values found so far, by keyword, each with where it comes from. Text, service file and environment go in, in
//! libpq's order of precedence (`conninfo_add_defaults` in fe-connect.c); `resolve.rs` takes them out.

use std::collections::BTreeMap;
use std::fmt;

use super::environment::Environment;
use super::error::ConnInfoError;
use super::keyword::{self, KEYWORDS, Treatment};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Text,
    Service,
    Variable(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("the connection string"),
            Self::Service => f.write_str("the service file"),
            Self::Variable(name) => write!(f, "the variable {name}"),
        }
    }
}

/// A value as written. No `Debug`: it may be a password.
pub(super) struct Value {
    pub text: String,
    pub origin: Origin,
}

/// The values by keyword. No `Debug`: it holds passwords.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<&'static str, Value>);

impl Settings {
    /// A pair from the connection string; a later one of the same keyword wins. False: there is no such keyword.
    pub fn store(&mut self, name: &str, value: String) -> bool {
        let (name, value) = deprecated(name, value);
        let Some(keyword) = keyword::find(name) else { return false };
        self.0.insert(keyword.name, Value { text: value, origin: Origin::Text });
        true
    }

    /// A pair from the service file: what is there already stays. False: there is no such keyword.
    pub fn store_from_service(&mut self, name: &str, value: String) -> bool {
        let Some(keyword) = keyword::find(name) else { return false };
        self.0.entry(keyword.name).or_insert(Value { text: value, origin: Origin::Service });
        true
    }

    /// Fills what is still missing from the environment.
    pub fn add_environment(&mut self, environment: &Environment) -> Result<(), ConnInfoError> {
        for keyword in KEYWORDS {
            let Some(variable) = keyword.variable else { continue };
            if self.0.contains_key(keyword.name) {
                continue;
            }
            if let Some(text) = environment.variable(keyword.name, variable)? {
                self.0.insert(keyword.name, Value { text, origin: Origin::Variable(variable) });
            }
        }
        // Deprecated since PostgreSQL 7.4 and still obeyed by libpq; to ignore it would be to connect without TLS.
        let required = environment.variable("sslmode", "PGREQUIRESSL")?.is_some_and(|value| value.starts_with('1'));
        if required {
            let value = Value { text: "require".to_owned(), origin: Origin::Variable("PGREQUIRESSL") };
            self.0.entry("sslmode").or_insert(value);
        }
        Ok(())
    }

    /// The value, empty or not.
    pub fn get(&self, name: &str) -> Option<&Value> {
        debug_assert!(keyword::find(name).is_some(), "{name} is not in the table");
        self.0.get(name)
    }

    /// The value, if it says anything: for most keywords empty means the default.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// Errors if a keyword that must not be ignored says anything.
    pub fn refuse_unsupported(&self) -> Result<(), ConnInfoError> {
        for keyword in KEYWORDS {
            if let (Treatment::Refused(why), Some(_)) = (keyword.treatment, self.text(keyword.name)) {
                return Err(self.unsupported(keyword.name, why));
            }
        }
        Ok(())
    }

    /// The error for a value that cannot be had here.
    pub fn unsupported(&self, keyword: &'static str, why: &'static str) -> ConnInfoError {
        ConnInfoError::Unsupported { keyword, origin: self.origin(keyword), why }
    }

    /// The error for a value that the keyword does not take.
    pub fn invalid(&self, keyword: &'static str, expected: &'static str) -> ConnInfoError {
        let value = self.get(keyword).map(|value| value.text.clone());
        ConnInfoError::Invalid { keyword, origin: self.origin(keyword), value, expected }
    }

    /// As [`Self::invalid`], for values that may be a piece of a password that was not percent-encoded.
    pub fn invalid_hidden(&self, keyword: &'static str, expected: &'static str) -> ConnInfoError {
        ConnInfoError::Invalid { keyword, origin: self.origin(keyword), value: None, expected }
    }

    fn origin(&self, keyword: &str) -> Origin {
        self.get(keyword).map_or(Origin::Text, |value| value.origin)
    }

    /// One of the listed words; absent: the default. Like libpq, an empty value is not the default but an error.
    pub fn choice<T: Copy>(
        &self,
        keyword: &'static str,
        choices: &[(&str, T)],
        default: T,
        expected: &'static str,
    ) -> Result<T, ConnInfoError> {
        let Some(value) = self.get(keyword) else { return Ok(default) };
        let choice = choices.iter().find(|(word, _)| *word == value.text);
        choice.map(|(_, choice)| *choice).ok_or_else(|| self.invalid(keyword, expected))
    }

    /// A whole number in C's `int`, blanks around it allowed (`pqParseIntParam`).
    pub fn integer(&self, keyword: &'static str) -> Result<Option<i32>, ConnInfoError> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        let number = value.text.trim_matches(is_blank).parse::<i32>();
        number.map(Some).map_err(|_| self.invalid(keyword, "a whole number"))
    }
}

/// C's `isspace` in the C locale, which decides what separates words in connection strings and service files.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// `requiressl` was replaced by `sslmode`; libpq still translates it (`conninfo_storeval`).
fn deprecated(name: &str, value: String) -> (&str, String) {
    match name {
        "requiressl" if value.starts_with('1') => ("sslmode", "require".to_owned()),
        "requiressl" => ("sslmode", "prefer".to_owned()),
        _ => (name, value),
    }
}
