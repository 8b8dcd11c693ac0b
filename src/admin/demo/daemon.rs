//! The daemon of the demonstration: this same program as a child, killed and started again; gone when dropped.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shop::{DATABASE, ROLE, STREAM};
use crate::admin::CommandError;
use crate::admin::daemon::{AskError, ask};
use crate::admin::throwaway::server::{Server, free_port, tail};
use crate::admin::throwaway::site::{Site, without_pg_variables};
use crate::admin::throwaway::watcher::{End, signal};
use crate::config::Http;
use crate::telemetry::status::StatusSnapshot;

/// How long the daemon may take to stop when asked to; more than its own `apply.drain_timeout`.
const STOPPING: Duration = Duration::from_secs(30);

/// The daemon, running or not.
pub struct Daemon {
    site: Arc<Site>,
    config: PathBuf,
    listen: SocketAddr,
    child: Option<Child>,
}

impl Daemon {
    /// Writes the configuration of a daemon between these servers; starts nothing yet.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(site: &Arc<Site>, source: &Server, targets: &[Server]) -> Result<Self, CommandError> {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut text = format!(
            "[source]\nurl = \"{}\"\nslot = \"{STREAM}\"\npublication = \"{STREAM}\"\n\n",
            source.url(ROLE, DATABASE)
        );
        for target in targets {
            text += &format!("[[target]]\nname = \"{}\"\nurl = \"{}\"\n\n", target.name, target.url(ROLE, DATABASE));
        }
        text += &format!("[http]\nlisten = \"{listen}\"\n");
        let config = site.write("walferry.toml", &text)?;
        Ok(Self { site: Arc::clone(site), config, listen, child: None })
    }

    /// Where its log is.
    pub fn log(site: &Site) -> PathBuf {
        site.path("walferry.log")
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> Result<u32, CommandError> {
        let cannot = |source| CommandError::failed("cannot start the daemon").because(source);
        let log = OpenOptions::new().append(true).create(true).open(Self::log(&self.site)).map_err(cannot)?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        without_pg_variables(&mut command);
        command.arg("run").arg("--config").arg(&self.config).process_group(0).stdin(Stdio::null());
        command.env("NO_COLOR", "1").stdout(log.try_clone().map_err(cannot)?).stderr(log);
        let child = command.spawn().map_err(cannot)?;
        let pid = child.id();
        self.child = Some(child);
        self.site.watcher.started(pid, End::Kill)?;
        Ok(pid)
    }

    /// SIGKILL: no chance to write anything down.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<(), CommandError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        self.site.watcher.ended(child.id());
        killed.map(drop).map_err(|source| CommandError::failed("cannot kill the daemon").because(source))
    }

    /// Makes sure that it has not ended by itself.
    ///
    /// # Errors
    /// It has.
    pub fn must_run(&mut self) -> Result<(), CommandError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(CommandError::failed(format!("the daemon ended by itself ({status})"))),
            Err(source) => Err(CommandError::failed("cannot see whether the daemon runs").because(source)),
        }
    }

    /// What it is doing.
    ///
    /// # Errors
    /// It does not answer (yet).
    pub async fn ask(&self) -> Result<StatusSnapshot, AskError> {
        ask(&Http { listen: Some(self.listen), token_file: None }).await
    }

    /// SIGTERM, as a service manager would send it.
    ///
    /// # Errors
    /// It does not stop in time, or not well.
    pub async fn stop(&mut self) -> Result<(), CommandError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let cannot = |source| CommandError::failed("cannot stop the daemon").because(source);
        signal(child.id(), "TERM").map_err(cannot)?;
        let deadline = Instant::now() + STOPPING;
        loop {
            match child.try_wait().map_err(cannot)? {
                Some(status) => return well(status),
                None if Instant::now() >= deadline => {
                    let limit = STOPPING.as_secs();
                    return Err(CommandError::failed(format!("the daemon did not stop within {limit} s of SIGTERM")));
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

fn well(status: ExitStatus) -> Result<(), CommandError> {
    if status.success() {
        return Ok(());
    }
    Err(CommandError::failed(format!("the daemon did not stop well ({status})")))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // While cleaning up there is nobody to tell; what cannot be killed, the watcher tries again.
        drop(self.kill());
        if std::thread::panicking() {
            eprintln!("{}", tail(&Self::log(&self.site), 40));
        }
    }
}
