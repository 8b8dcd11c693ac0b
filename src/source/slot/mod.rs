//! The replication slot: in goes its name, out comes what the server knows of it, and whether walferry may stream from
//! it.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | looking at slots, refusing those that are not ours or have lost WAL, dropping |
//! | `create.rs` | creating one with an exported snapshot, and who holds that up |
//! | `failover.rs` | having it synchronized to standbys |
//! | `lane.rs` | copies of it for single targets |

mod create;
pub mod failover;
pub mod lane;

pub use create::{Blocker, Snapshot, blockers, create};

use tokio_postgres::Row;

use super::SourceError;
use super::answer::{get, get_lsn};
use crate::lsn::Lsn;
use crate::postgres::{Client, PgError};
use crate::sql::Sql;

/// The output plugin: PostgreSQL's own.
pub const PLUGIN: &str = "pgoutput";

/// A row of `pg_replication_slots` (documentation: "System Views").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// `slot_name`.
    pub name: String,
    /// `None` for a physical slot.
    pub plugin: Option<String>,
    /// `logical` or `physical`.
    pub slot_type: String,
    /// `None` for a physical slot.
    pub database: Option<String>,
    /// The walsender that streams from it, or creates it.
    pub active_pid: Option<i32>,
    /// Everything that committed before it has been confirmed; the stream goes on from here.
    pub confirmed_flush: Option<Lsn>,
    /// The oldest WAL the server keeps for it.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why it was invalidated (PostgreSQL 17 and later).
    pub invalidation_reason: Option<String>,
    /// Invalidated by a conflict with recovery on a standby (16 and later).
    pub conflicting: bool,
    /// Ends with the session that created it.
    pub temporary: bool,
    /// WAL from `restart_lsn` to the server's current position, in bytes.
    pub retained_bytes: Option<u64>,
    /// How many bytes may still be written before it can be lost; `None` without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// Decodes prepared transactions.
    pub two_phase: bool,
    /// Synchronized to standbys (17 and later).
    pub failover: bool,
    /// The server is a standby that keeps it for the day that it is promoted: as the primary has it (`synced`, 17 and
    /// later), or, before 16, in whatever way, since standbys could not decode. Until then nobody may stream from it
    /// (`CreateDecodingContext` and `CheckLogicalDecodingRequirements` in logical.c).
    pub awaits_promotion: bool,
}

/// Columns that not every version has are taken by way of JSON, which has no opinion about missing ones.
const SELECT: Sql = Sql::new(
    "SELECT s.slot_name::text AS slot_name, s.plugin::text AS plugin, s.slot_type, s.database::text AS database, \
     s.active_pid, s.confirmed_flush_lsn, s.restart_lsn, s.wal_status, s.temporary, s.safe_wal_size, s.two_phase, \
     to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason, \
     coalesce((to_jsonb(s) ->> 'conflicting')::boolean, false) AS conflicting, \
     coalesce((to_jsonb(s) ->> 'failover')::boolean, false) AS failover, \
     pg_is_in_recovery() AND (coalesce((to_jsonb(s) ->> 'synced')::boolean, false) \
     OR current_setting('server_version_num')::int < 160000) AS awaits_promotion, \
     greatest(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
     ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::bigint AS retained_bytes FROM pg_replication_slots s",
);

/// The slot of this name, of whatever kind; `None` when there is none.
pub async fn inspect(client: &Client, name: &str) -> Result<Option<Slot>, SourceError> {
    let sql = Sql::format("{} WHERE s.slot_name = $1::text", &[&SELECT]);
    let row = client.query_opt(&sql, &[&name]).await;
    let row = row.map_err(SourceError::during(format!("looking at replication slot \"{name}\"")))?;
    row.as_ref().map(Slot::from_row).transpose()
}

/// All logical slots of the client's database.
pub async fn list(client: &Client) -> Result<Vec<Slot>, SourceError> {
    let sql = Sql::format(
        "{} WHERE s.slot_type = 'logical' AND s.database = current_database() ORDER BY s.slot_name",
        &[&SELECT],
    );
    let rows = client.query(&sql, &[]).await.map_err(SourceError::during("listing replication slots"))?;
    rows.iter().map(Slot::from_row).collect()
}

/// A server process that uses a slot or holds a stream's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotUser {
    /// `pg_stat_activity.pid`.
    pub pid: i32,
    /// `application_name` and the client's address; `None` when it has ended meanwhile.
    pub session: Option<(String, String)>,
}

impl std::fmt::Display for SlotUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "server process {}", self.pid)?;
        self.session.as_ref().map_or(Ok(()), |(name, from)| write!(f, " (application {name}, from {from})"))
    }
}

/// Who a server process works for.
pub async fn user(client: &Client, pid: i32) -> Result<SlotUser, SourceError> {
    let sql = Sql::new(
        "SELECT coalesce(application_name, '') AS name, coalesce(host(client_addr), 'this machine') AS address \
         FROM pg_stat_activity WHERE pid = $1",
    );
    let row = client.query_opt(&sql, &[&pid]).await;
    let row = row.map_err(SourceError::during(format!("asking who server process {pid} works for")))?;
    let session = row.map(|row| Ok::<_, SourceError>((get(&row, "name")?, get(&row, "address")?))).transpose()?;
    Ok(SlotUser { pid, session })
}

/// Drops the slot; the server may then remove the WAL it kept.
///
/// # Errors
/// [`SourceError::SlotActive`] while somebody streams from it, [`SourceError::SlotMissing`].
pub async fn drop(client: &Client, name: &str) -> Result<(), SourceError> {
    let dropped = client.execute(&Sql::new("SELECT pg_drop_replication_slot($1::text)"), &[&name]).await;
    dropped.map_err(|error| slot_error(name, "dropping", error))?;
    Ok(())
}

impl Slot {
    fn from_row(row: &Row) -> Result<Self, SourceError> {
        Ok(Self {
            name: get(row, "slot_name")?,
            plugin: get(row, "plugin")?,
            slot_type: get(row, "slot_type")?,
            database: get(row, "database")?,
            active_pid: get(row, "active_pid")?,
            confirmed_flush: get_lsn(row, "confirmed_flush_lsn")?,
            restart_lsn: get_lsn(row, "restart_lsn")?,
            wal_status: get(row, "wal_status")?,
            invalidation_reason: get(row, "invalidation_reason")?,
            conflicting: get(row, "conflicting")?,
            temporary: get(row, "temporary")?,
            retained_bytes: get::<Option<i64>>(row, "retained_bytes")?.map(i64::unsigned_abs),
            safe_wal_size: get(row, "safe_wal_size")?,
            two_phase: get(row, "two_phase")?,
            failover: get(row, "failover")?,
            awaits_promotion: get(row, "awaits_promotion")?,
        })
    }

    /// Whether the next checkpoint may remove WAL the slot needs (`wal_status` unreserved). It is still usable, and
    /// streaming from it is what brings it back, so this is for a warning, not a refusal.
    pub fn is_at_risk(&self) -> bool {
        self.wal_status.as_deref() == Some("unreserved")
    }

    /// Whether it has lost what it was kept for and cannot be streamed from any more.
    pub fn is_lost(&self) -> bool {
        self.invalidation_reason.is_some() || self.conflicting || self.wal_status.as_deref() == Some("lost")
    }

    /// Refuses a slot that walferry cannot have made for this database: of another kind, plugin or database, or one
    /// that ends with somebody's session.
    ///
    /// # Errors
    /// [`SourceError::SlotUnusable`] with the way out.
    pub fn check_kind(&self, database: &str) -> Result<(), SourceError> {
        const OTHER_NAME: &str = "it belongs to something else: set `slot` under [source] to another name";
        let foreign = |why| Err(self.unusable(why, OTHER_NAME));
        if self.slot_type != "logical" {
            return foreign("it is a physical slot".to_owned());
        }
        if self.plugin.as_deref() != Some(PLUGIN) {
            let plugin = self.plugin.as_deref().unwrap_or("unknown");
            return foreign(format!("its output plugin is {plugin}, not {PLUGIN}"));
        }
        if self.database.as_deref() != Some(database) {
            let other = self.database.as_deref().unwrap_or("unknown");
            return foreign(format!("it is of database \"{other}\", not \"{database}\""));
        }
        if self.temporary {
            return foreign("it is temporary and ends with the session that made it".to_owned());
        }
        Ok(())
    }

    fn unusable(&self, why: String, remedy: &str) -> SourceError {
        SourceError::SlotUnusable { slot: self.name.clone(), why, remedy: remedy.to_owned() }
    }

    /// Refuses a slot that is of another kind, of somebody else, lost, not finished, or on a standby that is not
    /// promoted yet. Whether it is in use is not asked.
    ///
    /// # Errors
    /// [`SourceError::SlotUnusable`] with the way out, [`SourceError::SlotUnfinished`], [`SourceError::NotPromoted`].
    pub fn check_usable(&self, database: &str) -> Result<(), SourceError> {
        // What becomes of it by then is not known: until it is complete there it is temporary, for example.
        if self.awaits_promotion {
            return Err(SourceError::NotPromoted { slot: self.name.clone() });
        }
        self.check_kind(database)?;
        const RESET: &str = "run `walferry slot reset`: it creates the slot anew and has the tables copied again";
        let unusable = |why| Err(self.unusable(why, RESET));
        if let Some(reason) = &self.invalidation_reason {
            return unusable(format!("the server invalidated it ({reason})"));
        }
        if self.conflicting {
            return unusable("it conflicts with recovery on this standby".to_owned());
        }
        if self.wal_status.as_deref() == Some("lost") {
            return unusable("the server has removed WAL that it needs (max_slot_wal_keep_size)".to_owned());
        }
        if self.confirmed_flush.is_none() {
            return Err(SourceError::SlotUnfinished { slot: self.name.clone() });
        }
        Ok(())
    }
}

/// What the server says of a slot, as an error that says what it means.
pub(super) fn slot_error(slot: &str, doing: &str, error: PgError) -> SourceError {
    let slot = slot.to_owned();
    match error.code() {
        // undefined_object
        Some("42704") => SourceError::SlotMissing { slot },
        // object_in_use: "replication slot "…" is active for PID 4711", in the server's language
        Some("55006") => SourceError::SlotActive { slot, pid: last_number(&error.to_string()) },
        // object_not_in_prerequisite_state: invalidated, of another database, or physical (`CreateDecodingContext` in
        // logical.c, `ReplicationSlotAcquire` in slot.c)
        Some("55000") => SourceError::SlotUnusable {
            slot,
            why: error.to_string(),
            remedy: "if its WAL is lost, run `walferry slot reset`; if it is somebody else's, choose another `slot`"
                .to_owned(),
        },
        _ => SourceError::Postgres { doing: format!("{doing} replication slot \"{slot}\""), source: error },
    }
}

/// The last number of a message, whatever its language, without the SQLSTATE that follows.
fn last_number(message: &str) -> Option<i32> {
    let message = message.split(" (SQLSTATE").next()?;
    message.rsplit(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            name: "walferry".to_owned(),
            plugin: Some("pgoutput".to_owned()),
            slot_type: "logical".to_owned(),
            database: Some("shop".to_owned()),
            active_pid: None,
            confirmed_flush: Lsn::known(0x100),
            restart_lsn: Lsn::known(0x80),
            wal_status: Some("reserved".to_owned()),
            invalidation_reason: None,
            conflicting: false,
            temporary: false,
            retained_bytes: Some(128),
            safe_wal_size: None,
            two_phase: false,
            failover: false,
            awaits_promotion: false,
        }
    }

    fn refusal(slot: &Slot) -> String {
        match slot.check_usable("shop") {
            Err(SourceError::SlotUnusable { why, remedy, .. }) => format!("{why}; {remedy}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slot_in_good_order_is_taken() {
        slot().check_usable("shop").unwrap();
        Slot { wal_status: Some("extended".to_owned()), ..slot() }.check_usable("shop").unwrap();
    }

    #[test]
    fn a_slot_at_risk_is_taken_because_streaming_saves_it() {
        let slot = Slot { wal_status: Some("unreserved".to_owned()), ..slot() };
        assert!(slot.is_at_risk());
        slot.check_usable("shop").unwrap();
    }

    #[test]
    fn a_foreign_slot_is_refused_and_another_name_advised() {
        let physical = Slot { slot_type: "physical".to_owned(), plugin: None, database: None, ..slot() };
        let plugin = Slot { plugin: Some("wal2json".to_owned()), ..slot() };
        let database = Slot { database: Some("other".to_owned()), ..slot() };
        let temporary = Slot { temporary: true, ..slot() };
        for foreign in [physical, plugin, database, temporary] {
            assert!(refusal(&foreign).contains("set `slot`"), "{foreign:?}");
            foreign.check_kind("shop").unwrap_err();
        }
    }

    #[test]
    fn a_lost_slot_is_still_ours() {
        let lost = Slot { wal_status: Some("lost".to_owned()), confirmed_flush: None, ..slot() };
        assert!(lost.is_lost() && !slot().is_lost());
        lost.check_kind("shop").unwrap();
    }

    #[test]
    fn a_lost_slot_is_refused_and_a_reset_advised() {
        let lost = Slot { wal_status: Some("lost".to_owned()), ..slot() };
        let invalidated = Slot { invalidation_reason: Some("wal_removed".to_owned()), ..slot() };
        let conflicting = Slot { conflicting: true, ..slot() };
        for lost in [lost, invalidated, conflicting] {
            assert!(refusal(&lost).contains("walferry slot reset"), "{lost:?}");
        }
    }

    #[test]
    fn a_slot_on_a_standby_is_waited_for_whatever_it_looks_like() {
        for slot in [slot(), Slot { temporary: true, confirmed_flush: None, ..slot() }] {
            let slot = Slot { awaits_promotion: true, ..slot };
            assert!(matches!(slot.check_usable("shop"), Err(SourceError::NotPromoted { .. })), "{slot:?}");
        }
    }

    #[test]
    fn a_slot_without_a_consistent_point_is_waited_for() {
        let unfinished = Slot { confirmed_flush: None, ..slot() };
        assert!(matches!(unfinished.check_usable("shop"), Err(SourceError::SlotUnfinished { .. })));
    }

    #[test]
    fn the_process_that_holds_a_slot_is_read_in_any_language() {
        let german = "ERROR: Replikations-Slot »walferry_2« ist aktiv für PID 4711 (SQLSTATE 55006)";
        assert_eq!(last_number(german), Some(4711));
        assert_eq!(last_number("no number (SQLSTATE 55006)"), None);
    }
}
