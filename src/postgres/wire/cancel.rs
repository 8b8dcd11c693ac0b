//! Cancel requests (documentation: "Message Flow", "Canceling Requests in Progress"): a connection of its own that says
//! whose statement to stop, and nothing else.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::startup::BackendKey;
use crate::error::Verdict;
use crate::postgres::transport::{self, Address};
use crate::postgres::{ConnectOptions, PgError};

/// CancelRequestCode.
const CODE: u32 = 80_877_102;

/// Asks the server to stop what a connection is running.
#[derive(Clone)]
pub struct Canceller {
    options: Arc<ConnectOptions>,
    address: Address,
    key: BackendKey,
    peer: Arc<str>,
}

impl Canceller {
    pub(super) fn new(options: ConnectOptions, address: Address, key: BackendKey, peer: Arc<str>) -> Self {
        Self { options: Arc::new(options), address, key, peer }
    }

    /// The server process that the key names; whoever stands in between may have made it up.
    pub(super) fn process_id(&self) -> Option<i32> {
        self.key.as_ref()?.first_chunk().map(|id| i32::from_be_bytes(*id))
    }

    /// Sends the request, by the same way (and encryption) as the connection, and waits until the server has taken it.
    /// Whether it had an effect only the statement's own answer tells (SQLSTATE 57014).
    ///
    /// # Errors
    /// [`PgError::Connect`] when the server cannot be reached or gave no key.
    pub async fn cancel(&self) -> Result<(), PgError> {
        let Some(key) = &self.key else {
            let message = format!("{}: the server gave no key to cancel by", self.peer);
            return Err(PgError::no_session(message, Verdict::Retry));
        };
        let mut request = BytesMut::with_capacity(8 + key.len());
        request.put_u32(8 + key.len() as u32);
        request.put_u32(CODE);
        request.put_slice(key);
        let mut link = transport::reopen(&self.options, &self.address, &self.peer).await?;
        link.write_all(&request).await.map_err(|error| PgError::io(&self.peer, error))?;
        link.flush().await.map_err(|error| PgError::io(&self.peer, error))?;
        // The server closes after it has sent the signal. How the end looks says nothing (TLS may end abruptly).
        let mut end = [0; 1];
        let _closed = tokio::time::timeout(std::time::Duration::from_secs(5), link.read(&mut end)).await;
        Ok(())
    }
}
