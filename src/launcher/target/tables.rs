//! The tables that a target does not have yet, brought in beside what it is fed (`launcher/tables.rs`).

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::TargetTask;
use crate::apply::error::ApplyError;
use crate::apply::progress;
use crate::config::OnError;
use crate::error::chain;
use crate::launcher::error::LaunchError;
use crate::launcher::tables::TableLane;
use crate::lsn::{DurableLsn, EndLsn};
use crate::postgres::Client;
use crate::relation::TableName;
use crate::source::publication::PublishedTable;
use crate::tablesync::{self, CopyState};
use crate::telemetry::control::TableAction;
use crate::telemetry::state::TableState;

/// How long a target waits for its tables to get as far as it is.
const TAKING_OVER: Duration = Duration::from_secs(10);

impl TargetTask {
    /// The tables whose changes are left out of what it is fed.
    pub(super) fn left_out(&self) -> HashSet<TableName> {
        let incoming = self.incoming.iter().flat_map(|lane| &lane.tables).map(|table| table.name.clone());
        incoming.chain(self.uncopied.iter().cloned()).chain(self.stopped.iter().cloned()).collect()
    }

    /// Whether what ended the worker is met by going on without one table, which is then copied (again) beside the
    /// stream: one that is new, or is gone on the target; or is quarantined, for one of its changes was refused.
    pub(super) async fn without_table(&mut self, error: ApplyError) -> Result<(), LaunchError> {
        let error = match error {
            ApplyError::Restart(cause) if matches!(*cause, ApplyError::NewTable(_) | ApplyError::Gone { .. }) => *cause,
            error => error,
        };
        let setup = &self.shared.setup;
        let client = async || Client::connect(&self.target().connect, &setup.application_name()).await;
        match error {
            ApplyError::NewTable(table) => {
                self.uncopied.insert(table);
                Ok(())
            }
            ApplyError::Gone { table, lsn } => {
                let target = &self.target().name;
                warn!(target, table = %table, lsn = %lsn, "the table is gone on the target: it has to be copied again");
                tablesync::state::forget(&client().await?, &setup.stream, &table).await?;
                Ok(())
            }
            error if setup.config.apply.on_error == OnError::QuarantineTable => {
                let Some(table) = error.refused_table() else { return Err(error.into()) };
                // As any database's encoding has it: hidden values are shown as an ellipsis.
                let (reason, state) = (chain(&error).replace('…', "..."), CopyState::Quarantined);
                tablesync::state::stop(&client().await?, &setup.stream, table, state, Some(&reason)).await?;
                self.shared.board.quarantined(self.target().id, table, &error);
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    /// Does what is wanted of tables, while the target is not fed.
    pub(super) async fn do_as_wanted(&mut self, client: &Client) -> Result<(), LaunchError> {
        let stream = self.shared.setup.stream.clone();
        for (table, action) in self.wanted.of_tables() {
            let comes = |lane: &TableLane| lane.tables.iter().any(|own| own.name == table);
            match action {
                // On its way in, it is being copied again.
                TableAction::Resync | TableAction::Resume if self.incoming.iter().any(comes) => {}
                TableAction::Resync => tablesync::state::mark_for_copy(client, &stream, &table).await?,
                TableAction::Resume => tablesync::state::go_on(client, &stream, &table).await?,
                TableAction::Pause => {
                    self.incoming.retain(|lane| !comes(lane));
                    tablesync::state::stop(client, &stream, &table, CopyState::Paused, None).await?;
                }
            }
            self.wanted.noted_of_table(&table, action);
        }
        Ok(())
    }

    /// Sees to it that these tables, and no others, are being brought in.
    pub(super) async fn bring_in(&mut self, client: &Client, pending: &[PublishedTable]) -> Result<(), LaunchError> {
        self.keep_lanes(client, |lane| lane.is_of(pending) && !lane.has_ended()).await?;
        let taken = |table: &&PublishedTable| self.incoming.iter().any(|lane| lane.has(table));
        let new: Vec<PublishedTable> = pending.iter().filter(|table| !taken(table)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        // Those that were copied are not kept up to date from now on: who comes later has to know.
        let stream = &self.shared.setup.stream;
        for state in tablesync::state::load(client, stream).await? {
            if state.state == CopyState::Done && new.iter().any(|table| table.name == state.name) {
                tablesync::state::mark_for_copy(client, stream, &state.name).await?;
            }
        }
        for table in &new {
            self.shared.board.table(self.target().id, &table.name, TableState::Pending, Some(0), None);
        }
        self.incoming.push(TableLane::begin(&self.shared, self.place, new));
        Ok(())
    }

    /// Whether tables have caught up, so that the target is to be attached again with them.
    pub(super) fn look_at_tables(&mut self) -> bool {
        let id = self.target().id;
        let Some(durable) = self.shared.board.lane(id).durable_lsn(id).map(DurableLsn::end_lsn) else { return false };
        // Each has to be looked at.
        let near: Vec<bool> = self.incoming.iter_mut().map(|lane| lane.look(durable.lsn())).collect();
        near.contains(&true)
    }

    /// Takes over the tables that have caught up with the target, which stands here and is not fed.
    pub(super) async fn take_over(&mut self, client: &Client, stands_at: EndLsn) -> Result<(), LaunchError> {
        let (stream, target) = (self.shared.setup.stream.clone(), self.target().name.clone());
        let (near, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.incoming).into_iter().partition(|lane| lane.is_near());
        self.incoming = others;
        for mut lane in near {
            if !timeout(TAKING_OVER, lane.reach(stands_at)).await.unwrap_or(false) {
                warn!(target, tables = lane.tables.len(), "tables have not caught up with the stream yet");
                lane.rest();
                self.incoming.push(lane);
                continue;
            }
            let name = lane.name.clone();
            // One that fails at its end, or hangs, is given up: its tables are copied again.
            let Some(copier) = timeout(TAKING_OVER, lane.end()).await.ok().flatten() else { continue };
            let tables = tablesync::state::admit(client, &stream, &name, &copier).await?;
            let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
            info!(target, tables = names.join(", "), "have caught up, and are fed with the others");
        }
        Ok(())
    }

    /// Ends all lanes of tables but these, and those that another daemon has left. Their tables are not copied again
    /// before nobody applies to them any more.
    pub(super) async fn keep_lanes(
        &mut self,
        client: &Client,
        is_kept: impl Fn(&TableLane) -> bool,
    ) -> Result<(), LaunchError> {
        self.incoming.retain(is_kept);
        let kept: Vec<&str> = self.incoming.iter().map(|lane| lane.name.as_str()).collect();
        progress::end_lanes(client, &self.shared.setup.stream, &kept).await?;
        Ok(())
    }
}
