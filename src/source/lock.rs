//! The stream's lock: in goes a catalogue connection to the source, out comes the right to be the one active daemon.
//!
//! A session-level advisory lock: it ends with its connection, however that ends, and needs no table. It decides who
//! may set up (publication, slot, initial copy); the slot itself and the targets' compare-and-set still hold when a
//! server frees the lock of a daemon that only lost this connection. A standby polls: a blocking wait would hold a
//! snapshot, and with it back vacuum.

use super::SourceError;
use super::answer::get;
use crate::postgres::Client;
use crate::sql::Sql;

/// Proof that the session of the client it was taken with holds the stream's lock, for as long as that session lives.
#[derive(Debug)]
#[must_use = "the lock is held until its connection ends, but only by whoever knows"]
pub struct StreamLock {
    stream: String,
}

impl StreamLock {
    /// Takes the lock if it is free; `None`: somebody else has it. `client` must stay open and must not be a pooler's.
    pub async fn try_acquire(client: &Client, stream: &str) -> Result<Option<Self>, SourceError> {
        let sql = Sql::new("SELECT pg_try_advisory_lock(hashtextextended('walferry:' || $1::text, 0)) AS taken");
        let row = client.query_one(&sql, &[&stream]).await;
        let row = row.map_err(SourceError::during(format!("taking the lock of stream \"{stream}\"")))?;
        Ok(get::<bool>(&row, "taken")?.then(|| Self { stream: stream.to_owned() }))
    }

    /// The server process that holds the stream's lock, for messages.
    pub async fn holder(client: &Client, stream: &str) -> Result<Option<i32>, SourceError> {
        // A bigint key is shown as its halves, with objsubid 1 (documentation: pg_locks).
        let sql = Sql::new(
            "SELECT l.pid FROM pg_locks l, (SELECT hashtextextended('walferry:' || $1::text, 0) AS key) k \
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND l.classid::bigint = (k.key >> 32) & 4294967295 AND l.objid::bigint = k.key & 4294967295",
        );
        let row = client.query_opt(&sql, &[&stream]).await;
        let row = row.map_err(SourceError::during(format!("asking who holds the lock of stream \"{stream}\"")))?;
        row.map(|row| get(&row, "pid")).transpose()
    }

    /// Gives the lock back while its connection lives on.
    pub async fn release(self, client: &Client) -> Result<(), SourceError> {
        let sql = Sql::new("SELECT pg_advisory_unlock(hashtextextended('walferry:' || $1::text, 0)) AS held");
        let row = client.query_one(&sql, &[&self.stream]).await;
        let row = row.map_err(SourceError::during(format!("releasing the lock of stream \"{}\"", self.stream)))?;
        if get(&row, "held")? {
            return Ok(());
        }
        Err(SourceError::Answer(format!("the lock of stream \"{}\" was not held by this session", self.stream)))
    }
}
