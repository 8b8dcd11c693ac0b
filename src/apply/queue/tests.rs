//! Order, bounds, growth, and what a worker is shown of the batch after the present one.

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

const LATE: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_worker_takes_at_once_what_comes_while_the_source_keeps_up() {
    let (sender, mut receiver) = queue(1 << 30);
    let begun = Instant::now();
    sender.offer(&whole(10, 1));
    assert_eq!(batch(&mut receiver, 1 << 20).await.end, lsn(10));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn while_the_source_is_late_a_batch_grows_for_a_while() {
    for (late, grows) in [(LATE, GROWS), (Duration::from_millis(12), Duration::from_millis(3))] {
        let (sender, mut receiver) = queue(1 << 30);
        sender.set_late(late);
        sender.offer(&whole(10, 1));
        let begun = Instant::now();
        let (batch, ()) = tokio::join!(batch(&mut receiver, 1 << 20), async {
            tokio::time::sleep(grows / 2).await;
            sender.offer(&whole(20, 1));
        });
        assert_eq!((batch.end, begun.elapsed()), (lsn(20), grows));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_grown_is_taken() {
    let begun = Instant::now();
    let (sender, mut receiver) = queue(1 << 30);
    sender.set_late(LATE);
    sender.offer(&whole(10, 1));
    let (grown, ()) = tokio::join!(batch(&mut receiver, 1 << 20), async {
        tokio::task::yield_now().await;
        sender.offer(&whole(20, GROWN as usize));
    });
    assert_eq!(grown.end, lsn(20));
    // Half of a small queue is as good.
    let (sender, mut receiver) = queue(100);
    sender.set_late(LATE);
    sender.offer(&whole(10, 50));
    assert_eq!(batch(&mut receiver, 1 << 20).await.end, lsn(10));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_that_will_not_or_that_somebody_waits_for() {
    type Then = fn(Sender) -> Option<Sender>;
    let then: [Then; 5] = [
        |sender| {
            sender.set_late(Duration::ZERO);
            Some(sender)
        },
        |sender| {
            sender.mark(Item::Advance(lsn(20)));
            Some(sender)
        },
        |sender| {
            sender.mark(Item::Abort);
            Some(sender)
        },
        |sender| {
            sender.freeze();
            None
        },
        |sender| {
            drop(sender);
            None
        },
    ];
    for then in then {
        let (sender, mut receiver) = queue(1 << 30);
        sender.set_late(LATE);
        sender.offer(&whole(10, 1));
        let begun = Instant::now();
        let (batch, _sender) = tokio::join!(batch(&mut receiver, 1 << 20), async {
            tokio::task::yield_now().await;
            then(sender)
        });
        assert!(batch.end >= lsn(10));
        assert_eq!(begun.elapsed(), Duration::ZERO);
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

#[tokio::test]
async fn a_worker_is_shown_the_next_batch_only_if_a_large_one_waits() {
    let (sender, mut receiver) = queue(100);
    let mut next = None;
    sender.offer(&whole(10, 20));
    let present = batch(&mut receiver, 50).await;
    assert!(Ahead::new(&receiver, 50, &mut next).look().is_none(), "nothing waits");
    sender.offer(&whole(20, 49));
    assert!(Ahead::new(&receiver, 50, &mut next).look().is_none(), "what waits may still grow");
    sender.offer(&whole(30, 1));
    assert_eq!(shown(&receiver, &mut next), [(20, 0), (30, 0)]);
    sender.offer(&whole(40, 29));
    assert_eq!(shown(&receiver, &mut next), [(20, 0), (30, 0)], "the same again");
    assert!(!sender.offer(&whole(50, 2)), "what was taken counts: 20, 50 and 29");
    drop(present);
    assert!(sender.offer(&whole(50, 2)));
    drop(next);
    assert_eq!(batch(&mut receiver, 50).await.end, lsn(50), "and it is not given again");
}

#[tokio::test]
async fn a_worker_is_shown_the_next_piece_and_nothing_beyond_an_abort() {
    let (sender, mut receiver) = queue(100);
    let mut next = None;
    sender.offer(&part(10, 0, false, 40));
    sender.offer(&part(10, 1, false, 40));
    sender.mark(Item::Abort);
    sender.offer(&part(10, 0, false, 20));
    let Work::Piece(present, _held) = receiver.next(50).await else { panic!("not a piece") };
    assert_eq!((present.index, shown(&receiver, &mut next)), (0, vec![(10, 1)]));
    drop(next.take());
    assert_eq!(shown(&receiver, &mut next), []);
    assert!(matches!(receiver.next(50).await, Work::Abort));
}

/// The parts that are shown: where their transaction ends, and which part of it they are.
fn shown(receiver: &Receiver, next: &mut Option<Work>) -> Vec<(u64, u32)> {
    let end = |part: &Arc<Part>| part.begin.commit_lsn.map_or(0, |lsn| lsn.lsn().as_u64() + 1);
    let mut ahead = Ahead::new(receiver, 50, next);
    ahead.look().map_or(&[][..], Work::parts).iter().map(|part| (end(part), part.index)).collect()
}
