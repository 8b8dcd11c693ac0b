//! The model of a target: what it has applied, commit by commit, and how much of that is on its disk.
//!
//! Each commit is held against the source's WAL: it must bring the next transactions that have something for this
//! target, each whole and with the changes that are for it, and pass over none.

use std::collections::{HashMap, HashSet};

use super::random::Random;
use super::source::{START, TABLES, Transaction};
use crate::apply::progress::LastCommit;
use crate::change::{Commit, TargetId};
use crate::lsn::Lsn;
use crate::relation::TableName;
use crate::route::TargetRoute;

/// What of the source's tables a target gets.
pub struct Share {
    wanted: [bool; TABLES as usize],
    /// Where each table was copied: it holds what committed before.
    copied: [u64; TABLES as usize],
}

impl Share {
    pub fn new(random: &mut Random) -> Self {
        let mut wanted = [true; TABLES as usize];
        wanted.iter_mut().for_each(|wanted| *wanted = random.chance(70));
        let mut copied = [START; TABLES as usize];
        let later = |random: &mut Random| if random.chance(20) { random.below(3_000_000) } else { 0 };
        copied.iter_mut().for_each(|copied| *copied += later(random));
        Self { wanted, copied }
    }

    /// The real route.
    pub fn route(&self, id: TargetId) -> TargetRoute {
        let name = |table: usize| TableName::new("s", format!("t{table}"));
        let copied: HashMap<TableName, Lsn> =
            self.copied.iter().enumerate().map(|(table, copied)| (name(table), Lsn::new(*copied))).collect();
        let without: HashSet<TableName> =
            self.wanted.iter().enumerate().filter(|(_, wanted)| !**wanted).map(|(table, _)| name(table)).collect();
        TargetRoute::new(id, Vec::new(), copied).without(without)
    }

    fn of<'a>(&'a self, transaction: &'a Transaction) -> impl Iterator<Item = u32> + 'a {
        let start = transaction.start();
        let is_for = move |table: &u32| self.wanted[*table as usize] && start >= self.copied[*table as usize];
        transaction.changes.iter().copied().filter(is_for)
    }
}

/// Where a target stands after one of its commits.
#[derive(Clone, Copy, Debug)]
pub struct Stand {
    /// The progress row.
    pub end: u64,
    pub last: Option<LastCommit>,
    /// Everything before this place in the source's WAL has been applied, or is not for it.
    next: usize,
}

/// What a worker has its target commit.
pub struct Write {
    /// Where the progress row must stand.
    pub expected: u64,
    /// Where it will.
    pub end: u64,
    /// The transactions, each with the tables of its changes.
    pub transactions: Vec<(Commit, Vec<u32>)>,
}

pub struct Target {
    pub share: Share,
    /// All commits, from the copy on.
    journal: Vec<Stand>,
    /// How many of them are on its disk, after the first.
    synced: usize,
    pub up: bool,
    /// Tells sessions before a crash from those after it.
    pub epoch: u32,
    /// Of a session that was given up and lives on there.
    late: Option<Write>,
    /// Whether somebody has done to it what the daemon cannot make good.
    pub touched: bool,
}

impl Target {
    pub fn new(random: &mut Random) -> Self {
        let share = Share::new(random);
        let journal = vec![Stand { end: START, last: None, next: 0 }];
        Self { share, journal, synced: 0, up: true, epoch: 0, late: None, touched: false }
    }

    /// What whoever reads it now sees.
    pub fn shown(&self) -> Stand {
        *self.journal.last().expect("the copy")
    }

    /// What is on its disk.
    pub fn durable(&self) -> Stand {
        self.journal[self.synced]
    }

    /// Reads it in the way that makes what it shows durable.
    pub fn sync(&mut self) -> Stand {
        self.synced = self.journal.len() - 1;
        self.durable()
    }

    /// Commits, if the progress row is where it is expected.
    pub fn commit(&mut self, write: &Write, wal: &[Transaction]) -> bool {
        let before = self.shown();
        if before.end != write.expected {
            return false;
        }
        assert!(write.end >= before.end, "progress goes back from {} to {}", before.end, write.end);
        let mut now = Stand { end: write.end, ..before };
        for (commit, tables) in &write.transactions {
            let place = self.next_wanted(now.next, wal).expect("a transaction that the source never had");
            let wanted = &wal[place];
            assert_eq!(*commit, wanted.commit, "not the next transaction for it");
            assert!(tables.iter().copied().eq(self.share.of(wanted)), "not the changes of {commit:?}: {tables:?}");
            (now.next, now.last) = (place + 1, Some(LastCommit::from(commit)));
        }
        let passed = self.next_wanted(now.next, wal).map(|place| &wal[place]);
        assert!(
            passed.is_none_or(|passed| passed.end() > now.end),
            "passes over {:?} by storing {}",
            passed.map(|passed| passed.commit),
            now.end
        );
        self.journal.push(now);
        true
    }

    fn next_wanted(&self, from: usize, wal: &[Transaction]) -> Option<usize> {
        (from..wal.len()).find(|place| self.share.of(&wal[*place]).next().is_some())
    }

    /// Whether it has all that the source has for it.
    pub fn has_all(&self, wal: &[Transaction]) -> bool {
        self.next_wanted(self.shown().next, wal).is_none()
    }

    /// A session was given up; it lives on there, and may still commit.
    pub fn give_up(&mut self, write: Write) {
        self.late = Some(write);
    }

    /// It does so, or finds the progress row elsewhere.
    pub fn commit_late(&mut self, wal: &[Transaction]) {
        if let Some(write) = self.late.take().filter(|_| self.up) {
            self.commit(&write, wal);
        }
    }

    /// It crashes: the last commits that are not on its disk may be gone.
    pub fn crash(&mut self, random: &mut Random) {
        let kept = self.synced + random.place(self.journal.len() - self.synced);
        self.journal.truncate(kept + 1);
        (self.late, self.up) = (None, false);
        self.synced = kept;
        self.epoch += 1;
    }

    /// Somebody restores it from a copy that was made earlier.
    pub fn restore(&mut self, random: &mut Random) {
        let kept = random.place(self.journal.len());
        self.journal.truncate(kept + 1);
        (self.late, self.synced, self.touched) = (None, kept, true);
        self.epoch += 1;
    }
}
