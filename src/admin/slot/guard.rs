//! Nothing is changed under a running daemon, and no slot that walferry cannot have made: whoever changes a stream
//! holds its lock, as the daemon does, and looks at the slot first.

use std::time::{Duration, Instant};

use crate::admin::CommandError;
use crate::launcher::setup::Setup;
use crate::postgres::Client;
use crate::source::lock::StreamLock;
use crate::source::slot::{self, Slot};
use crate::source::{SourceError, slot::SlotUser};
use crate::sql::Sql;

/// How long a daemon that was disconnected may take to be gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// The server knows of the end of a daemon or command a moment after it: so long its session may linger.
const LINGERING: Duration = Duration::from_secs(1);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// The stream's slot, if there is one, and if walferry can have made it.
///
/// # Errors
/// It is of another kind, plugin or database, or temporary: not even `--force` is for those.
pub async fn own_slot(setup: &Setup, source: &Client) -> Result<Option<Slot>, CommandError> {
    let failed = |error| CommandError::at("the slot is left alone", error);
    let found = slot::inspect(source, &setup.stream).await.map_err(failed)?;
    if let Some(slot) = &found {
        slot.check_kind(&setup.source.dbname).map_err(failed)?;
    }
    Ok(found)
}

/// Takes the stream's lock on `source` and makes sure that nobody streams from the slot. With `force`, whoever does is
/// disconnected.
///
/// # Errors
/// As [`own_slot`]; or somebody uses the stream, and who that is.
pub async fn take(setup: &Setup, source: &Client, force: bool) -> Result<StreamLock, CommandError> {
    let deadline = Instant::now() + if force { PATIENCE } else { LINGERING };
    let mut lock = None;
    loop {
        let slot = own_slot(setup, source).await?;
        let failed = |error| CommandError::at("asking who uses the stream", error);
        if lock.is_none() {
            lock = StreamLock::try_acquire(source, &setup.stream).await.map_err(failed)?;
        }
        let user = match &lock {
            None => StreamLock::holder(source, &setup.stream).await.map_err(failed)?,
            Some(_) => slot.and_then(|slot| slot.active_pid),
        };
        match (lock, user) {
            (Some(lock), None) => return Ok(lock),
            (taken, user) => {
                if Instant::now() >= deadline {
                    return Err(in_use(setup, source, user).await?);
                }
                if let Some(pid) = user.filter(|_| force) {
                    disconnect(source, pid).await?;
                }
                lock = taken;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Drops the stream's slot, and those that single targets have. With `force`, a daemon that was disconnected and has
/// connected again meanwhile (it learns only then that it has lost the lock) is disconnected again.
///
/// # Errors
/// As [`own_slot`] and [`slot::drop`].
pub async fn drop_slot(setup: &Setup, source: &Client, force: bool) -> Result<(), CommandError> {
    let failed = |error| CommandError::at("the slot was not dropped", error);
    for own in slot::lane::of(source, &setup.stream).await.map_err(failed)? {
        drop_one(source, &own.name, force, async || Ok(())).await?;
    }
    // Again each time: another one may have been made under this name.
    drop_one(source, &setup.stream, force, async || own_slot(setup, source).await.map(drop)).await
}

async fn drop_one(
    source: &Client,
    name: &str,
    force: bool,
    may: impl AsyncFn() -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        may().await?;
        match slot::drop(source, name).await {
            Err(SourceError::SlotActive { pid: Some(pid), .. }) if force && Instant::now() < deadline => {
                disconnect(source, pid).await?;
            }
            dropped => return dropped.map_err(|error| CommandError::at("the slot was not dropped", error)),
        }
    }
}

/// Who uses the slot, or holds the stream.
///
/// # Errors
/// The source cannot be asked.
pub async fn user(setup: &Setup, source: &Client, slot: Option<&Slot>) -> Result<Option<SlotUser>, CommandError> {
    let failed = |error| CommandError::at("asking who uses the stream", error);
    let pid = match slot.and_then(|slot| slot.active_pid) {
        Some(pid) => Some(pid),
        None => StreamLock::holder(source, &setup.stream).await.map_err(failed)?,
    };
    let Some(pid) = pid else { return Ok(None) };
    slot::user(source, pid).await.map(Some).map_err(failed)
}

async fn in_use(setup: &Setup, source: &Client, pid: Option<i32>) -> Result<CommandError, CommandError> {
    let who = match pid {
        None => "another session".to_owned(),
        Some(pid) => slot::user(source, pid).await.map_err(|error| CommandError::at("asking who", error))?.to_string(),
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
