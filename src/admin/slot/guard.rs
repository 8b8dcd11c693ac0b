//! Nothing is changed under a running daemon: whoever changes a stream holds its lock, as the daemon does.

use std::time::{Duration, Instant};

use crate::admin::CommandError;
use crate::launcher::setup::Setup;
use crate::postgres::Client;
use crate::source::lock::StreamLock;
use crate::source::{SourceError, slot};
use crate::sql::Sql;

/// How long a daemon that was disconnected may take to be gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

const WHO: Sql = Sql::new(
    "SELECT coalesce(application_name, ''), coalesce(host(client_addr), 'this machine') FROM pg_stat_activity \
     WHERE pid = $1",
);

/// Takes the stream's lock on `source` and makes sure that nobody streams from the slot. With `force`, whoever does is
/// disconnected.
///
/// # Errors
/// Somebody uses the stream, and who that is.
pub async fn take(setup: &Setup, source: &Client, force: bool) -> Result<StreamLock, CommandError> {
    let deadline = Instant::now() + PATIENCE;
    let mut lock = None;
    loop {
        let failed = |error| CommandError::at("asking who uses the stream", error);
        if lock.is_none() {
            lock = StreamLock::try_acquire(source, &setup.stream).await.map_err(failed)?;
        }
        let user = match &lock {
            None => StreamLock::holder(source, &setup.stream).await.map_err(failed)?,
            Some(_) => slot::inspect(source, &setup.stream).await.map_err(failed)?.and_then(|slot| slot.active_pid),
        };
        match (lock, user) {
            (Some(lock), None) => return Ok(lock),
            (taken, user) => {
                if !force || Instant::now() >= deadline {
                    return Err(in_use(setup, source, user).await?);
                }
                if let Some(pid) = user {
                    disconnect(source, pid).await?;
                }
                lock = taken;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Drops the slot. With `force`, a daemon that was disconnected and has connected again meanwhile (it learns only then
/// that it has lost the lock) is disconnected again.
///
/// # Errors
/// As [`slot::drop`].
pub async fn drop_slot(setup: &Setup, source: &Client, force: bool) -> Result<(), CommandError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match slot::drop(source, &setup.stream).await {
            Err(SourceError::SlotActive { pid: Some(pid), .. }) if force && Instant::now() < deadline => {
                disconnect(source, pid).await?;
            }
            dropped => return dropped.map_err(|error| CommandError::at("the slot was not dropped", error)),
        }
    }
}

async fn in_use(setup: &Setup, source: &Client, pid: Option<i32>) -> Result<CommandError, CommandError> {
    let who = match pid {
        None => "another session".to_owned(),
        Some(pid) => {
            match source.query_opt(&WHO, &[&pid]).await.map_err(|error| CommandError::at("asking who", error))? {
                Some(row) => {
                    format!(
                        "server process {pid} (application {}, from {})",
                        row.get::<_, String>(0),
                        row.get::<_, String>(1)
                    )
                }
                None => format!("server process {pid}"),
            }
        }
    };
    Ok(CommandError::refused(
        format!("the stream \"{}\" is in use by {who}", setup.stream),
        "Stop the daemon first (such as: systemctl stop walferry), or say --force to have it disconnected.",
    ))
}

async fn disconnect(source: &Client, pid: i32) -> Result<(), CommandError> {
    // Waits until it is gone, at most so many milliseconds.
    let terminate = Sql::new("SELECT pg_terminate_backend($1, 5000)");
    let ended = source.query_one(&terminate, &[&pid]).await;
    ended.map(drop).map_err(|error| CommandError::at(format!("disconnecting server process {pid}"), error))
}
