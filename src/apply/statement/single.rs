//! One change, one statement.

use super::find::{conditions, equal_new, found, same_identity};
use super::params::Params;
use super::{Except, Statement};
use crate::apply::table::TargetTable;
use crate::sql::Sql;

pub(super) fn insert(table: &TargetTable) -> Statement {
    let name = Sql::table(&table.info.name);
    let mut params = Params::one();
    if table.written.is_empty() {
        return params.into_statement(Sql::format("INSERT INTO {} DEFAULT VALUES", &[&name]));
    }
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let places: Vec<Sql> = table.written.iter().map(|column| params.new_value(table, column.index)).collect();
    let places = Sql::join(&places, ", ");
    let sql = Sql::format("INSERT INTO {} ({}){} VALUES ({})", &[&name, &columns, &overriding(table), &places]);
    params.into_statement(sql)
}

/// OVERRIDING SYSTEM VALUE is refused by no table and needed by those with GENERATED ALWAYS AS IDENTITY columns.
pub(super) fn overriding(table: &TargetTable) -> Sql {
    let needed = table.written.iter().any(|column| column.identity_always);
    Sql::new(if needed { " OVERRIDING SYSTEM VALUE" } else { "" })
}

pub(super) fn update(table: &TargetTable, unset: &[u16]) -> Statement {
    let mut params = Params::one();
    let set: Vec<Sql> = table
        .written
        .iter()
        .filter(|column| !unset.contains(&(column.index as u16)) && !column.identity_always)
        .map(|column| {
            let place = params.new_value(table, column.index);
            Sql::format("{} = {}", &[&column.ident, &place])
        })
        .collect();
    let name = table.only();
    let mut conditions = conditions(table, &mut params);
    for column in table.written.iter().filter(|column| column.identity_always) {
        // UPDATE cannot set it. Whether it changed is known only if it is in the old row; else the row itself tells.
        if !unset.contains(&(column.index as u16)) {
            conditions.push(same_identity(table, column, &mut params));
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

/// Raises when the change touched no row.
fn guarded(change: &Sql) -> Sql {
    Sql::format("WITH changed AS ({}) SELECT 1 / count(*) FROM changed", &[change])
}

pub(super) fn replace(table: &TargetTable, unset: &[u16]) -> Statement {
    let name = Sql::table(&table.info.name);
    let mut params = Params::one();
    let conditions = conditions(table, &mut params);
    let columns = Sql::join(table.written.iter().map(|column| &column.ident), ", ");
    let values: Vec<Sql> = table
        .written
        .iter()
        .map(|column| match unset.contains(&(column.index as u16)) {
            true => Sql::format("gone.{}", &[&column.ident]),
            false => params.new_value(table, column.index),
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

pub(super) fn delete(table: &TargetTable, guard: bool) -> Statement {
    let name = table.only();
    let mut params = Params::one();
    let conditions = conditions(table, &mut params);
    let found = found(table, &name, &conditions);
    let delete = Sql::format("DELETE FROM {} AS t WHERE {}", &[&name, &found]);
    let sql = if guard { guarded(&Sql::format("{} RETURNING 1", &[&delete])) } else { delete };
    params.into_statement(sql)
}

pub(super) fn clear(table: &TargetTable, unique: usize, except: Except, check: bool) -> Statement {
    let mut params = Params::one();
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

pub(super) fn overwrite(table: &TargetTable) -> Statement {
    let mut params = Params::one();
    let set: Vec<Sql> = table
        .written
        .iter()
        .filter(|column| !column.identity_always)
        .map(|column| {
            let place = params.new_value(table, column.index);
            Sql::format("{} = {}", &[&column.ident, &place])
        })
        .collect();
    let name = table.only();
    let mut conditions = table.key.map(|key| equal_new(table, key, &mut params)).unwrap_or_default();
    for column in table.written.iter().filter(|column| column.identity_always) {
        conditions.push(same_identity(table, column, &mut params));
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

/// Each row's version is who wrote it, in which file of its table it is, and a number made of its text. (A partition's
/// rows are in the partition's file; `pg_relation_filenode` needs no rights.)
pub(super) fn versions(table: &TargetTable) -> Statement {
    let mut params = Params::one();
    let conditions = Sql::join(&conditions(table, &mut params), " AND ");
    params.into_statement(Sql::format(
        "SELECT string_agg(version, ',' ORDER BY version) FROM (
             SELECT concat_ws(':', t.xmin, pg_relation_filenode(t.tableoid), hashtextextended((t.*)::text, 0))
                    COLLATE \"C\" AS version
             FROM {} AS t WHERE {} FOR UPDATE) AS found",
        &[&table.only(), &conditions],
    ))
}
