//! From text to [`ConnectOptions`]: parse, add service file and environment, check, fill in defaults.

use std::time::Duration;

use super::environment::Environment;
use super::error::ConnInfoError;
use super::options::{ChannelBinding, ConnectOptions, Host, HostAddress, SslMode, TargetSessionAttrs};
use super::settings::Settings;
use super::{hosts, keyval, service, tls, url};

// libpq's own defaults suit somebody who sits and waits. A daemon must notice a dead peer by itself, sooner than the
// two hours of the operating system and than a server's wal_sender_timeout of a minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVES_COUNT: u32 = 3;

impl ConnectOptions {
    /// Reads a connection string, with what the process's environment, service file and password file add.
    ///
    /// # Errors
    /// When the string or what it leads to cannot be used. No error shows the string or a password.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        Self::resolve(text, &Environment::of_process())
    }

    /// As [`Self::parse`], in the given environment.
    pub fn resolve(text: &str, environment: &Environment) -> Result<Self, ConnInfoError> {
        if text.contains('\0') {
            return Err(ConnInfoError::Syntax { what: "it holds a NUL character".into(), hint: "Remove it." });
        }
        let mut settings = match url::without_scheme(text) {
            Some(rest) => url::parse(rest)?,
            None => keyval::parse(text)?,
        };
        service::add(&mut settings, environment)?;
        settings.add_environment(environment)?;
        settings.refuse_unsupported()?;
        options(&settings, environment)
    }
}

fn options(settings: &Settings, environment: &Environment) -> Result<ConnectOptions, ConnInfoError> {
    let owned = |keyword| settings.text(keyword).map(str::to_owned);
    let user = owned("user").or_else(|| environment.user.clone()).ok_or(ConnInfoError::NoUser)?;
    let dbname = owned("dbname").unwrap_or_else(|| user.clone());
    let hosts = hosts::resolve(settings, environment, &dbname, &user)?;
    let tls = tls::resolve(settings, environment, &hosts)?;
    check_unsupported_values(settings, &hosts)?;
    let count = settings.integer("keepalives_count")?;
    Ok(ConnectOptions {
        channel_binding: channel_binding(settings, tls.mode)?,
        target_session_attrs: target_session_attrs(settings)?,
        load_balance_hosts: load_balance_hosts(settings)?,
        connect_timeout: connect_timeout(settings)?,
        keepalives: settings.integer("keepalives")?.is_none_or(|value| value != 0),
        keepalives_idle: seconds(settings, "keepalives_idle", KEEPALIVES_IDLE)?,
        keepalives_interval: seconds(settings, "keepalives_interval", KEEPALIVES_INTERVAL)?,
        keepalives_count: count.map_or(Some(KEEPALIVES_COUNT), positive),
        tcp_user_timeout: tcp_user_timeout(settings)?,
        application_name: owned("application_name").or_else(|| owned("fallback_application_name")),
        options: owned("options"),
        answers_soon: false,
        renewal: None,
        password: settings.text("password").map(Into::into),
        hosts,
        user,
        dbname,
        tls,
    })
}

fn channel_binding(settings: &Settings, mode: SslMode) -> Result<ChannelBinding, ConnInfoError> {
    use ChannelBinding::{Disable, Prefer, Require};
    let choices = [("disable", Disable), ("prefer", Prefer), ("require", Require)];
    let binding = settings.choice("channel_binding", &choices, Prefer, "disable, prefer or require")?;
    if binding == Require && mode == SslMode::Disable {
        return Err(ConnInfoError::Conflict {
            what: "channel_binding=require cannot be met with sslmode=disable".to_owned(),
            hint: "Write sslmode=require or stricter: there is a channel to bind to only with TLS.",
        });
    }
    Ok(binding)
}

fn target_session_attrs(settings: &Settings) -> Result<TargetSessionAttrs, ConnInfoError> {
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    let choices = [
        ("any", Any),
        ("read-write", ReadWrite),
        ("read-only", ReadOnly),
        ("primary", Primary),
        ("standby", Standby),
        ("prefer-standby", PreferStandby),
    ];
    let expected = "any, read-write, read-only, primary, standby or prefer-standby";
    settings.choice("target_session_attrs", &choices, Any, expected)
}

fn load_balance_hosts(settings: &Settings) -> Result<bool, ConnInfoError> {
    settings.choice("load_balance_hosts", &[("disable", false), ("random", true)], false, "disable or random")
}

/// Zero and less: no limit. One second is raised to two (PostgreSQL docs, `connect_timeout`).
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, ConnInfoError> {
    let seconds = settings.integer("connect_timeout")?;
    Ok(seconds.map_or(Some(CONNECT_TIMEOUT), |n| positive(n).map(|n| Duration::from_secs(n.max(2).into()))))
}

/// Zero and less: the operating system's default.
fn seconds(settings: &Settings, keyword: &'static str, default: Duration) -> Result<Option<Duration>, ConnInfoError> {
    let seconds = settings.integer(keyword)?;
    Ok(seconds.map_or(Some(default), |n| positive(n).map(|n| Duration::from_secs(n.into()))))
}

/// None by default: with one, Linux ends idle connections by it and not by `keepalives_count`, and also those whose
/// peer is alive and reads nothing for that long (tcp(7)), as a target does that works on a long statement or waits for
/// a lock. What is sent and never acknowledged, the kernel gives up by itself (`tcp_retries2`).
fn tcp_user_timeout(settings: &Settings) -> Result<Option<Duration>, ConnInfoError> {
    let milliseconds = settings.integer("tcp_user_timeout")?;
    Ok(milliseconds.and_then(positive).map(|n| Duration::from_millis(n.into())))
}

fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

/// Keywords of which some values mean what is done anyway, and the others something that cannot be had.
fn check_unsupported_values(settings: &Settings, hosts: &[Host]) -> Result<(), ConnInfoError> {
    let gss = [("disable", true), ("prefer", true), ("require", false)];
    if !settings.choice("gssencmode", &gss, true, "disable, prefer or require")? {
        return Err(settings.unsupported("gssencmode", "GSSAPI is not supported; encrypt with TLS (sslmode)"));
    }
    let on_socket = hosts.iter().any(|host| matches!(host.address, HostAddress::Unix(_)));
    if on_socket && settings.text("requirepeer").is_some() {
        return Err(settings.unsupported("requirepeer", "the user who runs the server is not checked"));
    }
    let encoding = settings.text("client_encoding").unwrap_or("UTF8");
    let plain: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    if !["utf8", "unicode", "auto"].contains(&plain.to_ascii_lowercase().as_str()) {
        return Err(settings.unsupported("client_encoding", "all text travels as UTF8"));
    }
    if !["", "0", "no", "off", "false"].contains(&settings.text("replication").unwrap_or("")) {
        return Err(settings.unsupported("replication", "walferry opens replication connections where it needs them"));
    }
    match settings.text("min_protocol_version") {
        None | Some("3.0") => Ok(()),
        Some("3.2" | "latest") => Err(settings.unsupported("min_protocol_version", "protocol 3.0 is spoken")),
        Some(_) => Err(settings.invalid("min_protocol_version", "3.0, 3.2 or latest")),
    }
}
