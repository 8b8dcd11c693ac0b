//! How a server is reached, as far as it decides how best to read from it.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Link;

/// A server that answers sooner is on this machine, or next to it.
const NEAR: Duration = Duration::from_micros(150);

/// The window of a narrowed connection, in bytes. (The kernel takes it twice, for its own overhead.) Over a way of
/// [`NEAR`] there and back it lets hundreds of megabytes pass in a second.
const NARROW: usize = 32 * 1024;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By a Unix socket, which holds some hundred messages, however small.
    Socket,
    /// By TCP, on this machine or next to it. What is sent arrives at once, each message as a segment by itself, which
    /// costs the sender more than the message does; unless the receiver has no room: then it gathers, and leaves as
    /// one.
    Near,
    /// By TCP, some way off. What is sent gathers while the network card is busy, and needs a wide window.
    Far,
}

impl Reach {
    /// Of a stream that took so long to connect: one round trip.
    pub(super) fn of(link: &Link, connecting: Duration) -> Self {
        let stream = match link {
            Link::Unix(_) => return Self::Socket,
            Link::Tcp(stream) => stream,
            Link::Tls(stream) => stream.get_ref().0,
        };
        if connecting < NEAR || is_same_host(stream).unwrap_or(false) { Self::Near } else { Self::Far }
    }
}

fn is_same_host(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.peer_addr()?.ip() == stream.local_addr()?.ip())
}

/// Keeps the window from growing, so that small messages gather at their sender (see [`Reach::Near`]), and it is no
/// further ahead of its reader than that. Where the system does not do it, nothing is lost but speed.
pub(crate) fn narrow(link: &Link) {
    if let Some(Err(error)) = link.tcp().map(|socket| socket.set_recv_buffer_size(NARROW)) {
        tracing::debug!(%error, "the receive buffer cannot be set");
    }
}
