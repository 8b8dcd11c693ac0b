//! Many rows' changes in one statement.
//!
//! The rows come as arrays, one for each value, spread by `unnest` in the select list, and are joined to the table. A
//! *guarded* statement raises `division_by_zero` unless it touches the number of rows it is given, so that it can
//! travel in one flight with its COMMIT, as a guarded UPDATE of one row does. That has every row returned to be
//! counted, a tenth of what a DELETE costs; others leave the counting to who reads their answer.
//!
//! By a key, each row is looked up in its index, in the order given. Without one (REPLICA IDENTITY FULL) the table is
//! read once for all given rows, and joined by the text of whole rows: two rows of equal text are equal, NULLs included
//! ([`crate::apply::table::Test`]), and text can be hashed whatever the types are. Of rows that are equal the n-th
//! given one takes the n-th that is there.

use super::find::{any_key, conditions};
use super::params::{Params, Type};
use super::single::overriding;
use super::{Many, Statement, Value};
use crate::apply::table::{TargetTable, Written};
use crate::sql::Sql;

/// The statement that does it.
pub(super) fn statement(table: &TargetTable, many: &Many, guarded: bool) -> Statement {
    let mut params = Params::many();
    let (with, change) = match many {
        Many::Insert => {
            let sql = insert(table, &mut params);
            return params.into_statement(sql);
        }
        Many::Update { unset, rekey } => match update(table, unset, *rekey, &mut params) {
            Some(change) => (None, change),
            None => {
                let sql = guard(None, &there(table, &mut params), &mut params);
                return params.into_statement(sql);
            }
        },
        Many::Delete => (None, delete(table, &mut params)),
        Many::DeleteKey => (None, delete(&table.by_key_alone(), &mut params)),
        Many::UpdateEqual => {
            let whole = whole(table, &mut params);
            let change = update_equal(table, &mut params);
            (Some(pairs(table, &whole, &params)), change)
        }
        Many::DeleteEqual => {
            let whole = whole(table, &mut params);
            (Some(pairs(table, &whole, &params)), delete_equal(table))
        }
    };
    let sql = match (guarded, with) {
        (true, with) => guard(with.as_ref(), &Sql::format("{} RETURNING 1", &[&change]), &mut params),
        (false, Some(with)) => Sql::format("WITH {} {}", &[&with, &change]),
        (false, None) => change,
    };
    params.into_statement(sql)
}

/// Raises unless the change returns the given number of rows.
fn guard(with: Option<&Sql>, change: &Sql, params: &mut Params) -> Sql {
    let with = with.map_or(Sql::new(""), |with| Sql::format("{}, ", &[with]));
    Sql::format(
        "WITH {}changed AS ({}) SELECT 1 / (count(*) = {})::int FROM changed",
        &[&with, change, &params.count()],
    )
}

/// None is left out: what leaves rows out (triggers, rules) is not applied so.
fn insert(table: &TargetTable, params: &mut Params) -> Sql {
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let values: Vec<Sql> = table.written.iter().map(|column| params.new_value(table, column.index)).collect();
    Sql::format(
        "INSERT INTO {} ({}){} SELECT {} FROM {}",
        &[&Sql::table(&table.info.name), &columns, &overriding(table), &Sql::join(&values, ", "), &params.rows()],
    )
}

/// `None` where there is nothing to set.
fn update(table: &TargetTable, unset: &[u16], rekey: bool, params: &mut Params) -> Option<Sql> {
    let is_set = |column: &&Written| {
        !unset.contains(&(column.index as u16)) && !column.identity_always && (rekey || !table.is_key(column.index))
    };
    if !table.written.iter().any(|column| is_set(&column)) {
        return None;
    }
    let conditions = Sql::join(&conditions(table, params), " AND ");
    let set = set(table, table.written.iter().filter(is_set), params);
    let (name, rows) = (table.only(), params.rows());
    Some(Sql::format("UPDATE {} AS t SET {} FROM {} WHERE {}", &[&name, &set, &rows, &conditions]))
}

/// The rows that have nothing to be changed, but have to be there.
fn there(table: &TargetTable, params: &mut Params) -> Sql {
    let conditions = Sql::join(&conditions(table, params), " AND ");
    Sql::format("SELECT 1 FROM {} AS t, {} WHERE {}", &[&table.only(), &params.rows(), &conditions])
}

fn set<'a>(table: &TargetTable, columns: impl Iterator<Item = &'a Written>, params: &mut Params) -> Sql {
    let set: Vec<Sql> = columns
        .map(|column| Sql::format("{} = {}", &[&column.ident, &params.new_value(table, column.index)]))
        .collect();
    Sql::join(&set, ", ")
}

fn delete(table: &TargetTable, params: &mut Params) -> Sql {
    if let Some(condition) = any_key(table, params) {
        return Sql::format("DELETE FROM {} AS t WHERE {}", &[&table.only(), &condition]);
    }
    let conditions = Sql::join(&conditions(table, params), " AND ");
    Sql::format("DELETE FROM {} AS t USING {} WHERE {}", &[&table.only(), &params.rows(), &conditions])
}

fn update_equal(table: &TargetTable, params: &mut Params) -> Sql {
    Sql::format(
        "UPDATE {} AS t SET {} FROM s JOIN there USING (whole, nth) WHERE t.ctid = there.place",
        &[&table.only(), &set(table, table.written.iter(), params)],
    )
}

fn delete_equal(table: &TargetTable) -> Sql {
    Sql::format(
        "DELETE FROM {} AS t USING s JOIN there USING (whole, nth) WHERE t.ctid = there.place",
        &[&table.only()],
    )
}

/// A given old row's text.
fn whole(table: &TargetTable, params: &mut Params) -> Sql {
    let value = |index| params.add(Value::Old(index), Type::of(table, index));
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
