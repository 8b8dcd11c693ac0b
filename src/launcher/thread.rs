//! A future with a thread and a runtime of its own.
//!
//! The stream is read there. What wakes its thread is the stream's socket and nothing else, so that the thread can
//! leave the socket alone by sleeping (`source/pace.rs`): in a runtime with several threads another one would be woken
//! for every message that arrives meanwhile, which is what is to be avoided. And a message goes through all stages up
//! to the queues without changing threads.

use std::io;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// A future at work on its thread. What the future leaves behind, connections for instance, is served there for as
/// long as this is kept; dropped, it ends the thread, the future included.
pub struct Thread<T> {
    ended: oneshot::Receiver<T>,
    _kept: oneshot::Sender<()>,
}

impl<T: Send + 'static> Thread<T> {
    /// Starts the future on a thread of this name.
    ///
    /// # Errors
    /// When the system has no more threads or files.
    pub fn start(name: &str, future: impl Future<Output = T> + Send + 'static) -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let (kept, mut dropped) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    biased;
                    _ = &mut dropped => return,
                    result = future => drop(end.send(result)),
                }
                let _ = dropped.await;
            });
        })?;
        Ok(Self { ended, _kept: kept })
    }

    /// Waits for the future's end; `None` when it has panicked. To be called again only if it was cancelled.
    pub async fn ended(&mut self) -> Option<T> {
        (&mut self.ended).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn what_a_future_leaves_behind_lives_as_long_as_its_thread_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let future = async move {
            let pinged = CancellationToken::new();
            let ping = pinged.clone();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_u8().await.unwrap();
                ping.cancel();
            });
            pinged
        };
        let mut thread = Thread::start("test", future).unwrap();
        let pinged = thread.ended().await.unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_u8(&mut stream, 1).await.unwrap();
        pinged.cancelled().await;
    }

    #[tokio::test]
    async fn dropped_it_ends_its_future() {
        let (sender, receiver) = oneshot::channel::<()>();
        let thread = Thread::start("test", async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        drop(thread.unwrap());
        assert!(receiver.await.is_err());
    }

    #[tokio::test]
    async fn a_panic_is_an_end() {
        let mut thread = Thread::start("test", async { assert!(std::env::args().count() > 1_000_000) }).unwrap();
        assert!(thread.ended().await.is_none());
    }
}
