//! A source, two targets, the networks between them and the daemon, the daemon under load: whatever of it is to break,
//! breaks here, and is mended here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::fault::{Fault, Part};
use crate::support::cluster_builder::Builder as ClusterBuilder;
use crate::support::pair::text;
use crate::support::prelude::*;
use crate::support::stage::{PLAIN, execute};

/// Small enough to run out of them soon; a part of them is the superuser's.
const MAX_CONNECTIONS: usize = 30;

/// The daemon's sessions on a server.
const SESSIONS: &str = "FROM pg_stat_activity WHERE application_name LIKE 'walferry%'";

/// See the module.
#[derive(Debug)]
pub struct Scene {
    pub stage: Stage,
    pub to_source: Proxy,
    pub to_targets: [Proxy; 2],
    pub daemon: Daemon,
}

/// What is to be let go of when a fault is mended.
#[derive(Debug, Default)]
pub struct Held {
    sessions: Vec<Client>,
    fighter: Option<JoinHandle<()>>,
    fought: Arc<AtomicBool>,
}

impl Held {
    /// Whether another writer was the victim of a deadlock.
    pub fn has_fought(&self) -> bool {
        self.fought.load(Ordering::Relaxed)
    }
}

impl Scene {
    /// All but the daemon is started. Whose disk will be full in the course of it, is to be known before, and how many
    /// megabytes it has.
    pub async fn new(full: impl Fn(Part) -> bool, megabytes: u32) -> Self {
        let server = |part: &'static str, is_full: bool| {
            let server = Cluster::builder(default_major()).setting("max_connections", &MAX_CONNECTIONS.to_string());
            if is_full { server.own_disk(part, megabytes) } else { server }
        };
        // What decoding cannot keep in so little memory, it writes to its disk.
        let source: ClusterBuilder = server("pg_replslot", full(Part::Source))
            .setting("wal_sender_timeout", "'2s'")
            .setting("logical_decoding_work_mem", "'64kB'");
        let is_full = full(Part::TargetA) || full(Part::TargetB);
        let target = server("base", is_full).setting("deadlock_timeout", "'100ms'");
        let stage = Stage::with_both(source, target, 2).await;
        let to_source = Proxy::to(&stage.source).await;
        let to_targets = [Proxy::to(&stage.places[0].cluster).await, Proxy::to(&stage.places[1].cluster).await];
        let impatient = |url: String| format!("{url}?connect_timeout=2&tcp_user_timeout=3000");
        let of_target = |number: usize| impatient(to_targets[number].url(&stage.places[number].db.name));
        let urls = [of_target(0), of_target(1).replace("postgres@", &format!("{PLAIN}@"))];
        let daemon = stage.daemon_via(&impatient(to_source.url(&stage.from.name)), &urls);
        let daemon = daemon.apply("isolate_after", "\"1s\"").apply("statement_timeout", "\"2s\"");
        let daemon = daemon.apply("drain_timeout", "\"5s\"").prepare();
        Self { stage, to_source, to_targets, daemon }
    }

    /// Breaks a part.
    pub async fn harm(&mut self, part: Part, fault: Fault) -> Held {
        match part {
            Part::Daemon => self.harm_daemon(fault).await,
            Part::Source | Part::TargetA | Part::TargetB => return self.harm_server(part, fault).await,
            Part::SourceNetwork | Part::NetworkA | Part::NetworkB => self.network(part).set(match fault {
                Fault::Cut => Mode::Refuse,
                Fault::Slow => Mode::Throttle(20_000),
                Fault::HalfOpen => Mode::HalfOpen,
                Fault::Stalled => Mode::Stall,
                _ => unreachable!("a network is not {}", fault.name()),
            }),
        }
        Held::default()
    }

    /// Mends it.
    pub async fn mend(&mut self, part: Part, fault: Fault, held: Held) {
        drop(held.sessions);
        if let Some(fighter) = held.fighter {
            fighter.abort();
            let _ = fighter.await;
        }
        match part {
            Part::Daemon if fault == Fault::Hung => self.daemon.signal("CONT"),
            Part::Daemon => self.daemon.start(),
            Part::Source | Part::TargetA | Part::TargetB => self.mend_server(part, fault).await,
            Part::SourceNetwork | Part::NetworkA | Part::NetworkB => self.network(part).set(Mode::Pass),
        }
    }

    async fn harm_daemon(&mut self, fault: Fault) {
        match fault {
            Fault::Killed => self.daemon.kill9(),
            Fault::Stopped => drop(self.daemon.terminate(seconds(30)).await),
            Fault::Hung => self.daemon.signal("STOP"),
            _ => unreachable!("the daemon is not {}", fault.name()),
        }
    }

    async fn harm_server(&mut self, part: Part, fault: Fault) -> Held {
        let mut held = Held::default();
        match fault {
            Fault::Killed => self.server(part).kill9().await,
            Fault::Stopped => self.server(part).stop().await,
            Fault::Hung => self.server(part).freeze(true),
            Fault::DiskFull => self.server(part).disk.as_ref().expect("it has a disk of its own").fill(),
            Fault::ReadOnly => self.alter(part, "SET default_transaction_read_only = on").await,
            Fault::StatementTimeout if part == Part::Source => self.alter(part, "SET statement_timeout = 1").await,
            Fault::StatementTimeout => held.sessions.push(self.lock(part).await),
            Fault::NoConnections => held.sessions = self.take_connections(part).await,
            Fault::Deadlock => held.fighter = Some(self.fight(part, Arc::clone(&held.fought))),
            Fault::Cut | Fault::Slow | Fault::HalfOpen | Fault::Stalled => unreachable!("see the networks"),
        }
        held
    }

    async fn mend_server(&mut self, part: Part, fault: Fault) {
        match fault {
            Fault::Killed | Fault::Stopped => {
                self.server(part).start_again().await;
                match part.place() {
                    Some(place) => self.stage.places[place].reconnect().await,
                    None => self.stage.on_source = self.stage.source.connect(&self.stage.from.name).await,
                }
            }
            Fault::Hung => self.server(part).freeze(false),
            Fault::DiskFull => self.server(part).disk.as_ref().expect("it has a disk of its own").free(),
            Fault::ReadOnly => self.alter(part, "RESET default_transaction_read_only").await,
            Fault::StatementTimeout if part == Part::Source => self.alter(part, "RESET statement_timeout").await,
            _ => {}
        }
    }

    fn network(&self, part: Part) -> &Proxy {
        part.place().map_or(&self.to_source, |place| &self.to_targets[place])
    }

    fn server(&mut self, part: Part) -> &mut Cluster {
        match part.place() {
            Some(place) => &mut self.stage.places[place].cluster,
            None => &mut self.stage.source,
        }
    }

    /// Server, name of the database, and a superuser's session there.
    fn database(&self, part: Part) -> (&Cluster, &str, &Client) {
        match part.place().map(|place| &self.stage.places[place]) {
            Some(place) => (&place.cluster, &place.db.name, &place.client),
            None => (&self.stage.source, &self.stage.from.name, &self.stage.on_source),
        }
    }

    /// Changes what new sessions in this database are like, and has the daemon come by new ones.
    async fn alter(&self, part: Part, what: &str) {
        let (server, name, _) = self.database(part);
        // The session in the database itself may be read-only by now.
        server
            .execute("postgres", &format!("ALTER DATABASE {name} {what}; SELECT pg_terminate_backend(pid) {SESSIONS}"))
            .await;
    }

    /// What the daemon writes in each transaction is locked, for longer than its statements may take.
    async fn lock(&self, part: Part) -> Client {
        let (server, name, _) = self.database(part);
        let session = server.connect(name).await;
        execute(&session, "BEGIN; LOCK TABLE counter IN EXCLUSIVE MODE").await;
        session
    }

    /// Takes every connection there is, the daemon's too.
    async fn take_connections(&self, part: Part) -> Vec<Client> {
        let (server, name, client) = self.database(part);
        let mut taken = Vec::new();
        let all_taken = async || {
            while let Ok(session) = server.try_connect(name).await {
                taken.push(session);
            }
            let ended = format!("SELECT count(pg_terminate_backend(pid))::text {SESSIONS}");
            (text(client, &ended).await.as_deref() == Some("0")).then_some(())
        };
        wait_for("the last connection to be taken", seconds(30), all_taken).await;
        taken
    }

    /// Another writer, who locks what the daemon's transactions write last before what they write first.
    fn fight(&self, part: Part, fought: Arc<AtomicBool>) -> JoinHandle<()> {
        let (server, name, _) = self.database(part);
        let url = server.socket_url(name);
        tokio::spawn(async move {
            let (session, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the target is there");
            let _connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
            loop {
                // Either of the two is the victim.
                let locks = "BEGIN; LOCK TABLE counter IN EXCLUSIVE MODE;
                             LOCK TABLE w_default, w_index, w_full, w_parent IN EXCLUSIVE MODE";
                if let Err(error) = session.batch_execute(locks).await
                    && error.code().is_some_and(|code| code.code() == "40P01")
                {
                    fought.store(true, Ordering::Relaxed);
                }
                let _ = session.batch_execute("ROLLBACK").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }
}
