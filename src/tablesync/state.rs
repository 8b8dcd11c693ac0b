//! `walferry.table_state` on a target: how far each table's initial copy is, and who copies.
//!
//! ```text
//!   (no row) ──take_over──▶ copying ──last range's commit──▶ done ◀──────────admit─────────┐
//!                              ▲   └───last range's commit, beside the stream──▶ catching up
//!                              └ take_over, mark_for_copy, begin_again, from each of them   forget: back to (no row)
//!   each ──stop──▶ paused, quarantined ──mark_for_copy──▶ copying        quarantined ──begin_again──▶ copying
//! ```
//!
//! **The fence.** Every transaction that writes rows first locks its table's row with [`fence`]: `copier = me … FOR
//! KEY SHARE`. Whoever takes a table over locks the row `FOR UPDATE` first, which waits for all such transactions,
//! and then changes `copier`, so that later ones find no row. (`FOR KEY SHARE`, the one lock mode that lets
//! [`account`] update the row while other ranges of the table are still being written; and so the wish to take over
//! has to be an explicit `FOR UPDATE`, because a bare UPDATE of non-key columns would not wait. PostgreSQL: 13.3.2
//! "Row-Level Locks".)

use std::collections::{BTreeMap, BTreeSet};

use crate::apply::progress;
use crate::lsn::Lsn;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// Where a table's initial copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyState {
    /// Begun, perhaps partly committed: then rows are counted. Found at start it means that a run ended in the middle,
    /// or that somebody wants it so: the table is copied again, and what becomes of its rows [`super::fate`] says.
    Copying,
    /// All rows of the snapshot are there, and its changes since are applied beside the stream. Found at start it means
    /// that a run ended meanwhile: how far it got is not known, and the table is copied again.
    CatchingUp,
    /// All rows of the snapshot are there, and the stream has it from `copy_lsn` on.
    Done,
    /// An operator has its changes left out.
    Paused,
    /// One of its changes was refused, and they are left out since.
    Quarantined,
}

impl CopyState {
    /// As stored, and as shown in status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CopyState::Copying => "copying",
            CopyState::CatchingUp => "catching up",
            CopyState::Done => "done",
            CopyState::Paused => "paused",
            CopyState::Quarantined => "quarantined",
        }
    }

    /// Whether its changes are left out until somebody acts, and it is not copied before.
    pub fn is_stopped(self) -> bool {
        matches!(self, CopyState::Paused | CopyState::Quarantined)
    }
}

/// A table's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Schema and name, as on the source.
    pub name: TableName,
    /// Where the copy stands.
    pub state: CopyState,
    /// Transactions that commit from here on are not in the table yet when the stream takes it over: the snapshot's
    /// consistent point, or how far its changes were applied beside the stream.
    pub copy_lsn: Lsn,
    /// Rows committed by the copy so far.
    pub rows: u64,
    /// What the table was on the source when it was copied, as whoever had it copied has noted; `None`: not noted.
    pub origin: Option<String>,
    /// Why it is quarantined.
    pub error: Option<String>,
}

impl TableState {
    /// Whether a copy of it was ever begun, so that its rows on the target are walferry's.
    pub fn was_begun(&self) -> bool {
        self.copy_lsn != Lsn::ZERO
    }
}

const INSTALLED: Sql = Sql::new("SELECT to_regclass('walferry.table_state') IS NOT NULL");

const LOAD: Sql = Sql::new(
    "SELECT schema_name, table_name, state, copy_lsn::text, rows_copied, origin, error FROM walferry.table_state \
     WHERE stream = $1 ORDER BY schema_name, table_name",
);

/// All tables of the stream that have been begun. None when walferry's schema is not on the target yet.
pub async fn load(client: &Client, stream: &str) -> Result<Vec<TableState>, PgError> {
    if !client.query_one(&INSTALLED, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    client.query(&LOAD, &[&stream]).await?.iter().map(|row| stored(row, client.peer())).collect()
}

fn stored(row: &tokio_postgres::Row, peer: &str) -> Result<TableState, PgError> {
    let name = name(row);
    let strange = |what: &str| PgError::Protocol {
        peer: peer.to_owned(),
        message: format!("walferry.table_state holds an unknown {what} for table {name}"),
    };
    Ok(TableState {
        state: match row.get::<_, &str>(2) {
            "copying" => CopyState::Copying,
            "catching up" => CopyState::CatchingUp,
            "done" => CopyState::Done,
            "paused" => CopyState::Paused,
            "quarantined" => CopyState::Quarantined,
            _ => return Err(strange("state")),
        },
        copy_lsn: row.get::<_, &str>(3).parse().map_err(|_| strange("copy_lsn"))?,
        rows: u64::try_from(row.get::<_, i64>(4)).map_err(|_| strange("rows_copied"))?,
        origin: row.get(5),
        error: row.get(6),
        name,
    })
}

/// Who copies, and under which snapshot.
#[derive(Clone, Debug)]
pub struct Run {
    /// The stream.
    pub stream: String,
    /// Unique to this run of the daemon.
    pub copier: String,
    /// The snapshot's consistent point.
    pub copy_lsn: Lsn,
}

const REGISTER: Sql = Sql::new(
    "INSERT INTO walferry.table_state (stream, schema_name, table_name, state, copier, copy_lsn) \
     SELECT $1, wanted.*, 'copying', $2, $3::text::pg_lsn FROM unnest($4::text[], $5::text[]) AS wanted \
     ORDER BY 2, 3 ON CONFLICT DO NOTHING RETURNING schema_name, table_name",
);

const LOCK: Sql = Sql::new(
    "SELECT schema_name, table_name, state, copy_lsn::text, rows_copied, origin, error FROM walferry.table_state \
     WHERE stream = $1 AND (schema_name, table_name) IN (SELECT * FROM unnest($2::text[], $3::text[])) \
     ORDER BY schema_name, table_name FOR UPDATE",
);

const TAKE: Sql = Sql::new(
    "UPDATE walferry.table_state t SET state = 'copying', copier = $2, copy_lsn = $3::text::pg_lsn, rows_copied = 0, \
     started_at = now(), finished_at = NULL, origin = wanted.origin, error = NULL \
     FROM unnest($4::text[], $5::text[], $6::text[]) AS wanted (schema_name, table_name, origin) \
     WHERE t.stream = $1 AND (t.schema_name, t.table_name) = (wanted.schema_name, wanted.table_name)",
);

const SUPERSEDE: Sql = Sql::new(
    "UPDATE walferry.dead_letter SET superseded_lsn = $2::text::pg_lsn WHERE stream = $1 AND superseded_lsn IS NULL \
     AND (schema_name, table_name) IN (SELECT * FROM unnest($3::text[], $4::text[]))",
);

/// Makes `run` the copier of the tables, from the beginning; to be called inside a transaction, which then also
/// empties what must be emptied. Waits for transactions of an earlier copier. Notes the tables' origins, each beside
/// its name, and gives their former states; a table without one had never been begun.
pub async fn take_over(
    client: &Client,
    run: &Run,
    tables: &BTreeMap<TableName, String>,
) -> Result<BTreeMap<TableName, TableState>, PgError> {
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.keys().map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let origins: Vec<&str> = tables.values().map(String::as_str).collect();
    let lsn = run.copy_lsn.to_string();
    let fresh: BTreeSet<TableName> =
        client.query(&REGISTER, &[&run.stream, &run.copier, &lsn, &schemas, &names]).await?.iter().map(name).collect();
    let mut former = BTreeMap::new();
    for row in client.query(&LOCK, &[&run.stream, &schemas, &names]).await? {
        let state = stored(&row, client.peer())?;
        if !fresh.contains(&state.name) {
            former.insert(state.name.clone(), state);
        }
    }
    client.execute(&TAKE, &[&run.stream, &run.copier, &lsn, &schemas, &names, &origins]).await?;
    // What they would have changed is in the copy.
    client.execute(&SUPERSEDE, &[&run.stream, &lsn, &schemas, &names]).await?;
    Ok(former)
}

const FORGET: Sql =
    Sql::new("DELETE FROM walferry.table_state WHERE stream = $1 AND schema_name = $2 AND table_name = $3");

/// Removes a table's row, as if its copy had never begun; whether there was one. Its rows stay.
pub async fn forget(client: &Client, stream: &str, table: &TableName) -> Result<bool, PgError> {
    Ok(client.execute(&FORGET, &[&stream, &table.schema, &table.name]).await? > 0)
}

const NOTE: Sql = Sql::new(
    "UPDATE walferry.table_state SET origin = $4 WHERE stream = $1 AND schema_name = $2 AND table_name = $3 \
     AND state = 'done'",
);

/// Notes what a copied table was on the source.
pub async fn note_origin(client: &Client, stream: &str, table: &TableName, origin: &str) -> Result<(), PgError> {
    client.execute(&NOTE, &[&stream, &table.schema, &table.name, &origin]).await.map(drop)
}

const MARK: Sql = Sql::new(
    "UPDATE walferry.table_state SET state = 'copying', copier = 'nobody', rows_copied = 0, finished_at = NULL, \
     error = NULL WHERE stream = $1 AND schema_name = $2 AND table_name = $3 AND state <> 'copying'",
);

/// Marks a table that was begun to be copied again by the next run, which may empty it: its rows are walferry's.
pub async fn mark_for_copy(client: &Client, stream: &str, table: &TableName) -> Result<(), PgError> {
    client.execute(&MARK, &[&stream, &table.schema, &table.name]).await.map(drop)
}

const GO_ON: Sql = Sql::new(
    "UPDATE walferry.table_state SET state = 'copying', copier = 'nobody', rows_copied = 0, finished_at = NULL, \
     error = NULL WHERE stream = $1 AND schema_name = $2 AND table_name = $3 AND state IN ('paused', 'quarantined')",
);

/// Has a stopped table copied again by the next run, and with that followed.
pub async fn go_on(client: &Client, stream: &str, table: &TableName) -> Result<(), PgError> {
    client.execute(&GO_ON, &[&stream, &table.schema, &table.name]).await.map(drop)
}

const STOP: Sql = Sql::new(
    "INSERT INTO walferry.table_state (stream, schema_name, table_name, state, copier, copy_lsn, error) \
     VALUES ($1, $2, $3, $4, 'nobody', '0/0', $5) ON CONFLICT (stream, schema_name, table_name) DO UPDATE \
     SET state = excluded.state, copier = excluded.copier, error = excluded.error",
);

/// Has a table's changes left out from now on, and a copy of it that is under way end: `state` is `Paused`, or
/// `Quarantined` for this reason. One whose copy was never begun has no copy position.
pub async fn stop(
    client: &Client,
    stream: &str,
    table: &TableName,
    state: CopyState,
    reason: Option<&str>,
) -> Result<(), PgError> {
    client.execute(&STOP, &[&stream, &table.schema, &table.name, &state.as_str(), &reason]).await.map(drop)
}

const LOCK_ALL: Sql =
    Sql::new("SELECT FROM walferry.table_state WHERE stream = $1 ORDER BY schema_name, table_name FOR UPDATE");

const MARK_ALL: Sql = Sql::new(
    "UPDATE walferry.table_state SET state = 'copying', copier = '', finished_at = NULL, error = NULL, \
     rows_copied = CASE WHEN state = 'copying' THEN rows_copied ELSE 0 END WHERE stream = $1 AND state <> 'paused'",
);

/// Has the stream begin from nothing, in one transaction: its position is gone, and every table, but those that are
/// paused, is to be copied again by the next run; how many. Waits for copies under way, which then find at their fence
/// that they are not the copier any more. What was counted of a copy that has not ended is kept: only so are half of a
/// table's rows known as such.
pub async fn begin_again(client: &Client, stream: &str) -> Result<u64, PgError> {
    client.batch(&Sql::new("BEGIN")).await?;
    client.query(&LOCK_ALL, &[&stream]).await?;
    let marked = client.execute(&MARK_ALL, &[&stream]).await?;
    progress::forget(client, stream).await?;
    client.batch(&Sql::new("COMMIT")).await?;
    Ok(marked)
}

const COPIED_BY: Sql = Sql::new(
    "SELECT schema_name, table_name FROM walferry.table_state \
     WHERE stream = $1 AND copier = $2 AND state = 'catching up'",
);

/// The tables that this copier has copied, and that are to catch up.
pub async fn copied_by(client: &Client, stream: &str, copier: &str) -> Result<BTreeSet<TableName>, PgError> {
    Ok(client.query(&COPIED_BY, &[&stream, &copier]).await?.iter().map(name).collect())
}

fn name(row: &tokio_postgres::Row) -> TableName {
    TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))
}

const ADMIT: Sql = Sql::new(
    "WITH lane AS \
     (DELETE FROM walferry.progress WHERE stream = $2 AND lane_of = $1 AND end_lsn IS NOT NULL RETURNING end_lsn) \
     UPDATE walferry.table_state t SET state = 'done', copy_lsn = lane.end_lsn FROM lane \
     WHERE t.stream = $1 AND t.copier = $3 AND t.state = 'catching up' RETURNING t.schema_name, t.table_name",
);

/// The stream takes over the tables that this copier has copied and whose changes were applied through `lane`, from
/// where that got to; the lane's progress goes in the same transaction. Gives the tables: none, if the lane is gone.
///
/// Whoever reads them as done finds everything applied that the lane has committed: it was committed before, so a crash
/// that takes it back takes this back as well.
pub async fn admit(client: &Client, stream: &str, lane: &str, copier: &str) -> Result<Vec<TableName>, PgError> {
    Ok(client.query(&ADMIT, &[&stream, &lane, &copier]).await?.iter().map(name).collect())
}

fn row_of(run: &Run, table: &TableName) -> Sql {
    Sql::format(
        "stream = {} AND schema_name = {} AND table_name = {} AND copier = {}",
        &[
            &Sql::literal(&run.stream),
            &Sql::literal(&table.schema),
            &Sql::literal(&table.name),
            &Sql::literal(&run.copier),
        ],
    )
}

/// First in every transaction that writes rows: gives one row while `run` may copy `table`, and keeps it so until the
/// transaction ends.
pub fn fence(run: &Run, table: &TableName) -> Sql {
    Sql::format(
        "SELECT 1 FROM walferry.table_state WHERE {} AND state = 'copying' FOR KEY SHARE",
        &[&row_of(run, table)],
    )
}

/// SQLSTATE of [`account`] where no row is to be counted on: division by zero.
pub const NOT_MINE: &str = "22012";

/// Last in every transaction that writes rows, right before COMMIT: counts them and, with the table's last rows, says
/// what it is from then on (`finished`). Fails with [`NOT_MINE`], so that COMMIT is not run, unless `before` rows were
/// committed so far: the table is another's by now, or the target lost commits (a failover).
pub fn account(run: &Run, table: &TableName, before: u64, rows: u64, finished: Option<CopyState>) -> Sql {
    let finish = match finished {
        Some(state) => Sql::format(", state = {}, finished_at = now()", &[&Sql::literal(state.as_str())]),
        None => Sql::new(""),
    };
    Sql::format(
        "WITH counted AS \
         (UPDATE walferry.table_state SET rows_copied = {}{} WHERE {} AND rows_copied = {} RETURNING 1) \
         SELECT 1 / count(*) FROM counted",
        &[&Sql::number(before + rows), &finish, &row_of(run, table), &Sql::number(before)],
    )
}

/// What the table's row says once a transaction that may or may not have committed has ended: `state`, `rows_copied`.
/// The lock waits for that transaction, which holds the row since [`account`], and not for other ranges of the table.
pub fn outcome(run: &Run, table: &TableName) -> Sql {
    Sql::format(
        "SELECT state, rows_copied FROM walferry.table_state WHERE {} FOR NO KEY UPDATE",
        &[&row_of(run, table)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_names_the_copier_and_shares_the_row_with_other_ranges() {
        let run = Run { stream: "s'1".into(), copier: "me".into(), copy_lsn: Lsn::new(1) };
        let table = TableName::new("public", "t");
        let of = "stream = 's''1' AND schema_name = 'public' AND table_name = 't' AND copier = 'me'";
        assert_eq!(
            fence(&run, &table).as_str(),
            format!("SELECT 1 FROM walferry.table_state WHERE {of} AND state = 'copying' FOR KEY SHARE")
        );
        assert_eq!(
            account(&run, &table, 5, 7, Some(CopyState::Done)).as_str(),
            format!(
                "WITH counted AS (UPDATE walferry.table_state SET rows_copied = 12, state = 'done', \
                 finished_at = now() WHERE {of} AND rows_copied = 5 RETURNING 1) SELECT 1 / count(*) FROM counted"
            )
        );
        assert!(!account(&run, &table, 5, 7, None).as_str().contains("state ="));
    }
}
