//! What Prometheus makes of queries, by `promtool`: over series that a daemon's own `/metrics` are the ends of.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// How many times the daemon is scraped, every 15 seconds; queries are answered at the last.
const SCRAPES: usize = 40;

/// Whether Prometheus is installed; if not, says so aloud, and CI must have it.
pub fn installed() -> bool {
    let found = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "Prometheus is missing, and CI needs it");
    if !found {
        eprintln!("SKIPPED: there is no Prometheus here (promtool)");
    }
    found
}

/// The series of a daemon whose `/metrics` were `first` and, ten minutes later, `last`: straight lines between them.
pub fn series(instance: &str, first: &str, last: &str) -> Vec<Value> {
    let samples = |text| -> Vec<(String, f64)> { str::lines(text).filter_map(sample).collect() };
    let last: BTreeMap<String, f64> = samples(last).into_iter().collect();
    let lines = samples(first).into_iter().map(|(name, start)| {
        let end = last[&name];
        let values = if start.is_nan() || end.is_nan() {
            vec!["NaN"; SCRAPES + 1].join(" ")
        } else {
            format!("{start}+{}x{SCRAPES}", (end - start) / SCRAPES as f64)
        };
        json!({ "series": name.replacen('{', &format!("{{instance=\"{instance}\","), 1), "values": values })
    });
    lines.collect()
}

fn sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    Some((name.to_owned(), value.parse().unwrap()))
}

/// What each query comes to, as text; those that come to nothing are not in it.
///
/// Each is a test that expects nothing, so what it comes to is why it fails.
pub fn answers<'a>(series: &[Value], queries: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let queries = queries.into_iter().map(|query| json!({ "expr": concrete(query), "eval_time": "10m" }));
    let queries: Vec<Value> = queries.collect();
    let test = json!({ "interval": "15s", "input_series": series, "promql_expr_test": queries });
    let file = json!({ "evaluation_interval": "15s", "tests": [test] });
    std::fs::write(dir.path().join("test.yaml"), file.to_string()).unwrap();
    let output =
        Command::new("promtool").args(["test", "rules", "test.yaml"]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!said.contains("parse error"), "{said}");

    let mut answers = BTreeMap::new();
    let mut lines = said.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(query) = line.strip_prefix("expr: ") else { continue };
        let (query, _) = query.rsplit_once(", time: ").unwrap();
        let answer = lines.find_map(|line| line.strip_prefix("got: ")).unwrap();
        answers.insert(serde_json::from_str(query).unwrap(), answer.trim().to_owned());
    }
    answers
}

/// A query as Grafana sends it, where every stream and every target is chosen.
pub fn concrete(query: &str) -> String {
    query.replace("$__rate_interval", "1m").replace("$stream", ".*").replace("$target", ".*")
}
