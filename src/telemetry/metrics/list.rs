//! The list of all metrics there are.

use metrics::Unit;

/// What a metric is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, until the daemon starts again.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by size; see [`BUCKETS`].
    Histogram,
}

/// One line of the list.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, with its unit as Prometheus wants it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its unit, where it is not just a number.
    pub unit: Option<Unit>,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $unit:expr, [$($label:literal),*], $meaning:literal;)*) => {
        $(pub(super) const $constant: Metric = Metric {
            name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], meaning: $meaning,
        };)*
        /// All metrics there are.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "walferry_build_info" None, ["version"], "Always 1; the version is in the label";
    SOURCE_STATE: Gauge "walferry_source_state" None, ["state"],
        "1 for the state that the stream from the source is in: connecting, standby, copying, streaming, \
         paused (every target is), retrying, draining, halted";
    SOURCE_CONNECTED: Gauge "walferry_source_connected" None, [], "1 while the replication connection is open";
    SOURCE_RECONNECTS: Counter "walferry_source_reconnects_total" None, [],
        "Replication connections opened after the first";
    SOURCE_RECEIVED: Gauge "walferry_source_received_lsn" Some(Unit::Bytes), [],
        "WAL position up to which changes were received";
    SOURCE_CONFIRMED: Gauge "walferry_source_confirmed_lsn" Some(Unit::Bytes), [],
        "WAL position that the source was told it may forget: the lowest that all targets fed through the stream's \
         slot have on their disks";
    SOURCE_RETAINED: Gauge "walferry_source_retained_wal_bytes" Some(Unit::Bytes), [],
        "WAL that the source keeps on its disk for the stream: for its slot, or that of a single target";
    SOURCE_SAFE: Gauge "walferry_source_safe_wal_bytes" Some(Unit::Bytes), [],
        "WAL that the source can still write before it may drop what one of these slots needs \
         (max_slot_wal_keep_size); NaN where it sets no limit, and while not known";
    SLOT_STATE: Gauge "walferry_source_slot_state" None, ["state"],
        "1 for what the source says of the slot: unknown, missing, reserved, extended, unreserved (about to be lost), \
         lost";
    TARGET_STATE: Gauge "walferry_target_state" None, ["target", "state"],
        "1 for the state that the target is in: connecting, copying, applying, paused, retrying, draining, \
         halted (somebody has to act)";
    LAG_BYTES: Gauge "walferry_target_lag_bytes" Some(Unit::Bytes), ["target"],
        "WAL between what the target has stored and the end of the source's; NaN while not known";
    LAG_SECONDS: Gauge "walferry_target_lag_seconds" Some(Unit::Seconds), ["target"],
        "Age of the oldest committed transaction that the target does not have, 0 when it has all; NaN while not known";
    OWN_SLOT: Gauge "walferry_target_own_slot" None, ["target"],
        "1 while the target is fed through a slot of its own, so that the others are not held up";
    OWN_SLOT_RETAINED: Gauge "walferry_target_own_slot_retained_wal_bytes" Some(Unit::Bytes), ["target"],
        "WAL that the source keeps on its disk for the target's own slot; NaN without one, and while not known";
    TRANSACTIONS: Counter "walferry_target_transactions_total" None, ["target"], "Source transactions applied";
    ROWS: Counter "walferry_target_rows_total" None, ["target", "op"],
        "Changes applied, by operation: insert, update, delete, truncate";
    COMMITS: Counter "walferry_target_commits_total" None, ["target"],
        "Target transactions committed; one may hold many source transactions";
    COMMIT_SECONDS: Histogram "walferry_target_commit_seconds" Some(Unit::Seconds), ["target"],
        "Time from a target transaction's first statement to the answer to its COMMIT";
    CONFLICTS: Counter "walferry_target_conflicts_total" None, ["target", "kind"],
        "Rows that were not as the change expects them: insert_exists, insert_ignored, update_exists, update_missing, \
         delete_missing";
    DEAD_LETTERS: Counter "walferry_target_dead_letters_total" None, ["target"],
        "Changes of a row that the target did not take and that were set aside in its walferry.dead_letter";
    DEAD_LETTERS_WAITING: Gauge "walferry_target_dead_letters_waiting" None, ["target"],
        "Changes that lie in the target's walferry.dead_letter, as last looked";
    BULK_CHANGES: Counter "walferry_target_bulk_changes_total" None, ["target"],
        "Changes that were applied many at once";
    BULK_FALLBACKS: Counter "walferry_target_bulk_fallbacks_total" None, ["target"],
        "Times that changes which were to be applied many at once were applied one by one instead";
    RETRIES: Counter "walferry_target_retries_total" None, ["target"], "Attempts made after an error";
    QUEUE_BYTES: Gauge "walferry_target_queue_bytes" Some(Unit::Bytes), ["target"],
        "Memory of the changes that wait for the target";
    CERTIFICATE: Gauge "walferry_certificate_expiry_timestamp_seconds" Some(Unit::Seconds),
        ["side", "target", "certificate"],
        "Unix time at which a certificate in use stops being valid: side is source or target, certificate is server or \
         client; NaN without TLS, and while not known";
    COPY_STATE: Gauge "walferry_table_copy_state" None, ["target", "table", "state"],
        "1 for how far the table is: pending, copying, copied, ready, failed, paused, quarantined";
    COPY_ROWS: Gauge "walferry_table_copy_rows" None, ["target", "table"], "Rows that the initial copy has written";
}

/// Upper bounds of the histograms' classes, in seconds.
pub const BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

/// The list as a table in Markdown, for the README.
pub fn markdown() -> String {
    let mut text = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, meaning, .. } in METRICS {
        let kind = format!("{kind:?}").to_lowercase();
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {meaning} |\n"));
    }
    text
}
