//! The HTTP server.
//!
//! | file | answers | for |
//! |---|---|---|
//! | `http/probes.rs` | `/metrics`, `/livez`, `/readyz` | Prometheus, an orchestrator |
//! | `http/api.rs` | `/api/v1/…` | programs, and `walferry status` |
//! | `http/page.rs` | `/` | people |
//!
//! Who may read and who may change anything: `http/access.rs`. Without an address nothing is served, but the metrics'
//! upkeep still runs.

mod access;
mod api;
mod page;
mod probes;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::access::Access;
use super::control::Commands;
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

/// What answers are made of, and who gets them.
#[derive(Clone)]
pub struct Daemon {
    /// What is counted.
    pub metrics: Metrics,
    /// How it is.
    pub health: Health,
    /// Where commands go.
    pub commands: Commands,
    /// Who may do what.
    pub access: Access,
}

/// A server that has its address and does not answer yet.
pub struct Server {
    listener: Option<TcpListener>,
    daemon: Daemon,
}

impl Server {
    /// Takes the address; without one nothing will be served.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(listen: Option<SocketAddr>, daemon: Daemon) -> Result<Self, HttpError> {
        let listener = match listen {
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| HttpError::Bind { address, source })?)
            }
            None => None,
        };
        Ok(Self { listener, daemon })
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
        let (router, metrics) = (routes(&self.daemon), &self.daemon.metrics);
        let serve = async {
            match (self.listener, address) {
                (Some(listener), Some(address)) => {
                    if !(address.ip().is_loopback() || self.daemon.access.is_guarded()) {
                        warn!(
                            "whoever reaches {address} may read the names of targets and tables, and errors: \
                             set http.token_file, or http.listen to 127.0.0.1"
                        );
                    }
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
            () = upkeep(metrics) => Ok(()),
            // Whoever is still being answered then is cut off: a client must not keep the daemon from stopping.
            () = stop.cancelled() => timeout(CLOSING_TIME, serve).await.unwrap_or(Ok(())),
        };
        served.map_err(HttpError::Serve)
    }
}

fn routes(daemon: &Daemon) -> Router {
    let read = from_fn_with_state(daemon.clone(), access::read);
    let change = from_fn_with_state(daemon.clone(), access::change);
    let readers = api::reading().merge(page::routes()).route_layer(read);
    probes::routes().merge(readers).merge(api::changing().route_layer(change)).with_state(daemon.clone())
}

async fn upkeep(metrics: &Metrics) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use reqwest::{Method, RequestBuilder};

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

    fn daemon() -> Daemon {
        let (metrics, health) = (Metrics::new("walferry"), Health::new("walferry", ["staging"]));
        Daemon { metrics, health, commands: Commands::new().0, access: Access::default() }
    }

    async fn running() -> Running {
        running_as(daemon()).await
    }

    async fn running_as(daemon: Daemon) -> Running {
        let (metrics, health) = (daemon.metrics.clone(), daemon.health.clone());
        let server = Server::bind(Some("127.0.0.1:0".parse().unwrap()), daemon).await.unwrap();
        let (address, stop) = (server.address().unwrap(), CancellationToken::new());
        let task = tokio::spawn(server.run(stop.clone()));
        Running { address, metrics, health, stop, task }
    }

    async fn fetch(running: &Running, path: &str) -> (u16, String) {
        send(running, Method::GET, path, |request| request).await
    }

    async fn send(
        running: &Running,
        method: Method,
        path: &str,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        let response = with(client.request(method, format!("http://{}{path}", running.address))).send().await.unwrap();
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
        let second = Server::bind(Some(server.address), daemon()).await;
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
        let server = Server::bind(None, daemon()).await.unwrap();
        assert_eq!(server.address(), None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("it stops").unwrap().unwrap();
    }

    #[tokio::test]
    async fn without_a_token_everybody_reads_and_nobody_changes_anything() {
        let server = running().await;
        for path in ["/", "/status.js", "/api/v1/status", "/api/v1/lag", "/livez", "/metrics"] {
            assert_eq!(fetch(&server, path).await.0, 200, "{path}");
        }
        for (method, path) in [(Method::POST, "/api/v1/reload"), (Method::PUT, "/api/v1/log-level")] {
            let (code, text) = send(&server, method, path, |request| request.bearer_auth("")).await;
            assert!(code == 403 && text.contains("http.token_file"), "{path}: {code} {text}");
        }
    }

    #[tokio::test]
    async fn with_a_token_it_is_asked_for_where_there_is_something_to_see_or_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        let (commands, mut requests) = Commands::new();
        let access = Access::new(Some(file.path().to_owned()));
        let server = running_as(Daemon { commands, access, ..daemon() }).await;
        let carried_out = tokio::spawn(async move {
            let request = requests.recv().await.unwrap();
            request.answer.send(Ok("done".into())).unwrap();
            request.ask
        });
        for path in ["/livez", "/metrics"] {
            assert_eq!(fetch(&server, path).await.0, 200, "{path}");
        }
        for path in ["/", "/status.js", "/api/v1/status", "/api/v1/lag", "/api/v1/reload/preview"] {
            let get = |with: fn(RequestBuilder) -> RequestBuilder| send(&server, Method::GET, path, with);
            assert_eq!(fetch(&server, path).await.0, 401, "{path}");
            assert_eq!(get(|request| request.bearer_auth("0123456789abcdeF")).await.0, 401, "{path}");
            assert_eq!(get(|request| request.basic_auth("0123456789abcdef", Some(""))).await.0, 401, "{path}");
            if !path.ends_with("preview") {
                assert_eq!(get(|request| request.bearer_auth("0123456789abcdef")).await.0, 200, "{path}");
                assert_eq!(get(|request| request.basic_auth("me", Some("0123456789abcdef"))).await.0, 200, "{path}");
            }
        }
        let post = |with: fn(RequestBuilder) -> RequestBuilder| send(&server, Method::POST, "/api/v1/reload", with);
        assert_eq!(post(|request| request).await.0, 401);
        assert_eq!(post(|request| request.basic_auth("me", Some("0123456789abcdef"))).await.0, 401, "a browser's");
        assert_eq!(post(|request| request.bearer_auth("0123456789abcdef")).await, (200, "\"done\"".to_owned()));
        assert_eq!(carried_out.await.unwrap(), crate::telemetry::control::Ask::Reload);

        // A token that was rotated counts at once; one that is gone lets nobody in.
        std::fs::write(file.path(), "another-token-now").unwrap();
        let get = |with: fn(RequestBuilder) -> RequestBuilder| send(&server, Method::GET, "/api/v1/status", with);
        assert_eq!(get(|request| request.bearer_auth("0123456789abcdef")).await.0, 401);
        assert_eq!(get(|request| request.bearer_auth("another-token-now")).await.0, 200);
        std::fs::write(file.path(), "\n").unwrap();
        assert_eq!(get(|request| request.bearer_auth("")).await.0, 401);
        let (code, text) = get(|request| request.bearer_auth("another-token-now")).await;
        assert!(code == 503 && !text.contains("another"), "{code} {text}");
    }
}
