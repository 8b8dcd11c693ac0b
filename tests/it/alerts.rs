//! The alerts of `deploy/prometheus`: their own tests, what they are made of, and a real Prometheus that has a daemon's
//! target die.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use walferry::telemetry::metrics::METRICS;

use crate::support::cluster_builder::free_port;
use crate::support::guard::Guard;
use crate::support::prelude::*;

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(file)
}

/// What follows `prefix` on the lines that begin with it.
fn after<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(prefix)).map(str::trim).collect()
}

/// Whether Prometheus is installed; if not, says so aloud, and CI must have it.
fn installed() -> bool {
    let found = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "Prometheus is missing, and CI needs it");
    if !found {
        eprintln!("SKIPPED: there is no Prometheus here (promtool)");
    }
    found
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    if !installed() {
        return;
    }
    for (what, file) in [("check", "alerts.yaml"), ("test", "alerts_test.yaml")] {
        let output = Command::new("promtool").args([what, "rules"]).arg(deployed(file)).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    let (alerts, tests) = (deployed("alerts.yaml"), deployed("alerts_test.yaml"));
    let (alerts, tests) = (std::fs::read_to_string(alerts).unwrap(), std::fs::read_to_string(tests).unwrap());
    let fire = tests.split("alertname: ").filter(|case| case.contains("exp_alerts:"));
    let fire: BTreeSet<&str> = fire.filter_map(|case| case.lines().next()).collect();
    assert_eq!(fire, after(&alerts, "- alert: "), "every alert has a test in which it fires");
}

#[test]
fn alerts_use_metrics_that_there_are_and_each_has_its_runbook() {
    let alerts = std::fs::read_to_string(deployed("alerts.yaml")).unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let used: BTreeSet<&str> = alerts
        .match_indices("walferry_")
        .map(|(place, _)| &alerts[place..])
        .map(|rest| &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())])
        .collect();
    let known: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert!(used.len() > 5 && used.is_subset(&known), "unknown: {:?}", used.difference(&known));

    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (names, runbooks) = (after(&alerts, "- alert: "), after(&alerts, "runbook: README.md#"));
    let anchors: BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(runbooks, anchors.iter().map(String::as_str).collect());
    assert_eq!(names, after(&readme, "#### "), "the README has a runbook for each alert, by its name");
}

/// A Prometheus that scrapes one daemon, and is not patient.
struct Prometheus {
    process: Child,
    port: u16,
    http: reqwest::Client,
    _guard: Guard,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(daemon: &Daemon) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = std::fs::read_to_string(deployed("alerts.yaml")).unwrap();
        let impatient = |line: &str| match line.trim_start().starts_with("for: ") {
            true => "        for: 1s\n".to_owned(),
            false => format!("{line}\n"),
        };
        std::fs::write(dir.path().join("alerts.yaml"), rules.lines().map(impatient).collect::<String>()).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
             rule_files: [alerts.yaml]\n\
             scrape_configs: [{{ job_name: walferry, static_configs: [{{ targets: ['127.0.0.1:{}'] }}] }}]\n",
            daemon.port
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let port = free_port();
        let process = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let guard = Guard::new(process.id(), "KILL", dir.path());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { process, port, http, _guard: guard, _dir: dir }
    }

    async fn ask(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("http://127.0.0.1:{}/api/v1/{path}", self.port)).send().await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    /// The alerts that fire, each as its name and target.
    async fn firing(&self) -> Option<BTreeSet<(String, String)>> {
        let answer = self.ask("alerts").await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = answer["data"]["alerts"].as_array()?.iter().filter(|alert| alert["state"] == "firing");
        Some(alerts.map(|alert| (text(&alert["labels"]["alertname"]), text(&alert["labels"]["target"]))).collect())
    }

    async fn wait_firing(&self, wanted: &[(&str, &str)]) {
        let wanted: BTreeSet<_> =
            wanted.iter().map(|(name, target)| ((*name).to_owned(), (*target).to_owned())).collect();
        let fires = async || self.firing().await.filter(|firing| *firing == wanted).map(drop);
        wait_for(&format!("these alerts and no others: {wanted:?}"), seconds(30), fires).await;
    }

    /// Waits until it has read this of the daemon.
    async fn wait_scraped(&self, query: &str) {
        let path = format!("query?query={query}");
        let scraped = async || {
            let answer = self.ask(&path).await?;
            answer["data"]["result"].as_array().filter(|found| !found.is_empty()).map(drop)
        };
        wait_for(&format!("Prometheus to know {query}"), seconds(30), scraped).await;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_prometheus_raises_the_alert_of_a_dead_target_and_clears_it() {
    if !installed() {
        return;
    }
    let mut stage = Stage::new(2).await;
    let mut daemon = stage.daemon().start();
    daemon.wait_ready(seconds(60)).await;
    let prometheus = Prometheus::start(&daemon);
    let applying = r#"walferry_target_state{target="t1",state="applying"}==1"#;
    prometheus.wait_scraped(applying).await;
    prometheus.wait_firing(&[]).await;
    stage.places[1].cluster.kill9().await;
    prometheus.wait_firing(&[("WalferryTargetDown", "t1")]).await;
    stage.places[1].cluster.start_again().await;
    stage.places[1].reconnect().await;
    prometheus.wait_firing(&[]).await;
    stage.assert_follows(1, 1).await;

    assert!(daemon.terminate(seconds(20)).await.success());
    prometheus.wait_firing(&[("WalferryDown", "")]).await;
    daemon.start();
    prometheus.wait_firing(&[]).await;
}
