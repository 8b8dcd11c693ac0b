//! The daemon over TLS, as its configuration says it.

use super::certificates::{Certificates, END};
use crate::support::prelude::*;

#[tokio::test]
async fn the_daemon_replicates_over_verified_tls_on_both_sides() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let cluster = certificates.start(&["hostssl all all all scram-sha-256"]).await;
    cluster.execute("postgres", "ALTER ROLE ferry SUPERUSER").await;
    let (from, to) = (cluster.create_database().await, cluster.create_database().await);
    for db in [&from, &to] {
        cluster.execute(&db.name, "CREATE TABLE t (i int PRIMARY KEY)").await;
    }
    cluster.execute(&from.name, "INSERT INTO t VALUES (1); CREATE PUBLICATION walferry FOR ALL TABLES").await;
    let url = |db: &Db| {
        let (port, root) = (cluster.port, certificates.path("root.crt"));
        format!(
            "postgresql://ferry:right@db.test:{port}/{}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}\
             &channel_binding=require&sslcertmode=disable",
            db.name,
            root.display()
        )
    };
    // A client certificate of libpq's that is of no use, and need not be.
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".postgresql")).unwrap();
    std::fs::write(home.path().join(".postgresql/postgresql.crt"), "none").unwrap();
    let daemon = Daemon::builder(&url(&from)).target("t", &url(&to));
    let mut daemon = daemon.environment("HOME", home.path().to_str().unwrap()).start();
    daemon.wait_ready(seconds(60)).await;
    let certificate = "walferry_certificate_expiry_timestamp_seconds";
    for side in ["source", "target"] {
        let server = [("side", side), ("certificate", "server")];
        let shown = daemon.wait_metric(certificate, &server, |end| end > 0.0, seconds(10)).await;
        assert_eq!(shown, END, "when the certificate of the {side} ends");
        let own = daemon.metric(certificate, &[("side", side), ("certificate", "client")]).await.unwrap();
        assert!(own.is_nan(), "there is no client certificate: {own}");
    }
    cluster.execute(&from.name, "INSERT INTO t VALUES (2)").await;
    let target = cluster.connect(&to.name).await;
    let rows = async || {
        let row = target.query_one("SELECT count(*), sum(i) FROM t", &[]).await.unwrap();
        ((row.get(0), row.get(1)) == (2_i64, Some(3_i64))).then_some(())
    };
    wait_for("both rows", seconds(30), rows).await;
    let plain = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                 WHERE application_name LIKE 'walferry/%' AND NOT ssl";
    assert_eq!(target.query_one(plain, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(daemon.terminate(seconds(30)).await.success());
    assert!(!daemon.log().contains("right@"));
}

#[tokio::test]
async fn a_rotated_password_needs_no_restart() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let cluster = certificates.start(&["hostssl all all all scram-sha-256"]).await;
    cluster.execute("postgres", "ALTER ROLE ferry SUPERUSER").await;
    let (from, to) = (cluster.create_database().await, cluster.create_database().await);
    for db in [&from, &to] {
        cluster.execute(&db.name, "CREATE TABLE t (i int PRIMARY KEY)").await;
    }
    cluster.execute(&from.name, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
    // The source's password is in a file with the connection string, the target's in a password file.
    let parameters = format!("?hostaddr=127.0.0.1&sslmode=require&passfile={}", certificates.path("pass").display());
    let url = |user: &str, db: &Db| format!("postgresql://{user}@db.test:{}/{}{parameters}", cluster.port, db.name);
    let rotate = |password: &str| {
        certificates.write("url", &format!("{}\n", url(&format!("ferry:{password}"), &from)));
        certificates.write("pass", &format!("*:*:*:ferry:{password}\n"));
    };
    rotate("right");
    let quick = "[apply]\nhalted_retry_interval = \"200ms\"\nretry_max_interval = \"200ms\"";
    let mut daemon = Daemon::builder("none").target("t", &url("ferry", &to)).extra(quick).prepare();
    daemon.reconfigure("url = \"none\"", &format!("url_file = \"{}\"", certificates.path("url").display()));
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    let (pid, target) = (daemon.pid(), cluster.connect(&to.name).await);
    for (round, password) in ["hunter-two", "hunter-three"].into_iter().enumerate() {
        let before = daemon.log_count("password authentication failed");
        cluster.execute("postgres", &format!("ALTER ROLE ferry PASSWORD '{password}'")).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'walferry/%'";
        cluster.execute("postgres", end).await;
        let refused = async || (daemon.log_count("password authentication failed") > before).then_some(());
        wait_for("the old password to be refused", seconds(20), refused).await;
        rotate(password);
        daemon.wait_ready(seconds(20)).await;
        cluster.execute(&from.name, &format!("INSERT INTO t VALUES ({round})")).await;
        let there = format!("SELECT 1 FROM t WHERE i = {round}");
        wait_for("the row", seconds(20), async || target.query_opt(&there, &[]).await.unwrap().map(drop)).await;
    }
    assert_eq!(daemon.pid(), pid);
    let log = daemon.log();
    assert!(["right@", "hunter"].iter().all(|secret| !log.contains(secret)), "a password is in the log");
}
