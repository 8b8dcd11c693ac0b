//! The writing half: messages gather in a rope of small bytes and shared large values, and leave in vectored writes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Param;
use crate::postgres::PgError;
use crate::postgres::transport::LinkWriter;

/// Values from this size on are shared, smaller ones copied: a copy is cheaper than a slice of its own.
const SHARE: usize = 16 * 1024;
/// Slices handed to one write.
const SLICES: usize = 32;
/// What a server takes in one message (`PQ_LARGE_MESSAGE_LIMIT`, `MaxAllocSize` - 1); beyond it ends the connection.
const MESSAGE_LIMIT: u64 = 0x3fff_fffe;
/// Parameters of one Bind: a 16-bit count.
const PARAM_LIMIT: u64 = u16::MAX as u64;

/// The writing half of a connection. Nothing leaves before [`Self::flush`].
pub struct WireWriter {
    io: LinkWriter,
    /// What is finished, in order.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// What is still being written to.
    tail: BytesMut,
    /// Whether the stream below (TLS) may hold bytes back.
    unflushed: bool,
    params: Vec<Param>,
    peer: Arc<str>,
}

impl WireWriter {
    /// Writes to `io`; `peer` is for messages.
    pub fn new(io: impl AsyncWrite + Send + Sync + Unpin + 'static, peer: &str) -> Self {
        Self::over(Box::new(io), peer.into())
    }

    pub(super) fn over(io: LinkWriter, peer: Arc<str>) -> Self {
        let (queue, tail, params) = (VecDeque::new(), BytesMut::new(), Vec::new());
        Self { io, queue, queued: 0, tail, unflushed: false, params, peer }
    }

    /// Where `postgres_protocol::message::frontend` functions write to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends bytes; large ones are sent without being copied.
    pub fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.seal();
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// A Bind of the unnamed portal (text or binary parameters, text results) followed by Execute.
    ///
    /// # Errors
    /// [`PgError::TooLarge`] when a value or the message exceeds what its length field or the server can take: nothing
    /// is appended then. [`PgError::Usage`] when the statement's name holds a zero byte.
    pub fn bind_execute(
        &mut self,
        statement: &str,
        params: &mut dyn ExactSizeIterator<Item = Param>,
    ) -> Result<(), PgError> {
        let mut scratch = std::mem::take(&mut self.params);
        scratch.extend(params);
        let done = self.bind(statement, &mut scratch);
        scratch.clear();
        self.params = scratch;
        done
    }

    fn bind(&mut self, statement: &str, params: &mut Vec<Param>) -> Result<(), PgError> {
        if statement.contains('\0') {
            return Err(PgError::Usage { message: "a statement's name holds a zero byte".to_owned() });
        }
        let count = params.len() as u64;
        if count > PARAM_LIMIT {
            return Err(PgError::TooLarge {
                what: "the list of parameters (each counted as a byte)",
                bytes: count,
                limit: PARAM_LIMIT,
            });
        }
        let values: u64 = params.iter().map(|param| 4 + param.length()).sum();
        // Length, portal, statement, formats, values, result formats.
        let length = 4 + 1 + (statement.len() as u64 + 1) + (2 + 2 * count) + (2 + values) + 2;
        if length > MESSAGE_LIMIT {
            return Err(PgError::TooLarge { what: "a row's Bind message", bytes: length, limit: MESSAGE_LIMIT });
        }
        let tail = &mut self.tail;
        tail.put_u8(b'B');
        tail.put_u32(length as u32);
        tail.put_u8(0);
        tail.put_slice(statement.as_bytes());
        tail.put_u8(0);
        tail.put_u16(count as u16);
        for param in params.iter() {
            tail.put_u16(u16::from(matches!(param, Param::Binary(_))));
        }
        tail.put_u16(count as u16);
        for param in params.drain(..) {
            match param {
                Param::Null => self.tail.put_i32(-1),
                Param::Text(bytes) | Param::Binary(bytes) => {
                    self.tail.put_u32(bytes.len() as u32);
                    self.share(bytes);
                }
            }
        }
        self.tail.put_u16(0);
        // Execute: unnamed portal, all rows.
        self.tail.put_slice(&[b'E', 0, 0, 0, 9, 0, 0, 0, 0, 0]);
        Ok(())
    }

    /// A CopyData message.
    ///
    /// # Errors
    /// [`PgError::TooLarge`] when it exceeds what the server can take: nothing is appended then.
    pub fn copy_data(&mut self, data: Bytes) -> Result<(), PgError> {
        let length = data.len() as u64 + 4;
        if length > MESSAGE_LIMIT {
            return Err(PgError::TooLarge { what: "a row's COPY data", bytes: length, limit: MESSAGE_LIMIT });
        }
        self.tail.put_u8(b'd');
        self.tail.put_u32(length as u32);
        self.share(data);
        Ok(())
    }

    /// Bytes gathered and not yet handed to the stream, which (TLS) may hold some back: see [`Self::is_unsent`].
    pub fn pending(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Whether anything gathered may not have left yet, TLS's own buffer included.
    pub(super) fn is_unsent(&self) -> bool {
        self.pending() > 0 || self.unflushed
    }

    /// Sends everything gathered. Cancel-safe: what has not left stays gathered, in order.
    ///
    /// On its own it can deadlock with a server that waits for its answers to be read: large flights go through
    /// [`super::WireConnection::exchange`], or another task reads.
    pub async fn flush(&mut self) -> Result<(), PgError> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await.map_err(|error| PgError::io(&self.peer, error))
    }

    /// Says goodbye to the stream (TLS close_notify, FIN).
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.queue.push_back(self.tail.split().freeze());
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal();
        while self.queued > 0 {
            let count = if self.io.is_write_vectored() && self.queue.len() > 1 {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let filled =
                    self.queue.iter().zip(&mut slices).map(|(bytes, slice)| *slice = IoSlice::new(bytes)).count();
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..filled]))?
            } else {
                let Some(first) = self.queue.front() else { break };
                ready!(Pin::new(&mut self.io).poll_write(cx, first))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.queued -= count;
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.queue.pop_front();
        }
    }
}

impl Param {
    fn length(&self) -> u64 {
        match self {
            Param::Null => 0,
            Param::Text(bytes) | Param::Binary(bytes) => bytes.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::IsNull;
    use postgres_protocol::message::frontend;
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn sent(fill: impl FnOnce(&mut WireWriter)) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut writer = WireWriter::new(near, "test");
        fill(&mut writer);
        let pending = writer.pending();
        let receiving = tokio::spawn(async move {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).await.unwrap();
            bytes
        });
        writer.flush().await.unwrap();
        assert_eq!(writer.pending(), 0);
        drop(writer);
        let bytes = receiving.await.unwrap();
        assert_eq!(bytes.len(), pending);
        bytes
    }

    #[tokio::test]
    async fn bind_and_execute_are_what_the_library_writes() {
        let large = Bytes::from(vec![b'x'; 3 * SHARE]);
        let params =
            [Param::Null, Param::Text(Bytes::from_static(b"")), Param::Binary(large.clone()), Param::Text(large)];
        let ours = sent(|writer| writer.bind_execute("s1", &mut params.clone().into_iter()).unwrap()).await;
        let mut theirs = BytesMut::new();
        let value = |param: Param, buffer: &mut BytesMut| match param {
            Param::Null => Ok(IsNull::Yes),
            Param::Text(bytes) | Param::Binary(bytes) => {
                buffer.extend_from_slice(&bytes);
                Ok(IsNull::No)
            }
        };
        frontend::bind("", "s1", [0, 0, 1, 0], params, value, [], &mut theirs).ok().unwrap();
        frontend::execute("", 0, &mut theirs).unwrap();
        assert!(ours == theirs);
    }

    #[tokio::test]
    async fn the_order_of_copied_and_shared_bytes_is_kept() {
        let large = Bytes::from((0..100_000u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
        let bytes = sent(|writer| {
            writer.buffer().put_slice(b"before");
            writer.share(large.clone());
            writer.share(large.slice(..20_000));
            writer.buffer().put_slice(b"after");
        });
        assert!(bytes.await == [b"before", &large[..], &large[..20_000], b"after"].concat());
    }

    #[test]
    fn what_lengths_cannot_say_is_refused_and_nothing_is_appended() {
        let mut writer = WireWriter::new(tokio::io::sink(), "test");
        let half = Bytes::from(vec![0; 1 << 20]);
        let mut params = std::iter::repeat_n(Param::Text(half), 1024);
        let error = writer.bind_execute("s", &mut params).unwrap_err();
        assert!(matches!(error, PgError::TooLarge { bytes, .. } if bytes > MESSAGE_LIMIT));
        let error = writer.bind_execute("s", &mut std::iter::repeat_n(Param::Null, 65_536)).unwrap_err();
        assert!(matches!(error, PgError::TooLarge { .. }));
        assert_eq!(writer.pending(), 0);
        writer.bind_execute("s", &mut std::iter::repeat_n(Param::Null, 65_535)).unwrap();
    }
}
