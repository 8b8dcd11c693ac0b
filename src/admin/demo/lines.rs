//! The demonstration's lines, one each second: pure.

use std::time::Duration;

use crate::admin::output::{grouped, size};
use crate::telemetry::state::TargetState;
use crate::telemetry::status::{StatusSnapshot, TargetStatus};

/// Columns of one target.
const WIDTH: usize = 34;

/// What the columns are.
pub fn header(targets: &[&str]) -> String {
    let mut text = format!("{:>6}   {:<28}", "time", "written on the source");
    for target in targets {
        text += &format!("   {:<WIDTH$}", format!("{target}: applied, behind by"));
    }
    text.trim_end().to_owned()
}

/// A second: what was written, and how each target is; `None` while the daemon does not answer.
pub fn second(
    elapsed: Duration,
    transactions: u64,
    rows: u64,
    targets: &[&str],
    status: Option<&StatusSnapshot>,
) -> String {
    let written = format!("{:>9} tx {:>10} rows", grouped(transactions), grouped(rows));
    let mut text = format!("{:>4.0} s   {written:<28}", elapsed.as_secs_f64());
    for name in targets {
        let found = status.and_then(|status| status.targets.iter().find(|target| target.name == *name));
        text += &format!("   {:<WIDTH$}", found.map_or_else(|| "-".to_owned(), target));
    }
    text.trim_end().to_owned()
}

fn target(target: &TargetStatus) -> String {
    if target.state != TargetState::Applying {
        return target.state.to_string();
    }
    let bytes = target.lag_bytes.map_or_else(|| "?".to_owned(), size);
    let seconds = target.lag_seconds.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.2}"));
    format!("{:>8} tx {bytes:>10} {seconds:>6} s", grouped(target.transactions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stands_under_its_header() {
        let mut status = StatusSnapshot::default();
        let one = status.target("one");
        (one.state, one.transactions, one.lag_bytes, one.lag_seconds) =
            (TargetState::Applying, 12_345, Some(2048), Some(0.5));
        status.target("other").state = TargetState::Copying;
        let names = ["one", "other", "third"];
        let line = second(Duration::from_secs(7), 12_400, 40_000, &names, Some(&status));
        assert!(line.starts_with("   7 s      12,400 tx     40,000 rows     12,345 tx    2.0 KiB   0.50 s"), "{line}");
        let header = header(&names);
        assert_eq!(header.find("other:"), line.find("copying"));
        assert_eq!(header.find("third:"), line.find("-"));
    }
}
