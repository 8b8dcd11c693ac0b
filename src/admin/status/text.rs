//! The status as text for a person: pure.

use super::servers::{ServersReport, TargetReport};
use crate::admin::output::{grouped, size, table};
use crate::telemetry::state::TableState;
use crate::telemetry::status::{StatusSnapshot, TableStatus, TargetStatus};

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What a daemon says of itself.
pub fn daemon(status: &StatusSnapshot) -> String {
    let source = &status.source;
    let mut text = format!(
        "Stream {} (walferry {}): {}, slot {}\nreceived {}, confirmed {}, the source keeps {}, {} reconnects\n\n",
        status.stream,
        status.version,
        source.state,
        source.slot_state,
        or_dash(source.received_lsn.as_deref()),
        or_dash(source.confirmed_lsn.as_deref()),
        or_dash(source.retained_wal_bytes.map(size)),
        source.reconnects
    );
    let header =
        ["target", "state", "applied up to", "lag", "seconds", "transactions", "commits", "retries", "conflicts"];
    let rows = status.targets.iter().map(target);
    text += &table(&header, &[3, 4, 5, 6, 7, 8], rows);
    text += "\n";
    text += &tables(status);
    for (what, error) in std::iter::once(("source", &source.last_error))
        .chain(status.targets.iter().map(|target| (target.name.as_str(), &target.last_error)))
        .filter_map(|(what, error)| Some((what, error.as_ref()?)))
    {
        text += &format!("last error of {what}, at {}: {}\n", error.at, error.message);
    }
    text
}

fn target(target: &TargetStatus) -> Vec<String> {
    vec![
        target.name.clone(),
        target.state.to_string(),
        or_dash(target.durable_lsn.as_deref()),
        or_dash(target.lag_bytes.map(size)),
        or_dash(target.lag_seconds.map(|seconds| format!("{seconds:.1}"))),
        grouped(target.transactions),
        grouped(target.commits),
        grouped(target.retries),
        grouped(target.conflicts.values().sum()),
    ]
}

/// How many tables are ready, and each of the others.
fn tables(status: &StatusSnapshot) -> String {
    let (ready, others): (Vec<&TableStatus>, Vec<&TableStatus>) =
        status.tables.iter().partition(|table| table.state == TableState::Ready);
    let mut text = format!("{} of {} tables are in step\n", ready.len(), status.tables.len());
    if !others.is_empty() {
        let row = |table: &&TableStatus| {
            let name = crate::relation::TableName::new(&table.schema, &table.name);
            let copied = [grouped(table.rows), size(table.bytes)];
            [vec![table.target.clone(), name.to_string(), table.state.to_string()], copied.into()].concat()
        };
        text += &self::table(&["target", "table", "state", "rows", "bytes"], &[3, 4], others.iter().map(row));
    }
    text
}

/// What the servers say while no daemon can be asked.
pub fn servers(report: &ServersReport) -> String {
    let mut text = format!("Stream {}: {}; asked the servers instead\n", report.stream, report.daemon);
    let source = &report.source;
    match (&source.error, &source.slot) {
        (Some(_), _) => text += "source: cannot be asked\n",
        (None, None) => text += "source: there is no slot\n",
        (None, Some(slot)) => {
            text += &format!(
                "source: WAL up to {}, slot {}, confirmed {}, the source keeps {}, {}\n",
                or_dash(source.wal_lsn.as_deref()),
                or_dash(slot.wal_status.as_deref()),
                or_dash(slot.confirmed_lsn.as_deref()),
                or_dash(slot.retained_bytes.map(size)),
                slot.active_pid
                    .map_or_else(|| "nobody streams".to_owned(), |pid| format!("streaming to process {pid}"))
            );
        }
    }
    let row = |target: &TargetReport| {
        let done = target.tables.iter().filter(|table| table.state == "done").count();
        vec![
            target.name.clone(),
            or_dash(target.end_lsn.as_deref()),
            or_dash(target.lag_bytes.map(size)),
            or_dash(target.commit_time.as_deref()),
            format!("{done} of {}", target.tables.len()),
            grouped(target.tables.iter().map(|table| table.rows).sum()),
        ]
    };
    let header = ["target", "applied up to", "lag", "last commit", "tables copied", "rows copied"];
    text + "\n" + &table(&header, &[2, 5], report.targets.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::servers::SourceReport;

    #[test]
    fn a_daemons_status_names_what_is_not_ready() {
        let mut status = StatusSnapshot { stream: "walferry".to_owned(), ..StatusSnapshot::default() };
        status.target("staging").conflicts.insert("update_missing".to_owned(), 2);
        status.table("staging", "public", "Big").state = TableState::Copying;
        status.table("staging", "public", "small").state = TableState::Ready;
        let text = daemon(&status);
        assert!(text.contains("1 of 2 tables are in step"), "{text}");
        assert!(text.contains("public.\"Big\"  copying") && !text.contains("public.small"), "{text}");
    }

    #[test]
    fn what_cannot_be_asked_is_shown_as_such() {
        let source = SourceReport { error: Some("refused".to_owned()), ..SourceReport::default() };
        let targets = vec![TargetReport { name: "one".to_owned(), ..TargetReport::default() }];
        let report = ServersReport { source, targets, daemon: "no daemon".to_owned(), ..ServersReport::default() };
        let text = servers(&report);
        assert!(text.contains("source: cannot be asked") && text.contains(" one"), "{text}");
    }
}
