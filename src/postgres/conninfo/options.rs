//! What a connection string comes down to: everything needed to open a connection. No `Debug` or `Display` here shows
//! a secret: passwords are `SecretString`s.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::renewal::Renewal;
use crate::postgres::tls::Certificates;

/// Everything needed to open a connection; made from a connection string, `PG*` variables, service and password file.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Tried in order; never empty.
    pub hosts: Vec<Host>,
    pub user: String,
    pub dbname: String,
    /// From the string, the service file or `PGPASSWORD`; else each host may have one from the password file.
    pub password: Option<SecretString>,
    pub tls: TlsOptions,
    pub target_session_attrs: TargetSessionAttrs,
    /// Random order of hosts (`load_balance_hosts=random`).
    pub load_balance_hosts: bool,
    pub channel_binding: ChannelBinding,
    /// Per attempt and host; `None`: no limit.
    pub connect_timeout: Option<Duration>,
    pub keepalives: bool,
    /// `None`: the operating system's default, as for the two below.
    pub keepalives_idle: Option<Duration>,
    pub keepalives_interval: Option<Duration>,
    pub keepalives_count: Option<u32>,
    /// How long what was sent may remain unacknowledged; `None`: as long as the operating system waits. It is the
    /// kernel's `TCP_USER_TIMEOUT` but for sessions whose server can be asked beside (`presence.rs`).
    pub tcp_user_timeout: Option<Duration>,
    /// The user's own `application_name`; walferry's is used when absent.
    pub application_name: Option<String>,
    /// Command line options for the server (`options=-c geqo=off`, Neon's `endpoint=...`).
    pub options: Option<String>,
    /// Whether a [`Client`](crate::postgres::Client)'s queries are of no other kind than is answered soon, so that one
    /// without an answer is given up. Not of a server whose commits may wait: for its disk, or for a standby.
    pub answers_soon: bool,
    /// Whence they are resolved anew for every connection, if they are ([`Self::renewing`]).
    pub renewal: Option<Renewal>,
}

/// One server to try.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: HostAddress,
    pub port: u16,
    /// From the password file for this host, when the string has none.
    pub password: Option<SecretString>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// A host name or address; with `hostaddr` the address is connected to and `name` is verified.
    Tcp { name: String, hostaddr: Option<std::net::IpAddr> },
    /// The directory of the socket `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCert {
    /// None is given and `~/.postgresql/root.crt` does not exist: over TCP never so with `verify-*`.
    Default,
    /// That file, given or the default one. As with libpq, it also makes `require` verify the chain.
    File(PathBuf),
    /// The operating system's roots; `verify-full` always.
    System,
}

/// The `ssl*` keywords. They say nothing about Unix sockets, where TLS is never used.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub root_cert: RootCert,
    /// Client certificate and key files (PEM); both or neither, both existing and the key readable by its owner only.
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub client_key_password: Option<SecretString>,
    /// `sslnegotiation=direct`; the mode is then at least `require`.
    pub direct: bool,
    /// Send the host name (SNI).
    pub sni: bool,
    /// What was seen of certificates; nothing to choose.
    pub certificates: Certificates,
}

impl ConnectOptions {
    /// How long what was sent may remain unacknowledged, if that is limited.
    pub(crate) fn user_timeout(&self) -> Option<Duration> {
        self.tcp_user_timeout.filter(|timeout| !timeout.is_zero())
    }

    /// `host:port[,…]/dbname as user`: for logs and errors, never a secret.
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        format!("{}/{} as {}", hosts.join(","), self.dbname, self.user)
    }
}

impl fmt::Display for Host {
    /// `host:port`, `[::1]:port` or `/socket/directory:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            HostAddress::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            HostAddress::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            HostAddress::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
        }
    }
}
