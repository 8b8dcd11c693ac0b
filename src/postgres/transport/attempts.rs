//! The order in which hosts, addresses and encryptions are tried, and what is said when none works.
//!
//! As libpq, but for hosts that have just not answered (`order.rs`): a server that cannot be reached or is not the
//! wanted kind gives way to the next one; a server that answers and refuses (password, database) ends the search.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};

use super::dial::{Address, dial, label, resolve};
use super::encrypt::encrypt;
use super::{Dialect, Link, Opened, Reach, Session, Target, order};
use crate::error::{Judged, Verdict};
use crate::postgres::conninfo::{Host, SslMode, TargetSessionAttrs};
use crate::postgres::tls::{Tls, TlsFailure};
use crate::postgres::{ConnectOptions, PgError};
use crate::sql::Sql;

/// How one attempt treats TLS.
#[derive(Clone, Copy)]
pub(super) enum Encryption<'a> {
    Plain,
    Tls { tls: &'a Tls, may_stay_plain: bool, direct: bool },
}

/// Why an attempt failed and whether another may fare better.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    verdict: Verdict,
    /// With or without TLS the answer may differ.
    other_encryption: bool,
    /// Another server may answer better.
    other_server: bool,
    /// This server has answered, with an error.
    answered: Option<Arc<str>>,
}

impl Failure {
    pub(super) fn halt(step: &str, why: impl std::fmt::Display, hint: &str) -> Self {
        Self { verdict: Verdict::halt(hint), ..Self::retry(step, why) }
    }

    pub(super) fn retry(step: &str, why: impl std::fmt::Display) -> Self {
        Self {
            message: format!("{step}: {why}"),
            verdict: Verdict::Retry,
            other_encryption: false,
            other_server: true,
            answered: None,
        }
    }

    pub(super) fn io(step: &str, error: &io::Error) -> Self {
        Self { other_encryption: step == "TLS", ..Self::retry(step, error) }
    }

    pub(super) fn tls(failure: TlsFailure) -> Self {
        let message = format!("TLS: {failure}");
        Self { message, verdict: failure.verdict, other_encryption: true, other_server: true, answered: None }
    }

    /// What start-up and authentication at this server came to.
    fn startup(error: &PgError, peer: &Arc<str>) -> Self {
        let verdict = error.verdict();
        let answered = None;
        match error {
            PgError::Server(server) => Self {
                message: format!("{}: {server}", step_of(&server.code)),
                verdict,
                // "no pg_hba.conf entry … no encryption" is 28000; a wrong password stays wrong in clear text.
                other_encryption: server.code == "28000",
                other_server: server.code == "57P03" || server.code == "53300",
                answered: Some(Arc::clone(peer)),
            },
            PgError::Connection { source, .. } => Self {
                message: format!("start-up: {}", lost(source)),
                verdict,
                other_encryption: true,
                other_server: true,
                answered,
            },
            // What answers there is no server: the next host may be one.
            PgError::Protocol { .. } => {
                Self { message: error.to_string(), verdict, other_encryption: false, other_server: true, answered }
            }
            other => {
                Self { message: other.to_string(), verdict, other_encryption: false, other_server: false, answered }
            }
        }
    }
}

fn lost(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => "the server closed the connection without a word".to_owned(),
        _ => source.to_string(),
    }
}

fn step_of(code: &str) -> &'static str {
    match code {
        "28P01" | "28000" => "authentication",
        "3D000" => "database",
        "42501" => "permission",
        _ => "start-up",
    }
}

/// Tries until a session fits.
///
/// # Errors
/// [`PgError::Connect`], where the options cannot be read anew, or with every attempt's reason; its verdict is Retry if
/// any of them may pass by itself.
pub(crate) async fn connect<D: Dialect>(options: &ConnectOptions, dialect: &D) -> Result<D::Session, PgError> {
    let renewed = options.renewed()?;
    let options = renewed.as_ref().unwrap_or(options);
    let tls = prepare_tls(options)?;
    let mut hosts: Vec<&Host> = options.hosts.iter().collect();
    if options.load_balance_hosts {
        shuffle(&mut hosts);
    }
    order::sort(&mut hosts);
    let wanted: &[TargetSessionAttrs] = match &options.target_session_attrs {
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        other => std::slice::from_ref(other),
    };
    let mut failures: Vec<(Arc<str>, Failure)> = Vec::new();
    'passes: for attrs in wanted {
        failures.clear();
        for host in &hosts {
            let peer: Arc<str> = label(host, &options.dbname).into();
            let password = options.password.as_ref().or(host.password.as_ref());
            let target = Target { options, peer: peer.clone(), password };
            let begun = Instant::now();
            let tried = try_host(&target, host, tls.as_ref(), *attrs, dialect, &mut failures).await;
            order::noted(
                host,
                tried.is_none() && options.connect_timeout.is_some_and(|limit| begun.elapsed() >= limit),
            );
            match tried {
                Some(session) => return Ok(session),
                None if failures.last().is_some_and(|(_, failure)| !failure.other_server) => break 'passes,
                None => {}
            }
        }
    }
    Err(summary(&failures))
}

fn prepare_tls(options: &ConnectOptions) -> Result<Option<Tls>, PgError> {
    let tcp =
        options.hosts.iter().any(|host| matches!(host.address, crate::postgres::conninfo::HostAddress::Tcp { .. }));
    if options.tls.mode == SslMode::Disable || !tcp {
        return Ok(None);
    }
    let refused = |failure: TlsFailure| PgError::no_session(format!("TLS: {failure}"), failure.verdict);
    if options.tls.direct && matches!(options.tls.mode, SslMode::Allow | SslMode::Prefer) {
        let message = "sslnegotiation=direct needs TLS, which the sslmode leaves open";
        return Err(PgError::no_session(message, Verdict::halt("set sslmode=require or stronger")));
    }
    Tls::prepare(&options.tls).map(Some).map_err(refused)
}

/// The encryptions to try on one address, in order.
fn encryptions<'a>(options: &ConnectOptions, address: &Address, tls: Option<&'a Tls>) -> Vec<Encryption<'a>> {
    let Some(tls) = tls.filter(|_| address.may_encrypt()) else { return vec![Encryption::Plain] };
    let with_tls = |may_stay_plain| Encryption::Tls { tls, may_stay_plain, direct: options.tls.direct };
    match options.tls.mode {
        SslMode::Disable => vec![Encryption::Plain],
        SslMode::Allow => vec![Encryption::Plain, with_tls(false)],
        SslMode::Prefer => vec![with_tls(true), Encryption::Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => vec![with_tls(false)],
    }
}

async fn try_host<D: Dialect>(
    target: &Target<'_>,
    host: &Host,
    tls: Option<&Tls>,
    attrs: TargetSessionAttrs,
    dialect: &D,
    failures: &mut Vec<(Arc<str>, Failure)>,
) -> Option<D::Session> {
    let resolving =
        within(target.options, "resolve", async { resolve(host).await.map_err(|error| unresolved(&error)) });
    let mut addresses = match resolving.await {
        Ok(addresses) => addresses,
        Err(failure) => {
            failures.push((target.peer.clone(), failure));
            return None;
        }
    };
    if target.options.load_balance_hosts {
        shuffle(&mut addresses);
    }
    for address in &addresses {
        for encryption in encryptions(target.options, address, tls) {
            let attempt = within(target.options, "connect", attempt(target, address, encryption, attrs, dialect));
            let failure = match attempt.await {
                Ok(session) => return Some(session),
                Err(failure) => failure,
            };
            let (again, next) = (failure.other_encryption, failure.other_server);
            failures.push((shown(&target.peer, address, addresses.len()), failure));
            if !again {
                if !next {
                    return None;
                }
                break;
            }
        }
        if failures.last().is_some_and(|(_, failure)| !failure.other_server) {
            return None;
        }
    }
    None
}

/// One connection, from the socket to the pinned session.
async fn attempt<D: Dialect>(
    target: &Target<'_>,
    address: &Address,
    encryption: Encryption<'_>,
    attrs: TargetSessionAttrs,
    dialect: &D,
) -> Result<D::Session, Failure> {
    let opened = open(target.options, address, encryption).await?;
    let mut session = dialect.start(opened, target).await.map_err(|error| Failure::startup(&error, &target.peer))?;
    check_attrs(&mut session, attrs, &target.peer).await?;
    Ok(session)
}

/// A stream as this attempt wants it.
async fn open(options: &ConnectOptions, address: &Address, encryption: Encryption<'_>) -> Result<Opened, Failure> {
    let begun = Instant::now();
    let link = dial(address, options).await.map_err(|error| unreachable(address, &error))?;
    let reach = Reach::of(&link, begun.elapsed());
    encrypt(link, address, reach, encryption).await
}

async fn check_attrs<S: Session>(session: &mut S, attrs: TargetSessionAttrs, peer: &Arc<str>) -> Result<(), Failure> {
    const IN_RECOVERY: Sql = Sql::new("SELECT pg_catalog.pg_is_in_recovery()");
    const READ_ONLY: Sql = Sql::new("SHOW transaction_read_only");
    let (question, wanted, word) = match attrs {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => return Ok(()),
        TargetSessionAttrs::ReadWrite => (READ_ONLY, false, "session is read-only"),
        TargetSessionAttrs::ReadOnly => (READ_ONLY, true, "session is not read-only"),
        TargetSessionAttrs::Primary => (IN_RECOVERY, false, "server is in hot standby mode"),
        TargetSessionAttrs::Standby => (IN_RECOVERY, true, "server is not in hot standby mode"),
    };
    let answer = session.ask(&question).await.map_err(|error| Failure::startup(&error, peer))?;
    let yes = matches!(answer.as_deref(), Some("on" | "t"));
    if yes == wanted { Ok(()) } else { Err(Failure::retry("target_session_attrs", word)) }
}

/// The attempt within `connect_timeout`.
async fn within<T>(
    options: &ConnectOptions,
    step: &str,
    attempt: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(limit) = options.connect_timeout else { return attempt.await };
    match tokio::time::timeout(limit, attempt).await {
        Ok(done) => done,
        Err(_) => Err(Failure::retry(
            step,
            format!("no session within connect_timeout ({} s): check host, port and firewalls", limit.as_secs()),
        )),
    }
}

fn unresolved(error: &io::Error) -> Failure {
    Failure::retry("resolve", format!("the host name cannot be resolved ({error}): check host and DNS"))
}

fn unreachable(address: &Address, error: &io::Error) -> Failure {
    let advice = match (error.kind(), address) {
        (io::ErrorKind::ConnectionRefused, Address::Tcp { .. }) => {
            ": is the server running, and listening there (listen_addresses, port)?"
        }
        (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Address::Unix(_)) => {
            ": is the server running, and is this its unix_socket_directories?"
        }
        (io::ErrorKind::PermissionDenied, Address::Unix(_)) => ": walferry's user may not use the socket",
        _ => "",
    };
    Failure::retry("connect", format!("{error}{advice}"))
}

/// The peer, with its address where a name has several.
fn shown(peer: &Arc<str>, address: &Address, count: usize) -> Arc<str> {
    match address {
        Address::Tcp { address, .. } if count > 1 => format!("{peer} ({})", address.ip()).into(),
        _ => peer.clone(),
    }
}

/// Every failure once; the last server's answer decides what to do when nothing may pass by itself.
fn summary(failures: &[(Arc<str>, Failure)]) -> PgError {
    let mut lines: Vec<String> = Vec::new();
    for (peer, failure) in failures {
        let line = if failure.message.starts_with(&**peer) {
            failure.message.clone()
        } else {
            format!("{peer}: {}", failure.message)
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let retry = failures.iter().any(|(_, failure)| failure.verdict == Verdict::Retry);
    // A server that answers and refuses ends the search: its verdict counts, whatever was unreachable before it.
    let last = failures.last().map(|(_, failure)| failure);
    let verdict = match last {
        Some(failure) if !failure.other_server => failure.verdict.clone(),
        _ if retry => Verdict::Retry,
        Some(failure) => failure.verdict.clone(),
        None => Verdict::halt("name at least one host"),
    };
    let answered = failures.iter().filter_map(|(_, failure)| failure.answered.clone()).collect();
    PgError::Connect { message: format!("cannot connect to {}", lines.join("; ")), verdict, answered }
}

/// One more stream to a server that is already known to work, for a cancel request.
pub(crate) async fn reopen(options: &ConnectOptions, address: &Address, peer: &str) -> Result<Link, PgError> {
    let tls = prepare_tls(options)?;
    let peer: Arc<str> = peer.into();
    let mut failures = Vec::new();
    for encryption in encryptions(options, address, tls.as_ref()) {
        match within(options, "connect", open(options, address, encryption)).await {
            Ok(opened) => return Ok(opened.link),
            Err(failure) => failures.push((peer.clone(), failure)),
        }
    }
    Err(summary(&failures))
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T]) {
    let random = SystemRandom::new();
    for last in (1..items.len()).rev() {
        let mut bytes = [0; 8];
        // Without randomness the configured order is as good as any.
        if random.fill(&mut bytes).is_err() {
            return;
        }
        items.swap(last, (u64::from_ne_bytes(bytes) % (last as u64 + 1)) as usize);
    }
}
