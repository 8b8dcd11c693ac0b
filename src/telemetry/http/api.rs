//! The API, version 1: the status, the lag of the last minutes, and the JSON schemas of both.
//!
//! Within a version, fields are added and never taken away or changed; whoever reads ignores what it does not know.

use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;

use super::Shared;
use crate::telemetry::health::Health;
use crate::telemetry::lag_history::LagReport;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusSnapshot;

pub(super) fn routes() -> Router<(Metrics, Health)> {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/status/schema", get(async || Json(schema_for!(StatusReport))))
        .route("/api/v1/lag", get(lag))
        .route("/api/v1/lag/schema", get(async || Json(schema_for!(LagReport))))
}

/// How the stream is.
#[derive(Debug, Serialize, JsonSchema)]
struct StatusReport {
    /// When this was so, as `2026-01-31T12:00:00Z`.
    at: String,
    /// Whether every target is in step.
    ready: bool,
    /// Whether another daemon is the active one and this one is there to take over.
    standby: bool,
    /// The whole in one line.
    summary: String,
    /// What is not as it should be, with the way out where there is one; empty when all is well.
    problems: Vec<String>,
    #[serde(flatten)]
    status: StatusSnapshot,
}

async fn status(State((_, health)): Shared) -> impl IntoResponse {
    let status = health.snapshot();
    let report = StatusReport {
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        ready: status.not_ready().is_empty(),
        standby: status.stands_by(),
        summary: status.line(),
        problems: status.not_ready(),
        status,
    };
    match serde_json::to_string_pretty(&report) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("{error}\n")),
    }
}

async fn lag(State((_, health)): Shared) -> Json<LagReport> {
    Json(health.lags())
}
