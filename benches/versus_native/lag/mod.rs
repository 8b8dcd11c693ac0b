//! *Lag*: from the moment the source has answered a COMMIT until the row is visible on the target, at a given rate of
//! transactions. One process notes both, with one clock.
//!
//! ```text
//! writer × 4 ─▶ source ─▶ native or walferry ─▶ target ◀─ observer
//!    └ when each COMMIT was answered               when each row was first seen ┘
//! ```

mod observer;
mod writer;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use serde::Serialize;

use self::observer::Observer;
use self::writer::Writer;
use crate::bed::{Bed, SOURCE};
use crate::both::{Both, Way};
use crate::database::Address;
use crate::figures::percentile;
use crate::options::Options;
use crate::replica::Usage;
use crate::stage::{Play, Stage};

/// Sessions that write. Each row has the writer's number and its own, counted up; so what has become visible of each
/// writer is told by the highest.
const WRITERS: u32 = 4;

const SCHEMA: &str = "
CREATE TABLE lag (
    writer int, id bigint, at timestamptz NOT NULL, note text NOT NULL, PRIMARY KEY (writer, id)
)";

/// Nothing is counted until both sides have settled.
const WARM_UP: Duration = Duration::from_secs(1);

/// More than the rows that a writer writes in one measurement: the next one's are counted from there.
const IDS: i64 = 10_000_000;

/// What is written during a measurement.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Transactions per second.
    rate: u32,
    seconds: u64,
    /// Each writer's first row.
    first_id: i64,
}

/// One way at one rate in one round; times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lag {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// Transactions counted.
    pub transactions: usize,
    /// Transactions per second that the source really committed.
    pub rate: f64,
    /// Seconds of processor time of all processes that replicate, per second.
    pub cpu: Option<f64>,
    /// The same while nothing happens.
    pub idle_cpu: Option<f64>,
    #[serde(flatten)]
    pub usage: Usage,
}

/// A rate's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Lags {
    /// Transactions per second asked for.
    pub rate: u32,
    pub rounds: Vec<Both<Lag>>,
}

/// Measures the lag at each of the rates.
pub async fn measure(bed: &Bed, options: &Options) -> Result<Vec<Lags>> {
    let play = Play { sql: SCHEMA, fill: "", targets: 1, session: "" };
    let mut stage = Stage::set(bed, &play, options).await?;
    let seconds = if options.quick { options.lag_seconds.min(3) } else { options.lag_seconds };
    let mut all = Vec::new();
    let mut first_id = 0;
    for &rate in &options.lag_rates {
        let mut lags = Lags { rate, rounds: Vec::new() };
        for number in 1..=options.rounds() {
            stage.rest(bed).await?;
            let round = Both::in_turn(number, async |way| {
                first_id += IDS;
                follow(bed, &mut stage, way, Load { rate, seconds, first_id }).await
            });
            let round = round.await?;
            progress(rate, number, options.rounds(), &round);
            lags.rounds.push(round);
        }
        all.push(lags);
    }
    stage.strike(bed).await?;
    Ok(all)
}

/// Switches the way on, lets it catch up, looks at it idle and then under load.
async fn follow(bed: &Bed, stage: &mut Stage, way: Way, load: Load) -> Result<Lag> {
    let marker = stage.mark().await?;
    bed.checkpoint().await?;
    let side = stage.side(way);
    let begun = side.replica.switch_on(bed).await?;
    side.watch.wait(&mut side.replica, marker, marker, begun).await?;
    tokio::time::sleep(WARM_UP).await;
    let (before, since) = (side.replica.usage(bed).await?, Instant::now());
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    let (idle, idle_seconds) = (side.replica.usage(bed).await?, since.elapsed().as_secs_f64());
    let begun = Instant::now();
    let samples = put(bed, &side.replica.databases()[0], load).await?;
    let (usage, load_seconds) = (side.replica.usage(bed).await?, begun.elapsed().as_secs_f64());
    side.replica.switch_off(bed).await?;
    let sorted = samples.lags();
    Ok(Lag {
        p50: percentile(&sorted, 50.0),
        p95: percentile(&sorted, 95.0),
        p99: percentile(&sorted, 99.0),
        max: percentile(&sorted, 100.0),
        transactions: sorted.len(),
        rate: samples.rate(),
        cpu: usage.cpu_since(&idle).map(|cpu| cpu / load_seconds),
        idle_cpu: idle.cpu_since(&before).map(|cpu| cpu / idle_seconds),
        usage,
    })
}

/// When each transaction's COMMIT was answered, and when its row was first seen, writer by writer.
struct Samples {
    begin: Instant,
    committed: Vec<Vec<Instant>>,
    seen: Vec<Vec<Instant>>,
}

impl Samples {
    /// Milliseconds, in order. A row can be seen before its COMMIT is answered; then the number is negative.
    fn lags(&self) -> Vec<f64> {
        let pairs = self.committed.iter().flatten().zip(self.seen.iter().flatten());
        let counted = pairs.filter(|(committed, _)| **committed >= self.begin + WARM_UP);
        let mut lags: Vec<f64> = counted.map(|(committed, seen)| milliseconds(*committed, *seen)).collect();
        lags.sort_by(f64::total_cmp);
        lags
    }

    fn rate(&self) -> f64 {
        let last = self.committed.iter().flatten().max().map_or(0.0, |last| (*last - self.begin).as_secs_f64());
        self.committed.iter().map(Vec::len).sum::<usize>() as f64 / last
    }
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    (later - from.saturating_duration_since(to).as_secs_f64()) * 1000.0
}

/// Writes and observes, on threads of their own: the timers of this runtime are too coarse.
async fn put(bed: &Bed, database: &str, load: Load) -> Result<Samples> {
    let Load { rate, seconds, first_id } = load;
    // So that all have connected.
    let begin = Instant::now() + Duration::from_millis(500);
    let end = begin + WARM_UP + Duration::from_secs(seconds);
    let pause = Duration::from_secs(1) * WRITERS / rate;
    let written = Arc::new(OnceLock::new());
    let observer = Observer { writers: WRITERS, first_id, written: Arc::clone(&written) };
    let observing = on_a_thread(observer.observe(Address::of(&bed.target, database)));
    let writing = (0..WRITERS).map(|number| {
        let begin = begin + pause * number / WRITERS;
        let writer = Writer { number: number.cast_signed(), first_id, begin, end, pause };
        on_a_thread(writer.write(Address::of(&bed.source, SOURCE)))
    });
    let committed = try_join_all(writing).await.context("writing to the source")?;
    // Its end is the observer's only sign; nobody else sets it.
    drop(written.set(committed.iter().map(Vec::len).collect()));
    let seen = observing.await.context("observing the target")?;
    Ok(Samples { begin, committed, seen })
}

/// Runs at once, on a thread and a runtime of its own.
fn on_a_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> impl Future<Output = Result<T>> {
    let task = tokio::task::spawn_blocking(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
    });
    async { task.await? }
}

fn progress(rate: u32, number: u32, rounds: u32, round: &Both<Lag>) {
    let shown = |lag: &Lag| format!("{:.2} / {:.2} / {:.2} ms", lag.p50, lag.p95, lag.p99);
    println!(
        "lag at {rate}/s, round {number}/{rounds}: p50 / p95 / p99 native {}, walferry {} (committed {:.0}/s, {:.0}/s)",
        shown(&round.native),
        shown(&round.walferry),
        round.native.rate,
        round.walferry.rate,
    );
}
