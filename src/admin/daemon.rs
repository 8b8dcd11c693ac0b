//! Asking a running daemon, and telling it to do something: `/api/v1` at its `http.listen`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::config::Http;
use crate::error::{Judged, Verdict};
use crate::telemetry::control::Refusal;
use crate::telemetry::status::StatusSnapshot;

/// A daemon that runs answers from memory.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a daemon did not say how it is, or does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It serves nothing.
    #[error("http.listen is \"\", so the daemon cannot be asked")]
    Off,
    /// The token cannot be read.
    #[error("cannot read http.token_file {}", .0.display())]
    Token(PathBuf, #[source] std::io::Error),
    /// Nobody listens, or whoever does is not quick enough.
    #[error("no daemon answers at {0}")]
    Silent(SocketAddr, #[source] reqwest::Error),
    /// Somebody else, or another version of walferry, listens.
    #[error("what answers at {0} is not a walferry of this version")]
    Stranger(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says why not.
    #[error("{}", .0.error)]
    Refused(Refusal),
}

impl Judged for AskError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Silent(..) => Verdict::Retry,
            Self::Off => Verdict::halt("Set http.listen and start the daemon again, or send it a signal."),
            Self::Token(..) => Verdict::halt("Run this as a user who may read the file, such as the daemon's."),
            Self::Stranger(..) => Verdict::halt("Look who listens there; or use the program that the daemon is."),
            Self::Refused(Refusal { hint: Some(hint), .. }) => Verdict::halt(hint.clone()),
            Self::Refused(Refusal { hint: None, .. }) => Verdict::Retry,
        }
    }
}

/// What the daemon of this configuration is doing.
///
/// # Errors
/// It does not answer, or not as a walferry of this version does.
pub async fn ask(http: &Http) -> Result<StatusSnapshot, AskError> {
    let (address, value) = tell(http, Method::GET, "/api/v1/status", None).await?;
    serde_json::from_value(value).map_err(|error| AskError::Stranger(address, Box::new(error)))
}

/// Has the daemon do something, and gives its answer and where it is.
///
/// # Errors
/// It does not answer, or does not do it.
pub async fn tell(
    http: &Http,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<(SocketAddr, Value), AskError> {
    let address = reachable(http.listen.ok_or(AskError::Off)?);
    let silent = |error| AskError::Silent(address, error);
    // A proxy has no business between a command and its daemon.
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().map_err(silent)?;
    let mut request = client.request(method, format!("http://{address}{path}"));
    if let Some(file) = &http.token_file {
        request = request.bearer_auth(token(file)?);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let response = request.send().await.map_err(silent)?;
    let code = response.status();
    let text = response.text().await.map_err(silent)?;
    if code == StatusCode::OK {
        let value = serde_json::from_str(&text);
        return Ok((address, value.map_err(|error| AskError::Stranger(address, Box::new(error)))?));
    }
    Err(match serde_json::from_str(&text) {
        Ok(refusal) => AskError::Refused(refusal),
        Err(_) => AskError::Stranger(address, format!("{path} is answered with {code}").into()),
    })
}

fn token(file: &Path) -> Result<String, AskError> {
    let text = std::fs::read_to_string(file).map_err(|error| AskError::Token(file.to_owned(), error))?;
    Ok(text.trim().to_owned())
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
        let http = Http { listen: Some(address), token_file: None };
        let router = axum::Router::new().route("/api/v1/status", axum::routing::get(|| async { "hello" }));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        assert!(matches!(ask(&http).await, Err(AskError::Stranger(..))));
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(matches!(ask(&http).await, Err(AskError::Silent(..))));
        assert!(matches!(ask(&Http { listen: None, ..http }).await, Err(AskError::Off)));
    }
}
