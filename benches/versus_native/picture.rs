//! The results as a picture (SVG): a bar for each ratio to native, and a line where both are equal. Readable on light
//! and dark ground alike. Pure.

use crate::figures::speed;
use crate::lag::{Lag, Lags};
use crate::report::shown;
use crate::results::Results;

const WIDTH: f64 = 860.0;
/// Where the numbers end, where the bars begin, and what is free behind them.
const NUMBERS: f64 = 376.0;
const LEFT: f64 = 388.0;
const RIGHT: f64 = 30.0;
const ROW: f64 = 26.0;
const BAR: f64 = 14.0;
const TOP: f64 = 64.0;

/// The axis ends between these; longer bars are cut off, their number is not.
const SHORTEST_AXIS: f64 = 1.5;
const LONGEST_AXIS: f64 = 6.0;

const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.number { text-anchor: end }
.title { font-size: 16px; font-weight: 600 } .group { font-weight: 600 } .soft { fill: #59636e }
.faster { fill: #1a7f5a } .slower { fill: #c2691d } .equal { stroke: #59636e; stroke-dasharray: 4 3 }
.limit { stroke: #1f2328; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .soft { fill: #9198a1 } .faster { fill: #3fb68b } .slower { fill: #e0954e }
  .equal { stroke: #9198a1 } .limit { stroke: #e6edf3 }
}";

/// Bars that belong together.
struct Group {
    title: &'static str,
    bars: Vec<Bar>,
}

struct Bar {
    label: String,
    ratio: f64,
    /// What the source alone could do.
    limit: Option<f64>,
}

/// The whole file.
pub fn svg(results: &Results) -> String {
    let groups = groups(results);
    let rows: usize = groups.iter().map(|group| 1 + group.bars.len()).sum();
    let height = TOP + rows as f64 * ROW + 44.0;
    let bars = groups.iter().flat_map(|group| &group.bars);
    let longest = bars.map(|bar| bar.ratio.max(bar.limit.unwrap_or_default())).fold(0.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest.clamp(SHORTEST_AXIS, LONGEST_AXIS);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"walferry beside native logical replication\">\n<style>{STYLE}\n</style>\n"
    );
    text(&mut svg, 16.0, 28.0, "title", "walferry beside PostgreSQL's own logical replication");
    text(
        &mut svg,
        16.0,
        48.0,
        "soft",
        "times native's speed; the dashed line is native, a mark is how fast the source sends to who only reads",
    );
    let mut y = TOP;
    for group in &groups {
        text(&mut svg, 16.0, y + 18.0, "group", group.title);
        y += ROW;
        for bar in &group.bars {
            draw(&mut svg, bar, y, scale);
            y += ROW;
        }
    }
    let (x, bottom) = (LEFT + scale, y + 4.0);
    svg += &format!("<line class=\"equal\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n");
    text(&mut svg, 16.0, bottom + 24.0, "soft", &circumstances(results));
    svg + "</svg>\n"
}

fn draw(svg: &mut String, bar: &Bar, y: f64, scale: f64) {
    text(svg, 28.0, y + 17.0, "label", &bar.label);
    let (top, width) = (y + (ROW - BAR) / 2.0, bar.ratio.min(LONGEST_AXIS) * scale);
    let class = if bar.ratio < 1.0 { "slower" } else { "faster" };
    *svg += &format!(
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\n"
    );
    if let Some(limit) = bar.limit.filter(|limit| *limit <= LONGEST_AXIS) {
        let (x, top, bottom) = (LEFT + limit * scale, top - 2.0, top + BAR + 2.0);
        *svg += &format!("<line class=\"limit\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n");
    }
    text(svg, NUMBERS, y + 17.0, "number", &format!("{} ×", shown(Some(bar.ratio), 2)));
    if bar.ratio > LONGEST_AXIS {
        text(svg, LEFT + width + 4.0, y + 17.0, "soft", "…");
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    *svg += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>\n");
}

fn groups(results: &Results) -> Vec<Group> {
    let drains = results.drains.iter().filter_map(|drained| {
        let label = format!("{}  {}", drained.name, drained.title);
        Some(Bar { label, ratio: drained.speed()?, limit: drained.limit() })
    });
    let lags = results.lags.iter().flat_map(|lags| [lag(lags, "p50", |lag| lag.p50), lag(lags, "p99", |lag| lag.p99)]);
    let copies = results.copies.iter().filter_map(|copied| {
        let ratio = speed(&copied.rounds, |round| (round.both.native.seconds, round.both.walferry.seconds))?;
        Some(Bar { label: copied.title.to_owned(), ratio, limit: None })
    });
    let groups = [
        Group { title: "Working off a backlog", bars: drains.collect() },
        Group { title: "Lag from commit to visible", bars: lags.flatten().collect() },
        Group { title: "Initial copy", bars: copies.collect() },
    ];
    groups.into_iter().filter(|group| !group.bars.is_empty()).collect()
}

fn lag(lags: &Lags, name: &str, figure: fn(&Lag) -> f64) -> Option<Bar> {
    let ratio = speed(&lags.rounds, |round| (figure(&round.native), figure(&round.walferry)))?;
    Some(Bar { label: format!("{name} at {} transactions/s", lags.rate), ratio, limit: None })
}

fn circumstances(results: &Results) -> String {
    // Of `PostgreSQL 15.18 (Debian …) on x86_64-…`.
    let postgres = results.postgres.split([' ', ',']).take(2).collect::<Vec<_>>().join(" ");
    let rounds =
        if results.rounds == 1 { "one round".to_owned() } else { format!("medians of {} rounds", results.rounds) };
    let size = if results.quick { ", small sizes" } else { "" };
    format!("{}, {postgres}, {} CPUs, {rounds}{size}", results.walferry, results.cpus)
}
