//! What is told of a target's tables: how far each is, and why it is not in step.

use std::time::SystemTime;

use tracing::{error, warn};

use super::Board;
use crate::change::TargetId;
use crate::error::{Judged, Verdict, chain};
use crate::lsn::Lsn;
use crate::relation::TableName;
use crate::telemetry::state::TableState;
use crate::telemetry::status::LastError;

impl Board {
    /// Tables of a target cannot be copied, or do not catch up; the others go on.
    pub fn tables_failed(&self, id: TargetId, tables: &[&TableName], error: &dyn Judged, verdict: &Verdict) {
        let (target, message) = (self.name(id), chain(error));
        let names = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let hint = match verdict {
            Verdict::Retry => {
                warn!(target, tables = names, "cannot be brought in yet: {message}; trying again");
                None
            }
            Verdict::Halt { hint } => {
                error!(target, tables = names, hint, "cannot be brought in; the other tables go on: {message}");
                for table in tables {
                    self.table(id, table, TableState::Failed, None, None);
                    self.table_error(id, table, Some(message.clone()));
                }
                Some(hint.clone())
            }
        };
        self.tries_again(id, message, hint);
    }

    /// A table's changes are left out from now on, because the target refuses one of them; the others go on.
    pub fn quarantined(&self, id: TargetId, table: &TableName, error: &dyn Judged) {
        let (target, message) = (self.name(id), chain(error));
        let mend = match error.verdict() {
            Verdict::Halt { hint } => format!("{hint} "),
            Verdict::Retry => String::new(),
        };
        let hint = format!("{mend}Then run: walferry table resync {table}");
        error!(target, table = %table, hint, "quarantined; the other tables go on: {message}");
        let error = LastError::new(message, Some(hint), SystemTime::now());
        self.health.target(target, |status| status.last_error = Some(error));
    }

    /// A table of a target: how far its copy is.
    pub fn table(&self, id: TargetId, table: &TableName, state: TableState, rows: Option<u64>, copy_lsn: Option<Lsn>) {
        let target = self.name(id);
        let metrics = self.metrics.table(target, &table.to_string());
        metrics.set_state(state);
        if let Some(rows) = rows {
            metrics.copy_rows.set(rows as f64);
        }
        self.health.update(|status| {
            let status = status.table(target, &table.schema, &table.name);
            status.state = state;
            status.error = None;
            status.rows = rows.unwrap_or(status.rows);
            status.copy_lsn = copy_lsn.map(|lsn| lsn.to_string()).or_else(|| status.copy_lsn.take());
        });
    }

    /// Why a table is as it is; `None`: it needs no reason.
    pub fn table_error(&self, id: TargetId, table: &TableName, error: Option<String>) {
        let target = self.name(id);
        self.health.update(|status| status.table(target, &table.schema, &table.name).error = error);
    }

    /// Of a target's tables, these are followed: of others nothing is shown any more.
    pub fn keep_tables(&self, id: TargetId, followed: impl Fn(&TableName) -> bool) {
        let target = self.name(id);
        self.health.update(|status| {
            status.tables.retain(|table| {
                table.target != target || followed(&TableName::new(table.schema.clone(), table.name.clone()))
            });
        });
    }
}
