//! `walferry demo`: one source and two targets on this machine, a live workload, the daemon killed in the middle, and
//! a comparison row by row that decides the exit code.
//!
//! ```text
//!   site (directory, watcher) ─▶ server × 3 ─▶ shop (tables, roles) ─▶ workload ──┐
//!                                                       daemon: run, kill -9, run ┴▶ show ─▶ compare ─▶ verdict
//! ```
//! Whatever ends it (the verdict, an error, a panic, Ctrl-C, SIGKILL), nothing it started stays (`throwaway`).

mod compare;
mod daemon;
mod lines;
mod shop;
mod show;
mod steps;
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use self::compare::{Compared, compare};
use self::daemon::Daemon;
use self::show::Show;
use self::workload::Workload;
use super::CommandError;
use super::output::{self, grouped, line};
use super::throwaway::server::{Server, tail};
use super::throwaway::{Site, binaries};
use crate::cli::{Demo, ExitCode};

/// Everything the daemon needs of a source, and nothing that would spare it work. `fsync` only matters when the machine
/// itself fails, and then the demonstration is over anyway.
const SETTINGS: &[&str] = &[
    "wal_level=logical",
    "fsync=off",
    "shared_buffers=64MB",
    "max_connections=40",
    "max_wal_senders=10",
    "max_replication_slots=10",
    "jit=off",
    "timezone=UTC",
];

/// Carries the demonstration out.
///
/// # Errors
/// It cannot be carried out: no server programs, a server or the daemon fails, or somebody interrupts it.
pub async fn run(demo: &Demo) -> Result<ExitCode, CommandError> {
    let interrupted = interruption()?;
    let site = Arc::new(Site::prepare(binaries::find()?, "demo", demo.keep)?);
    let ended = tokio::select! {
        biased;
        name = interrupted => Err(CommandError::failed(format!("interrupted by {name}"))),
        ended = carry_out(demo, &site) => {
            if !matches!(ended, Ok(ExitCode::Success)) {
                line(&format!("\nThe end of the daemon's log:\n{}", tail(&Daemon::log(&site), 40)))?;
            }
            ended
        }
    };
    if demo.keep {
        line(&format!("\nKept: {}", site.directory().display()))?;
    }
    ended
}

async fn carry_out(demo: &Demo, site: &Arc<Site>) -> Result<ExitCode, CommandError> {
    let begun = Instant::now();
    line(&format!("PostgreSQL {} from {}", site.binaries.major, site.binaries.directory.display()))?;
    let (source, one, other) = tokio::try_join!(
        Server::start(site, "source", SETTINGS),
        Server::start(site, "staging", SETTINGS),
        Server::start(site, "analytics", SETTINGS)
    )?;
    let targets = [one, other];
    tokio::try_join!(
        shop::make_source(&source, &site.password),
        shop::make_target(&targets[0], &site.password),
        shop::make_target(&targets[1], &site.password)
    )?;
    line(&format!(
        "One source and two targets on 127.0.0.1, ports {}, {}, {}; walferry's roles are no superusers.\n\
         A workload of {} transactions per second for {} s; the daemon is killed with SIGKILL on the way, and counts \
         from each start.",
        source.port, targets[0].port, targets[1].port, demo.rate, demo.duration
    ))?;
    line("")?;
    let daemon = Daemon::configure(site, &source, &targets)?;
    let mut show = Show::prepare(&source, &targets, daemon, demo.duration).await?;
    let workload = Workload::start(&source, demo.rate).await?;
    show.run(workload, Duration::from_secs(demo.duration)).await?;
    line("         --> everything has arrived; the daemon is stopped with SIGTERM")?;
    show.stop_daemon().await?;
    line("")?;
    verdict(&source, &targets, begun).await
}

/// Compares everything, and says how it went.
async fn verdict(source: &Server, targets: &[Server], begun: Instant) -> Result<ExitCode, CommandError> {
    let mut rows = Vec::new();
    let mut all_equal = true;
    for table in shop::tables() {
        let mut row = vec![table.to_string()];
        for target in targets {
            let compared = compare(source, target, &table).await?;
            if row.len() == 1 {
                row.push(grouped(compared.rows));
            }
            all_equal &= compared.equal();
            row.push(shown(compared));
        }
        rows.push(row);
    }
    let header: Vec<&str> = ["table", "rows"].into_iter().chain(targets.iter().map(|target| target.name)).collect();
    line(&output::table(&header, &[1], rows))?;
    let seconds = begun.elapsed().as_secs();
    if all_equal {
        line(&format!("Equal: every row of the source is on both targets, once, and no other ({seconds} s in all)."))?;
        return Ok(ExitCode::Success);
    }
    line(&format!("NOT EQUAL: see the table ({seconds} s in all)."))?;
    Ok(ExitCode::Failure)
}

fn shown(compared: Compared) -> String {
    if compared.equal() {
        return "equal".to_owned();
    }
    format!("{} missing, {} extra", grouped(compared.missing), grouped(compared.extra))
}

/// Waits for a signal that means "stop"; its name.
fn interruption() -> Result<impl Future<Output = &'static str>, CommandError> {
    let on = |kind| signal(kind).map_err(|source| CommandError::failed("cannot listen for signals").because(source));
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hangup = on(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    })
}
