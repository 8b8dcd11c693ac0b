//! One server with a source database and two target databases: what most tests of the daemon's behaviour need.

use tokio_postgres::Client;

use super::cluster::{Cluster, Db, describe};
use super::daemon::Daemon;
use super::daemon_builder::Builder;
use super::diff::wait_equal;
use super::versions::default_major;
use super::wait::{Deadline, wait_for};

/// The server, its databases, and a superuser's session in each.
#[derive(Debug)]
pub struct Pair {
    pub cluster: Cluster,
    pub from: Db,
    pub to: Db,
    pub source: Client,
    pub target: Client,
}

impl Pair {
    /// With these tables on both sides, all of them published.
    pub async fn start(tables: &str) -> Self {
        Self::on(Cluster::start(default_major()).await, tables).await
    }

    /// As [`Pair::start`], on a server of the test's own.
    pub async fn on(cluster: Cluster, tables: &str) -> Self {
        let (from, to) = (cluster.create_database().await, cluster.create_database().await);
        let (source, target) = (cluster.connect(&from.name).await, cluster.connect(&to.name).await);
        run(&source, tables).await;
        run(&target, tables).await;
        run(&source, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
        Self { cluster, from, to, source, target }
    }

    /// Another target database with these tables, and a session there.
    pub async fn another(&self, tables: &str) -> (Db, Client) {
        let db = self.cluster.create_database().await;
        let client = self.cluster.connect(&db.name).await;
        run(&client, tables).await;
        (db, client)
    }

    /// A daemon from one to the other (target `t`) that is quick to try again.
    pub fn daemon(&self, apply: &str) -> Builder {
        let quick = "halted_retry_interval = \"200ms\"\nretry_max_interval = \"500ms\"";
        Daemon::builder(&self.from.url).target("t", &self.to.url).extra(&format!("[apply]\n{quick}\n{apply}"))
    }

    /// Waits until the target holds what the source holds.
    pub async fn equal(&self, tables: &[&str], deadline: Deadline) {
        wait_equal(&self.source, &[&self.target], tables, deadline).await;
    }
}

/// Runs statements; an error is the test's.
pub async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{}\nin {statements}", describe(&error)));
}

/// The first column of the only row, as text.
pub async fn text(client: &Client, query: &str) -> Option<String> {
    let query = format!("SELECT ({query})::text");
    client.query_one(&query, &[]).await.unwrap_or_else(|error| panic!("{}\nin {query}", describe(&error))).get(0)
}

/// One target's part of the status.
pub async fn status(daemon: &Daemon, target: &str) -> serde_json::Value {
    let Some((_, body)) = daemon.get("/api/v1/status").await else { return serde_json::Value::Null };
    let status: serde_json::Value = serde_json::from_str(&body).expect("the status is JSON");
    let targets = status["targets"].as_array().expect("targets");
    targets.iter().find(|status| status["name"] == target).cloned().expect("the target is in the status")
}

/// Waits until the target is halted by an error that holds each of these texts (in message or hint), also as seen
/// through `/readyz` and metrics. Gives message and hint.
pub async fn wait_halted(daemon: &mut Daemon, target: &str, says: &[&str], deadline: Deadline) -> String {
    let mut last = String::new();
    let told = wait_for(&format!("{target} to be halted with {says:?}"), deadline, async || {
        let found = status(daemon, target).await;
        let error = &found["last_error"];
        let text = format!("{} {}", error["message"].as_str()?, error["hint"].as_str().unwrap_or_default());
        if text != last {
            eprintln!("{target} is {}: {text}", found["state"]);
            last.clone_from(&text);
        }
        let fits = says.iter().all(|said| text.contains(said));
        (found["state"] == "halted" && fits).then_some(text)
    })
    .await;
    let labels = [("target", target), ("state", "halted")];
    daemon.wait_metric("walferry_target_state", &labels, |value| value == 1.0, deadline).await;
    let ready = async || daemon.get("/readyz").await.filter(|(code, body)| *code == 503 && body.contains(says[0]));
    wait_for("/readyz to say so", deadline, ready).await;
    told
}

/// Waits until tables of the target cannot be copied, by an error that holds each of these texts (in message or hint),
/// while the target is fed. Gives message and hint.
pub async fn wait_left_out(daemon: &mut Daemon, target: &str, says: &[&str], deadline: Deadline) -> String {
    let failed = async || {
        let metrics = daemon.metrics().await;
        let is_it = |sample: &&super::daemon::Sample| {
            let label = |name: &str| sample.labels.get(name).map(String::as_str);
            sample.name == "walferry_table_copy_state"
                && (label("target"), label("state"), sample.value) == (Some(target), Some("failed"), 1.0)
        };
        metrics.iter().find(is_it)?;
        let found = status(daemon, target).await;
        let error = &found["last_error"];
        let text = format!("{} {}", error["message"].as_str()?, error["hint"].as_str().unwrap_or_default());
        (found["state"] == "applying" && says.iter().all(|said| text.contains(said))).then_some(text)
    };
    wait_for(&format!("a table of {target} to be left out, with {says:?}"), deadline, failed).await
}

/// Waits until a daemon that refuses has ended, with exit code 3 and a hint. Gives all it has logged.
pub async fn wait_refused(daemon: &mut Daemon, says: &[&str], deadline: Deadline) -> String {
    let status = daemon.wait_exit(deadline).await;
    let log = daemon.log();
    assert_eq!(status.code(), Some(3), "{log}");
    let last = log.rfind("error: ").expect("an error is printed");
    let told = &log[last..];
    assert!(told.contains("hint: "), "{told}");
    for said in says {
        assert!(told.contains(said), "\"{said}\" is not in: {told}");
    }
    told.to_owned()
}
