//! Making a data directory. initdb starts servers of its own that go on writing for a moment when it is killed: so its
//! whole process group is ended, and waited for, before anybody removes the directory.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::server::tail;
use super::site::Site;
use super::watcher::{End, group_is_alive, signal_group};
use crate::admin::CommandError;

/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the data directory of the server `name`.
///
/// # Errors
/// It fails; the error holds what it said.
pub async fn initdb(site: &Site, name: &str, data: &Path) -> Result<(), CommandError> {
    let password = site.write(&format!("{name}.password"), &site.password)?;
    let cannot = |source| CommandError::failed("cannot run initdb").because(source);
    let log = site.path(&format!("{name}.initdb.log"));
    let mut command = site.program("initdb");
    command
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .arg("--pwfile")
        .arg(&password)
        .arg("--pgdata")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).map_err(cannot)?);
    let mut running = Running { child: command.spawn().map_err(cannot)?, site };
    site.watcher.started(running.child.id(), End::Group)?;
    let status = loop {
        match running.child.try_wait().map_err(cannot)? {
            Some(status) => break status,
            None => tokio::time::sleep(PAUSE).await,
        }
    };
    std::fs::remove_file(&password).map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::failed(format!("initdb failed for the server {name}:\n{}", tail(&log, 20))))
}

/// initdb while it runs. Dropping it leaves nothing that writes.
struct Running<'a> {
    child: Child,
    site: &'a Site,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let group = self.child.id();
        if matches!(self.child.try_wait(), Ok(None)) {
            // If the signal cannot be sent, the deadline passes.
            drop(signal_group(group, "KILL"));
            drop(self.child.kill());
            drop(self.child.wait());
            let deadline = Instant::now() + PATIENCE;
            while group_is_alive(group) && Instant::now() < deadline {
                std::thread::sleep(PAUSE);
            }
        }
        self.site.watcher.ended(group);
    }
}
