//! The status, as plain data: what `/api/v1/status` says, the status page shows and `walferry status` prints.

use std::collections::BTreeMap;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::{SlotState, SourceState, TableState, TargetState};

/// Everything that is known of the stream. LSNs are text as PostgreSQL writes them; `None` is "not known".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusSnapshot {
    /// The stream's name: its slot.
    pub stream: String,
    /// The version of the daemon.
    pub version: String,
    /// The stream from the source.
    pub source: SourceStatus,
    /// One per target, in the configuration's order.
    pub targets: Vec<TargetStatus>,
    /// One per table and target.
    pub tables: Vec<TableStatus>,
    /// Why the process should be replaced; `None` while it works.
    pub dead: Option<String>,
}

/// The stream from the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceStatus {
    /// What it does.
    pub state: SourceState,
    /// What the source says of the slot.
    pub slot_state: SlotState,
    /// Up to where WAL was received.
    pub received_lsn: Option<String>,
    /// Up to where the source was told to forget.
    pub confirmed_lsn: Option<String>,
    /// WAL that the source keeps for the stream's slots, in bytes.
    pub retained_wal_bytes: Option<u64>,
    /// WAL that it can still write before it may drop what one of them needs, in bytes; `None` also where there is no
    /// limit.
    #[serde(default)]
    pub safe_wal_bytes: Option<u64>,
    /// Connections made after the first.
    pub reconnects: u64,
    /// The last error, also when it has passed.
    pub last_error: Option<LastError>,
}

/// One target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it does.
    pub state: TargetState,
    /// Up to where its progress is on its disk; what it shows may go further.
    pub durable_lsn: Option<String>,
    /// Since when it is paused, by its own clock, as `2026-01-31T12:00:00Z`; `None`: it is not, or it has not been told
    /// yet, and goes on should this daemon end.
    #[serde(default)]
    pub paused_at: Option<String>,
    /// Whether it is fed through a slot of its own, so that the others are not held up.
    #[serde(default)]
    pub own_slot: bool,
    /// WAL between that and the end of the source's, in bytes.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest transaction that waits, in seconds; 0 when none does.
    pub lag_seconds: Option<f64>,
    /// Memory of what waits, in bytes.
    pub queue_bytes: u64,
    /// Source transactions applied since the start.
    pub transactions: u64,
    /// Target commits since the start.
    pub commits: u64,
    /// Attempts after an error since the start.
    pub retries: u64,
    /// Rows since the start, by `insert`, `update`, `delete`, `truncate`.
    pub rows: BTreeMap<String, u64>,
    /// Conflicts since the start, by kind.
    pub conflicts: BTreeMap<String, u64>,
    /// Changes of rows that it did not take and that lie in its `walferry.dead_letter`.
    #[serde(default)]
    pub dead_letters: u64,
    /// The last error, also when it has passed.
    pub last_error: Option<LastError>,
}

/// One table on one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TableStatus {
    /// The target's name.
    pub target: String,
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// How far it is.
    pub state: TableState,
    /// Rows copied.
    pub rows: u64,
    /// Bytes that the copy has read, repeated ones included.
    pub bytes: u64,
    /// How large the table was on the source when its copy was planned, in bytes; what is read of it may be more or
    /// less. `None`: it is not being copied by this daemon.
    pub size_bytes: Option<u64>,
    /// From where on its changes apply.
    pub copy_lsn: Option<String>,
    /// Why it is failed or quarantined.
    #[serde(default)]
    pub error: Option<String>,
}

/// An error as operators see it: no row values, no secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastError {
    /// What happened, with its causes.
    pub message: String,
    /// What to do about it; `None` when it may pass by itself.
    pub hint: Option<String>,
    /// When, as `2026-01-31T12:00:00Z`.
    pub at: String,
}

impl LastError {
    /// An error of this moment.
    pub fn new(message: impl Into<String>, hint: Option<String>, at: SystemTime) -> Self {
        Self { message: message.into(), hint, at: humantime::format_rfc3339_seconds(at).to_string() }
    }
}

impl StatusSnapshot {
    /// The target of this name; added when it is new.
    pub fn target(&mut self, name: &str) -> &mut TargetStatus {
        let index = self.targets.iter().position(|target| target.name == name).unwrap_or_else(|| {
            self.targets.push(TargetStatus { name: name.to_owned(), ..TargetStatus::default() });
            self.targets.len() - 1
        });
        &mut self.targets[index]
    }

    /// The table of this name on this target; added when it is new.
    pub fn table(&mut self, target: &str, schema: &str, name: &str) -> &mut TableStatus {
        let same = |table: &TableStatus| table.target == target && table.schema == schema && table.name == name;
        let index = self.tables.iter().position(same).unwrap_or_else(|| {
            let (target, schema, name) = (target.to_owned(), schema.to_owned(), name.to_owned());
            self.tables.push(TableStatus { target, schema, name, ..TableStatus::default() });
            self.tables.len() - 1
        });
        &mut self.tables[index]
    }

    /// What is not as it should be, with what an operator has wanted so; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let paused = self.targets.iter().filter(|target| target.state == TargetState::Paused).map(|target| {
            let (name, since) = (&target.name, target.paused_at.as_deref());
            let since = since.map_or_else(String::new, |since| format!(" since {since}"));
            format!("target {name} is paused{since}; the source keeps its WAL until \"walferry target resume {name}\"")
        });
        let tables = self.tables.iter().filter(|table| table.state == TableState::Paused).map(|table| {
            let TableStatus { target, schema, name, .. } = table;
            format!("target {target}: {schema}.{name} is paused until \"walferry table resume {schema}.{name}\"")
        });
        let own = self.targets.iter().filter(|target| target.own_slot && target.state == TargetState::Applying);
        let own = own.map(|target| {
            format!("target {} catches up, from a slot of its own so that it holds up nobody", target.name)
        });
        let letters = self.targets.iter().filter_map(|target| dead_letters(&target.name, target.dead_letters));
        self.not_ready().into_iter().chain(paused).chain(tables).chain(own).chain(letters).collect()
    }

    /// Whether nobody wants anything from the source.
    pub fn all_paused(&self) -> bool {
        !self.targets.is_empty() && self.targets.iter().all(|target| target.state == TargetState::Paused)
    }

    /// Why this daemon does not keep its targets in step at the moment; empty when it does. One that is paused is as an
    /// operator wants it.
    pub fn not_ready(&self) -> Vec<String> {
        let reason = |what: String, state: &str, error: &Option<LastError>, stopped: bool| match error {
            Some(LastError { message, hint: Some(hint), .. }) if stopped => {
                format!("{what} is {state}: {message}. {hint}")
            }
            Some(error) if stopped => format!("{what} is {state}: {}", error.message),
            _ => format!("{what} is {state}"),
        };
        let mut reasons: Vec<String> = self.dead.iter().cloned().collect();
        if !matches!(self.source.state, SourceState::Streaming | SourceState::Paused) {
            let stopped = matches!(self.source.state, SourceState::Halted | SourceState::Retrying);
            let what = "the source".to_owned();
            reasons.push(reason(what, self.source.state.as_str(), &self.source.last_error, stopped));
        }
        let goes = |target: &&TargetStatus| !matches!(target.state, TargetState::Applying | TargetState::Paused);
        for target in self.targets.iter().filter(goes) {
            let stopped = matches!(target.state, TargetState::Halted | TargetState::Retrying);
            let what = format!("target {}", target.name);
            reasons.push(reason(what, target.state.as_str(), &target.last_error, stopped));
        }
        for target in self.targets.iter().filter(|target| target.state != TargetState::Paused) {
            reasons.extend(self.tables_not_ready(&target.name));
        }
        reasons
    }

    /// Whether another daemon holds the stream, and this one is there to take over.
    pub fn stands_by(&self) -> bool {
        self.dead.is_none() && self.source.state == SourceState::Standby
    }

    /// The whole in one line.
    pub fn line(&self) -> String {
        let targets = self.targets.len();
        let reasons = match self.stands_by() {
            true => vec!["standing by: another daemon is the active one".to_owned()],
            false => self.problems(),
        };
        let line = match reasons.as_slice() {
            [] => format!("streaming, {targets} of {targets} targets in step"),
            [only] => only.clone(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        };
        line.replace(['\n', '\r'], " ")
    }

    /// Whether part of it stays as it is until somebody acts.
    pub fn is_halted(&self) -> bool {
        self.source.state == SourceState::Halted
            || self.targets.iter().any(|target| target.state == TargetState::Halted)
            || self.tables.iter().any(|table| matches!(table.state, TableState::Failed | TableState::Quarantined))
    }

    /// What its tables say against a target: how many are not in step yet, and by name those that wait for somebody.
    fn tables_not_ready(&self, target: &str) -> Vec<String> {
        let tables: Vec<&TableStatus> = self.tables.iter().filter(|table| table.target == target).collect();
        let because = |error: &Option<String>| error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        let stopped = |table: &&TableStatus| {
            let name = format!("{}.{}", table.schema, table.name);
            match table.state {
                TableState::Failed => {
                    Some(format!("target {target}: the copy of {name} has failed{}", because(&table.error)))
                }
                TableState::Quarantined => Some(format!(
                    "target {target}: the changes of {name} are left out{}. Mend it, then \
                     \"walferry table resync {name}\"",
                    because(&table.error)
                )),
                _ => None,
            }
        };
        let mut reasons: Vec<String> = tables.iter().filter_map(stopped).collect();
        let count = |wanted: &[TableState]| tables.iter().filter(|table| wanted.contains(&table.state)).count();
        let (waiting, copied) = (count(&[TableState::Pending, TableState::Copying]), count(&[TableState::Copied]));
        if waiting > 0 {
            reasons.push(format!("target {target}: {waiting} of {} tables are not copied yet", tables.len()));
        }
        if copied > 0 {
            reasons.push(format!("target {target}: {copied} of {} tables catch up with the stream", tables.len()));
        }
        reasons
    }
}

/// What dead letters are to an operator; `None` when there are none.
pub fn dead_letters(target: &str, count: u64) -> Option<String> {
    let rows = if count == 1 { "1 row is".to_owned() } else { format!("{count} rows are") };
    (count > 0).then(|| format!("{rows} in walferry.dead_letter of target {target}: \"walferry dead-letter list\""))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::telemetry::health::Health;

    fn running() -> Health {
        let health = Health::new("walferry", ["staging", "analytics"]);
        health.update(|status| {
            status.source.state = SourceState::Streaming;
            status.targets.iter_mut().for_each(|target| target.state = TargetState::Applying);
        });
        health
    }

    #[test]
    fn ready_is_when_the_source_streams_and_every_target_applies() {
        let fresh = Health::new("walferry", ["staging"]).snapshot().not_ready();
        assert_eq!(fresh, ["the source is connecting", "target staging is connecting"]);
        assert_eq!(running().snapshot().not_ready(), [""; 0]);
    }

    #[test]
    fn a_halted_target_says_why_and_what_to_do() {
        let health = running();
        health.target("analytics", |target| {
            target.state = TargetState::Halted;
            let at = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            target.last_error = Some(LastError::new("no table public.orders", Some("Create it".to_owned()), at));
        });
        let snapshot = health.snapshot();
        assert_eq!(snapshot.not_ready(), ["target analytics is halted: no table public.orders. Create it"]);
        assert_eq!(snapshot.targets[1].last_error.as_ref().unwrap().at, "2001-09-09T01:46:40Z");
    }

    #[test]
    fn a_paused_target_is_told_of_and_keeps_nobody_from_being_ready() {
        let health = running();
        health.target("analytics", |target| target.state = TargetState::Paused);
        health.update(|status| status.table("analytics", "public", "orders").state = TableState::Copying);
        let snapshot = health.snapshot();
        assert!(snapshot.not_ready().is_empty() && !snapshot.all_paused());
        let line = "target analytics is paused; the source keeps its WAL until \"walferry target resume analytics\"";
        assert_eq!((snapshot.problems(), snapshot.line()), (vec![line.to_owned()], line.to_owned()));
        health.target("staging", |target| {
            target.state = TargetState::Paused;
            target.paused_at = Some("2026-01-31T12:00:00Z".to_owned());
        });
        health.update(|status| status.source.state = SourceState::Paused);
        let snapshot = health.snapshot();
        assert!(snapshot.not_ready().is_empty() && snapshot.all_paused());
        assert!(snapshot.problems()[0].starts_with("target staging is paused since 2026-01-31T12:00:00Z; the source"));
    }

    #[test]
    fn dead_letters_are_told_of_and_keep_nobody_from_being_ready() {
        let health = running();
        health.target("analytics", |target| target.dead_letters = 2);
        let snapshot = health.snapshot();
        assert!(snapshot.not_ready().is_empty() && !snapshot.is_halted());
        let line = "2 rows are in walferry.dead_letter of target analytics: \"walferry dead-letter list\"";
        assert_eq!((snapshot.problems(), snapshot.line()), (vec![line.to_owned()], line.to_owned()));
        health.target("analytics", |target| target.dead_letters = 1);
        assert!(health.snapshot().problems()[0].starts_with("1 row is in"));
    }

    #[test]
    fn what_waits_for_somebody_is_told_from_what_passes() {
        let halted = |change: fn(&mut StatusSnapshot)| {
            let health = running();
            health.update(change);
            health.snapshot().is_halted()
        };
        assert!(!halted(|status| status.source.state = SourceState::Retrying));
        assert!(halted(|status| status.source.state = SourceState::Halted));
        assert!(halted(|status| status.target("staging").state = TargetState::Halted));
        assert!(halted(|status| status.table("staging", "public", "orders").state = TableState::Failed));
    }

    #[test]
    fn a_table_that_is_not_copied_keeps_the_daemon_from_being_ready() {
        let health = running();
        health.update(|status| status.table("staging", "public", "orders").rows = 5);
        health.update(|status| status.table("staging", "public", "orders").state = TableState::Copying);
        assert_eq!(health.snapshot().not_ready(), ["target staging: 1 of 1 tables are not copied yet"]);
        health.update(|status| status.table("staging", "public", "orders").state = TableState::Failed);
        assert_eq!(health.snapshot().not_ready(), ["target staging: the copy of public.orders has failed"]);
        health.update(|status| status.table("staging", "public", "orders").state = TableState::Ready);
        assert_eq!(health.snapshot().tables.len(), 1);
        assert!(health.snapshot().not_ready().is_empty());
    }

    #[test]
    fn the_snapshot_survives_json() {
        let health = running();
        health.target("staging", |target| target.lag_seconds = Some(0.25));
        health.target("staging", |target| *target.rows.entry("insert".to_owned()).or_default() += 3);
        let snapshot = health.snapshot();
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<StatusSnapshot>(&json).unwrap(), snapshot);
    }
}
