//! Names to addresses, addresses to sockets with their options set.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::Link;
use crate::postgres::ConnectOptions;
use crate::postgres::conninfo::{Host, HostAddress};

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A TCP address, and the host name to verify.
    Tcp { address: SocketAddr, name: String },
    /// A socket's path.
    Unix(PathBuf),
}

impl Address {
    /// Whether TLS can be spoken there: libpq never does on Unix sockets.
    pub(super) fn may_encrypt(&self) -> bool {
        matches!(self, Address::Tcp { .. })
    }
}

/// `host:port/dbname`, as messages name it; IPv6 addresses in brackets.
pub(super) fn label(host: &Host, dbname: &str) -> String {
    let port = host.port;
    match &host.address {
        HostAddress::Unix(directory) => format!("{}/.s.PGSQL.{port}/{dbname}", directory.display()),
        HostAddress::Tcp { name, hostaddr } => {
            let shown = match hostaddr {
                Some(address) if name.is_empty() => address.to_string(),
                _ => name.clone(),
            };
            if shown.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
                format!("[{shown}]:{port}/{dbname}")
            } else {
                format!("{shown}:{port}/{dbname}")
            }
        }
    }
}

/// All addresses of a host, in the resolver's order.
pub(super) async fn resolve(host: &Host) -> io::Result<Vec<Address>> {
    let (name, port) = match &host.address {
        HostAddress::Unix(directory) => {
            return Ok(vec![Address::Unix(directory.join(format!(".s.PGSQL.{}", host.port)))]);
        }
        HostAddress::Tcp { name, hostaddr: Some(address) } => {
            return Ok(vec![Address::Tcp { address: SocketAddr::new(*address, host.port), name: name.clone() }]);
        }
        HostAddress::Tcp { name, hostaddr: None } => (name, host.port),
    };
    let found = lookup_host((name.as_str(), port)).await?;
    let addresses: Vec<Address> = found.map(|address| Address::Tcp { address, name: name.clone() }).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// A plain stream with its socket options.
pub(super) async fn dial(address: &Address, options: &ConnectOptions) -> io::Result<Link> {
    match address {
        Address::Unix(path) => Ok(Link::Unix(UnixStream::connect(path).await?)),
        Address::Tcp { address, .. } => {
            let stream = TcpStream::connect(address).await?;
            prepare(&stream, options)?;
            Ok(Link::Tcp(stream))
        }
    }
}

/// `tcp_user_timeout` as the kernel has it, until it is taken off. It ends a connection also when the other end has
/// had no room for that long (`tcp_probe_timer` in Linux), though it says each time that it is there: a server that has
/// its hands full with what it was sent before. Whoever sends much ahead of the answers needs another way to find out.
pub(crate) struct UserTimeout(Option<Socket>);

impl UserTimeout {
    /// Of this connection, if it has one.
    pub(crate) fn of(link: &Link, options: &ConnectOptions) -> Self {
        let socket = link.tcp().filter(|_| options.user_timeout().is_some());
        Self(socket.and_then(|socket| socket.try_clone().ok()))
    }

    /// From now on the connection lives as long as the server acknowledges anything.
    pub(crate) fn take_off(self) {
        #[cfg(target_os = "linux")]
        if let Some(Err(error)) = self.0.map(|socket| socket.set_tcp_user_timeout(None)) {
            tracing::debug!(%error, "tcp_user_timeout cannot be taken off");
        }
    }
}

fn prepare(stream: &TcpStream, options: &ConnectOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if options.keepalives {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = options.keepalives_idle.filter(|idle| !idle.is_zero()) {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = options.keepalives_interval.filter(|interval| !interval.is_zero()) {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = options.keepalives_count.filter(|count| *count > 0) {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(timeout) = options.user_timeout() {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    Ok(())
}
