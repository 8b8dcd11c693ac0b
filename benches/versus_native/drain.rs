//! *Drain*: the workload runs while replication is off; then the time until the target has everything.
//!
//! The workload runs once per round, and both ways drain the same WAL, in turn, the other first in every second round.

use anyhow::{Context, Result};
use serde::Serialize;
use walferry::admin::output::grouped;

use crate::alone::{Alone, Sent};
use crate::bed::Bed;
use crate::both::{Both, Way};
use crate::equality;
use crate::marker::Seen;
use crate::options::Options;
use crate::replica::Usage;
use crate::stage::{Play, Stage};
use crate::workloads::Workload;

/// One way in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Drain {
    /// From switching on until everything was visible.
    pub seconds: f64,
    /// From switching on until the first transaction was visible.
    pub first_seconds: f64,
    #[serde(flatten)]
    pub usage: Usage,
}

/// A workload's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Drained {
    pub name: &'static str,
    pub title: &'static str,
    /// Target databases.
    pub targets: usize,
    /// Of one round, for each target.
    pub changes: u64,
    pub transactions: u64,
    pub rounds: Vec<Round>,
}

/// Both ways, and the source alone.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    #[serde(flatten)]
    pub both: Both<Drain>,
    pub alone: Sent,
}

/// Measures the workload.
pub async fn measure(bed: &Bed, workload: &Workload, options: &Options) -> Result<Drained> {
    let changes = workload.changes(options);
    let fill = format!("CALL fill({changes}, {})", options.rounds());
    let play = Play { sql: workload.sql, fill: &fill, targets: workload.targets, session: workload.session };
    let mut stage = Stage::set(bed, &play, options).await?;
    let mut drained = Drained {
        name: workload.name,
        title: workload.title,
        targets: workload.targets,
        changes,
        transactions: workload.transactions(options),
        rounds: Vec::new(),
    };
    for number in 1..=options.rounds() {
        stage.rest(bed).await?;
        let alone = Alone::stand(&stage.source).await?;
        let first = stage.mark().await?;
        stage.source.run(&format!("CALL run({changes}, {number})")).await.context("the workload fails")?;
        let written = stage.source.written().await?;
        let last = stage.mark().await?;
        let both = Both::in_turn(number, async |way| drain(bed, &mut stage, way, (first, last)).await).await?;
        bed.checkpoint().await?;
        let round = Round { both, alone: alone.read(bed, &stage.source, written).await? };
        progress(&drained, number, options.rounds(), &round);
        drained.rounds.push(round);
    }
    stage.strike(bed).await?;
    Ok(drained)
}

async fn drain(bed: &Bed, stage: &mut Stage, way: Way, (first, last): (i32, i32)) -> Result<Drain> {
    bed.checkpoint().await?;
    let side = stage.side(way);
    let begun = side.replica.switch_on(bed).await?;
    let Seen { first, last } = side.watch.wait(&mut side.replica, first, last, begun).await?;
    let usage = side.replica.usage(bed).await?;
    side.replica.switch_off(bed).await?;
    for database in side.replica.databases() {
        equality::verify(bed, database).await.with_context(|| format!("after {way} had everything"))?;
    }
    Ok(Drain { seconds: last, first_seconds: first, usage })
}

fn progress(drained: &Drained, number: u32, rounds: u32, round: &Round) {
    let Round { both, alone } = round;
    let rate = |drain: &Drain| grouped((drained.changes as f64 / drain.seconds) as u64);
    println!(
        "{:<8} round {number}/{rounds}: native {:.2} s ({} rows/s), walferry {:.2} s ({} rows/s): \
         {:.2} times native's speed; the source alone {:.2} s",
        drained.name,
        both.native.seconds,
        rate(&both.native),
        both.walferry.seconds,
        rate(&both.walferry),
        both.native.seconds / both.walferry.seconds,
        alone.seconds,
    );
}
