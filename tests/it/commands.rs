//! `status`, `check` and `slot` on real servers, with and without a daemon.

mod checks;
mod slots;

use std::process::Output;

use serde_json::Value;

use crate::support::prelude::*;

/// A source with a published table, and an empty target with the same table; roles of their own on both.
struct Pair {
    cluster: Cluster,
    source: Db,
    target: Db,
}

impl Pair {
    async fn start() -> Self {
        Self::on(Cluster::start(default_major()).await).await
    }

    /// As [`Pair::start`], on a server of the test's own.
    async fn on(cluster: Cluster) -> Self {
        let (source, target) = (cluster.create_database().await, cluster.create_database().await);
        let table = "CREATE TABLE items (id int PRIMARY KEY, name text, n serial)";
        cluster.execute(&source.name, table).await;
        cluster.execute(&source.name, "INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 100) n").await;
        cluster.execute(&source.name, "CREATE PUBLICATION walferry FOR TABLE items").await;
        cluster.execute(&target.name, table).await;
        cluster.execute("postgres", "CREATE ROLE reader LOGIN REPLICATION; CREATE ROLE writer LOGIN").await;
        let may_read = "GRANT USAGE ON SCHEMA public TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";
        cluster.execute(&source.name, may_read).await;
        let may_write = format!(
            "GRANT USAGE ON SCHEMA public TO writer; GRANT ALL ON ALL TABLES IN SCHEMA public TO writer;
             GRANT CREATE ON DATABASE {} TO writer",
            target.name
        );
        cluster.execute(&target.name, &may_write).await;
        Self { cluster, source, target }
    }

    fn daemon(&self) -> Daemon {
        Daemon::builder(&self.cluster.url_as("reader", &self.source.name))
            .target("one", &self.cluster.url_as("writer", &self.target.name))
            .prepare()
    }

    /// Runs statements on the source.
    async fn source(&self, statements: &str) {
        self.cluster.execute(&self.source.name, statements).await;
    }

    /// Runs statements on the target.
    async fn target(&self, statements: &str) {
        self.cluster.execute(&self.target.name, statements).await;
    }

    async fn slots(&self) -> i64 {
        let client = self.cluster.connect(&self.source.name).await;
        client.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.unwrap().get(0)
    }

    async fn equal(&self) {
        let (source, target) =
            (self.cluster.connect(&self.source.name).await, self.cluster.connect(&self.target.name).await);
        wait_equal(&source, &[&target], &["public.items"], seconds(60)).await;
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(output)))
}

fn told(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn objects(report: &Value, severity: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    let of = findings.filter(|finding| finding["severity"] == severity);
    of.map(|finding| finding["object"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn status_tells_the_same_stream_from_the_daemon_and_from_the_servers() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();

    let before = daemon.run(&["status", "--json"]).await;
    assert_eq!(before.status.code(), Some(1), "{}", told(&before));
    let problems = json(&before)["problems"].to_string();
    assert!(problems.contains("no daemon runs") && problems.contains("does not exist"), "{problems}");

    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let during = daemon.run(&["status", "--json"]).await;
    assert!(during.status.success(), "{}", told(&during));
    let report = json(&during);
    assert_eq!(report["daemon"]["targets"][0]["state"], "applying");
    assert!(told(&daemon.run(&["status"]).await).contains("1 of 1 tables are in step"));

    assert!(daemon.terminate(seconds(60)).await.success());
    let after = json(&daemon.run(&["status", "--json"]).await);
    assert_eq!(after["servers"]["targets"][0]["tables"][0]["state"], "done");
    assert_eq!(after["servers"]["targets"][0]["tables"][0]["rows"], 100);
    assert_eq!(after["problems"].as_array().unwrap().len(), 1, "{after}");
}

#[tokio::test]
async fn status_shows_a_target_that_cannot_be_reached_and_goes_on() {
    let pair = Pair::start().await;
    let daemon = pair.daemon();
    daemon.reconfigure(&format!("/{}\"", pair.target.name), "/nowhere\"");
    let output = daemon.run(&["status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("! target one:") && told(&output).contains("nowhere"), "{}", told(&output));
}

#[tokio::test]
async fn check_finds_nothing_wrong_with_what_will_work() {
    let pair = Pair::start().await;
    let output = pair.daemon().run(&["check", "--json"]).await;
    let report = json(&output);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(report["ok"], true);
    assert!(objects(&report, "info").contains(&"sequences".to_owned()), "{report}");
    assert_eq!(pair.slots().await, 0, "it changes nothing");
}

#[tokio::test]
async fn check_finds_everything_at_once_and_its_statements_mend_it() {
    let pair = Pair::start().await;
    let (source, target) = (&pair.source.name, &pair.target.name);
    pair.cluster.execute(source, "REVOKE SELECT ON items FROM reader").await;
    pair.cluster.execute(source, "CREATE TABLE log (line text); ALTER PUBLICATION walferry ADD TABLE log").await;
    pair.cluster.execute(source, "CREATE UNLOGGED TABLE scratch (id int)").await;
    pair.cluster.execute(target, "ALTER TABLE items DROP COLUMN name, ALTER COLUMN n TYPE bigint").await;
    pair.cluster.execute(target, &format!("REVOKE CREATE ON DATABASE {target} FROM writer")).await;
    let daemon = pair.daemon();
    let output = daemon.run(&["check", "--json"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    let report = json(&output);
    let errors = objects(&report, "error");
    for object in ["public.items", "public.log", "schema walferry"] {
        assert!(errors.iter().any(|error| error == object), "{object} in {report}");
    }
    let warnings = objects(&report, "warning");
    assert!(warnings.contains(&"public.scratch".to_owned()) && warnings.contains(&"public.log".to_owned()), "{report}");

    for finding in report["findings"].as_array().unwrap() {
        let database = if finding["server"] == "source" { source } else { target };
        if finding["severity"] == "error" {
            for statement in finding["sql"].as_array().unwrap() {
                pair.cluster.execute(database, statement.as_str().unwrap()).await;
            }
        }
    }
    // The table that was missing has been made by the superuser.
    pair.cluster.execute(target, "GRANT ALL ON ALL TABLES IN SCHEMA public TO writer").await;
    let again = daemon.run(&["check", "--json"]).await;
    assert!(again.status.success(), "{}", told(&again));
}

#[tokio::test]
async fn check_names_a_role_that_may_not_replicate_and_a_publication_that_is_missing() {
    let pair = Pair::start().await;
    pair.cluster.execute("postgres", "ALTER ROLE reader NOREPLICATION").await;
    pair.cluster.execute(&pair.source.name, "DROP PUBLICATION walferry").await;
    let report = json(&pair.daemon().run(&["check", "--json"]).await);
    let errors = objects(&report, "error");
    assert!(errors.contains(&"role reader".to_owned()) && errors.contains(&"publication".to_owned()), "{report}");
}

#[tokio::test]
async fn a_slot_that_was_created_beforehand_is_followed() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    let created = daemon.run(&["slot", "create", "--json"]).await;
    assert!(created.status.success(), "{}", told(&created));
    let listed = json(&daemon.run(&["slot", "list", "--json"]).await);
    assert_eq!((&listed[0]["name"], &listed[0]["ours"]), (&Value::from("walferry"), &Value::from(true)));
    let again = daemon.run(&["slot", "create"]).await;
    assert_eq!(again.status.code(), Some(3), "{}", told(&again));
    assert!(told(&again).contains("exists already"));

    pair.cluster.execute(&pair.source.name, "INSERT INTO items VALUES (1000, 'after the slot')").await;
    daemon.start();
    pair.equal().await;
}

#[tokio::test]
async fn nothing_is_changed_under_a_running_daemon() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    for command in [&["slot", "reset", "--yes"][..], &["slot", "drop", "--yes"], &["slot", "create"]] {
        let refused = daemon.run(command).await;
        assert_eq!(refused.status.code(), Some(3), "{}", told(&refused));
        let told = told(&refused);
        assert!(told.contains("is in use by server process") && told.contains("walferry/walferry"), "{told}");
    }
    pair.cluster.execute(&pair.source.name, "INSERT INTO items VALUES (1000, 'still going')").await;
    pair.equal().await;
}

#[tokio::test]
async fn a_reset_is_the_way_back_from_a_lost_slot() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    pair.equal().await;
    assert!(daemon.terminate(seconds(60)).await.success());
    let unasked = daemon.run(&["slot", "drop"]).await;
    assert_eq!(unasked.status.code(), Some(3), "{}", told(&unasked));
    assert!(daemon.run(&["slot", "drop", "--yes"]).await.status.success());
    assert_eq!(pair.slots().await, 0);

    // What happens now can never be had from a slot.
    pair.cluster.execute(&pair.source.name, "DELETE FROM items WHERE id % 2 = 0; UPDATE items SET name = 'new'").await;
    let check = daemon.run(&["check"]).await;
    assert_eq!(check.status.code(), Some(2));
    assert!(told(&check).contains("walferry slot reset"), "{}", told(&check));

    let reset = daemon.run(&["slot", "reset", "--yes"]).await;
    assert!(reset.status.success(), "{}", told(&reset));
    assert!(told(&reset).contains("marked 1 tables") && told(&reset).contains("emptied"), "{}", told(&reset));
    pair.cluster.execute(&pair.source.name, "INSERT INTO items VALUES (1000, 'after the reset')").await;
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    pair.equal().await;
}

#[tokio::test]
async fn with_force_a_running_daemon_is_disconnected_and_comes_back_to_copy_again() {
    let pair = Pair::start().await;
    let mut daemon = pair.daemon();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let reset = daemon.run(&["slot", "reset", "--yes", "--force"]).await;
    assert!(reset.status.success(), "{}", told(&reset));
    pair.cluster.execute(&pair.source.name, "INSERT INTO items VALUES (1000, 'after the reset')").await;
    pair.equal().await;
}
