//! A target's worker, which does as `apply/worker.rs` does: it takes from the real queue, and its target is a model.

use std::sync::Arc;

use futures_util::FutureExt;

use super::random::Random;
use super::source::Source;
use super::target::{Target, Write};
use crate::apply::queue::{Batch, Receiver, Work};
use crate::change::{Change, Commit, Part, TargetId};
use crate::launcher::account::Account;
use crate::lsn::{DurableLsn, EndLsn, Lsn};

pub struct Worker {
    id: TargetId,
    receiver: Receiver,
    /// Where the progress row is expected.
    stored: u64,
    /// Of the target's session.
    epoch: u32,
    /// The session is lost.
    broken: bool,
    hand: Option<Batch>,
    /// The tables of the changes of the open transaction, and how many parts have come.
    open: Option<(Vec<u32>, u32)>,
    pub failing: bool,
    /// Of the lane that feeds it.
    origin: Arc<Account>,
    batch_bytes: u64,
}

/// Why it ended, as in `apply/worker.rs`.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Drained,
    CaughtUp,
    Lost,
}

fn tables(part: &Part) -> impl Iterator<Item = u32> + '_ {
    part.changes.iter().map(|change| match change {
        Change::Insert { relation, .. } => relation.id.0,
        other => panic!("the source never had {other:?}"),
    })
}

fn end(commit: &Commit) -> u64 {
    commit.end_lsn.lsn().as_u64()
}

impl Worker {
    pub fn new(
        id: TargetId,
        receiver: Receiver,
        stored: u64,
        epoch: u32,
        origin: Arc<Account>,
        random: &mut Random,
    ) -> Self {
        let batch_bytes = random.pick(&[1, 1_000, 1 << 20]);
        let (hand, open) = (None, None);
        Self { id, receiver, stored, epoch, broken: false, hand, open, failing: false, origin, batch_bytes }
    }

    /// Bytes in its queue.
    pub fn queued(&self) -> u64 {
        self.receiver.gauge().bytes()
    }

    fn is_connected(&self, target: &Target) -> bool {
        target.up && !self.broken && self.epoch == target.epoch
    }

    fn fails(&mut self, failing: bool) {
        if std::mem::replace(&mut self.failing, failing) != failing {
            self.receiver.set_failing(failing);
        }
    }

    /// The next thing it does; `fed`: the account of the lane that feeds it now.
    pub fn step(
        &mut self,
        target: &mut Target,
        source: &Source,
        fed: &Account,
        random: &mut Random,
    ) -> Result<(), Ended> {
        if !self.is_connected(target) {
            return self.reopen(target);
        }
        if let Some(batch) = self.hand.take() {
            return self.batch(batch, target, source, fed, random);
        }
        match self.receiver.next(self.batch_bytes).now_or_never() {
            None => Ok(()),
            Some(Work::Batch(batch)) => {
                assert!(self.open.is_none(), "a batch inside of a transaction");
                self.hand = Some(batch);
                Ok(())
            }
            Some(Work::Piece(part, _held)) => self.piece(&part, target, source, fed, random),
            Some(Work::Abort) => {
                self.open = None;
                Ok(())
            }
            Some(Work::Frozen) => Err(Ended::CaughtUp),
            Some(Work::Closed) => Err(Ended::Drained),
        }
    }

    /// The target may have come back without its last commits, or with one whose answer was lost.
    fn reopen(&mut self, target: &Target) -> Result<(), Ended> {
        if self.open.is_some() {
            return Err(Ended::Lost);
        }
        self.fails(true);
        if !target.up {
            return Ok(());
        }
        let found = target.shown().end;
        let is_done = |batch: &Batch| {
            let mut ends = batch.transactions.iter().filter_map(|part| part.commit);
            batch.end.lsn().as_u64() == found || ends.any(|commit| end(&commit) == found)
        };
        if found != self.stored && !(found > self.stored && self.hand.as_ref().is_some_and(is_done)) {
            return Err(Ended::Lost);
        }
        (self.stored, self.epoch, self.broken) = (found, target.epoch, false);
        if self.hand.is_none() {
            self.fails(false);
        }
        Ok(())
    }

    fn batch(
        &mut self,
        batch: Batch,
        target: &mut Target,
        source: &Source,
        fed: &Account,
        random: &mut Random,
    ) -> Result<(), Ended> {
        let received = self.origin.received_lsn();
        assert!(received >= Some(batch.end.lsn()), "dispatched {} of what was received up to {received:?}", batch.end);
        let whole = |part: &Arc<Part>| {
            assert!(part.is_whole(), "a transaction without its other parts");
            part.commit.map(|commit| (commit, tables(part).collect()))
        };
        let transactions = batch.transactions.iter().filter_map(whole);
        let transactions = transactions.filter(|(commit, _)| end(commit) > self.stored).collect();
        let write = Write { expected: self.stored, end: batch.end.lsn().as_u64(), transactions };
        if write.end > self.stored && !self.commit(write, batch.commit.as_ref(), target, source, fed, random)? {
            self.hand = Some(batch);
            return Ok(());
        }
        self.fails(false);
        Ok(())
    }

    /// Tells whether it was answered.
    fn commit(
        &mut self,
        write: Write,
        last: Option<&Commit>,
        target: &mut Target,
        source: &Source,
        fed: &Account,
        random: &mut Random,
    ) -> Result<bool, Ended> {
        if random.fault(6) {
            self.broken = true;
            self.fails(true);
            match random.below(3) {
                0 => {}
                1 => _ = target.commit(&write, &source.wal),
                _ => target.give_up(write),
            }
            return Ok(false);
        }
        if !target.commit(&write, &source.wal) {
            return Err(Ended::Lost);
        }
        self.stored = write.end;
        fed.committed(self.id, EndLsn::new(Lsn::new(write.end)), last.map(|commit| commit.time));
        Ok(true)
    }

    fn piece(
        &mut self,
        part: &Part,
        target: &mut Target,
        source: &Source,
        fed: &Account,
        random: &mut Random,
    ) -> Result<(), Ended> {
        let (mut open, parts) = self.open.take().unwrap_or_default();
        assert_eq!(part.index, parts, "a part is missing or comes twice");
        open.extend(tables(part));
        let Some(commit) = part.commit else {
            self.open = Some((open, parts + 1));
            return Ok(());
        };
        let write = Write { expected: self.stored, end: end(&commit), transactions: vec![(commit, open)] };
        match self.commit(write, Some(&commit), target, source, fed, random)? {
            true => Ok(()),
            false => Err(Ended::Lost),
        }
    }

    /// What is committed is made durable, and told.
    pub fn flush(&self, target: &mut Target, fed: &Account) {
        if self.is_connected(target) {
            let durable = target.sync().end;
            fed.durable(self.id, DurableLsn::new(Lsn::new(durable)));
        }
    }

    /// The daemon is killed: a COMMIT that was sent may take effect later.
    pub fn die(self, target: &mut Target, random: &mut Random) {
        let connected = self.is_connected(target);
        let Some(batch) = self.hand.filter(|_| connected && random.chance(60)) else { return };
        let whole = |part: &Arc<Part>| part.commit.map(|commit| (commit, tables(part).collect()));
        let transactions = batch.transactions.iter().filter_map(whole);
        let transactions = transactions.filter(|(commit, _)| end(commit) > self.stored).collect();
        let end = batch.end.lsn().as_u64();
        if end > self.stored {
            target.give_up(Write { expected: self.stored, end, transactions });
        }
    }
}
