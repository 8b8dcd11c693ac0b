//! The queue before one apply worker: bounded in bytes, gathering the next batch while the present one is applied.
//!
//! A worker that has nothing to do takes what comes at once. Only while the source is late anyway it lets a batch grow
//! first, because what a target commit costs by itself is shared by all that is in it.
//!
//! What a worker has taken counts until it is done with it, so the bound covers everything alive for this target. A
//! single part larger than the bound is let in when the queue is otherwise empty: it must pass somehow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::change::{Commit, Part};
use crate::lsn::EndLsn;

/// While the source is late, a batch grows to this many bytes …
const GROWN: u64 = 512 << 10;

/// … or for this long, but for a quarter of the time at most by which the source is late.
const GROWS: Duration = Duration::from_millis(8);

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

impl Work {
    /// What is to be applied.
    pub fn parts(&self) -> &[Arc<Part>] {
        match self {
            Self::Batch(batch) => &batch.transactions,
            Self::Piece(part, _) => std::slice::from_ref(part),
            Self::Abort | Self::Frozen | Self::Closed => &[],
        }
    }
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
    /// Of the items.
    queued: u64,
    /// Of the items and of what was taken and is alive.
    bytes: u64,
    closed: bool,
    frozen: bool,
    failing: bool,
    /// By how much the source is late.
    late: Duration,
    /// The worker lets its next batch grow.
    growing: bool,
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

    /// How large a batch is that needs not grow. Half a queue is left to what comes meanwhile.
    fn grown(&self) -> u64 {
        GROWN.min(self.limit / 2)
    }

    /// Whether what is queued may still grow before it is taken.
    fn may_grow(&self, state: &State) -> bool {
        let whole = |item: &Item| matches!(item, Item::Part(part) if part.is_whole());
        state.growing
            && !state.late.is_zero()
            && !state.closed
            && !state.frozen
            && state.queued < self.grown()
            && state.items.iter().next_back().is_some_and(whole)
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
        state.queued += bytes;
        state.items.push_back(Item::Part(Arc::clone(part)));
        let ready = !self.0.may_grow(&state);
        drop(state);
        if ready {
            self.0.filled.notify_one();
        }
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

    /// By how much the source is late; zero: it is not.
    pub fn set_late(&self, late: Duration) {
        self.0.state().late = late;
        if late.is_zero() {
            self.0.filled.notify_one();
        }
    }

    /// Whether the worker says that it is not getting on.
    pub fn is_failing(&self) -> bool {
        self.0.state().failing
    }

    /// Whether the worker has ended: what is sent is for nobody.
    pub fn is_gone(&self) -> bool {
        self.0.state().gone
    }

    /// Whether less than half of what it holds is in it, so that its worker may soon have nothing to do.
    pub fn is_low(&self) -> bool {
        self.0.state().bytes <= self.0.limit / 2
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
        let mut grown = None;
        loop {
            if let Some(work) = self.take(batch_bytes, grown.is_some_and(|grown| grown <= Instant::now())) {
                return work;
            }
            let late = Some(self.0.state()).filter(|state| state.growing).map(|state| state.late);
            let Some(late) = late else {
                self.0.filled.notified().await;
                continue;
            };
            let until = *grown.get_or_insert_with(|| Instant::now() + GROWS.min(late / 4));
            // Either way there is something to look at.
            let _ = timeout_at(until, self.0.filled.notified()).await;
        }
    }

    /// The next batch, if it is a large one that waits already, or the next piece.
    fn waiting(&self, batch_bytes: u64) -> Option<Work> {
        let mut state = self.0.state();
        match state.items.front() {
            Some(Item::Part(part)) if !part.is_whole() => self.piece(&mut state),
            Some(Item::Part(_)) if state.queued >= self.0.grown() => {
                self.gather(&mut state, batch_bytes).map(Work::Batch)
            }
            _ => None,
        }
    }

    /// Tells the dispatcher whether this worker is getting on; a full queue before a failing one holds up nobody.
    pub fn set_failing(&self, failing: bool) {
        self.0.state().failing = failing;
        self.0.drained.notify_one();
    }

    fn take(&self, batch_bytes: u64, grown: bool) -> Option<Work> {
        let mut state = self.0.state();
        state.growing = !grown && !state.items.is_empty();
        if self.0.may_grow(&state) {
            return None;
        }
        state.growing = false;
        match state.items.front() {
            None if state.frozen => return Some(Work::Frozen),
            None if state.closed => return Some(Work::Closed),
            None => return None,
            Some(Item::Abort) => {
                state.items.pop_front();
                return Some(Work::Abort);
            }
            Some(Item::Part(part)) if !part.is_whole() => return self.piece(&mut state),
            Some(_) => {}
        }
        Some(Work::Batch(self.gather(&mut state, batch_bytes)?))
    }

    /// The first part.
    fn piece(&self, state: &mut State) -> Option<Work> {
        let Some(Item::Part(part)) = state.items.pop_front() else { return None };
        let bytes = part.memory as u64;
        state.queued -= bytes;
        Some(Work::Piece(part, Held { shared: Some(Arc::clone(&self.0)), bytes }))
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
        state.queued -= bytes;
        let held = Held { shared: Some(Arc::clone(&self.0)), bytes };
        end.map(|end| Batch { transactions, end, commit: last, held })
    }
}

/// A look at the batch or piece after the one that is being applied.
pub struct Ahead<'a> {
    queue: &'a Receiver,
    batch_bytes: u64,
    next: &'a mut Option<Work>,
}

impl<'a> Ahead<'a> {
    /// What comes from `queue` goes to `next`.
    pub fn new(queue: &'a Receiver, batch_bytes: u64, next: &'a mut Option<Work>) -> Self {
        Self { queue, batch_bytes, next }
    }

    /// The next batch, if it is a large one that waits already, or the next piece.
    pub fn look(&mut self) -> Option<&Work> {
        if self.next.is_none() {
            *self.next = self.queue.waiting(self.batch_bytes);
        }
        self.next.as_ref()
    }
}

/// A worker that ends takes its queue with it: nobody waits for room that will never come.
impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.failing, state.gone) = (true, true);
        let queued = std::mem::take(&mut state.items);
        state.bytes -= queued.iter().map(Item::bytes).sum::<u64>();
        state.queued = 0;
        drop(state);
        self.0.drained.notify_one();
    }
}

#[cfg(test)]
mod tests;
