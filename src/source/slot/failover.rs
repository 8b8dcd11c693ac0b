//! Failover slots: those that the server has synchronized to its standbys, so that the stream goes on from a promoted
//! one (PostgreSQL 17 and later; documentation: "Logical Replication Failover").

use std::collections::BTreeSet;

use super::inspect;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, ConnectOptions, WireConnection};
use crate::source::SourceError;
use crate::source::answer::get;
use crate::sql::Sql;

/// From this version on servers know them.
pub const SINCE: u32 = 170_000;

/// The statement that makes a slot one: for a replication connection, and while nobody streams from the slot. It waits
/// for whoever does (`ReplicationSlotAlter` in slot.c acquires it with `nowait` false).
pub fn statement(slot: &str) -> Sql {
    Sql::format("ALTER_REPLICATION_SLOT {} (FAILOVER true)", &[&Sql::ident(slot)])
}

/// Makes a copy of a slot a failover slot if the original is one. Copying does not (`copy_replication_slot` in
/// slotfuncs.c creates every copy with `failover` false). Tells whether the copy is one now.
///
/// # Errors
/// When the server does not do it.
pub async fn inherit(
    client: &Client,
    connect: &ConnectOptions,
    application_name: &str,
    original: &str,
    copy: &str,
) -> Result<bool, SourceError> {
    let is_one = |slot: Option<super::Slot>| slot.is_some_and(|slot| slot.failover);
    if client.server_version() < SINCE || !is_one(inspect(client, original).await?) {
        return Ok(false);
    }
    if is_one(inspect(client, copy).await?) {
        return Ok(true);
    }
    let doing = || SourceError::during(format!("having replication slot \"{copy}\" synchronized to standbys"));
    let mut conn = WireConnection::connect(connect, application_name, Purpose::Replication).await.map_err(doing())?;
    conn.query(&statement(copy)).await.map_err(doing())?;
    conn.close().await.map_err(doing())?;
    Ok(true)
}

/// The physical slots in use: those of standbys, by which a server that has failover slots synchronizes them, and of
/// other receivers of WAL.
///
/// # Errors
/// As [`Client::query`].
pub async fn standbys(client: &Client) -> Result<BTreeSet<String>, SourceError> {
    let sql = Sql::new("SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'physical' AND active");
    let rows = client.query(&sql, &[]).await.map_err(SourceError::during("asking for standbys"))?;
    rows.iter().map(|row| get(row, "slot_name")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_is_that_of_the_replication_protocol() {
        assert_eq!(statement("walferry").as_str(), "ALTER_REPLICATION_SLOT \"walferry\" (FAILOVER true)");
    }
}
