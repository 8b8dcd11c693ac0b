//! Reading the source under the slot's exported snapshot, one short transaction per piece, in one round trip.
//!
//! Short, so that the source's DDL never waits for the whole copy. What could go wrong between two of them is checked
//! in each, after its rows: TRUNCATE and a rewriting ALTER TABLE are not MVCC-safe (PostgreSQL: 13.6 "Caveats": the
//! table looks empty to older snapshots), and VACUUM FULL and CLUSTER move rows between the ranges of `ctid`. All of
//! them give the table a new file, so the file the snapshot knows is compared with the file that was read.

use bytes::Bytes;

use crate::postgres::PgError;
use crate::postgres::wire::{Answer, TextRow, WireConnection};
use crate::sql::Sql;

const BEGIN: Sql = Sql::new("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY");
const COMMIT: Sql = Sql::new("COMMIT");
/// Of BEGIN and SET TRANSACTION SNAPSHOT.
const OPENING: usize = 2;

/// Why the source cannot be read as the snapshot shows it.
#[derive(Debug)]
pub enum ReadError {
    /// The snapshot is gone: its exporting connection, or the server it was on, ended.
    Lost(PgError),
    /// Something else.
    Other(PgError),
    /// What was read may not be what the snapshot knows: a table is in another file.
    Changed,
}

/// A transaction that is being read.
pub struct Reading<'a> {
    source: &'a mut WireConnection,
    /// Statements that have come to their end.
    done: usize,
    /// What the statements and, last, the comparison of files have said.
    rows: Vec<TextRow>,
}

impl<'a> Reading<'a> {
    /// Sends the statements for these tables (`pg_class.oid`); the snapshot stays with its exporter.
    pub async fn start(
        source: &'a mut WireConnection,
        snapshot: &str,
        statements: &[Sql],
        oids: &[u32],
    ) -> Result<Self, ReadError> {
        source.start_script(&script(snapshot, statements, oids)).await.map_err(ReadError::Other)?;
        Ok(Self { source, done: 0, rows: Vec::new() })
    }

    /// The next stretch of COPY data, cut anywhere. `None` once the transaction has ended and is known to have read
    /// what the snapshot shows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            match self.source.answer().await.map_err(|error| self.failed(error))? {
                Answer::Data(data) => return Ok(Some(data)),
                Answer::Row(row) => self.rows.push(row),
                Answer::Done => self.done += 1,
                Answer::End => {
                    let same = self.rows.pop().and_then(|row| row.into_iter().next().flatten());
                    return if same.as_deref() == Some("t") { Ok(None) } else { Err(ReadError::Changed) };
                }
            }
        }
    }

    /// The rows of the statements, when they are no COPY and all is read.
    pub fn into_rows(self) -> Vec<TextRow> {
        self.rows
    }

    fn failed(&self, error: PgError) -> ReadError {
        match error.code() {
            // No such file (invalid parameter; from 17 on, undefined object), or its process is gone (object not in
            // prerequisite state). PostgreSQL: ImportSnapshot in snapmgr.c.
            Some("22023" | "42704" | "55000") if self.done < OPENING => ReadError::Lost(error),
            _ => ReadError::Other(error),
        }
    }
}

fn script(snapshot: &str, statements: &[Sql], oids: &[u32]) -> Sql {
    let adopt = Sql::format("SET TRANSACTION SNAPSHOT {}", &[&Sql::literal(snapshot)]);
    // The statements have locked the tables. pg_class is read under the transaction's snapshot, pg_relation_filenode()
    // looks at the present.
    let list = Sql::join(&oids.iter().map(|oid| Sql::number(*oid)).collect::<Vec<_>>(), ", ");
    let count = i64::try_from(oids.len()).expect("a list in memory is shorter than 2^63");
    let same_files = Sql::format(
        "SELECT count(*) = {} FROM pg_class WHERE oid IN ({}) AND relfilenode = pg_relation_filenode(oid)",
        &[&Sql::number(count), &list],
    );
    Sql::join([&BEGIN, &adopt].into_iter().chain(statements).chain([&same_files, &COMMIT]), "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_script_begins_reads_compares_and_ends() {
        let reads = [Sql::new("COPY a TO STDOUT"), Sql::new("COPY b TO STDOUT")];
        assert_eq!(
            script("00-1", &reads, &[7, 8]).as_str(),
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '00-1'; \
             COPY a TO STDOUT; COPY b TO STDOUT; SELECT count(*) = 2 FROM pg_class WHERE oid IN (7, 8) \
             AND relfilenode = pg_relation_filenode(oid); COMMIT"
        );
    }
}
