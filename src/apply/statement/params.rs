//! A statement's parameters: in goes a value of the change, out comes the SQL that stands for it.
//!
//! Of one row's statement every parameter is a value. Of many rows' statement it is an array, which [`Params::rows`]
//! spreads into rows. The array's elements are texts whatever the column's type is, cast to it where they are used:
//! text that is cast goes by the type's input function, as a parameter of that type does, unless `pg_cast` has a
//! function of its own for it ([`crate::postgres::catalog::ColumnInfo::read_from_text`]). So a column whose type is an
//! array needs no array of arrays, which PostgreSQL would flatten.

use super::{Statement, Value};
use crate::apply::table::TargetTable;
use crate::postgres::catalog::ColumnInfo;
use crate::sql::Sql;

/// `text`.
pub(super) const TEXT_OID: u32 = 25;

/// `int8`.
const INT8_OID: u32 = 20;

/// `text[]`.
const TEXT_ARRAY_OID: u32 = 1009;

/// A type that a parameter has.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    oid: u32,
    name: Option<&'a Sql>,
}

impl<'a> Type<'a> {
    /// For comparisons by output text.
    pub const TEXT: Type<'static> = Type { oid: TEXT_OID, name: None };

    /// A column's own.
    pub fn of(column: &'a ColumnInfo) -> Self {
        Self { oid: column.type_oid, name: Some(&column.type_name) }
    }

    /// What is below a column's domain.
    pub fn below(column: &'a ColumnInfo) -> Self {
        Self { oid: column.base_type_oid, name: Some(&column.base_type_name) }
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
        self.types.push(if self.many { TEXT_ARRAY_OID } else { wanted.oid });
        self.values.push(value);
        let number = Sql::number(self.values.len() as i64);
        if !self.many {
            return Sql::format("${}", &[&number]);
        }
        self.columns.push(match wanted.name.filter(|_| wanted.oid != TEXT_OID) {
            Some(name) => Sql::format("pg_catalog.unnest(${})::{} AS p{}", &[&number, name, &number]),
            None => Sql::format("pg_catalog.unnest(${}) AS p{}", &[&number, &number]),
        });
        Sql::format("s.p{}", &[&number])
    }

    /// What stands for the new row's value of a column (its place in the source's rows).
    pub fn new_value(&mut self, table: &TargetTable, index: usize) -> Sql {
        self.add(Value::New(index), Type::of(table.column(index)))
    }

    /// What stands for the number of rows.
    pub fn count(&mut self) -> Sql {
        self.types.push(INT8_OID);
        self.values.push(Value::Count);
        Sql::format("${}", &[&Sql::number(self.values.len() as i64)])
    }

    /// The subquery that gives the rows.
    pub fn rows(&self) -> Sql {
        Sql::format("(SELECT {}) AS s", &[&Sql::join(&self.columns, ", ")])
    }

    pub fn into_statement(self, sql: Sql) -> Statement {
        Statement { sql, types: self.types, values: self.values }
    }
}
