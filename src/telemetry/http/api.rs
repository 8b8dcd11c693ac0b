//! The API, version 1: the status and the lag of the last minutes, with their JSON schemas; and commands.
//!
//! Within a version, fields are added and never taken away or changed; whoever reads ignores what it does not know.

use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::telemetry::control::{Answer, Ask, TableAction, TablesAsk};
use crate::telemetry::lag_history::LagReport;
use crate::telemetry::status::StatusSnapshot;

pub(super) fn reading() -> Router<Daemon> {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/status/schema", get(async || Json(schema_for!(StatusReport))))
        .route("/api/v1/lag", get(lag))
        .route("/api/v1/lag/schema", get(async || Json(schema_for!(LagReport))))
        .route("/api/v1/reload/preview", get(async |State(daemon): State<Daemon>| give(&daemon, Ask::Preview).await))
}

pub(super) fn changing() -> Router<Daemon> {
    Router::new()
        .route("/api/v1/reload", post(async |State(daemon): State<Daemon>| give(&daemon, Ask::Reload).await))
        .route("/api/v1/log-level", put(log_level))
        .route("/api/v1/targets/{name}/pause", post(pause))
        .route("/api/v1/targets/{name}/resume", post(resume))
        .route("/api/v1/targets/{name}/resync", post(resync))
        .route("/api/v1/tables/{action}", post(tables))
}

/// What `PUT /api/v1/log-level` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    level: String,
}

async fn log_level(State(daemon): State<Daemon>, Json(LogLevel { level }): Json<LogLevel>) -> Response {
    give(&daemon, Ask::LogLevel(level)).await
}

async fn pause(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    give(&daemon, Ask::Pause(name)).await
}

async fn resume(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    give(&daemon, Ask::Resume(name)).await
}

async fn resync(State(daemon): State<Daemon>, Path(name): Path<String>) -> Response {
    give(&daemon, Ask::Resync(name)).await
}

/// What `POST /api/v1/tables/resync`, `…/pause` and `…/resume` take.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    /// Table patterns, as in the configuration.
    tables: Vec<String>,
    /// The target's name; without one, of every target.
    target: Option<String>,
}

async fn tables(
    State(daemon): State<Daemon>,
    Path(action): Path<TableAction>,
    Json(Tables { tables, target }): Json<Tables>,
) -> Response {
    give(&daemon, Ask::Tables(TablesAsk { action, tables, target })).await
}

async fn give(daemon: &Daemon, ask: Ask) -> Response {
    let answer: Answer = daemon.commands.give(ask).await;
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => (StatusCode::UNPROCESSABLE_ENTITY, Json(refusal)).into_response(),
    }
}

/// How the stream is.
#[derive(Debug, Serialize, JsonSchema)]
struct StatusReport {
    /// When this was so, as `2026-01-31T12:00:00Z`.
    at: String,
    /// Whether every target that is not paused is in step.
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

async fn status(State(daemon): State<Daemon>) -> impl IntoResponse {
    let status = daemon.health.snapshot();
    let report = StatusReport {
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        ready: status.not_ready().is_empty(),
        standby: status.stands_by(),
        summary: status.line(),
        problems: status.problems(),
        status,
    };
    match serde_json::to_string_pretty(&report) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("{error}\n")),
    }
}

async fn lag(State(daemon): State<Daemon>) -> Json<LagReport> {
    Json(daemon.health.lags())
}
