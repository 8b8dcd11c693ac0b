//! `host`, `hostaddr` and `port`, each a comma-separated list, become the hosts to try, each with its password from
//! the password file. Facts: `pqConnectOptions2` in fe-connect.c; PostgreSQL docs, "Specifying Multiple Hosts".

use std::net::IpAddr;
use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::environment::Environment;
use super::error::ConnInfoError;
use super::options::{Host, HostAddress};
use super::passfile::{PassFile, Wanted};
use super::settings::Settings;

const DEFAULT_PORT: &str = "5432";

/// The hosts, in the order they are written.
pub(super) fn resolve(
    settings: &Settings,
    environment: &Environment,
    dbname: &str,
    user: &str,
) -> Result<Vec<Host>, ConnInfoError> {
    let names = list(settings, "host");
    let addresses = list(settings, "hostaddr");
    let count = addresses.len().max(if addresses.is_empty() { names.len().max(1) } else { 1 });
    if !names.is_empty() && names.len() != count {
        return Err(ConnInfoError::Conflict {
            what: format!("there are {} values of host but {count} of hostaddr", names.len()),
            hint: "Give as many hostaddr values as host values; an empty one means the host is looked up.",
        });
    }
    let ports = list(settings, "port");
    if ports.len() > 1 && ports.len() != count {
        return Err(ConnInfoError::Conflict {
            what: format!("there are {} values of port but {count} of host", ports.len()),
            hint: "Give one port for all hosts, or one for each.",
        });
    }
    let passfile = passfile(settings, environment);
    let at = |list: &[&str], index: usize| list.get(index).map_or(String::new(), |item| (*item).to_owned());
    (0..count)
        .map(|index| {
            let (name, address) = (at(&names, index), at(&addresses, index));
            let port = at(&ports, if ports.len() == 1 { 0 } else { index });
            let port = if port.is_empty() { DEFAULT_PORT } else { &port };
            let address = self::address(settings, environment, &name, &address)?;
            let wanted = Wanted { host: &lookup_name(&address, environment), port, dbname, user };
            let found = passfile.as_ref().and_then(|file| file.password(&wanted));
            let password = found.filter(|password| !password.expose_secret().is_empty());
            Ok(Host { address, port: number(settings, port)?, password })
        })
        .collect()
}

/// The items of a list; none when the keyword says nothing.
fn list<'a>(settings: &'a Settings, keyword: &'static str) -> Vec<&'a str> {
    settings.text(keyword).map(|text| text.split(',').collect()).unwrap_or_default()
}

fn address(
    settings: &Settings,
    environment: &Environment,
    name: &str,
    hostaddr: &str,
) -> Result<HostAddress, ConnInfoError> {
    if !hostaddr.is_empty() {
        let address: IpAddr = hostaddr.parse().map_err(|_| {
            settings
                .invalid("hostaddr", "numeric IP addresses, such as 192.0.2.1 or 2001:db8::1 (names belong in host)")
        })?;
        let name = if name.is_empty() { hostaddr } else { name };
        return Ok(HostAddress::Tcp { name: name.to_owned(), hostaddr: Some(address) });
    }
    match name.chars().next() {
        None => Ok(HostAddress::Unix(environment.socket_directory.clone())),
        Some('/') => Ok(HostAddress::Unix(PathBuf::from(name))),
        Some('@') => Err(settings.unsupported("host", "sockets in the abstract namespace (@…) cannot be used")),
        Some(_) => Ok(HostAddress::Tcp { name: name.to_owned(), hostaddr: None }),
    }
}

/// A port is not shown when it is wrong: in a URL it may be the start of a password with an unencoded `/`.
fn number(settings: &Settings, port: &str) -> Result<u16, ConnInfoError> {
    let number = port.trim_matches(super::settings::is_blank).parse::<u16>().ok().filter(|number| *number != 0);
    number.ok_or_else(|| settings.invalid_hidden("port", "a number from 1 to 65535, or one for each host"))
}

/// The file to look passwords up in, unless a password is given.
fn passfile(settings: &Settings, environment: &Environment) -> Option<PassFile> {
    if settings.text("password").is_some() {
        return None;
    }
    let path = settings.text("passfile").map(PathBuf::from).or_else(|| environment.in_home(".pgpass"))?;
    PassFile::open(&path)
}

/// How the password file names the host: as the string does, and `localhost` for the default socket directory.
fn lookup_name(address: &HostAddress, environment: &Environment) -> String {
    match address {
        HostAddress::Unix(directory) if *directory == environment.socket_directory => "localhost".to_owned(),
        HostAddress::Unix(directory) => directory.display().to_string(),
        HostAddress::Tcp { name, .. } => name.clone(),
    }
}
