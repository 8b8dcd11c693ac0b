//! SIGTERM and SIGINT stop, SIGHUP reloads.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::error::chain;
use crate::telemetry::logging::LogControl;
use crate::telemetry::service_manager::ServiceManager;

/// Listens for signals from now on.
///
/// # Errors
/// When the system does not let us.
pub fn listen(
    stop: CancellationToken,
    config: Config,
    file: Option<PathBuf>,
    log: LogControl,
    manager: ServiceManager,
) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut config = config;
        loop {
            tokio::select! {
                _ = terminate.recv() => break info!("SIGTERM: finishing what is queued"),
                _ = interrupt.recv() => break info!("SIGINT: finishing what is queued"),
                _ = hangup.recv() => {
                    manager.reloading();
                    reload(&mut config, file.as_ref(), &log);
                    manager.reloaded();
                }
            }
        }
        stop.cancel();
    });
    Ok(())
}

/// Reads the file again; takes over what can be changed while running, and names what cannot. A broken file changes
/// nothing.
fn reload(running: &mut Config, file: Option<&PathBuf>, log: &LogControl) {
    let new = match Config::load(file.map(PathBuf::as_path)) {
        Ok(new) => new,
        Err(error) => return error!("SIGHUP: nothing is changed: {}", chain(&error)),
    };
    let differences = running.diff(&new);
    if differences.is_empty() {
        return info!("SIGHUP: the configuration has not changed");
    }
    for difference in differences {
        let key = &difference.key;
        if key == "log.level" {
            match log.set_level(&new.log.level) {
                Ok(()) => {
                    running.log.level.clone_from(&new.log.level);
                    info!(level = new.log.level, "SIGHUP: log.level is changed");
                }
                Err(error) => error!("SIGHUP: log.level is not changed: {}", chain(&error)),
            }
        } else {
            warn!(key, "SIGHUP: this needs a restart to take effect");
        }
    }
}
