//! The two ways by which the source's changes reach target databases: a subscription each, or one walferry.
//!
//! Both offer the same steps: [`Replica::start_copy`], then any number of [`Replica::switch_off`] and
//! [`Replica::switch_on`], and [`Replica::remove`].

mod daemon;
pub mod native;
mod walferry;

use std::time::{Duration, Instant};

use ::walferry::lsn::Lsn;
use anyhow::{Result, ensure};
use serde::Serialize;

pub use self::native::Native;
pub use self::walferry::Walferry;
use crate::bed::Bed;
use crate::both::Way;
use crate::options::Options;
use crate::process::cpu_seconds;

/// How long a copy, a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// What the processes that are at work have used since they were switched on.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// Seconds of processor time of the source's walsenders.
    pub walsender_cpu: Option<f64>,
    /// The same of the target's processes that apply: subscriptions' workers, or walferry's backends.
    pub target_cpu: Option<f64>,
    /// The same of the daemon; native has none.
    pub daemon_cpu: Option<f64>,
    /// The most memory the daemon has had resident, in bytes.
    pub daemon_memory: Option<u64>,
}

impl Usage {
    /// Seconds of processor time of all of them.
    pub fn cpu(&self) -> Option<f64> {
        Some(self.walsender_cpu? + self.target_cpu? + self.daemon_cpu.unwrap_or_default())
    }

    /// The same since an earlier look.
    pub fn cpu_since(&self, earlier: &Self) -> Option<f64> {
        Some(self.cpu()? - earlier.cpu()?)
    }
}

/// One way, set up. The publication is there; nothing is copied yet.
pub enum Replica {
    Native(Native),
    Walferry(Walferry),
}

impl Replica {
    /// Sets up a way to these databases; walferry's sessions there are set to `session`.
    pub async fn new(way: Way, bed: &Bed, databases: Vec<String>, session: &str, options: &Options) -> Result<Self> {
        Ok(match way {
            Way::Native => Self::Native(Native::new(bed, databases, options.native_streaming).await?),
            Way::Walferry => Self::Walferry(Walferry::new(bed, databases, session, options).await?),
        })
    }

    pub fn way(&self) -> Way {
        match self {
            Self::Native(_) => Way::Native,
            Self::Walferry(_) => Way::Walferry,
        }
    }

    pub fn databases(&self) -> &[String] {
        match self {
            Self::Native(native) => native.databases(),
            Self::Walferry(walferry) => walferry.databases(),
        }
    }

    /// Starts the initial copy; replication stays switched on. The instant is the one before it began.
    pub async fn start_copy(&mut self, bed: &Bed) -> Result<Instant> {
        match self {
            Self::Native(native) => native.start_copy(bed).await,
            Self::Walferry(walferry) => walferry.switch_on(bed),
        }
    }

    /// Waits until the rows of all tables are there and committed.
    pub async fn copied(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let copied = match self {
                Self::Native(native) => native.is_copied().await?,
                Self::Walferry(walferry) => walferry.is_copied().await?,
            };
            if copied {
                return Ok(());
            }
            self.must_work(begun)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Switches replication on; the instant is the one before.
    pub async fn switch_on(&mut self, bed: &Bed) -> Result<Instant> {
        match self {
            Self::Native(native) => native.switch_on().await,
            Self::Walferry(walferry) => walferry.switch_on(bed),
        }
    }

    /// Switches replication off, and comes back when nothing of it runs any more.
    pub async fn switch_off(&mut self, bed: &Bed) -> Result<()> {
        let begun = Instant::now();
        match self {
            Self::Native(native) => native.switch_off().await?,
            Self::Walferry(walferry) => walferry.switch_off().await?,
        }
        while !self.walsenders(bed).await?.is_empty() || !self.appliers(bed).await?.is_empty() {
            ensure!(begun.elapsed() < PATIENCE, "{} does not stop", self.way());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until the source may forget what it has written so far.
    pub async fn confirmed(&self, bed: &Bed, written: Lsn) -> Result<()> {
        let begun = Instant::now();
        let ask = "SELECT bool_and(confirmed_flush_lsn >= $2::text::pg_lsn) FROM pg_replication_slots \
                   WHERE slot_name = ANY($1::text[])";
        while !bed.on_source.value::<bool>(ask, &[&self.slots(), &written.to_string()]).await? {
            ensure!(begun.elapsed() < PATIENCE, "{} does not confirm what it has", self.way());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Takes it away again, with its slots and its publication.
    pub async fn remove(mut self, bed: &Bed) -> Result<()> {
        self.switch_off(bed).await?;
        match &self {
            Self::Native(native) => native.remove(bed).await,
            Self::Walferry(walferry) => walferry.remove(bed).await,
        }
    }

    /// An error when it has ended by itself, or takes too long.
    pub fn must_work(&mut self, since: Instant) -> Result<()> {
        if let Self::Walferry(walferry) = self {
            walferry.must_run()?;
            ensure!(since.elapsed() < PATIENCE, "walferry takes more than {PATIENCE:?}:\n{}", walferry.log());
        }
        ensure!(since.elapsed() < PATIENCE, "{} takes more than {PATIENCE:?}", self.way());
        Ok(())
    }

    /// What has been used since it was switched on: every process is started anew then.
    pub async fn usage(&self, bed: &Bed) -> Result<Usage> {
        let sum = |pids: Vec<i32>| pids.into_iter().map(|pid| cpu_seconds(pid.cast_unsigned())).sum::<Option<f64>>();
        let mut usage = match self {
            Self::Native(_) => Usage::default(),
            Self::Walferry(walferry) => walferry.usage(),
        };
        usage.walsender_cpu = sum(self.walsenders(bed).await?);
        usage.target_cpu = sum(self.appliers(bed).await?);
        Ok(usage)
    }

    fn slots(&self) -> Vec<String> {
        match self {
            Self::Native(native) => native.databases().to_vec(),
            Self::Walferry(_) => vec![walferry::SLOT.to_owned()],
        }
    }

    async fn walsenders(&self, bed: &Bed) -> Result<Vec<i32>> {
        let ask = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = ANY($1::text[]) AND active";
        bed.on_source.column(ask, &[&self.slots()]).await
    }

    async fn appliers(&self, bed: &Bed) -> Result<Vec<i32>> {
        let ask = match self {
            Self::Native(_) => native::APPLIERS,
            Self::Walferry(_) => walferry::APPLIERS,
        };
        bed.on_target.column(ask, &[&self.databases()]).await
    }
}
