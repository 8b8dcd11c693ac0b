//! The `key = 'value'` form of connection strings, read exactly as `conninfo_parse` in fe-connect.c does.

use std::iter::Peekable;
use std::str::Chars;

use super::error::ConnInfoError;
use super::keyword;
use super::settings::{Origin, Settings, is_blank};

const FORM: &str = "Write keyword=value pairs separated by spaces, or a URL that starts with postgresql:// . A value \
    with spaces or a quote goes in single quotes, with \\' and \\\\ for a quote and a backslash.";

type Input<'a> = Peekable<Chars<'a>>;

/// Reads the pairs into settings.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    let mut input = text.chars().peekable();
    let mut previous: Option<&'static str> = None;
    loop {
        skip_blanks(&mut input);
        if input.peek().is_none() {
            return Ok(settings);
        }
        let name = name(&mut input);
        skip_blanks(&mut input);
        if input.next_if_eq(&'=').is_none() {
            return Err(missing_equals(previous));
        }
        skip_blanks(&mut input);
        let value = if input.next_if_eq(&'\'').is_some() { quoted(&mut input, &name)? } else { plain(&mut input) };
        if !settings.store(&name, value) {
            return Err(unknown(name, previous));
        }
        previous = keyword::find(&name).map(|keyword| keyword.name);
    }
}

fn skip_blanks(input: &mut Input<'_>) {
    while input.next_if(|c| is_blank(*c)).is_some() {}
}

fn name(input: &mut Input<'_>) -> String {
    let mut name = String::new();
    while let Some(c) = input.next_if(|c| *c != '=' && !is_blank(*c)) {
        name.push(c);
    }
    name
}

/// Up to the next blank; a backslash takes the following character as it is. A last lone backslash is dropped.
fn plain(input: &mut Input<'_>) -> String {
    let mut value = String::new();
    while let Some(c) = input.next_if(|c| !is_blank(*c)) {
        match c {
            '\\' => value.extend(input.next()),
            c => value.push(c),
        }
    }
    value
}

/// Up to the closing quote.
fn quoted(input: &mut Input<'_>, name: &str) -> Result<String, ConnInfoError> {
    let mut value = String::new();
    while let Some(c) = input.next() {
        match c {
            '\'' => return Ok(value),
            '\\' => value.extend(input.next()),
            c => value.push(c),
        }
    }
    let what = match keyword::find(name) {
        Some(keyword) => format!("the quote opened after {}= is never closed", keyword.name),
        None => "a quote is never closed".to_owned(),
    };
    Err(ConnInfoError::Syntax { what, hint: FORM })
}

/// The words at fault are not repeated: they may be the rest of a password with a blank in it.
fn missing_equals(previous: Option<&'static str>) -> ConnInfoError {
    let what = match previous {
        Some(keyword) => format!("after the value of {keyword} there is text without \"=\""),
        None => "it starts with text that is neither keyword=value nor postgresql://".to_owned(),
    };
    ConnInfoError::Syntax { what, hint: FORM }
}

/// A word after a password may be the rest of it, so only its likeness to a keyword is told.
fn unknown(name: String, previous: Option<&'static str>) -> ConnInfoError {
    let after_secret = previous.is_some_and(|keyword| keyword.ends_with("password"));
    let meant = keyword::meant(&name);
    ConnInfoError::UnknownKeyword {
        keyword: (keyword::is_word(&name) && !after_secret).then_some(name),
        origin: Origin::Text,
        meant,
    }
}
