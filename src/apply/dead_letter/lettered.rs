//! Which tables have dead letters. Only the worker itself writes letters of its stream, so what it has seen and written
//! is all of them, and those that a command has removed meanwhile.

use std::collections::HashSet;
use std::sync::Arc;

use crate::apply::session::Session;
use crate::change::{Change, Part};
use crate::lsn::Lsn;
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::sql::Sql;

/// See the module.
#[derive(Debug, Default)]
pub struct Lettered {
    /// That of the letters, once it is known: a lane of tables writes those of the stream it belongs to.
    stream: Option<String>,
    tables: HashSet<TableName>,
}

impl Lettered {
    /// Looks, the first time.
    ///
    /// # Errors
    /// As [`Client::query`].
    pub(in crate::apply) async fn load(&mut self, client: &Client, progress: &str) -> Result<(), PgError> {
        if self.stream.is_some() {
            return Ok(());
        }
        let of = Sql::new("SELECT coalesce(lane_of, stream) FROM walferry.progress WHERE stream = $1");
        let stream = client.query_opt(&of, &[&progress]).await?.map_or_else(|| progress.to_owned(), |row| row.get(0));
        let tables = Sql::new("SELECT DISTINCT schema_name, table_name FROM walferry.dead_letter WHERE stream = $1");
        let tables = client.query(&tables, &[&stream]).await?;
        self.tables =
            tables.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
        self.stream = Some(stream);
        Ok(())
    }

    /// As if nothing had any, so that nothing is looked for.
    pub(super) fn none(stream: &str) -> Self {
        Self { stream: Some(stream.to_owned()), tables: HashSet::new() }
    }

    /// Whether the table may have letters.
    pub(in crate::apply) fn has(&self, table: &TableName) -> bool {
        self.tables.contains(table)
    }

    pub(super) fn add(&mut self, table: &TableName) {
        if !self.has(table) {
            self.tables.insert(table.clone());
        }
    }

    /// The letters' stream.
    pub(super) fn stream(&self) -> &str {
        self.stream.as_deref().unwrap_or_default()
    }

    /// Whether these parts have a DELETE whose row may be missing because of a letter, and of which nobody would say
    /// that it is: cascades remove rows as well.
    pub(in crate::apply) fn may_miss(&self, parts: &[Arc<Part>], session: &Session) -> bool {
        let may = |change: &Change| match change {
            Change::Delete { relation, .. } => {
                self.has(&relation.name)
                    && !session.replica_role
                    && session.known(relation).is_none_or(|table| table.info.cascaded)
            }
            _ => false,
        };
        !self.tables.is_empty() && parts.iter().any(|part| part.changes.iter().any(may))
    }

    /// The letters of this stream and table.
    pub(super) fn of(&self, table: &TableName) -> Sql {
        let [stream, schema, name] = [self.stream(), &table.schema, &table.name].map(Sql::literal);
        Sql::format("stream = {} AND schema_name = {} AND table_name = {}", &[&stream, &schema, &name])
    }

    /// All of a table's letters are pointless: it was emptied.
    pub(in crate::apply) fn supersede_all(&self, table: &TableName, lsn: Lsn) -> Sql {
        Sql::format(
            "UPDATE walferry.dead_letter SET superseded_lsn = {}::pg_lsn WHERE {} AND superseded_lsn IS NULL",
            &[&Sql::literal(&lsn.to_string()), &self.of(table)],
        )
    }
}
