//! What the board hears of tables that are brought in: rows and conflicts count with the target's, positions do not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::apply::dead_letter::SetAside;
use crate::apply::error::{ApplyError, ConflictKind};
use crate::apply::observer::Observer;
use crate::change::{Part, PgTime};
use crate::error::{Judged, Verdict};
use crate::launcher::account::Account;
use crate::launcher::board::TargetBoard;
use crate::launcher::pipeline::PathObserver;
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::relation::TableName;
use crate::telemetry::state::TableState;

/// The tables of a lane, as its worker sees the board.
pub(super) struct TablesBoard {
    /// The target's part of the board.
    pub target: Arc<TargetBoard>,
    /// The lane's positions.
    pub account: Arc<Account>,
    /// The tables.
    pub tables: BTreeSet<TableName>,
}

impl Observer for TablesBoard {
    fn committed(&self, end: EndLsn, commit_time: Option<PgTime>, _took: Option<Duration>) {
        self.account.committed(self.target.id, end, commit_time);
    }

    fn durable(&self, position: DurableLsn) {
        self.account.durable(self.target.id, position);
    }

    fn applied(&self, parts: &[Arc<Part>]) {
        self.target.applied(parts);
    }

    fn conflict(&self, kind: ConflictKind, table: &TableName, key: &str, lsn: Lsn) {
        self.target.conflict(kind, table, key, lsn);
    }

    fn dead_letter(&self, letter: &SetAside) {
        self.target.dead_letter(letter);
    }

    fn dead_letters(&self, waiting: u64) {
        self.target.dead_letters(waiting);
    }

    fn in_bulk(&self, changes: u64) {
        self.target.in_bulk(changes);
    }

    fn fell_back(&self, table: Option<&TableName>, code: &str) {
        self.target.fell_back(table, code);
    }

    fn running(&self) {
        let (board, id) = (&self.target.board, self.target.id);
        info!(target = board.name(id), tables = self.tables.len(), "tables that are brought in go on");
        self.tables.iter().for_each(|table| board.table(id, table, TableState::Copied, None, None));
    }

    fn failed(&self, error: &ApplyError, verdict: &Verdict) {
        let tables: Vec<&TableName> = self.tables.iter().collect();
        self.target.board.tables_failed(self.target.id, &tables, error, verdict);
    }
}

/// The path's error is what the attempt ends with.
pub(super) struct Quiet;

impl PathObserver for Quiet {
    fn streaming(&self, _again: bool) {}

    fn failed(&self, _error: &dyn Judged) {}

    fn idle(&self) {}
}
