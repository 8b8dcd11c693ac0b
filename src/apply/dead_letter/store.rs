//! Letters as they lie on a target: counted, listed and dropped.

use tokio_postgres::Row;

use super::image::Image;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// A letter, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number, in the order of the source's changes.
    pub id: i64,
    /// Of which table.
    pub table: TableName,
    /// `insert`, `update` or `delete`.
    pub operation: String,
    /// By what the row is named; `None`: it has no name.
    pub key: Option<Image>,
    /// The same after the change, where that differs.
    pub new_key: Option<Image>,
    /// The row before, as far as the source sent it.
    pub old: Option<Image>,
    /// The row after.
    pub new: Option<Image>,
    /// What the target answered; `None`: the row was not there.
    pub sqlstate: Option<String>,
    /// The same in words, without values.
    pub error: String,
    /// Where the source's transaction ends.
    pub end_lsn: Option<String>,
    /// When it committed.
    pub commit_time: Option<String>,
    /// A later change has made it pointless.
    pub superseded_lsn: Option<String>,
    /// When it was written, by the target's clock.
    pub failed_at: String,
    /// How often it was tried again.
    pub retries: i32,
}

/// Which letters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// These; `None`: all.
    pub ids: Option<&'a [i64]>,
    /// Of this table only.
    pub table: Option<&'a TableName>,
}

impl Choice<'_> {
    fn condition(&self) -> Sql {
        let ids = self.ids.map(|ids| {
            let ids: Vec<Sql> = ids.iter().map(|id| Sql::number(*id)).collect();
            Sql::format(" AND id = ANY (ARRAY[{}]::bigint[])", &[&Sql::join(&ids, ", ")])
        });
        let table = self.table.map(|table| {
            let (schema, name) = (Sql::literal(&table.schema), Sql::literal(&table.name));
            Sql::format(" AND schema_name = {} AND table_name = {}", &[&schema, &name])
        });
        Sql::join(ids.iter().chain(&table), "")
    }
}

async fn is_made(client: &Client) -> Result<bool, PgError> {
    let made = Sql::new("SELECT to_regclass('walferry.dead_letter') IS NOT NULL");
    Ok(client.query_one(&made, &[]).await?.get(0))
}

/// How many letters there are of the stream that this progress row is of, or belongs to.
///
/// # Errors
/// As [`Client::query`].
pub async fn count(client: &Client, stream: &str) -> Result<u64, PgError> {
    if !is_made(client).await? {
        return Ok(0);
    }
    let count = Sql::new(
        "SELECT count(*) FROM walferry.dead_letter
         WHERE stream = coalesce((SELECT lane_of FROM walferry.progress WHERE stream = $1), $1)",
    );
    Ok(client.query_one(&count, &[&stream]).await?.get::<_, i64>(0).unsigned_abs())
}

/// The numbers of the chosen letters, in their order.
///
/// # Errors
/// As [`Client::query`].
pub async fn ids(client: &Client, stream: &str, choice: Choice<'_>) -> Result<Vec<i64>, PgError> {
    if !is_made(client).await? {
        return Ok(Vec::new());
    }
    let ids =
        Sql::format("SELECT id FROM walferry.dead_letter WHERE stream = $1{} ORDER BY id", &[&choice.condition()]);
    Ok(client.query(&ids, &[&stream]).await?.iter().map(|row| row.get(0)).collect())
}

/// The chosen letters, in their order; with their rows' values if they are wanted.
///
/// # Errors
/// As [`Client::query`].
pub async fn list(client: &Client, stream: &str, choice: Choice<'_>, values: bool) -> Result<Vec<Letter>, PgError> {
    if !is_made(client).await? {
        return Ok(Vec::new());
    }
    let images = Sql::new(if values { "old::text, new::text" } else { "NULL::text, NULL::text" });
    let letters = Sql::format(
        "SELECT id, schema_name, table_name, operation, key, new_key, {}, sqlstate, error, end_lsn::text,
                to_char(commit_time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), superseded_lsn::text,
                to_char(failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), retries
         FROM walferry.dead_letter WHERE stream = $1{} ORDER BY id",
        &[&images, &choice.condition()],
    );
    client.query(&letters, &[&stream]).await?.iter().map(|row| letter(row, client.peer())).collect()
}

fn letter(row: &Row, peer: &str) -> Result<Letter, PgError> {
    let image = |at: usize| read(row.get::<_, Option<String>>(at), peer);
    Ok(Letter {
        id: row.get(0),
        table: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        operation: row.get(3),
        key: image(4)?,
        new_key: image(5)?,
        old: image(6)?,
        new: image(7)?,
        sqlstate: row.get(8),
        error: row.get(9),
        end_lsn: row.get(10),
        commit_time: row.get(11),
        superseded_lsn: row.get(12),
        failed_at: row.get(13),
        retries: row.get(14),
    })
}

/// An image that was stored.
///
/// # Errors
/// It is something else.
pub(super) fn read(json: Option<String>, peer: &str) -> Result<Option<Image>, PgError> {
    let read = json.map(|json| Image::from_json(&json)).transpose();
    read.map_err(|_| PgError::Usage {
        message: format!("{peer}: walferry.dead_letter holds what walferry did not write"),
    })
}

/// Drops the chosen letters; gives how many there were.
///
/// # Errors
/// As [`Client::execute`].
pub async fn drop_letters(client: &Client, stream: &str, choice: Choice<'_>) -> Result<u64, PgError> {
    if !is_made(client).await? {
        return Ok(0);
    }
    let drop = Sql::format("DELETE FROM walferry.dead_letter WHERE stream = $1{}", &[&choice.condition()]);
    client.execute(&drop, &[&stream]).await
}
