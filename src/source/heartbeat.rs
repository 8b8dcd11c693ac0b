//! The heartbeat: in goes an interval, out come logical messages in the source's WAL, and with them commits of the
//! stream.
//!
//! A slot moves only when something of its database commits. On a quiet database of a busy server nothing does, and the
//! server keeps all its WAL; a message in a transaction of its own is the smallest commit there is. It needs no table
//! and no privilege. It says whose it is and when it was written, by the source's clock.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::SourceError;
use crate::change::{Message, PgTime};
use crate::error::chain;
use crate::postgres::{Client, ConnectOptions};
use crate::sql::Sql;

/// The prefix of walferry's own messages.
pub const PREFIX: &str = "walferry";

/// A beat may take this long (at least): a connection that hangs longer is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// What one heartbeat says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose it is: several streams may read one source.
    pub stream: String,
    /// When, by the source's clock.
    pub at: PgTime,
}

impl Beat {
    /// Reads a message, `None` when it is somebody else's.
    pub fn parse(message: &Message) -> Option<Self> {
        if message.prefix != PREFIX {
            return None;
        }
        // From the end: a stream's name may hold blanks.
        let mut fields = std::str::from_utf8(&message.content).ok()?.rsplitn(2, ' ');
        let at = PgTime(fields.next()?.parse().ok()?);
        Some(Self { stream: fields.next()?.to_owned(), at })
    }
}

/// Writes a beat at every interval until `cancel`. Nothing that goes wrong ends it: it is logged, once until it works
/// again, and tried anew at the next interval on a new connection.
pub async fn run(options: &ConnectOptions, stream: &str, every: Duration, cancel: CancellationToken) {
    let work = async {
        let mut ticks = interval(every.max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut client = None;
        let mut failing = false;
        loop {
            ticks.tick().await;
            let error = match timeout(PATIENCE.max(every), beat(options, stream, &mut client)).await {
                Ok(Ok(())) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(stream, "heartbeats are written again");
                    }
                    continue;
                }
                Ok(Err(error)) => chain(&error),
                Err(_) => "no answer in time".to_owned(),
            };
            client = None;
            if std::mem::replace(&mut failing, true) {
                tracing::debug!(stream, error, "heartbeat failed again");
            } else {
                tracing::warn!(stream, error, "heartbeat failed; the slot may keep WAL while the database is idle");
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

async fn beat(options: &ConnectOptions, stream: &str, client: &mut Option<Client>) -> Result<(), SourceError> {
    let doing = || SourceError::during(format!("the heartbeat of stream \"{stream}\""));
    let client = match client {
        Some(client) => client,
        None => {
            let new = Client::connect(options, &format!("walferry/{stream}/heartbeat")).await.map_err(doing())?;
            // A beat need not survive a crash, and must not wait for a synchronous standby, which may be this stream.
            new.batch(&Sql::new("SET synchronous_commit = off")).await.map_err(doing())?;
            client.insert(new)
        }
    };
    // PgTime counts from 2000-01-01; the server's clock, so that lag is not a difference between two clocks.
    let sql = Sql::new(
        "SELECT pg_logical_emit_message(true, 'walferry', $1::text || ' ' || \
         ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 946684800000000)::text)",
    );
    client.execute(&sql, &[&stream]).await.map_err(doing())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::lsn::Lsn;

    fn message(prefix: &str, content: &'static str) -> Message {
        let content = Bytes::from_static(content.as_bytes());
        Message { lsn: Lsn::new(1), transactional: true, prefix: prefix.to_owned(), content }
    }

    #[test]
    fn a_beat_is_read_back_whatever_the_streams_name() {
        for stream in ["main", "two words", ""] {
            let content = format!("{stream} -12");
            let message = Message { content: content.into(), ..message(PREFIX, "") };
            let beat = Beat { stream: stream.to_owned(), at: PgTime(-12) };
            assert_eq!(Beat::parse(&message), Some(beat));
        }
    }

    #[test]
    fn what_is_not_a_beat_is_none() {
        for content in ["", "main", "1", "main x", "main 1x"] {
            assert_eq!(Beat::parse(&message(PREFIX, content)), None, "{content:?}");
        }
        assert_eq!(Beat::parse(&message("else", "main 1")), None);
    }
}
