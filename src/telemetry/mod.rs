//! What the outside can see of a running daemon: metrics, health and status over HTTP, and the log.
//!
//! ```text
//! stages ──▶ metrics (handles, cached) ──┐
//! stages ──▶ health (one snapshot) ──┬───┴─▶ http: /metrics /livez /readyz, the status page and /api/v1
//!                                    └─────▶ service_manager: ready, status, watchdog
//! http: /api/v1 ──▶ control ──▶ the launcher, which carries it out
//! stages ──▶ tracing ──▶ logging ──▶ standard error
//! ```
//! Nothing here may carry row values or secrets: labels are names of targets and tables, errors are the stages' own.

pub mod control;
pub mod health;
pub mod http;
pub mod lag_history;
pub mod logging;
pub mod metrics;
pub mod service_manager;
pub mod state;
pub mod status;
