//! Reading the source under the slot's exported snapshot, one short transaction per piece.
//!
//! Short, so that the source's DDL never waits for the whole copy. What could go wrong between two of them is checked
//! after each: TRUNCATE and a rewriting ALTER TABLE are not MVCC-safe (PostgreSQL: 13.6 "Caveats": the table looks
//! empty to older snapshots), and VACUUM FULL and CLUSTER move rows between the ranges of `ctid`. All of them give
//! the table a new file, so the file the snapshot knows is compared with the file that was read.

use crate::postgres::PgError;
use crate::postgres::wire::WireConnection;
use crate::sql::Sql;

const BEGIN: Sql = Sql::new("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY");
const COMMIT: Sql = Sql::new("COMMIT");

/// Why a transaction cannot read what the snapshot shows.
#[derive(Debug)]
pub enum BeginError {
    /// The snapshot is gone: its exporting connection, or the server it was on, ended.
    Lost(PgError),
    /// Something else.
    Other(PgError),
}

/// Begins a transaction that sees the snapshot.
pub async fn begin(source: &mut WireConnection, snapshot: &str) -> Result<(), BeginError> {
    source.query(&BEGIN).await.map_err(BeginError::Other)?;
    let adopt = Sql::format("SET TRANSACTION SNAPSHOT {}", &[&Sql::literal(snapshot)]);
    source.query(&adopt).await.map(drop).map_err(|error| match error.code() {
        // No such file (invalid parameter; from 17 on, undefined object), or its process is gone (object not in
        // prerequisite state). PostgreSQL: ImportSnapshot in snapmgr.c.
        Some("22023" | "42704" | "55000") => BeginError::Lost(error),
        _ => BeginError::Other(error),
    })
}

/// Whether the tables just read by this transaction (which therefore holds locks on them) are in the files they were
/// in when the snapshot was taken.
pub async fn in_same_files(source: &mut WireConnection, oids: &[u32]) -> Result<bool, PgError> {
    if oids.is_empty() {
        return Ok(true);
    }
    // pg_class is read under the transaction's snapshot, pg_relation_filenode() looks at the present.
    let list = Sql::join(&oids.iter().map(|oid| Sql::number(*oid)).collect::<Vec<_>>(), ", ");
    let query = Sql::format(
        "SELECT count(*) FROM pg_class WHERE oid IN ({}) AND relfilenode = pg_relation_filenode(oid)",
        &[&list],
    );
    let rows = source.query(&query).await?;
    let same = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
    Ok(same == Some(oids.len().to_string().as_str()))
}

/// Ends the transaction; the snapshot stays with its exporter.
pub async fn end(source: &mut WireConnection) -> Result<(), PgError> {
    source.query(&COMMIT).await.map(drop)
}
