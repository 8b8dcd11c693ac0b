//! The harness itself: servers start, die, come back and never outlive a test; differences are found; the proxy harms.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::prelude::*;
use crate::support::{diff, process, tpcb, workload};

#[tokio::test]
async fn a_server_of_every_major_starts_with_an_identity_of_its_own() {
    for_each_major(async |major| {
        let (one, two) = tokio::join!(Cluster::start(major), Cluster::start(major));
        let identity = "SELECT system_identifier::text, current_setting('server_version_num') FROM pg_control_system()";
        let one = one.connect("postgres").await.query_one(identity, &[]).await.unwrap();
        let two = two.connect("postgres").await.query_one(identity, &[]).await.unwrap();
        assert_ne!(one.get::<_, &str>(0), two.get::<_, &str>(0));
        assert!(one.get::<_, &str>(1).starts_with(&major.to_string()));
    })
    .await;
}

#[test]
fn tests_that_run_beside_each_other_share_neither_ports_nor_the_order_of_identities() {
    use crate::support::cluster_builder::{free_port, next_identity, ports_of_slot};
    let first = next_identity();
    std::thread::spawn(|| (0..3).for_each(|_| _ = next_identity())).join().unwrap();
    assert_eq!(next_identity(), first + 1);

    let (mine, theirs) = (ports_of_slot(Some(2)), ports_of_slot(Some(3)));
    assert!(mine.len() >= 1_000 && mine.end <= theirs.start, "{mine:?} {theirs:?}");
    let all = ports_of_slot(None);
    for slot in [0, 21, 22, u64::MAX] {
        let part = ports_of_slot(Some(slot));
        assert!(!part.is_empty() && part.start >= all.start && part.end <= all.end, "{slot}: {part:?}");
    }
    let given: std::collections::HashSet<u16> = (0..100).map(|_| free_port()).collect();
    assert_eq!(given.len(), 100, "a port was given twice");
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let mut cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    cluster.execute(&db.name, "CREATE TABLE t AS SELECT 1 AS a").await;
    cluster.kill9().await;
    assert!(cluster.try_connect(&db.name).await.is_err());
    cluster.start_again().await;
    let rows = cluster.connect(&db.name).await.query("SELECT a FROM t", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn a_restored_server_has_forgotten_and_a_promoted_standby_is_on_a_new_timeline() {
    let mut cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE TABLE before ()").await;
    let snapshot = cluster.snapshot().await;
    cluster.execute("postgres", "CREATE TABLE after ()").await;
    let exists = "SELECT to_regclass('before') IS NOT NULL, to_regclass('after') IS NOT NULL";
    cluster.restore(&snapshot).await;
    let row = cluster.connect("postgres").await.query_one(exists, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (true, false));

    let standby = cluster.standby().await;
    standby.promote().await;
    let timeline = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    let row = standby.connect("postgres").await.query_one(timeline, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "00000002");
}

#[tokio::test]
async fn access_rules_and_settings_are_the_tests_own() {
    let cluster = Cluster::builder(default_major())
        .hba(&["host all ann all scram-sha-256", "host all all all reject"])
        .setting("application_name", "'chosen'")
        .start()
        .await;
    cluster.execute("postgres", "CREATE ROLE ann LOGIN PASSWORD 'secret'").await;
    let url = |role: &str| cluster.url_as(role, "postgres");
    assert!(tokio_postgres::connect(&url("ann:secret"), tokio_postgres::NoTls).await.is_ok());
    assert!(tokio_postgres::connect(&url("ann:wrong"), tokio_postgres::NoTls).await.is_err());
    assert!(tokio_postgres::connect(&url("postgres"), tokio_postgres::NoTls).await.is_err());
    let row = cluster.connect("postgres").await.query_one("SHOW application_name", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "chosen");
}

/// Run by the next test in a process of its own, which is then killed.
#[tokio::test]
async fn an_orphan_in_the_making() {
    let Some(file) = std::env::var_os("WALFERRY_TEST_ORPHAN") else { return };
    let cluster = Cluster::start(default_major()).await;
    let partial = std::path::Path::new(&file).with_extension("partial");
    std::fs::write(&partial, format!("{}\n{}", cluster.pid(), cluster.socket_dir().display())).unwrap();
    std::fs::rename(partial, file).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_test_leaves_neither_server_nor_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orphan");
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "harness::an_orphan_in_the_making"])
        .env("WALFERRY_TEST_ORPHAN", &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let written = async || std::fs::read_to_string(&file).ok();
    let text = wait_for("the other test's server", seconds(60), written).await;
    let (pid, files) = text.split_once('\n').unwrap();
    let pid = pid.parse().unwrap();
    assert!(process::is_alive(pid));
    test.kill().unwrap();
    test.wait().unwrap();
    let gone = async || (!process::is_alive(pid) && !std::path::Path::new(files).exists()).then_some(());
    wait_for("the orphaned server to go", seconds(30), gone).await;
}

#[tokio::test]
async fn a_planted_difference_is_found_and_shown() {
    let cluster = Cluster::start(default_major()).await;
    let (one, two) = (cluster.create_database().await, cluster.create_database().await);
    let (one, two) = (cluster.connect(&one.name).await, cluster.connect(&two.name).await);
    for client in [&one, &two] {
        client.batch_execute("CREATE TABLE \"Odd.name\" (a int, b text)").await.unwrap();
        client.batch_execute("INSERT INTO \"Odd.name\" VALUES (1, NULL), (1, NULL), (2, ''), (3, 'x')").await.unwrap();
    }
    let tables = ["\"Odd.name\""];
    assert_equal(&one, &two, &tables).await;
    // NULL is not the empty string, and one of two equal rows is one too few.
    for (change, found) in [
        ("UPDATE \"Odd.name\" SET b = '' WHERE a = 1", "only on the source, 2 times: (1,)"),
        ("DELETE FROM \"Odd.name\" WHERE ctid = '(0,1)'", "only on the source, 1 times: (1,)"),
        ("INSERT INTO \"Odd.name\" VALUES (4, 'planted')", "only on the target, 1 times: (4,planted)"),
        ("DROP TABLE \"Odd.name\"", "does not exist"),
    ] {
        two.batch_execute("BEGIN").await.unwrap();
        two.batch_execute(change).await.unwrap();
        let report = diff::differences(&one, &two, &tables).await;
        assert!(report.contains(found), "{change}: {report}");
        two.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// How each kind of statement of the random workload shows in its text.
const KINDS: [&str; 27] = [
    "INSERT INTO w_default",
    "UPDATE w_default SET amount",
    "UPDATE w_default SET big",
    "; UPDATE w_default SET id",
    "\nDELETE FROM w_default",
    "INSERT INTO w_index",
    "UPDATE w_index SET note",
    "UPDATE w_index SET code",
    "INSERT INTO w_full",
    "UPDATE w_full SET b",
    "DELETE FROM w_full WHERE ctid",
    "INSERT INTO w_child",
    "DELETE FROM w_parent",
    "UPDATE w_parent",
    "TRUNCATE ",
    "ROLLBACK TO",
    "RELEASE",
    "INSERT INTO w_default SELECT",
    "UPDATE w_default SET amount = amount + 1 WHERE id BETWEEN",
    "DELETE FROM w_default WHERE id BETWEEN",
    "INSERT INTO w_index SELECT",
    "WHERE code IN (SELECT",
    "INSERT INTO w_full SELECT n,",
    "UPDATE w_full SET c",
    "DELETE FROM w_full WHERE a BETWEEN",
    "INSERT INTO w_parent SELECT",
    "DELETE FROM w_parent WHERE id BETWEEN",
];

#[tokio::test]
async fn workloads_are_repeatable_and_every_kind_of_statement_runs() {
    let cluster = Cluster::start(default_major()).await;
    let (one, two) = (cluster.create_database().await, cluster.create_database().await);
    let (one, two) = (cluster.connect(&one.name).await, cluster.connect(&two.name).await);
    for client in [&one, &two] {
        workload::create(client).await;
        workload::fill(client).await;
        workload::Writer::new(7, 0).run(client, 300).await;
    }
    wait_equal(&one, &[&two], &workload::TABLES, seconds(30)).await;
    workload::assert_applied_once(&one, &two).await;
    let mut writer = workload::Writer::new(7, 0);
    let text: String = (0..300).map(|_| writer.transaction()).collect();
    for kind in KINDS {
        assert!(text.contains(kind), "nowhere in the workload: {kind}");
    }
    for table in workload::TABLES {
        let row = one.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
        assert!(row.get::<_, i64>(0) > 0, "{table} is empty");
    }
}

#[tokio::test]
async fn concurrent_writers_keep_their_books() {
    let mut cluster = Cluster::start(default_major()).await;
    let db = cluster.create_database().await;
    let client = cluster.connect(&db.name).await;
    tpcb::create(&client).await;
    tpcb::fill(&client, 1).await;
    let writers = tpcb::Writers::start(&cluster, &db.name, 4, 1).await;
    wait_for("100 transactions", seconds(60), async || (writers.committed() >= 100).then_some(())).await;
    let committed = writers.stop().await;
    let books = "SELECT (SELECT count(*) FROM tpcb_history), (SELECT sum(delta) FROM tpcb_history)::text,
                        (SELECT sum(balance) FROM tpcb_accounts)::text";
    let row = client.query_one(books, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0).cast_unsigned(), committed);
    assert_eq!(row.get::<_, &str>(1), row.get::<_, &str>(2));

    let writers = tpcb::Writers::start_undeterred(&cluster, &db.name, 4, 1).await;
    wait_for("a transaction", seconds(60), async || (writers.committed() > 0).then_some(())).await;
    cluster.kill9().await;
    let before = writers.committed();
    cluster.start_again().await;
    wait_for("writers to go on", seconds(60), async || (writers.committed() > before).then_some(())).await;
    writers.stop().await;
    let row = cluster.connect(&db.name).await.query_one(books, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(1), row.get::<_, &str>(2));
}

#[test]
fn a_daemon_is_told_what_the_builder_was_told_last() {
    let daemon = Daemon::builder("postgres://h/\"quoted\"")
        .slot("first")
        .slot("second")
        .tables(&["public.*", "!public.\"x\""])
        .target("one", "postgres://one")
        .target_tables("two", "postgres://two", &["public.t"])
        .extra("[apply]\nconflict = \"stop\"")
        .prepare();
    let toml: toml::Table = std::fs::read_to_string(daemon.config_path()).unwrap().parse().unwrap();
    assert_eq!(toml["source"]["url"].as_str(), Some("postgres://h/\"quoted\""));
    assert_eq!(toml["source"]["slot"].as_str(), Some("second"));
    assert_eq!(toml["source"]["publication"].as_str(), Some("walferry"));
    assert_eq!(toml["source"]["tables"][1].as_str(), Some("!public.\"x\""));
    assert_eq!(toml["target"][1]["tables"][0].as_str(), Some("public.t"));
    assert_eq!(toml["http"]["listen"].as_str(), Some(format!("127.0.0.1:{}", daemon.port).as_str()));
    assert_eq!(toml["apply"]["conflict"].as_str(), Some("stop"));
}

#[tokio::test]
async fn the_proxy_harms_as_it_is_told() {
    let cluster = Cluster::start(default_major()).await;
    let proxy = Proxy::to(&cluster).await;
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(&proxy.url("postgres"), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let soon = Duration::from_millis(300);
    let client = connect().await.unwrap();
    for mode in [Mode::Pass, Mode::SplitBytes, Mode::Throttle(1_000_000)] {
        proxy.set(mode);
        client.simple_query("SELECT 1").await.unwrap();
    }
    proxy.set(Mode::Latency(Duration::from_millis(50)));
    let started = Instant::now();
    client.simple_query("SELECT 1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(100));

    for mode in [Mode::Stall, Mode::MuteServer] {
        proxy.set(mode);
        let mut query = Box::pin(client.simple_query("SELECT 1"));
        assert!(tokio::time::timeout(soon, &mut query).await.is_err(), "{mode:?} let an answer through");
        proxy.set(Mode::Pass);
        query.await.unwrap();
    }
    assert_eq!(proxy.connections(), 1);

    proxy.cut();
    assert!(client.simple_query("SELECT 1").await.is_err());
    let client = connect().await.unwrap();
    proxy.set(Mode::HalfOpen);
    assert!(tokio::time::timeout(soon, client.simple_query("SELECT 1")).await.is_err());
    assert!(!client.is_closed());
    proxy.set(Mode::Refuse);
    assert!(connect().await.is_err());
}

#[test]
fn a_metrics_line_is_read() {
    use crate::support::daemon::parse_sample;
    let sample = parse_sample(r#"lag_bytes{target="a b",kind="x"} 1.5"#).unwrap();
    assert_eq!((sample.name.as_str(), sample.labels["target"].as_str(), sample.value), ("lag_bytes", "a b", 1.5));
    assert_eq!(sample.labels["kind"], "x");
    assert_eq!(parse_sample("up 1").unwrap().value, 1.0);
    assert_eq!(parse_sample("# TYPE up gauge"), None);
}
