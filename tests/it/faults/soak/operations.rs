//! What operators ask of a running daemon, at random: tables are added, made anew, copied again, paused, targets too,
//! and the configuration is read again. Commands may fail, since what they need may be broken just then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::faults::fault::Part;
use crate::faults::scene::Scene;
use crate::support::prelude::*;
use crate::support::stage::{connect, execute};
use crate::support::workload::Random;

/// Tables that come in the course of it.
const TABLES: u64 = 8;

/// Rows that each of them has from the beginning.
const ROWS: u64 = 2_000;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Operations {
    begun: Instant,
    /// How many of the tables there are.
    tables: Arc<AtomicU64>,
    writer: Option<(JoinHandle<u64>, Arc<AtomicBool>)>,
    /// How often each was done, and did not go well.
    done: BTreeMap<&'static str, (u64, u64)>,
}

impl fmt::Display for Operations {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, (times, failed)) in &self.done {
            writeln!(out, "{what}: {times} times, of which {failed} could not be done then")?;
        }
        Ok(())
    }
}

impl Operations {
    /// With the tables on the targets already: on the source they come one by one.
    pub async fn new(scene: &Scene) -> Self {
        for place in &scene.stage.places {
            let session = connect(&place.db.url).await;
            for number in 0..TABLES {
                execute(&session, &format!("CREATE TABLE more_{number} (id bigint PRIMARY KEY, n int, note text)"))
                    .await;
            }
        }
        Self { begun: Instant::now(), tables: Arc::default(), writer: None, done: BTreeMap::new() }
    }

    /// Since the beginning.
    pub fn time(&self) -> String {
        format!("{:.1} s", self.begun.elapsed().as_secs_f64())
    }

    /// How many there were.
    pub fn done(&self) -> u64 {
        self.done.values().map(|(times, _)| times).sum()
    }

    /// One of them; `is_there` says which parts are not broken.
    pub async fn one(&mut self, scene: &mut Scene, random: &mut Random, is_there: impl Fn(Part) -> bool) {
        let target = ["t0", "t1"][random.below(2) as usize];
        let tables = self.tables.load(Ordering::Relaxed);
        let table = match random.below(3) {
            0 => ["public.w_default", "public.w_full", "public.w_index"][random.below(3) as usize].to_owned(),
            _ => format!("public.more_{}", random.below(TABLES.min(tables.max(1)))),
        };
        let choice = random.below(16);
        if !is_there(Part::Daemon) || choice < 4 && !is_there(Part::Source) {
            return;
        }
        match choice {
            0..4 if tables < TABLES => self.add(scene, tables).await,
            0..2 => self.make_anew(scene, random.below(TABLES)).await,
            2..6 => self.command(scene, "table resync", &["table", "resync", &table, "--target", target]).await,
            6 => self.command(scene, "table resync everywhere", &["table", "resync", &table]).await,
            7 => self.command(scene, "table pause", &["table", "pause", &table, "--target", target]).await,
            8..10 => self.command(scene, "table resume", &["table", "resume", "public.*"]).await,
            10 => self.command(scene, "target pause", &["target", "pause", target]).await,
            11..13 => self.command(scene, "target resume", &["target", "resume", target]).await,
            13 => self.command(scene, "target resync", &["target", "resync", target]).await,
            _ => self.reload(scene),
        }
    }

    /// What is paused goes on, and all of it can be said so.
    pub async fn go_on_with_everything(&mut self, scene: &mut Scene) {
        scene.daemon.wait_log("streaming start=", seconds(60)).await;
        for arguments in
            [&["target", "resume", "t0"][..], &["target", "resume", "t1"], &["table", "resume", "public.*"]]
        {
            let gone_on = async || {
                let (code, said) = scene.daemon.answered(arguments).await;
                // A table that is not paused, is nothing to go on with.
                (code == Some(0) || said.contains("paused")).then_some(())
            };
            wait_for(&format!("{arguments:?}"), seconds(60), gone_on).await;
        }
    }

    /// Somebody writes to the tables from now on.
    pub fn write(&mut self, scene: &Scene) {
        let stop = Arc::new(AtomicBool::new(false));
        let url = scene.stage.source.socket_url(&scene.stage.from.name);
        let task = tokio::spawn(write(url, Arc::clone(&self.tables), Arc::clone(&stop)));
        self.writer = Some((task, stop));
    }

    /// Nobody writes any more; how many transactions there were.
    pub async fn rest(&mut self) -> u64 {
        let (task, stop) = self.writer.take().expect("somebody writes");
        stop.store(true, Ordering::Relaxed);
        task.await.expect("the writer failed")
    }

    /// Panics unless the tables become equal.
    pub async fn assert_equal(&self, scene: &Scene) {
        let tables: Vec<String> = (0..self.tables.load(Ordering::Relaxed)).map(|n| format!("more_{n}")).collect();
        let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
        let clients: Vec<&Client> = scene.stage.places.iter().map(|place| &place.client).collect();
        wait_equal(&scene.stage.on_source, &clients, &tables, seconds(100)).await;
    }

    async fn add(&mut self, scene: &Scene, number: u64) {
        self.note("a table is added", &format!("more_{number}"), true);
        execute(&scene.stage.on_source, &creation(number)).await;
        self.tables.store(number + 1, Ordering::Relaxed);
    }

    async fn make_anew(&mut self, scene: &Scene, number: u64) {
        self.note("a table is made anew", &format!("more_{number}"), true);
        // One that is seen to be gone leaves rows behind on the targets, which are nobody's to remove.
        execute(&scene.stage.on_source, &format!("DROP TABLE more_{number}; {}", creation(number))).await;
    }

    fn reload(&mut self, scene: &Scene) {
        let path = scene.daemon.config_path();
        let toml = std::fs::read_to_string(path).expect("it is there");
        let (from, to) = match toml.contains("drain_timeout = \"5s\"") {
            true => ("drain_timeout = \"5s\"", "drain_timeout = \"6s\""),
            false => ("drain_timeout = \"6s\"", "drain_timeout = \"5s\""),
        };
        scene.daemon.reconfigure(from, to);
        scene.daemon.signal("HUP");
        self.note("reload", to, true);
    }

    async fn command(&mut self, scene: &Scene, what: &'static str, arguments: &[&str]) {
        let went = match tokio::time::timeout(PATIENCE, scene.daemon.answered(arguments)).await {
            Ok((Some(0), _)) => true,
            Ok((code, said)) => {
                eprintln!("{code:?}: {}", said.trim());
                false
            }
            Err(_) => false,
        };
        self.note(what, &arguments.join(" "), went);
    }

    fn note(&mut self, what: &'static str, detail: &str, went: bool) {
        eprintln!("{}: {what}: {detail}{}", self.time(), if went { "" } else { " (could not be done)" });
        let (times, failed) = self.done.entry(what).or_default();
        *times += 1;
        *failed += u64::from(!went);
    }
}

/// The table of this number, with its rows.
fn creation(number: u64) -> String {
    let rows = format!("INSERT INTO more_{number} SELECT n, 0, repeat('x', 200) FROM generate_series(1, {ROWS}) n");
    format!("CREATE TABLE more_{number} (id bigint PRIMARY KEY, n int, note text); {rows}")
}

/// Whoever loses the server connects again; what was rolled back is not missed, nor is a table that is not there.
async fn write(url: String, tables: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let (mut random, mut committed) = (Random::new(17), 0);
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Some(session) = client.as_ref().filter(|client| !client.is_closed()) else {
            client = tokio_postgres::connect(&url, NoTls).await.ok().map(|(client, connection)| {
                tokio::spawn(connection);
                client
            });
            continue;
        };
        let (table, id) = (random.below(tables.load(Ordering::Relaxed).max(1)), random.below(ROWS + 200));
        let change = match random.below(4) {
            0 => format!("DELETE FROM more_{table} WHERE id = {id}"),
            1 => format!("INSERT INTO more_{table} VALUES ({id}, 1, 'new') ON CONFLICT DO NOTHING"),
            2 => format!("UPDATE more_{table} SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 20"),
            _ => format!("UPDATE more_{table} SET n = n + 1, note = 'changed' WHERE id = {id}"),
        };
        committed += u64::from(session.batch_execute(&change).await.is_ok());
    }
    committed
}
