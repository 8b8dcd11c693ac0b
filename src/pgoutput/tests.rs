//! The decoder against an encoder written from the same table, against every truncation, and against arbitrary bytes.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::change::{self, Commit, PgTime};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Cell, Datum, OldRow, Row};

/// Writes messages as the server does.
#[derive(Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    fn u16(mut self, value: usize) -> Self {
        self.0.extend(u16::try_from(value).unwrap().to_be_bytes());
        self
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    fn lsn(mut self, value: Lsn) -> Self {
        self.0.extend(value.as_u64().to_be_bytes());
        self
    }
    fn time(mut self, value: PgTime) -> Self {
        self.0.extend(value.0.to_be_bytes());
        self
    }
    fn string(mut self, value: &str) -> Self {
        self.0.extend(value.as_bytes());
        self.u8(0)
    }
    fn bytes(mut self, value: &[u8]) -> Self {
        self = self.u32(u32::try_from(value.len()).unwrap());
        self.0.extend(value);
        self
    }
    fn tagged(self, tag: u8, xid: Option<u32>) -> Self {
        let tagged = self.u8(tag);
        if let Some(xid) = xid { tagged.u32(xid) } else { tagged }
    }
    fn row(self, tag: u8, row: &Row) -> Self {
        row.iter().fold(self.u8(tag).u16(row.len()), |encoder, datum| match datum {
            Datum::Null => encoder.u8(b'n'),
            Datum::Unchanged => encoder.u8(b'u'),
            Datum::Text(text) => encoder.u8(b't').bytes(text),
            Datum::Binary(binary) => encoder.u8(b'b').bytes(binary),
        })
    }
    fn old(self, old: &OldRow) -> Self {
        self.row(if matches!(old, OldRow::Key(_)) { b'K' } else { b'O' }, old.row())
    }
    fn commit(self, commit: &Commit) -> Self {
        self.u8(0).lsn(commit.commit_lsn.lsn()).lsn(commit.end_lsn.lsn()).time(commit.time)
    }
    fn prepared(self, prepared: &Prepared) -> Self {
        let Prepared { prepare_lsn, end_lsn, time, xid, gid } = prepared;
        self.lsn(*prepare_lsn).lsn(end_lsn.lsn()).time(*time).u32(*xid).string(gid)
    }
    fn relation(self, relation: &Relation) -> Self {
        let identity = match relation.identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        };
        let head = self.u32(relation.id.0).string(&relation.name.schema).string(&relation.name.name).u8(identity);
        relation.columns.iter().fold(head.u16(relation.columns.len()), |encoder, column| {
            let described = encoder.u8(column.is_key.into()).string(&column.name).u32(column.type_oid);
            described.u32(column.type_modifier.cast_unsigned())
        })
    }
}

fn encode(message: &Message) -> Bytes {
    let to = Encoder::default();
    let done = match message {
        Message::Begin { final_lsn, commit_time, xid } => to.u8(b'B').lsn(final_lsn.lsn()).time(*commit_time).u32(*xid),
        Message::Logical { xid, message: change::Message { lsn, transactional, prefix, content } } => {
            to.tagged(b'M', *xid).u8((*transactional).into()).lsn(*lsn).string(prefix).bytes(content)
        }
        Message::Commit { commit } => to.u8(b'C').commit(commit),
        Message::Origin { lsn, name } => to.u8(b'O').lsn(lsn.unwrap_or(Lsn::ZERO)).string(name),
        Message::Relation { xid, relation } => to.tagged(b'R', *xid).relation(relation),
        Message::Type { xid, oid, schema, name } => to.tagged(b'Y', *xid).u32(*oid).string(schema).string(name),
        Message::Insert { xid, relation, new } => to.tagged(b'I', *xid).u32(relation.0).row(b'N', new),
        Message::Update { xid, relation, old, new } => {
            let head = to.tagged(b'U', *xid).u32(relation.0);
            if let Some(old) = old { head.old(old).row(b'N', new) } else { head.row(b'N', new) }
        }
        Message::Delete { xid, relation, old } => to.tagged(b'D', *xid).u32(relation.0).old(old),
        Message::Truncate { xid, relations, cascade, restart_identity } => {
            let count = u32::try_from(relations.len()).unwrap();
            let flags = u8::from(*cascade) | u8::from(*restart_identity) << 1;
            relations.iter().fold(to.tagged(b'T', *xid).u32(count).u8(flags), |to, id| to.u32(id.0))
        }
        Message::StreamStart { xid, first } => to.u8(b'S').u32(*xid).u8((*first).into()),
        Message::StreamStop => to.u8(b'E'),
        Message::StreamCommit { xid, commit } => to.u8(b'c').u32(*xid).commit(commit),
        Message::StreamAbort { xid, subxid, abort } => match abort {
            None => to.u8(b'A').u32(*xid).u32(*subxid),
            Some(abort) => to.u8(b'A').u32(*xid).u32(*subxid).lsn(abort.lsn.unwrap_or(Lsn::ZERO)).time(abort.time),
        },
        Message::BeginPrepare { prepared } => to.u8(b'b').prepared(prepared),
        Message::Prepare { prepared } => to.u8(b'P').u8(0).prepared(prepared),
        Message::StreamPrepare { prepared } => to.u8(b'p').u8(0).prepared(prepared),
        Message::CommitPrepared { commit, xid, gid } => to.u8(b'K').commit(commit).u32(*xid).string(gid),
        Message::RollbackPrepared { rollback } => {
            let to = to.u8(b'r').u8(0).lsn(rollback.prepare_end_lsn).lsn(rollback.rollback_end_lsn.lsn());
            to.time(rollback.prepare_time).time(rollback.rollback_time).u32(rollback.xid).string(&rollback.gid)
        }
    };
    done.0.into()
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{1,12}"
}

fn lsn() -> impl Strategy<Value = Lsn> {
    (1..=u64::MAX).prop_map(Lsn::new)
}

fn time() -> impl Strategy<Value = PgTime> {
    any::<i64>().prop_map(PgTime)
}

fn commit() -> impl Strategy<Value = Commit> {
    (lsn(), lsn(), time()).prop_map(|(start, end, time)| Commit {
        commit_lsn: CommitLsn::new(start),
        end_lsn: EndLsn::new(end),
        time,
    })
}

fn row() -> impl Strategy<Value = Row> {
    let value = (0u8..4, prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec(value, 0..6).prop_map(|values| {
        let mut bytes = Vec::new();
        let cells = values.into_iter().map(|(kind, value)| {
            let (offset, length) = (bytes.len() as u32, value.len() as u32);
            bytes.extend(value);
            match kind {
                0 => Cell::Null,
                1 => Cell::Unchanged,
                2 => Cell::Text { offset, length },
                _ => Cell::Binary { offset, length },
            }
        });
        let cells = cells.collect::<Box<[_]>>();
        Row::new(bytes.into(), cells).unwrap()
    })
}

fn old() -> impl Strategy<Value = OldRow> {
    (row(), any::<bool>()).prop_map(|(row, full)| if full { OldRow::Full(row) } else { OldRow::Key(row) })
}

fn relation() -> impl Strategy<Value = Relation> {
    use ReplicaIdentity::{Default, Full, Index, Nothing};
    let column = (name(), any::<u32>(), any::<i32>(), any::<bool>())
        .prop_map(|(name, type_oid, modifier, is_key)| Column { name, type_oid, type_modifier: modifier, is_key });
    let identity = prop::sample::select(vec![Default, Nothing, Full, Index]);
    (any::<u32>(), name(), name(), identity, prop::collection::vec(column, 0..5)).prop_map(
        |(id, schema, name, identity, columns)| Relation {
            id: RelationId(id),
            name: TableName { schema, name },
            identity,
            columns,
            binary: false,
        },
    )
}

/// A change, with the xid that it has inside a stream block.
fn data(xid: BoxedStrategy<Option<u32>>) -> impl Strategy<Value = Message> {
    let id = any::<u32>().prop_map(RelationId);
    prop_oneof![
        (xid.clone(), lsn(), any::<bool>(), name(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
            |(xid, lsn, transactional, prefix, content)| {
                let message = change::Message { lsn, transactional, prefix, content: content.into() };
                Message::Logical { xid, message }
            }
        ),
        (xid.clone(), relation()).prop_map(|(xid, relation)| Message::Relation { xid, relation }),
        (xid.clone(), any::<u32>(), name(), name()).prop_map(|(xid, oid, schema, name)| Message::Type {
            xid,
            oid,
            schema,
            name
        }),
        (xid.clone(), id.clone(), row()).prop_map(|(xid, relation, new)| Message::Insert { xid, relation, new }),
        (xid.clone(), id.clone(), prop::option::of(old()), row())
            .prop_map(|(xid, relation, old, new)| Message::Update { xid, relation, old, new }),
        (xid.clone(), id.clone(), old()).prop_map(|(xid, relation, old)| Message::Delete { xid, relation, old }),
        (xid, prop::collection::vec(id, 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(xid, relations, cascade, restart)| Message::Truncate {
                xid,
                relations,
                cascade,
                restart_identity: restart
            }
        ),
        (prop::option::of(lsn()), name()).prop_map(|(lsn, name)| Message::Origin { lsn, name }),
    ]
}

/// What stands outside stream blocks only.
fn frame_work() -> impl Strategy<Value = Message> {
    let xid = 1..=u32::MAX;
    let prepared = (lsn(), lsn(), time(), any::<u32>(), name())
        .prop_map(|(start, end, time, xid, gid)| Prepared {
            prepare_lsn: start,
            end_lsn: EndLsn::new(end),
            time,
            xid,
            gid,
        })
        .boxed();
    prop_oneof![
        (lsn(), time(), any::<u32>()).prop_map(|(lsn, commit_time, xid)| {
            Message::Begin { final_lsn: CommitLsn::new(lsn), commit_time, xid }
        }),
        commit().prop_map(|commit| Message::Commit { commit }),
        (xid.clone(), any::<bool>()).prop_map(|(xid, first)| Message::StreamStart { xid, first }),
        (xid.clone(), commit()).prop_map(|(xid, commit)| Message::StreamCommit { xid, commit }),
        (xid.clone(), xid, prop::option::of(lsn()), time()).prop_map(|(xid, subxid, lsn, time)| {
            Message::StreamAbort { xid, subxid, abort: Some(Abort { lsn, time }) }
        }),
        prepared.clone().prop_map(|prepared| Message::BeginPrepare { prepared }),
        prepared.clone().prop_map(|prepared| Message::Prepare { prepared }),
        prepared.prop_map(|prepared| Message::StreamPrepare { prepared }),
        (commit(), any::<u32>(), name()).prop_map(|(commit, xid, gid)| Message::CommitPrepared { commit, xid, gid }),
        (lsn(), lsn(), time(), time(), any::<u32>(), name()).prop_map(|(start, end, at, then, xid, gid)| {
            let rollback_end_lsn = EndLsn::new(end);
            let (prepare_end_lsn, prepare_time, rollback_time) = (start, at, then);
            let rollback =
                PreparedRollback { prepare_end_lsn, rollback_end_lsn, prepare_time, rollback_time, xid, gid };
            Message::RollbackPrepared { rollback }
        }),
    ]
}

/// A message, and whether it stands inside a stream block.
fn message() -> impl Strategy<Value = (Message, bool)> {
    let inside = (1..=u32::MAX).prop_map(Some).boxed();
    prop_oneof![
        3 => data(Just(None).boxed()).prop_map(|message| (message, false)),
        3 => data(inside).prop_map(|message| (message, true)),
        4 => frame_work().prop_map(|message| (message, false)),
        1 => Just((Message::StreamStop, true)),
    ]
}

fn decoder(in_block: bool) -> Decoder {
    let mut decoder = Decoder::new(ProtocolVersion::V4, Streaming::Parallel);
    if in_block {
        decoder.decode(encode(&Message::StreamStart { xid: 1, first: true })).unwrap();
    }
    decoder
}

fn fault(decoder: &mut Decoder, frame: impl Into<Vec<u8>>) -> Fault {
    decoder.decode(Bytes::from(frame.into())).unwrap_err().fault
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded((message, in_block) in message()) {
        prop_assert_eq!(decoder(in_block).decode(encode(&message)), Ok(message));
    }

    #[test]
    fn every_truncation_is_an_error((message, in_block) in message()) {
        let frame = encode(&message);
        for length in 0..frame.len() {
            let decoded = decoder(in_block).decode(frame.slice(..length));
            prop_assert!(decoded.is_err(), "{} of {} bytes became {:?}", length, frame.len(), decoded);
        }
    }

    #[test]
    fn bytes_left_over_are_an_error((message, in_block) in message(), extra in 1usize..9) {
        let mut frame = encode(&message).to_vec();
        frame.resize(frame.len() + extra, 0);
        prop_assert_eq!(fault(&mut decoder(in_block), frame), Fault::Trailing(extra));
    }

    #[test]
    fn a_changed_byte_never_panics((message, in_block) in message(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut frame = encode(&message).to_vec();
        let at = at.index(frame.len());
        frame[at] = byte;
        let length = frame.len();
        if let Err(error) = decoder(in_block).decode(frame.into()) {
            prop_assert!(error.offset <= length);
        }
    }

    #[test]
    fn a_frame_refused_leaves_the_decoder_where_it_was((message, in_block) in message()) {
        let mut decoder = decoder(in_block);
        let frame = encode(&message);
        prop_assert!(decoder.decode(frame.slice(..frame.len() - 1)).is_err());
        prop_assert_eq!(decoder.decode(frame), Ok(message));
    }
}

#[test]
fn counts_that_promise_more_than_the_frame_holds_are_refused_before_anything_is_read_or_reserved() {
    let refused = |frame: &'static [u8]| {
        let error = decoder(false).decode(Bytes::from_static(frame)).unwrap_err();
        assert_eq!(error.fault, Fault::Truncated);
        error.offset
    };
    assert_eq!(refused(b"T\xff\xff\xff\xff\0\0\0\0\x01"), 6);
    assert_eq!(refused(b"I\0\0\0\x01N\xff\xffnnn"), 8);
    assert_eq!(refused(b"R\0\0\0\x01s\0t\0d\xff\xff\0c\0\0\0\0\x01\0\0\0\x01"), 12);
    assert_eq!(refused(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xffabc"), 13);
    assert_eq!(refused(b"M\0\0\0\0\0\0\0\0\x01p\0\xff\xff\xff\xffabc"), 16);
}

#[test]
fn a_message_of_another_version_or_mode_is_refused() {
    let mut first = Decoder::new(ProtocolVersion::V1, Streaming::Off);
    let start = encode(&Message::StreamStart { xid: 1, first: true });
    assert_eq!(fault(&mut first, start.clone()), Fault::NotNegotiated("protocol version 1"));
    let mut second = Decoder::new(ProtocolVersion::V2, Streaming::Off);
    assert_eq!(fault(&mut second, start), Fault::NotNegotiated("without streaming"));
    assert_eq!(fault(&mut second, *b"P"), Fault::NotNegotiated("protocol version 2"));
    assert_eq!(ProtocolVersion::V4.number(), 4);
}

#[test]
fn an_abort_says_where_with_parallel_streaming_only() {
    let short = encode(&Message::StreamAbort { xid: 1, subxid: 2, abort: None });
    let mut plain = Decoder::new(ProtocolVersion::V4, Streaming::On);
    assert!(plain.decode(short.clone()).is_ok());
    assert_eq!(fault(&mut decoder(false), short), Fault::Truncated);
}

#[test]
fn a_message_has_its_place_inside_or_outside_a_stream_block() {
    let begin = Message::Begin { final_lsn: CommitLsn::new(Lsn::new(1)), commit_time: PgTime(0), xid: 1 };
    assert_eq!(fault(&mut decoder(true), encode(&begin)), Fault::Misplaced("inside"));
    assert_eq!(fault(&mut decoder(false), encode(&Message::StreamStop)), Fault::Misplaced("outside"));
    let nested = encode(&Message::StreamStart { xid: 1, first: false });
    assert_eq!(fault(&mut decoder(true), nested), Fault::Misplaced("inside"));
}

#[test]
fn nothing_unknown_is_guessed_at() {
    let mut decoder = decoder(false);
    assert_eq!(fault(&mut decoder, *b"Z"), Fault::UnknownTag(b'Z'));
    assert_eq!(fault(&mut decoder, *b""), Fault::Truncated);
    assert_eq!(fault(&mut decoder, *b"C\x01"), Fault::UnknownFlags(1));
    assert_eq!(fault(&mut decoder, *b"T\0\0\0\0\x04"), Fault::UnknownFlags(4));
    assert_eq!(fault(&mut decoder, *b"R\0\0\0\x01s\0t\0x"), Fault::UnknownIdentity(b'x'));
    assert_eq!(fault(&mut decoder, *b"I\0\0\0\x01O"), Fault::UnknownRow(b'O'));
    assert_eq!(fault(&mut decoder, *b"D\0\0\0\x01N"), Fault::UnknownRow(b'N'));
    assert_eq!(fault(&mut decoder, *b"U\0\0\0\x01K\0\0O"), Fault::UnknownRow(b'O'));
    assert_eq!(fault(&mut decoder, *b"I\0\0\0\x01N\0\x01x"), Fault::UnknownColumn(b'x'));
    assert_eq!(fault(&mut decoder, [&b"B"[..], &[0; 20]].concat()), Fault::UnknownPosition("final LSN"));
    assert_eq!(fault(&mut decoder, *b"S\0\0\0\0\x01"), Fault::NoTransactionId);
}

#[test]
fn an_empty_schema_is_pg_catalog() {
    let decoded = decoder(false).decode(Bytes::from_static(b"Y\0\0\0\x17\0int4\0")).unwrap();
    let Message::Type { schema, .. } = decoded else { panic!("not a Type message: {decoded:?}") };
    assert_eq!(schema, "pg_catalog");
}

#[test]
fn rows_share_the_frame_and_claim_only_their_stretch_of_it() {
    let frame = Bytes::from_static(b"U\0\0\0\x01K\0\x01t\0\0\0\x01aN\0\x01t\0\0\0\x01b");
    let place = frame.as_ptr_range();
    let Message::Update { old: Some(old), new, .. } = decoder(false).decode(frame.clone()).unwrap() else {
        panic!("not an Update with an old row")
    };
    assert_eq!((old.row().get(0), new.get(0)), (Some(Datum::Text(b"a")), Some(Datum::Text(b"b"))));
    assert!(place.contains(&new.share(0).unwrap().as_ptr()));
    assert!(old.row().memory() + new.memory() < frame.len() + 2 * (size_of::<Row>() + size_of::<Cell>()));
}

#[test]
fn the_error_says_what_where_and_why() {
    let error = decoder(false).decode(Bytes::from_static(b"C\0\0")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the source sent Commit in a form that is not pgoutput (at byte 2 of 3): it ends before its fields do"
    );
}

#[test]
fn the_beginning_of_a_transaction_is_known_at_sight() {
    let begin = Message::Begin { final_lsn: CommitLsn::new(Lsn::new(1)), commit_time: PgTime(7), xid: 1 };
    let whole = encode(&begin);
    assert_eq!(begun(&whole), Some(PgTime(7)));
    assert_eq!(begun(&whole[..16]), None);
    assert_eq!(begun(&encode(&Message::StreamStop)), None);
    assert_eq!(begun(&[]), None);
}
