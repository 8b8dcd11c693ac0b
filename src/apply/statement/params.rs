//! A statement's parameters: in goes a value of the change, out comes the SQL that stands for it.
//!
//! Of one row's statement every parameter is a value. Of many rows' statement it is an array, which [`Params::rows`]
//! spreads into rows.
//!
//! # Values that arrive as text
//! Of one row a parameter has the column's type. Of many the array's elements are texts whatever the type is, cast to
//! it where they are spread: text that is cast goes by the type's input function, as a parameter of that type does,
//! unless `pg_cast` has a function of its own for it ([`crate::postgres::catalog::ColumnInfo::read_from_text`]). So a
//! column whose type is an array needs no array of arrays, which PostgreSQL would flatten.
//!
//! # Values that arrive in binary
//! A parameter has the source's type, or is an array of it. Where the target's column is of another, the value is made
//! text first, by its output function (`format`, not a cast: a cast to text of bpchar cuts, that of boolean says
//! `true`), and then what the column is: the outcome is as if it had arrived as text.

use super::{Statement, Value};
use crate::apply::table::{TargetTable, Wire};
use crate::sql::Sql;

/// `text`.
pub(super) const TEXT_OID: u32 = 25;

/// `int8`.
const INT8_OID: u32 = 20;

/// `text[]`.
const TEXT_ARRAY_OID: u32 = 1009;

/// What a parameter is wanted as, and how its value arrives.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    oid: u32,
    /// Below a domain.
    base_oid: u32,
    /// Of any type but text.
    name: Option<&'a Sql>,
    wire: Wire,
}

impl<'a> Type<'a> {
    /// For comparisons by output text.
    pub fn text(table: &TargetTable, index: usize) -> Self {
        Self { oid: TEXT_OID, base_oid: TEXT_OID, name: None, wire: table.wire(index) }
    }

    /// A column's own (its place in the source's rows).
    pub fn of(table: &'a TargetTable, index: usize) -> Self {
        let column = table.column(index);
        let name = Some(&column.type_name).filter(|_| column.type_oid != TEXT_OID);
        Self { oid: column.type_oid, base_oid: column.base_type_oid, name, wire: table.wire(index) }
    }

    /// What is below a column's domain.
    pub fn below(table: &'a TargetTable, index: usize) -> Self {
        let column = table.column(index);
        let oid = column.base_type_oid;
        let name = Some(&column.base_type_name).filter(|_| oid != TEXT_OID);
        Self { oid, base_oid: oid, name, wire: table.wire(index) }
    }

    /// A value that arrived, as this type.
    fn of_arrived(&self, place: Sql) -> Sql {
        let Wire::Binary { oid, .. } = self.wire else { return place };
        if oid == self.oid {
            return place;
        }
        let text = Sql::format("(CASE WHEN {} IS NOT NULL THEN pg_catalog.format('%s', {}) END)", &[&place, &place]);
        match self.name {
            Some(name) if oid == self.base_oid => Sql::format("{}::{}", &[&place, name]),
            Some(name) => Sql::format("{}::{}", &[&text, name]),
            None => text,
        }
    }
}

/// The parameters gathered so far.
pub(super) struct Params {
    many: bool,
    types: Vec<u32>,
    values: Vec<Value>,
    /// Of many rows: the expressions that spread the arrays.
    columns: Vec<Sql>,
}

impl Params {
    /// Of one row.
    pub fn one() -> Self {
        Self { many: false, types: Vec::new(), values: Vec::new(), columns: Vec::new() }
    }

    /// Of many rows, which the statement reads from [`Self::rows`] under the name `s`.
    pub fn many() -> Self {
        Self { many: true, ..Self::one() }
    }

    /// What stands for a value.
    pub fn add(&mut self, value: Value, wanted: Type<'_>) -> Sql {
        self.values.push(value);
        let number = Sql::number(self.values.len() as i64);
        let place = if self.many {
            let spread = Sql::format("pg_catalog.unnest(${})", &[&number]);
            let (array, spread) = match (wanted.wire, wanted.name) {
                (Wire::Binary { array, .. }, _) => (array, spread),
                (Wire::Text, Some(name)) => (TEXT_ARRAY_OID, Sql::format("{}::{}", &[&spread, name])),
                (Wire::Text, None) => (TEXT_ARRAY_OID, spread),
            };
            self.types.push(array);
            self.columns.push(Sql::format("{} AS p{}", &[&spread, &number]));
            Sql::format("s.p{}", &[&number])
        } else {
            self.types.push(match wanted.wire {
                Wire::Binary { oid, .. } => oid,
                Wire::Text => wanted.oid,
            });
            Sql::format("${}", &[&number])
        };
        wanted.of_arrived(place)
    }

    /// What stands for the new row's value of a column (its place in the source's rows).
    pub fn new_value(&mut self, table: &TargetTable, index: usize) -> Sql {
        self.add(Value::New(index), Type::of(table, index))
    }

    /// What stands for a value of this type that is not spread into rows.
    pub fn unspread(&mut self, value: Value, oid: u32) -> Sql {
        self.types.push(oid);
        self.values.push(value);
        Sql::format("${}", &[&Sql::number(self.values.len() as i64)])
    }

    /// What stands for the number of rows.
    pub fn count(&mut self) -> Sql {
        self.unspread(Value::Count, INT8_OID)
    }

    /// The subquery that gives the rows.
    pub fn rows(&self) -> Sql {
        Sql::format("(SELECT {}) AS s", &[&Sql::join(&self.columns, ", ")])
    }

    pub fn into_statement(self, sql: Sql) -> Statement {
        Statement { sql, types: self.types, values: self.values }
    }
}
