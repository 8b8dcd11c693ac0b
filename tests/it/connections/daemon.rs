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
