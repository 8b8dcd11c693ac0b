//! Writing and reading at once.
//!
//! A server answers while it reads. If a client only writes a large flight, the server's answers fill both sockets'
//! buffers, the server waits for the client to read, the client for the server: for ever. So while anything is being
//! written, answers are taken.

use std::time::Duration;

use super::{Frame, WireConnection};
use crate::postgres::PgError;

/// What the caller makes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More frames are due.
    More,
    /// The last one: mostly ReadyForQuery.
    Done,
}

/// How long to listen for a server's last words after a write failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl WireConnection {
    /// Sends everything gathered and hands every answer to `on_frame`, ErrorResponse and ReadyForQuery included, until
    /// it says [`Progress::Done`] and everything is sent.
    ///
    /// # Errors
    /// As [`super::WireReader::frame`], and whatever `on_frame` returns: then frames are still due, and the connection
    /// is of no use any more. When writing fails because the server gave up, its reason is returned.
    pub async fn exchange(
        &mut self,
        mut on_frame: impl FnMut(Frame) -> Result<Progress, PgError>,
    ) -> Result<(), PgError> {
        loop {
            let frame = if self.writer.pending() > 0 {
                tokio::select! {
                    biased;
                    frame = self.reader.frame() => frame?,
                    flushed = self.writer.flush() => match flushed {
                        Ok(()) => continue,
                        Err(error) => return Err(self.last_words(error).await),
                    },
                }
            } else {
                // Nothing pending may still mean bytes held back by TLS.
                self.writer.flush().await?;
                self.reader.frame().await?
            };
            if on_frame(frame)? == Progress::Done {
                return self.writer.flush().await;
            }
        }
    }

    /// Sends everything gathered. Answers that come meanwhile go to `on_frame`; none is waited for.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub async fn flush_and(&mut self, mut on_frame: impl FnMut(Frame) -> Result<(), PgError>) -> Result<(), PgError> {
        loop {
            tokio::select! {
                biased;
                frame = self.reader.frame() => on_frame(frame?)?,
                flushed = self.writer.flush() => return match flushed {
                    Ok(()) => Ok(()),
                    Err(error) => Err(self.last_words(error).await),
                },
            }
        }
    }

    /// The server's own reason for closing the connection, if it left one; else `error`.
    pub(super) async fn last_words(&mut self, error: PgError) -> PgError {
        let listening = tokio::time::timeout(LAST_WORDS, async {
            loop {
                match self.reader.frame().await {
                    Ok(frame) if frame.tag == b'E' => return Some(self.reader.server_error(frame)),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        });
        listening.await.ok().flatten().unwrap_or(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::wire::Purpose;
    use crate::postgres::{Client, ConnectOptions};

    /// Never run: that it compiles says that connections and what they do may move between threads.
    #[allow(dead_code)]
    fn everything_may_be_spawned(options: &ConnectOptions, connection: &mut WireConnection) {
        fn spawnable<T: Send>(_: T) {}
        spawnable(WireConnection::connect(options, "", Purpose::Ordinary));
        spawnable(Client::connect(options, ""));
        spawnable(connection.canceller().cancel());
        spawnable(connection.exchange(|_| Ok(Progress::Done)));
    }
}
