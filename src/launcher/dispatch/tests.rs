//! Whatever happens between the source and the workers, every worker is given every transaction once, whole, in order.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Attach, Command, Dispatcher};
use crate::apply::progress::LastCommit;
use crate::apply::queue::{Receiver, Work, queue};
use crate::change::{Begin, Change, Commit, Delivery, Part, PgTime, TargetId};
use crate::launcher::account::Account;
use crate::launcher::gap::Gap;
use crate::lsn::{CommitLsn, DurableLsn, EndLsn, Lsn};
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::route::TargetRoute;
use crate::row::{Cell, Row};

const LANES: usize = 2;

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    /// The source sends this many transactions.
    Send(usize),
    /// The source sends the first part of a transaction, and the connection is lost.
    CutShort,
    /// A target comes back while the source sends a transaction, of which the first part was handed on.
    LoseInside(usize, bool),
    /// The connection to the source is lost.
    Reconnect,
    /// A worker takes this many pieces of work.
    Work(usize, usize),
    /// A worker dies with what it holds; its target comes back. Small: with little room, and failing from the start.
    Lose(usize, bool),
    /// Nothing happens for long.
    Quiet,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..5_usize).prop_map(Event::Send),
        1 => Just(Event::CutShort),
        1 => (0..LANES, any::<bool>()).prop_map(|(lane, small)| Event::LoseInside(lane, small)),
        1 => Just(Event::Reconnect),
        4 => (0..LANES, 1..4_usize).prop_map(|(lane, works)| Event::Work(lane, works)),
        2 => (0..LANES, any::<bool>()).prop_map(|(lane, small)| Event::Lose(lane, small)),
        1 => Just(Event::Quiet),
    ]
}

/// A worker and its target: what is stored survives it.
struct Target {
    receiver: Option<Receiver>,
    applied: Vec<u64>,
    stored: EndLsn,
    last: Option<LastCommit>,
    refused: Option<oneshot::Receiver<Gap>>,
    /// Parts of the open transaction.
    parts: u32,
}

struct World {
    dispatcher: Dispatcher,
    targets: Vec<Target>,
    /// What the source has committed: the ends of its transactions are 10, 20, ….
    sent: u64,
    /// Whether there is a session: without any lane there is none to begin.
    session: bool,
    /// Up to where this session has come.
    position: u64,
    relation: Arc<Relation>,
}

fn end(lsn: u64) -> EndLsn {
    EndLsn::new(Lsn::new(lsn))
}

impl World {
    fn new() -> Self {
        let names: Vec<String> = (0..LANES).map(|lane| format!("t{lane}")).collect();
        let account = Arc::new(Account::new(&names));
        let target =
            || Target { receiver: None, applied: Vec::new(), stored: end(1), last: None, refused: None, parts: 0 };
        let column = Column { name: "id".to_owned(), type_oid: 23, type_modifier: -1, is_key: true };
        let relation = Relation {
            id: RelationId(1),
            name: TableName::new("s", "t"),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
            binary: false,
        };
        let targets = (0..LANES).map(|_| target()).collect();
        let dispatcher = Dispatcher::new(account, LANES, 25, false);
        let mut world =
            Self { dispatcher, targets, sent: 0, session: false, position: 0, relation: Arc::new(relation) };
        for lane in 0..LANES {
            world.attach(lane, false);
        }
        world.reconnect();
        world
    }

    fn attach(&mut self, lane: usize, small: bool) {
        let target = &mut self.targets[lane];
        target.parts = 0;
        let (sender, receiver) = queue(if small { 3 } else { u64::MAX });
        receiver.set_failing(small);
        target.receiver = Some(receiver);
        let copied = HashMap::from([(self.relation.name.clone(), Lsn::new(1))]);
        let route = TargetRoute::new(TargetId(lane), Vec::new(), copied);
        let (refused, refusal) = oneshot::channel();
        target.refused = Some(refusal);
        let (stored, last) = (target.stored, target.last);
        let (id, slow, patient_until) = (TargetId(lane), Arc::default(), tokio::time::Instant::now());
        let attach = Attach { id, sender, stored, last, route, text_only: false, slow, patient_until, refused };
        if self.dispatcher.command(Command::Attach(Box::new(attach))) || !self.session {
            self.reconnect();
        }
    }

    /// The stream is read again from the lowest position that is needed.
    fn reconnect(&mut self) {
        self.dispatcher.end_session();
        let start = self.dispatcher.start();
        self.session = start.is_some();
        if let Some(start) = start {
            self.dispatcher.begin_session(start, Lsn::ZERO);
            // What commits at the start or above is sent.
            self.position = (start.as_u64() + 4) / 10 * 10;
        }
    }

    /// Every third transaction has three parts, every fifth changes nothing that is followed.
    fn parts(&self, at: u64) -> Vec<Part> {
        let number = at / 10;
        let count = parts_of(at);
        let commit_lsn = CommitLsn::new(Lsn::new(at - 5));
        let begin = Begin { xid: number as u32, commit_lsn: Some(commit_lsn), commit_time: Some(PgTime(0)) };
        let row = || Row::new(bytes::Bytes::new(), vec![Cell::Null].into()).unwrap();
        let changes = match number.is_multiple_of(5) {
            true => Vec::new(),
            false => vec![Change::Insert { relation: Arc::clone(&self.relation), new: row() }],
        };
        let commit = Commit { commit_lsn, end_lsn: end(at), time: PgTime(0) };
        (0..count)
            .map(|index| Part {
                begin,
                origin: None,
                index,
                changes: changes.clone(),
                commit: (index + 1 == count).then_some(commit),
                memory: 1,
            })
            .collect()
    }

    fn deliver(&mut self, delivery: Delivery) {
        let stop = CancellationToken::new();
        let delivered = self.dispatcher.deliver(delivery, &stop).now_or_never();
        delivered.expect("waited for a worker that was not failing").unwrap();
    }

    fn send(&mut self, transactions: usize) {
        if !self.session {
            return;
        }
        for _ in 0..transactions {
            self.position += 10;
            self.sent = self.sent.max(self.position);
            for part in self.parts(self.position) {
                self.deliver(Delivery::Part(part));
            }
        }
    }

    fn lose_inside(&mut self, parts: Vec<Part>, lane: usize, small: bool) {
        let (sent, position) = (self.sent.max(self.position + 10), self.position);
        let mut parts = parts.into_iter().map(Delivery::Part);
        self.deliver(parts.next().expect("a first part"));
        self.targets[lane].receiver = None;
        self.attach(lane, small);
        if self.position == position && self.session {
            parts.for_each(|part| self.deliver(part));
            (self.sent, self.position) = (sent, position + 10);
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Send(transactions) => self.send(transactions),
            Event::CutShort => {
                if let Some(part) =
                    self.parts(self.position + 10).into_iter().next().filter(|part| part.commit.is_none())
                    && self.session
                {
                    self.deliver(Delivery::Part(part));
                    self.reconnect();
                }
            }
            Event::LoseInside(lane, small) => {
                let parts = self.parts(self.position + 10);
                if self.session && parts.len() > 1 {
                    self.lose_inside(parts, lane, small);
                }
            }
            Event::Reconnect => self.reconnect(),
            Event::Work(lane, works) => {
                for _ in 0..works {
                    self.work(lane);
                }
            }
            Event::Lose(lane, small) => {
                self.targets[lane].receiver = None;
                self.attach(lane, small);
            }
            Event::Quiet if !self.session => {}
            Event::Quiet => self.deliver(Delivery::Quiet(end(self.position + 3))),
        }
    }

    /// A worker does one thing; returns whether there was anything to do.
    fn work(&mut self, lane: usize) -> bool {
        let target = &mut self.targets[lane];
        let Some(receiver) = &mut target.receiver else { return false };
        match receiver.next(2).now_or_never() {
            None => false,
            Some(Work::Batch(batch)) => {
                assert_eq!(target.parts, 0, "a batch inside of a transaction");
                let whole = |part: &Arc<Part>| part.commit.is_some_and(|commit| parts_of(commit_end(commit)) == 1);
                assert!(batch.transactions.iter().all(whole), "a transaction without its first parts");
                target.applied.extend(batch.transactions.iter().filter_map(|part| part.commit).map(commit_end));
                assert!(batch.end >= target.stored, "progress goes back");
                target.stored = batch.end;
                target.last = batch.commit.as_ref().map(LastCommit::from).or(target.last);
                true
            }
            Some(Work::Piece(part, _)) => {
                assert_eq!(part.index, target.parts, "a part is missing or comes twice");
                target.parts += 1;
                if let Some(commit) = part.commit {
                    assert_eq!(target.parts, parts_of(commit_end(commit)), "a transaction without its first parts");
                    target.parts = 0;
                    target.applied.push(commit_end(commit));
                    (target.stored, target.last) = (commit.end_lsn, Some(LastCommit::from(&commit)));
                }
                true
            }
            Some(Work::Abort) => {
                target.parts = 0;
                true
            }
            Some(Work::Frozen) => {
                let gap = target.refused.take().and_then(|mut refusal| refusal.try_recv().ok());
                assert_eq!(gap, None, "it is the same history");
                target.receiver = None;
                self.attach(lane, false);
                true
            }
            Some(Work::Closed) => panic!("the queue was closed"),
        }
    }
}

/// In how many parts the transaction that ends here is sent.
fn parts_of(at: u64) -> u32 {
    if (at / 10).is_multiple_of(3) { 3 } else { 1 }
}

fn commit_end(commit: Commit) -> u64 {
    commit.end_lsn.lsn().as_u64()
}

proptest! {
    #[test]
    fn every_target_gets_every_transaction_once_and_in_order(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        // In the end everybody is well, and gets all there is.
        for lane in 0..LANES {
            world.happen(&Event::Lose(lane, false));
        }
        world.reconnect();
        while world.position < world.sent {
            world.send(1);
        }
        for lane in 0..LANES {
            while world.work(lane) {}
            let wanted: Vec<u64> = (1..=world.sent / 10).filter(|n| !n.is_multiple_of(5)).map(|n| n * 10).collect();
            prop_assert_eq!(&world.targets[lane].applied, &wanted, "lane {}", lane);
        }
    }
}

/// A target that has applied the transactions up to 20, and a session that begins with the last of them.
fn resumed() -> World {
    let mut world = World::new();
    world.send(2);
    for lane in 0..LANES {
        while world.work(lane) {}
        assert_eq!(world.targets[lane].stored, end(20));
        world.attach(lane, false);
    }
    world.reconnect();
    assert_eq!(world.position, 10, "the last commit is sent again");
    world
}

#[test]
fn a_feed_whose_worker_has_ended_does_not_speak_for_its_target_any_more() {
    let mut world = resumed();
    world.send(1);
    // It was fed through another lane meanwhile, and has more than this feed was given.
    world.targets[0].receiver = None;
    world.dispatcher.account().stands_at(TargetId(0), DurableLsn::new(Lsn::new(90)), None);
    world.deliver(Delivery::Quiet(end(60)));
    let dispatched = |lane| world.dispatcher.feeds.iter().find(|feed| feed.id == TargetId(lane)).unwrap().dispatched;
    assert_eq!((dispatched(0), dispatched(1)), (end(20), end(60)));
}

/// The same positions in another history.
fn later(mut part: Part) -> Delivery {
    part.begin.commit_time = Some(PgTime(1));
    Delivery::Part(part)
}

fn refusal(world: &mut World, lane: usize) -> Option<Gap> {
    world.targets[lane].refused.as_mut().and_then(|refusal| refusal.try_recv().ok())
}

#[test]
fn a_target_that_recognises_its_last_commit_is_fed_and_not_given_it_again() {
    let mut world = resumed();
    assert!(world.dispatcher.feeds.iter().all(|feed| feed.doubtful));
    world.send(2);
    assert!(world.dispatcher.feeds.iter().all(|feed| !feed.doubtful));
    while world.work(0) {}
    assert_eq!(world.targets[0].applied, [10, 20, 30]);
    assert_eq!(refusal(&mut world, 0), None);
}

#[test]
fn a_target_whose_last_commit_is_another_one_now_is_refused_and_given_nothing() {
    for at in [20, 40] {
        let mut world = resumed();
        for part in world.parts(at) {
            world.deliver(later(part));
        }
        let gap = refusal(&mut world, 0).expect("it must be refused");
        assert!(matches!(gap, Gap::OtherHistory { found: Some(_), .. }), "{gap}");
        assert!(gap.to_string().contains("committed at 0/F (2000-01-01T00:00:00.000000Z)"), "{gap}");
        assert!(world.dispatcher.is_empty());
        while matches!(world.targets[0].receiver.as_mut().unwrap().next(2).now_or_never(), Some(Work::Batch(_))) {}
        assert_eq!(world.targets[0].stored, end(20));
    }
}

#[test]
fn a_source_that_has_nothing_where_the_last_commit_was_is_refused() {
    let mut world = resumed();
    world.deliver(Delivery::Quiet(end(15)));
    assert_eq!(refusal(&mut world, 0), None, "it may still come");
    world.deliver(Delivery::Quiet(end(16)));
    assert!(matches!(refusal(&mut world, 0), Some(Gap::OtherHistory { found: None, .. })));
}

#[test]
fn a_slot_that_was_confirmed_beyond_the_last_commit_is_proof_enough() {
    let mut world = resumed();
    world.dispatcher.end_session();
    world.dispatcher.begin_session(Lsn::new(15), Lsn::new(20));
    assert!(world.dispatcher.feeds.iter().all(|feed| !feed.doubtful));
}

#[test]
fn what_is_new_where_a_target_had_passed_over_nothing_is_another_history() {
    for change_of in [true, false] {
        let mut world = resumed();
        // Nothing came after 20, and the positions were stored up to 40.
        for target in &mut world.targets {
            target.stored = end(40);
        }
        (0..LANES).for_each(|lane| world.attach(lane, false));
        world.reconnect();
        assert_eq!(world.position, 10, "the last commit is sent again");
        world.send(1);
        let mut parts = world.parts(30);
        if !change_of {
            parts.iter_mut().for_each(|part| part.changes.clear());
        }
        parts.into_iter().for_each(|part| world.deliver(Delivery::Part(part)));
        let gap = refusal(&mut world, 0);
        assert_eq!(matches!(gap, Some(Gap::OtherHistory { found: Some(_), .. })), change_of, "{gap:?}");
    }
}
