//! Asking for TLS (documentation: "Message Flow", "SSL Session Encryption").

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::attempts::{Encryption, Failure};
use super::{Address, Link, Opened, Reach};
use crate::postgres::ServerError;

/// The stream as this attempt wants it: plain, or encrypted after the server agreed.
pub(super) async fn encrypt(
    link: Link,
    address: &Address,
    reach: Reach,
    how: Encryption<'_>,
) -> Result<Opened, Failure> {
    let plain = |link| Opened { link, end_point: None, address: address.clone(), reach };
    let (tls, may_stay_plain, direct) = match how {
        Encryption::Plain => return Ok(plain(link)),
        Encryption::Tls { tls, may_stay_plain, direct } => (tls, may_stay_plain, direct),
    };
    let (Link::Tcp(mut stream), Address::Tcp { address: socket, name }) = (link, address) else {
        return Err(Failure::halt("TLS", "a Unix socket carries no TLS", "set sslmode=prefer or disable"));
    };
    if !direct && !request(&mut stream).await? {
        if may_stay_plain {
            return Ok(plain(Link::Tcp(stream)));
        }
        return Err(Failure::halt(
            "TLS",
            "the server does not support TLS, and sslmode demands it",
            "switch TLS on at the server (ssl = on), or set sslmode=prefer if the network can be trusted",
        ));
    }
    let encrypted = tls.handshake(stream, name, socket.ip()).await.map_err(Failure::tls)?;
    let link = Link::Tls(Box::new(encrypted.stream));
    Ok(Opened { link, end_point: encrypted.end_point, address: address.clone(), reach })
}

/// Sends the SSLRequest; whether the server agreed.
async fn request(stream: &mut TcpStream) -> Result<bool, Failure> {
    let mut message = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut message);
    stream.write_all(&message).await.map_err(|error| Failure::io("TLS", &error))?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await.map_err(|error| Failure::io("TLS", &error))?;
    match answer[0] {
        b'S' => {
            // Bytes that come before the handshake were stuffed in by somebody in between (CVE-2021-23222).
            let mut more = [0];
            match stream.try_read(&mut more) {
                Ok(count) if count > 0 => Err(Failure::halt(
                    "TLS",
                    "the server sent data in clear after it agreed to TLS",
                    "somebody may be tampering with the connection: check the network between",
                )),
                _ => Ok(true),
            }
        }
        b'N' => Ok(false),
        // The server could not even fork; the message is not authenticated, and servers before 7.0 are of no interest.
        b'E' => Err(early_error(stream).await),
        other => Err(Failure::halt(
            "TLS",
            format!("the answer to the TLS request is byte 0x{other:02x}, which is not PostgreSQL's"),
            "check host and port: something else answers there",
        )),
    }
}

/// An ErrorResponse in place of the answer, its tag already read.
async fn early_error(stream: &mut TcpStream) -> Failure {
    const LIMIT: u64 = 30_000;
    let mut text = Vec::new();
    if let Err(error) = stream.take(LIMIT).read_to_end(&mut text).await {
        return Failure::io("TLS", &error);
    }
    let error = ServerError::parse(text.get(4..).unwrap_or_default());
    Failure::retry("TLS", format!("the server refused: {error}"))
}
