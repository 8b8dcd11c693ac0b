//! One frame in, one message out. The state is whether the session stands inside a stream block.

use bytes::Bytes;

use super::error::{DecodeError, Fault};
use super::message::{Abort, Message, Prepared, PreparedRollback};
use super::reader::Reader;
use crate::change::{self, Commit, PgTime};
use crate::lsn::{CommitLsn, EndLsn};
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Cell, OldRow, Row};

/// `proto_version` of START_REPLICATION.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// PostgreSQL 10.
    V1,
    /// PostgreSQL 14: streaming of transactions in progress.
    V2,
    /// PostgreSQL 15: two-phase commit.
    V3,
    /// PostgreSQL 16: streaming for parallel apply.
    V4,
}

impl ProtocolVersion {
    /// The option's value.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    fn describe(self) -> &'static str {
        match self {
            ProtocolVersion::V1 => "protocol version 1",
            ProtocolVersion::V2 => "protocol version 2",
            ProtocolVersion::V3 => "protocol version 3",
            ProtocolVersion::V4 => "protocol version 4",
        }
    }
}

/// `streaming` of START_REPLICATION. It decides the layout of Stream Abort, which no message tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// Transactions arrive whole, after their commit.
    Off,
    /// Large ones arrive in blocks before it (version 2).
    On,
    /// As `On`, and aborts say where and when (version 4).
    Parallel,
}

/// Decodes the frames of one replication session, which must be given to it in order.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: ProtocolVersion,
    streaming: Streaming,
    binary: bool,
    in_block: bool,
}

impl Decoder {
    /// A decoder for a session that has just started: never inside a stream block.
    pub fn new(version: ProtocolVersion, streaming: Streaming) -> Self {
        Self { version, streaming, binary: false, in_block: false }
    }

    /// The same for a session with the option `binary`, where values are as their types' send functions give them
    /// unless a type has none (`logicalrep_write_tuple`).
    pub fn binary(self, binary: bool) -> Self {
        Self { binary, ..self }
    }

    /// The message in `frame` (the payload of one XLogData). Its rows share the frame's memory.
    ///
    /// # Errors
    /// When the frame is not a message that may come here. The decoder is then still where it was before.
    pub fn decode(&mut self, frame: Bytes) -> Result<Message, DecodeError> {
        let mut reader = Reader::new(frame);
        let mut name = "a message";
        let decoded = self.message(&mut reader, &mut name);
        let message = decoded.and_then(|message| reader.finish().map(|()| message)).map_err(|fault| DecodeError {
            message: name,
            offset: reader.at(),
            length: reader.length(),
            fault,
        })?;
        match message {
            Message::StreamStart { .. } => self.in_block = true,
            Message::StreamStop => self.in_block = false,
            _ => {}
        }
        Ok(message)
    }

    fn message(&self, reader: &mut Reader, name: &mut &'static str) -> Result<Message, Fault> {
        // A cell's offset and length are 32 bits.
        if u32::try_from(reader.remaining()).is_err() {
            return Err(Fault::TooLong);
        }
        let tag = reader.u8()?;
        let kind = Kind::of(tag).ok_or(Fault::UnknownTag(tag))?;
        *name = kind.name;
        self.expect(kind)?;
        let xid =
            if kind.place == Place::Anywhere && self.in_block && tag != b'O' { Some(reader.xid()?) } else { None };
        Ok(match tag {
            b'B' => Message::Begin {
                final_lsn: CommitLsn::new(reader.known_lsn("final LSN")?),
                commit_time: reader.time()?,
                xid: reader.u32()?,
            },
            b'M' => Message::Logical { xid, message: logical(reader)? },
            b'C' => Message::Commit { commit: commit(reader)? },
            b'O' => Message::Origin { lsn: reader.lsn()?, name: reader.string()? },
            b'R' => Message::Relation { xid, relation: relation(reader, self.binary)? },
            b'Y' => Message::Type { xid, oid: reader.u32()?, schema: namespace(reader)?, name: reader.string()? },
            b'I' => Message::Insert { xid, relation: RelationId(reader.u32()?), new: new_row(reader)? },
            b'U' => update(reader, xid)?,
            b'D' => {
                let relation = RelationId(reader.u32()?);
                let introduction = reader.u8()?;
                let old = old_row(reader, introduction)?.ok_or(Fault::UnknownRow(introduction))?;
                Message::Delete { xid, relation, old }
            }
            b'T' => truncate(reader, xid)?,
            b'S' => Message::StreamStart { xid: reader.xid()?, first: reader.flags(1)? == 1 },
            b'E' => Message::StreamStop,
            b'c' => Message::StreamCommit { xid: reader.xid()?, commit: commit(reader)? },
            b'A' => self.stream_abort(reader)?,
            b'b' => Message::BeginPrepare { prepared: prepared(reader)? },
            b'P' => Message::Prepare { prepared: flagged_prepared(reader)? },
            b'p' => Message::StreamPrepare { prepared: flagged_prepared(reader)? },
            b'K' => Message::CommitPrepared { commit: commit(reader)?, xid: reader.u32()?, gid: reader.string()? },
            b'r' => Message::RollbackPrepared { rollback: prepared_rollback(reader)? },
            _ => return Err(Fault::UnknownTag(tag)),
        })
    }

    /// Whether such a message may come in this session, and here.
    fn expect(&self, kind: Kind) -> Result<(), Fault> {
        if self.version < kind.since {
            return Err(Fault::NotNegotiated(self.version.describe()));
        }
        if kind.streamed && self.streaming == Streaming::Off {
            return Err(Fault::NotNegotiated("without streaming"));
        }
        match (kind.place, self.in_block) {
            (Place::Inside, false) => Err(Fault::Misplaced("outside")),
            (Place::Outside, true) => Err(Fault::Misplaced("inside")),
            _ => Ok(()),
        }
    }

    fn stream_abort(&self, reader: &mut Reader) -> Result<Message, Fault> {
        let (xid, subxid) = (reader.xid()?, reader.xid()?);
        let abort = match self.streaming {
            Streaming::Parallel => Some(Abort { lsn: reader.lsn()?, time: reader.time()? }),
            Streaming::On | Streaming::Off => None,
        };
        Ok(Message::StreamAbort { xid, subxid, abort })
    }
}

/// Where a message may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Inside a stream block only.
    Inside,
    /// Outside only.
    Outside,
    /// In both.
    Anywhere,
}

/// What is known of a message by its tag.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    since: ProtocolVersion,
    place: Place,
    streamed: bool,
}

impl Kind {
    fn of(tag: u8) -> Option<Self> {
        use Place::{Anywhere, Inside, Outside};
        use ProtocolVersion::{V1, V2, V3};
        let (name, since, place, streamed) = match tag {
            b'B' => ("Begin", V1, Outside, false),
            b'M' => ("Message", V1, Anywhere, false),
            b'C' => ("Commit", V1, Outside, false),
            b'O' => ("Origin", V1, Anywhere, false),
            b'R' => ("Relation", V1, Anywhere, false),
            b'Y' => ("Type", V1, Anywhere, false),
            b'I' => ("Insert", V1, Anywhere, false),
            b'U' => ("Update", V1, Anywhere, false),
            b'D' => ("Delete", V1, Anywhere, false),
            b'T' => ("Truncate", V1, Anywhere, false),
            b'S' => ("Stream Start", V2, Outside, true),
            b'E' => ("Stream Stop", V2, Inside, true),
            b'c' => ("Stream Commit", V2, Outside, true),
            b'A' => ("Stream Abort", V2, Outside, true),
            b'b' => ("Begin Prepare", V3, Outside, false),
            b'P' => ("Prepare", V3, Outside, false),
            b'K' => ("Commit Prepared", V3, Outside, false),
            b'r' => ("Rollback Prepared", V3, Outside, false),
            b'p' => ("Stream Prepare", V3, Outside, true),
            _ => return None,
        };
        Some(Self { name, since, place, streamed })
    }
}

/// When the transaction that this frame begins was committed; `None` for any other frame.
pub fn begun(frame: &[u8]) -> Option<PgTime> {
    let (b'B', rest) = frame.split_first()? else { return None };
    let (_final_lsn, rest) = rest.split_first_chunk::<8>()?;
    rest.first_chunk().map(|time| PgTime(i64::from_be_bytes(*time)))
}

fn logical(reader: &mut Reader) -> Result<change::Message, Fault> {
    let transactional = reader.flags(1)? == 1;
    let lsn = reader.known_lsn("LSN")?;
    let prefix = reader.string()?;
    let length = reader.u32()? as usize;
    Ok(change::Message { lsn, transactional, prefix, content: reader.share(length)? })
}

fn commit(reader: &mut Reader) -> Result<Commit, Fault> {
    reader.flags(0)?;
    Ok(Commit {
        commit_lsn: CommitLsn::new(reader.known_lsn("commit LSN")?),
        end_lsn: EndLsn::new(reader.known_lsn("end LSN")?),
        time: reader.time()?,
    })
}

fn flagged_prepared(reader: &mut Reader) -> Result<Prepared, Fault> {
    reader.flags(0)?;
    prepared(reader)
}

fn prepared(reader: &mut Reader) -> Result<Prepared, Fault> {
    Ok(Prepared {
        prepare_lsn: reader.known_lsn("prepare LSN")?,
        end_lsn: EndLsn::new(reader.known_lsn("end LSN")?),
        time: reader.time()?,
        xid: reader.u32()?,
        gid: reader.string()?,
    })
}

fn prepared_rollback(reader: &mut Reader) -> Result<PreparedRollback, Fault> {
    reader.flags(0)?;
    Ok(PreparedRollback {
        prepare_end_lsn: reader.known_lsn("prepare end LSN")?,
        rollback_end_lsn: EndLsn::new(reader.known_lsn("rollback end LSN")?),
        prepare_time: reader.time()?,
        rollback_time: reader.time()?,
        xid: reader.u32()?,
        gid: reader.string()?,
    })
}

/// A schema's name; `pg_catalog` travels as the empty string (`logicalrep_write_namespace`).
fn namespace(reader: &mut Reader) -> Result<String, Fault> {
    let name = reader.string()?;
    Ok(if name.is_empty() { "pg_catalog".to_owned() } else { name })
}

fn relation(reader: &mut Reader, binary: bool) -> Result<Relation, Fault> {
    /// flags, an empty name's zero byte, type and modifier.
    const SMALLEST_COLUMN: usize = 1 + 1 + 4 + 4;

    let id = RelationId(reader.u32()?);
    let name = TableName { schema: namespace(reader)?, name: reader.string()? };
    let identity = match reader.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        other => return Err(Fault::UnknownIdentity(other)),
    };
    let count = reader.u16()?;
    let count = reader.count(count.into(), SMALLEST_COLUMN)?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let is_key = reader.flags(1)? == 1;
        let name = reader.string()?;
        columns.push(Column { is_key, name, type_oid: reader.u32()?, type_modifier: reader.i32()? });
    }
    Ok(Relation { id, name, identity, columns, binary })
}

fn update(reader: &mut Reader, xid: Option<u32>) -> Result<Message, Fault> {
    let relation = RelationId(reader.u32()?);
    let introduction = reader.u8()?;
    let old = old_row(reader, introduction)?;
    let introduction = if old.is_some() { reader.u8()? } else { introduction };
    if introduction != b'N' {
        return Err(Fault::UnknownRow(introduction));
    }
    Ok(Message::Update { xid, relation, old, new: row(reader)? })
}

fn truncate(reader: &mut Reader, xid: Option<u32>) -> Result<Message, Fault> {
    let count = reader.u32()?;
    let flags = reader.flags(3)?;
    let count = reader.count(count, size_of::<u32>())?;
    let mut relations = Vec::with_capacity(count);
    for _ in 0..count {
        relations.push(RelationId(reader.u32()?));
    }
    Ok(Message::Truncate { xid, relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 })
}

fn new_row(reader: &mut Reader) -> Result<Row, Fault> {
    match reader.u8()? {
        b'N' => row(reader),
        other => Err(Fault::UnknownRow(other)),
    }
}

/// The old row that `introduction` announces; `None` when it announces none.
fn old_row(reader: &mut Reader, introduction: u8) -> Result<Option<OldRow>, Fault> {
    Ok(match introduction {
        b'K' => Some(OldRow::Key(row(reader)?)),
        b'O' => Some(OldRow::Full(row(reader)?)),
        _ => None,
    })
}

/// A row over its own stretch of the frame, so that two rows of one message do not each claim all of it.
fn row(reader: &mut Reader) -> Result<Row, Fault> {
    let start = reader.at();
    let count = reader.u16()?;
    let count = reader.count(count.into(), 1)?;
    let mut cells = Vec::with_capacity(count);
    for _ in 0..count {
        cells.push(match reader.u8()? {
            b'n' => Cell::Null,
            b'u' => Cell::Unchanged,
            b't' => {
                let (offset, length) = value(reader, start)?;
                Cell::Text { offset, length }
            }
            b'b' => {
                let (offset, length) = value(reader, start)?;
                Cell::Binary { offset, length }
            }
            other => return Err(Fault::UnknownColumn(other)),
        });
    }
    // Every cell was read from this very stretch, so it lies inside.
    Row::new(reader.since(start), cells.into_boxed_slice()).ok_or(Fault::Truncated)
}

/// Offset from `start`, and length, of a column's bytes. Both fit: the frame is shorter than 4 GB.
fn value(reader: &mut Reader, start: usize) -> Result<(u32, u32), Fault> {
    let length = reader.u32()?;
    let offset = reader.skip(length as usize)? - start;
    Ok((u32::try_from(offset).map_err(|_| Fault::TooLong)?, length))
}
