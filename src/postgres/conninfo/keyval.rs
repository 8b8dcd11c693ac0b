//! The `key = 'value'` form of connection strings, read as `conninfo_parse` in fe-connect.c does, with one difference:
//! a `=` in a value without quotes is refused, except where one may well be (passwords and `options`). libpq takes it;
//! but it nearly always means that the blank before another pair is missing, and if that is the password's, the
//! password would be looked up and shown as a part of a host, user or database name.

use std::iter::Peekable;
use std::str::Chars;

use super::error::ConnInfoError;
use super::keyword;
use super::settings::{Origin, Settings, is_blank};

const FORM: &str = "Write keyword=value pairs separated by spaces, or a URL that starts with postgresql:// . A value \
    with spaces, a quote or = goes in single quotes, with \\' and \\\\ for a quote and a backslash.";

/// Keywords whose values have `=` in them.
const MAY_HOLD_EQUALS: [&str; 3] = ["options", "password", "sslpassword"];

type Input<'a> = Peekable<Chars<'a>>;

/// Reads the pairs into settings.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    let mut input = text.chars().peekable();
    let mut previous: Option<&'static str> = None;
    let mut may_be_secret = false;
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
        let value = match input.next_if_eq(&'\'') {
            Some(_) => quoted(&mut input, &name)?,
            None => unmixed(plain(&mut input), &name)?,
        };
        // A quote too many makes the password's pair a part of another value.
        let holds_password = name.ends_with("password") || value.contains("password");
        if !settings.store(&name, value) {
            return Err(unknown(name, previous.is_none(), may_be_secret));
        }
        may_be_secret = holds_password;
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

/// The value, if there is no other pair in it.
fn unmixed(value: String, name: &str) -> Result<String, ConnInfoError> {
    let Some(keyword) = keyword::find(name).filter(|keyword| !MAY_HOLD_EQUALS.contains(&keyword.name)) else {
        return Ok(value);
    };
    if !value.contains('=') {
        return Ok(value);
    }
    let what = format!("there is a \"=\" in the value of {}: is the blank after it missing?", keyword.name);
    Err(ConnInfoError::Syntax { what, hint: FORM })
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

/// A word after a password may be the rest of it, and so may one that the string begins with, if its beginning is lost:
/// only the likeness to a keyword is told.
fn unknown(name: String, is_first: bool, may_be_secret: bool) -> ConnInfoError {
    let meant = keyword::meant(&name);
    let hidden = may_be_secret || (is_first && meant.is_none());
    ConnInfoError::UnknownKeyword {
        keyword: (keyword::is_word(&name) && !hidden).then_some(name),
        origin: Origin::Text,
        meant,
    }
}
