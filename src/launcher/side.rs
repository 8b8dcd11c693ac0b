//! A path beside the main one: it reads a slot of its own, for one target or for some tables of one.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::dispatch::{Command, Dispatcher};
use super::error::LaunchError;
use super::format::Format;
use super::pipeline::{PathObserver, Pipeline, PipelineOptions};
use super::target::Shared;
use super::thread::Thread;
use crate::config::Values;
use crate::source::wal_receiver::WalReceiver;

/// A path at work on its own thread. Dropped, it ends at once.
pub struct SidePath {
    commands: mpsc::UnboundedSender<Command>,
    thread: Thread<Result<Option<WalReceiver>, LaunchError>>,
    stop: CancellationToken,
    what: &'static str,
}

impl SidePath {
    /// Starts a path, whose only feed counts in this account. `what` it does, for messages.
    ///
    /// # Errors
    /// When the system has no more threads or files.
    pub fn start(
        what: &'static str,
        shared: &Shared,
        account: &Arc<Account>,
        options: PipelineOptions,
        values: Values,
        observer: Arc<dyn PathObserver>,
    ) -> Result<Self, LaunchError> {
        let (commands, received) = mpsc::unbounded_channel();
        let stop = shared.stop.child_token();
        let format = Format::new(values, shared.server_version, shared.publication.subscribe());
        let progress_bytes = shared.setup.config.apply.progress_bytes;
        let dispatcher = Dispatcher::new(Arc::clone(account), 1, progress_bytes, false);
        let path = Pipeline::new(options, observer, dispatcher, format, received, stop.clone());
        let failed = |error: std::io::Error| LaunchError::TaskFailed { what: format!("{what}: {error}") };
        let thread = Thread::start("walferry-lane", path.run()).map_err(failed)?;
        Ok(Self { commands, thread, stop, what })
    }

    /// The way to it.
    pub fn commands(&self) -> &mpsc::UnboundedSender<Command> {
        &self.commands
    }

    /// Waits until it has ended by itself, and tells why. To be called again only if it was cancelled.
    pub async fn failure(&mut self) -> LaunchError {
        match self.thread.ended().await {
            Some(Err(error)) => error,
            Some(Ok(_)) | None => LaunchError::TaskFailed { what: format!("{}: it panicked", self.what) },
        }
    }

    /// Ends it in order, so that its slot is free at once. What is to be confirmed has been.
    ///
    /// # Errors
    /// The connection did not close in order.
    pub async fn end(mut self) -> Result<(), LaunchError> {
        self.stop.cancel();
        match self.thread.ended().await {
            Some(Ok(Some(receiver))) => Ok(receiver.stop().await?),
            Some(Ok(None)) | None => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }
}
