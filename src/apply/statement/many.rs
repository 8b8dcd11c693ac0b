//! Many rows' changes in one statement.
//!
//! The rows come as arrays, one for each value, spread by `unnest` in the select list, and are joined to the table. How
//! many of them found their row is told by the command's row count: there is no guard.
//!
//! By a key, each row is looked up in its index, in the order given. Without one (REPLICA IDENTITY FULL) the table is
//! read once for all given rows, and joined by the text of whole rows: two rows of equal text are equal, NULLs included
//! ([`crate::apply::table::Test`]), and text can be hashed whatever the types are. Of rows that are equal the n-th
//! given one takes the n-th that is there.

use super::find::conditions;
use super::params::Params;
use super::single::overriding;
use super::{Statement, Value};
use crate::apply::table::{TargetTable, Written};
use crate::sql::Sql;

pub(super) fn insert(table: &TargetTable) -> Statement {
    let mut params = Params::many();
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let values: Vec<Sql> = table.written.iter().map(|column| params.new_value(table, column.index)).collect();
    let sql = Sql::format(
        "INSERT INTO {} ({}){} SELECT {} FROM {}",
        &[&Sql::table(&table.info.name), &columns, &overriding(table), &Sql::join(&values, ", "), &params.rows()],
    );
    params.into_statement(sql)
}

pub(super) fn update(table: &TargetTable, unset: &[u16], rekey: bool) -> Statement {
    let is_set = |column: &&Written| {
        !unset.contains(&(column.index as u16)) && !column.identity_always && (rekey || !table.is_key(column.index))
    };
    let mut params = Params::many();
    let conditions = Sql::join(&conditions(table, &mut params), " AND ");
    let set = set(table, table.written.iter().filter(is_set), &mut params);
    let (name, rows) = (table.only(), params.rows());
    params.into_statement(match set.as_str().is_empty() {
        // Nothing to be changed, but the row has to be there.
        true => Sql::format("SELECT FROM {} AS t, {} WHERE {}", &[&name, &rows, &conditions]),
        false => Sql::format("UPDATE {} AS t SET {} FROM {} WHERE {}", &[&name, &set, &rows, &conditions]),
    })
}

fn set<'a>(table: &TargetTable, columns: impl Iterator<Item = &'a Written>, params: &mut Params) -> Sql {
    let set: Vec<Sql> = columns
        .map(|column| Sql::format("{} = {}", &[&column.ident, &params.new_value(table, column.index)]))
        .collect();
    Sql::join(&set, ", ")
}

pub(super) fn delete(table: &TargetTable) -> Statement {
    let mut params = Params::many();
    let conditions = conditions(table, &mut params);
    let sql = Sql::format(
        "DELETE FROM {} AS t USING {} WHERE {}",
        &[&table.only(), &params.rows(), &Sql::join(&conditions, " AND ")],
    );
    params.into_statement(sql)
}

pub(super) fn update_equal(table: &TargetTable) -> Statement {
    let mut params = Params::many();
    let whole = whole(table, &mut params);
    let set = set(table, table.written.iter(), &mut params);
    let sql = Sql::format(
        "WITH {} UPDATE {} AS t SET {} FROM s JOIN there USING (whole, nth) WHERE t.ctid = there.place",
        &[&pairs(table, &whole, &params), &table.only(), &set],
    );
    params.into_statement(sql)
}

pub(super) fn delete_equal(table: &TargetTable) -> Statement {
    let mut params = Params::many();
    let whole = whole(table, &mut params);
    let sql = Sql::format(
        "WITH {} DELETE FROM {} AS t USING s JOIN there USING (whole, nth) WHERE t.ctid = there.place",
        &[&pairs(table, &whole, &params), &table.only()],
    );
    params.into_statement(sql)
}

/// A given old row's text.
fn whole(table: &TargetTable, params: &mut Params) -> Sql {
    let value = |index| params.add(Value::Old(index), super::params::Type::of(table.column(index)));
    row_text(table.locator.iter().map(|term| term.index).map(value).collect())
}

fn row_text(values: Vec<Sql>) -> Sql {
    Sql::format("ROW({})::pg_catalog.text COLLATE pg_catalog.\"C\"", &[&Sql::join(&values, ", ")])
}

/// `s`, the given rows, and `there`, those of the table that are equal to one, both counted among their equals.
fn pairs(table: &TargetTable, given: &Sql, params: &Params) -> Sql {
    let own = row_text(table.locator.iter().map(|term| Sql::format("t.{}", &[&term.ident])).collect());
    let nth = Sql::new("pg_catalog.row_number() OVER (PARTITION BY whole)");
    Sql::format(
        "given AS MATERIALIZED (SELECT s.*, {} AS whole FROM {}),
         s AS (SELECT given.*, {} AS nth FROM given),
         there AS (SELECT place, whole, {} AS nth
                   FROM (SELECT t.ctid AS place, {} AS whole FROM {} AS t) AS t
                   WHERE whole IN (SELECT whole FROM given))",
        &[given, &params.rows(), &nth, &nth, &own, &table.only()],
    )
}
