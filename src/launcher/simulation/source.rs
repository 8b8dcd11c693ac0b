//! The model of a source: a WAL of committed transactions, and the slots through which it is read.

use std::sync::Arc;
use std::time::Duration;

use super::random::Random;
use crate::change::{Begin, Change, Commit, Part, PgTime};
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::row::{Cell, Row};
use crate::source::slot::Slot;

/// How many tables there are.
pub const TABLES: u32 = 4;

/// Where the WAL begins: all tables were copied there, or later.
pub const START: u64 = 1_000;

/// The tables, as the source announces them.
pub type Relations = Vec<Arc<Relation>>;

pub fn relations() -> Relations {
    let column = || Column { name: "id".to_owned(), type_oid: 23, type_modifier: -1, is_key: true };
    let relation = |id| Relation {
        id: RelationId(id),
        name: TableName::new("s", format!("t{id}")),
        identity: ReplicaIdentity::Default,
        columns: vec![column()],
        binary: false,
    };
    (0..TABLES).map(relation).map(Arc::new).collect()
}

/// A committed transaction.
pub struct Transaction {
    pub commit: Commit,
    pub parts: Vec<Part>,
    /// The tables of its changes, in order.
    pub changes: Vec<u32>,
}

impl Transaction {
    pub fn start(&self) -> u64 {
        self.commit.commit_lsn.lsn().as_u64()
    }

    pub fn end(&self) -> u64 {
        self.commit.end_lsn.lsn().as_u64()
    }
}

/// A slot.
#[derive(Clone, Copy)]
pub struct Kept {
    pub confirmed: u64,
    /// As it is on the source's disk: a crash takes it back to there.
    saved: u64,
    /// Whether a connection has it.
    active: bool,
    /// What was told last through a connection whose other end is gone, and may still arrive.
    parting: Option<u64>,
    lost: bool,
}

pub struct Source {
    pub wal: Vec<Transaction>,
    /// The end of the WAL.
    pub end: u64,
    /// The stream's, then each target's.
    slots: Vec<Option<Kept>>,
    /// As servers did before they refused to be told less than before.
    moves_back: bool,
    /// What was asked for by connections whose other end is gone.
    asked: Vec<(usize, Duration)>,
    relations: Relations,
}

impl Source {
    pub fn new(targets: usize, relations: Relations, random: &mut Random) -> Self {
        let mut slots = vec![None; targets + 1];
        slots[0] = Some(Kept { confirmed: START, saved: START, active: false, parting: None, lost: false });
        Self { wal: Vec::new(), end: START, slots, moves_back: random.chance(30), asked: Vec::new(), relations }
    }

    /// Something is written.
    pub fn write(&mut self, random: &mut Random) {
        self.end += random.pick(&[8, 100, 2_000, 70_000, 600_000, 1_500_000]);
        if random.chance(15) {
            return;
        }
        let number = self.wal.len() as i64;
        let commit_lsn = CommitLsn::new(Lsn::new(self.end));
        self.end += 48;
        let commit = Commit { commit_lsn, end_lsn: EndLsn::new(Lsn::new(self.end)), time: PgTime(number) };
        let begin = Begin { xid: number as u32, commit_lsn: Some(commit_lsn), commit_time: Some(commit.time) };
        let count = if random.chance(75) { 1 } else { 2 + random.below(3) as u32 };
        let (mut parts, mut tables) = (Vec::with_capacity(count as usize), Vec::new());
        for index in 0..count {
            let least = u64::from(count > 1);
            let chosen: Vec<u32> = (0..least + random.below(3)).map(|_| random.below(TABLES.into()) as u32).collect();
            let changes: Vec<Change> = chosen.iter().map(|table| self.insert(*table)).collect();
            let memory = changes.iter().map(Change::memory).sum();
            let commit = (index + 1 == count).then_some(commit);
            parts.push(Part { begin, origin: None, index, changes, commit, memory });
            tables.extend(chosen);
        }
        self.wal.push(Transaction { commit, parts, changes: tables });
    }

    fn insert(&self, table: u32) -> Change {
        let row = Row::new(bytes::Bytes::new(), Box::new([Cell::Null])).expect("a NULL is nowhere");
        Change::Insert { relation: Arc::clone(&self.relations[table as usize]), new: row }
    }

    pub fn slot(&self, slot: usize) -> Option<&Kept> {
        self.slots[slot].as_ref()
    }

    /// The first transaction that is sent by a session which starts here: what commits there or later
    /// (`SnapBuildXactNeedsSkip`).
    pub fn first_from(&self, start: u64) -> usize {
        self.wal.partition_point(|transaction| transaction.start() < start)
    }

    /// The slot, as the server shows it.
    pub fn look(&self, slot: usize) -> Option<Slot> {
        self.slots[slot].map(|kept| Slot {
            name: String::new(),
            plugin: None,
            slot_type: String::new(),
            database: None,
            active_pid: kept.active.then_some(1),
            confirmed_flush: Some(Lsn::new(kept.confirmed)),
            restart_lsn: None,
            wal_status: kept.lost.then(|| "lost".to_owned()),
            invalidation_reason: None,
            conflicting: false,
            temporary: false,
            retained_bytes: None,
            safe_wal_size: None,
            two_phase: false,
            failover: false,
        })
    }

    /// A connection takes the slot. `None`: there is no such slot; else whether it was free.
    pub fn acquire(&mut self, slot: usize) -> Option<bool> {
        let kept = self.slots[slot].as_mut()?;
        Some(!std::mem::replace(&mut kept.active, true))
    }

    /// The connection that has the slot was closed in order.
    pub fn release(&mut self, slot: usize) {
        if let Some(kept) = &mut self.slots[slot] {
            kept.active = false;
        }
    }

    /// The connection's other end is gone: the server does not know it yet.
    pub fn abandon(&mut self, slot: usize, told: u64) {
        if let Some(kept) = &mut self.slots[slot] {
            kept.parting = Some(told);
        }
    }

    /// A status update arrives.
    pub fn confirm(&mut self, slot: usize, flushed: u64) {
        let Some(kept) = &mut self.slots[slot] else { return };
        // 0/0 says "unknown".
        if flushed > kept.confirmed || (flushed != 0 && self.moves_back) {
            kept.confirmed = flushed;
        }
    }

    /// A slot is asked for, and nobody waits for the answer: it is made by then.
    pub fn copy_by(&mut self, slot: usize, when: Duration) {
        self.asked.push((slot, when));
    }

    /// Does what nobody waits for, but for what has time.
    pub fn catch_up(&mut self, now: Option<Duration>) {
        for (slot, when) in std::mem::take(&mut self.asked) {
            match now.is_some_and(|now| now < when) {
                true => self.asked.push((slot, when)),
                false => _ = self.copy(slot),
            }
        }
    }

    /// The server notices that connections are gone, and does what they had asked for last.
    pub fn notice(&mut self, random: &mut Random) {
        self.catch_up(None);
        for slot in 0..self.slots.len() {
            let parting = self.slots[slot].as_mut().and_then(|kept| kept.parting.take());
            if let Some(told) = parting {
                if random.chance(50) {
                    self.confirm(slot, told);
                }
                self.release(slot);
            }
        }
    }

    /// It makes a checkpoint.
    pub fn save(&mut self) {
        self.slots.iter_mut().flatten().for_each(|kept| kept.saved = kept.confirmed);
    }

    /// It crashes, and is there again: slots may stand where they were saved.
    pub fn restart(&mut self, random: &mut Random) {
        self.asked.clear();
        for kept in self.slots.iter_mut().flatten() {
            (kept.active, kept.parting) = (false, None);
            let back = kept.confirmed.saturating_sub(kept.saved);
            kept.confirmed -= if back > 0 && random.chance(50) { back } else { 0 };
            kept.saved = kept.confirmed;
        }
    }

    /// Makes a slot as a copy of the stream's, where it is confirmed.
    pub fn copy(&mut self, slot: usize) -> bool {
        if let (Some(main), None) = (self.slots[0], self.slots[slot]) {
            self.slots[slot] = Some(Kept { saved: main.confirmed, active: false, parting: None, ..main });
        }
        self.slots[slot].is_some()
    }

    /// Drops a slot that nobody uses; tells whether it is gone.
    pub fn drop(&mut self, slot: usize) -> bool {
        if self.slots[slot].is_some_and(|kept| !kept.active) {
            self.slots[slot] = None;
        }
        self.slots[slot].is_none()
    }

    /// Invalidates a slot that keeps too much.
    pub fn lose(&mut self, slot: usize) {
        if let Some(kept) = self.slots[slot].as_mut().filter(|kept| !kept.active) {
            kept.lost = true;
        }
    }

    /// Whether a slot has everything that is needed from here on.
    pub fn keeps(&self, slot: usize, position: u64) -> bool {
        self.slots[slot].is_some_and(|kept| !kept.lost && kept.confirmed <= position)
    }
}
