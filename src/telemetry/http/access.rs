//! Who may do what. Without a token file everybody reads and nobody changes anything; with one, all but probes and
//! metrics is for those who have its token.
//!
//! A change takes the token as a bearer token only. A browser sends the password that it was given along with requests
//! that another site has made, so that is good for reading only, which another site's page does not get to see.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use headers::HeaderMapExt;
use headers::authorization::{Authorization, Basic, Bearer};
use ring::digest::{SHA256, digest};
use tracing::error;

use super::Daemon;
use crate::telemetry::control::Refusal;

/// The token's file; it is read for every request, so that a rotated token counts at once.
#[derive(Clone, Debug, Default)]
pub struct Access(Option<PathBuf>);

impl Access {
    /// By this file.
    pub fn new(token_file: Option<PathBuf>) -> Self {
        Self(token_file)
    }

    /// Whether there is a token at all.
    pub fn is_guarded(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the token that was sent is the right one. Digests are compared: how long that takes tells nothing of
    /// the token.
    async fn knows(&self, path: &PathBuf, sent: Option<&str>) -> Result<bool, Response> {
        let Some(sent) = sent else { return Ok(false) };
        let read = tokio::fs::read_to_string(path).await.and_then(|text| match text.trim() {
            "" => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the file is empty")),
            token => Ok(digest(&SHA256, token.as_bytes())),
        });
        match read {
            Ok(token) => Ok(token.as_ref() == digest(&SHA256, sent.as_bytes()).as_ref()),
            Err(why) => {
                error!("cannot read http.token_file {}: {why}", path.display());
                Err(refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the daemon cannot read its token (http.token_file)",
                    None,
                ))
            }
        }
    }
}

/// Lets readers pass.
pub(super) async fn read(State(daemon): State<Daemon>, request: Request, next: Next) -> Response {
    let Some(path) = &daemon.access.0 else { return next.run(request).await };
    let sent = bearer(request.headers()).or_else(|| password(request.headers()));
    match daemon.access.knows(path, sent.as_deref()).await {
        Ok(true) => next.run(request).await,
        Ok(false) => unknown("Basic realm=\"walferry\", charset=\"UTF-8\""),
        Err(response) => response,
    }
}

/// Lets those pass who may change something.
pub(super) async fn change(State(daemon): State<Daemon>, request: Request, next: Next) -> Response {
    let Some(path) = &daemon.access.0 else {
        let hint = "Set http.token_file to a file with a token, restart the daemon, and send the token.";
        return refusal(StatusCode::FORBIDDEN, "this daemon takes no commands over HTTP", Some(hint));
    };
    match daemon.access.knows(path, bearer(request.headers()).as_deref()).await {
        Ok(true) => next.run(request).await,
        Ok(false) => unknown("Bearer realm=\"walferry\""),
        Err(response) => response,
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    headers.typed_get::<Authorization<Bearer>>().map(|sent| sent.token().to_owned())
}

/// Whatever the user's name.
fn password(headers: &HeaderMap) -> Option<String> {
    headers.typed_get::<Authorization<Basic>>().map(|sent| sent.password().to_owned())
}

fn unknown(challenge: &'static str) -> Response {
    let hint = "Send the token in http.token_file as a bearer token; a browser takes it as the password.";
    let mut response = refusal(StatusCode::UNAUTHORIZED, "the token is missing or wrong", Some(hint));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// Why not, as the API says it.
pub(super) fn refusal(code: StatusCode, error: &str, hint: Option<&str>) -> Response {
    let refusal = Refusal { error: error.to_owned(), hint: hint.map(str::to_owned) };
    (code, Json(refusal)).into_response()
}
