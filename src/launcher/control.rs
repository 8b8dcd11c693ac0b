//! What is asked of the daemon: SIGTERM and SIGINT stop, SIGHUP reloads; and what comes over HTTP.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::setup::Setup;
use super::wish::{Wish, Wishes};
use crate::config::{Config, Difference, Effect};
use crate::error::{Judged, Verdict, chain};
use crate::relation::TableName;
use crate::route::Patterns;
use crate::telemetry::control::{Answer, Ask, Refusal, Request, TableAction, TablesAsk};
use crate::telemetry::health::Health;
use crate::telemetry::logging::LogControl;
use crate::telemetry::service_manager::ServiceManager;
use crate::telemetry::state::TargetState;

/// Carries out what is asked.
pub struct Control {
    /// What the daemon lives by: sent when it has to begin the stream anew.
    pub wanted: watch::Sender<Arc<Config>>,
    /// What is wanted of the targets.
    pub wishes: Wishes,
    /// How the daemon is.
    pub health: Health,
    /// The configuration file; `None`: where it is looked for.
    pub file: Option<PathBuf>,
    /// The log.
    pub log: LogControl,
    /// Who is told of reloads.
    pub manager: ServiceManager,
}

impl Control {
    /// Listens for signals and requests from now on.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn listen(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break info!("SIGTERM: finishing what is queued"),
                    _ = interrupt.recv() => break info!("SIGINT: finishing what is queued"),
                    _ = hangup.recv() => {
                        // What came of it is in the log.
                        let _: Answer = self.reload();
                    }
                    Some(Request { ask, answer }) = requests.recv() => {
                        // Who has asked may be gone.
                        let _: Result<(), Answer> = answer.send(self.carry_out(ask));
                    }
                }
            }
            stop.cancel();
        });
        Ok(())
    }

    fn carry_out(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Preview => self.look().map(|(_, differences)| json!({ "changes": differences })),
            Ask::Reload => self.reload(),
            Ask::Pause(target) => self.wish(&target, Wish::Pause),
            Ask::Resume(target) => self.wish(&target, Wish::Resume),
            Ask::Resync(target) => self.wish(&target, Wish::Resync),
            Ask::Tables(ask) => self.wish_for_tables(&ask),
            Ask::LogLevel(level) => {
                self.log.set_level(&level).map_err(|error| refusal(&error))?;
                info!(level, "logging by another level, until the configuration says otherwise");
                self.wanted.send_if_modified(|running| {
                    let mut changed = Config::clone(running);
                    changed.log.level.clone_from(&level);
                    *running = Arc::new(changed);
                    false
                });
                Ok(json!({ "level": level }))
            }
        }
    }

    /// Whether the target's task can be asked for something.
    fn check_target(&self, target: &str) -> Result<(), Refusal> {
        let running = self.wanted.borrow();
        let names: Vec<&str> = running.targets.iter().map(|target| target.name.as_str()).collect();
        if !names.contains(&target) {
            let error = format!("there is no target \"{target}\"");
            return Err(Refusal { error, hint: Some(format!("The targets are {}.", names.join(", "))) });
        }
        if self.health.snapshot().stands_by() {
            let hint = "Tell the active daemon: its name on the source is walferry/ and the slot's.".to_owned();
            return Err(Refusal { error: "this daemon stands by, and feeds no target".to_owned(), hint: Some(hint) });
        }
        Ok(())
    }

    /// Has the tasks of the targets do this with each of these tables; how far they are, the status tells.
    fn wish_for_tables(&self, ask: &TablesAsk) -> Answer {
        let TablesAsk { action, tables, target } = ask;
        let patterns = Patterns::parse(tables).map_err(|error| refusal(&error))?;
        let targets: Vec<String> = match target {
            Some(target) => vec![target.clone()],
            None => self.wanted.borrow().targets.iter().map(|target| target.name.clone()).collect(),
        };
        targets.iter().try_for_each(|target| self.check_target(target))?;
        let status = self.health.snapshot();
        let known = status.tables.iter().filter(|table| targets.contains(&table.target));
        let chosen: Vec<(String, TableName)> = known
            .map(|table| (table.target.clone(), TableName::new(table.schema.clone(), table.name.clone())))
            .filter(|(_, table)| patterns.matches(table))
            .collect();
        if chosen.is_empty() {
            let error = format!("no table that is followed matches {}", tables.join(", "));
            return Err(Refusal { error, hint: Some("`walferry table list` shows those that are.".to_owned()) });
        }
        for (target, table) in &chosen {
            info!(target, table = %table, "is to {}", match action {
                TableAction::Resync => "be copied again",
                TableAction::Pause => "pause",
                TableAction::Resume => "go on",
            });
            self.wishes.want_of_table(target, table, *action);
        }
        let named = |(target, TableName { schema, name }): &(String, TableName)| json!({ "target": target, "schema": schema, "name": name });
        Ok(json!({ "tables": chosen.iter().map(named).collect::<Vec<_>>() }))
    }

    /// Has the target's task do this; how far it is, the status tells.
    fn wish(&self, target: &str, wish: Wish) -> Answer {
        self.check_target(target)?;
        match wish {
            Wish::Pause => info!(target, "is to pause"),
            Wish::Resume => info!(target, "is to go on"),
            Wish::Resync if self.health.target(target, |status| status.state == TargetState::Paused) => {
                let hint = format!("Have it go on first: walferry target resume {target}");
                return Err(Refusal { error: format!("target {target} is paused"), hint: Some(hint) });
            }
            Wish::Resync => info!(target, "is to be copied again"),
        }
        self.wishes.want(target, wish);
        Ok(json!({ "target": target }))
    }

    /// Reads the file again, and takes over what can be changed while running; says what cannot. A broken file changes
    /// nothing.
    fn reload(&mut self) -> Answer {
        self.manager.reloading();
        let looked = self.look();
        match &looked {
            Err(Refusal { error, hint }) => {
                let hint = hint.as_deref().map(|hint| format!(". {hint}")).unwrap_or_default();
                error!("reload: nothing is changed: {error}{hint}");
            }
            Ok((_, differences)) if differences.is_empty() => info!("reload: the configuration has not changed"),
            Ok((new, differences)) => self.take_over(new.clone(), differences),
        }
        self.manager.reloaded();
        looked.map(|(_, differences)| json!({ "changes": differences }))
    }

    /// The configuration as the file has it now, and what differs from the one in force.
    fn look(&self) -> Result<(Config, Vec<Difference>), Refusal> {
        let new = Config::load(self.file.as_deref()).map_err(|error| refusal(&error))?;
        // Connection strings and patterns are read here, not when the stream has been stopped for them.
        Setup::new(new.clone()).map_err(|error| refusal(&error))?;
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
fn refusal(error: &dyn Judged) -> Refusal {
    let hint = match error.verdict() {
        Verdict::Retry => None,
        Verdict::Halt { hint } => Some(hint),
    };
    Refusal { error: chain(error), hint }
}
