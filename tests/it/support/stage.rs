//! What most whole-daemon tests stand on: a source, targets on servers of their own, the random workload, and the proof
//! at the end. The target of number 1 is written by a role that is nobody's superuser, so triggers and foreign keys
//! fire there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use super::cluster::{Cluster, Db, describe};
use super::cluster_builder::Builder as ClusterBuilder;
use super::daemon::Daemon;
use super::daemon_builder::Builder;
use super::diff::wait_equal;
use super::modes::Bulk;
use super::pair::{status, text};
use super::versions::default_major;
use super::wait::{PAUSE, seconds, wait_for};
use super::workload::{self, Writer};

/// The role of the target of number 1.
pub const PLAIN: &str = "plain";

/// See the module.
#[derive(Debug)]
pub struct Stage {
    pub source: Cluster,
    pub from: Db,
    pub on_source: Client,
    pub places: Vec<Place>,
    /// How its daemons apply, where the test is about that.
    pub bulk: Option<Bulk>,
}

/// One target.
#[derive(Debug)]
pub struct Place {
    pub cluster: Cluster,
    pub db: Db,
    /// A superuser's session; of no use any more once the server was killed.
    pub client: Client,
}

impl Place {
    /// Starts the server that was killed.
    pub async fn come_back(&mut self) {
        self.cluster.start_again().await;
        self.reconnect().await;
    }

    /// A new session, for when the server was killed.
    pub async fn reconnect(&mut self) {
        self.client = self.cluster.connect(&self.db.name).await;
    }
}

impl Stage {
    /// Servers with the workload's tables on both sides, and the publication.
    pub async fn new(targets: usize) -> Self {
        Self::with(Cluster::builder(default_major()), targets).await
    }

    /// As [`Stage::new`], with settings for the source.
    pub async fn with(source: ClusterBuilder, targets: usize) -> Self {
        Self::with_both(source, Cluster::builder(default_major()), targets).await
    }

    /// As [`Stage::new`], with settings for the source and for the targets.
    pub async fn with_both(source: ClusterBuilder, target: ClusterBuilder, targets: usize) -> Self {
        let stage = Self::empty_with(source, target, targets).await;
        workload::create(&stage.on_source).await;
        workload::fill(&stage.on_source).await;
        for (number, place) in stage.places.iter().enumerate() {
            if number == 1 {
                workload::create(&connect(&place.db.url).await).await;
            } else {
                workload::create(&place.client).await;
            }
        }
        stage
    }

    /// Without tables; everything on the source is published.
    pub async fn empty(source: ClusterBuilder, targets: usize) -> Self {
        Self::empty_with(source, Cluster::builder(default_major()), targets).await
    }

    async fn empty_with(source: ClusterBuilder, target: ClusterBuilder, targets: usize) -> Self {
        let source = source.start().await;
        let from = source.create_database().await;
        let on_source = source.connect(&from.name).await;
        execute(&on_source, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
        let mut places = Vec::new();
        for number in 0..targets {
            let cluster = target.clone().start().await;
            let mut db = cluster.create_database().await;
            let client = cluster.connect(&db.name).await;
            if number == 1 {
                execute(&client, &format!("CREATE ROLE {PLAIN} LOGIN")).await;
                execute(&client, &format!("ALTER DATABASE {} OWNER TO {PLAIN}", db.name)).await;
                execute(&client, &format!("GRANT ALL ON SCHEMA public TO {PLAIN}")).await;
                db.url = cluster.url_as(PLAIN, &db.name);
            }
            places.push(Place { cluster, db, client });
        }
        Self { source, from, on_source, places, bulk: None }
    }

    /// The same, whose daemons apply in this way.
    pub fn in_mode(mut self, bulk: Bulk) -> Self {
        self.bulk = Some(bulk);
        self
    }

    /// A daemon for all of it, its targets named `t0`, `t1`, …; impatient where it waits before trying again.
    pub fn daemon(&self) -> Builder {
        let urls: Vec<String> = self.places.iter().map(|place| place.db.url.clone()).collect();
        self.daemon_via(&self.from.url, &urls)
    }

    /// As [`Stage::daemon`], by other ways.
    pub fn daemon_via(&self, source: &str, targets: &[String]) -> Builder {
        let mut daemon = Daemon::builder(source);
        if let Some(bulk) = self.bulk {
            daemon = daemon.bulk(bulk);
        }
        for (number, url) in targets.iter().enumerate() {
            daemon = daemon.target(&format!("t{number}"), url);
        }
        daemon.apply("retry_max_interval", "\"500ms\"").apply("halted_retry_interval", "\"500ms\"")
    }

    /// Panics unless the source was told to forget no more than what every target has stored.
    pub async fn assert_nothing_forgotten(&self, slot: &str) {
        let confirmed = self.confirmed(slot).await;
        for (number, place) in self.places.iter().enumerate() {
            let stored = stored(&place.client, slot).await;
            assert!(
                stored.is_none_or(|stored| confirmed <= stored),
                "the source was told to forget WAL before {confirmed:X}, target {number} stands at {stored:X?}"
            );
        }
    }

    /// The slot's `confirmed_flush_lsn`; 0 while there is no slot.
    pub async fn confirmed(&self, slot: &str) -> i64 {
        let query = "SELECT coalesce(max(confirmed_flush_lsn - '0/0'), 0)::bigint
                     FROM pg_replication_slots WHERE slot_name = $1";
        self.on_source.query_one(query, &[&slot]).await.expect("cannot ask for the slot").get(0)
    }

    /// Where the source's WAL ends.
    pub async fn current(&self) -> i64 {
        let query = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
        self.on_source.query_one(query, &[]).await.expect("cannot ask for the WAL's end").get(0)
    }

    /// Writes a row of this mark on the source, and waits until it is on this target.
    pub async fn assert_follows(&self, place: usize, mark: i64) {
        self.mark(mark).await;
        wait_row(&self.places[place].client, mark, 30).await;
    }

    /// Writes a row on the source that the writers never write.
    pub async fn mark(&self, mark: i64) {
        execute(&self.on_source, &format!("INSERT INTO applied VALUES (-{mark}, 999)")).await;
    }

    /// Waits for equality, then proves that everything was applied once. The source must have come to rest.
    pub async fn assert_in_step(&self, daemon: &Daemon) {
        let clients: Vec<&Client> = self.places.iter().map(|place| &place.client).collect();
        wait_equal(&self.on_source, &clients, &workload::TABLES, seconds(60)).await;
        for client in clients {
            workload::assert_applied_once(&self.on_source, client).await;
        }
        assert_eq!(daemon.log_count("conflict:"), 0, "rows were not as expected");
        assert_eq!(daemon.log_count("panicked"), 0);
    }
}

/// Waits for the row of this mark.
pub async fn wait_row(client: &Client, mark: i64, patience: u64) {
    let there = async || is_there(client, mark).await.then_some(());
    wait_for(&format!("row {mark}"), seconds(patience), there).await;
}

/// Whether the row of this mark has come.
pub async fn is_there(client: &Client, mark: i64) -> bool {
    let look = "SELECT 1 FROM applied WHERE id = -$1::bigint";
    client.query_opt(look, &[&mark]).await.expect("cannot look").is_some()
}

/// Waits until the daemon knows that all this target shows is on its disk.
pub async fn wait_durable(place: &Place, daemon: &Daemon, name: &str) {
    let known = async || {
        let stored = text(&place.client, "SELECT end_lsn FROM walferry.progress").await;
        (status(daemon, name).await["durable_lsn"].as_str() == stored.as_deref()).then_some(())
    };
    wait_for("the daemon to know what is durable", seconds(20), known).await;
}

/// A target's stored position; none without one.
pub async fn stored(client: &Client, stream: &str) -> Option<i64> {
    let query = "SELECT (end_lsn - '0/0')::bigint FROM walferry.progress WHERE stream = $1";
    client.query_opt(query, &[&stream]).await.ok().flatten().and_then(|row| row.get(0))
}

/// A session by connection string.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap_or_else(|error| panic!("{error}"));
    tokio::spawn(connection);
    client
}

/// Runs statements, or panics with the server's words.
pub async fn execute(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
}

/// Writers of the random workload at work; they connect again when the server was gone.
#[derive(Debug)]
pub struct Load {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Load {
    /// Starts writers of these numbers, each with a pause between two transactions.
    pub async fn start(stage: &Stage, numbers: std::ops::Range<u64>, pause: Duration) -> Self {
        Self::at(&stage.source.socket_url(&stage.from.name), numbers, pause)
    }

    /// The same by connection string, which may name several servers.
    pub fn at(url: &str, numbers: std::ops::Range<u64>, pause: Duration) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let committed = Arc::new(AtomicU64::new(0));
        for number in numbers {
            let url = url.to_owned();
            let (stop, committed) = (stop.clone(), committed.clone());
            tasks.spawn(async move {
                let mut writer = Writer::new(11, number);
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let session = match client.take() {
                        Some(session) => session,
                        None => match tokio_postgres::connect(&url, NoTls).await {
                            Ok((session, connection)) => {
                                tokio::spawn(connection);
                                session
                            }
                            Err(_) => {
                                tokio::time::sleep(PAUSE).await;
                                continue;
                            }
                        },
                    };
                    match session.batch_execute(&writer.transaction()).await {
                        Ok(()) => {
                            committed.fetch_add(1, Ordering::Relaxed);
                            client = Some(session);
                        }
                        Err(error) if is_loss(&error) => {}
                        Err(error) => panic!("a writer: {}", describe(&error)),
                    }
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Self { tasks, stop, committed }
    }

    /// Transactions committed so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until this many more are committed.
    pub async fn more(&self, transactions: u64) {
        let wanted = self.committed() + transactions;
        wait_for("the load", seconds(60), async || (self.committed() >= wanted).then_some(())).await;
    }

    /// Lets each writer finish; how many transactions were committed.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer failed");
        }
        self.committed()
    }
}

/// The session is lost, or the server says why it ends it (57P: shutdown, crash, starting up), or what it does (57014).
/// A deadlock (40P01) is the writers' own doing: what was rolled back is not missed.
fn is_loss(error: &tokio_postgres::Error) -> bool {
    let passes = |code: &str| code.starts_with("57P") || code == "40P01" || code == "57014";
    error.is_closed() || error.code().is_none_or(|code| passes(code.code()))
}
