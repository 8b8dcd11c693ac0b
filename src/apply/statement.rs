//! The statements that apply changes: in goes a matched table and the shape of a change, out comes SQL and where each
//! of its parameters comes from. Pure.
//!
//! UPDATE is *guarded*: when it finds no row it raises `division_by_zero`, so that a transaction sent in one flight
//! with its COMMIT cannot commit over a missing row. (An UPDATE alone would answer `UPDATE 0` and commit.)

use super::table::{TargetTable, Term, Test, Written};
use crate::relation::ReplicaIdentity;
use crate::sql::Sql;

/// SQLSTATE of a guard that found no row: `division_by_zero`.
pub const GUARD: &str = "22012";

/// `text`, for comparisons by output text.
const TEXT_OID: u32 = 25;

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

/// The parameters gathered so far.
#[derive(Default)]
struct Params {
    types: Vec<u32>,
    values: Vec<Value>,
}

impl Params {
    /// A place for a value: `$n`.
    fn add(&mut self, value: Value, type_oid: u32) -> Sql {
        self.types.push(type_oid);
        self.values.push(value);
        Sql::format("${}", &[&Sql::number(self.values.len() as i64)])
    }

    fn into_statement(self, sql: Sql) -> Statement {
        Statement { sql, types: self.types, values: self.values }
    }
}

/// The statement for a change of that shape.
pub fn statement(table: &TargetTable, shape: &Shape) -> Statement {
    match shape {
        Shape::Insert => insert(table),
        Shape::Update { unset } => update(table, unset),
        Shape::Replace { unset } => replace(table, unset),
        Shape::Delete { guarded } => delete(table, *guarded),
        Shape::Clear { unique, except, check } => clear(table, *unique, *except, *check),
        Shape::Overwrite => overwrite(table),
    }
}

fn insert(table: &TargetTable) -> Statement {
    let name = Sql::table(&table.info.name);
    let mut params = Params::default();
    if table.written.is_empty() {
        return params.into_statement(Sql::format("INSERT INTO {} DEFAULT VALUES", &[&name]));
    }
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let places: Vec<Sql> =
        table.written.iter().map(|column| params.add(Value::New(column.index), column.type_oid)).collect();
    let places = Sql::join(&places, ", ");
    let sql = Sql::format("INSERT INTO {} ({}){} VALUES ({})", &[&name, &columns, &overriding(table), &places]);
    params.into_statement(sql)
}

/// OVERRIDING SYSTEM VALUE is refused by no table and needed by those with GENERATED ALWAYS AS IDENTITY columns.
fn overriding(table: &TargetTable) -> Sql {
    let needed = table.written.iter().any(|column| column.identity_always);
    Sql::new(if needed { " OVERRIDING SYSTEM VALUE" } else { "" })
}

fn update(table: &TargetTable, unset: &[u16]) -> Statement {
    let mut params = Params::default();
    let set: Vec<Sql> = table
        .written
        .iter()
        .filter(|column| !unset.contains(&(column.index as u16)) && !column.identity_always)
        .map(|column| {
            let place = params.add(Value::New(column.index), column.type_oid);
            Sql::format("{} = {}", &[&column.ident, &place])
        })
        .collect();
    let name = table.only();
    let mut conditions = conditions(table, &mut params);
    for column in table.written.iter().filter(|column| column.identity_always) {
        // UPDATE cannot set it. Whether it changed is known only if it is in the old row; else the row itself tells.
        if !unset.contains(&(column.index as u16)) {
            conditions.push(same_identity(column, &mut params));
        }
    }
    let change = if set.is_empty() {
        let found = Sql::join(&conditions, " AND ");
        Sql::format("SELECT 1 FROM {} AS t WHERE {}", &[&name, &found])
    } else {
        let set = Sql::join(&set, ", ");
        let found = found(table, &name, &conditions);
        Sql::format("UPDATE {} AS t SET {} WHERE {} RETURNING 1", &[&name, &set, &found])
    };
    params.into_statement(guarded(&change))
}

/// An identity column is of an integer type and never NULL.
fn same_identity(column: &Written, params: &mut Params) -> Sql {
    let place = params.add(Value::New(column.index), column.type_oid);
    Sql::format("t.{} OPERATOR(pg_catalog.=) {}", &[&column.ident, &place])
}

/// Raises when the change touched no row.
fn guarded(change: &Sql) -> Sql {
    Sql::format("WITH changed AS ({}) SELECT 1 / count(*) FROM changed", &[change])
}

fn replace(table: &TargetTable, unset: &[u16]) -> Statement {
    let name = Sql::table(&table.info.name);
    let mut params = Params::default();
    let conditions = conditions(table, &mut params);
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let values: Vec<Sql> = table
        .written
        .iter()
        .map(|column| match unset.contains(&(column.index as u16)) {
            true => Sql::format("gone.{}", &[&column.ident]),
            false => params.add(Value::New(column.index), column.type_oid),
        })
        .collect();
    let values = Sql::join(&values, ", ");
    let found = found(table, &table.only(), &conditions);
    let gone = Sql::format("DELETE FROM {} AS t WHERE {} RETURNING t.*", &[&table.only(), &found]);
    let sql = Sql::format(
        "WITH gone AS ({}), changed AS (INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone RETURNING 1)
         SELECT 1 / count(*) FROM changed",
        &[&gone, &name, &columns, &values],
    );
    params.into_statement(sql)
}

fn delete(table: &TargetTable, guard: bool) -> Statement {
    let name = table.only();
    let mut params = Params::default();
    let conditions = conditions(table, &mut params);
    let found = found(table, &name, &conditions);
    let delete = Sql::format("DELETE FROM {} AS t WHERE {}", &[&name, &found]);
    let sql = if guard { guarded(&Sql::format("{} RETURNING 1", &[&delete])) } else { delete };
    params.into_statement(sql)
}

fn clear(table: &TargetTable, unique: usize, except: Except, check: bool) -> Statement {
    let mut params = Params::default();
    let same = Sql::join(&equal_new(table, unique, &mut params), " AND ");
    let spared = match (except, table.key) {
        (Except::NewKey, Some(key)) => equal_new(table, key, &mut params),
        (Except::NewKey, None) | (Except::Nothing, _) => Vec::new(),
        (Except::Old, _) => conditions(table, &mut params),
    };
    let spared = match spared.is_empty() {
        true => Sql::new(""),
        false => Sql::format(" AND ({}) IS NOT TRUE", &[&Sql::join(&spared, " AND ")]),
    };
    let name = table.only();
    params.into_statement(match check {
        true => Sql::format(
            "WITH found AS (SELECT 1 FROM {} AS t WHERE {}{}) SELECT 1 / (count(*) = 0)::int FROM found",
            &[&name, &same, &spared],
        ),
        false => Sql::format("DELETE FROM {} AS t WHERE {}{}", &[&name, &same, &spared]),
    })
}

fn overwrite(table: &TargetTable) -> Statement {
    let mut params = Params::default();
    let set: Vec<Sql> = table
        .written
        .iter()
        .filter(|column| !column.identity_always)
        .map(|column| {
            let place = params.add(Value::New(column.index), column.type_oid);
            Sql::format("{} = {}", &[&column.ident, &place])
        })
        .collect();
    let name = table.only();
    let mut conditions = table.key.map(|key| equal_new(table, key, &mut params)).unwrap_or_default();
    for column in table.written.iter().filter(|column| column.identity_always) {
        conditions.push(same_identity(column, &mut params));
    }
    let found = Sql::join(&conditions, " AND ");
    let change = match set.is_empty() {
        true => Sql::format("SELECT 1 FROM {} AS t WHERE {}", &[&name, &found]),
        false => {
            let set = Sql::join(&set, ", ");
            Sql::format("UPDATE {} AS t SET {} WHERE {} RETURNING 1", &[&name, &set, &found])
        }
    };
    params.into_statement(guarded(&change))
}

/// A unique index's columns equal to the new row's.
fn equal_new(table: &TargetTable, unique: usize, params: &mut Params) -> Vec<Sql> {
    table.uniques[unique]
        .iter()
        .map(|(index, operator)| equal(table, *index, Value::New(*index), operator, params))
        .collect()
}

/// A column equal to a value, by an index's operator.
fn equal(table: &TargetTable, index: usize, value: Value, operator: &Sql, params: &mut Params) -> Sql {
    let name = &table.relation.columns[index].name;
    let (ident, column) = (Sql::ident(name), table.info.column(name));
    match column.and_then(|column| Some((column, column.enum_below.as_ref()?))) {
        Some((column, below)) => {
            let place = params.add(value, column.base_type_oid);
            Sql::format("t.{}::{} {} {}", &[&ident, below, operator, &place])
        }
        None => {
            let place = params.add(value, column.map_or(0, |column| column.type_oid));
            Sql::format("t.{} {} {}", &[&ident, operator, &place])
        }
    }
}

/// The conditions that find the row, on the alias `t`. Where all of the row is compared and there is nothing to
/// compare, as in a table without columns, every row is as good as any other.
fn conditions(table: &TargetTable, params: &mut Params) -> Vec<Sql> {
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

fn condition(table: &TargetTable, term: &Term, params: &mut Params) -> Sql {
    let value = Value::Old(term.index);
    match &term.test {
        Test::Equal(operator) => equal(table, term.index, value, operator, params),
        Test::NotDistinct => {
            let place = params.add(value, term.type_oid);
            Sql::format("t.{} IS NOT DISTINCT FROM {}", &[&term.ident, &place])
        }
        // format() uses the output function, as the source did. "IS NOT DISTINCT FROM NULL" is true only for NULL
        // itself and needs no equality operator (parse_expr.c, transformAExprDistinct); "IS NULL" would also be true
        // for a composite of NULLs. The text has the column's collation, under which other text may be equal.
        Test::SameText => {
            let place = params.add(value, TEXT_OID);
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
fn found(table: &TargetTable, name: &Sql, conditions: &[Sql]) -> Sql {
    let all = Sql::join(conditions, " AND ");
    if table.locates_one {
        return all;
    }
    Sql::format("(t.tableoid, t.ctid) = (SELECT t.tableoid, t.ctid FROM {} AS t WHERE {} LIMIT 1)", &[name, &all])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::postgres::catalog::{ColumnInfo, TableInfo, UniqueIndex};
    use crate::relation::{Column, Relation, RelationId, ReplicaIdentity, TableName};

    /// `s.t (id, v, j)`: id is the key by an index, j is json.
    fn table(identity: ReplicaIdentity, indexed: bool, identity_always: bool) -> TargetTable {
        let names = [("id", 23), ("v", 25), ("j", 114)];
        let columns = names.map(|(name, type_oid)| Column {
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
            is_key: name == "id" || identity == ReplicaIdentity::Full,
        });
        let name = TableName::new("s", "t");
        let relation = Relation { id: RelationId(1), name: name.clone(), identity, columns: columns.into() };
        let columns = names.map(|(name, type_oid)| ColumnInfo {
            enum_below: None,
            name: name.to_owned(),
            type_oid,
            base_type_oid: type_oid,
            generated: false,
            identity_always: identity_always && name == "id",
            loose_collation: false,
        });
        let key = UniqueIndex {
            name: "t_pkey".to_owned(),
            columns: vec![("id".to_owned(), Sql::new("OPERATOR(\"pg_catalog\".=)"))],
            primary: true,
            deferrable: false,
            not_null: true,
        };
        let unique = if indexed { vec![key] } else { Vec::new() };
        let info = TableInfo {
            name,
            oid: 1,
            partitioned: false,
            columns: columns.into(),
            unique,
            cascaded: false,
            rekeyed: false,
            referenced: false,
        };
        TargetTable::new(Arc::new(relation), info).unwrap()
    }

    fn sql(table: &TargetTable, shape: &Shape) -> String {
        statement(table, shape).sql.as_str().to_owned()
    }

    #[test]
    fn an_insert_names_its_columns_and_overrides_identities_only_where_there_are_any() {
        let plain = table(ReplicaIdentity::Default, true, false);
        assert_eq!(sql(&plain, &Shape::Insert), r#"INSERT INTO "s"."t" ("id", "v", "j") VALUES ($1, $2, $3)"#);
        let always = table(ReplicaIdentity::Default, true, true);
        assert!(sql(&always, &Shape::Insert).contains(") OVERRIDING SYSTEM VALUE VALUES ("));
    }

    #[test]
    fn an_update_leaves_out_what_is_unset_finds_by_the_old_key_and_is_guarded() {
        let plain = table(ReplicaIdentity::Default, true, false);
        let update = statement(&plain, &Shape::Update { unset: vec![2] });
        assert_eq!(
            update.sql.as_str(),
            "WITH changed AS (UPDATE ONLY \"s\".\"t\" AS t SET \"id\" = $1, \"v\" = $2 \
             WHERE t.\"id\" OPERATOR(\"pg_catalog\".=) $3 RETURNING 1) SELECT 1 / count(*) FROM changed"
        );
        assert_eq!(update.values, [Value::New(0), Value::New(1), Value::Old(0)]);
        assert_eq!(update.types, [23, 25, 23]);
    }

    #[test]
    fn partitions_are_reached_through_their_root_and_inheritance_children_never() {
        let mut table = table(ReplicaIdentity::Default, true, false);
        let delete = |table: &TargetTable| sql(table, &Shape::Delete { guarded: false });
        assert!(delete(&table).starts_with("DELETE FROM ONLY \"s\".\"t\" AS t"));
        table.info.partitioned = true;
        assert!(delete(&table).starts_with("DELETE FROM \"s\".\"t\" AS t"));
    }

    #[test]
    fn without_an_index_just_one_row_is_taken() {
        let heap = table(ReplicaIdentity::Full, false, false);
        let delete = statement(&heap, &Shape::Delete { guarded: false });
        assert!(delete.sql.as_str().contains("(t.tableoid, t.ctid) = (SELECT t.tableoid, t.ctid FROM"));
        assert!(delete.sql.as_str().ends_with("LIMIT 1)"));
        assert!(delete.sql.as_str().contains("format('%s', t.\"j\") COLLATE pg_catalog.\"C\" = $3"), "{}", delete.sql);
        assert_eq!(delete.types, [23, 25, TEXT_OID], "json is compared by its text");
    }

    #[test]
    fn an_identity_that_update_cannot_set_is_checked_not_set() {
        let always = table(ReplicaIdentity::Full, true, true);
        let update = sql(&always, &Shape::Update { unset: Vec::new() });
        assert!(update.contains("SET \"v\" = $1, \"j\" = $2 WHERE"), "{update}");
        assert!(update.contains("AND t.\"id\" OPERATOR(pg_catalog.=) $"), "{update}");
        let replace = sql(&always, &Shape::Replace { unset: vec![1] });
        assert!(replace.contains("SELECT $4, gone.\"v\", $5 FROM gone"), "{replace}");
    }

    #[test]
    fn what_stands_in_the_way_is_cleared_but_not_the_row_itself() {
        let plain = table(ReplicaIdentity::Default, true, false);
        assert_eq!(
            sql(&plain, &Shape::Clear { unique: 0, except: Except::Old, check: false }),
            "DELETE FROM ONLY \"s\".\"t\" AS t WHERE t.\"id\" OPERATOR(\"pg_catalog\".=) $1 \
             AND (t.\"id\" OPERATOR(\"pg_catalog\".=) $2) IS NOT TRUE"
        );
    }
}
