//! Rows of `bench_marker` that are committed before and after a workload: when the last one is visible, everything is.
//! Both ways are measured by this one criterion.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;
use tokio_postgres::Statement;

use crate::bed::Bed;
use crate::database::Database;
use crate::replica::Replica;

/// On the source and the targets.
pub const SCHEMA: &str = "CREATE TABLE bench_marker (id int PRIMARY KEY)";

/// Between two looks at the targets: a hundredth of the time that has passed, within these bounds. Looking takes
/// processor time from who is measured.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// When markers became visible, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub first: f64,
    pub last: f64,
}

/// Sessions that look for markers in target databases.
pub struct Watch(Vec<(Database, Statement)>);

impl Watch {
    pub async fn open(bed: &Bed, databases: &[String]) -> Result<Self> {
        let open = databases.iter().map(async |name| {
            let session = Database::connect(&bed.target, name).await?;
            let look = session.prepare("SELECT coalesce(max(id), 0) FROM bench_marker").await?;
            anyhow::Ok((session, look))
        });
        Ok(Self(try_join_all(open).await?))
    }

    /// Waits until the markers are visible in all databases.
    pub async fn wait(&self, replica: &mut Replica, first: i32, last: i32, begun: Instant) -> Result<Seen> {
        let (mut seen_first, mut checked) = (None, Instant::now());
        loop {
            let lowest = self.lowest().await?;
            if lowest >= first {
                seen_first = seen_first.or(Some(begun.elapsed().as_secs_f64()));
            }
            if lowest >= last
                && let Some(first) = seen_first
            {
                return Ok(Seen { first, last: begun.elapsed().as_secs_f64() });
            }
            if checked.elapsed() > Duration::from_secs(1) {
                checked = Instant::now();
                replica.must_work(begun)?;
            }
            let [shortest, longest] = PAUSES;
            tokio::time::sleep((begun.elapsed() / 100).clamp(shortest, longest)).await;
        }
    }

    /// The last marker that all databases have.
    async fn lowest(&self) -> Result<i32> {
        let mut lowest = i32::MAX;
        for (session, look) in &self.0 {
            lowest = lowest.min(session.client.query_one(look, &[]).await?.get(0));
        }
        Ok(lowest)
    }
}

/// Commits a marker on the source.
pub async fn set(source: &Database, id: i32) -> Result<()> {
    source.run(&format!("INSERT INTO bench_marker VALUES ({id})")).await
}
