//! What the fuzz targets run, and tests/totality.rs with random input: bytes in, a panic out if a promise is broken.

use bytes::{Buf, Bytes};
use walferry::change::{Change, Delivery};
use walferry::lsn::Lsn;
use walferry::pgoutput::{Decoder, Message, ProtocolVersion, Streaming};
use walferry::row::Row;
use walferry::transaction::Assembler;

/// One byte chooses the session, the rest are frames; each is decoded in turn.
/// Promises: no panic; what a row claims to keep alive is bounded by its frame.
pub fn decode(data: &[u8]) {
    let mut data = Bytes::copy_from_slice(data);
    let mut decoder = decoder(&mut data);
    while let Some(frame) = frame(&mut data) {
        let length = frame.len();
        let Ok(message) = decoder.decode(frame) else { continue };
        let rows: [Option<&Row>; 2] = match &message {
            Message::Insert { new, .. } => [Some(new), None],
            Message::Update { old, new, .. } => [Some(new), old.as_ref().map(|old| old.row())],
            Message::Delete { old, .. } => [Some(old.row()), None],
            _ => [None, None],
        };
        // A column value is at least one byte of the frame and costs one cell, of 12 bytes.
        let memory: usize = rows.into_iter().flatten().map(Row::memory).sum();
        assert!(memory <= length * 13 + 2 * size_of::<Row>(), "{length} bytes became {memory}");
    }
}

/// As [`decode`], with everything decoded assembled, and with keepalives in between.
/// Promises: no panic; parts are numbered without holes, within their bound, and positions never go back.
pub fn assemble(data: &[u8]) {
    const PART_BYTES: usize = 400;
    let mut data = Bytes::copy_from_slice(data);
    let mut decoder = decoder(&mut data);
    let mut assembler = Assembler::new(PART_BYTES);
    let (mut out, mut index, mut position) = (Vec::new(), 0, Lsn::ZERO);
    while let Some(frame) = frame(&mut data) {
        if let Some(wal_end) = frame.get(1..9).filter(|_| frame.first() == Some(&b'k')) {
            out.extend(assembler.keepalive(Lsn::new(u64::from_be_bytes(wal_end.try_into().expect("8 bytes")))));
        } else if let Ok(message) = decoder.decode(frame)
            && assembler.push(message, Lsn::ZERO, &mut out).is_err()
        {
            return;
        }
        for delivery in out.drain(..) {
            match delivery {
                Delivery::Message(_) => {}
                Delivery::Quiet(end) => {
                    assert!(index == 0 && end.lsn() >= position, "quiet at {end} after {position}");
                    position = end.lsn();
                }
                Delivery::Part(part) => {
                    assert!(part.memory <= PART_BYTES || part.changes.len() <= 1);
                    assert_eq!(part.memory, part.changes.iter().map(Change::memory).sum::<usize>());
                    assert_eq!(part.index, index);
                    index += 1;
                    if let Some(commit) = part.commit {
                        assert!(commit.commit_lsn.lsn() >= position && commit.end_lsn.lsn() > commit.commit_lsn.lsn());
                        (index, position) = (0, commit.end_lsn.lsn());
                    }
                }
            }
        }
    }
}

/// The session that the first byte asks for.
fn decoder(data: &mut Bytes) -> Decoder {
    let choice = if data.has_remaining() { data.get_u8() } else { 0 };
    let version = match choice % 4 {
        0 => ProtocolVersion::V1,
        1 => ProtocolVersion::V2,
        2 => ProtocolVersion::V3,
        _ => ProtocolVersion::V4,
    };
    let streaming = match choice / 4 % 3 {
        0 => Streaming::Off,
        1 => Streaming::On,
        _ => Streaming::Parallel,
    };
    Decoder::new(version, streaming)
}

/// The next frame: a byte of length, then so many bytes, or what there is.
fn frame(data: &mut Bytes) -> Option<Bytes> {
    let length = data.has_remaining().then(|| data.get_u8())?;
    Some(data.split_to(data.len().min(length.into())))
}
