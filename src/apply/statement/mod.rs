//! The statements that apply changes: in goes a matched table and the shape of a change, out comes SQL and where each
//! of its parameters comes from. Pure.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | the shapes |
//! | `params.rs` | a statement's parameters: one row's values, or arrays of many rows' |
//! | `find.rs` | the conditions that find a row |
//! | `single.rs` | one change, one statement |
//! | `many.rs` | many rows' changes in one statement |
//!
//! UPDATE is *guarded*: when it finds no row it raises `division_by_zero`, so that a transaction sent in one flight
//! with its COMMIT cannot commit over a missing row. (An UPDATE alone would answer `UPDATE 0` and commit.)

mod find;
mod many;
mod params;
mod single;
#[cfg(test)]
mod tests;

use super::table::TargetTable;
use crate::sql::Sql;

/// SQLSTATE of a guard that found no row: `division_by_zero`.
pub const GUARD: &str = "22012";

/// A statement to be prepared.
#[derive(Debug, Clone)]
pub struct Statement {
    pub sql: Sql,
    /// The parameters' type OIDs on the target.
    pub types: Vec<u32>,
    /// The parameters' values.
    pub values: Vec<Value>,
}

/// Where a parameter's value comes from: a column's place in the source's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of the new row.
    New(usize),
    /// Of the old row; of the new one when the change carries no old.
    Old(usize),
    /// How many rows the statement is to touch.
    Count,
}

/// What decides a change's statement, besides its table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    Insert,
    /// The columns that are not set: unchanged TOAST, and unchanged identity columns.
    Update {
        unset: Vec<u16>,
    },
    /// As UPDATE, where an identity column that UPDATE cannot set has changed: DELETE and INSERT.
    Replace {
        unset: Vec<u16>,
    },
    Delete {
        guarded: bool,
    },
    /// Removes the rows that stand in the way of a new row by the n-th unique index, except the row that is about
    /// to be changed itself.
    /// Where their removal would cascade to other tables (`check`), raises as a guard does if there are any.
    Clear {
        unique: usize,
        except: Except,
        check: bool,
    },
    /// Sets every column of the row that has the new row's key, if it has the new row's identity columns too: those
    /// that UPDATE cannot set.
    Overwrite,
    /// The versions of the rows that the row's conditions find, which are locked: see `dead_letter/version.rs`.
    Versions,
    /// Many rows at once: each parameter is an array, a value for each row. Where it is `guarded`, it raises when it
    /// touches another number of rows than it is to ([`Value::Count`]); else its answer tells how many it touched.
    Many {
        many: Many,
        guarded: bool,
    },
}

/// What is done to many rows at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Many {
    Insert,
    /// Sets all but `unset` and, unless `rekey`, the key's columns.
    Update {
        unset: Vec<u16>,
        rekey: bool,
    },
    Delete,
    /// As DELETE, whatever the row has besides its key.
    DeleteKey,
    /// As UPDATE and DELETE, in a table without a key: for each given row one that is equal to it in all columns.
    UpdateEqual,
    DeleteEqual,
}

/// Which row a [`Shape::Clear`] spares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Except {
    /// The one that has the new row's key.
    NewKey,
    /// The one that is updated.
    Old,
    /// None.
    Nothing,
}

/// The statement for a change of that shape.
pub fn statement(table: &TargetTable, shape: &Shape) -> Statement {
    match shape {
        Shape::Insert => single::insert(table),
        Shape::Update { unset } => single::update(table, unset),
        Shape::Replace { unset } => single::replace(table, unset),
        Shape::Delete { guarded } => single::delete(table, *guarded),
        Shape::Clear { unique, except, check } => single::clear(table, *unique, *except, *check),
        Shape::Overwrite => single::overwrite(table),
        Shape::Versions => single::versions(table),
        Shape::Many { many, guarded } => many::statement(table, many, *guarded),
    }
}
