//! The daemon's core under seeds: the real dispatcher, accounts, routes, queues, position checks and choice of lanes,
//! between a model of a source and models of targets, while whatever can go wrong does, in an order that a seed decides.
//!
//! | file | what it is |
//! |---|---|
//! | `random.rs` | chance, by a seed |
//! | `source.rs` | a WAL and its slots |
//! | `target.rs` | what a target has applied, and what of it is on its disk; judges every commit |
//! | `worker.rs` | as `apply/worker.rs`, on the real queue |
//! | `path.rs` | as `pipeline.rs`, around the real dispatcher and account |
//! | `task.rs` | as `target.rs` and the files below it, around the real choice of lanes and check of positions |
//! | `world.rs` | what happens, and what must be true whatever does |
//!
//! `WALFERRY_SEED=17` lives through that seed alone; `WALFERRY_SEEDS=1000000` through so many. No server, and no time
//! but the one that the model tells.

mod path;
mod random;
mod source;
mod target;
mod task;
mod worker;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use world::{Outcome, World};

/// How many seeds, unless told otherwise.
const SEEDS: u64 = 100_000;

fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A clock that stands still, except where somebody waits for it.
fn stopped_clock() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

fn live(seed: u64, time: &Runtime) -> Outcome {
    let world = World::new(seed, source::relations(), time);
    match catch_unwind(AssertUnwindSafe(|| world.live())) {
        Ok(outcome) => outcome,
        Err(panic) => {
            eprintln!("seed {seed} fails; to live through it alone: WALFERRY_SEED={seed}");
            resume_unwind(panic)
        }
    }
}

#[test]
fn whatever_happens_every_target_has_every_commit_once_or_says_what_it_lacks() {
    let time = stopped_clock();
    let _clock = time.enter();
    let seeds = told("WALFERRY_SEED").map_or(0..told("WALFERRY_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let (begun, count) = (Instant::now(), seeds.end - seeds.start);
    let gaps = seeds.filter(|seed| live(*seed, &time) == Outcome::Gap).count();
    println!("{count} seeds in {:.1?}; in {gaps} somebody took away what was needed", begun.elapsed());
    assert!(count < 10_000 || (gaps > 0 && (gaps as u64) < count / 10), "the seeds are not what they are meant to be");
}
