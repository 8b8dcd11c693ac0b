//! The results as text: medians of the rounds, and ratios as medians of the rounds' ratios.

use walferry::admin::output::{grouped, size, table};

use crate::both::Way;
use crate::copy::{Copied, Round};
use crate::drain::Drained;
use crate::figures::{daemon_memory, over, speed};
use crate::lag::{Lag, Lags};
use crate::results::Results;

/// A table for each kind of measurement that was made.
pub fn text(results: &Results) -> String {
    let mut tables = Vec::new();
    if !results.drains.is_empty() {
        tables.push(drains(&results.drains));
    }
    if !results.lags.is_empty() {
        tables.push(lags(&results.lags));
    }
    if !results.copies.is_empty() {
        tables.push(copies(&results.copies));
    }
    tables.join("\n")
}

/// `1.84`; `-` where it is not known.
pub fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn drains(all: &[Drained]) -> String {
    let header = [
        "drain",
        "",
        "rows",
        "tx",
        "native s",
        "walferry s",
        "native rows/s",
        "walferry rows/s",
        "× native",
        "source alone s",
        "walsender cpu s",
        "target cpu s",
        "daemon cpu per row",
        "its memory",
    ];
    table(&header, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], all.iter().map(drain))
}

fn drain(drained: &Drained) -> Vec<String> {
    let seconds = |way| over(&drained.rounds, |round| Some(round.both.of(way).seconds));
    let per_second = |seconds| (drained.changes as f64 / seconds) as u64;
    let rate = |way| seconds(way).map_or_else(|| "-".to_owned(), |seconds| grouped(per_second(seconds)));
    let [native, walferry] = Way::BOTH;
    vec![
        drained.name.to_owned(),
        drained.title.to_owned(),
        grouped(drained.changes),
        grouped(drained.transactions),
        shown(seconds(native), 2),
        shown(seconds(walferry), 2),
        rate(native),
        rate(walferry),
        shown(drained.speed(), 2),
        shown(over(&drained.rounds, |round| Some(round.alone.seconds)), 2),
        from_to(&|way| drained.cpu(way, |usage| usage.walsender_cpu)),
        from_to(&|way| drained.cpu(way, |usage| usage.target_cpu)),
        shown(drained.daemon_micros(), 2) + " µs",
        daemon_memory(&drained.rounds, |round| round.both.walferry.usage).map_or_else(|| "-".to_owned(), size),
    ]
}

/// `3.05 → 1.17`: native's, and walferry's.
fn from_to(figure: &dyn Fn(Way) -> Option<f64>) -> String {
    let [native, walferry] = Way::BOTH;
    format!("{} → {}", shown(figure(native), 2), shown(figure(walferry), 2))
}

fn lags(all: &[Lags]) -> String {
    let header = ["lag", "", "p50 ms", "p95 ms", "p99 ms", "committed/s", "cpu under load", "cpu when idle"];
    table(&header, &[0, 2, 3, 4, 5, 6, 7], all.iter().flat_map(|lags| Way::BOTH.map(|way| lag(lags, way))))
}

fn lag(lags: &Lags, way: Way) -> Vec<String> {
    let over = |figure: fn(&Lag) -> Option<f64>| over(&lags.rounds, |round| figure(round.of(way)));
    let percent = |cpu: Option<f64>| shown(cpu.map(|cpu| cpu * 100.0), 1) + " %";
    vec![
        format!("{}/s", grouped(lags.rate.into())),
        way.to_string(),
        shown(over(|lag| Some(lag.p50)), 2),
        shown(over(|lag| Some(lag.p95)), 2),
        shown(over(|lag| Some(lag.p99)), 2),
        shown(over(|lag| Some(lag.rate)), 0),
        percent(over(|lag| lag.cpu)),
        percent(over(|lag| lag.idle_cpu)),
    ]
}

fn copies(all: &[Copied]) -> String {
    let header = ["copy", "", "size", "native s", "walferry s", "text pipe s", "binary pipe s", "× native", "memory"];
    let rows = all.iter().map(|copied| {
        let over = |figure: fn(&Round) -> f64| over(&copied.rounds, |round| Some(figure(round)));
        vec![
            copied.name.to_owned(),
            copied.title.to_owned(),
            size(copied.bytes),
            shown(over(|round| round.both.native.seconds), 2),
            shown(over(|round| round.both.walferry.seconds), 2),
            shown(over(|round| round.text_pipe), 2),
            shown(over(|round| round.binary_pipe), 2),
            shown(speed(&copied.rounds, |round| (round.both.native.seconds, round.both.walferry.seconds)), 2),
            daemon_memory(&copied.rounds, |round| round.both.walferry.usage).map_or_else(|| "-".to_owned(), size),
        ]
    });
    table(&header, &[2, 3, 4, 5, 6, 7, 8], rows)
}
