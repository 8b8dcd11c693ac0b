//! Creating a slot with an exported snapshot: in goes a replication connection, out comes the consistent point and a
//! snapshot that shows exactly the transactions that committed before it.
//!
//! The server waits until every transaction that was running has ended, idle ones too (`SnapBuildWaitSnapshot` in
//! snapbuild.c). `statement_timeout` does not apply. While it waits, who holds it up is logged. Somebody who gives up
//! drops the future: a cancel request is sent after it, because a walsender that waits for a lock does not notice that
//! its client is gone, and would finish the slot for nobody.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{PLUGIN, slot_error};
use crate::error::chain;
use crate::lsn::Lsn;
use crate::postgres::wire::Canceller;
use crate::postgres::{Client, WireConnection};
use crate::source::SourceError;
use crate::source::answer::{first, get, parsed, text};
use crate::source::identity::in_recovery;
use crate::sql::Sql;

/// How often those who hold up the creation are named.
const REMIND: Duration = Duration::from_secs(5);
/// How many of them.
const NAMED: i64 = 20;

/// An exported snapshot and the connection it lives and dies with: nothing else may be sent on it until every reader
/// has adopted it (`SET TRANSACTION SNAPSHOT`).
pub struct Snapshot {
    /// The consistent point: what commits from here on is streamed, what committed before is in the snapshot.
    pub lsn: Lsn,
    /// What `SET TRANSACTION SNAPSHOT` takes.
    pub name: String,
    /// The slot.
    pub slot: String,
    /// Whether the slot ends with this connection too.
    pub temporary: bool,
    conn: WireConnection,
    ended: bool,
}

impl Snapshot {
    /// Whether the connection is still there, as far as is known without asking (asking would end the snapshot).
    pub fn is_alive(&mut self) -> bool {
        // Nothing is expected from the server, so whatever arrives is the end.
        self.ended |= self.conn.reader.frame().now_or_never().is_some();
        !self.ended
    }

    /// Resolves when the connection breaks and the snapshot with it. Cancel-safe.
    pub async fn lost(&mut self) -> SourceError {
        let doing = format!("holding the snapshot of replication slot \"{}\"", self.slot);
        let frame = self.conn.reader.frame().await;
        self.ended = true;
        match frame {
            Ok(frame) if frame.tag == b'E' => {
                SourceError::Postgres { doing, source: self.conn.reader.server_error(frame) }
            }
            Ok(frame) => {
                SourceError::Postgres { doing, source: self.conn.reader.unexpected(&frame, "an exported snapshot") }
            }
            Err(source) => SourceError::Postgres { doing, source },
        }
    }

    /// Gives up the snapshot and keeps the connection: the only one that can stream from a temporary slot.
    pub fn into_connection(self) -> WireConnection {
        self.conn
    }

    /// Gives up the snapshot and closes the connection, and with it a temporary slot.
    pub async fn release(self) -> Result<(), SourceError> {
        let doing = format!("releasing the snapshot of replication slot \"{}\"", self.slot);
        self.conn.close().await.map_err(SourceError::during(doing))
    }
}

/// A transaction that a new slot has to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The server process; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// `application_name`, or the prepared transaction's identifier.
    pub application_name: String,
    /// `pg_stat_activity.state`, `prepared`, or `unknown` where the role may not see it.
    pub state: String,
    /// How long ago the transaction started; `None` where the role may not see it.
    pub age: Option<Duration>,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} ({}, {})", self.application_name, self.state)?,
            None => write!(f, "prepared transaction \"{}\"", self.application_name)?,
        }
        self.age.map_or(Ok(()), |age| write!(f, " since {} s", age.as_secs()))
    }
}

/// The transactions of the whole server that write, oldest first: a slot's creation waits for those of any database.
pub async fn blockers(client: &Client) -> Result<Vec<Blocker>, SourceError> {
    // backend_xid and application_name are shown to every role (`pg_stat_get_activity` in pgstatfuncs.c).
    let sql = Sql::new(
        "SELECT pid, coalesce(application_name, '') AS name, coalesce(state, 'unknown') AS state, \
         extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age FROM pg_stat_activity \
         WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() \
         UNION ALL SELECT NULL, gid, 'prepared', extract(epoch FROM clock_timestamp() - prepared)::float8 \
         FROM pg_prepared_xacts ORDER BY age DESC NULLS LAST LIMIT $1",
    );
    let rows = client.query(&sql, &[&NAMED]).await;
    let rows = rows.map_err(SourceError::during("asking which transactions are running"))?;
    let blocker = |row| {
        let age: Option<f64> = get(row, "age")?;
        Ok(Blocker {
            pid: get(row, "pid")?,
            application_name: get(row, "name")?,
            state: get(row, "state")?,
            age: age.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        })
    };
    rows.iter().map(blocker).collect()
}

/// Creates the slot for pgoutput. `failover` has it synchronized to standbys, on servers that can (17 and later; not
/// on a standby: "cannot enable failover for a replication slot created on the standby", slotfuncs.c). `catalogue` is
/// asked about that, and, while the server waits, for whom.
///
/// Dropping the future gives up; the server then drops the half-made slot, a moment later.
///
/// # Errors
/// [`SourceError::Postgres`]: it exists already (42710), no free slot, `wal_level`, or no REPLICATION.
pub async fn create(
    mut conn: WireConnection,
    slot: &str,
    temporary: bool,
    failover: bool,
    catalogue: &Client,
) -> Result<Snapshot, SourceError> {
    let failover = failover && !in_recovery(catalogue).await.map_err(SourceError::during("asking for a standby"))?;
    let sql = create_sql(slot, temporary, failover, conn.server_version());
    let mut abandon = CancelOnDrop(Some(conn.canceller()));
    let answer = {
        let asked = conn.query(&sql);
        tokio::pin!(asked);
        let mut reminder = interval_at(Instant::now() + REMIND, REMIND);
        reminder.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                answer = &mut asked => break answer,
                _ = reminder.tick() => {
                    // Asked beside the creation: its answer must not wait for this one.
                    tokio::select! {
                        biased;
                        answer = &mut asked => break answer,
                        () = remind(catalogue, slot) => {}
                    }
                    if catalogue.is_closed() {
                        let doing = format!("creating replication slot \"{slot}\"");
                        return Err(SourceError::during(doing)(catalogue.lost()));
                    }
                }
            }
        }
    };
    abandon.0 = None;
    let rows = answer.map_err(|error| match error.code() {
        Some("42704") => {
            SourceError::Postgres { doing: format!("creating replication slot \"{slot}\""), source: error }
        }
        _ => slot_error(slot, "creating", error),
    })?;
    let row = first(rows, "CREATE_REPLICATION_SLOT")?;
    let lsn = parsed(&row, 1, "the consistent point")?;
    let name = text(&row, 2, "the exported snapshot")?;
    tracing::info!(slot, %lsn, temporary, "replication slot created");
    Ok(Snapshot { lsn, name, slot: slot.to_owned(), temporary, conn, ended: false })
}

/// Options came in parentheses with 15, `FAILOVER` with 17 (documentation: "Streaming Replication Protocol").
fn create_sql(slot: &str, temporary: bool, failover: bool, server_version: u32) -> Sql {
    let options = match server_version {
        super::failover::SINCE.. if failover && !temporary => Sql::new("(SNAPSHOT 'export', FAILOVER true)"),
        150_000.. => Sql::new("(SNAPSHOT 'export')"),
        _ => Sql::new("EXPORT_SNAPSHOT"),
    };
    let temporary = Sql::new(if temporary { "TEMPORARY " } else { "" });
    let pieces = [&Sql::ident(slot), &temporary, &Sql::ident(PLUGIN), &options];
    Sql::format("CREATE_REPLICATION_SLOT {} {}LOGICAL {} {}", &pieces)
}

async fn remind(catalogue: &Client, slot: &str) {
    match blockers(catalogue).await {
        Ok(blockers) if blockers.is_empty() => tracing::warn!(
            slot,
            "waiting for the slot's creation; no transaction holds it up here (on a standby: run \
             pg_log_standby_snapshot() on the primary)"
        ),
        Ok(blockers) => {
            let waiting_for = blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(slot, waiting_for, "the slot's creation waits for these transactions to end");
        }
        Err(error) => {
            tracing::warn!(slot, error = chain(&error), "waiting for the slot's creation, for whom is unknown")
        }
    }
}

/// Sends a cancel request when it is dropped while armed.
struct CancelOnDrop(Option<Canceller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let (Some(canceller), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(async move {
            if let Err(error) = canceller.cancel().await {
                tracing::warn!(error = chain(&error), "an abandoned slot creation could not be cancelled");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_its_own_grammar() {
        let text = |temporary, failover, version| create_sql("s", temporary, failover, version).as_str().to_owned();
        assert_eq!(text(false, true, 140_000), "CREATE_REPLICATION_SLOT \"s\" LOGICAL \"pgoutput\" EXPORT_SNAPSHOT");
        assert_eq!(
            text(true, false, 150_000),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL \"pgoutput\" (SNAPSHOT 'export')"
        );
        assert_eq!(
            text(false, true, 170_000),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL \"pgoutput\" (SNAPSHOT 'export', FAILOVER true)"
        );
        // "cannot enable failover for a temporary replication slot" (slot.c)
        assert!(!text(true, true, 180_000).contains("FAILOVER"));
    }

    #[test]
    fn a_blocker_is_named_with_what_is_known() {
        let blocker = Blocker {
            pid: Some(7),
            application_name: "psql".to_owned(),
            state: "idle in transaction".to_owned(),
            age: Some(Duration::from_millis(61_500)),
        };
        assert_eq!(blocker.to_string(), "process 7 (psql, idle in transaction) since 61 s");
        let prepared = Blocker { pid: None, application_name: "tx1".to_owned(), age: None, ..blocker };
        assert_eq!(prepared.to_string(), "prepared transaction \"tx1\"");
    }
}
