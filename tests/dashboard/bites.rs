//! What is looked for in the dashboard is found: each fault, in a query or a grid that has it.

use serde_json::json;

use super::expression::Expression;
use super::model::{Panel, misplaced};

/// A query without a fault, of all that can have one.
const RIGHT: &str = r#"sum by (stream, op) (
    rate(walferry_target_rows_total{stream=~"$stream", target=~"$target"}[$__rate_interval])
    unless on (stream, instance) (walferry_source_state{stream=~"$stream", state="standby"} == 1)
)"#;

/// What is found when this part of it is replaced.
fn found(part: &str, by: &str) -> Vec<String> {
    assert!(RIGHT.contains(part), "{part}");
    Expression::new(&RIGHT.replacen(part, by, 1)).faults_in_panel()
}

#[test]
fn a_query_without_a_fault_has_none() {
    assert_eq!(found("stream", "stream"), [""; 0]);
    let expression = Expression::new(RIGHT);
    assert!(expression.metrics().eq(["walferry_target_rows_total", "walferry_source_state"]));
    assert_eq!(expression.labels(), ["stream", "op"]);
}

#[test]
fn a_misspelt_metric_is_found_wherever_it_is() {
    assert_eq!(found("_rows_total", "_row_total"), ["there is no metric walferry_target_row_total"]);
    assert_eq!(found("source_state", "source_status"), ["there is no metric walferry_source_status"]);
    assert_eq!(Expression::new("label_walferry").faults(), ["there is no metric label_walferry"]);
    let bare = "rate(walferry_target_commit_seconds[$__rate_interval])";
    assert_eq!(Expression::new(bare).faults(), ["there is no metric walferry_target_commit_seconds"]);
}

#[test]
fn a_label_that_the_metric_has_not_is_found_wherever_it_is() {
    assert_eq!(found("stream, op", "stream, kind"), ["walferry_target_rows_total has no label kind"]);
    assert_eq!(found("state=", "status="), ["walferry_source_state has no label status"]);
    assert_eq!(found("stream, instance", "stream, target"), ["walferry_source_state has no label target"]);
    assert_eq!(found("stream, instance", "stream, state"), ["walferry_target_rows_total has no label state"]);
    assert_eq!(found("stream, op", "stream, le"), ["walferry_target_rows_total has no label le"]);
}

#[test]
fn a_query_that_leaves_out_what_the_viewer_chose_is_found() {
    let every = "walferry_target_rows_total is of every target, not of $target";
    assert_eq!(found(r#", target=~"$target""#, ""), [every]);
    assert_eq!(found("$target", "staging"), [every]);
    assert_eq!(
        found(r#"stream=~"$stream", state"#, "state"),
        ["walferry_source_state is of every stream, not of $stream"]
    );
}

#[test]
fn a_counter_as_it_is_and_a_rate_of_another_time_are_found() {
    assert_eq!(found("[$__rate_interval]", "[5m]"), ["[5m] is not $__rate_interval"]);
    let rises = "walferry_target_rows_total only rises: its rate or increase says something";
    assert_eq!(found("rate(", "deriv("), [rises]);
}

#[test]
fn a_query_of_a_kind_that_is_not_understood_is_refused() {
    let after = r#"sum(walferry_source_connected{stream=~"$stream"}) by (stream)"#;
    assert_eq!(Expression::new(after).faults(), ["by (…) belongs before what is grouped"]);
    assert_eq!(Expression::new(r#"{stream="shop"}"#).faults()[0], "conditions without a metric");
    assert!(!found("by (", "without (").is_empty());
    assert!(!found("on (", "ignoring (").is_empty());
}

#[test]
fn panels_beyond_the_grid_or_on_another_are_found() {
    let panel = |title: &str, kind: &str, [x, y, w, h]: [u32; 4]| -> Panel {
        let place = json!({ "x": x, "y": y, "w": w, "h": h });
        serde_json::from_value(json!({ "id": 1, "type": kind, "title": title, "gridPos": place })).unwrap()
    };
    let heading = || panel("heading", "row", [0, 0, 24, 1]);
    let left = || panel("left", "stat", [0, 1, 12, 4]);
    assert_eq!(misplaced(&[heading(), left(), panel("right", "stat", [12, 1, 12, 4])]), [""; 0]);
    assert_eq!(misplaced(&[heading(), left(), panel("right", "stat", [11, 4, 12, 4])]), ["right lies on left"]);
    assert!(misplaced(&[heading(), panel("wide", "stat", [13, 1, 12, 4])])[0].starts_with("wide is beyond the grid"));
    assert_eq!(misplaced(&[left()]), ["the first panel is not a heading"]);
}
