//! A lane as the daemon has it: its account, and the path that reads its slot, which does as `pipeline.rs` does.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::random::Random;
use super::source::{Source, Transaction};
use crate::change::Delivery;
use crate::launcher::account::Account;
use crate::launcher::dispatch::{Command, Dispatcher};
use crate::lsn::{EndLsn, Lsn};

pub struct Lane {
    /// Its place among the source's slots.
    pub slot: usize,
    pub account: Arc<Account>,
    /// Not at work without.
    pub path: Option<Path>,
}

pub struct Path {
    slot: usize,
    dispatcher: Dispatcher,
    pub commands: VecDeque<Command>,
    stream: Stream,
}

/// A replication connection.
enum Stream {
    None,
    /// The slot is taken; where it stands is still to be asked.
    Opening(u64),
    Running(Session),
}

struct Session {
    /// The next transaction, and the next of its parts.
    next: (usize, usize),
    /// Up to here nothing more commits.
    quiet: u64,
    /// The most that was told, and whether it has arrived.
    told: u64,
}

/// What a closed path leaves.
pub struct Connection(Stream);

/// The path has ended by itself: the slot is gone, or stands above what the targets were served up to.
#[derive(Debug)]
pub struct Ended;

impl Lane {
    pub fn new(slot: usize, account: Arc<Account>) -> Self {
        Self { slot, account, path: None }
    }

    /// Starts the path, if it is not at work.
    pub fn start(&mut self, targets: usize, isolates: bool, random: &mut Random) -> &mut Path {
        let (slot, account) = (self.slot, &self.account);
        self.path.get_or_insert_with(|| Path {
            slot,
            dispatcher: Dispatcher::new(Arc::clone(account), targets, random.pick(&[200, 100_000, 16 << 20]), isolates),
            commands: VecDeque::new(),
            stream: Stream::None,
        })
    }

    /// Asks something of the path; in vain, if it is gone.
    pub fn send(&mut self, command: Command) {
        if let Some(path) = &mut self.path {
            path.commands.push_back(command);
        }
    }

    /// The path does its next step; `room`: no queue is full.
    pub fn step(&mut self, source: &mut Source, room: bool, random: &mut Random, time: &Runtime) -> Result<(), Ended> {
        let Some(path) = &mut self.path else { return Ok(()) };
        let result = path.step(source, room, random, time);
        if result.is_err() {
            self.cut(source);
            self.path = None;
        }
        result
    }

    /// A status update is sent, and perhaps arrives.
    pub fn report(&mut self, source: &mut Source, random: &mut Random) {
        let confirmed = self.confirmed();
        if let Some(Path { slot, stream: Stream::Running(session), .. }) = &mut self.path {
            if random.is_calm() || random.chance(70) {
                session.told = session.told.max(confirmed);
            }
            if random.is_calm() || random.chance(70) {
                source.confirm(*slot, session.told);
            }
        }
    }

    fn confirmed(&self) -> u64 {
        self.account.confirmed().borrow().map_or(0, |confirmed| confirmed.lsn().as_u64())
    }

    /// The connection to the source is lost, or what had it is.
    pub fn cut(&mut self, source: &mut Source) {
        let Some(path) = &mut self.path else { return };
        match std::mem::replace(&mut path.stream, Stream::None) {
            Stream::None => {}
            Stream::Opening(_) => source.abandon(self.slot, 0),
            Stream::Running(session) => source.abandon(self.slot, session.told),
        }
    }

    /// The path goes on without.
    pub fn lose(&mut self, source: &mut Source) {
        let was_there = self.path.as_ref().is_some_and(|path| !matches!(path.stream, Stream::None));
        self.cut(source);
        if let Some(path) = self.path.as_mut().filter(|_| was_there) {
            path.dispatcher.end_session();
            self.account.session_lost();
        }
    }

    /// Stops reading; what is queued is still applied.
    pub fn close(&mut self) -> Connection {
        let Some(path) = self.path.take() else { return Connection(Stream::None) };
        path.dispatcher.close();
        Connection(path.stream)
    }

    /// What a closed path leaves is ended in order, with a last update.
    pub fn part(&self, connection: Connection, source: &mut Source) {
        match connection.0 {
            Stream::None => return,
            Stream::Opening(_) => {}
            Stream::Running(session) => source.confirm(self.slot, session.told.max(self.confirmed())),
        }
        source.release(self.slot);
    }
}

impl Path {
    /// The memory that the next part takes, if it is the first of its transaction.
    pub fn next_part(&self, source: &Source) -> Option<(usize, bool)> {
        let Stream::Running(session) = &self.stream else { return None };
        let (transaction, part) = session.next;
        source.wal.get(transaction).map(|transaction| (transaction.parts[part].memory, part == 0))
    }

    fn step(&mut self, source: &mut Source, room: bool, random: &mut Random, time: &Runtime) -> Result<(), Ended> {
        match &mut self.stream {
            Stream::None => self.open(source),
            Stream::Opening(start) => {
                let start = *start;
                self.begin(start, source)
            }
            Stream::Running(session) => {
                let between = self.dispatcher.is_between_transactions();
                let told = session.told;
                if self.dispatcher.is_empty() {
                    self.end(told, source);
                } else if between && !self.commands.is_empty() && random.chance(60) {
                    let again = self.commands.pop_front().is_some_and(|command| self.dispatcher.command(command));
                    if again {
                        self.end(told, source);
                    }
                } else {
                    self.deliver(source, room, random, time);
                }
                Ok(())
            }
        }
    }

    /// There is nobody to feed through this session any more, or they need another one.
    fn end(&mut self, told: u64, source: &mut Source) {
        let confirmed = self.dispatcher.account().confirmed().borrow().map_or(0, |flush| flush.lsn().as_u64());
        source.confirm(self.slot, told.max(confirmed));
        source.release(self.slot);
        self.stream = Stream::None;
        self.dispatcher.end_session();
    }

    fn open(&mut self, source: &mut Source) -> Result<(), Ended> {
        self.dispatcher.end_session();
        while let Some(command) = self.commands.pop_front() {
            self.dispatcher.command(command);
        }
        if let Some(start) = self.dispatcher.start() {
            match source.acquire(self.slot) {
                None => return Err(Ended),
                Some(true) => self.stream = Stream::Opening(start.as_u64()),
                Some(false) => {}
            }
        }
        Ok(())
    }

    /// The server starts where the slot is confirmed, if that is above, and does not say so.
    fn begin(&mut self, start: u64, source: &Source) -> Result<(), Ended> {
        let served = self.dispatcher.lowest().map_or(start, |end| end.lsn().as_u64());
        let confirmed = source.slot(self.slot).map_or(0, |slot| slot.confirmed);
        if confirmed > served {
            return Err(Ended);
        }
        self.dispatcher.begin_session(Lsn::new(start), Lsn::new(confirmed));
        let from = start.max(confirmed);
        self.stream = Stream::Running(Session { next: (source.first_from(from), 0), quiet: 0, told: 0 });
        Ok(())
    }

    fn deliver(&mut self, source: &Source, room: bool, random: &mut Random, time: &Runtime) {
        let Stream::Running(session) = &mut self.stream else { return };
        let (place, part) = session.next;
        let next = source.wal.get(place);
        let delivery = match next {
            Some(transaction) if part > 0 || random.chance(85) => {
                session.next = if part + 1 == transaction.parts.len() { (place + 1, 0) } else { (place, part + 1) };
                Delivery::Part(transaction.parts[part].clone())
            }
            next => {
                let passed = place.checked_sub(1).map_or(0, |before| source.wal[before].end());
                let most = next.map_or(source.end, Transaction::start);
                // A walsender that has just started names positions below its start.
                let is_there = random.is_calm() || random.chance(50);
                let quiet = if is_there { most } else { passed + random.below(most.saturating_sub(passed) + 1) };
                session.quiet = session.quiet.max(quiet);
                Delivery::Quiet(EndLsn::new(Lsn::new(session.quiet)))
            }
        };
        let asked = match &delivery {
            Delivery::Quiet(end) => Some(*end).filter(|_| random.is_calm() || random.chance(20)),
            Delivery::Part(_) | Delivery::Message(_) => None,
        };
        let stop = CancellationToken::new();
        let delivered = self.dispatcher.deliver(delivery, &stop);
        // Who finds no room waits for it, until the clock says that it waited long enough.
        let delivered = if room { delivered.now_or_never() } else { Some(time.block_on(delivered)) };
        delivered.expect("waited where there is room").expect("every transaction has a position");
        if let Some(end) = asked {
            self.dispatcher.store(end);
        }
    }
}
