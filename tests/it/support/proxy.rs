//! A TCP proxy between the daemon and a server: the network, as bad as a test wants it, changed while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster::Cluster;

/// What the network does, from now on, to every connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Carries everything.
    Pass,
    /// Carries everything, each chunk this much later.
    Latency(Duration),
    /// Carries nothing and keeps connections open; what is sent meanwhile arrives when the mode changes.
    Stall,
    /// Carries what the client sends, and holds the server's replies back.
    MuteServer,
    /// Drops the server's side of each connection, silently: the client is not told.
    HalfOpen,
    /// The same, and resets new ones: a server that is gone, behind something that speaks for it.
    Gone,
    /// Carries everything, one byte per write.
    SplitBytes,
    /// Carries this many bytes per second in each direction of each connection.
    Throttle(u64),
    /// Resets connections, and new ones too.
    Refuse,
}

/// See the module. Needs the runtime it was made on; dropping it resets every connection.
#[derive(Debug)]
pub struct Proxy {
    /// The port it listens on, on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
    mode: watch::Sender<(Mode, u64)>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    upstream: AtomicU16,
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

impl Proxy {
    /// A proxy in front of this server.
    pub async fn to(cluster: &Cluster) -> Self {
        Self::to_port(cluster.port).await
    }

    /// A proxy in front of this port of 127.0.0.1.
    pub async fn to_port(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("cannot listen");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared { upstream: upstream.into(), ..Shared::default() });
        let (mode, watched) = watch::channel((Mode::Pass, 0));
        let accepting = tokio::spawn(accept(listener, shared.clone(), watched));
        Self { port, shared, mode, accepting }
    }

    /// A URL through the proxy, as superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Changes what the network does.
    pub fn set(&self, mode: Mode) {
        self.mode.send_modify(|(current, _)| *current = mode);
    }

    /// Resets every connection there is. New ones fare as the mode says.
    pub fn cut(&self) {
        self.mode.send_modify(|(_, cuts)| *cuts += 1);
    }

    /// New connections go to another server: what a failover does to a name.
    pub fn set_upstream(&self, port: u16) {
        self.shared.upstream.store(port, Ordering::Relaxed);
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes carried so far from clients to the server.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::Relaxed)
    }

    /// Bytes carried so far from the server to clients.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Connections end when `mode`, the sender, goes.
        self.accepting.abort();
    }
}

type Watched = watch::Receiver<(Mode, u64)>;

async fn accept(listener: TcpListener, shared: Arc<Shared>, mode: Watched) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connection(client, shared.clone(), mode.clone()));
    }
}

/// Carries one connection until an end closes it, a reset is asked for, or the proxy is dropped.
async fn connection(mut client: TcpStream, shared: Arc<Shared>, mut mode: Watched) {
    let (now, cuts) = *mode.borrow_and_update();
    if matches!(now, Mode::Refuse | Mode::Gone) {
        return reset(client);
    }
    let upstream = shared.upstream.load(Ordering::Relaxed);
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    // One-byte writes shall leave as such.
    client.set_nodelay(true).expect("cannot set TCP_NODELAY");
    server.set_nodelay(true).expect("cannot set TCP_NODELAY");
    let ending = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let held = |now: Mode| matches!(now, Mode::Stall | Mode::HalfOpen | Mode::Gone);
        let up = carry(client_read, server_write, mode.clone(), &shared.to_server, held);
        let held = |now: Mode| matches!(now, Mode::Stall | Mode::HalfOpen | Mode::Gone | Mode::MuteServer);
        let down = carry(server_read, client_write, mode.clone(), &shared.to_client, held);
        let is_ending =
            |&(now, all): &(Mode, u64)| all != cuts || matches!(now, Mode::Refuse | Mode::HalfOpen | Mode::Gone);
        // Either direction's end ends both: the PostgreSQL protocol has no half-closed connections.
        tokio::select! {
            () = up => None,
            () = down => None,
            state = mode.wait_for(is_ending) => Some(state.map_or(Mode::Refuse, |state| state.0)),
        }
    };
    match ending {
        None => {}
        Some(Mode::HalfOpen | Mode::Gone) => {
            drop(server);
            // What is sent from now on soon has no room: a silent peer acknowledges nothing, this one takes nothing.
            let _ = socket2::SockRef::from(&client).set_recv_buffer_size(4096);
            // Silence, whatever the client does, until it is cut or the proxy is dropped.
            let _ = mode.wait_for(|&(now, all)| all != cuts || now == Mode::Refuse).await;
            reset(client);
        }
        Some(_) => {
            reset(client);
            reset(server);
        }
    }
}

/// Closes with a reset instead of an orderly end.
fn reset(socket: TcpStream) {
    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// Carries one direction until either end closes; while the mode holds it, nothing moves.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: Watched,
    carried: &AtomicU64,
    held: impl Fn(Mode) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let Ok(now) = mode.wait_for(|(now, _)| !held(*now)).await.map(|state| state.0) else { return };
        let chunk = &buffer[..length];
        let delivered = match now {
            Mode::SplitBytes => one_by_one(&mut to, chunk).await,
            Mode::Latency(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(chunk).await
            }
            Mode::Throttle(rate) => {
                tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate.max(1) as f64)).await;
                to.write_all(chunk).await
            }
            _ => to.write_all(chunk).await,
        };
        if delivered.is_err() {
            return;
        }
        carried.fetch_add(length as u64, Ordering::Relaxed);
    }
}

async fn one_by_one(to: &mut WriteHalf<'_>, chunk: &[u8]) -> std::io::Result<()> {
    for byte in chunk {
        to.write_all(std::slice::from_ref(byte)).await?;
        to.flush().await?;
    }
    Ok(())
}
