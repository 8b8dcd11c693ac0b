//! `walferry run` as a child of this process: started, stopped, and gone when dropped.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use walferry::admin::throwaway::server::tail;
use walferry::admin::throwaway::site::without_pg_variables;
use walferry::admin::throwaway::watcher::signal;
use walferry::admin::throwaway::{End, Site};

use crate::bed::Bed;

/// How long it may take to stop; more than its own `apply.drain_timeout`.
const STOPPING: Duration = Duration::from_secs(60);

/// The daemon, running or not.
pub struct Daemon {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    site: Arc<Site>,
}

impl Daemon {
    /// Writes its configuration; starts nothing yet.
    pub fn configure(bed: &Bed, program: &Path, text: &str) -> Result<Self> {
        let config = bed.site.write("walferry.toml", text)?;
        let (program, log) = (program.to_owned(), bed.site.path("walferry.log"));
        Ok(Self { program, config, log, child: None, site: Arc::clone(&bed.site) })
    }

    pub fn start(&mut self, bed: &Bed) -> Result<()> {
        let log = OpenOptions::new().append(true).create(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        without_pg_variables(&mut command);
        command.arg("run").arg("--config").arg(&self.config).process_group(0).stdin(Stdio::null());
        command.env("NO_COLOR", "1").stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        bed.site.watcher.started(child.id(), End::Kill)?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGTERM, and waits until it is gone.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        signal(child.id(), "TERM")?;
        let begun = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            ensure!(begun.elapsed() < STOPPING, "walferry does not stop:\n{}", tail(&self.log, 20));
        };
        self.site.watcher.ended(child.id());
        self.child = None;
        ensure!(status.success(), "walferry stopped with {status}:\n{}", self.log());
        Ok(())
    }

    /// An error when it has ended by itself.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            bail!("walferry ended by itself, {status}:\n{}", self.log());
        }
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The end of what it has logged.
    pub fn log(&self) -> String {
        tail(&self.log, 20)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // While cleaning up there is nobody to tell; what cannot be killed, the watcher tries again.
            drop(child.kill().and_then(|()| child.wait()));
            self.site.watcher.ended(child.id());
        }
    }
}
