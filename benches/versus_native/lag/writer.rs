//! Writes a row in a transaction of its own at each moment of a schedule, whether or not the one before is done in time
//! (open loop), and notes when each COMMIT was answered.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::database::Address;

/// What one writer does.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub number: i32,
    /// The first row's; counted up from there.
    pub first_id: i64,
    pub begin: Instant,
    pub end: Instant,
    pub pause: Duration,
}

impl Writer {
    /// When each COMMIT was answered. Sleeps without giving way: the thread is its own.
    pub async fn write(self, source: Address) -> Result<Vec<Instant>> {
        let session = source.connect().await?;
        let sql = "INSERT INTO lag VALUES ($1, $2, clock_timestamp(), 'a row of some length, as rows are')";
        let insert = session.prepare(sql).await?;
        let mut answered = Vec::new();
        let (mut due, mut id) = (self.begin, self.first_id);
        while due < self.end {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            session.client.execute(&insert, &[&self.number, &id]).await?;
            answered.push(Instant::now());
            due += self.pause;
            id += 1;
        }
        Ok(answered)
    }
}
