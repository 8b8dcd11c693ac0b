//! The queue before one apply worker: bounded in bytes, gathering the next batch while the present one is applied.
//!
//! What a worker has taken counts until it is done with it, so the bound covers everything alive for this target. A
//! single part larger than the bound is let in when the queue is otherwise empty: it must pass somehow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::change::{Commit, Part};
use crate::lsn::EndLsn;

/// What the dispatcher sends to a worker.
#[derive(Debug)]
pub enum Item {
    /// A transaction or its next part.
    Part(Arc<Part>),
    /// Everything up to here is without effect on this target: move the progress row.
    Advance(EndLsn),
    /// The parts of the open transaction will be sent again from the first: roll back.
    Abort,
}

impl Item {
    fn bytes(&self) -> u64 {
        match self {
            Item::Part(part) => part.memory as u64,
            Item::Advance(_) | Item::Abort => 0,
        }
    }
}

/// What a worker does next.
#[derive(Debug)]
pub enum Work {
    /// Whole transactions, to be applied in one target transaction.
    Batch(Batch),
    /// A stretch of a transaction too large for one batch.
    Piece(Arc<Part>, Held),
    /// Roll back the open transaction.
    Abort,
    /// The dispatcher has stopped sending because this worker was failing and its queue was full; all is taken.
    Frozen,
    /// No more will come; all is taken.
    Closed,
}

/// Consecutive whole transactions.
#[derive(Debug)]
pub struct Batch {
    /// In commit order; may be empty when only the position moves.
    pub transactions: Vec<Arc<Part>>,
    /// The position once they are applied.
    pub end: EndLsn,
    /// The last of them.
    pub commit: Option<Commit>,
    /// Keeps the bytes counted.
    pub held: Held,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: u64,
    closed: bool,
    frozen: bool,
    failing: bool,
    /// The worker has ended.
    gone: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    limit: u64,
    /// Told when there may be work.
    filled: Notify,
    /// Told when there may be room, or when the worker's `failing` has changed.
    drained: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes taken from the queue and still alive; counted until dropped.
#[derive(Debug, Default)]
pub struct Held {
    shared: Option<Arc<Shared>>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.state().bytes -= self.bytes;
            shared.drained.notify_one();
        }
    }
}

/// A queue that holds up to `limit` bytes of changes.
pub fn queue(limit: u64) -> (Sender, Receiver) {
    let shared = Arc::new(Shared { state: Mutex::default(), limit, filled: Notify::new(), drained: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// The dispatcher's end.
#[derive(Debug)]
pub struct Sender(Arc<Shared>);

impl Sender {
    /// Appends a part if there is room.
    pub fn offer(&self, part: &Arc<Part>) -> bool {
        let mut state = self.0.state();
        let bytes = part.memory as u64;
        if state.gone || (state.bytes > 0 && state.bytes + bytes > self.0.limit) {
            return false;
        }
        state.bytes += bytes;
        state.items.push_back(Item::Part(Arc::clone(part)));
        drop(state);
        self.0.filled.notify_one();
        true
    }

    /// Appends a position or an abort; these always fit.
    pub fn mark(&self, item: Item) {
        debug_assert!(!matches!(item, Item::Part(_)), "parts are offered");
        let mut state = self.0.state();
        // Positions that follow each other are one position.
        if let (Item::Advance(_), Some(Item::Advance(_))) = (&item, state.items.back()) {
            state.items.pop_back();
        }
        state.items.push_back(item);
        drop(state);
        self.0.filled.notify_one();
    }

    /// Whether the worker says that it is not getting on.
    pub fn is_failing(&self) -> bool {
        self.0.state().failing
    }

    /// Waits until something has changed that lets a refused offer be made again.
    pub async fn changed(&self) {
        self.0.drained.notified().await;
    }

    /// Sends no more because the worker is failing: once it has taken all, it is told so.
    pub fn freeze(self) {
        self.0.state().frozen = true;
        self.0.filled.notify_one();
    }
}

/// A dropped sender closes the queue: what is queued is still applied.
impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.filled.notify_one();
    }
}

/// Tells how full a queue is, for as long as it is there.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Weak<Shared>);

impl Gauge {
    /// Bytes queued or being applied.
    pub fn bytes(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| shared.state().bytes)
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Receiver(Arc<Shared>);

impl Receiver {
    /// Tells how full the queue is, also while the worker has the receiver.
    pub fn gauge(&self) -> Gauge {
        Gauge(Arc::downgrade(&self.0))
    }

    /// The next work, gathering up to `batch_bytes` of whole transactions. Cancel-safe.
    pub async fn next(&mut self, batch_bytes: u64) -> Work {
        loop {
            if let Some(work) = self.take(batch_bytes) {
                return work;
            }
            self.0.filled.notified().await;
        }
    }

    /// Tells the dispatcher whether this worker is getting on; a full queue before a failing one holds up nobody.
    pub fn set_failing(&self, failing: bool) {
        self.0.state().failing = failing;
        self.0.drained.notify_one();
    }

    fn take(&self, batch_bytes: u64) -> Option<Work> {
        let mut state = self.0.state();
        match state.items.front() {
            None if state.frozen => return Some(Work::Frozen),
            None if state.closed => return Some(Work::Closed),
            None => return None,
            Some(Item::Abort) => {
                state.items.pop_front();
                return Some(Work::Abort);
            }
            Some(Item::Part(part)) if !part.is_whole() => {
                let part = Arc::clone(part);
                state.items.pop_front();
                let held = Held { shared: Some(Arc::clone(&self.0)), bytes: part.memory as u64 };
                return Some(Work::Piece(part, held));
            }
            Some(_) => {}
        }
        Some(Work::Batch(self.gather(&mut state, batch_bytes)?))
    }

    fn gather(&self, state: &mut State, batch_bytes: u64) -> Option<Batch> {
        let mut transactions = Vec::new();
        let (mut end, mut last, mut bytes) = (None, None, 0);
        while let Some(item) = state.items.front() {
            match item {
                Item::Advance(lsn) => end = Some(*lsn),
                Item::Part(part) => {
                    let Some(commit) = part.commit.filter(|_| part.is_whole()) else { break };
                    let size = part.memory as u64;
                    if !transactions.is_empty() && bytes + size > batch_bytes {
                        break;
                    }
                    bytes += size;
                    (end, last) = (Some(commit.end_lsn), Some(commit));
                    transactions.push(Arc::clone(part));
                }
                Item::Abort => break,
            }
            state.items.pop_front();
        }
        let held = Held { shared: Some(Arc::clone(&self.0)), bytes };
        end.map(|end| Batch { transactions, end, commit: last, held })
    }
}

/// A worker that ends takes its queue with it: nobody waits for room that will never come.
impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.failing, state.gone) = (true, true);
        let queued = std::mem::take(&mut state.items);
        state.bytes -= queued.iter().map(Item::bytes).sum::<u64>();
        drop(state);
        self.0.drained.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Begin, PgTime};
    use crate::lsn::{CommitLsn, Lsn};

    /// A part of the transaction that ends at `end`.
    fn part(end: u64, index: u32, last: bool, memory: usize) -> Arc<Part> {
        let commit_lsn = CommitLsn::new(Lsn::new(end - 1));
        let begin = Begin { xid: 1, commit_lsn: Some(commit_lsn), commit_time: Some(PgTime(0)) };
        let commit = last.then(|| Commit { commit_lsn, end_lsn: lsn(end), time: PgTime(end as i64) });
        Arc::new(Part { begin, origin: None, index, changes: Vec::new(), commit, memory })
    }

    fn lsn(end: u64) -> EndLsn {
        EndLsn::new(Lsn::new(end))
    }

    fn whole(end: u64, memory: usize) -> Arc<Part> {
        part(end, 0, true, memory)
    }

    async fn batch(receiver: &mut Receiver, bytes: u64) -> Batch {
        match receiver.next(bytes).await {
            Work::Batch(batch) => batch,
            other => panic!("{other:?} in place of a batch"),
        }
    }

    #[tokio::test]
    async fn consecutive_transactions_become_one_batch_up_to_its_limit() {
        let (sender, mut receiver) = queue(1_000);
        for end in [10, 20, 30] {
            assert!(sender.offer(&whole(end, 40)));
        }
        let first = batch(&mut receiver, 100).await;
        assert_eq!(
            (first.transactions.len(), first.end, first.commit.map(|commit| commit.time)),
            (2, lsn(20), Some(PgTime(20)))
        );
        assert_eq!(batch(&mut receiver, 100).await.end, lsn(30));
    }

    #[tokio::test]
    async fn a_transaction_larger_than_a_batch_is_a_batch_of_its_own() {
        let (sender, mut receiver) = queue(1_000);
        assert!(sender.offer(&whole(10, 500)) && sender.offer(&whole(20, 1)));
        assert_eq!(batch(&mut receiver, 100).await.end, lsn(10));
    }

    #[tokio::test]
    async fn pieces_are_handed_out_one_by_one_and_keep_their_place() {
        let (sender, mut receiver) = queue(1_000);
        for part in [whole(10, 1), part(20, 0, false, 1), part(20, 1, true, 1), whole(30, 1)] {
            assert!(sender.offer(&part));
        }
        assert_eq!(batch(&mut receiver, 100).await.end, lsn(10));
        for index in [0, 1] {
            assert!(matches!(receiver.next(100).await, Work::Piece(part, _) if part.index == index));
        }
        assert_eq!(batch(&mut receiver, 100).await.end, lsn(30));
    }

    #[tokio::test]
    async fn what_is_taken_counts_until_it_is_done_with() {
        let (sender, mut receiver) = queue(100);
        assert!(sender.offer(&whole(10, 80)));
        let taken = batch(&mut receiver, 100).await;
        assert!(!sender.offer(&whole(20, 80)), "80 of 100 bytes are being applied");
        assert_eq!(receiver.gauge().bytes(), 80);
        drop(taken);
        sender.changed().await;
        assert!(sender.offer(&whole(20, 80)));
    }

    #[tokio::test]
    async fn a_part_larger_than_the_queue_passes_when_it_is_empty() {
        let (sender, _receiver) = queue(100);
        assert!(sender.offer(&whole(10, 500)));
        assert!(!sender.offer(&whole(20, 1)));
    }

    #[tokio::test]
    async fn a_position_is_stored_with_what_precedes_it() {
        let (sender, mut receiver) = queue(100);
        assert!(sender.offer(&whole(10, 1)));
        sender.mark(Item::Advance(lsn(15)));
        sender.mark(Item::Advance(lsn(18)));
        let batch = batch(&mut receiver, 100).await;
        assert_eq!((batch.transactions.len(), batch.end), (1, lsn(18)));
    }

    #[tokio::test]
    async fn a_closed_queue_and_a_frozen_one_are_emptied_first() {
        for freeze in [false, true] {
            let (sender, mut receiver) = queue(100);
            assert!(sender.offer(&whole(10, 1)));
            if freeze {
                sender.freeze()
            } else {
                drop(sender)
            }
            assert_eq!(batch(&mut receiver, 100).await.end, lsn(10));
            match receiver.next(100).await {
                Work::Frozen => assert!(freeze),
                Work::Closed => assert!(!freeze),
                other => panic!("{other:?} from an empty queue"),
            }
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_worker_that_is_gone() {
        let (sender, receiver) = queue(100);
        assert!(sender.offer(&whole(10, 100)));
        drop(receiver);
        sender.changed().await;
        assert!(sender.is_failing() && !sender.offer(&whole(20, 1)));
    }
}
