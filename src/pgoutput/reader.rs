//! The one place that reads bytes of a frame: every read is checked against what is left.
//!
//! In: a frame. Out: integers, strings, positions and shared slices, or the fault that says what is wrong with it.

use bytes::{Buf, Bytes};

use super::error::Fault;
use crate::change::PgTime;
use crate::lsn::Lsn;

/// A place in a frame. It only moves forward, and never past the end.
pub(super) struct Reader {
    /// Empty once [`Self::since`] has handed out its end.
    frame: Bytes,
    length: usize,
    at: usize,
}

impl Reader {
    pub(super) fn new(frame: Bytes) -> Self {
        Self { length: frame.len(), frame, at: 0 }
    }

    /// The length of the frame.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes still to be read.
    pub(super) fn remaining(&self) -> usize {
        self.length - self.at
    }

    /// What is still to be read.
    fn rest(&self) -> &[u8] {
        self.frame.get(self.at..).unwrap_or_default()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let array = *self.rest().first_chunk().ok_or(Fault::Truncated)?;
        self.at += N;
        Ok(array)
    }

    /// Passes over `length` bytes; answers where they start.
    pub(super) fn skip(&mut self, length: usize) -> Result<usize, Fault> {
        if length > self.remaining() {
            return Err(Fault::Truncated);
        }
        let start = self.at;
        self.at += length;
        Ok(start)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Fault> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn time(&mut self) -> Result<PgTime, Fault> {
        Ok(PgTime(i64::from_be_bytes(self.array()?)))
    }

    /// A position that may be unknown (0/0).
    pub(super) fn lsn(&mut self) -> Result<Option<Lsn>, Fault> {
        Ok(Lsn::known(u64::from_be_bytes(self.array()?)))
    }

    /// A position that has to be known.
    pub(super) fn known_lsn(&mut self, field: &'static str) -> Result<Lsn, Fault> {
        self.lsn()?.ok_or(Fault::UnknownPosition(field))
    }

    /// A transaction id; 0 is PostgreSQL's `InvalidTransactionId`.
    pub(super) fn xid(&mut self) -> Result<u32, Fault> {
        match self.u32()? {
            0 => Err(Fault::NoTransactionId),
            xid => Ok(xid),
        }
    }

    /// A byte of flags of which only `known` may be set: what an unknown one changes cannot be guessed.
    pub(super) fn flags(&mut self, known: u8) -> Result<u8, Fault> {
        let flags = self.u8()?;
        if flags & !known == 0 { Ok(flags) } else { Err(Fault::UnknownFlags(flags)) }
    }

    /// A string ended by a zero byte.
    pub(super) fn string(&mut self) -> Result<String, Fault> {
        let rest = self.rest();
        let length = rest.iter().position(|byte| *byte == 0).ok_or(Fault::Unterminated)?;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| Fault::NotUtf8)?.to_owned();
        self.at += length + 1;
        Ok(text)
    }

    /// The next `length` bytes, sharing the frame's memory.
    pub(super) fn share(&mut self, length: usize) -> Result<Bytes, Fault> {
        let start = self.skip(length)?;
        Ok(if length == 0 { Bytes::new() } else { self.frame.slice(start..self.at) })
    }

    /// What was read since `start`, sharing the frame's memory. Where the frame ends there, as with most rows, it is
    /// the frame itself: its memory's count of users, which other threads change too, is left alone.
    pub(super) fn since(&mut self, start: usize) -> Bytes {
        if self.at < self.length {
            return self.frame.slice(start..self.at);
        }
        let mut end = std::mem::take(&mut self.frame);
        end.advance(start.min(end.len()));
        end
    }

    /// A count of things of at least `each` bytes, refused when they cannot all be in the frame. So no reservation made
    /// for them exceeds a fixed multiple of the frame.
    pub(super) fn count(&self, count: u32, each: usize) -> Result<usize, Fault> {
        let count = count as usize;
        let fits = count.checked_mul(each).is_some_and(|needed| needed <= self.remaining());
        if fits { Ok(count) } else { Err(Fault::Truncated) }
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(Fault::Trailing(extra)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_past_the_end() {
        let frame = Bytes::from_static(&[0, 1, 2]);
        let mut reader = Reader::new(frame);
        assert_eq!(reader.u32(), Err(Fault::Truncated));
        assert_eq!(reader.u16(), Ok(1));
        assert_eq!(reader.share(usize::MAX), Err(Fault::Truncated));
        assert_eq!(reader.finish(), Err(Fault::Trailing(1)));
        assert_eq!(reader.share(1), Ok(Bytes::from_static(&[2])));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn what_was_read_is_shared_and_nothing_is_left_after_the_end() {
        let frame = Bytes::from_static(b"abcdef");
        let mut reader = Reader::new(frame);
        assert_eq!(reader.skip(3), Ok(0));
        assert_eq!(reader.since(1), Bytes::from_static(b"bc"));
        assert_eq!(reader.skip(3), Ok(3));
        assert_eq!(reader.since(2), Bytes::from_static(b"cdef"));
        assert_eq!((reader.remaining(), reader.finish()), (0, Ok(())));
        assert_eq!((reader.skip(0), reader.share(0)), (Ok(6), Ok(Bytes::new())));
        assert_eq!((reader.u8(), reader.string()), (Err(Fault::Truncated), Err(Fault::Unterminated)));
    }

    #[test]
    fn a_count_is_measured_before_memory_is_taken() {
        let frame = Bytes::from_static(&[0; 8]);
        let reader = Reader::new(frame);
        assert_eq!(reader.count(2, 4), Ok(2));
        assert_eq!(reader.count(3, 4), Err(Fault::Truncated));
        assert_eq!(reader.count(u32::MAX, usize::MAX), Err(Fault::Truncated));
    }

    #[test]
    fn a_string_ends_with_zero_and_is_utf8() {
        let read = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes)).string();
        assert_eq!(read(b"Gr\xc3\xb6\xc3\x9fe\0x"), Ok("Größe".to_owned()));
        assert_eq!(read(b"\0"), Ok(String::new()));
        assert_eq!(read(b"abc"), Err(Fault::Unterminated));
        assert_eq!(read(b"\xff\0"), Err(Fault::NotUtf8));
    }
}
