//! The reading half: bytes in, frames out, shared and not copied.
//!
//! Reads are large (a walsender's cost per row falls when its client reads big), and frames are slices of what one read
//! brought. A frame larger than a chunk gets memory of exactly its size, once, and takes that memory with it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Frame;
use crate::postgres::presence::Presence;
use crate::postgres::transport::LinkReader;
use crate::postgres::{PgError, ServerError};

/// Bytes asked for in one read.
const CHUNK: usize = crate::row::READ;
/// A chunk with less room than this is left to the frames in it.
const MIN_READ: usize = 16 * 1024;
/// COPY data at hand in stretches of at least this size is shared instead of gathered.
const SHARE: usize = 16 * 1024;
/// Tag and length.
const HEADER: usize = 5;
/// By tag: whether a server sends such a message (documentation: "Message Formats").
const KNOWN: [bool; 256] = {
    let (tags, mut known, mut at) = (b"123ACDEGHIKNRSTVWZcdnstv", [false; 256], 0);
    while at < tags.len() {
        known[tags[at] as usize] = true;
        at += 1;
    }
    known
};
/// PostgreSQL builds no message beyond `MaxAllocSize` (1 GiB); a little more for what it is wrapped in.
pub(super) const FRAME_LIMIT: usize = (1 << 30) + (1 << 20);
/// Of start-up and authentication: nothing there is long (`fe-connect.c`, `MAX_ERRLEN`, is 30,000).
pub(super) const STARTUP_FRAME_LIMIT: usize = 64 * 1024;

/// The reading half of a connection. Notices and parameter changes are dealt with inside and never seen outside.
pub struct WireReader {
    io: LinkReader,
    buffer: BytesMut,
    frame_limit: usize,
    /// Bytes of the current CopyData message that are still to be handed on by [`Self::copy_piece`].
    copy_left: usize,
    parameters: HashMap<String, String>,
    peer: Arc<str>,
    presence: Option<Presence>,
}

/// What COPY TO STDOUT brings.
pub(super) enum CopyPiece {
    /// Data, cut anywhere.
    Data(Bytes),
    /// Any other message.
    Other(Frame),
}

impl WireReader {
    /// Reads from `io`; `peer` is for messages.
    pub fn new(io: impl AsyncRead + Send + Sync + Unpin + 'static, peer: &str) -> Self {
        Self::over(Box::new(io), peer.into())
    }

    pub(super) fn over(io: LinkReader, peer: Arc<str>) -> Self {
        let parameters = HashMap::new();
        Self { io, buffer: BytesMut::new(), frame_limit: FRAME_LIMIT, copy_left: 0, parameters, peer, presence: None }
    }

    /// What is waited for long, is not waited for once the server has no such session any more.
    pub(super) fn attend(&mut self, presence: Presence) {
        self.presence = Some(presence);
    }

    /// The largest frame accepted, in bytes with its header; a larger one is an error before memory is taken for it.
    pub fn set_frame_limit(&mut self, bytes: usize) {
        self.frame_limit = bytes.max(HEADER);
    }

    /// A setting the server reports (ParameterStatus): `server_version`, `in_hot_standby`, ...
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Who is at the other end: `host:port/dbname`.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The next frame; waits for it. Cancel-safe: a cancelled call loses nothing.
    ///
    /// # Errors
    /// [`PgError::Connection`] when the connection ends, [`PgError::Protocol`] when the bytes are no message. The
    /// connection is of no use afterwards.
    pub async fn frame(&mut self) -> Result<Frame, PgError> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(frame);
            }
            let wanted = self.header()?.map_or(0, |(_, total)| total);
            self.fill(wanted).await?;
        }
    }

    /// The next frame if it is already in memory.
    pub fn buffered_frame(&mut self) -> Result<Option<Frame>, PgError> {
        self.skip_copy();
        loop {
            let Some(frame) = self.take()? else { return Ok(None) };
            if let Some(frame) = self.absorb(frame)? {
                return Ok(Some(frame));
            }
            self.skip_copy();
        }
    }

    /// Parses a frame (anything but CopyBothResponse). The body is copied.
    pub fn parse(&self, frame: Frame) -> Result<backend::Message, PgError> {
        let mut whole = BytesMut::with_capacity(HEADER + frame.body.len());
        whole.extend_from_slice(&[frame.tag]);
        let length = u32::try_from(frame.body.len() + 4).map_err(|_| self.violation("a message longer than 4 GiB"))?;
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&frame.body);
        match backend::Message::parse(&mut whole) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.violation(format!("message '{}' ends early", frame.tag.escape_ascii()))),
            Err(error) => Err(self.violation(format!("message '{}': {error}", frame.tag.escape_ascii()))),
        }
    }

    /// An ErrorResponse frame as an error.
    pub fn server_error(&self, frame: Frame) -> PgError {
        PgError::Server(Box::new(ServerError::parse(&frame.body)))
    }

    /// Something that is not the protocol.
    pub(crate) fn violation(&self, message: impl Into<String>) -> PgError {
        PgError::protocol(&self.peer, message)
    }

    /// A message out of turn.
    pub(crate) fn unexpected(&self, frame: &Frame, during: &str) -> PgError {
        self.violation(format!("message '{}' in {during}", frame.tag.escape_ascii()))
    }

    /// The next stretch of COPY data, or the next message that is none. Cancel-safe, and never holds a whole message.
    pub(super) async fn copy_piece(&mut self) -> Result<CopyPiece, PgError> {
        loop {
            if let Some(data) = self.gather()? {
                return Ok(CopyPiece::Data(data));
            }
            let mut wanted = 0;
            if self.copy_left == 0 {
                if let Some(frame) = self.take()? {
                    match self.absorb(frame)? {
                        Some(frame) => return Ok(CopyPiece::Other(frame)),
                        None => continue,
                    }
                }
                wanted = self.header()?.map_or(0, |(_, total)| total);
            }
            self.fill(wanted).await?;
        }
    }

    /// What is in memory of COPY data: a large stretch as it is, small ones (mostly a row each) gathered.
    fn gather(&mut self) -> Result<Option<Bytes>, PgError> {
        let mut out = BytesMut::new();
        loop {
            if self.copy_left == 0 {
                let Some((b'd', total)) = self.header()? else { break };
                self.buffer.advance(HEADER);
                self.copy_left = total - HEADER;
            }
            let count = self.copy_left.min(self.buffer.len());
            if count >= SHARE && out.is_empty() {
                self.copy_left -= count;
                return Ok(Some(self.buffer.split_to(count).freeze()));
            }
            if count >= SHARE || count == 0 && self.copy_left > 0 {
                break;
            }
            if out.capacity() == 0 {
                out.reserve(self.buffer.len());
            }
            out.extend_from_slice(&self.buffer[..count]);
            self.buffer.advance(count);
            self.copy_left -= count;
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    /// Drops what is in memory of an abandoned CopyData message.
    fn skip_copy(&mut self) {
        let count = self.copy_left.min(self.buffer.len());
        self.buffer.advance(count);
        self.copy_left -= count;
    }

    /// Tag and total length (with header) of the frame the buffer starts with, once checked.
    fn header(&self) -> Result<Option<(u8, usize)>, PgError> {
        let Some((&[tag, a, b, c, d], _)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        if self.copy_left > 0 {
            return Ok(None);
        }
        if !KNOWN[usize::from(tag)] {
            return Err(self.violation(format!("unknown message '{}'", tag.escape_ascii())));
        }
        let length = u32::from_be_bytes([a, b, c, d]);
        if length < 4 {
            return Err(self.violation(format!("message '{}' says it has {length} bytes", tag.escape_ascii())));
        }
        let total = length as usize + 1;
        if total > self.frame_limit {
            let limit = self.frame_limit;
            return Err(self
                .violation(format!("message '{}' of {total} bytes exceeds the limit of {limit}", tag.escape_ascii())));
        }
        Ok(Some((tag, total)))
    }

    /// The first frame of the buffer, if it is whole.
    fn take(&mut self) -> Result<Option<Frame>, PgError> {
        let Some((tag, total)) = self.header()?.filter(|(_, total)| *total <= self.buffer.len()) else {
            return Ok(None);
        };
        let mut whole = self.buffer.split_to(total);
        whole.advance(HEADER);
        if total > CHUNK && self.buffer.is_empty() {
            // It had the buffer to itself: the memory goes with it.
            self.buffer = BytesMut::new();
        }
        Ok(Some(Frame { tag, body: whole.freeze() }))
    }

    /// Takes messages that may come at any time and answer nothing.
    fn absorb(&mut self, frame: Frame) -> Result<Option<Frame>, PgError> {
        match frame.tag {
            b'N' => {
                let notice = ServerError::parse(&frame.body);
                let ServerError { severity, code, .. } = &notice;
                tracing::debug!(peer = %self.peer, %severity, %code, "notice from the server");
            }
            b'S' => {
                let mut parts = frame.body.split(|byte| *byte == 0);
                let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
                    return Err(self.violation("a parameter status without a value"));
                };
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                // A server reports a dozen or two; whoever reports thousands wants the memory.
                if self.parameters.len() < 256 || self.parameters.contains_key(&text(name)) {
                    self.parameters.insert(text(name), text(value));
                }
            }
            // LISTEN is never used here.
            b'A' => {}
            _ => return Ok(Some(frame)),
        }
        Ok(None)
    }

    /// One read. `wanted` is the total length of the frame the buffer starts with, 0 when unknown or of no interest.
    async fn fill(&mut self, wanted: usize) -> Result<(), PgError> {
        self.make_room(wanted);
        let read = self.io.read_buf(&mut self.buffer);
        let count = match &self.presence {
            None => read.await,
            Some(presence) => tokio::select! {
                biased;
                count = read => count,
                error = presence.ended() => return Err(error),
            },
        };
        let count = count.map_err(|error| PgError::io(&self.peer, error))?;
        if count == 0 {
            let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
            return Err(PgError::io(&self.peer, closed));
        }
        Ok(())
    }

    fn make_room(&mut self, wanted: usize) {
        let length = self.buffer.len();
        if wanted > CHUNK {
            if self.buffer.capacity() < wanted {
                self.replace(wanted);
            }
            return;
        }
        // Memory whose frames are all gone is used again.
        if self.buffer.try_reclaim(CHUNK.saturating_sub(length).max(1)) {
            return;
        }
        let capacity = self.buffer.capacity();
        if capacity - length < MIN_READ || capacity < wanted {
            self.replace(CHUNK.max(length + MIN_READ));
        }
    }

    /// New memory of exactly this capacity: growing in place would take a multiple.
    fn replace(&mut self, capacity: usize) {
        let mut fresh = BytesMut::with_capacity(capacity);
        fresh.extend_from_slice(&self.buffer);
        self.buffer = fresh;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn feed(bytes: Vec<u8>, at_once: usize) -> WireReader {
        let (near, mut far) = tokio::io::duplex(at_once);
        tokio::spawn(async move { far.write_all(&bytes).await });
        WireReader::new(near, "test")
    }

    #[tokio::test]
    async fn frames_come_out_whole_however_the_bytes_arrive() {
        for at_once in [1, 3, 1000] {
            let bytes = [message(b'C', b"SELECT 1\0"), message(b'D', &[]), message(b'Z', b"I")].concat();
            let mut reader = feed(bytes, at_once);
            for (tag, body) in [(b'C', &b"SELECT 1\0"[..]), (b'D', b""), (b'Z', b"I")] {
                let frame = reader.frame().await.unwrap();
                assert_eq!((frame.tag, &frame.body[..]), (tag, body));
            }
            assert!(matches!(reader.frame().await, Err(PgError::Connection { .. })));
        }
    }

    #[tokio::test]
    async fn notices_and_parameters_are_kept_inside() {
        let bytes =
            [message(b'N', b"Mhi\0\0"), message(b'S', b"server_version\x0015.1\0"), message(b'Z', b"I")].concat();
        let mut reader = feed(bytes, 1000);
        assert_eq!(reader.frame().await.unwrap().tag, b'Z');
        assert_eq!(reader.parameter("server_version"), Some("15.1"));
    }

    #[tokio::test]
    async fn a_cancelled_wait_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut reader = WireReader::new(near, "test");
        for byte in message(b'C', b"hello\0") {
            tokio::select! { biased; _ = reader.frame() => panic!("too early"), () = std::future::ready(()) => {} }
            far.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(&reader.frame().await.unwrap().body[..], b"hello\0");
    }

    #[tokio::test]
    async fn a_large_frame_takes_its_size_once_and_leaves_nothing_behind() {
        let size = 5 * CHUNK + 7;
        let mut reader = feed([message(b'd', &vec![7; size]), message(b'Z', b"I")].concat(), 100_000);
        while reader.take().unwrap().is_none() {
            let wanted = reader.header().unwrap().map_or(0, |(_, total)| total);
            reader.fill(wanted).await.unwrap();
            assert!(reader.buffer.capacity() <= size + HEADER, "{} for {size}", reader.buffer.capacity());
            if reader.buffer.len() == size + HEADER {
                assert_eq!(reader.take().unwrap().unwrap().body.len(), size);
                break;
            }
        }
        assert_eq!(reader.buffer.capacity(), 0);
        assert_eq!(reader.frame().await.unwrap().tag, b'Z');
        assert!(reader.buffer.capacity() <= CHUNK);
    }

    #[tokio::test]
    async fn hostile_lengths_and_tags_are_named_before_memory_is_taken() {
        let cases: [(&[u8], &str); 4] = [
            (b"C\0\0\0\x03", "'C' says it has 3 bytes"),
            (b"D\xff\xff\xff\xff", "'D' of 4294967296 bytes exceeds"),
            (b"d\x7f\xff\xff\xff", "'d' of 2147483648 bytes exceeds"),
            (b"\x15\x03\x03\0\x02", "unknown message '\\x15'"),
        ];
        for (bytes, expected) in cases {
            let mut reader = feed(bytes.to_vec(), 100);
            let error = reader.frame().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(reader.buffer.capacity() <= CHUNK);
        }
    }

    #[tokio::test]
    async fn copy_data_flows_through_without_whole_messages() {
        let big = vec![1u8; 3 * CHUNK];
        let bytes = [
            message(b'd', b"ab"),
            message(b'd', b""),
            message(b'd', b"cd"),
            message(b'd', &big),
            message(b'd', b"z"),
            message(b'c', b""),
        ]
        .concat();
        for at_once in [7, 50_000, 10_000_000] {
            let mut reader = feed(bytes.clone(), at_once);
            let mut data = Vec::new();
            loop {
                match reader.copy_piece().await.unwrap() {
                    CopyPiece::Data(piece) => data.extend_from_slice(&piece),
                    CopyPiece::Other(frame) => break assert_eq!(frame.tag, b'c'),
                }
                assert!(reader.buffer.capacity() <= CHUNK);
            }
            assert!(data == [&b"abcd"[..], &big, b"z"].concat());
        }
    }

    /// Reads back bodies of these sizes, holding every frame whose flag is set to the end.
    async fn read_back(frames: &[(usize, bool)], at_once: usize) {
        let body = |at: usize, size: usize| vec![at as u8; size - HEADER];
        let bytes = frames.iter().enumerate().flat_map(|(at, (size, _))| message(b'd', &body(at, *size))).collect();
        let mut reader = feed(bytes, at_once);
        let mut held = Vec::new();
        for (at, (size, hold)) in frames.iter().enumerate() {
            let frame = reader.frame().await.unwrap();
            assert_eq!((frame.tag, frame.body.len()), (b'd', size - HEADER), "frame {at} of {frames:?}");
            if *hold {
                held.push((at, frame));
            } else {
                assert!(frame.body.iter().all(|byte| *byte == at as u8), "frame {at} of {frames:?}");
            }
        }
        for (at, frame) in held {
            assert!(frame.body.iter().all(|byte| *byte == at as u8), "frame {at} of {frames:?}");
        }
        assert!(matches!(reader.frame().await, Err(PgError::Connection { .. })));
    }

    #[tokio::test]
    async fn what_follows_a_frame_longer_than_a_chunk_in_the_same_memory_is_not_lost() {
        // The second straddles the chunk and leaves memory longer than one, in which the third and fourth arrive
        // together.
        read_back(&[(CHUNK - 4 * 1024, false), (254 * 1024, false), (260 * 1024, false), (100, false)], 1 << 20).await;
        read_back(&[(100, true), (250 * 1024, false), (260 * 1024, false), (100, false), (9, false)], 1 << 20).await;
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_around_the_size_of_a_chunk_come_out_whole(
            frames in proptest::collection::vec(
                (prop_oneof![HEADER..300, CHUNK - 40 * 1024..CHUNK + 40 * 1024], any::<bool>()), 1..10),
            at_once in prop_oneof![Just(1 << 20), 1000usize..CHUNK + MIN_READ],
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(read_back(&frames, at_once));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), copy: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut reader = feed(bytes, 64);
                loop {
                    let ended = if copy {
                        reader.copy_piece().await.is_err()
                    } else {
                        match reader.frame().await {
                            Ok(frame) => { let _ = reader.parse(frame); false }
                            Err(_) => true,
                        }
                    };
                    if ended { break }
                }
            });
        }
    }
}
