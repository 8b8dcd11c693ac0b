//! The fuzz targets' entries under random input, so that every run of the tests runs them: arbitrary bytes, bytes that
//! look like messages, and what real servers sent with bytes changed.

#[path = "fuzz/entry.rs"]
mod entry;

use proptest::prelude::*;

/// Frames as the entries take them, with lengths.
fn framed(frames: impl IntoIterator<Item = Vec<u8>>, session: u8) -> Vec<u8> {
    let mut data = vec![session];
    for mut frame in frames {
        frame.truncate(255);
        data.push(frame.len() as u8);
        data.extend(frame);
    }
    data
}

/// A frame that starts as a message does and goes on with small numbers, so that decoding gets far.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => 0u8..4, 2 => prop::sample::select(b"NKOntubdf".to_vec()), 1 => any::<u8>()];
    let tag = prop::sample::select(b"BMCORYIUDTSEcAbPpKrk".to_vec());
    (tag, prop::collection::vec(byte, 0..60)).prop_map(|(tag, mut rest)| {
        rest.insert(0, tag);
        rest
    })
}

/// The frames that PostgreSQL 15 sent for the scenario `plain`.
fn captured() -> Vec<Vec<u8>> {
    let text = include_str!("golden/pgoutput/15/plain.hex");
    let hex = text.lines().skip(1).filter_map(|line| line.split_once(' ')).map(|(_, hex)| hex);
    hex.map(|hex| {
        let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
    })
    .filter(|frame: &Vec<u8>| frame.len() < 256)
    .collect()
}

proptest! {
    #[test]
    fn arbitrary_bytes_break_no_promise(data in prop::collection::vec(any::<u8>(), 0..600)) {
        entry::decode(&data);
        entry::assemble(&data);
    }

    #[test]
    fn what_looks_like_messages_breaks_no_promise(
        frames in prop::collection::vec(likely(), 0..30), session: u8,
    ) {
        let data = framed(frames, session);
        entry::decode(&data);
        entry::assemble(&data);
    }

    #[test]
    fn a_real_session_with_bytes_changed_breaks_no_promise(
        changes in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index, u8)>(), 0..4),
        session: u8,
    ) {
        let mut frames = captured();
        for (frame, at, byte) in changes {
            let frame = frame.get_mut(&mut frames[..]);
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        let data = framed(frames, session);
        entry::decode(&data);
        entry::assemble(&data);
    }
}
