//! A throwaway PostgreSQL server: start, stop, kill, restart, promote, snapshot and restore; gone when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::cluster_builder::{Builder, as_server_user_on, copy_data, write_as_server};
use super::disk::Disk;
use super::guard::Guard;
use super::process::{self, signal};
use super::wait::{PAUSE, seconds, wait_for};

/// A server of its own directory, port and socket. Several databases of one server are often all a test needs: one as
/// source, others as targets.
#[derive(Debug)]
pub struct Cluster {
    /// The major version.
    pub major: u32,
    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    pub port: u16,
    /// See [`Builder::own_disk`].
    pub disk: Option<Disk>,
    bin: PathBuf,
    running: Option<Running>,
    dir: TempDir,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    _guard: Guard,
}

/// A database of a cluster.
#[derive(Clone, Debug)]
pub struct Db {
    /// Its name.
    pub name: String,
    /// How to reach it over TCP as superuser.
    pub url: String,
}

/// A copy of a stopped server's data directory, slots included.
#[derive(Debug)]
pub struct Snapshot {
    dir: TempDir,
    major: u32,
}

impl Cluster {
    /// A server of this major with the usual settings.
    pub async fn start(major: u32) -> Self {
        Builder::new(major).start().await
    }

    /// A server with settings of the test's own.
    pub fn builder(major: u32) -> Builder {
        Builder::new(major)
    }

    pub(super) fn new(dir: TempDir, major: u32, bin: PathBuf) -> Self {
        Self { major, port: 0, disk: None, bin, running: None, dir, databases: AtomicU32::new(0) }
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A URL over TCP, as superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// A URL over TCP, as this role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection string over the Unix socket, as superuser.
    pub fn socket_url(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.socket_dir().display(), self.port)
    }

    /// A superuser's session.
    pub async fn connect(&self, database: &str) -> Client {
        self.try_connect(database).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()))
    }

    /// As [`Cluster::connect`], for when the server may not be there.
    pub async fn try_connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.socket_url(database), NoTls).await?;
        // Its end is the client's to notice: the next statement fails.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements in this database.
    pub async fn execute(&self, database: &str, statements: &str) {
        let client = self.connect(database).await;
        let result = client.batch_execute(statements).await;
        result.unwrap_or_else(|error| panic!("{}", describe(&error)));
    }

    /// A new, empty database.
    pub async fn create_database(&self) -> Db {
        let name = format!("db_{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        self.execute("postgres", &format!("CREATE DATABASE {name}")).await;
        Db { url: self.url(&name), name }
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the server is not running").child.id()
    }

    /// Starts it after a stop.
    pub async fn start_again(&mut self) {
        self.try_start().await.unwrap_or_else(|log| panic!("PostgreSQL {} does not start again:\n{log}", self.major));
    }

    /// Fast shutdown: sessions end, walsenders send what there is, a checkpoint is written.
    pub async fn stop(&mut self) {
        self.end("INT").await;
    }

    /// SIGKILL to the postmaster and each of its children; comes back when all are gone.
    pub async fn kill9(&mut self) {
        // Stopped, it starts no child that would be missed and keep the shared memory.
        process::stop(self.pid());
        let children = process::children(self.pid());
        for child in &children {
            signal(*child, "KILL");
        }
        self.end("KILL").await;
        let gone = async || children.iter().all(|child| !process::is_alive(*child)).then_some(());
        wait_for("the killed server's children to go", seconds(30), gone).await;
    }

    /// Stops and starts.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// SIGSTOP or SIGCONT for the postmaster and its children: the server hangs, its connections stay open.
    pub fn freeze(&self, frozen: bool) {
        if frozen {
            // First, so that it starts no child that would be missed.
            process::stop(self.pid());
        }
        for child in process::children(self.pid()) {
            if frozen {
                process::stop(child);
            } else {
                signal(child, "CONT");
            }
        }
        if !frozen {
            signal(self.pid(), "CONT");
        }
    }

    /// Appends to `postgresql.conf`; takes effect with [`Cluster::reload`] or a restart.
    pub fn set(&self, name: &str, value: &str) {
        let path = self.data_dir().join("postgresql.conf");
        let text = std::fs::read_to_string(&path).expect("cannot read postgresql.conf");
        write_as_server(&path, &format!("{text}{name} = {value}\n"));
    }

    /// Makes the server read its configuration again.
    pub fn reload(&self) {
        signal(self.pid(), "HUP");
    }

    /// Copies the data directory as a file system snapshot would, slots and system identifier included. The server is
    /// down for that moment.
    pub async fn snapshot(&mut self) -> Snapshot {
        self.stop().await;
        let parent = self.dir.path().parent().expect("a temporary directory has a parent");
        let dir = tempfile::Builder::new().prefix("walferry-").tempdir_in(parent).expect("cannot make a directory");
        copy_data(&self.data_dir(), &dir.path().join("data"));
        self.start_again().await;
        Snapshot { dir, major: self.major }
    }

    /// Puts the server back to where it was: a restored backup. Its port stays.
    pub async fn restore(&mut self, snapshot: &Snapshot) {
        self.end("QUIT").await;
        let settings =
            std::fs::read_to_string(self.data_dir().join("postgresql.conf")).expect("cannot read postgresql.conf");
        std::fs::remove_dir_all(self.data_dir()).expect("cannot remove the data directory");
        copy_data(&snapshot.dir.path().join("data"), &self.data_dir());
        write_as_server(&self.data_dir().join("postgresql.conf"), &settings);
        self.start_again().await;
    }

    /// A streaming standby of this server, without slots. This server restarts once for it.
    pub async fn standby(&mut self) -> Cluster {
        self.standby_with("", &[]).await
    }

    /// The same, with more in its `primary_conninfo`, and settings of its own.
    pub async fn standby_with(&mut self, conninfo: &str, settings: &[(&str, &str)]) -> Cluster {
        let snapshot = self.snapshot().await;
        let data = snapshot.dir.path().join("data");
        for entry in std::fs::read_dir(data.join("pg_replslot")).expect("cannot list slots") {
            std::fs::remove_dir_all(entry.expect("cannot list slots").path()).expect("cannot remove a slot");
        }
        write_as_server(&data.join("standby.signal"), "");
        let primary = format!("'host=127.0.0.1 port={} user=postgres application_name=standby {conninfo}'", self.port);
        let builder = Builder::new(snapshot.major).setting("primary_conninfo", &primary);
        let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
        builder.start_from(&data).await
    }

    /// Ends recovery of a standby: from here on it is a primary on a new timeline.
    pub async fn promote(&self) {
        let client = self.connect("postgres").await;
        let row = client.query_one("SELECT pg_promote(true, 60)", &[]).await.expect("pg_promote failed");
        assert!(row.get::<_, bool>(0), "the standby was not promoted:\n{}", self.log_tail());
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The whole server log.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(super) async fn try_start(&mut self) -> Result<(), String> {
        assert!(self.running.is_none(), "the server is running already");
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_path()).expect("cannot open the log");
        // Left by a SIGKILL; what it says must not be taken for the new server's.
        let pid_file = self.data_dir().join("postmaster.pid");
        let _ = std::fs::remove_file(&pid_file);
        let child = {
            use std::os::unix::process::CommandExt;
            as_server_user_on(self.disk.as_ref(), &self.bin.join("postgres"))
                .arg("-D")
                .arg(self.data_dir())
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("cannot share the log"))
                .stderr(log)
                .process_group(0)
                .spawn()
                .expect("cannot start postgres")
        };
        let guard = Guard::new(child.id(), "QUIT", self.dir.path());
        let mut running = Running { child, _guard: guard };
        let deadline = seconds(60);
        // The postmaster writes its state into the eighth line (src/include/utils/pidfile.h).
        while !std::fs::read_to_string(&pid_file)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|state| matches!(state.trim(), "ready" | "standby")))
        {
            if running.child.try_wait().expect("cannot wait for the server").is_some() || deadline.passed() {
                let _ = running.child.kill();
                return Err(self.log_tail());
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.running = Some(running);
        Ok(())
    }

    async fn end(&mut self, name: &str) {
        let mut running = self.running.take().expect("the server is not running");
        signal(running.child.id(), name);
        let ended = async || running.child.try_wait().expect("cannot wait for the server");
        wait_for("the server to end", seconds(60), ended).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of PostgreSQL {} on port {}:\n{}", self.major, self.port, self.log_tail());
        }
        let Some(mut running) = self.running.take() else { return };
        let pid = running.child.id();
        // It may have been frozen.
        signal_children(pid, "CONT");
        signal(pid, "CONT");
        signal(pid, "QUIT");
        let deadline = seconds(10);
        while matches!(running.child.try_wait(), Ok(None)) {
            if deadline.passed() {
                signal_children(pid, "KILL");
                let _ = running.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn signal_children(pid: u32, name: &str) {
    for child in process::children(pid) {
        signal(child, name);
    }
}

/// An error with the server's message: the client library's own text leaves it out.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => walferry::error::chain(error),
    }
}
