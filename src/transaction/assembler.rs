//! The state between two messages: which transaction is open, and what of it has not been handed on.

use std::sync::Arc;

use super::catalog::Catalog;
use super::error::{AssemblyError, Fault};
use crate::change::{self, Begin, Change, Commit, Delivery, Origin, Part};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::pgoutput::Message;
use crate::relation::{Relation, RelationId};
use crate::row::Row;

/// Turns one replication session's messages into deliveries. See the module for what it holds to.
#[derive(Debug)]
pub struct Assembler {
    part_bytes: usize,
    catalog: Catalog,
    open: Option<Open>,
    /// Every commit below is delivered: the last commit's end, or a later keepalive's position.
    complete: Option<Lsn>,
}

/// A transaction between its Begin and its Commit.
#[derive(Debug)]
struct Open {
    begin: Begin,
    commit_lsn: CommitLsn,
    origin: Option<Arc<Origin>>,
    next_index: u32,
    changes: Vec<Change>,
    memory: usize,
}

impl Assembler {
    /// For a session that has just started. `part_bytes` bounds the memory of a part's changes; only a single change
    /// that is larger by itself exceeds it.
    pub fn new(part_bytes: usize) -> Self {
        Self { part_bytes, catalog: Catalog::default(), open: None, complete: None }
    }

    /// Takes the next message; appends to `out` what it completes (nothing, a part, a message).
    /// `frame_lsn` is the start position of its XLogData frame, for errors only.
    ///
    /// # Errors
    /// When the message cannot come here. The assembler is then of no further use: start a new session.
    pub fn push(&mut self, message: Message, frame_lsn: Lsn, out: &mut Vec<Delivery>) -> Result<(), AssemblyError> {
        let name = message.name();
        self.take(message, out).map_err(|fault| AssemblyError {
            message: name,
            frame_lsn: Lsn::known(frame_lsn.as_u64()),
            transaction: self.open.as_ref().map(|open| open.commit_lsn),
            fault,
        })
    }

    /// What a keepalive's `wal_end` means: that no commit before it is still to come. Nothing while a transaction is
    /// open, when 0/0, or below what is already known to be complete (the server sends such while it waits for its
    /// socket, before it counts the commit just sent).
    pub fn keepalive(&mut self, wal_end: Lsn) -> Option<Delivery> {
        let wal_end = Lsn::known(wal_end.as_u64())?;
        if self.open() || self.complete.is_some_and(|complete| wal_end < complete) {
            return None;
        }
        self.complete = Some(wal_end);
        Some(Delivery::Quiet(EndLsn::new(wal_end)))
    }

    /// Whether a transaction has begun and not ended.
    pub fn open(&self) -> bool {
        self.open.is_some()
    }

    /// Schema and name of a type that is not built in, as announced in this session. For a domain: of its base type.
    pub fn type_name(&self, oid: u32) -> Option<(&str, &str)> {
        self.catalog.type_name(oid)
    }

    fn take(&mut self, message: Message, out: &mut Vec<Delivery>) -> Result<(), Fault> {
        match message {
            Message::Begin { final_lsn, commit_time, xid } => {
                let begin = Begin { xid, commit_lsn: Some(final_lsn), commit_time: Some(commit_time) };
                self.begin(begin, final_lsn)
            }
            Message::Commit { commit } => self.commit(commit, out),
            Message::Origin { lsn, name } => {
                let open = self.open.as_mut().ok_or(Fault::NoTransaction)?;
                open.origin = Some(Arc::new(Origin { name, lsn }));
                Ok(())
            }
            Message::Relation { xid: None, relation } => {
                self.catalog.announce(relation);
                Ok(())
            }
            Message::Type { xid: None, oid, schema, name } => {
                self.catalog.name_type(oid, schema, name);
                Ok(())
            }
            Message::Logical { xid: None, message } => self.logical(message, out),
            Message::Insert { xid: None, relation, new } => {
                let relation = self.relation(relation, [Some(&new), None])?;
                self.change(Change::Insert { relation, new }, out)
            }
            Message::Update { xid: None, relation, old, new } => {
                let relation = self.relation(relation, [Some(&new), old.as_ref().map(|old| old.row())])?;
                self.change(Change::Update { relation, old, new }, out)
            }
            Message::Delete { xid: None, relation, old } => {
                let relation = self.relation(relation, [Some(old.row()), None])?;
                self.change(Change::Delete { relation, old }, out)
            }
            Message::Truncate { xid: None, relations, cascade, restart_identity } => {
                if relations.is_empty() {
                    return Err(Fault::EmptyTruncate);
                }
                let known = relations.into_iter().map(|id| self.relation(id, [None, None]));
                let relations = known.collect::<Result<Vec<_>, _>>()?;
                self.change(Change::Truncate { relations, cascade, restart_identity }, out)
            }
            Message::BeginPrepare { .. }
            | Message::Prepare { .. }
            | Message::CommitPrepared { .. }
            | Message::RollbackPrepared { .. } => Err(Fault::TwoPhase),
            // What is left: the blocks, and changes that carry an xid because they stand in one.
            _ => Err(Fault::Streaming),
        }
    }

    fn begin(&mut self, begin: Begin, commit_lsn: CommitLsn) -> Result<(), Fault> {
        if self.open() {
            return Err(Fault::AlreadyOpen);
        }
        if let Some(complete) = self.complete.filter(|complete| commit_lsn.lsn() < *complete) {
            return Err(Fault::OutOfOrder { commit: commit_lsn, complete });
        }
        self.open = Some(Open { begin, commit_lsn, origin: None, next_index: 0, changes: Vec::new(), memory: 0 });
        Ok(())
    }

    fn commit(&mut self, commit: Commit, out: &mut Vec<Delivery>) -> Result<(), Fault> {
        let open = self.open.as_mut().ok_or(Fault::NoTransaction)?;
        if commit.commit_lsn != open.commit_lsn {
            return Err(Fault::OtherCommit { begin: open.commit_lsn, commit: commit.commit_lsn });
        }
        let (start, end) = (commit.commit_lsn.lsn(), commit.end_lsn.lsn());
        if end <= start {
            return Err(Fault::EmptyCommitRecord { start, end });
        }
        out.push(Delivery::Part(open.cut(Some(commit))?));
        self.open = None;
        self.complete = Some(end);
        Ok(())
    }

    fn logical(&mut self, message: change::Message, out: &mut Vec<Delivery>) -> Result<(), Fault> {
        if message.transactional {
            return self.change(Change::Message(message), out);
        }
        out.push(Delivery::Message(message));
        Ok(())
    }

    /// The relation as last announced, which the rows must fit.
    fn relation(&self, id: RelationId, rows: [Option<&Row>; 2]) -> Result<Arc<Relation>, Fault> {
        let relation = self.catalog.relation(id).ok_or(Fault::UnknownRelation(id))?;
        match rows.into_iter().flatten().find(|row| row.len() != relation.columns.len()) {
            None => Ok(Arc::clone(relation)),
            Some(row) => Err(Fault::ColumnCount {
                table: relation.name.clone(),
                row: row.len(),
                relation: relation.columns.len(),
            }),
        }
    }

    /// Gathers a change; what was gathered before it goes first when both would be too much.
    fn change(&mut self, change: Change, out: &mut Vec<Delivery>) -> Result<(), Fault> {
        let open = self.open.as_mut().ok_or(Fault::NoTransaction)?;
        let memory = change.memory();
        if !open.changes.is_empty() && open.memory.saturating_add(memory) > self.part_bytes {
            out.push(Delivery::Part(open.cut(None)?));
        }
        open.memory = open.memory.saturating_add(memory);
        open.changes.push(change);
        Ok(())
    }
}

impl Open {
    /// What was gathered since the last cut, as the transaction's next part.
    fn cut(&mut self, commit: Option<Commit>) -> Result<Part, Fault> {
        let index = self.next_index;
        self.next_index = index.checked_add(1).ok_or(Fault::TooManyParts)?;
        Ok(Part {
            begin: self.begin,
            origin: self.origin.clone(),
            index,
            changes: std::mem::take(&mut self.changes),
            commit,
            memory: std::mem::take(&mut self.memory),
        })
    }
}
