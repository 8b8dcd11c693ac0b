//! What the panels show of daemons, as a real Prometheus answers their queries.

use std::collections::BTreeMap;

use serde_json::Value;
use walferry::telemetry::metrics::Metrics;
use walferry::telemetry::state::{SlotState, SourceState, TableState, TargetState};

use super::model::Dashboard;
use super::promtool::{answers, concrete, installed, series};

/// Ten minutes of a daemon that streams to one target, in these states.
fn daemon(source: SourceState, slot: SlotState, target: TargetState) -> Vec<Value> {
    let metrics = Metrics::new("shop");
    let (stream, staging) = (metrics.source(), metrics.target("staging"));
    stream.set_state(source);
    stream.set_slot_state(slot);
    stream.connected.set(1.0);
    stream.retained_wal_bytes.set(4e9);
    stream.safe_wal_bytes.set(1e9);
    staging.set_state(target);
    metrics.certificates(None).server.set(86_400.0);
    metrics.certificates(Some("staging")).client.set(86_400.0);
    let orders = metrics.table("staging", "public.orders");
    orders.set_state(TableState::Ready);
    metrics.table("staging", "public.lines").set_state(TableState::Failed);
    staging.commit_seconds.record(0.003);
    let moment = |count: u32| {
        let number = f64::from(count);
        stream.received_lsn.set(7e12 + number);
        stream.confirmed_lsn.set(6e12 + number);
        stream.reconnects.increment(u64::from(count));
        staging.lag_bytes.set(5e6 + number);
        staging.lag_seconds.set(90.0);
        staging.queue_bytes.set(1e6);
        staging.transactions.increment(u64::from(count));
        staging.commits.increment(u64::from(count));
        staging.rows.insert.increment(u64::from(count) * 10);
        staging.bulk_changes.increment(u64::from(count) * 5);
        staging.bulk_fallbacks.increment(u64::from(count));
        staging.retries.increment(u64::from(count));
        staging.conflicts.update_missing.increment(u64::from(count));
        staging.dead_letters.increment(u64::from(count));
        staging.dead_letters_waiting.set(number);
        (0..count).for_each(|_| staging.commit_seconds.record(0.003));
        staging.own_slot_retained.set(number);
        orders.copy_rows.set(number);
        metrics.render()
    };
    series("a", &moment(0), &moment(80))
}

fn busy() -> Vec<Value> {
    daemon(SourceState::Streaming, SlotState::Reserved, TargetState::Applying)
}

/// One that waits beside it: as it begins, it knows no more than its configuration.
fn standby() -> Vec<Value> {
    let metrics = Metrics::new("shop");
    metrics.source().set_state(SourceState::Standby);
    metrics.target("staging").queue_bytes.set(0.0);
    metrics.certificates(None);
    metrics.certificates(Some("staging"));
    series("b", &metrics.render(), &metrics.render())
}

/// What each panel's queries come to, by the panel's title and the query.
fn shown(dashboard: &Dashboard, series: &[Value]) -> BTreeMap<(String, String), Option<String>> {
    let queries =
        || dashboard.charts().flat_map(|panel| panel.targets.iter().map(move |query| (&panel.title, &query.expr)));
    let answers = answers(series, queries().map(|(_, query)| query.as_str()));
    let answer = |query: &str| answers.get(&concrete(query)).cloned();
    queries().map(|(title, query)| ((title.clone(), query.clone()), answer(query))).collect()
}

/// The number in an answer that is one series.
fn number(answer: &str) -> f64 {
    answer.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn every_panel_shows_something_of_a_daemon_at_work() {
    if !installed() {
        return;
    }
    let dashboard = Dashboard::deployed();
    for ((title, query), answer) in shown(&dashboard, &busy()) {
        let answer = answer.unwrap_or_else(|| panic!("{title} shows nothing: {query}"));
        assert!(answer.contains(r#"stream="shop""#) && !answer.contains("NaN"), "{title}: {answer}");
        for labels in answer.split(['{', '}']).skip(1).step_by(2) {
            assert!(!labels.contains("instance"), "{title} changes when another daemon takes over: {answer}");
        }
    }
}

#[test]
fn what_is_shown_is_what_the_daemon_says() {
    if !installed() {
        return;
    }
    let dashboard = Dashboard::deployed();
    let shown = shown(&dashboard, &busy());
    let answers = |title: &str| -> Vec<&str> {
        let of_panel = shown.iter().filter(|((of, _), _)| of == title);
        of_panel.map(|(_, answer)| answer.as_deref().unwrap()).collect()
    };
    // What is counted 80 times in ten minutes, or as often as 8 a minute.
    for (title, expected) in [
        ("Daemons", 1.0),
        ("Active", 1.0),
        ("Targets halted", 0.0),
        ("Targets down", 0.0),
        ("Worst lag", 90.0),
        ("WAL budget left", 0.2),
        ("Safe WAL left", 1e9),
        ("Tables failed", 1.0),
        ("Received, not confirmed", 1e12),
        ("WAL received", 80.0 / 600.0),
        ("Applied many at once", 0.5),
        ("Retries", 8.0),
        ("Fallbacks to one by one", 8.0),
        ("Rows copied", 80.0),
        ("Queues", 1e6),
    ] {
        let [answer] = answers(title)[..] else { panic!("{title} is one query") };
        assert!((number(answer) - expected).abs() <= expected * 1e-6, "{title}: {answer}, not {expected}");
    }
    let not_ready = answers("Tables that are not ready")[0];
    assert!(not_ready.contains("public.lines") && not_ready.contains("failed"), "{not_ready}");
    assert!(!not_ready.contains("public.orders"), "{not_ready}");
    let certificates = answers("Certificates end in")[0];
    let ends = certificates.matches("8.58E+04").count();
    assert!(ends == 2 && certificates.contains(r#"side="source""#), "a day without ten minutes, twice: {certificates}");
}

#[test]
fn a_standby_beside_it_changes_nothing_but_the_count_of_daemons() {
    if !installed() {
        return;
    }
    let dashboard = Dashboard::deployed();
    let alone = shown(&dashboard, &busy());
    let both = shown(&dashboard, &[busy(), standby()].concat());
    let changed: Vec<&String> =
        alone.iter().filter(|(query, answer)| both[*query] != **answer).map(|((title, _), _)| title).collect();
    assert_eq!(changed, ["Daemons", "Versions"]);
}

#[test]
fn a_daemon_that_is_gone_shows_as_none() {
    if !installed() {
        return;
    }
    let dashboard = Dashboard::deployed();
    let query = dashboard.panel("Daemons").targets[0].expr.as_str();
    let mut series = busy();
    series.iter_mut().for_each(|series| series["values"] = "1x4".into());
    assert_eq!(number(&answers(&series, [query])[&concrete(query)]), 0.0);
}

#[test]
fn every_state_is_shown_by_its_word() {
    if !installed() {
        return;
    }
    let dashboard = Dashboard::deployed();
    let word = |title: &str, place: usize, series: &[Value]| {
        let panel = dashboard.panel(title);
        let query = panel.targets[place].expr.as_str();
        let answers = answers(series, [query]);
        panel.word(number(&answers[&concrete(query)])).map(str::to_owned)
    };
    for state in SourceState::ALL {
        let series = daemon(*state, SlotState::Reserved, TargetState::Applying);
        for title in ["Source", "States"] {
            assert_eq!(word(title, 0, &series).as_deref(), Some(state.as_str()), "{title}");
        }
    }
    for state in SlotState::ALL {
        let series = daemon(SourceState::Streaming, *state, TargetState::Applying);
        assert_eq!(word("Slot", 0, &series).as_deref(), Some(state.as_str()));
    }
    for state in TargetState::ALL {
        let series = daemon(SourceState::Streaming, SlotState::Reserved, *state);
        assert_eq!(word("States", 1, &series).as_deref(), Some(state.as_str()));
    }
}
