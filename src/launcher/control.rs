//! What is asked of the daemon: SIGTERM and SIGINT stop, SIGHUP reloads.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::setup::Setup;
use crate::config::{Config, Difference, Effect};
use crate::error::{Judged, Verdict, chain};
use crate::telemetry::logging::LogControl;
use crate::telemetry::service_manager::ServiceManager;

/// Carries out what is asked.
pub struct Control {
    /// What the daemon lives by: sent when it has to begin the stream anew.
    pub wanted: watch::Sender<Arc<Config>>,
    /// The configuration file; `None`: where it is looked for.
    pub file: Option<PathBuf>,
    /// The log.
    pub log: LogControl,
    /// Who is told of reloads.
    pub manager: ServiceManager,
}

impl Control {
    /// Listens for signals from now on.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn listen(mut self, stop: CancellationToken) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break info!("SIGTERM: finishing what is queued"),
                    _ = interrupt.recv() => break info!("SIGINT: finishing what is queued"),
                    _ = hangup.recv() => {
                        self.manager.reloading();
                        self.reload();
                        self.manager.reloaded();
                    }
                }
            }
            stop.cancel();
        });
        Ok(())
    }

    /// Reads the file again, and takes over what can be changed while running; says what cannot. A broken file changes
    /// nothing.
    fn reload(&mut self) {
        match self.look() {
            Err(why) => error!("reload: nothing is changed: {why}"),
            Ok((_, differences)) if differences.is_empty() => info!("reload: the configuration has not changed"),
            Ok((new, differences)) => self.take_over(new, &differences),
        }
    }

    /// The configuration as the file has it now, and what differs from the one in force.
    fn look(&self) -> Result<(Config, Vec<Difference>), String> {
        let new = Config::load(self.file.as_deref()).map_err(|error| told(&error))?;
        // Connection strings and patterns are read here, not when the stream has been stopped for them.
        Setup::new(new.clone()).map_err(|error| told(&error))?;
        let differences = self.wanted.borrow().diff(&new);
        Ok((new, differences))
    }

    fn take_over(&mut self, new: Config, differences: &[Difference]) {
        let mut new = new;
        for Difference { key, effect, .. } in differences {
            if key == "log.level"
                && let Err(error) = self.log.set_level(&new.log.level)
            {
                error!(key, "reload: not changed: {}", chain(&error));
                new.log.level.clone_from(&self.wanted.borrow().log.level);
                continue;
            }
            match effect {
                Effect::Restart => warn!(key, "reload: this {effect}"),
                Effect::AtOnce | Effect::NewStream => info!(key, "reload: this {effect}"),
            }
        }
        let begins_anew = differences.iter().any(|difference| difference.effect == Effect::NewStream);
        self.wanted.send_if_modified(|running| {
            *running = Arc::new(new.taken_over_by(running));
            begins_anew
        });
    }
}

/// What is wrong, and what helps.
fn told(error: &dyn Judged) -> String {
    match error.verdict() {
        Verdict::Retry => chain(error),
        Verdict::Halt { hint } => format!("{}. {hint}", chain(error)),
    }
}
