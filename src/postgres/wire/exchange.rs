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
            let frame = tokio::select! {
                biased;
                frame = self.reader.frame() => frame?,
                flushed = self.writer.flush(), if self.writer.is_unsent() => match flushed {
                    Ok(()) => continue,
                    Err(error) => return Err(self.last_words(error).await),
                },
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
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncWrite, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;
    use crate::postgres::conninfo::Environment;
    use crate::postgres::wire::Purpose;
    use crate::postgres::{Client, ConnectOptions, WireReader, WireWriter};

    /// Never run: that it compiles says that connections and what they do may move between threads.
    #[allow(dead_code)]
    fn everything_may_be_spawned(options: &ConnectOptions, connection: &mut WireConnection) {
        fn spawnable<T: Send>(_: T) {}
        spawnable(WireConnection::connect(options, "", Purpose::Ordinary));
        spawnable(Client::connect(options, ""));
        spawnable(connection.canceller().cancel());
        spawnable(connection.exchange(|_| Ok(Progress::Done)));
    }

    /// As TLS does it: takes everything at once, and what it holds leaves when the server reads on.
    struct Holding(oneshot::Receiver<()>);

    impl AsyncWrite for Holding {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let read_on = ready!(Pin::new(&mut self.0).poll(cx));
            Poll::Ready(read_on.map_err(io::Error::other))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn answers_are_read_while_the_stream_below_holds_bytes_back() {
        let (near, mut far) = tokio::io::duplex(16);
        let (reads_on, held) = oneshot::channel();
        tokio::spawn(async move {
            // A server that waits until its answers are read before it reads.
            for _ in 0..100 {
                far.write_all(b"D\0\0\0\x06\0\0").await.unwrap();
            }
            reads_on.send(()).unwrap();
            far.write_all(b"Z\0\0\0\x05I").await.unwrap();
            far
        });
        let options = ConnectOptions::resolve("host=/nowhere", &Environment::bare("u")).unwrap();
        let (reader, writer) = (WireReader::new(near, "test"), WireWriter::new(Holding(held), "test"));
        let mut connection = WireConnection::over(reader, writer, 150_000, options);
        connection.writer.buffer().extend_from_slice(b"a flight");
        let mut rows = 0;
        let exchanged = connection.exchange(|frame| {
            rows += usize::from(frame.tag == b'D');
            Ok(if frame.tag == b'Z' { Progress::Done } else { Progress::More })
        });
        tokio::time::timeout(Duration::from_secs(60), exchanged).await.expect("a deadlock").unwrap();
        assert_eq!(rows, 100);
    }
}
