//! What the tasks of all targets share: the configuration, the source as found, and the ways to the others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::apply::exact::AppliedTo;
use crate::apply::observer::Observer;
use crate::apply::progress::{Epoch, Stream};
use crate::apply::session::SessionOptions;
use crate::apply::worker::WorkerOptions;
use crate::change::TargetId;
use crate::launcher::board::Board;
use crate::launcher::dispatch::Command;
use crate::launcher::gauges::Gauges;
use crate::launcher::place::Places;
use crate::launcher::setup::{Setup, TargetSetup};
use crate::launcher::startup::Facts;
use crate::launcher::wish::Wishes;
use crate::relation::{RelationId, TableName};
use crate::source::publication::Publication;

/// What all targets' tasks share.
pub struct Shared {
    /// The configuration.
    pub setup: Arc<Setup>,
    /// The source as found at the start.
    pub facts: Facts,
    /// The source's `server_version_num`.
    pub server_version: u32,
    /// The targets that had slots of their own at the start.
    pub own: BTreeSet<TargetId>,
    /// Who is told.
    pub board: Arc<Board>,
    /// The way to the path. It takes commands between transactions only, and whoever sends one must not wait for that.
    pub commands: mpsc::UnboundedSender<Command>,
    /// What is published, as it changes.
    pub publication: watch::Sender<Arc<Publication>>,
    /// How full the queues are.
    pub gauges: Gauges,
    /// Where the targets are.
    pub places: Places,
    /// What operators want of the targets.
    pub wishes: Wishes,
    /// Given when it is time to stop.
    pub stop: CancellationToken,
}

impl Shared {
    /// How sessions that apply to a target are opened.
    pub fn session_options(&self, target: &TargetSetup) -> SessionOptions {
        let apply = &self.setup.config.apply;
        SessionOptions {
            connect: target.connect.clone(),
            application_name: self.setup.application_name(),
            lock_timeout: apply.lock_timeout,
            statement_timeout: apply.statement_timeout,
            synchronous_commit: apply.synchronous_commit,
        }
    }

    /// The publication is this now: if it has other tables than was known, every target attaches again.
    pub fn tell_published(&self, now: &Arc<Publication>) {
        self.publication.send_if_modified(|known| {
            let differs = self.setup.chosen(known) != self.setup.chosen(now);
            if differs {
                *known = Arc::clone(now);
            }
            differs
        });
    }

    /// How a worker applies to a target what comes of these tables, by this progress row and this claim of it.
    pub fn worker_options(
        &self,
        target: &TargetSetup,
        (stream, epoch): (Stream, Epoch),
        copied: HashMap<TableName, Option<RelationId>>,
        observer: Arc<dyn Observer>,
    ) -> WorkerOptions {
        let setup = &self.setup;
        WorkerOptions {
            session: self.session_options(target),
            to: AppliedTo {
                stream,
                epoch,
                policy: setup.conflicts,
                on_error: setup.on_error,
                bulk: setup.bulk,
                copied: Arc::new(copied),
                observer,
            },
            batch_bytes: setup.config.apply.batch_bytes,
            retry_max_interval: setup.retry_max_interval(),
            halted_retry_interval: setup.config.apply.halted_retry_interval,
            quarantines: false,
        }
    }
}
