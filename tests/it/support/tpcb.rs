//! Concurrent writers in the manner of pgbench: short transactions that contend for a few rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use super::cluster::{Cluster, describe};
use super::wait::{PAUSE, seconds};
use super::workload::Random;

/// Its tables.
pub const TABLES: [&str; 4] = ["tpcb_accounts", "tpcb_tellers", "tpcb_branches", "tpcb_history"];

const ACCOUNTS: u64 = 1_000;

/// Between two transactions of a writer: the machine is the servers' and the daemon's too.
const BREATH: Duration = Duration::from_millis(5);

/// The tables, empty.
pub async fn create(client: &Client) {
    let statements = "
        CREATE TABLE tpcb_branches (bid int PRIMARY KEY, balance bigint NOT NULL, filler text);
        CREATE TABLE tpcb_tellers (tid int PRIMARY KEY, balance bigint NOT NULL, filler text);
        CREATE TABLE tpcb_accounts (aid int PRIMARY KEY, balance bigint NOT NULL, filler text);
        CREATE TABLE tpcb_history (id bigint PRIMARY KEY, tid int, aid int, delta int, at timestamptz);
        CREATE SEQUENCE tpcb_history_id;";
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
}

/// Rows to contend for: 1,000 accounts, 10 tellers and one branch per unit of scale.
pub async fn fill(client: &Client, scale: u64) {
    let statements = format!(
        "INSERT INTO tpcb_branches SELECT i, 0, repeat('b', 80) FROM generate_series(1, {scale}) i;
         INSERT INTO tpcb_tellers SELECT i, 0, repeat('t', 80) FROM generate_series(1, {}) i;
         INSERT INTO tpcb_accounts SELECT i, 0, repeat('a', 80) FROM generate_series(1, {}) i;",
        scale * 10,
        scale * ACCOUNTS
    );
    client.batch_execute(&statements).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
}

/// Writers at work. [`Writers::stop`] ends them; dropping them aborts them.
#[derive(Debug)]
pub struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Writers {
    /// Starts this many, each with a session and a seed of its own. They fail when their session does.
    pub async fn start(cluster: &Cluster, database: &str, writers: u64, scale: u64) -> Self {
        Self::start_with(cluster, database, writers, scale, false).await
    }

    /// As [`Writers::start`], for a server that is killed meanwhile: they connect again and go on. What was under way
    /// when a session was lost is not counted, though it may have been committed.
    pub async fn start_undeterred(cluster: &Cluster, database: &str, writers: u64, scale: u64) -> Self {
        Self::start_with(cluster, database, writers, scale, true).await
    }

    async fn start_with(cluster: &Cluster, database: &str, writers: u64, scale: u64, undeterred: bool) -> Self {
        let mut tasks = JoinSet::new();
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        for seed in 0..writers {
            let mut client = cluster.connect(database).await;
            let url = cluster.socket_url(database);
            let (stop, committed) = (stop.clone(), committed.clone());
            tasks.spawn(async move {
                let mut random = Random::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    match transaction(&client, &mut random, scale).await {
                        Ok(()) => _ = committed.fetch_add(1, Ordering::Relaxed),
                        Err(error) if undeterred && is_session_loss(&error) => client = reconnect(&url).await,
                        Err(error) => panic!("a writer: {}", describe(&error)),
                    }
                    tokio::time::sleep(BREATH).await;
                }
            });
        }
        Self { tasks, stop, committed }
    }

    /// Transactions committed so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Lets each finish its transaction, and says how many were committed. Panics if a writer failed.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer failed");
        }
        self.committed()
    }
}

/// The connection is gone, or the server says why it ends it (SQLSTATE class 57P: shutdown, crash, starting up).
fn is_session_loss(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.code().is_none_or(|code| code.code().starts_with("57P"))
}

// Not by wait_for: the compiler cannot yet see that an async closure's future may move between threads.
async fn reconnect(url: &str) -> Client {
    let deadline = seconds(60);
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(!deadline.passed(), "the server does not come back: {}", describe(&error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn transaction(client: &Client, random: &mut Random, scale: u64) -> Result<(), tokio_postgres::Error> {
    let delta = random.below(10_000).cast_signed() - 5_000;
    let (account, teller, branch) =
        (1 + random.below(scale * ACCOUNTS), 1 + random.below(scale * 10), 1 + random.below(scale));
    let statements = format!(
        "BEGIN;
         UPDATE tpcb_accounts SET balance = balance + {delta} WHERE aid = {account};
         UPDATE tpcb_tellers SET balance = balance + {delta} WHERE tid = {teller};
         UPDATE tpcb_branches SET balance = balance + {delta} WHERE bid = {branch};
         INSERT INTO tpcb_history VALUES (nextval('tpcb_history_id'), {teller}, {account}, {delta}, now());
         COMMIT"
    );
    client.batch_execute(&statements).await
}
