//! A throwaway PostgreSQL server: made, started, and gone when dropped.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::initdb::initdb;
use super::site::Site;
use super::watcher::{End, signal};
use crate::admin::CommandError;
use crate::error::chain;
use crate::postgres::conninfo::Environment;
use crate::postgres::{Client, ConnectOptions};

/// How long a server may take to come up, or to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a server that is coming up or going.
const PAUSE: Duration = Duration::from_millis(50);

/// How it is reached: over loopback only.
const REACHED: &[&str] = &["listen_addresses=127.0.0.1", "unix_socket_directories="];

/// A running server.
pub struct Server {
    /// What it is there for.
    pub name: &'static str,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    site: Arc<Site>,
    child: Child,
}

impl Server {
    /// Makes the data directory and starts the server with these settings (`name=value`).
    ///
    /// # Errors
    /// It does not come up; the error holds the end of what it said.
    pub async fn start(site: &Arc<Site>, name: &'static str, settings: &[&str]) -> Result<Self, CommandError> {
        let data = site.path(name);
        initdb(site, name, &data).await?;
        let log = site.path(&format!("{name}.log"));
        // Another process may take the port between the look and the start: then take another.
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut server = Self::spawn(site, name, settings, &log)?;
            match server.come_up(&log).await {
                Ok(()) => return Ok(server),
                Err(_) if attempt < 5 && tail(&log, 20).contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(site: &Arc<Site>, name: &'static str, settings: &[&str], log: &Path) -> Result<Self, CommandError> {
        let cannot = |source| CommandError::failed(format!("cannot start the server {name}")).because(source);
        let port = free_port();
        let output = File::create(log).map_err(cannot)?;
        let mut command = site.program("postgres");
        command.arg("-D").arg(site.path(name)).arg("-p").arg(port.to_string());
        for setting in REACHED.iter().chain(settings) {
            command.arg("-c").arg(setting);
        }
        let errors = output.try_clone().map_err(cannot)?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(cannot)?;
        let server = Self { name, port, site: Arc::clone(site), child };
        site.watcher.started(server.child.id(), End::Quit)?;
        Ok(server)
    }

    async fn come_up(&mut self, log: &Path) -> Result<(), CommandError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.connect("postgres").await {
                Ok(_) => return Ok(()),
                Err(error) => chain(&error),
            };
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() >= deadline {
                let said = tail(log, 20);
                return Err(CommandError::failed(format!("the server {} does not start ({why}):\n{said}", self.name)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A connection string for this role.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}:{}@127.0.0.1:{}/{database}?sslmode=disable", self.site.password, self.port)
    }

    /// A session of the server's superuser.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn connect(&self, database: &str) -> Result<Client, CommandError> {
        let doing = || format!("connecting to the server {}", self.name);
        // Nothing of the caller's environment belongs here.
        let environment = Environment::bare("postgres");
        let options = ConnectOptions::resolve(&self.url("postgres", database), &environment)
            .map_err(|error| CommandError::at(doing(), error))?;
        Client::connect(&options, "walferry").await.map_err(|error| CommandError::at(doing(), error))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Immediate shutdown: everything goes to the bin. If the signal cannot be sent, the deadline passes.
        drop(signal(self.child.id(), "QUIT"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        drop(self.child.kill());
        drop(self.child.wait());
        self.site.watcher.ended(self.child.id());
    }
}

/// The last lines of a log; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A TCP port nobody listens on, outside the range from which systems take ports for outgoing connections.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        let port = 10_000 + u16::try_from(RandomState::new().hash_one(0) % 22_000).expect("below 22,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
