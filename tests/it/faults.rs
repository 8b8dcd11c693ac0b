//! Every fault of every part at every moment: while one target is concerned the other goes on, and once it is mended,
//! the databases are equal, with nothing lost, doubled or left behind. Each cell is a line that is printed.
//!
//! Beside other tests, each fault has its turn at one moment, and of the second target every other one.
//! `WALFERRY_TEST_FAULTS=all` goes through all of them, and any other text through the cells whose line
//! (`daemon │ killed │ copy`) holds it.

mod cell;
mod fault;
mod scene;
mod soak;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use self::cell::{Cell, Phase};
use self::fault::{Fault, Part};
use crate::support::versions::is_root;

/// Every cell of this part whose turn it is.
async fn faults_of(part: Part) {
    let wanted = std::env::var("WALFERRY_TEST_FAULTS").ok();
    let (mut cells, mut failed) = (0, Vec::new());
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let needs_root = (fault == Fault::DiskFull && !is_root()).then_some("a disk of its own needs root: skipped");
        if let Some(why) = fault.not_of(part).or(needs_root) {
            println!("{} │ {} │ — │ {why}", part.name(), fault.name());
            continue;
        }
        for (moment, phase) in Phase::ALL.into_iter().enumerate() {
            let line = format!("{} │ {} │ {}", part.name(), fault.name(), phase.name());
            let is_due = match wanted.as_deref() {
                // B is as A is, and the other one.
                None if part.place() == Some(1) && number % 2 == 0 => false,
                None => moment == (number + part as usize) % Phase::ALL.len(),
                Some("all") => true,
                Some(wanted) => line.contains(wanted),
            };
            if !is_due {
                continue;
            }
            eprintln!("--- {line}");
            cells += 1;
            match AssertUnwindSafe(Cell { part, fault, phase }.run()).catch_unwind().await {
                Ok(outcome) => println!("{line} │ {outcome}"),
                Err(_) => {
                    println!("{line} │ NOT EQUAL: see above");
                    failed.push(line);
                }
            }
        }
    }
    println!("{}: {cells} cells, of which not equal: {}", part.name(), failed.len());
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn of_the_daemon() {
    faults_of(Part::Daemon).await;
}

#[tokio::test]
async fn of_the_source() {
    faults_of(Part::Source).await;
}

#[tokio::test]
async fn of_a_target() {
    faults_of(Part::TargetA).await;
}

#[tokio::test]
async fn of_the_other_target() {
    faults_of(Part::TargetB).await;
}

#[tokio::test]
async fn of_the_network_to_the_source() {
    faults_of(Part::SourceNetwork).await;
}

#[tokio::test]
async fn of_the_network_to_a_target() {
    faults_of(Part::NetworkA).await;
}

#[tokio::test]
async fn of_the_network_to_the_other_target() {
    faults_of(Part::NetworkB).await;
}
