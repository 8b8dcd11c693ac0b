//! The conditions that find a row, on the alias `t`.

use super::Value;
use super::params::{Params, Type};
use crate::apply::table::{TargetTable, Term, Test, Wire, Written};
use crate::relation::ReplicaIdentity;
use crate::sql::Sql;

/// An identity column is of an integer type and never NULL.
pub(super) fn same_identity(table: &TargetTable, column: &Written, params: &mut Params) -> Sql {
    let place = params.new_value(table, column.index);
    Sql::format("t.{} OPERATOR(pg_catalog.=) {}", &[&column.ident, &place])
}

/// A unique index's columns equal to the new row's.
pub(super) fn equal_new(table: &TargetTable, unique: usize, params: &mut Params) -> Vec<Sql> {
    table.uniques[unique]
        .iter()
        .map(|(index, operator)| equal(table, *index, Value::New(*index), operator, params))
        .collect()
}

/// A column equal to a value, by an index's operator.
fn equal(table: &TargetTable, index: usize, value: Value, operator: &Sql, params: &mut Params) -> Sql {
    let column = table.column(index);
    let ident = Sql::ident(&column.name);
    match &column.enum_below {
        Some(below) => {
            let place = params.add(value, Type::below(table, index));
            Sql::format("t.{}::{} {} {}", &[&ident, below, operator, &place])
        }
        None => {
            let place = params.add(value, Type::of(table, index));
            Sql::format("t.{} {} {}", &[&ident, operator, &place])
        }
    }
}

/// The conditions that find the row, on the alias `t`. Where all of the row is compared and there is nothing to
/// compare, as in a table without columns, every row is as good as any other.
pub(super) fn conditions(table: &TargetTable, params: &mut Params) -> Vec<Sql> {
    let mut conditions = match table.locator.is_empty() {
        true if table.relation.identity == ReplicaIdentity::Full => vec![Sql::new("true")],
        true => vec![Sql::new("false")],
        false => table.locator.iter().map(|term| condition(table, term, params)).collect(),
    };
    if table.untouched {
        // age() counts from the transaction's own id, which it has since it holds the progress row; ids of
        // subtransactions follow it (`xid_age`, `GetStableLatestTransactionId`). Rows of ages ago, whose ids have come
        // round, look younger still.
        conditions.push(Sql::new("age(t.xmin) NOT BETWEEN -100000000 AND 0"));
    }
    conditions
}

/// The condition that a row's key is one of the given ones, where it is a single column whose values come as they are.
/// The index is searched for an array's elements in a fifth less time than joined with its rows, and in a table with
/// partitions in all of them for each element: those are joined.
pub(super) fn any_key(table: &TargetTable, params: &mut Params) -> Option<Sql> {
    let [Term { index, ident, test: Test::Equal(operator) }] = &table.locator[..] else { return None };
    let column = table.column(*index);
    let Wire::Binary { oid, array } = table.wire(*index) else { return None };
    let plain = oid == column.type_oid && column.enum_below.is_none();
    if !plain || table.untouched || table.info.partitioned {
        return None;
    }
    Some(Sql::format("t.{} {} ANY ({})", &[ident, operator, &params.unspread(Value::Old(*index), array)]))
}

fn condition(table: &TargetTable, term: &Term, params: &mut Params) -> Sql {
    let value = Value::Old(term.index);
    match &term.test {
        Test::Equal(operator) => equal(table, term.index, value, operator, params),
        Test::NotDistinct => {
            let place = params.add(value, Type::of(table, term.index));
            Sql::format("t.{} IS NOT DISTINCT FROM {}", &[&term.ident, &place])
        }
        // format() uses the output function, as the source did. "IS NOT DISTINCT FROM NULL" is true only for NULL
        // itself and needs no equality operator (parse_expr.c, transformAExprDistinct); "IS NULL" would also be true
        // for a composite of NULLs. The text has the column's collation, under which other text may be equal.
        Test::SameText => {
            let place = params.add(value, Type::text(table, term.index));
            Sql::format(
                "CASE WHEN t.{} IS NOT DISTINCT FROM NULL THEN {} IS NULL
                      ELSE format('%s', t.{}) COLLATE pg_catalog.\"C\" = {} END",
                &[&term.ident, &place, &term.ident, &place],
            )
        }
    }
}

/// Where the row is: by the conditions themselves if they find one at most, else by the position of one that fulfils
/// them. In a partitioned table a position is unique only together with the partition.
pub(super) fn found(table: &TargetTable, name: &Sql, conditions: &[Sql]) -> Sql {
    let all = Sql::join(conditions, " AND ");
    if table.locates_one {
        return all;
    }
    Sql::format("(t.tableoid, t.ctid) = (SELECT t.tableoid, t.ctid FROM {} AS t WHERE {} LIMIT 1)", &[name, &all])
}
