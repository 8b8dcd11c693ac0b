//! The statements as they are sent.

use std::sync::Arc;

use super::params::TEXT_OID;
use super::*;
use crate::apply::table::TargetTable;
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
    let relation = Relation { id: RelationId(1), name: name.clone(), identity, columns: columns.into(), binary: false };
    let columns = names.map(|(name, type_oid)| ColumnInfo {
        enum_below: None,
        name: name.to_owned(),
        type_oid,
        base_type_oid: type_oid,
        type_name: Sql::table(&TableName::new("pg_catalog", format!("type_{type_oid}"))),
        base_type_name: Sql::table(&TableName::new("pg_catalog", format!("type_{type_oid}"))),
        read_from_text: true,
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
        fires: false,
        fires_as_replica: false,
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

fn many(table: &TargetTable, many: Many, guarded: bool) -> Statement {
    statement(table, &Shape::Many { many, guarded })
}

#[test]
fn what_is_done_to_many_rows_is_guarded_only_where_its_answer_comes_too_late() {
    let plain = table(ReplicaIdentity::Default, true, false);
    let update = || Many::Update { unset: vec![2], rekey: false };
    let change = "UPDATE ONLY \"s\".\"t\" AS t SET \"v\" = s.p2 FROM (SELECT";
    let guarded = many(&plain, update(), true);
    assert!(guarded.sql.as_str().starts_with(&format!("WITH changed AS ({change}")), "{}", guarded.sql);
    assert!(guarded.sql.as_str().ends_with("RETURNING 1) SELECT 1 / (count(*) = $3)::int FROM changed"));
    assert_eq!(guarded.values, [Value::Old(0), Value::New(1), Value::Count]);
    let answered = many(&plain, update(), false);
    assert!(answered.sql.as_str().starts_with(change), "{}", answered.sql);
    assert_eq!(answered.values, [Value::Old(0), Value::New(1)]);
    // A SELECT says how many rows it has given, not whether they were those that were meant.
    let nothing = many(&plain, Many::Update { unset: vec![1, 2], rekey: false }, false);
    assert!(nothing.sql.as_str().contains("SELECT 1 / (count(*) = $2)::int"), "{}", nothing.sql);
}

#[test]
fn keys_of_one_column_are_looked_up_as_an_array_where_they_come_as_they_are() {
    let mut plain = table(ReplicaIdentity::Default, true, false);
    let delete = |table: &TargetTable| many(table, Many::Delete, false).sql.as_str().to_owned();
    assert!(delete(&plain).contains("USING (SELECT pg_catalog.unnest($1)::"), "text: {}", delete(&plain));
    let in_binary = Relation { binary: true, ..Relation::clone(&plain.relation) };
    plain.relation = Arc::new(in_binary);
    let any = "DELETE FROM ONLY \"s\".\"t\" AS t WHERE t.\"id\" OPERATOR(\"pg_catalog\".=) ANY ($1)";
    assert_eq!(delete(&plain), any);
    assert_eq!(many(&plain, Many::Delete, false).types, [1007], "int4[]");
    plain.info.partitioned = true;
    assert!(delete(&plain).contains("USING (SELECT pg_catalog.unnest($1) AS p1)"), "{}", delete(&plain));
}
