//! The ways of applying: a test in each of them, and the proof that it was the one that was asked for.

use tokio_postgres::Client;

use super::daemon::Daemon;
use super::stage::{execute, wait_row};
use super::wait::{seconds, wait_for};

/// Rows of marks from here on are written to see how they are applied.
const MARK: i64 = 9_000;

/// `apply.bulk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    Auto,
    Always,
    Never,
}

/// Every one of them.
pub const MODES: [Bulk; 3] = [Bulk::Auto, Bulk::Always, Bulk::Never];

/// Makes three tests of each `async fn name(bulk: Bulk)`: `name::bulk_auto`, `name::bulk_always`, `name::bulk_never`.
macro_rules! in_each_mode {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::support::modes::Bulk;

            #[tokio::test]
            async fn bulk_auto() {
                super::$name(Bulk::Auto).await;
            }

            #[tokio::test]
            async fn bulk_always() {
                super::$name(Bulk::Always).await;
            }

            #[tokio::test]
            async fn bulk_never() {
                super::$name(Bulk::Never).await;
            }
        }
    )+};
}
pub(crate) use in_each_mode;

impl Bulk {
    /// As the configuration file has it.
    pub fn name(self) -> &'static str {
        match self {
            Bulk::Auto => "auto",
            Bulk::Always => "always",
            Bulk::Never => "never",
        }
    }
}

/// The books of a daemon that dies: what it has applied in all its lives, and in which way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Books {
    bulk: Bulk,
    changes: f64,
    in_bulk: f64,
    fallbacks: f64,
}

impl Books {
    /// Of a daemon that was told to apply in this way.
    pub fn new(bulk: Bulk) -> Self {
        Self { bulk, changes: 0.0, in_bulk: 0.0, fallbacks: 0.0 }
    }

    /// Enters what the daemon has applied in the life that is about to end; nothing, if it does not answer yet.
    pub async fn enter(&mut self, daemon: &Daemon) {
        for sample in daemon.metrics().await {
            match sample.name.as_str() {
                "walferry_target_rows_total" => self.changes += sample.value,
                "walferry_target_bulk_changes_total" => self.in_bulk += sample.value,
                "walferry_target_bulk_fallbacks_total" => self.fallbacks += sample.value,
                _ => {}
            }
        }
    }

    /// Enters the last life, and panics unless changes were applied in the way that the daemon was told: then, and now,
    /// when rows come one at a time, which is too little to go in bulk unless that is forced. The source must have come
    /// to rest, and `target` be one that takes all of it.
    pub async fn close(self, daemon: &Daemon, source: &Client, target: &Client) {
        let before = self.settled(daemon).await;
        eprintln!("{before:?}");
        assert_eq!(before.in_bulk > 0.0, self.bulk != Bulk::Never, "not applied as told: {before:?}");
        let mut mark = MARK;
        let as_told = async || {
            mark += 1;
            execute(source, &format!("INSERT INTO applied VALUES (-{mark}, 999)")).await;
            wait_row(target, mark, 30).await;
            // It may not be counted yet; then the next one shows it.
            let mut now = self;
            now.enter(daemon).await;
            now.have_gone_on(&before).then_some(())
        };
        wait_for("a row by itself to be applied as the daemon was told", seconds(10), as_told).await;
    }

    /// With the present life, once two looks in a row agree: what was applied just now may not be counted yet.
    async fn settled(&self, daemon: &Daemon) -> Self {
        let mut last = None;
        let agree = async || {
            let mut now = *self;
            now.enter(daemon).await;
            (last.replace(now) == Some(now)).then_some(now)
        };
        wait_for("everything to be counted", seconds(10), agree).await
    }

    /// Whether single rows were applied since, in the way in which they are to be.
    fn have_gone_on(&self, before: &Self) -> bool {
        match self.bulk {
            Bulk::Auto => self.changes > before.changes && self.in_bulk == before.in_bulk,
            Bulk::Always => self.in_bulk > before.in_bulk,
            Bulk::Never => self.changes > before.changes && self.in_bulk == 0.0 && self.fallbacks == 0.0,
        }
    }
}
