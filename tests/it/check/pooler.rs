//! What a connection pooler looks like to its clients: it serves by sessions of its own, and gives each client a key
//! for cancel requests that is of its own making.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::prelude::*;

/// See the module. Needs the runtime it was made on.
pub struct Pooler {
    upstream: u16,
    port: u16,
    accepting: JoinHandle<()>,
}

impl Pooler {
    /// One in front of this server.
    pub async fn to(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("cannot listen");
        let (upstream, port) = (cluster.port, listener.local_addr().unwrap().port());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream));
            }
        });
        Self { upstream, port, accepting }
    }

    /// The same connection string, through the pooler.
    pub fn through(&self, url: &str) -> String {
        format!("{}?sslmode=disable", url.replace(&format!(":{}/", self.upstream), &format!(":{}/", self.port)))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(mut client: TcpStream, upstream: u16) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let down = async {
        let (mut read, mut keyed) = (BytesMut::new(), false);
        while from_server.read_buf(&mut read).await.is_ok_and(|length| length > 0) {
            // Up to the key, message by message; after it, as it comes.
            while !keyed && read.len() >= 5 {
                let length = 1 + u32::from_be_bytes(read[1..5].try_into().unwrap()) as usize;
                if read.len() < length {
                    break;
                }
                let mut message = read.split_to(length);
                if message[0] == b'K' {
                    let process = (&message[5..9]).get_u32();
                    message[5..9].copy_from_slice(&(process ^ 0x0055_5555).to_be_bytes());
                    keyed = true;
                }
                if to_client.write_all(&message).await.is_err() {
                    return;
                }
            }
            if keyed && to_client.write_all_buf(&mut read).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}
