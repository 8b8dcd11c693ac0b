//! Whatever happens between the source and the workers, every worker is given every transaction once, whole, in order.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{Attach, Command, Dispatcher};
use crate::apply::queue::{Receiver, Work, queue};
use crate::change::{Begin, Change, Commit, Delivery, Part, PgTime, TargetId};
use crate::launcher::board::Board;
use crate::lsn::{CommitLsn, EndLsn, Lsn};
use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};
use crate::route::TargetRoute;
use crate::row::{Cell, Row};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

const LANES: usize = 2;

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    /// The source sends this many transactions.
    Send(usize),
    /// The source sends the first part of a transaction, and the connection is lost.
    CutShort,
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
        let health = Health::new("s", names.iter().map(String::as_str));
        let board = Arc::new(Board::new(&names, health, Metrics::new()));
        let target = || Target { receiver: None, applied: Vec::new(), stored: end(1), parts: 0 };
        let column = Column { name: "id".to_owned(), type_oid: 23, type_modifier: -1, is_key: true };
        let relation = Relation {
            id: RelationId(1),
            name: TableName::new("s", "t"),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
        };
        let targets = (0..LANES).map(|_| target()).collect();
        let dispatcher = Dispatcher::new(board, 25);
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
        let attach = Attach { id: TargetId(lane), sender, stored: target.stored, route };
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
            self.dispatcher.begin_session(start);
            self.position = start.lsn().as_u64() / 10 * 10;
        }
    }

    /// Every third transaction has three parts, every fifth changes nothing that is followed.
    fn parts(&self, at: u64) -> Vec<Part> {
        let number = at / 10;
        let count: u32 = if number.is_multiple_of(3) { 3 } else { 1 };
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
                target.applied.extend(batch.transactions.iter().filter_map(|part| part.commit).map(commit_end));
                assert!(batch.end >= target.stored, "progress goes back");
                target.stored = batch.end;
                true
            }
            Some(Work::Piece(part, _)) => {
                assert_eq!(part.index, target.parts, "a part is missing or comes twice");
                target.parts += 1;
                if let Some(commit) = part.commit {
                    target.parts = 0;
                    target.applied.push(commit_end(commit));
                    target.stored = commit.end_lsn;
                }
                true
            }
            Some(Work::Abort) => {
                target.parts = 0;
                true
            }
            Some(Work::Frozen) => {
                target.receiver = None;
                self.attach(lane, false);
                true
            }
            Some(Work::Closed) => panic!("the queue was closed"),
        }
    }
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
