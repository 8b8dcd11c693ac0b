//! Where a target is: it must be a database of its own. Fed from itself, the source would follow its own changes, and
//! its tables would be emptied to be copied; two targets in one database would each apply everything.
//!
//! Addresses do not tell (names, ports, tunnels), so the servers are asked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

use super::error::LaunchError;
use super::setup::TargetSetup;
use crate::change::TargetId;
use crate::postgres::{Client, PgError};
use crate::sql::Sql;

/// A database: the server's system identifier and when it was started (physical copies share the former), and the
/// database's OID there.
type Place = (String, String, u32);

/// Which database each target is, as far as its server tells.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<TargetId, (String, Place)>>);

impl Places {
    /// Whether the target is neither the source nor another target.
    ///
    /// # Errors
    /// [`LaunchError::SameDatabase`].
    pub async fn check(&self, target: &TargetSetup, client: &Client, source: &Client) -> Result<(), LaunchError> {
        apart(target, client, source).await?;
        let Some(place) = place(client).await? else { return Ok(()) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(target.id, (target.name.clone(), place.clone()));
        match known.iter().find(|(id, (_, other))| **id != target.id && *other == place) {
            None => Ok(()),
            Some((_, (other, _))) => {
                Err(LaunchError::SameDatabase { target: target.name.clone(), other: format!("target \"{other}\"") })
            }
        }
    }
}

/// Whether the target is another database than the source.
///
/// # Errors
/// [`LaunchError::SameDatabase`].
pub async fn apart(target: &TargetSetup, client: &Client, source: &Client) -> Result<(), LaunchError> {
    match is_same(source, client).await? {
        false => Ok(()),
        true => Err(LaunchError::SameDatabase { target: target.name.clone(), other: "the source".to_owned() }),
    }
}

/// Whether two sessions are in one database: a lock that the one takes, by a number drawn now, is seen by the other.
/// Needs no privilege.
async fn is_same(one: &Client, other: &Client) -> Result<bool, PgError> {
    let mut bytes = [0; 8];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        return Err(PgError::Usage { message: "the system gives no random numbers".to_owned() });
    }
    let key = i64::from_ne_bytes(bytes);
    one.query_one(&Sql::new("SELECT pg_advisory_lock($1::bigint)::text"), &[&key]).await?;
    // A bigint key is shown as its halves, with objsubid 1 (documentation: pg_locks).
    let seen = other
        .query_opt(
            &Sql::new(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND classid::bigint = ($1::bigint >> 32) & 4294967295 AND objid::bigint = $1::bigint & 4294967295",
            ),
            &[&key],
        )
        .await;
    one.query_one(&Sql::new("SELECT pg_advisory_unlock($1::bigint)"), &[&key]).await?;
    Ok(seen?.is_some())
}

/// Where this session is; `None` where the role may not ask for the system identifier.
async fn place(client: &Client) -> Result<Option<Place>, PgError> {
    let ask = Sql::new(
        "SELECT system_identifier::text, pg_postmaster_start_time()::text, d.oid \
         FROM pg_control_system(), pg_database d WHERE d.datname = current_database()",
    );
    match client.query_one(&ask, &[]).await {
        Ok(row) => Ok(Some((row.get(0), row.get(1), row.get(2)))),
        Err(error) if error.code() == Some("42501") => Ok(None),
        Err(error) => Err(error),
    }
}
