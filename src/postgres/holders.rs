//! Who keeps others waiting: the sessions that hold locks on tables.

use tokio_postgres::Row;

use super::{Client, PgError};
use crate::sql::Sql;

/// Which locks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// All, also those of readers.
    All,
    /// All but those of who only reads: in the way of one row is who has written it, or keeps it (SELECT … FOR UPDATE).
    OfRows,
}

const HOLDERS: Sql = Sql::new(
    "SELECT DISTINCT l.pid, coalesce(a.application_name, ''), coalesce(a.state, 'unknown') \
     FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
     WHERE l.locktype = 'relation' AND l.granted AND d.datname = current_database() \
     AND l.relation = ANY ($1::oid[]) AND l.pid <> pg_backend_pid() \
     AND ($2 OR l.mode <> 'AccessShareLock') ORDER BY l.pid LIMIT 20",
);

/// Who holds locks on these tables (`pg_class.oid`) now, for a message: `process 123 (psql, idle in transaction)`. To
/// be asked when waiting for them was given up: whoever it was may be gone by then.
///
/// # Errors
/// As [`Client::query`].
pub async fn holders(client: &Client, tables: &[u32], locks: Locks) -> Result<String, PgError> {
    let rows = client.query(&HOLDERS, &[&tables, &(locks == Locks::All)]).await?;
    let holder =
        |row: &Row| format!("process {} ({}, {})", row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, &str>(2));
    Ok(match rows.is_empty() {
        true => "another session".to_owned(),
        false => rows.iter().map(holder).collect::<Vec<_>>().join(", "),
    })
}
