//! What is not allowed, or not there, as `walferry run` says it: what, why, and the way out.

use crate::support::pair::{Pair, run, text, wait_halted, wait_refused};
use crate::support::prelude::*;

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)";

async fn pair() -> Pair {
    let pair = Pair::start(TABLE).await;
    run(&pair.source, "CREATE ROLE reader LOGIN REPLICATION; CREATE ROLE writer LOGIN").await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'planted'); INSERT INTO s.t VALUES (1)").await;
    pair
}

fn daemon(pair: &Pair) -> crate::support::daemon_builder::Builder {
    let (from, to) = (pair.cluster.url_as("reader", &pair.from.name), pair.cluster.url_as("writer", &pair.to.name));
    let quick = "[apply]\nhalted_retry_interval = \"200ms\"\nretry_max_interval = \"500ms\"";
    Daemon::builder(&from).target("t", &to).extra(quick)
}

#[tokio::test]
async fn each_missing_privilege_is_named_with_its_grant_until_none_is_missing() {
    let pair = pair().await;
    let mut daemon = daemon(&pair).start();
    let told = wait_refused(
        &mut daemon,
        &["may not create the schema \"walferry\"", "CREATE SCHEMA walferry AUTHORIZATION"],
        seconds(20),
    )
    .await;
    assert!(told.contains("AUTHORIZATION \"writer\""), "{told}");
    assert_eq!(text(&pair.source, "SELECT count(*) FROM pg_replication_slots").await.unwrap(), "0", "a slot was made");
    run(&pair.target, "CREATE SCHEMA walferry AUTHORIZATION writer").await;
    daemon.start();

    let says = [
        "in a schema the role may not use",
        "GRANT USAGE ON SCHEMA \"s\" TO \"writer\"",
        "ON TABLE \"public\".\"t\" TO \"writer\"",
    ];
    let told = wait_halted(&mut daemon, "t", &says[..1], seconds(20)).await;
    for said in says {
        assert!(told.contains(said), "\"{said}\" is not in: {told}");
    }
    let grants = "GRANT USAGE ON SCHEMA s TO writer;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, s TO writer";
    run(&pair.target, grants).await;
    let told = wait_halted(&mut daemon, "t", &["TRUNCATE", "does not allow"], seconds(20)).await;
    run(&pair.target, &told[told.find("GRANT").unwrap()..]).await;

    // The source now.
    let told = wait_halted(&mut daemon, "t", &["may not use on the source"], seconds(20)).await;
    for said in [
        "GRANT USAGE ON SCHEMA \"s\" TO \"reader\"",
        "GRANT SELECT ON TABLE \"s\".\"t\" TO \"reader\"",
        "GRANT SELECT ON TABLE \"public\".\"t\" TO \"reader\"",
    ] {
        assert!(told.contains(said), "\"{said}\" is not in: {told}");
    }
    run(&pair.source, "GRANT USAGE ON SCHEMA s TO reader; GRANT SELECT ON t, s.t TO reader").await;
    pair.equal(&["t", "s.t"], seconds(20)).await;

    // While it streams.
    run(&pair.target, "REVOKE UPDATE ON t FROM writer").await;
    run(&pair.source, "UPDATE t SET a = 'planted-2'").await;
    wait_halted(&mut daemon, "t", &["public.t", "id=1)", "42501", "GRANT SELECT, INSERT, UPDATE"], seconds(20)).await;
    run(&pair.target, "GRANT UPDATE ON t TO writer").await;
    pair.equal(&["t", "s.t"], seconds(20)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(!daemon.log().contains("planted"), "a value is in the log");
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn what_the_source_does_not_allow_ends_it_with_the_statement() {
    let pair = pair().await;
    run(&pair.target, "CREATE SCHEMA walferry AUTHORIZATION writer").await;
    run(&pair.source, "DROP PUBLICATION walferry").await;
    let mut daemon = daemon(&pair).start();
    wait_refused(
        &mut daemon,
        &["publication \"walferry\" does not exist", "CREATE PUBLICATION \"walferry\" FOR ALL TABLES"],
        seconds(20),
    )
    .await;
    let mut daemon = self::daemon(&pair).tables(&["public.t"]).start();
    let told =
        wait_refused(&mut daemon, &["may not create it", "CREATE PUBLICATION \"walferry\" FOR TABLE"], seconds(20))
            .await;
    let start = told.find("CREATE PUBLICATION").unwrap();
    run(&pair.source, &told[start..start + told[start..].find(';').unwrap()]).await;

    run(&pair.source, "ALTER ROLE reader NOREPLICATION").await;
    daemon.start();
    wait_refused(&mut daemon, &["replication", "ALTER ROLE", "REPLICATION"], seconds(20)).await;
    run(&pair.source, "ALTER ROLE reader REPLICATION; GRANT SELECT ON t TO reader").await;
    run(&pair.target, "GRANT ALL ON t TO writer").await;
    daemon.start();
    pair.equal(&["t"], seconds(20)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_is_told_from_one_that_is_not_there() {
    let rules = ["host all secret all scram-sha-256", "host all shut all reject", "host all all all trust"];
    let cluster = Cluster::builder(default_major()).hba(&rules).start().await;
    let pair = Pair::on(cluster, TABLE).await;
    run(&pair.source, "CREATE ROLE secret LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE shut LOGIN REPLICATION")
        .await;
    let port = pair.cluster.port;
    let from = &pair.from.name;
    for (url, says) in [
        (
            format!("postgres://secret:planted@127.0.0.1:{port}/{from}"),
            &["password", "secret", "check user and password"][..],
        ),
        (format!("postgres://shut@127.0.0.1:{port}/{from}"), &["pg_hba.conf", "shut"]),
        (format!("postgres://nobody@127.0.0.1:{port}/{from}"), &["nobody", "does not exist"]),
        (format!("postgres://postgres@127.0.0.1:{port}/nowhere"), &["nowhere", "CREATE DATABASE"]),
        (format!("postgres://postgres@127.0.0.1:{port}/{from}?sslmode=require"), &["TLS", "sslmode"]),
    ] {
        let mut daemon = Daemon::builder(&url).target("t", &pair.to.url).start();
        wait_refused(&mut daemon, says, seconds(20)).await;
        assert!(!daemon.log().contains("planted"), "the password is in the log: {}", daemon.log());
    }
    // A target's troubles are the target's: the daemon stays and says so.
    let url = format!("postgres://secret:planted@127.0.0.1:{port}/{}", pair.to.name);
    let mut daemon = Daemon::builder(&pair.from.url).target("t", &url).start();
    wait_halted(&mut daemon, "t", &["password", "check user and password"], seconds(20)).await;
    assert!(daemon.is_running() && !daemon.log().contains("planted"));
    // One that is not there may come.
    let mut daemon = Daemon::builder("postgres://postgres@127.0.0.1:9/x").target("t", &pair.to.url).start();
    let line = daemon.wait_log("trying again", seconds(20)).await;
    assert!(line.contains("127.0.0.1:9") || line.contains("port 9"), "{line}");
    assert!(daemon.is_running());
}
