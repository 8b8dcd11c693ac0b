//! The metrics: one list of all there are, and handles for the stages to count with.
//!
//! The HELP text of `/metrics` and the table in the README come from the list. A stage asks once for the handles of its
//! target or table and keeps them: counting is then one atomic operation. Nothing is global, so that several daemons
//! can live in one process.

mod list;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

pub use list::{BUCKETS, Kind, METRICS, Metric, markdown};

use super::state::{SlotState, SourceState, TableState, TargetState};
use list::*;

/// How often [`Metrics::upkeep`] is to be called: it empties what histograms gathered since.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// All the metrics of one daemon; clones share them.
#[derive(Clone)]
pub struct Metrics {
    stream: Arc<str>,
    /// Replaced as a whole when targets go: single metrics cannot be taken out of it.
    recorder: Arc<Mutex<Arc<PrometheusRecorder>>>,
}

impl Metrics {
    /// Of this stream, with nothing counted yet.
    pub fn new(stream: &str) -> Self {
        let metrics = Self { stream: stream.into(), recorder: Arc::new(Mutex::new(Arc::new(recorder(stream)))) };
        metrics.tell_version();
        metrics
    }

    /// Nothing is counted any more by what handles there are, and what there was is not shown: a scraper takes it for a
    /// new start.
    pub fn begin_anew(&self) {
        *self.recorder.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(recorder(&self.stream));
        self.tell_version();
    }

    fn tell_version(&self) {
        self.gauge(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1.0);
    }

    fn recorder(&self) -> Arc<PrometheusRecorder> {
        Arc::clone(&self.recorder.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All of them in Prometheus' text format.
    pub fn render(&self) -> String {
        self.recorder().handle().render()
    }

    /// Empties what histograms gathered; to be called every [`UPKEEP_INTERVAL`], or memory grows.
    pub fn upkeep(&self) {
        self.recorder().handle().run_upkeep();
    }

    /// The source's handles.
    pub fn source(&self) -> SourceMetrics {
        let state = OneHot::new(self, &SOURCE_STATE, &[], SourceState::ALL.iter().map(|state| state.as_str()));
        let slot_state = OneHot::new(self, &SLOT_STATE, &[], SlotState::ALL.iter().map(|state| state.as_str()));
        state.set(SourceState::default().as_str());
        slot_state.set(SlotState::default().as_str());
        SourceMetrics {
            received_lsn: self.gauge(&SOURCE_RECEIVED, &[]),
            confirmed_lsn: self.gauge(&SOURCE_CONFIRMED, &[]),
            retained_wal_bytes: unknown(self.gauge(&SOURCE_RETAINED, &[])),
            safe_wal_bytes: unknown(self.gauge(&SOURCE_SAFE, &[])),
            connected: self.gauge(&SOURCE_CONNECTED, &[]),
            reconnects: self.counter(&SOURCE_RECONNECTS, &[]),
            state,
            slot_state,
        }
    }

    /// The handles of the target of this name.
    pub fn target(&self, name: &str) -> TargetMetrics {
        let state = OneHot::new(self, &TARGET_STATE, &[name], TargetState::ALL.iter().map(|state| state.as_str()));
        state.set(TargetState::default().as_str());
        TargetMetrics {
            lag_bytes: unknown(self.gauge(&LAG_BYTES, &[name])),
            lag_seconds: unknown(self.gauge(&LAG_SECONDS, &[name])),
            own_slot: self.gauge(&OWN_SLOT, &[name]),
            own_slot_retained: unknown(self.gauge(&OWN_SLOT_RETAINED, &[name])),
            transactions: self.counter(&TRANSACTIONS, &[name]),
            rows: RowCounters {
                insert: self.counter(&ROWS, &[name, "insert"]),
                update: self.counter(&ROWS, &[name, "update"]),
                delete: self.counter(&ROWS, &[name, "delete"]),
                truncate: self.counter(&ROWS, &[name, "truncate"]),
            },
            commits: self.counter(&COMMITS, &[name]),
            commit_seconds: self.recorder().register_histogram(&key(&COMMIT_SECONDS, &[name]), &METADATA),
            conflicts: ConflictCounters {
                insert_exists: self.counter(&CONFLICTS, &[name, "insert_exists"]),
                update_exists: self.counter(&CONFLICTS, &[name, "update_exists"]),
                update_missing: self.counter(&CONFLICTS, &[name, "update_missing"]),
                delete_missing: self.counter(&CONFLICTS, &[name, "delete_missing"]),
                insert_ignored: self.counter(&CONFLICTS, &[name, "insert_ignored"]),
            },
            dead_letters: self.counter(&DEAD_LETTERS, &[name]),
            dead_letters_waiting: self.gauge(&DEAD_LETTERS_WAITING, &[name]),
            bulk_changes: self.counter(&BULK_CHANGES, &[name]),
            bulk_fallbacks: self.counter(&BULK_FALLBACKS, &[name]),
            retries: self.counter(&RETRIES, &[name]),
            queue_bytes: self.gauge(&QUEUE_BYTES, &[name]),
            state,
        }
    }

    /// The handles of the certificates on the way to a target, or without one to the source.
    pub fn certificates(&self, target: Option<&str>) -> CertificateMetrics {
        let side = if target.is_some() { "target" } else { "source" };
        let gauge = |which| unknown(self.gauge(&CERTIFICATE, &[side, target.unwrap_or_default(), which]));
        CertificateMetrics { server: gauge("server"), client: gauge("client") }
    }

    /// The handles of a table, as `schema.name`, on a target.
    pub fn table(&self, target: &str, table: &str) -> TableMetrics {
        let states = TableState::ALL.iter().map(|state| state.as_str());
        let copy_state = OneHot::new(self, &COPY_STATE, &[target, table], states);
        copy_state.set(TableState::default().as_str());
        TableMetrics { copy_state, copy_rows: self.gauge(&COPY_ROWS, &[target, table]) }
    }

    fn counter(&self, metric: &Metric, labels: &[&str]) -> Counter {
        self.recorder().register_counter(&key(metric, labels), &METADATA)
    }

    fn gauge(&self, metric: &Metric, labels: &[&str]) -> Gauge {
        self.recorder().register_gauge(&key(metric, labels), &METADATA)
    }
}

/// A recorder with nothing in it but what the metrics mean.
fn recorder(stream: &str) -> PrometheusRecorder {
    let builder = PrometheusBuilder::new().add_global_label("stream", stream);
    let builder = builder.set_buckets(&BUCKETS).expect("there are buckets");
    let recorder = builder.build_recorder();
    for Metric { name, kind, unit, meaning, .. } in METRICS {
        match kind {
            Kind::Counter => recorder.describe_counter((*name).into(), *unit, (*meaning).into()),
            Kind::Gauge => recorder.describe_gauge((*name).into(), *unit, (*meaning).into()),
            Kind::Histogram => recorder.describe_histogram((*name).into(), *unit, (*meaning).into()),
        }
    }
    recorder
}

/// A gauge that is not known yet.
fn unknown(gauge: Gauge) -> Gauge {
    gauge.set(f64::NAN);
    gauge
}

static METADATA: Metadata<'static> = Metadata::new("walferry", Level::INFO, None);

fn key(metric: &Metric, values: &[&str]) -> Key {
    assert_eq!(metric.labels.len(), values.len(), "{} has other labels", metric.name);
    let labels = metric.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned()));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}

/// A state as gauges: 1 for the one that holds, 0 for the others.
#[derive(Clone)]
struct OneHot(Vec<(&'static str, Gauge)>);

impl OneHot {
    fn new(metrics: &Metrics, metric: &Metric, labels: &[&str], words: impl Iterator<Item = &'static str>) -> Self {
        Self(words.map(|word| (word, metrics.gauge(metric, &[labels, &[word]].concat()))).collect())
    }

    fn set(&self, state: &'static str) {
        for (word, gauge) in &self.0 {
            gauge.set(if *word == state { 1.0 } else { 0.0 });
        }
    }
}

/// What is counted at the source.
#[derive(Clone)]
pub struct SourceMetrics {
    /// Up to where changes were received, as bytes from the beginning of the WAL.
    pub received_lsn: Gauge,
    /// What the source was told it may forget, in the same unit.
    pub confirmed_lsn: Gauge,
    /// Bytes of WAL that the source keeps for the slot.
    pub retained_wal_bytes: Gauge,
    /// Bytes of WAL that it can still write before it may drop what the slot needs.
    pub safe_wal_bytes: Gauge,
    /// 1 while the replication connection is open, else 0.
    pub connected: Gauge,
    /// Replication connections after the first.
    pub reconnects: Counter,
    state: OneHot,
    slot_state: OneHot,
}

impl SourceMetrics {
    /// What the stream does.
    pub fn set_state(&self, state: SourceState) {
        self.state.set(state.as_str());
    }

    /// What the source says of the slot.
    pub fn set_slot_state(&self, state: SlotState) {
        self.slot_state.set(state.as_str());
    }
}

/// What is counted at a target.
#[derive(Clone)]
pub struct TargetMetrics {
    /// Bytes of WAL that the target does not have yet.
    pub lag_bytes: Gauge,
    /// Seconds since the oldest transaction committed that the target does not have.
    pub lag_seconds: Gauge,
    /// 1 while it is fed through a slot of its own.
    pub own_slot: Gauge,
    /// Bytes of WAL that the source keeps for that slot.
    pub own_slot_retained: Gauge,
    /// Source transactions.
    pub transactions: Counter,
    /// Changes by operation.
    pub rows: RowCounters,
    /// Target transactions.
    pub commits: Counter,
    /// Seconds that each took.
    pub commit_seconds: Histogram,
    /// Rows that were not as expected.
    pub conflicts: ConflictCounters,
    /// Changes set aside.
    pub dead_letters: Counter,
    /// Those that lie on the target.
    pub dead_letters_waiting: Gauge,
    /// Changes applied many at once.
    pub bulk_changes: Counter,
    /// Times that this did not go.
    pub bulk_fallbacks: Counter,
    /// Attempts after an error.
    pub retries: Counter,
    /// Bytes that wait.
    pub queue_bytes: Gauge,
    state: OneHot,
}

impl TargetMetrics {
    /// What the target's worker does.
    pub fn set_state(&self, state: TargetState) {
        self.state.set(state.as_str());
    }
}

/// Changes by operation.
#[derive(Clone)]
pub struct RowCounters {
    /// INSERT
    pub insert: Counter,
    /// UPDATE
    pub update: Counter,
    /// DELETE
    pub delete: Counter,
    /// TRUNCATE, once per table
    pub truncate: Counter,
}

/// Conflicts by kind.
#[derive(Clone)]
pub struct ConflictCounters {
    /// An INSERT found the row there.
    pub insert_exists: Counter,
    /// An UPDATE found another row with one of its unique values.
    pub update_exists: Counter,
    /// An UPDATE found no row.
    pub update_missing: Counter,
    /// A DELETE found no row.
    pub delete_missing: Counter,
    /// An INSERT was left out by a trigger or rule of the target.
    pub insert_ignored: Counter,
}

/// When the certificates of a connection end, in Unix time.
#[derive(Clone)]
pub struct CertificateMetrics {
    /// The server's.
    pub server: Gauge,
    /// walferry's own.
    pub client: Gauge,
}

/// What is counted at a table of a target.
#[derive(Clone)]
pub struct TableMetrics {
    /// Rows written by the current copy.
    pub copy_rows: Gauge,
    copy_state: OneHot,
}

impl TableMetrics {
    /// How far the table is.
    pub fn set_state(&self, state: TableState) {
        self.copy_state.set(state.as_str());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> (Metrics, SourceMetrics, TargetMetrics, TableMetrics) {
        let metrics = Metrics::new("shop");
        let (source, target) = (metrics.source(), metrics.target("staging"));
        metrics.certificates(None);
        let table = metrics.table("staging", "public.orders");
        (metrics, source, target, table)
    }

    #[test]
    fn every_metric_of_the_list_is_rendered_with_its_help_and_no_other_is() {
        let (metrics, _source, target, _table) = all();
        target.commit_seconds.record(0.003);
        let text = metrics.render();
        let rendered: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
        assert_eq!(rendered, METRICS.iter().map(|metric| metric.name).collect::<BTreeSet<_>>(), "{text}");
        for Metric { name, kind, meaning, .. } in METRICS {
            let kind = format!("{kind:?}").to_lowercase();
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} {kind} in {text}");
            assert!(text.contains(&format!("# HELP {name} {meaning}\n")), "{name}");
            assert!(markdown().contains(&format!("| `{name}` | {kind} |")), "{name}");
        }
    }

    #[test]
    fn names_follow_prometheus() {
        for Metric { name, kind, .. } in METRICS {
            assert!(name.starts_with("walferry_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let (metrics, source, target, table) = all();
        target.rows.insert.increment(3);
        target.conflicts.update_missing.increment(1);
        target.lag_bytes.set(17.0);
        source.received_lsn.set(4_503_599_627_370_497.0);
        table.copy_rows.set(5.0);
        let text = metrics.render();
        for line in [
            "walferry_target_rows_total{stream=\"shop\",target=\"staging\",op=\"insert\"} 3",
            "walferry_target_rows_total{stream=\"shop\",target=\"staging\",op=\"delete\"} 0",
            "walferry_target_conflicts_total{stream=\"shop\",target=\"staging\",kind=\"update_missing\"} 1",
            "walferry_target_lag_bytes{stream=\"shop\",target=\"staging\"} 17",
            "walferry_target_lag_seconds{stream=\"shop\",target=\"staging\"} NaN",
            "walferry_source_received_lsn{stream=\"shop\"} 4503599627370497",
            "walferry_table_copy_rows{stream=\"shop\",target=\"staging\",table=\"public.orders\"} 5",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in {text}");
        }
    }

    #[test]
    fn exactly_one_state_holds() {
        let (metrics, _source, target, _table) = all();
        for state in [TargetState::Applying, TargetState::Halted] {
            target.set_state(state);
            let text = metrics.render();
            let holding: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("walferry_target_state{") && line.ends_with(" 1"))
                .collect();
            assert_eq!(
                holding,
                [format!("walferry_target_state{{stream=\"shop\",target=\"staging\",state=\"{state}\"}} 1")]
            );
        }
    }

    #[test]
    fn a_histogram_has_buckets() {
        let (metrics, _source, target, _table) = all();
        target.commit_seconds.record(0.003);
        metrics.upkeep();
        let text = metrics.render();
        assert!(
            text.contains("walferry_target_commit_seconds_bucket{stream=\"shop\",target=\"staging\",le=\"0.005\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn two_daemons_in_one_process_do_not_share_numbers() {
        let (one, two) = (all(), all());
        one.2.commits.increment(1);
        assert!(two.0.render().contains("walferry_target_commits_total{stream=\"shop\",target=\"staging\"} 0"));
    }
}
