//! The HTTP server.
//!
//! | file | answers | for |
//! |---|---|---|
//! | `http/probes.rs` | `/metrics`, `/livez`, `/readyz` | Prometheus, an orchestrator |
//! | `http/api.rs` | `/api/v1/…` | programs, and `walferry status` |
//! | `http/page.rs` | `/` | people |
//!
//! It only reads. Without an address nothing is served, but the metrics' upkeep still runs.

mod api;
mod page;
mod probes;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::health::Health;
use super::metrics::{Metrics, UPKEEP_INTERVAL};
use crate::error::{Judged, Verdict};

/// How long open requests may go on after a stop.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// The server cannot listen or go on.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be had.
    #[error("cannot listen on {address} (http.listen)")]
    Bind {
        /// What was configured.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("the HTTP server has stopped")]
    Serve(#[source] io::Error),
}

impl Judged for HttpError {
    fn verdict(&self) -> Verdict {
        match self {
            HttpError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Verdict::halt(
                "another process listens there, perhaps a second walferry: set http.listen to another port, or to \"\" \
                 to serve nothing",
            ),
            HttpError::Bind { .. } => Verdict::halt(
                "set http.listen to an address of this machine and a port that walferry may use, or to \"\"",
            ),
            HttpError::Serve(_) => Verdict::Retry,
        }
    }
}

/// A server that has its address and does not answer yet.
pub struct Server {
    listener: Option<TcpListener>,
    metrics: Metrics,
    health: Health,
}

impl Server {
    /// Takes the address; without one nothing will be served.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(listen: Option<SocketAddr>, metrics: Metrics, health: Health) -> Result<Self, HttpError> {
        let listener = match listen {
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| HttpError::Bind { address, source })?)
            }
            None => None,
        };
        Ok(Self { listener, metrics, health })
    }

    /// Where it listens; tells the port when the configured one was 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `stop` is cancelled.
    ///
    /// # Errors
    /// The server ended by itself.
    pub async fn run(self, stop: CancellationToken) -> Result<(), HttpError> {
        let address = self.address();
        let router = probes::routes().merge(api::routes()).merge(page::routes());
        let router = router.with_state((self.metrics.clone(), self.health));
        let serve = async {
            match (self.listener, address) {
                (Some(listener), Some(address)) => {
                    info!("serving http://{address}/ (a page for people), /metrics, /livez, /readyz and /api/v1");
                    axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned()).await
                }
                _ => {
                    stop.cancelled().await;
                    Ok(())
                }
            }
        };
        tokio::pin!(serve);
        let served = tokio::select! {
            served = &mut serve => served,
            () = upkeep(&self.metrics) => Ok(()),
            // Whoever is still being answered then is cut off: a client must not keep the daemon from stopping.
            () = stop.cancelled() => timeout(CLOSING_TIME, serve).await.unwrap_or(Ok(())),
        };
        served.map_err(HttpError::Serve)
    }
}

async fn upkeep(metrics: &Metrics) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.upkeep();
    }
}

/// What every answer is made of.
type Shared = State<(Metrics, Health)>;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::telemetry::state::{SourceState, TargetState};
    use crate::telemetry::status::StatusSnapshot;

    struct Running {
        address: SocketAddr,
        metrics: Metrics,
        health: Health,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), HttpError>>,
    }

    async fn running() -> Running {
        let (metrics, health) = (Metrics::new("walferry"), Health::new("walferry", ["staging"]));
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let server = Server::bind(listen, metrics.clone(), health.clone()).await.unwrap();
        let (address, stop) = (server.address().unwrap(), CancellationToken::new());
        let task = tokio::spawn(server.run(stop.clone()));
        Running { address, metrics, health, stop, task }
    }

    async fn fetch(running: &Running, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let response = client.get(format!("http://{}{path}", running.address)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn readiness_is_503_with_reasons_until_all_is_well() {
        let server = running().await;
        let reasons = "the source is connecting\ntarget staging is connecting\n".to_owned();
        assert_eq!(fetch(&server, "/readyz").await, (503, reasons));
        server.health.update(|status| {
            status.source.state = SourceState::Streaming;
            status.target("staging").state = TargetState::Applying;
        });
        assert_eq!(fetch(&server, "/readyz").await, (200, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn liveness_holds_while_not_ready_and_ends_with_a_reason() {
        let server = running().await;
        assert_eq!(fetch(&server, "/livez").await.0, 200);
        server.health.update(|status| status.dead = Some("the reader has stopped".to_owned()));
        assert_eq!(fetch(&server, "/livez").await, (503, "the reader has stopped\n".to_owned()));

        let server = running().await;
        server.health.beat("the daemon", Instant::now());
        assert_eq!(fetch(&server, "/livez").await.0, 200);
        if let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(3600)) {
            server.health.beat("the daemon", long_ago);
            let (code, text) = fetch(&server, "/livez").await;
            assert!(code == 503 && text.contains("stuck"), "{code} {text}");
        }
    }

    #[tokio::test]
    async fn metrics_and_status_are_served() {
        let server = running().await;
        server.metrics.target("staging").commits.increment(7);
        let (code, text) = fetch(&server, "/metrics").await;
        assert!(
            code == 200 && text.contains("walferry_target_commits_total{stream=\"walferry\",target=\"staging\"} 7"),
            "{text}"
        );
        let (code, text) = fetch(&server, "/api/v1/status").await;
        assert_eq!(code, 200);
        assert_eq!(serde_json::from_str::<StatusSnapshot>(&text).unwrap(), server.health.snapshot());
        assert_eq!(fetch(&server, "/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_its_key() {
        let server = running().await;
        let second = Server::bind(Some(server.address), Metrics::new("walferry"), Health::default()).await;
        let Err(error) = second else { panic!("two servers on one address") };
        assert_eq!(error.to_string(), format!("cannot listen on {} (http.listen)", server.address));
        assert!(matches!(error.verdict(), Verdict::Halt { hint } if hint.contains("http.listen")));
    }

    #[tokio::test]
    async fn a_stop_ends_it_also_with_a_connection_open() {
        let server = running().await;
        let _open = tokio::net::TcpStream::connect(server.address).await.unwrap();
        server.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), server.task).await.expect("it stops").unwrap().unwrap();
    }

    #[tokio::test]
    async fn without_an_address_it_waits_for_the_stop() {
        let server = Server::bind(None, Metrics::new("walferry"), Health::default()).await.unwrap();
        assert_eq!(server.address(), None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("it stops").unwrap().unwrap();
    }
}
