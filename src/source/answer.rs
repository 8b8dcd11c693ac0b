//! Columns of an answer, by name: in goes a row, out comes a value or an error that names the column.

use postgres_types::{FromSql, PgLsn};
use tokio_postgres::Row;

use super::SourceError;
use crate::lsn::Lsn;
use crate::postgres::wire::TextRow;

/// The value of a column; `Option` where it may be NULL.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T, SourceError> {
    row.try_get(column).map_err(|error| SourceError::Answer(format!("column {column}: {error}")))
}

/// A `pg_lsn` column; NULL and 0/0 are unknown.
pub(super) fn get_lsn(row: &Row, column: &str) -> Result<Option<Lsn>, SourceError> {
    Ok(get::<Option<PgLsn>>(row, column)?.and_then(|lsn| Lsn::known(lsn.into())))
}

/// The first row of a replication command's answer.
pub(super) fn first(rows: Vec<TextRow>, command: &str) -> Result<TextRow, SourceError> {
    rows.into_iter().next().ok_or_else(|| SourceError::Answer(format!("{command} gave no row")))
}

/// A field of a replication command's row that must be there.
pub(super) fn text(row: &TextRow, index: usize, what: &str) -> Result<String, SourceError> {
    row.get(index).cloned().flatten().ok_or_else(|| SourceError::Answer(format!("{what} is missing")))
}

/// As [`text`], parsed.
pub(super) fn parsed<T: std::str::FromStr>(row: &TextRow, index: usize, what: &str) -> Result<T, SourceError> {
    let text = text(row, index, what)?;
    text.parse()
        .map_err(|_| SourceError::Answer(format!("{what} is \"{}\"", text.chars().take(40).collect::<String>())))
}
