//! Tables that foreign keys tie to others, where the target checks them: they are brought in together, and what is not
//! tied to them goes on.

use std::time::Duration;

use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::{PLAIN, connect, execute};

#[tokio::test]
async fn a_child_of_a_table_that_is_there_comes_with_its_parent_while_the_others_go_on() {
    let stage = Stage::new(2).await;
    let parent = "CREATE TABLE parent (id int PRIMARY KEY)";
    execute(&stage.places[1].client, &format!("SET ROLE {PLAIN}; {parent}; RESET ROLE")).await;
    execute(&stage.places[0].client, parent).await;
    execute(&stage.on_source, &format!("{parent}; INSERT INTO parent SELECT generate_series(1, 1000)")).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let load = Load::start(&stage, 0..1, Duration::from_millis(5)).await;
    let child = "CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)";
    for place in &stage.places {
        execute(&connect(&place.db.url).await, child).await;
    }
    let rows = "INSERT INTO child SELECT n, n % 1000 + 1 FROM generate_series(1, 5000) n";
    execute(&stage.on_source, &format!("{child}; {rows}")).await;
    for id in 1001..1200 {
        let both = format!("INSERT INTO parent VALUES ({id}); INSERT INTO child VALUES ({id} * 10, {id})");
        execute(&stage.on_source, &format!("BEGIN; {both}; COMMIT")).await;
    }
    let done = "SELECT count(*)::text FROM walferry.table_state WHERE state = 'done' AND table_name = 'child'";
    for place in &stage.places {
        let there = async || (text(&place.client, done).await.as_deref() == Some("1")).then_some(());
        wait_for("the child to be done", seconds(60), there).await;
    }
    load.stop().await;
    daemon.wait_ready(seconds(60)).await;
    let clients: Vec<&tokio_postgres::Client> = stage.places.iter().map(|place| &place.client).collect();
    wait_equal(&stage.on_source, &clients, &["parent", "child"], seconds(60)).await;
    stage.assert_in_step(&daemon).await;
    assert_eq!(daemon.log_count("ERROR walferry"), 0);
    // The parent was copied again only where its keys are checked.
    assert_eq!(daemon.log_count("table=public.parent"), 3);
}
