//! A target's task, which does as `target.rs` and the files below it do, one step at a time; what is decided there is
//! decided by the same code here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::path::Lane;
use super::random::Random;
use super::source::Source;
use super::target::{Stand, Target};
use super::worker::{Ended, Worker};
use crate::apply::progress::Stored;
use crate::apply::queue::queue;
use crate::change::TargetId;
use crate::launcher::account::Account;
use crate::launcher::dispatch::{Attach, Command};
use crate::launcher::gap::{self, Gap, SourceFacts};
use crate::launcher::lane::choice::{self, Ask, Choice, Joining, Lanes};
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::source::slot::Slot;

/// What a task finds around it.
pub struct Around<'a> {
    pub source: &'a mut Source,
    pub target: &'a mut Target,
    pub main: &'a mut Lane,
    pub random: &'a mut Random,
    pub names: &'a [String],
    pub limit: u64,
    /// Whether slow targets are isolated.
    pub isolates: bool,
    pub now: Duration,
}

/// How long a slot that nobody waits for may take to be made, as in `target/own.rs`.
const LATER: Duration = Duration::from_secs(30);

pub struct Task {
    id: TargetId,
    pub own: Option<Lane>,
    /// The account of the lane that feeds it.
    pub fed: Arc<Account>,
    joining: Joining<Duration>,
    /// When to look next for a slot of its own that it needs no more.
    left_over: Option<Duration>,
    errand: Option<Errand>,
    pub stage: Stage,
    pub wants_pause: bool,
    /// Of its session with the target.
    epoch: u32,
}

pub enum Stage {
    /// To be attached.
    Away,
    /// Its progress has been read.
    Read(Stand),
    /// Its own slot has been looked at, too.
    Looked(Stand, Option<Slot>),
    /// It has been decided which lane feeds it.
    Chosen(Stand),
    /// Its position fits what the slot gives.
    Checked(Stand),
    Served(Box<Served>),
    Paused,
    /// It must not be fed; `None`: the slot is gone.
    Refused(Option<Gap>),
}

/// What there is while it is fed.
pub struct Served {
    pub worker: Worker,
    refusal: oneshot::Receiver<Gap>,
    slow: Arc<Notify>,
    /// Whether it is the lane of its own that was asked to feed it.
    by_own: bool,
    parting: bool,
}

/// What the source is asked to do for it; nothing is applied meanwhile.
enum Errand {
    Isolate,
    Copy,
    Adopt(Lane),
    LookAtMain,
    Drop,
}

impl Task {
    pub fn new(id: TargetId, around: &mut Around<'_>, has_own: bool) -> Self {
        let mut task = Self {
            id,
            own: None,
            fed: Arc::clone(&around.main.account),
            joining: Joining::Not,
            left_over: None,
            errand: None,
            stage: Stage::Away,
            wants_pause: false,
            epoch: 0,
        };
        if has_own {
            task.found_own(around);
        }
        task
    }

    fn own_lane(&self, names: &[String]) -> Lane {
        Lane::new(1 + self.id.0, Arc::new(Account::of(self.id, names)))
    }

    fn found_own(&mut self, around: &mut Around<'_>) {
        let own = self.own_lane(around.names);
        around.main.account.let_go(self.id);
        self.fed = Arc::clone(&own.account);
        self.own = Some(own);
    }

    /// Fed with the others, and nothing of its own left.
    pub fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Served(_))
            && self.own.is_none()
            && self.errand.is_none()
            && self.left_over.is_none()
    }

    pub fn describe(&self) -> String {
        let stage = match &self.stage {
            Stage::Away => "away".to_owned(),
            Stage::Read(_) | Stage::Looked(..) | Stage::Chosen(_) | Stage::Checked(_) => "attaching".to_owned(),
            Stage::Served(_) => "served".to_owned(),
            Stage::Paused => "paused".to_owned(),
            Stage::Refused(gap) => format!("refused ({gap:?})"),
        };
        let lane = if self.own.is_some() { "own" } else { "main" };
        let left = if self.left_over.is_some() { ", slot left over" } else { "" };
        format!("{stage} in {lane} lane, {:?}{left}", self.joining)
    }

    pub fn step(&mut self, around: &mut Around<'_>) {
        if let Some(errand) = self.errand.take() {
            return self.run(errand, around);
        }
        let is_attaching = !matches!(self.stage, Stage::Served(_) | Stage::Paused | Stage::Refused(_));
        if is_attaching && (self.wants_pause || !around.target.up || around.random.fault(3)) {
            self.give_up_joining(around);
            self.stage = if self.wants_pause { Stage::Paused } else { Stage::Away };
            return self.is_away(around);
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Away) {
            Stage::Away => {
                self.epoch = around.target.epoch;
                Stage::Read(around.target.sync())
            }
            Stage::Read(stand) => Stage::Looked(stand, around.source.look(1 + self.id.0)),
            Stage::Looked(stand, own) => {
                self.choose(stand, own.as_ref(), around);
                Stage::Chosen(stand)
            }
            Stage::Chosen(stand) => self.check(stand, around),
            Stage::Checked(stand) => self.attach(stand, around),
            Stage::Served(served) => self.serve(served, around),
            Stage::Paused if !self.wants_pause => Stage::Away,
            Stage::Refused(_) if around.random.chance(20) => Stage::Away,
            stage => {
                self.stage = stage;
                return self.is_away(around);
            }
        };
    }

    /// It is not fed: perhaps long enough.
    fn is_away(&mut self, around: &mut Around<'_>) {
        if self.own.is_none() && around.random.fault(20) && around.main.account.feeds_another(self.id) {
            self.errand = Some(Errand::Isolate);
        }
    }

    fn give_up_joining(&mut self, around: &mut Around<'_>) {
        self.joining = self.joining.give_up(&around.main.account, self.id, around.now);
    }

    fn choose(&mut self, stand: Stand, own: Option<&Slot>, around: &mut Around<'_>) {
        let (main, stored) = (around.source.look(0), Some(EndLsn::new(Lsn::new(stand.end))));
        match choice::choose(self.own.as_ref().map(|_| &self.joining), own, main.as_ref(), stored) {
            Choice::Found => self.found_own(around),
            Choice::Main { left_over } => {
                self.left_over = Some(around.now + if left_over { Duration::ZERO } else { LATER });
            }
            Choice::Own => self.give_up_joining(around),
            Choice::Join => self.join(around),
            Choice::Back => {
                if let Some(own) = &self.own {
                    Lanes { id: self.id, main: &around.main.account, own: &own.account }.go_back();
                }
                self.join(around);
            }
        }
        self.fed.stands_at(self.id, DurableLsn::new(Lsn::new(stand.end)), stand.last);
    }

    fn join(&mut self, around: &mut Around<'_>) {
        self.fed = Arc::clone(&around.main.account);
        (self.joining, self.left_over) = (Joining::Not, Some(around.now));
        if let Some(mut own) = self.own.take() {
            match around.random.fault(20) {
                true => own.cut(around.source),
                false => {
                    let connection = own.close();
                    own.part(connection, around.source);
                }
            }
        }
    }

    fn check(&mut self, stand: Stand, around: &mut Around<'_>) -> Stage {
        let slot = around.source.look(self.own.as_ref().map_or(0, |own| own.slot));
        let Some(slot) = slot.filter(|slot| !slot.is_lost()) else {
            self.give_up_joining(around);
            return Stage::Refused(None);
        };
        let facts = SourceFacts {
            system_identifier: String::new(),
            timeline: 1,
            switches: Vec::new(),
            flushed: Lsn::new(around.source.end),
            database: String::new(),
            slot: String::new(),
            confirmed: slot.confirmed_flush,
        };
        let end = EndLsn::new(Lsn::new(stand.end));
        let stored = Stored {
            system_identifier: String::new(),
            timeline: 1,
            database: String::new(),
            slot: String::new(),
            publication: None,
            end_lsn: Some(end),
            last: stand.last,
            paused_at: None,
        };
        match gap::check(&stored, end, &facts) {
            Ok(()) => Stage::Checked(stand),
            Err(gap) => {
                self.give_up_joining(around);
                Stage::Refused(Some(gap))
            }
        }
    }

    fn attach(&mut self, stand: Stand, around: &mut Around<'_>) -> Stage {
        let (sender, receiver) = queue(around.limit);
        let (refused, refusal) = oneshot::channel();
        let slow = Arc::new(Notify::new());
        let attach = Attach {
            id: self.id,
            sender,
            stored: EndLsn::new(Lsn::new(stand.end)),
            last: stand.last,
            route: around.target.share.route(self.id),
            text_only: false,
            slow: Arc::clone(&slow),
            patient_until: Instant::now(),
            refused,
        };
        let by_own = self.own.is_some();
        let path = match &mut self.own {
            Some(own) => own.start(1, false, around.random),
            None => around.main.start(around.names.len(), around.isolates, around.random),
        };
        path.commands.push_back(Command::Attach(Box::new(attach)));
        let worker = Worker::new(self.id, receiver, stand.end, self.epoch, Arc::clone(&self.fed), around.random);
        Stage::Served(Box::new(Served { worker, refusal, slow, by_own, parting: false }))
    }

    fn send(&mut self, by_own: bool, command: Command, around: &mut Around<'_>) {
        match (&mut self.own, by_own) {
            (Some(own), true) => own.send(command),
            (None, true) => {}
            (_, false) => around.main.send(command),
        }
    }

    fn serve(&mut self, mut served: Box<Served>, around: &mut Around<'_>) -> Stage {
        let by_own = served.by_own;
        if self.wants_pause && !std::mem::replace(&mut served.parting, true) {
            self.send(by_own, Command::Detach(self.id), around);
        }
        if served.slow.notified().now_or_never().is_some() {
            self.errand = Some(Errand::Isolate);
        }
        match around.random.below(10) {
            0..=5 => {
                let step = served.worker.step(around.target, around.source, &self.fed, around.random);
                if let Err(ended) = step {
                    return self.ended(&ended, &mut served, around);
                }
            }
            6 | 7 => served.worker.flush(around.target, &self.fed),
            _ => self.tick(&served, around),
        }
        Stage::Served(served)
    }

    /// A look at how it stands to the others.
    fn tick(&mut self, served: &Served, around: &mut Around<'_>) {
        let (id, by_own) = (self.id, served.by_own);
        let failing = served.worker.failing && self.own.is_none() && around.random.chance(30);
        if failing && self.errand.is_none() && around.main.account.feeds_another(id) {
            self.send(by_own, Command::Detach(id), around);
            self.errand = Some(Errand::Isolate);
            return;
        }
        if let Some(own) = &self.own {
            let keeps_up = !served.worker.failing && !around.random.fault(5);
            let lanes = Lanes { id, main: &around.main.account, own: &own.account };
            let (joining, ask) = self.joining.look(lanes, keeps_up, around.now);
            self.joining = joining;
            match ask {
                Ask::Nothing | Ask::Joins => {}
                Ask::Store => self.send(by_own, Command::Store(id), around),
                Ask::Detach => self.send(by_own, Command::Detach(id), around),
            }
        }
        let is_due = self.left_over.is_some_and(|look| around.now >= look);
        if is_due && self.errand.is_none() && around.main.account.session().is_some() {
            self.errand = Some(Errand::LookAtMain);
        }
    }

    fn ended(&mut self, ended: &Ended, served: &mut Served, around: &mut Around<'_>) -> Stage {
        if self.joining != Joining::Ready {
            self.give_up_joining(around);
        }
        match (ended, served.refusal.try_recv()) {
            (Ended::CaughtUp, Ok(gap)) if !self.wants_pause => Stage::Refused(Some(gap)),
            _ => Stage::Away,
        }
    }

    /// The next step of what the source does for it. It may take too long: then it is left, wherever it is.
    fn run(&mut self, errand: Errand, around: &mut Around<'_>) {
        if around.random.fault(10) {
            return self.leave(&errand, around.source, around.random, around.now);
        }
        let (own, stored) = (1 + self.id.0, around.main.account.durable_lsn(self.id).map(DurableLsn::end_lsn));
        self.errand = match errand {
            Errand::Isolate => {
                let kept = [own, 0].iter().any(|slot| choice::keeps(around.source.look(*slot).as_ref(), stored));
                kept.then_some(Errand::Copy)
            }
            Errand::Copy => {
                if around.source.look(own).is_some_and(|slot| slot.is_lost()) {
                    around.source.drop(own);
                }
                let is_there = around.source.copy(own);
                is_there.then(|| Errand::Adopt(self.own_lane(around.names)))
            }
            Errand::Adopt(lane) => {
                let confirmed = around.source.look(own).and_then(|slot| slot.confirmed_flush);
                let lanes = Lanes { id: self.id, main: &around.main.account, own: &lane.account };
                if confirmed.is_some_and(|confirmed| lanes.isolate(confirmed)) {
                    self.fed = Arc::clone(&lane.account);
                    (self.own, self.joining, self.left_over) = (Some(lane), Joining::Not, None);
                }
                None
            }
            Errand::LookAtMain => {
                let found = around.source.look(0);
                choice::may_drop(&around.main.account, self.id, found.as_ref()).then_some(Errand::Drop)
            }
            Errand::Drop => {
                if around.source.slot(own).is_none() {
                    self.left_over = None;
                } else if around.source.drop(own) {
                    self.left_over = Some(around.now + LATER);
                }
                None
            }
        };
    }

    /// A slot that was asked for may be made later.
    fn leave(&self, errand: &Errand, source: &mut Source, random: &mut Random, now: Duration) {
        if matches!(errand, Errand::Copy) && random.chance(50) {
            source.copy_by(1 + self.id.0, now + LATER);
        }
    }

    /// The daemon is killed.
    pub fn die(mut self, source: &mut Source, target: &mut Target, random: &mut Random, now: Duration) {
        if let Some(own) = &mut self.own {
            own.cut(source);
        }
        if let Some(errand) = self.errand.take() {
            self.leave(&errand, source, random, now);
        }
        if let Stage::Served(served) = self.stage {
            served.worker.die(target, random);
        }
    }

    /// The daemon stops in order: what is queued is applied, made durable and confirmed.
    pub fn stop(mut self, around: &mut Around<'_>) {
        let connection = self.own.as_mut().map(Lane::close);
        if let Stage::Served(mut served) = self.stage {
            for _ in 0..1_000 {
                if !around.target.up {
                    break;
                }
                let step = served.worker.step(around.target, around.source, &self.fed, around.random);
                if step.is_err() {
                    break;
                }
            }
            served.worker.flush(around.target, &self.fed);
        }
        if let (Some(own), Some(connection)) = (self.own, connection) {
            own.part(connection, around.source);
        }
    }
}
