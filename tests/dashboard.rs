//! The dashboard for Grafana, `deploy/grafana/dashboard.json`: panels that fit, queries of metrics that there are, the
//! alerts' own limits; and, where Prometheus is installed, what the panels show of a daemon.

#[path = "dashboard/bites.rs"]
mod bites;
#[path = "dashboard/expression.rs"]
mod expression;
#[path = "dashboard/model.rs"]
mod model;
#[path = "dashboard/promtool.rs"]
mod promtool;
#[path = "dashboard/shown.rs"]
mod shown;

use std::collections::BTreeSet;

use expression::Expression;
use model::{Dashboard, Panel};
use walferry::telemetry::metrics::METRICS;

/// Metrics that need no panel, each with the reason.
const LEFT_OUT: &[(&str, &str)] = &[("walferry_target_own_slot", "what is kept for the slot shows it")];

/// The units it may have, as Grafana names them; of another it would show the name.
const UNITS: &[&str] = &["short", "s", "dtdurations", "bytes", "binBps", "percentunit", "rowsps", "cps"];

fn alerts() -> String {
    std::fs::read_to_string("deploy/prometheus/alerts.yaml").unwrap()
}

/// The number that an alert compares with, such as `14 * 86400`.
fn limit(alerts: &str, alert: &str) -> f64 {
    let (_, rule) = alerts.split_once(&format!("- alert: {alert}\n")).unwrap();
    let (rule, _) = rule.split_once("labels:").unwrap();
    let (_, limit) = rule.rsplit_once(['<', '>']).unwrap();
    limit.lines().next().unwrap().split('*').map(|factor| factor.trim().parse::<f64>().unwrap()).product()
}

#[test]
fn grafana_knows_it_by_its_name_and_refreshes_it() {
    let dashboard = Dashboard::deployed();
    assert_eq!((dashboard.uid.as_str(), dashboard.title.as_str()), ("walferry", "walferry"));
    assert_eq!(dashboard.refresh, "30s");
    assert!(!dashboard.tags.is_empty());
    assert!(dashboard.schema_version >= 39, "that of Grafana 11");
    let variables: Vec<&str> = dashboard.variables().iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(variables, ["datasource", "stream", "target"]);
    assert_eq!((dashboard.variables()[0].kind.as_str(), dashboard.variables()[0].multi), ("datasource", false));
    for variable in &dashboard.variables()[1..] {
        assert!(variable.kind == "query" && variable.multi && variable.include_all, "{}", variable.name);
    }
}

#[test]
fn every_panel_says_what_it_shows_and_what_to_do() {
    let dashboard = Dashboard::deployed();
    let mut seen = BTreeSet::new();
    for panel in &dashboard.panels {
        assert!(seen.insert(panel.id), "two panels have the id {}", panel.id);
        assert!(!panel.title.is_empty(), "{} has no title", panel.id);
    }
    let titles: BTreeSet<&str> = dashboard.panels.iter().map(|panel| panel.title.as_str()).collect();
    assert_eq!(titles.len(), dashboard.panels.len(), "two panels have one title");
    for panel in dashboard.charts() {
        let (title, description) = (&panel.title, &panel.description);
        let sentences = description.matches(". ").count() + 1;
        assert!(description.ends_with('.') && (1..=2).contains(&sentences), "{title}: {description}");
        let unit = panel.defaults().unit.as_str();
        assert!(UNITS.contains(&unit), "{title} has the unit {unit:?}");
        assert!(!panel.targets.is_empty(), "{title} shows nothing");
        for uid in panel.targets.iter().map(|query| &query.datasource.uid).chain([&panel.datasource.uid]) {
            assert_eq!(uid, "${datasource}", "{title}");
        }
        if panel.kind == "stat" {
            assert!(!panel.defaults().no_value.is_empty(), "{title} does not say what nothing means");
        } else if panel.kind == "timeseries" {
            assert_eq!(panel.defaults().custom.span_nulls, Some(false), "{title} hides gaps");
        }
    }
}

#[test]
fn panels_fit_the_grid_and_none_lies_on_another() {
    let faults = model::misplaced(&Dashboard::deployed().panels);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_query_is_of_metrics_and_labels_that_there_are() {
    let dashboard = Dashboard::deployed();
    let mut faults = Vec::new();
    for panel in dashboard.charts() {
        for query in &panel.targets {
            let expression = Expression::new(&query.expr);
            let labels = expression.labels();
            let legend = query.legend_labels().into_iter().filter(|label| !labels.contains(label));
            faults.extend(legend.map(|label| format!("{}: the outcome has no label {label}", panel.title)));
            faults.extend(expression.faults_in_panel().iter().map(|fault| format!("{}: {fault}", panel.title)));
        }
    }
    for variable in &dashboard.variables()[1..] {
        let (selector, label) = variable.label_values();
        let expression = Expression::new(selector);
        assert_eq!(label, variable.name);
        assert!(expression.labels().contains(&label), "{} are values of a label that is not there", variable.name);
        faults.extend(expression.faults().iter().map(|fault| format!("{}: {fault}", variable.name)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let dashboard = Dashboard::deployed();
    let queries = dashboard.charts().flat_map(|panel| &panel.targets);
    let shown: BTreeSet<&str> =
        queries.flat_map(|query| Expression::new(&query.expr).metrics().collect::<Vec<_>>()).collect();
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().map(|(name, _)| *name).collect();
    let all: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let missing: Vec<_> = all.difference(&shown).filter(|name| !left_out.contains(*name)).collect();
    assert!(missing.is_empty(), "on no panel, and without a reason in LEFT_OUT: {missing:?}");
    assert!(left_out.is_disjoint(&shown), "LEFT_OUT is of metrics that are not shown");
}

#[test]
fn colours_change_where_alerts_are_raised() {
    let (dashboard, alerts) = (Dashboard::deployed(), alerts());
    let limits = |names: [&str; 2]| names.map(|name| limit(&alerts, name));
    let steps = |panel: &Panel| -> Vec<(String, f64)> {
        let steps = panel.defaults().thresholds.steps.iter();
        steps.filter_map(|step| Some((step.color.clone(), step.value?))).collect()
    };
    let [lagging, far] = limits(["WalferryLagging", "WalferryFarBehind"]);
    for title in ["Worst lag", "Lag"] {
        let steps = steps(dashboard.panel(title));
        assert!(steps.ends_with(&[("orange".to_owned(), lagging), ("red".to_owned(), far)]), "{title}: {steps:?}");
    }
    for (title, names) in [
        ("WAL budget left", ["WalferryWalBudgetGone", "WalferryWalBudgetLow"]),
        ("Certificates end in", ["WalferryCertificateEndsNow", "WalferryCertificateEnds"]),
    ] {
        let [critical, warning] = limits(names);
        let steps = steps(dashboard.panel(title));
        assert_eq!(steps[0].0, "red", "{title}: {steps:?}");
        assert_eq!(steps[1..], [("orange".to_owned(), critical), ("green".to_owned(), warning)], "{title}");
    }
    for title in ["Targets halted", "Tables failed"] {
        assert_eq!(steps(dashboard.panel(title)), [("green".to_owned(), 0.0), ("red".to_owned(), 1.0)], "{title}");
    }
}

#[test]
fn the_panels_lead_to_every_alert_and_to_no_other() {
    let (dashboard, alerts) = (Dashboard::deployed(), alerts());
    let names = alerts.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    let names: BTreeSet<&str> = names.collect();
    let words = dashboard.panels.iter().flat_map(|panel| panel.description.split(|c: char| !c.is_alphanumeric()));
    let mentioned: BTreeSet<&str> = words.filter(|word| word.starts_with("Walferry")).collect();
    assert_eq!(mentioned, names);
}
