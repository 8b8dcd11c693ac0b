//! Four targets under a steady load: one is down, one is slow, and the other two do not notice.

use super::{in_step, wait_own_slots};
use crate::support::paced;
use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::proxy::{Mode, Proxy};

/// Rows of one phase: 200 are written in a second. `WALFERRY_TEST_PACED_ROWS` makes them more.
fn rows_of_a_phase() -> i64 {
    std::env::var("WALFERRY_TEST_PACED_ROWS").map_or(1_000, |rows| rows.parse().expect("a number"))
}

/// Commits the rows of a phase, waits until the last two targets have them, and gives the worse of their lags.
async fn paced(stage: &Stage, first: i64) -> f64 {
    let end = paced::write(stage, first, rows_of_a_phase(), async || false).await;
    paced::p99(stage, 2, first..end).await.max(paced::p99(stage, 3, first..end).await)
}

#[tokio::test]
async fn of_four_targets_one_is_down_and_one_slow_and_the_others_lag_no_more_than_before() {
    let mut stage = Stage::new(4).await;
    paced::create(&stage).await;
    let slow = Proxy::to(&stage.places[1].cluster).await;
    let port = format!(":{}/", stage.places[1].cluster.port);
    let mut urls: Vec<String> = stage.places.iter().map(|place| place.db.url.clone()).collect();
    urls[1] = urls[1].replace(&port, &format!(":{}/", slow.port));
    let daemon = stage.daemon_via(&stage.from.url, &urls).apply("isolate_after", "\"2s\"");
    let mut daemon = daemon.apply("queue_bytes", "\"256KiB\"").apply("batch_bytes", "\"64KiB\"").start();
    daemon.wait_ready(seconds(60)).await;
    let before = paced(&stage, 0).await;

    slow.set(Mode::Throttle(10_000));
    stage.places[0].cluster.kill9().await;
    let begin = stage.current().await;
    let meanwhile = paced(&stage, rows_of_a_phase()).await;
    wait_own_slots(&stage, 2).await;
    // A loaded machine measures its own noise: what is so for good is so each time.
    let (mut phases, mut again) = (2, f64::MAX);
    while phases < 5 && again >= paced::limit(before) {
        again = again.min(paced(&stage, phases * rows_of_a_phase()).await);
        phases += 1;
    }
    let confirmed = stage.confirmed("walferry").await;
    assert!(confirmed > begin, "the stream's slot keeps all since the faults began");
    let kept = stage.current().await - confirmed;
    println!(
        "p99 of the lag of two targets: {before:.1} ms; {meanwhile:.1} ms from the moment on that one of the others is \
         down and one slow ({:.2} times); {again:.1} ms once these have slots of their own ({:.2} times); the stream's \
         slot keeps {kept} bytes",
        meanwhile / before,
        again / before
    );
    assert!(again < paced::limit(before), "{again} ms, where it was {before} ms");

    slow.set(Mode::Pass);
    stage.places[0].come_back().await;
    in_step(&stage, &mut daemon).await;
    for place in &stage.places {
        let rows = text(&place.client, "SELECT count(*) FROM paced").await;
        assert_eq!(rows, Some((phases * rows_of_a_phase()).to_string()));
    }
}
