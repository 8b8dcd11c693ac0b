//! How fast walferry is beside PostgreSQL's own logical replication, end to end: the same workloads on throwaway
//! servers through both, in turn, with the same settings, and both compared with the source after each.
//!
//! ```text
//! cargo bench --bench versus_native -- --help
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `options.rs` | the command line |
//! | `bed.rs`, `database.rs` | one source and one target server with their settings; sessions on them |
//! | `both.rs`, `replica/` | the two ways: subscriptions, and walferry as a child process |
//! | `workloads/` | what happens on the source |
//! | `stage.rs`, `marker.rs`, `equality.rs` | a workload's databases; when everything is there; whether it is |
//! | `drain.rs` | how fast a backlog is worked off |
//! | `alone.rs` | how fast the source sends it to somebody who only reads |
//! | `lag/` | how long a commit takes to become visible, at a given rate |
//! | `copy/` | how long the initial copy takes |
//! | `process.rs` | processor time and memory |
//! | `results.rs`, `figures.rs` | everything that was measured (JSON); medians and ratios |
//! | `report.rs`, `picture.rs` | the results as text, and as SVG |

mod alone;
mod bed;
mod both;
mod copy;
mod database;
mod drain;
mod equality;
mod figures;
mod lag;
mod marker;
mod options;
mod picture;
mod process;
mod replica;
mod report;
mod results;
mod stage;
mod workloads;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use walferry::admin::CommandError;
use walferry::error::{Judged, Verdict};

use crate::bed::Bed;
use crate::options::Options;
use crate::results::Results;

fn main() -> ExitCode {
    // Whoever runs all targets as tests does not mean to spend an hour here.
    if !std::env::args().any(|argument| argument == "--bench") {
        eprintln!("versus_native measures nothing unless it is run by cargo bench.");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let measured = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(measure(&options)));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            if let Some(Verdict::Halt { hint }) = error.downcast_ref().map(CommandError::verdict) {
                eprintln!("{hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> Result<()> {
    let known: Vec<&str> = workloads::ALL.iter().map(|workload| workload.name).chain(["lag", "copy"]).collect();
    if let Some(stranger) = options.strangers(&known).next() {
        bail!("there is no {stranger} to measure, but {}", known.join(", "));
    }
    let bed = Bed::start(options).await?;
    let mut results = Results::new(&bed, options).await?;
    println!("{}", results.heading());
    // What was measured before an error is not lost.
    let measured = measure_all(&bed, options, &mut results).await;
    println!("\n{}", report::text(&results));
    if let Some(file) = &options.json {
        write(file, &(serde_json::to_string_pretty(&results)? + "\n"))?;
    }
    if let Some(file) = &options.svg {
        write(file, &picture::svg(&results))?;
    }
    measured
}

async fn measure_all(bed: &Bed, options: &Options, results: &mut Results) -> Result<()> {
    for workload in workloads::ALL.iter().filter(|workload| options.wants(workload.name)) {
        if bed.takes(workload.session).await {
            results.drains.push(drain::measure(bed, workload, options).await.context(workload.name)?);
        } else {
            println!("{:<8} left out: the server does not take {}", workload.name, workload.session);
        }
    }
    if options.wants("lag") {
        results.lags = lag::measure(bed, options).await.context("lag")?;
    }
    if options.wants("copy") {
        results.copies = copy::measure(bed, options).await.context("copy")?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
