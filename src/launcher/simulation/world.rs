//! The world of one seed: a source, its targets and a daemon, to all of which something happens at each step.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::path::Lane;
use super::random::Random;
use super::source::{Relations, Source};
use super::target::Target;
use super::task::{Around, Stage, Task};
use crate::change::TargetId;
use crate::launcher::account::Account;

/// How many rounds it may take, once nothing goes wrong any more, until all are in step.
const ROUNDS: usize = 400;

/// What came of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everybody has everything, in the main lane.
    InStep,
    /// Somebody has taken away what was needed, and it was found.
    Gap,
}

struct Daemon {
    main: Lane,
    tasks: Vec<Task>,
}

/// What happens in a seed, besides chance.
struct Kind {
    /// How much a queue holds, in bytes.
    limit: u64,
    isolates: bool,
    /// Whether somebody else touches slots and targets.
    foreign: bool,
}

pub struct World<'a> {
    random: Random,
    time: &'a Runtime,
    source: Source,
    targets: Vec<Target>,
    daemon: Option<Daemon>,
    names: Vec<String>,
    kind: Kind,
    now: Duration,
    /// Somebody has touched the stream's slot.
    touched: bool,
}

impl<'a> World<'a> {
    pub fn new(seed: u64, relations: Relations, time: &'a Runtime) -> Self {
        let mut random = Random::new(seed);
        let targets: Vec<Target> = (0..random.pick(&[1, 2, 2, 3])).map(|_| Target::new(&mut random)).collect();
        let limit = random.pick(&[1, 600, 2_000, 1 << 20]);
        let kind = Kind { limit, isolates: random.chance(80), foreign: random.chance(8) };
        let source = Source::new(targets.len(), relations, &mut random);
        let names = (0..targets.len()).map(|target| format!("t{target}")).collect();
        let now = Duration::from_secs(1_000);
        Self { random, time, source, targets, daemon: None, names, kind, now, touched: false }
    }

    /// Lives through it.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn live(mut self) -> Outcome {
        let length = self.random.pick(&[100, 200, 200, 600]);
        for _ in 0..60 + self.random.below(length) {
            if !self.happen() {
                return self.gap();
            }
            self.check();
        }
        self.random.calm_down();
        self.source.notice(&mut self.random);
        for target in &mut self.targets {
            target.commit_late(&self.source.wal);
            target.up = true;
        }
        for _ in 0..ROUNDS {
            if !self.round() {
                return self.gap();
            }
            self.check();
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
        }
        panic!("not in step after {ROUNDS} rounds: {}", self.describe());
    }

    /// One thing. Tells whether there is a stream to follow.
    fn happen(&mut self) -> bool {
        self.now += Duration::from_millis(self.random.pick(&[1, 10, 100, 3_000]));
        self.source.catch_up(Some(self.now));
        match self.random.below(100) {
            0..=11 => self.source.write(&mut self.random),
            12..=34 => (0..1 + self.random.below(4)).for_each(|_| self.read_main()),
            35..=46 => self.read_own(),
            47..=84 => self.work(),
            85..=91 => self.report(),
            92 => self.source.notice(&mut self.random),
            93 => self.source.save(),
            _ => self.fail(),
        }
        self.daemon.is_some() || self.random.chance(50) || self.start()
    }

    fn any(&mut self) -> usize {
        self.random.place(self.targets.len())
    }

    /// A daemon starts. Without the stream's slot it does not.
    fn start(&mut self) -> bool {
        if self.source.look(0).is_none_or(|slot| slot.is_lost()) {
            return false;
        }
        let mut main = Lane::new(0, Arc::new(Account::new(&self.names)));
        main.start(self.targets.len(), self.kind.isolates, &mut self.random);
        let mut tasks = Vec::new();
        for place in 0..self.targets.len() {
            let has_own = self.source.slot(1 + place).is_some();
            tasks.push(Task::new(TargetId(place), &mut self.around(place, &mut main), has_own));
        }
        self.daemon = Some(Daemon { main, tasks });
        true
    }

    fn read_main(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let room = Self::has_room(&daemon.main, &daemon.tasks, &self.source, self.kind.limit);
        let waits = !room && self.may_wait(&daemon.main);
        let may = room || waits;
        let ended = may && daemon.main.step(&mut self.source, room, &mut self.random, self.time).is_err();
        self.daemon = Some(daemon);
        if ended {
            self.kill();
        }
    }

    /// Whether to let it wait for room until the clock says that it was long enough. Inside of a transaction that may
    /// be never.
    fn may_wait(&mut self, main: &Lane) -> bool {
        let next = main.path.as_ref().and_then(|path| path.next_part(&self.source));
        next.is_some_and(|(_, is_first)| is_first) && self.targets.len() > 1 && self.random.fault(10)
    }

    /// Whether what comes next fits into every queue.
    fn has_room(lane: &Lane, tasks: &[Task], source: &Source, limit: u64) -> bool {
        let next = lane.path.as_ref().and_then(|path| path.next_part(source));
        let Some((memory, _)) = next else { return true };
        tasks.iter().all(|task| {
            let Stage::Served(served) = &task.stage else { return true };
            let queued = served.worker.queued();
            served.worker.failing || queued == 0 || queued + memory as u64 <= limit
        })
    }

    fn read_own(&mut self) {
        let place = self.any();
        let Some(daemon) = &mut self.daemon else { return };
        let Some(own) = &daemon.tasks[place].own else { return };
        if Self::has_room(own, &daemon.tasks[place..=place], &self.source, self.kind.limit)
            && let Some(own) = &mut daemon.tasks[place].own
        {
            // Its task learns it from its worker.
            let _ended = own.step(&mut self.source, true, &mut self.random, self.time);
        }
    }

    fn work(&mut self) {
        let place = self.any();
        let Some(mut daemon) = self.daemon.take() else { return };
        for _ in 0..1 + self.random.below(4) {
            daemon.tasks[place].step(&mut self.around(place, &mut daemon.main));
        }
        self.daemon = Some(daemon);
    }

    fn around<'b>(&'b mut self, place: usize, main: &'b mut Lane) -> Around<'b> {
        Around {
            source: &mut self.source,
            target: &mut self.targets[place],
            main,
            random: &mut self.random,
            names: &self.names,
            limit: self.kind.limit,
            isolates: self.kind.isolates,
            now: self.now,
        }
    }

    fn report(&mut self) {
        let place = self.random.place(self.targets.len() + 1);
        let Some(daemon) = &mut self.daemon else { return };
        match place.checked_sub(1) {
            None => daemon.main.report(&mut self.source, &mut self.random),
            Some(place) => {
                if let Some(own) = &mut daemon.tasks[place].own {
                    own.report(&mut self.source, &mut self.random);
                }
            }
        }
    }

    /// Something goes wrong, or well again.
    fn fail(&mut self) {
        let place = self.any();
        match self.random.below(18) {
            0 | 1 => self.kill(),
            2 => self.stop(),
            3 | 4 => self.lose(),
            5 => self.restart_source(),
            6 | 7 => self.targets[place].crash(&mut self.random),
            8..=12 => self.targets[place].up = true,
            13 => self.targets[place].commit_late(&self.source.wal),
            14..=16 => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.tasks[place].wants_pause = self.random.chance(50) && !daemon.tasks[place].wants_pause;
                }
            }
            _ if self.kind.foreign => self.touch(place),
            _ => {}
        }
    }

    /// The daemon is killed.
    fn kill(&mut self) {
        let Some(Daemon { mut main, tasks }) = self.daemon.take() else { return };
        main.cut(&mut self.source);
        for (task, target) in tasks.into_iter().zip(&mut self.targets) {
            task.die(&mut self.source, target, &mut self.random, self.now);
        }
    }

    /// It is told to stop.
    fn stop(&mut self) {
        let Some(Daemon { mut main, tasks }) = self.daemon.take() else { return };
        let connection = main.close();
        for (place, task) in tasks.into_iter().enumerate() {
            task.stop(&mut self.around(place, &mut main));
        }
        main.part(connection, &mut self.source);
    }

    /// A connection to the source is lost.
    fn lose(&mut self) {
        let place = self.random.place(self.targets.len() + 1);
        let Some(daemon) = &mut self.daemon else { return };
        let lane = match place.checked_sub(1) {
            None => Some(&mut daemon.main),
            Some(place) => daemon.tasks[place].own.as_mut(),
        };
        if let Some(lane) = lane {
            lane.lose(&mut self.source);
        }
    }

    fn restart_source(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.main.lose(&mut self.source);
            daemon.tasks.iter_mut().filter_map(|task| task.own.as_mut()).for_each(|own| own.lose(&mut self.source));
        }
        self.source.restart(&mut self.random);
    }

    /// Somebody does what the daemon cannot make good.
    fn touch(&mut self, place: usize) {
        let slot = self.random.pick(&[0, 1 + place]);
        match self.random.below(3) {
            0 => self.targets[place].restore(&mut self.random),
            lost => {
                match lost {
                    1 => _ = self.source.drop(slot),
                    _ => self.source.lose(slot),
                }
                let gone = self.source.look(slot).is_none_or(|slot| slot.is_lost());
                self.touched |= gone && slot == 0;
                self.targets[place].touched |= gone && slot != 0;
            }
        }
    }

    /// Everybody does something, and nothing goes wrong.
    fn round(&mut self) -> bool {
        self.now += Duration::from_secs(3);
        if self.daemon.is_none() && !self.start() {
            return false;
        }
        (0..8).for_each(|_| self.read_main());
        let Some(mut daemon) = self.daemon.take() else { return true };
        for place in 0..daemon.tasks.len() {
            daemon.tasks[place].wants_pause = false;
            for _ in 0..6 {
                let room = |own: &Lane, tasks: &[Task]| Self::has_room(own, tasks, &self.source, self.kind.limit);
                let has_room = daemon.tasks[place].own.as_ref().map(|own| room(own, &daemon.tasks[place..=place]));
                if let (Some(true), Some(own)) = (has_room, &mut daemon.tasks[place].own) {
                    let _ended = own.step(&mut self.source, true, &mut self.random, self.time);
                }
                daemon.tasks[place].step(&mut self.around(place, &mut daemon.main));
            }
            if let Some(own) = &mut daemon.tasks[place].own {
                own.report(&mut self.source, &mut self.random);
            }
        }
        daemon.main.report(&mut self.source, &mut self.random);
        self.source.notice(&mut self.random);
        self.daemon = Some(daemon);
        true
    }

    /// What must be true at every moment.
    fn check(&self) {
        for (place, target) in self.targets.iter().enumerate() {
            if target.touched || self.touched {
                continue;
            }
            let durable = target.durable().end;
            assert!(
                [0, 1 + place].iter().any(|slot| self.source.keeps(*slot, durable)),
                "no slot keeps what t{place} needs, which has {durable}: {}",
                self.describe()
            );
            let Some(daemon) = &self.daemon else { continue };
            let known =
                daemon.tasks[place].fed.durable_lsn(TargetId(place)).map_or(0, |lsn| lsn.end_lsn().lsn().as_u64());
            assert!(known <= durable, "t{place} has {durable} on its disk, not {known}");
            if let Stage::Refused(gap) = &daemon.tasks[place].stage {
                panic!("t{place} is refused where nobody did anything: {gap:?}; {}", self.describe());
            }
        }
    }

    /// Whether it is over: everybody has everything, or was found to lack what somebody took away.
    fn outcome(&self) -> Option<Outcome> {
        let daemon = self.daemon.as_ref()?;
        let is_lost = self.touched && self.source.slot(0).is_none();
        let mut outcome = if is_lost { Outcome::Gap } else { Outcome::InStep };
        for ((place, target), task) in self.targets.iter().enumerate().zip(&daemon.tasks) {
            if matches!(task.stage, Stage::Refused(_)) && (target.touched || self.touched) {
                outcome = Outcome::Gap;
                continue;
            }
            if !target.has_all(&self.source.wal) || target.shown().end != target.durable().end {
                return None;
            }
            // Where the stream's slot is lost, a slot of its own is all that it has.
            if !self.touched && (!task.is_settled() || self.source.slot(1 + place).is_some()) {
                return None;
            }
        }
        let lowest = self.targets.iter().map(|target| target.durable().end).min();
        let confirmed = self.source.slot(0).map(|slot| slot.confirmed);
        (outcome == Outcome::Gap || confirmed == lowest).then_some(outcome)
    }

    /// The stream's slot is gone: with a position on the targets that is a gap, and said to be one.
    fn gap(&self) -> Outcome {
        assert!(self.touched, "the stream's slot is gone, and nobody took it: {}", self.describe());
        Outcome::Gap
    }

    fn describe(&self) -> String {
        let slots: Vec<Option<u64>> =
            (0..=self.targets.len()).map(|slot| self.source.slot(slot).map(|kept| kept.confirmed)).collect();
        let stands: Vec<(u64, u64)> =
            self.targets.iter().map(|target| (target.shown().end, target.durable().end)).collect();
        let tasks = self.daemon.as_ref().map(|daemon| daemon.tasks.iter().map(Task::describe).collect::<Vec<_>>());
        format!("WAL to {}, slots {slots:?}, targets (shown, durable) {stands:?}, tasks {tasks:?}", self.source.end)
    }
}
