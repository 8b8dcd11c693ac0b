//! One line of the table: a part breaks in some way at some moment, and is mended.

use std::fmt;
use std::time::{Duration, Instant};

use super::fault::{Fault, Part};
use super::scene::{Held, Scene};
use crate::lanes::wait_own_slots;
use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::{execute, is_there, wait_row};

/// Between two transactions of a writer.
const PAUSE: Duration = Duration::from_millis(10);

/// What a disk holds that is to be full.
const DISK_MB: u32 = 160;

/// What the daemon does at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It copies the tables.
    Copy,
    /// It applies what was written while it was away.
    CatchUp,
    Streaming,
    /// It gives target A, which is away, a slot of its own.
    Split,
    /// It has A, which has caught up, join B again.
    Merge,
    /// It ends, and has something left to apply.
    Drain,
}

impl Phase {
    /// Every one of them.
    pub const ALL: [Phase; 6] =
        [Phase::Copy, Phase::CatchUp, Phase::Streaming, Phase::Split, Phase::Merge, Phase::Drain];

    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Copy => "copy",
            Phase::CatchUp => "catch-up",
            Phase::Streaming => "streaming",
            Phase::Split => "split",
            Phase::Merge => "merge",
            Phase::Drain => "drain",
        }
    }
}

/// A cell of the table.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub part: Part,
    pub fault: Fault,
    pub phase: Phase,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// How long a row took to the target that was not concerned, while the fault was there.
    other: Option<Duration>,
    /// From the moment at which it was mended to a new row on both targets.
    recovered: Duration,
    /// From the mending to the proof of equality, with everything in its place again.
    equal: Duration,
    /// How often it was said that something does not pass by itself.
    errors: usize,
    /// What the daemon said of it first.
    said: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = self.other.map_or("—".to_owned(), |other| format!("{:.2}", other.as_secs_f64()));
        let (recovered, equal) = (self.recovered.as_secs_f64(), self.equal.as_secs_f64());
        write!(out, "equal │ {other:>5} │ {recovered:>5.2} │ {equal:>5.2} │ {:>2} │ {}", self.errors, self.said)
    }
}

impl Cell {
    /// Goes through it; panics unless the databases are equal in the end, with nothing lost, doubled or left behind.
    pub async fn run(self) -> Outcome {
        let full = |part| self.fault == Fault::DiskFull && self.part == part;
        let mut scene = Scene::new(full, DISK_MB).await;
        let load = self.reach(&mut scene).await;
        let heard = scene.daemon.log().len();
        let held = scene.harm(self.part, self.fault).await;
        self.let_others_go(&scene);
        let other = self.stay(&mut scene, heard, &held).await;
        scene.mend(self.part, self.fault, held).await;
        let mended = Instant::now();
        self.put_back(&mut scene).await;
        for place in 0..2 {
            scene.stage.mark(100 + place).await;
        }
        for place in &scene.stage.places {
            wait_row(&place.client, 101, 60).await;
        }
        let recovered = mended.elapsed();
        // Where nothing is written, to join the others again takes some heartbeats.
        wait_own_slots(&scene.stage, 0).await;
        load.stop().await;
        self.prove(&mut scene).await;
        let equal = mended.elapsed();
        let log = scene.daemon.log();
        let errors = log[heard..].matches(" ERROR walferry::").count();
        Outcome { other, recovered, equal, errors, said: complaint(&log[heard..]) }
    }

    /// Whether A is put aside by its server, because it is the network to it that breaks.
    fn freezes_a(self) -> bool {
        self.part == Part::NetworkA
    }

    /// Brings everything to the moment at which the part is to break.
    async fn reach(self, scene: &mut Scene) -> Load {
        if self.phase == Phase::Copy {
            let rows = "INSERT INTO w_default SELECT n, 'copied', n, repeat(md5(n::text), 30)
                        FROM generate_series(1000000, 1002000) n";
            execute(&scene.stage.on_source, rows).await;
            slow_down(scene, 1_000_000);
        }
        let load = Load::start(&scene.stage, 0..2, PAUSE).await;
        scene.daemon.start();
        if self.phase == Phase::Copy {
            scene.daemon.wait_log("copying target=\"t1\"", seconds(30)).await;
            return load;
        }
        scene.daemon.wait_ready(seconds(60)).await;
        load.more(20).await;
        match self.phase {
            Phase::Copy | Phase::Streaming => {}
            Phase::CatchUp => {
                scene.daemon.kill9();
                load.more(100).await;
                slow_down(scene, 300_000);
                let begun = scene.daemon.log_count("streaming start=");
                scene.daemon.start();
                let again = async || (scene.daemon.log_count("streaming start=") > begun).then_some(());
                wait_for("the stream to begin", seconds(30), again).await;
            }
            Phase::Split => {
                self.put_aside(scene);
                scene.daemon.wait_log("away for long", seconds(60)).await;
            }
            Phase::Merge => {
                self.put_aside(scene);
                wait_own_slots(&scene.stage, 1).await;
                load.more(30).await;
                self.put_back(scene).await;
                scene.daemon.wait_log("joins the others", seconds(60)).await;
            }
            Phase::Drain => {
                slow_down(scene, 30_000);
                load.more(50).await;
                scene.daemon.signal("TERM");
            }
        }
        load
    }

    fn put_aside(self, scene: &Scene) {
        if self.freezes_a() {
            scene.stage.places[0].cluster.freeze(true);
        } else {
            scene.to_targets[0].set(Mode::Refuse);
        }
    }

    /// What was put aside comes back, what was slow is not any more, and a daemon that was to end begins again.
    async fn put_back(self, scene: &mut Scene) {
        if self.phase == Phase::Drain && (self.part != Part::Daemon || self.fault == Fault::Hung) {
            scene.daemon.wait_exit(seconds(30)).await;
            scene.daemon.start();
        }
        if self.freezes_a() && self.phase == Phase::Merge {
            scene.stage.places[0].cluster.freeze(false);
        }
        for proxy in &scene.to_targets {
            proxy.set(Mode::Pass);
        }
    }

    /// From the moment on at which the part is broken, nothing else holds up anybody; but A stays away where the part
    /// is another one.
    fn let_others_go(self, scene: &Scene) {
        if self.phase == Phase::Drain || self.phase == Phase::Split && self.part.place() != Some(0) {
            return;
        }
        if self.phase == Phase::Split && self.freezes_a() {
            scene.stage.places[0].cluster.freeze(false);
        }
        for (number, part) in [(0, Part::NetworkA), (1, Part::NetworkB)] {
            if self.part != part {
                scene.to_targets[number].set(Mode::Pass);
            }
        }
    }

    /// Waits for as long as the fault stays; how long a row takes to the target that has nothing to do with it.
    async fn stay(self, scene: &mut Scene, heard: usize, held: &Held) -> Option<Duration> {
        let begun = Instant::now();
        let others = match (self.phase, self.part.place()) {
            (Phase::Drain, _) | (_, None) => None,
            // It is away anyhow.
            (Phase::Split, Some(1)) => None,
            (_, Some(place)) => Some(1 - place),
        };
        if let Some(other) = others {
            scene.stage.assert_follows(other, 1).await;
        }
        let other = others.map(|_| begun.elapsed());
        tokio::time::sleep(self.fault.lasts()).await;
        if let Some(sign) = self.fault.sign().filter(|_| self.phase == Phase::Streaming && self.part.place().is_some())
        {
            let said = async || (held.has_fought() || scene.daemon.log()[heard..].contains(sign)).then_some(());
            wait_for(&format!("{sign} in the log"), seconds(20), said).await;
        }
        other
    }

    /// Everything is equal and in its place.
    async fn prove(self, scene: &mut Scene) {
        scene.daemon.wait_ready(seconds(60)).await;
        wait_own_slots(&scene.stage, 0).await;
        scene.stage.assert_in_step(&scene.daemon).await;
        assert!(is_there(&scene.stage.places[0].client, 101).await);
        scene.stage.assert_nothing_forgotten("walferry").await;
        let temporary = "SELECT count(*)::text FROM pg_replication_slots WHERE temporary";
        let gone = async || (text(&scene.stage.on_source, temporary).await.as_deref() == Some("0")).then_some(());
        wait_for("the temporary slots to be gone", seconds(20), gone).await;
    }
}

/// So many bytes a second to each target.
fn slow_down(scene: &Scene, rate: u64) {
    for proxy in &scene.to_targets {
        proxy.set(Mode::Throttle(rate));
    }
}

/// The first line that says that something is wrong, without when and where.
fn complaint(log: &str) -> String {
    let is_bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ") || line.starts_with("error: ");
    let said = log.lines().find(is_bad).unwrap_or("nothing");
    let said = said.split_once("walferry::").and_then(|(_, said)| said.split_once(": ")).map_or(said, |(_, said)| said);
    said.chars().take(150).collect()
}
