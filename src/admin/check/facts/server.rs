//! What is asked of any server, source or target.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::postgres::wire::Purpose;
use crate::postgres::{Client, ConnectOptions, PgError, WireConnection};
use crate::sql::Sql;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ServerFacts {
    /// `server_version_num`.
    pub version: u32,
    /// The session's role.
    pub role: String,
    /// The database.
    pub database: String,
    /// `server_encoding`.
    pub encoding: String,
    /// How the database sorts text: provider, collation, character type.
    pub collation: (String, String, String),
    /// The version of the collation that the database was made with, and the operating system's (15 and later), where
    /// they differ.
    pub collation_changed: Option<(String, String)>,
    /// How its clock and this machine's differ.
    pub clock: Clock,
    /// Whether the session is not that server process's which was promised when it was opened.
    pub pooled: bool,
    /// Who may have how many connections.
    pub connections: Connections,
    /// WAL archiving is on, and its last attempt failed.
    pub archiver_fails: bool,
}

/// A server's clock beside this machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clock {
    /// By how many seconds the server's is ahead.
    pub ahead: f64,
    /// How much of that may be the way of the question and the answer.
    pub uncertain: f64,
}

/// Limits of connections, and how many there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// `max_connections` without those reserved for others, and how many sessions there are.
    pub server: (i64, i64),
    /// Those that are reserved for others.
    pub reserved: i64,
    /// CONNECTION LIMIT of the database, -1: none; and its sessions.
    pub database: (i64, i64),
    /// CONNECTION LIMIT of the role, -1: none; and its sessions.
    pub role: (i64, i64),
    /// A superuser is not held to the limits of database and role.
    pub superuser: bool,
    /// Sessions of this stream's daemon: what it needs it has.
    pub of_daemon: i64,
}

/// A daemon's sessions are named by the first parameter, or begin so. Reserved connections came with 16.
const SETTINGS: Sql = Sql::new(
    "SELECT current_user::text, d.datname::text, current_setting('server_encoding'), \
     coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), \
     coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate::text), \
     d.datctype::text, to_jsonb(d) ->> 'datcollversion', \
     current_setting('max_connections')::bigint, CASE WHEN r.rolsuper THEN 0 ELSE \
       current_setting('superuser_reserved_connections')::bigint \
       + coalesce(current_setting('reserved_connections', true)::bigint, 0) END, \
     (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database), \
     d.datconnlimit::bigint, (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database WHERE datid = d.oid), \
     r.rolconnlimit::bigint, (SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid), r.rolsuper, \
     (SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 OR starts_with(application_name, $1 || '/')), \
     (SELECT current_setting('archive_mode') <> 'off' AND failed_count > 0 \
             AND last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver) \
     FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user",
);

/// Asks the server of this session. `daemon`: what the daemon's sessions are called.
///
/// # Errors
/// It answers what it should not, or not at all.
pub async fn ask(client: &Client, options: &ConnectOptions, daemon: &str) -> Result<ServerFacts, PgError> {
    let row = client.query_one(&SETTINGS, &[&daemon]).await?;
    let mut facts = ServerFacts {
        version: client.server_version(),
        role: row.get(0),
        database: row.get(1),
        encoding: row.get(2),
        collation: (row.get(3), row.get(4), row.get(5)),
        collation_changed: None,
        clock: clock(client).await?,
        pooled: pooled(options).await?,
        connections: Connections {
            server: (row.get::<_, i64>(7) - row.get::<_, i64>(8), row.get(9)),
            reserved: row.get(8),
            database: (row.get(10), row.get(11)),
            role: (row.get(12), row.get(13)),
            superuser: row.get(14),
            of_daemon: row.get(15),
        },
        archiver_fails: row.get::<_, Option<bool>>(16).unwrap_or(false),
    };
    if let Some(made) = row.get::<_, Option<String>>(6) {
        let actual = Sql::new(
            "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()",
        );
        let actual: Option<String> = client.query_one(&actual, &[]).await?.get(0);
        facts.collation_changed = actual.filter(|actual| *actual != made).map(|actual| (made, actual));
    }
    Ok(facts)
}

/// The server's answer was made between the question and its arrival here: in the middle, give or take a half.
async fn clock(client: &Client) -> Result<Clock, PgError> {
    let now = Sql::new("SELECT extract(epoch FROM clock_timestamp())::float8");
    let mut best: Option<Clock> = None;
    for _ in 0..3 {
        let (asked, began) = (SystemTime::now(), Instant::now());
        let theirs: f64 = client.query_one(&now, &[]).await?.get(0);
        let half = began.elapsed().as_secs_f64() / 2.0;
        let ours = asked.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()) + half;
        let clock = Clock { ahead: theirs - ours, uncertain: half };
        best = best.filter(|best| best.uncertain <= clock.uncertain).or(Some(clock));
    }
    Ok(best.unwrap_or_default())
}

/// A pooler gives every client a key of its own making (for cancel requests); a server's names its process. Where no
/// second session can be had, nothing is known.
async fn pooled(options: &ConnectOptions) -> Result<bool, PgError> {
    let connected = WireConnection::connect(options, "walferry-admin/check", Purpose::Ordinary).await;
    let Ok(mut conn) = connected else { return Ok(false) };
    let promised = conn.process_id();
    let rows = conn.query(&Sql::new("SELECT pg_backend_pid()")).await?;
    let serves = rows.first().and_then(|row| row.first()).and_then(|pid| pid.as_deref()?.parse::<i32>().ok());
    conn.close().await?;
    Ok(promised.is_some() && serves.is_some() && promised != serves)
}
