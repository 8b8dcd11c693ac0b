//! Compares a table of two servers row by row: each row as text, in the same order, both sides walked in step.
//!
//! Rows come through cursors, so memory stays bounded whatever the size of the table.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::shop::DATABASE;
use crate::admin::CommandError;
use crate::admin::throwaway::Server;
use crate::postgres::Client;
use crate::relation::TableName;
use crate::sql::Sql;

const FETCH: Sql = Sql::new("FETCH 2000 FROM rows");

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Rows on the source.
    pub rows: u64,
    /// Of them, those that the target does not have.
    pub missing: u64,
    /// Rows of the target that the source does not have.
    pub extra: u64,
}

impl Compared {
    /// Whether both have the same rows, each as often.
    pub fn equal(&self) -> bool {
        self.missing == 0 && self.extra == 0
    }

    /// Takes the next row of one side, or the same of both.
    fn step(&mut self, source: Option<&str>, target: Option<&str>) -> Ordering {
        let order = match (source, target) {
            (Some(source), Some(target)) => source.as_bytes().cmp(target.as_bytes()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        self.rows += u64::from(source.is_some() && order.is_le());
        self.missing += u64::from(order.is_lt());
        self.extra += u64::from(order.is_gt());
        order
    }
}

/// Compares the table on both servers.
///
/// # Errors
/// A server cannot be asked.
pub async fn compare(source: &Server, target: &Server, table: &TableName) -> Result<Compared, CommandError> {
    let (mut left, mut right) = (Rows::open(source, table).await?, Rows::open(target, table).await?);
    let mut compared = Compared::default();
    loop {
        let (one, other) = (left.next().await?, right.next().await?);
        if one.is_none() && other.is_none() {
            return Ok(compared);
        }
        let order = compared.step(one.as_deref(), other.as_deref());
        // What was not taken waits for its turn.
        match order {
            Ordering::Less => right.put_back(other),
            Ordering::Greater => left.put_back(one),
            Ordering::Equal => {}
        }
    }
}

struct Rows {
    client: Client,
    name: &'static str,
    ahead: VecDeque<String>,
    complete: bool,
}

impl Rows {
    async fn open(server: &Server, table: &TableName) -> Result<Self, CommandError> {
        let client = server.connect(DATABASE).await?;
        // In the order of the bytes, which is the same everywhere.
        let cursor = Sql::format(
            "BEGIN READ ONLY; DECLARE rows NO SCROLL CURSOR FOR \
             SELECT t::text FROM {} AS t ORDER BY t::text COLLATE \"C\"",
            &[&Sql::table(table)],
        );
        let rows = Self { client, name: server.name, ahead: VecDeque::new(), complete: false };
        rows.client.batch(&cursor).await.map_err(|error| rows.failed(error))?;
        Ok(rows)
    }

    async fn next(&mut self) -> Result<Option<String>, CommandError> {
        if self.ahead.is_empty() && !self.complete {
            let rows = self.client.query(&FETCH, &[]).await.map_err(|error| self.failed(error))?;
            self.complete = rows.is_empty();
            self.ahead.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        Ok(self.ahead.pop_front())
    }

    fn put_back(&mut self, row: Option<String>) {
        row.into_iter().for_each(|row| self.ahead.push_front(row));
    }

    fn failed(&self, error: crate::postgres::PgError) -> CommandError {
        CommandError::at(format!("reading the tables of {}", self.name), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(source: &[&str], target: &[&str]) -> Compared {
        let (mut left, mut right) = (source.iter().peekable(), target.iter().peekable());
        let mut compared = Compared::default();
        while left.peek().is_some() || right.peek().is_some() {
            match compared.step(left.peek().map(|row| **row), right.peek().map(|row| **row)) {
                Ordering::Less => drop(left.next()),
                Ordering::Greater => drop(right.next()),
                Ordering::Equal => drop((left.next(), right.next())),
            }
        }
        compared
    }

    #[test]
    fn equal_rows_count_as_often_as_they_are_there() {
        assert_eq!(compared(&["a", "b", "b"], &["a", "b", "b"]), Compared { rows: 3, missing: 0, extra: 0 });
        assert_eq!(compared(&["a", "b", "b"], &["a", "b"]), Compared { rows: 3, missing: 1, extra: 0 });
        assert_eq!(compared(&["a", "b"], &["a", "b", "b", "c"]), Compared { rows: 2, missing: 0, extra: 2 });
        assert_eq!(compared(&["a", "c"], &["b"]), Compared { rows: 2, missing: 2, extra: 1 });
        assert!(compared(&[], &[]).equal() && !compared(&["a"], &[]).equal());
    }
}
