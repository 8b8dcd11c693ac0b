//! Rows that are committed at a steady pace, each with the time at which it was sent; a target notes when it arrived. On
//! one machine that tells how far a target lags, row by row.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::pair::text;
use super::stage::{Stage, connect, execute};
use super::wait::{seconds, wait_for};

/// How many rows are committed in a second.
const RATE: u64 = 200;

/// The table `paced`, on the source and on all targets.
pub async fn create(stage: &Stage) {
    let columns = "CREATE TABLE paced (id bigint PRIMARY KEY, sent timestamptz, filler text";
    for place in &stage.places {
        let table = format!("{columns}, arrived timestamptz DEFAULT clock_timestamp())");
        execute(&connect(&place.db.url).await, &table).await;
    }
    execute(&stage.on_source, &format!("{columns})")).await;
}

/// Commits so many rows, or as many as it takes until `enough`; gives the next free number.
pub async fn write(stage: &Stage, first: i64, rows: i64, enough: impl AsyncFn() -> bool) -> i64 {
    let writer = connect(&stage.from.url).await;
    let mut ticks = interval(Duration::from_micros(1_000_000 / RATE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut id = first;
    while id < first + rows {
        ticks.tick().await;
        execute(&writer, &format!("INSERT INTO paced VALUES ({id}, clock_timestamp(), repeat('x', 200))")).await;
        id += 1;
        if (id - first) % 50 == 0 && enough().await {
            break;
        }
    }
    id
}

/// The 99th percentile of the time from a row's INSERT on the source to that on the target, in milliseconds, of these
/// rows, once they are all there.
pub async fn p99(stage: &Stage, place: usize, rows: std::ops::Range<i64>) -> f64 {
    let client = &stage.places[place].client;
    let there = format!("SELECT 1 FROM paced WHERE id = {}", rows.end - 1);
    wait_for("the last row", seconds(60), async || client.query_opt(&there, &[]).await.unwrap().map(drop)).await;
    let query = format!(
        "SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM arrived - sent) * 1000)
         FROM paced WHERE id >= {} AND id < {}",
        rows.start, rows.end
    );
    text(client, &query).await.unwrap().parse().unwrap()
}

/// What the lag may be, in milliseconds, where it was this before: what is below a few of them is noise.
pub fn limit(before: f64) -> f64 {
    (1.5 * before).max(20.0)
}
