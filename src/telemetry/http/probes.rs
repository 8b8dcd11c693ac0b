//! What machines ask all the time: `/metrics` for Prometheus, `/livez` and `/readyz` for an orchestrator.

use std::time::Instant;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::Daemon;

pub(super) fn routes() -> Router<Daemon> {
    Router::new().route("/metrics", get(metrics)).route("/livez", get(livez)).route("/readyz", get(readyz))
}

async fn metrics(State(daemon): State<Daemon>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], daemon.metrics.render())
}

async fn livez(State(daemon): State<Daemon>) -> impl IntoResponse {
    match daemon.health.dead(Instant::now()) {
        None => (StatusCode::OK, "live\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// `?standby=ok`: a daemon that is there to take over does what it should, too.
async fn readyz(State(daemon): State<Daemon>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let standby = match query.as_deref() {
        None | Some("") => false,
        Some("standby=ok") => true,
        Some(_) => return (StatusCode::BAD_REQUEST, "/readyz takes ?standby=ok and nothing else\n".to_owned()),
    };
    let status = daemon.health.snapshot();
    let reasons = status.not_ready();
    match reasons.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false if standby && status.stands_by() => (StatusCode::OK, "standing by\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}
