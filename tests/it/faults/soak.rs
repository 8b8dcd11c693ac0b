//! Random faults, up to two at a time, and random operations under load, for as long as `WALFERRY_TEST_SOAK_MINUTES`
//! says: every so often everything is mended and proved equal, and at the end the daemon holds no more than it did.
//!
//! The sequence depends on `WALFERRY_TEST_SEED` alone; what it meets, on the machine.

mod books;
mod operations;

use std::time::{Duration, Instant};

use self::books::Holding;
use self::operations::Operations;
use super::fault::{Fault, Part};
use super::scene::{Held, Scene};
use crate::lanes::wait_own_slots;
use crate::support::prelude::*;
use crate::support::versions::is_root;
use crate::support::workload::Random;

/// Between two transactions of a writer.
const PAUSE: Duration = Duration::from_millis(10);

/// Faults and operations between two proofs: beside other tests, and in the long run.
const STEPS: [u64; 2] = [8, 30];

struct Soak {
    scene: Scene,
    random: Random,
    operations: Operations,
    harmed: Vec<(Part, Fault, Held)>,
    faults: u64,
}

impl Soak {
    async fn start(seed: u64, minutes: Option<u64>) -> Self {
        // What is written in an hour needs more room than a fault needs.
        let megabytes = 160 + 20 * u32::try_from(minutes.unwrap_or(0)).expect("not for ever");
        let mut scene = Scene::new(|part| is_root() && part != Part::Daemon, megabytes).await;
        scene.daemon.guard();
        scene.daemon.start();
        scene.daemon.wait_ready(seconds(60)).await;
        let operations = Operations::new(&scene).await;
        Self { scene, random: Random::new(seed), operations, harmed: Vec::new(), faults: 0 }
    }

    /// Something breaks, is mended, or is asked for.
    async fn step(&mut self, may_end: bool) {
        match self.random.below(10) {
            0..4 if self.harmed.len() < 2 => self.harm(may_end).await,
            0..7 if !self.harmed.is_empty() => self.mend().await,
            _ => {
                let is_there = |part| !self.harmed.iter().any(|(harmed, ..)| *harmed == part);
                self.operations.one(&mut self.scene, &mut self.random, is_there).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(self.random.below(1_500))).await;
    }

    async fn harm(&mut self, may_end: bool) {
        let part = Part::ALL[self.random.below(Part::ALL.len() as u64) as usize];
        let fault = Fault::ALL[self.random.below(Fault::ALL.len() as u64) as usize];
        let ends = part == Part::Daemon && fault != Fault::Hung;
        let is_harmed = self.harmed.iter().any(|(harmed, ..)| *harmed == part);
        if fault.not_of(part).is_some() || is_harmed || ends && !may_end || fault == Fault::DiskFull && !is_root() {
            return;
        }
        eprintln!("{}: {} {}", self.operations.time(), part.name(), fault.name());
        let held = self.scene.harm(part, fault).await;
        self.harmed.push((part, fault, held));
        self.faults += 1;
    }

    async fn mend(&mut self) {
        let (part, fault, held) = self.harmed.swap_remove(self.random.below(self.harmed.len() as u64) as usize);
        eprintln!("{}: {} is no more {}", self.operations.time(), part.name(), fault.name());
        self.scene.mend(part, fault, held).await;
    }

    /// Everything is mended, gone on with, and proved equal.
    async fn prove(&mut self, load: Load) -> u64 {
        while !self.harmed.is_empty() {
            self.mend().await;
        }
        self.operations.go_on_with_everything(&mut self.scene).await;
        load.more(20).await;
        let committed = load.stop().await;
        let writes = self.operations.rest().await;
        self.scene.daemon.wait_ready(seconds(100)).await;
        wait_own_slots(&self.scene.stage, 0).await;
        self.scene.stage.assert_in_step(&self.scene.daemon).await;
        self.operations.assert_equal(&self.scene).await;
        self.scene.stage.assert_nothing_forgotten("walferry").await;
        committed + writes
    }
}

#[tokio::test]
async fn and_operations_at_random_leave_everything_equal_and_nothing_behind() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let minutes = number("WALFERRY_TEST_SOAK_MINUTES");
    let begun = Instant::now();
    let past = |part: u64| minutes.is_none_or(|all| begun.elapsed() > Duration::from_secs(all * 60 / part));
    let mut soak = Soak::start(number("WALFERRY_TEST_SEED").unwrap_or(1), minutes).await;
    let (mut transactions, mut round, mut first) = (0, 0, None::<Holding>);
    loop {
        let load = Load::start(&soak.scene.stage, 2 * round..2 * round + 2, PAUSE).await;
        soak.operations.write(&soak.scene);
        // Later on it is one and the same process, so that what it leaks shows.
        let may_end = !past(4);
        for _ in 0..STEPS[usize::from(minutes.is_some())] {
            soak.step(may_end).await;
        }
        transactions += soak.prove(load).await;
        round += 1;
        let holding = Holding::of(&soak.scene).await;
        println!(
            "{:>4} s: equal after {} faults and {} operations in {transactions} transactions; the daemon has {holding}",
            begun.elapsed().as_secs(),
            soak.faults,
            soak.operations.done(),
        );
        match &first {
            Some(_) if may_end => first = Some(holding),
            None => first = Some(holding),
            Some(first) if past(1) => {
                first.wait_no_more(&soak.scene).await;
                break;
            }
            Some(_) => {}
        }
    }
    println!("{}", soak.operations);
}
