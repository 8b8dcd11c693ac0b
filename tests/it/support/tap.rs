//! A proxy that reads along: it knows statements, answers, status updates and COPY data, and stops at the n-th.
//!
//! What makes crashes countable without anything in the product that helps: arm it, wait until it has stopped, kill.
//! It speaks no TLS: connection strings through it say `sslmode=disable`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::wait::within;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// A statement that starts so: executed by its prepared name, parsed without one, or as a simple query, alone or
    /// among others.
    Statement(&'static str),
    /// The end of a command, by its tag.
    Answer(&'static str),
    /// A standby status update.
    Status,
    /// A pgoutput message of this tag, from a walsender.
    Message(u8),
    /// COPY data that a client sends to a target, or a walsender's or a COPY's to the client.
    CopyData,
}

/// Where it stops, or what it does instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    /// The message is not passed on, nor anything after it.
    Before,
    /// The message is passed on.
    After,
    /// Nowhere: the message is passed on with this harm done to it, and so is everything after it.
    Spoilt(Harm),
}

/// What is done to a message in COPY data. Its frame's length stays true.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    /// The frame's tag is no message's.
    Frame,
    /// It is neither WAL data nor a keepalive.
    Kind,
    /// The tag of the message within is no pgoutput message's.
    Tag,
    /// Its last byte is missing.
    Short,
    /// A byte follows its last.
    Long,
}

/// Where pgoutput's message starts: after the frame's tag and length, `w`, two positions and a time.
const PAYLOAD: usize = 30;

impl Harm {
    fn done_to(self, message: &[u8]) -> Vec<u8> {
        let mut spoilt = message.to_vec();
        match self {
            Harm::Frame => spoilt[0] = b'?',
            Harm::Kind => spoilt[5] = b'?',
            Harm::Tag => spoilt[PAYLOAD] = 0,
            Harm::Short => spoilt.truncate(message.len() - 1),
            Harm::Long => spoilt.push(0),
        }
        let length = u32::try_from(spoilt.len() - 1).expect("a message is shorter than 4 GiB");
        spoilt[1..5].copy_from_slice(&length.to_be_bytes());
        spoilt
    }
}

/// See the module. Needs the runtime it was made on.
#[derive(Debug)]
pub struct Tap {
    /// The port it listens on, on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    armed: Mutex<Option<Armed>>,
    fired: AtomicBool,
    firing: Notify,
}

#[derive(Debug)]
struct Armed {
    seen: Seen,
    moment: Moment,
    left: u64,
    count: u64,
}

impl Tap {
    /// A tap in front of this server.
    pub async fn to(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("cannot listen");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            upstream: cluster.port,
            armed: Mutex::default(),
            fired: AtomicBool::new(false),
            firing: Notify::new(),
        });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(connection(client, shared.clone()));
                }
            }
        });
        Self { port, shared, accepting }
    }

    /// The same connection string, through the tap. It must name the server's port.
    pub fn through(&self, url: &str) -> String {
        let port = format!(":{}/", self.shared.upstream);
        assert!(url.contains(&port), "{url} is not of this server");
        format!("{}?sslmode=disable", url.replace(&port, &format!(":{}/", self.port)))
    }

    /// Stops at the `nth` from now on.
    pub fn arm(&self, seen: Seen, nth: u64, moment: Moment) {
        self.shared.fired.store(false, Ordering::SeqCst);
        *self.shared.armed.lock().unwrap() = Some(Armed { seen, moment, left: nth, count: 0 });
    }

    /// Counts from now on and stops nowhere.
    pub fn count(&self, seen: Seen) {
        self.arm(seen, u64::MAX, Moment::After);
    }

    /// How many there were since it was armed.
    pub fn counted(&self) -> u64 {
        self.shared.armed.lock().unwrap().as_ref().map_or(0, |armed| armed.count)
    }

    /// Waits until it has stopped.
    pub async fn fired(&self, seconds: u64) {
        let fired = async {
            while !self.shared.fired.load(Ordering::SeqCst) {
                self.shared.firing.notified().await;
            }
        };
        let what = format!("{:?}", self.shared.armed.lock().unwrap());
        within(&what, super::wait::seconds(seconds), fired).await;
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Counts what a message is; where it is the awaited one, says so once.
    fn look(&self, message: &[u8], statement: Option<&[u8]>, from_client: bool) -> Option<Moment> {
        let mut armed = self.armed.lock().unwrap();
        let armed = armed.as_mut().filter(|armed| armed.left > 0 && is(armed.seen, message, statement, from_client))?;
        armed.left -= 1;
        armed.count += 1;
        (armed.left == 0).then_some(armed.moment)
    }

    fn fire(&self) {
        self.fired.store(true, Ordering::SeqCst);
        self.firing.notify_one();
    }
}

fn is(seen: Seen, message: &[u8], statement: Option<&[u8]>, from_client: bool) -> bool {
    let (tag, body) = (message[0], &message[5..]);
    match seen {
        Seen::Statement(start) => {
            let text = String::from_utf8_lossy(statement.unwrap_or_default());
            text.split("; ").any(|statement| statement.trim_start().starts_with(start))
        }
        Seen::Answer(start) => !from_client && tag == b'C' && body.starts_with(start.as_bytes()),
        Seen::Status => from_client && tag == b'd' && body.first() == Some(&b'r') && body.len() == 34,
        Seen::Message(of) => {
            !from_client && tag == b'd' && body.first() == Some(&b'w') && message.get(PAYLOAD) == Some(&of)
        }
        Seen::CopyData => tag == b'd',
    }
}

/// The prepared statements of a connection, by name.
#[derive(Debug, Default)]
struct Prepared(HashMap<Vec<u8>, Vec<u8>>);

impl Prepared {
    /// The statement that a client's message has executed.
    fn statement<'a>(&'a mut self, message: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, body) = (*message.first()?, message.get(5..)?);
        let mut strings = body.splitn(3, |byte| *byte == 0);
        match tag {
            b'Q' => Some(body),
            b'P' => match (strings.next()?, strings.next()?) {
                (b"", text) => Some(text),
                (name, text) => {
                    self.0.insert(name.to_vec(), text.to_vec());
                    None
                }
            },
            b'B' => {
                let _portal = strings.next()?;
                self.0.get(strings.next()?).map(Vec::as_slice)
            }
            _ => None,
        }
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", shared.upstream)).await else { return };
    client.set_nodelay(true).expect("cannot set TCP_NODELAY");
    server.set_nodelay(true).expect("cannot set TCP_NODELAY");
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    tokio::select! {
        () = carry(client_read, server_write, true, &shared) => {}
        () = carry(server_read, client_write, false, &shared) => {}
    }
}

/// Carries one direction message by message until either end closes; once stopped, swallows what comes.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, from_client: bool, shared: &Shared) {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let mut out = BytesMut::new();
    let mut prepared = Prepared::default();
    // The first message of a client has no tag.
    let mut tagged = !from_client;
    loop {
        let Ok(1..) = from.read_buf(&mut buffer).await else { return };
        let mut stopped = None;
        while let Some(length) = message_length(&buffer, tagged) {
            let message = &buffer[..length];
            let statement = if tagged && from_client { prepared.statement(message) } else { None };
            stopped = if tagged { shared.look(message, statement, from_client) } else { None };
            if stopped == Some(Moment::Before) {
                break;
            }
            tagged = true;
            if let Some(Moment::Spoilt(harm)) = stopped {
                stopped = None;
                out.extend_from_slice(&harm.done_to(&buffer[..length]));
                shared.fire();
            } else {
                out.extend_from_slice(&buffer[..length]);
            }
            buffer.advance(length);
            if stopped.is_some() {
                break;
            }
        }
        if to.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        if stopped.is_some() {
            shared.fire();
            while let Ok(1..) = from.read_buf(&mut buffer).await {
                buffer.clear();
            }
            return;
        }
    }
}

/// The length of the message the buffer starts with, if it is there as a whole.
fn message_length(buffer: &[u8], tagged: bool) -> Option<usize> {
    let start = usize::from(tagged);
    let length: [u8; 4] = buffer.get(start..start + 4)?.try_into().ok()?;
    let total = start + u32::from_be_bytes(length) as usize;
    (buffer.len() >= total).then_some(total)
}
