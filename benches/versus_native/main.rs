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
//! | `replica/` | the two ways: subscriptions, and walferry as a child process |
//! | `workloads/` | what happens on the source |
//! | `stage.rs`, `marker.rs`, `equality.rs` | a workload's databases; when everything is there; whether it is |
//! | `drain.rs` | how fast a backlog is worked off |
//! | `process.rs` | processor time and memory |
//! | `figures.rs`, `report.rs` | medians and ratios; the results as text |

mod bed;
mod database;
mod drain;
mod equality;
mod figures;
mod marker;
mod options;
mod process;
mod replica;
mod report;
mod stage;
mod workloads;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use walferry::admin::CommandError;
use walferry::error::{Judged, Verdict};

use crate::bed::Bed;
use crate::options::Options;

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
    let bed = Bed::start(options).await?;
    let version: String = bed.on_source.value("SELECT version()", &[]).await?;
    println!("{version}\nBoth servers: {}\n", Bed::settings(bed.site.binaries.major).join(" "));
    let mut drains = Vec::new();
    for workload in workloads::ALL.iter().filter(|workload| options.wants(workload.name)) {
        drains.push(drain::measure(&bed, workload, 1, options).await?);
    }
    println!("\n{}", report::drains(&drains));
    Ok(())
}
