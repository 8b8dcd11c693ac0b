//! Asks the target again and again for the highest row of each writer, and notes when each row was first seen.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::database::Address;

/// Between two questions.
const PAUSE: Duration = Duration::from_micros(200);

/// How long the last rows may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is to be observed.
#[derive(Clone, Debug)]
pub struct Observer {
    pub writers: u32,
    /// Of each writer's rows.
    pub first_id: i64,
    /// How many rows each has written, once it is known; the observation ends when they have been seen.
    pub written: Arc<OnceLock<Vec<usize>>>,
}

impl Observer {
    /// When each row was first seen, writer by writer. Sleeps without giving way: the thread is its own.
    pub async fn observe(self, target: Address) -> Result<Vec<Vec<Instant>>> {
        let session = target.connect().await?;
        let highest = |writer| format!("coalesce((SELECT max(id) FROM lag WHERE writer = {writer}), 0)");
        let columns: Vec<String> = (0..self.writers).map(highest).collect();
        let ask = session.prepare(&format!("SELECT {}", columns.join(", "))).await?;
        let mut seen = vec![Vec::new(); columns.len()];
        let mut told = None;
        loop {
            let row = session.client.query_one(&ask, &[]).await?;
            let now = Instant::now();
            for (writer, seen) in seen.iter_mut().enumerate() {
                let rows = usize::try_from(row.get::<_, i64>(writer) - self.first_id + 1).unwrap_or(0);
                seen.resize(rows.max(seen.len()), now);
            }
            if let Some(written) = self.written.get() {
                if seen.iter().zip(written).all(|(seen, written)| seen.len() >= *written) {
                    return Ok(seen);
                }
                let told = told.get_or_insert_with(Instant::now);
                ensure!(told.elapsed() < PATIENCE, "the last rows have not come within {PATIENCE:?}");
            }
            std::thread::sleep(PAUSE);
        }
    }
}
