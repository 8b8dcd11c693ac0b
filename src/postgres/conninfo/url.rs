//! The URL form of connection strings, `postgresql://[user[:password]@][host][:port][,…][/dbname][?keyword=value&…]`,
//! read as `conninfo_uri_parse_options` in fe-connect.c does, with one difference: an `@` or `=` that is not
//! percent-encoded is refused in hosts and in the database name, and a `?` in front of the `@` where query parameters
//! seem to begin. libpq takes them; but they nearly always belong to a password with an unencoded `@` or `/`, or to
//! parameters whose `?` is missing, and pieces of a password would then be looked up as a host and shown as a user or
//! database name.

use super::error::ConnInfoError;
use super::keyword;
use super::settings::{Origin, Settings};

/// What to do about most mistakes in URLs.
pub(super) const PASSWORD_HINT: &str = "In a URL, a password (or user, or database) with @ : / ? # & = [ ] or % in it \
    must be percent-encoded (@ is %40, : is %3A, / is %2F, % is %25); or put the password into PGPASSWORD or a \
    password file.";

/// The text after `postgresql://` or `postgres://`, if it is a URL.
pub(super) fn without_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Reads what [`without_scheme`] gave into settings.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    let (userinfo, rest) = match text.find(['@', '/']) {
        Some(at) if text[at..].starts_with('@') => (Some(&text[..at]), &text[at + 1..]),
        _ => (None, text),
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        if user.contains('?') || password.split_once('?').is_some_and(|(_, after)| after.contains('=')) {
            return Err(syntax("there is a ? before the @ that ends user and password"));
        }
        store_decoded(&mut settings, "user", user)?;
        store_decoded(&mut settings, "password", password)?;
    }
    let (hosts, ports, rest) = hosts(rest)?;
    store_decoded(&mut settings, "host", &hosts)?;
    store_decoded(&mut settings, "port", &ports)?;
    let (dbname, query) = match rest.strip_prefix('/') {
        Some(path) => path.split_once('?').unwrap_or((path, "")),
        None => ("", rest.strip_prefix('?').unwrap_or("")),
    };
    refuse_misplaced(dbname, "database name")?;
    store_decoded(&mut settings, "dbname", dbname)?;
    parameters(&mut settings, query)?;
    Ok(settings)
}

/// The lists of hosts and ports, still encoded and separated by commas, and the text after them.
fn hosts(text: &str) -> Result<(String, String, &str), ConnInfoError> {
    let (mut hosts, mut ports, mut rest) = (String::new(), String::new(), text);
    loop {
        let (host, after) = host(rest)?;
        hosts.push_str(host);
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            let (port, after) = until(after, &['/', '?', ',']);
            refuse_misplaced(port, "port")?;
            ports.push_str(port);
            rest = after;
        }
        let Some(after) = rest.strip_prefix(',') else { break };
        hosts.push(',');
        ports.push(',');
        rest = after;
    }
    // As in libpq, commas alone are a list too: of empty hosts, or of default ports.
    Ok((hosts, ports, rest))
}

/// One host and the text after it.
fn host(text: &str) -> Result<(&str, &str), ConnInfoError> {
    let Some(bracketed) = text.strip_prefix('[') else {
        let (host, rest) = until(text, &[':', '/', '?', ',']);
        refuse_misplaced(host, "host")?;
        return Ok((host, rest));
    };
    let Some((host, rest)) = bracketed.split_once(']') else {
        return Err(syntax("the [ before an IPv6 address has no matching ]"));
    };
    if host.is_empty() {
        return Err(syntax("the IPv6 address between [ and ] is empty"));
    }
    refuse_misplaced(host, "host")?;
    if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
        return Err(syntax("after the ] of an IPv6 address only : / ? or , may follow"));
    }
    Ok((host, rest))
}

fn until<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn refuse_misplaced(part: &str, what: &str) -> Result<(), ConnInfoError> {
    if part.contains('@') {
        return Err(syntax(format!("there is a second or misplaced @, in the place of the {what}")));
    }
    if part.contains('=') {
        return Err(syntax(format!(
            "there is a = in the place of the {what}: is the ? before the parameters missing?"
        )));
    }
    Ok(())
}

/// The query parameters.
fn parameters(settings: &mut Settings, query: &str) -> Result<(), ConnInfoError> {
    if query.is_empty() {
        return Ok(());
    }
    // As for libpq, one & may stand at the end.
    let query = query.strip_suffix('&').unwrap_or(query);
    let mut after_secret = false;
    for (index, parameter) in query.split('&').enumerate() {
        let number = index + 1;
        let Some((name, value)) = parameter.split_once('=') else {
            return Err(syntax(format!("query parameter {number} has no =")));
        };
        if value.contains('=') {
            return Err(syntax(format!("query parameter {number} has more than one =")));
        }
        let name = decode(name, "name of a query parameter")?;
        let label = keyword::find(&name).map_or("value of a query parameter", |keyword| keyword.name);
        let value = decode(value, label)?;
        // The JDBC driver's way to say it (`conninfo_uri_parse_params`).
        let (name, value) =
            if name == "ssl" && value == "true" { ("sslmode".into(), "require".into()) } else { (name, value) };
        if !settings.store(&name, value) {
            let meant = keyword::meant(&name);
            // An @ this late may be the end of a password with an unencoded @, / or ? in it, and this a piece.
            let hidden = after_secret || query.contains('@') || !keyword::is_word(&name);
            let keyword = (!hidden).then_some(name);
            return Err(ConnInfoError::UnknownKeyword { keyword, origin: Origin::Text, meant });
        }
        after_secret = name.ends_with("password");
    }
    Ok(())
}

/// Stores a part of the URL; an empty one says nothing.
fn store_decoded(settings: &mut Settings, keyword: &'static str, encoded: &str) -> Result<(), ConnInfoError> {
    if !encoded.is_empty() {
        settings.store(keyword, decode(encoded, keyword)?);
    }
    Ok(())
}

/// Replaces `%xx`, as strictly as `conninfo_uri_decode`.
fn decode(encoded: &str, what: &str) -> Result<String, ConnInfoError> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(syntax(format!("in {what}, a % is not followed by two hexadecimal digits")));
        };
        match u8::try_from(high * 16 + low) {
            Ok(0) | Err(_) => return Err(syntax(format!("in {what}, %00 is not allowed"))),
            Ok(byte) => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map_err(|_| syntax(format!("{what}, decoded, is not UTF-8")))
}

fn syntax(what: impl Into<String>) -> ConnInfoError {
    ConnInfoError::Syntax { what: what.into(), hint: PASSWORD_HINT }
}
