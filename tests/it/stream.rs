//! The whole way: one source, several targets, writers that never pause, and equality at the end.

use crate::support::prelude::*;
use crate::support::{tpcb, workload};

/// Makes the accounts some megabytes.
const SCALE: u64 = 30;

/// The tables of both workloads.
fn tables() -> Vec<&'static str> {
    workload::TABLES.iter().chain(&tpcb::TABLES).copied().collect()
}

in_each_mode!(three_targets_of_different_versions_become_equal_to_a_source_under_load);

async fn three_targets_of_different_versions_become_equal_to_a_source_under_load(bulk: Bulk) {
    let versions = majors();
    let source = Cluster::start(default_major()).await;
    let from = source.create_database().await;
    let writer = source.connect(&from.name).await;
    workload::create(&writer).await;
    workload::fill(&writer).await;
    tpcb::create(&writer).await;
    tpcb::fill(&writer, SCALE).await;
    writer.batch_execute("CREATE PUBLICATION walferry FOR ALL TABLES").await.unwrap();

    let writers = tpcb::Writers::start(&source, &from.name, 2, SCALE).await;
    // So slow that the copy is under way until that changes.
    let network = Proxy::to(&source).await;
    network.set(Mode::Throttle(100_000));
    let mut clusters = Vec::new();
    let mut clients = Vec::new();
    let mut daemon = Daemon::builder(&network.url(&from.name)).bulk(bulk);
    for number in 0..3 {
        let cluster = Cluster::start(versions[(number * 2) % versions.len()]).await;
        let db = cluster.create_database().await;
        let client = cluster.connect(&db.name).await;
        workload::create(&client).await;
        tpcb::create(&client).await;
        daemon = daemon.target(&format!("t{number}"), &db.url);
        clusters.push(cluster);
        clients.push(client);
    }
    let mut random = workload::Writer::new(7, 1);
    random.run(&writer, 100).await;
    let mut daemon = daemon.start();
    let copying = [("table", "public.tpcb_accounts"), ("state", "copying")];
    daemon.wait_metric("walferry_table_copy_state", &copying, |targets| targets >= 1.0, seconds(60)).await;
    let before = writers.committed();
    random.run(&writer, 100).await;
    wait_for("writers beside the copy", seconds(60), async || (writers.committed() > before + 100).then_some(())).await;
    let targets = daemon.metric("walferry_table_copy_state", &copying).await;
    assert!(targets >= Some(1.0), "the copy was over before anything was written beside it");
    network.set(Mode::Pass);
    daemon.wait_ready(seconds(60)).await;

    // A target that is held up lags behind, and says so.
    clients[0].batch_execute("BEGIN; LOCK TABLE applied IN ACCESS EXCLUSIVE MODE").await.unwrap();
    random.run(&writer, 300).await;
    daemon.wait_metric("walferry_target_lag_bytes", &[("target", "t0")], |bytes| bytes > 0.0, seconds(30)).await;
    daemon.wait_metric("walferry_target_lag_seconds", &[("target", "t0")], |lag| lag > 0.0, seconds(30)).await;
    clients[0].batch_execute("COMMIT").await.unwrap();
    random.run(&writer, 100).await;
    writers.stop().await;

    let targets: Vec<&tokio_postgres::Client> = clients.iter().collect();
    wait_equal(&writer, &targets, &tables(), seconds(60)).await;
    for number in 0..3 {
        let target = format!("t{number}");
        let labels = [("target", target.as_str())];
        for lag in ["walferry_target_lag_bytes", "walferry_target_lag_seconds"] {
            daemon.wait_metric(lag, &labels, |value| value == 0.0, seconds(20)).await;
        }
    }
    Books::new(bulk).close(&daemon, &writer, &clients[0]).await;
    let status = daemon.terminate(seconds(30)).await;
    assert!(status.success(), "{status}\n{}", daemon.log());
}
