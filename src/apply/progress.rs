//! The progress row: the one place that says up to which source commit a target has applied a stream.
//!
//! It moves in the same target transaction as the data, by compare-and-set: `… WHERE end_lsn = <expected>`, and no row
//! is an error that aborts the transaction. So two daemons can never both move it, and a crash at any moment leaves
//! data and position together. `DurableLsn` is made here and nowhere else.
//!
//! Whoever attaches to a target claims the row first ([`claim`]). A session that was given up here, by this daemon or
//! another, may live on there, with transactions in its socket that it has yet to come to. It would move the row as
//! rightly as before, and write to tables that are copied again meanwhile, or leave out what has been copied: once the
//! row is claimed it cannot begin another transaction, and the one at hand has ended.
//!
//! A row that is read may be of a commit that is not on the target's disk yet: of this daemon's, or of one that was
//! just killed. A crash of the target takes it back, and what the source was told to forget meanwhile would be lost. So
//! what is durable is found out by [`read_durable`] only.

mod touch;

use tokio_postgres::Row;

pub(super) use self::touch::{Lies, Page, Touch, advance, hold};

use crate::change::{Commit, PgTime};
use crate::lsn::{CommitLsn, DurableLsn, EndLsn, Lsn};
use crate::postgres::holders::{Locks, holders};
use crate::postgres::{Client, PgError};
use crate::sql::Sql;

/// The last source commit that a target has applied: by the start of its record and its time it is recognised in the
/// source's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCommit {
    /// Where its commit record starts.
    pub commit_lsn: CommitLsn,
    /// When it committed, by the source's clock.
    pub time: PgTime,
}

impl From<&Commit> for LastCommit {
    fn from(commit: &Commit) -> Self {
        Self { commit_lsn: commit.commit_lsn, time: commit.time }
    }
}

/// `16/B374D848 (2026-05-01T12:00:00.123456Z)`.
impl std::fmt::Display for LastCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = humantime::format_rfc3339_micros(self.time.to_system_time());
        write!(f, "{} ({time})", self.commit_lsn)
    }
}

/// What identifies a stream and the source it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The stream's name: the slot's.
    pub name: String,
    /// `IDENTIFY_SYSTEM`.
    pub system_identifier: String,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: u32,
    /// The source database.
    pub database: String,
    /// The source slot.
    pub slot: String,
}

/// The row as stored on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of the source that was followed.
    pub system_identifier: String,
    /// Of the source when the row was last moved.
    pub timeline: u32,
    /// The source database.
    pub database: String,
    /// The source slot.
    pub slot: String,
    /// The publication through which it was followed.
    pub publication: Option<String>,
    /// The end of the last commit applied; `None`: registered, nothing copied yet.
    pub end_lsn: Option<EndLsn>,
    /// The last commit applied, at or before `end_lsn`; `None` before there is one.
    pub last: Option<LastCommit>,
    /// Since when an operator has it paused, by its own clock, as `2026-01-31T12:00:00Z`; `None`: it is not paused.
    pub paused_at: Option<String>,
}

/// Which claim of a progress row a session applies by. Later claims have higher ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(i64);

impl Epoch {
    /// Of whoever moves no progress row.
    pub(super) const NONE: Self = Self(0);
}

/// What is durable once the target has answered the COMMIT that stored this position, in a session that waits for the
/// disk (`apply.synchronous_commit`).
pub(super) fn answered(end: EndLsn) -> DurableLsn {
    DurableLsn::new(end.lsn())
}

const MIGRATIONS: [(i32, Sql); 1] = [(1, Sql::new(include_str!("../../sql/target/001_walferry.sql")))];

/// Something about walferry's own schema on a target that needs somebody to act.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// The connection or a statement.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The role may not make the schema.
    #[error("the role may not create the schema \"walferry\" on {peer}")]
    NoSchema {
        peer: String,
        role: String,
        #[source]
        source: PgError,
    },
    /// The schema is from a later version.
    #[error("the schema \"walferry\" on {peer} is of version {found}; this walferry knows versions up to {known}")]
    TooNew { peer: String, found: i32, known: i32 },
    /// Somebody else has positioned the stream meanwhile.
    #[error("stream \"{0}\" was given a position by somebody else")]
    Taken(String),
    /// The stream has several rows: they came from elsewhere.
    #[error("stream \"{stream}\" has {rows} rows in walferry.progress")]
    Doubled { stream: String, rows: usize },
    /// Somebody has a transaction open in which it was written, or is kept.
    #[error(
        "the position of stream \"{stream}\" is not free: {holders} kept its row in walferry.progress locked for too \
         long; there the transaction has to end"
    )]
    Held {
        stream: String,
        holders: String,
        #[source]
        source: PgError,
    },
    /// Nothing was ever done for the stream there.
    #[error("stream \"{0}\" is not known there yet")]
    Unknown(String),
}

impl crate::error::Judged for ProgressError {
    fn verdict(&self) -> crate::error::Verdict {
        use crate::error::Verdict;
        match self {
            Self::Postgres(error) => error.verdict(),
            Self::NoSchema { role, .. } => {
                Verdict::halt(format!("On the target run: CREATE SCHEMA walferry AUTHORIZATION {};", Sql::ident(role)))
            }
            Self::TooNew { .. } => Verdict::halt("Run the walferry version that made it, or a later one."),
            Self::Doubled { .. } => Verdict::halt(
                "A restore into a schema \"walferry\" that was there, or replication into it, adds rows: delete the \
                 one that does not belong to what the database holds.",
            ),
            Self::Held { .. } | Self::Taken(_) | Self::Unknown(_) => Verdict::Retry,
        }
    }
}

/// Makes or upgrades walferry's schema on the target. Does nothing when it is current.
///
/// # Errors
/// [`ProgressError::NoSchema`], [`ProgressError::TooNew`], or what the statements answer.
pub async fn migrate(client: &Client) -> Result<(), ProgressError> {
    let present = client.query_one(&Sql::new("SELECT to_regnamespace('walferry') IS NOT NULL"), &[]).await?;
    if !present.get::<_, bool>(0) {
        let schema = Sql::new(include_str!("../../sql/target/000_schema.sql"));
        match client.batch(&schema).await {
            Ok(()) => {}
            // 42P06 duplicate_schema: another daemon was faster.
            Err(error) if error.code() == Some("42P06") => {}
            Err(error) if error.code() == Some("42501") => {
                let role = client.query_one(&Sql::new("SELECT current_user::text"), &[]).await?.get(0);
                return Err(ProgressError::NoSchema { peer: client.peer().to_owned(), role, source: error });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let current = version(client).await?;
    let known = MIGRATIONS.iter().map(|(version, _)| *version).max().unwrap_or(0);
    if current > known {
        return Err(ProgressError::TooNew { peer: client.peer().to_owned(), found: current, known });
    }
    for (version, statements) in MIGRATIONS.iter().filter(|(version, _)| *version > current) {
        // One transaction; the lock lets the second of two daemons find the work done and fail on the version's key.
        let migration = Sql::format(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtext('walferry.migration')); {}; \
             INSERT INTO walferry.migration (version) VALUES ({}); COMMIT",
            &[statements, &Sql::number(*version)],
        );
        if let Err(error) = client.batch(&migration).await {
            client.batch(&Sql::new("ROLLBACK")).await?;
            if self::version(client).await? < *version {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

async fn version(client: &Client) -> Result<i32, PgError> {
    let made = client.query_one(&Sql::new("SELECT to_regclass('walferry.migration') IS NOT NULL"), &[]).await?;
    if !made.get::<_, bool>(0) {
        return Ok(0);
    }
    let latest = Sql::new("SELECT coalesce(max(version), 0) FROM walferry.migration");
    Ok(client.query_one(&latest, &[]).await?.get(0))
}

/// What is read of a row. PgTime counts microseconds from 2000-01-01; extract() is exact (numeric, from PostgreSQL 14
/// on).
const COLUMNS: Sql = Sql::new(
    "system_identifier, timeline, database, slot, end_lsn::text, publication, commit_lsn::text,
     (extract(epoch FROM commit_time) * 1000000)::bigint - 946684800000000,
     to_char(paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
);

/// Of several rows, which are refused ([`claim`]), the one that says least.
const LEAST: Sql = Sql::new(" ORDER BY end_lsn NULLS FIRST LIMIT 1");

/// The stream's row; `None` when the target does not know the stream (or walferry). It may be of a commit that a crash
/// takes back.
///
/// # Errors
/// As [`Client::query`].
pub async fn read(client: &Client, stream: &str) -> Result<Option<Stored>, PgError> {
    let made = client.query_one(&Sql::new("SELECT to_regclass('walferry.progress') IS NOT NULL"), &[]).await?;
    if !made.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = Sql::format("SELECT {} FROM walferry.progress WHERE stream = $1{}", &[&COLUMNS, &LEAST]);
    Ok(client.query_opt(&row, &[&stream]).await?.map(stored))
}

/// The stream's row and its position, which is durable. Needs walferry's schema, and no rights besides.
///
/// The transaction that reads writes WAL, by locking a row that nobody else needs (without it, it fails), and commits
/// synchronously, as every [`Client`]'s session does: so its commit waits for the disk, and for the standbys that the
/// server waits for (`RecordTransactionCommit` in xact.c). What it has seen was committed before it wrote, and lies
/// before that in the WAL.
///
/// # Errors
/// As [`Client::query`].
pub async fn read_durable(client: &Client, stream: &str) -> Result<Option<(Stored, Option<DurableLsn>)>, PgError> {
    client.query_opt(&durable(Sql::new("")), &[&stream]).await.map(|row| row.map(with_durable))
}

/// The same, of a row that may lie in this page.
pub(super) async fn find_durable(
    client: &Client,
    stream: &str,
    page: Option<Page>,
) -> Result<Option<(Stored, Option<DurableLsn>)>, PgError> {
    let Some([from, to]) = page.map(Page::bounds) else { return read_durable(client, stream).await };
    let in_page = durable(Sql::new(" AND ctid >= $2::text::tid AND ctid < $3::text::tid"));
    match client.query_opt(&in_page, &[&stream, &from, &to]).await? {
        Some(row) => Ok(Some(with_durable(row))),
        None => read_durable(client, stream).await,
    }
}

fn durable(and: Sql) -> Sql {
    Sql::format(
        "SELECT {} FROM walferry.progress, (SELECT 1 / count(*) AS one FROM
             (SELECT 1 FROM walferry.migration WHERE version = 1 FOR KEY SHARE) AS held) AS written
         WHERE stream = $1 AND one = 1{}{}",
        &[&COLUMNS, &and, &LEAST],
    )
}

fn with_durable(row: Row) -> (Stored, Option<DurableLsn>) {
    let stored = stored(row);
    let durable = stored.end_lsn.map(|end| DurableLsn::new(end.lsn()));
    (stored, durable)
}

/// Makes the stream's row the caller's, and gives it, with its position, which is durable: it is written, and committed
/// as in [`read_durable`]. Waits for the transaction of whoever applies by it, and nobody else moves it afterwards.
///
/// # Errors
/// [`ProgressError::Doubled`], [`ProgressError::Held`], or as [`Client::query`].
pub async fn claim(
    client: &Client,
    stream: &str,
) -> Result<Option<(Epoch, Stored, Option<DurableLsn>)>, ProgressError> {
    let claim = Sql::format(
        "UPDATE walferry.progress SET epoch = epoch + 1 WHERE stream = $1 RETURNING {}, epoch",
        &[&COLUMNS],
    );
    let mut rows = match client.query(&claim, &[&stream]).await {
        // lock_not_available.
        Err(source) if source.code() == Some("55P03") => return Err(held(client, stream, source).await?),
        claimed => claimed?,
    };
    if rows.len() > 1 {
        return Err(ProgressError::Doubled { stream: stream.to_owned(), rows: rows.len() });
    }
    Ok(rows.pop().map(|row| {
        let epoch = Epoch(row.get("epoch"));
        let (stored, durable) = with_durable(row);
        (epoch, stored, durable)
    }))
}

/// Why the stream's row could not be had in time.
async fn held(client: &Client, stream: &str, source: PgError) -> Result<ProgressError, PgError> {
    let oid = client.query_one(&Sql::new("SELECT 'walferry.progress'::regclass::oid"), &[]).await?;
    let holders = holders(client, &[oid.get(0)], Locks::OfRows).await?;
    Ok(ProgressError::Held { stream: stream.to_owned(), holders, source })
}

fn stored(row: Row) -> Stored {
    let lsn = |text: Option<String>| Lsn::known(text?.parse::<Lsn>().ok()?.as_u64());
    Stored {
        system_identifier: row.get(0),
        timeline: row.get::<_, i64>(1) as u32,
        database: row.get(2),
        slot: row.get(3),
        end_lsn: lsn(row.get(4)).map(EndLsn::new),
        publication: row.get(5),
        last: lsn(row.get(6))
            .zip(row.get::<_, Option<i64>>(7))
            .map(|(lsn, time)| LastCommit { commit_lsn: CommitLsn::new(lsn), time: PgTime(time) }),
        paused_at: row.get(8),
    }
}

/// Makes the target known to the stream, before its slot exists: so that a slot of that name found later is known to be
/// ours, or not. Leaves an existing row alone.
///
/// # Errors
/// As [`Client::batch`].
pub async fn register(client: &Client, stream: &Stream) -> Result<(), PgError> {
    add(client, stream, None).await
}

/// Gives a lane of some tables of the stream `of` its first position, or a new one, and makes it the caller's: whoever
/// still applies through it is waited for, and does not go on.
///
/// # Errors
/// As [`Client::query`].
pub async fn register_lane(client: &Client, lane: &Stream, of: &str, lsn: Lsn) -> Result<(Epoch, DurableLsn), PgError> {
    add(client, lane, Some(of)).await?;
    let claim = Sql::new(
        "UPDATE walferry.progress SET end_lsn = $2::text::pg_lsn, epoch = epoch + 1, updated_at = now()
         WHERE stream = $1 RETURNING epoch",
    );
    let row = client.query_one(&claim, &[&lane.name, &lsn.to_string()]).await?;
    Ok((Epoch(row.get(0)), DurableLsn::new(lsn)))
}

/// Adds a row without a position, if there is none of that name.
async fn add(client: &Client, stream: &Stream, lane_of: Option<&str>) -> Result<(), PgError> {
    let (name, timeline) = (Sql::literal(&stream.name), Sql::number(stream.timeline));
    let of = [&stream.system_identifier, &stream.database, &stream.slot].map(|text| Sql::literal(text));
    let lane_of = lane_of.map_or_else(|| Sql::new("NULL"), Sql::literal);
    // One transaction. No key keeps a name from being there twice: who adds one is alone until it is committed, and
    // sees what was added before.
    let insert = Sql::format(
        "SELECT pg_advisory_xact_lock(hashtext('walferry.progress')); \
         INSERT INTO walferry.progress (stream, timeline, system_identifier, database, slot, lane_of)
         SELECT {}, {}, {}, {}, {}, {} WHERE NOT EXISTS (SELECT FROM walferry.progress WHERE stream = {})",
        &[&name, &timeline, &of[0], &of[1], &of[2], &lane_of, &name],
    );
    client.batch(&insert).await
}

/// Ends all lanes of tables of a stream but these: whoever still applies through another one is waited for, and finds
/// no row to go on from.
///
/// # Errors
/// As [`Client::execute`].
pub async fn end_lanes(client: &Client, of: &str, but: &[&str]) -> Result<u64, PgError> {
    let delete = Sql::new("DELETE FROM walferry.progress WHERE lane_of = $1 AND stream <> ALL ($2::text[])");
    client.execute(&delete, &[&of, &but]).await
}

/// Gives a registered target its first position: the LSN of the snapshot its copy starts from.
///
/// # Errors
/// [`ProgressError::Taken`] when it has one already.
pub async fn position(client: &Client, stream: &Stream, lsn: Lsn) -> Result<DurableLsn, ProgressError> {
    let update = Sql::new(
        "UPDATE walferry.progress SET end_lsn = $2::text::pg_lsn, timeline = $3, system_identifier = $4,
                database = $5, slot = $6, updated_at = now()
         WHERE stream = $1 AND end_lsn IS NULL",
    );
    let (lsn_text, timeline) = (lsn.to_string(), i64::from(stream.timeline));
    let values: [&(dyn postgres_types::ToSql + Sync); 6] =
        [&stream.name, &lsn_text, &timeline, &stream.system_identifier, &stream.database, &stream.slot];
    match client.execute(&update, &values).await? {
        1 => Ok(DurableLsn::new(lsn)),
        _ => Err(ProgressError::Taken(stream.name.clone())),
    }
}

/// Notes that the target follows the stream on another timeline of its source from now on, and from where on.
///
/// # Errors
/// [`ProgressError::Taken`] when it does not stand at `from` any more.
pub async fn cross(client: &Client, stream: &Stream, from: EndLsn, to: EndLsn) -> Result<(), ProgressError> {
    let update = Sql::new(
        "UPDATE walferry.progress SET timeline = $2, end_lsn = $4::text::pg_lsn, updated_at = now()
         WHERE stream = $1 AND end_lsn = $3::text::pg_lsn AND timeline < $2",
    );
    let (timeline, from, to) = (i64::from(stream.timeline), from.lsn().to_string(), to.lsn().to_string());
    match client.execute(&update, &[&stream.name, &timeline, &from, &to]).await? {
        1 => Ok(()),
        _ => Err(ProgressError::Taken(stream.name.clone())),
    }
}

/// Notes through which publication the stream is followed. The last commit applied came through another one until now,
/// and may not come through this one: it is not to be looked for.
///
/// # Errors
/// As [`Client::execute`].
pub async fn follow_through(client: &Client, stream: &str, publication: &str) -> Result<(), PgError> {
    let update = Sql::new(
        "UPDATE walferry.progress
         SET publication = $2, commit_lsn = CASE WHEN publication IS NULL THEN commit_lsn END
         WHERE stream = $1 AND publication IS DISTINCT FROM $2",
    );
    client.execute(&update, &[&stream, &publication]).await.map(drop)
}

/// Has the target remember that it is paused, and gives since when, as [`Stored::paused_at`].
///
/// # Errors
/// [`ProgressError::Unknown`] when the target does not know the stream yet.
pub async fn pause(client: &Client, stream: &str) -> Result<String, ProgressError> {
    let unknown = || ProgressError::Unknown(stream.to_owned());
    let known = read(client, stream).await?.is_some();
    let update = Sql::new(
        "UPDATE walferry.progress SET paused_at = coalesce(paused_at, now()) WHERE stream = $1
         RETURNING to_char(paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    );
    let row = if known { client.query_opt(&update, &[&stream]).await? } else { None };
    row.map(|row| row.get(0)).ok_or_else(unknown)
}

/// Has the target forget that it was paused.
///
/// # Errors
/// As [`Client::execute`].
pub async fn resume(client: &Client, stream: &str) -> Result<(), PgError> {
    let update = Sql::new("UPDATE walferry.progress SET paused_at = NULL WHERE stream = $1 AND paused_at IS NOT NULL");
    client.execute(&update, &[&stream]).await.map(drop)
}

/// Forgets the stream's position. Its row stays.
///
/// # Errors
/// As [`Client::execute`].
pub async fn forget(client: &Client, stream: &str) -> Result<(), PgError> {
    let update = Sql::new(
        "UPDATE walferry.progress SET end_lsn = NULL, commit_lsn = NULL, commit_time = NULL, updated_at = now()
         WHERE stream = $1",
    );
    client.execute(&update, &[&stream]).await.map(drop)
}
