//! How many dead letters lie on a target: looked at while there are any, since commands take them away, and else left
//! in peace, as a target at rest is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::store;
use crate::apply::observer::Observer;
use crate::postgres::Client;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Where to look; touched when there is something new to be seen.
pub(in crate::apply) struct Watch {
    observer: Arc<dyn Observer>,
    /// That of the progress row.
    stream: String,
    client: watch::Sender<Arc<Client>>,
}

impl Watch {
    pub(in crate::apply) fn new(observer: Arc<dyn Observer>, stream: &str, client: &Arc<Client>) -> Self {
        Self { observer, stream: stream.to_owned(), client: watch::Sender::new(Arc::clone(client)) }
    }

    /// Looks over this connection from now on.
    pub(in crate::apply) fn attend(&self, client: &Arc<Client>) {
        self.client.send_replace(Arc::clone(client));
    }

    /// Looks again soon.
    pub(in crate::apply) fn look(&self) {
        self.client.send_modify(|_| {});
    }

    /// Tells the observer, for as long as it is polled.
    pub(in crate::apply) async fn run(&self) -> Infallible {
        let mut changes = self.client.subscribe();
        loop {
            let client = Arc::clone(&changes.borrow_and_update());
            let counted = store::count(&client, &self.stream).await;
            if let Ok(waiting) = counted {
                self.observer.dead_letters(waiting);
            }
            // A connection that fails is replaced by who applies; the sender is ours, so waiting does not fail.
            let rest = matches!(counted, Ok(0)) || client.is_closed();
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(LOOK), if !rest => {}
            }
        }
    }
}
