//! Asking a running daemon: `GET /api/v1/status` at its `http.listen`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::telemetry::status::StatusSnapshot;

/// A daemon that runs answers from memory.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a daemon did not say how it is.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or whoever does is not quick enough.
    #[error("no daemon answers at {0}")]
    Silent(SocketAddr, #[source] reqwest::Error),
    /// Somebody else, or another version of walferry, listens.
    #[error("what answers at {0} is not a walferry of this version")]
    Stranger(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the daemon that listens at `listen` is doing.
///
/// # Errors
/// It does not answer, or not as a walferry of this version does.
pub async fn ask(listen: SocketAddr) -> Result<StatusSnapshot, AskError> {
    let address = reachable(listen);
    let silent = |error| AskError::Silent(address, error);
    // A proxy has no business between a command and its daemon.
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().map_err(silent)?;
    let response = client.get(format!("http://{address}/api/v1/status")).send().await.map_err(silent)?;
    let response =
        response.error_for_status().map_err(|error| AskError::Stranger(address, Box::new(error.without_url())))?;
    let text = response.text().await.map_err(silent)?;
    serde_json::from_str(&text).map_err(|error| AskError::Stranger(address, Box::new(error)))
}

/// Who listens on every address is asked at the machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_here() {
        let shown = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:9432"), "127.0.0.1:9432");
        assert_eq!(shown("[::]:9432"), "[::1]:9432");
        assert_eq!(shown("10.0.0.5:9432"), "10.0.0.5:9432");
    }

    #[tokio::test]
    async fn silence_and_strangers_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/api/v1/status", axum::routing::get(|| async { "hello" }));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        assert!(matches!(ask(address).await, Err(AskError::Stranger(..))));
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(matches!(ask(address).await, Err(AskError::Silent(..))));
    }
}
