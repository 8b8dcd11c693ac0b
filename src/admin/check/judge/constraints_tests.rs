//! Each check of keys and constraints, on tables made up for it.

use super::super::fixture::{column, name, sides, table, unique};
use super::*;

fn columns() -> TableFacts {
    table(vec![column("id", "integer"), column("mail", "text")])
}

fn with(indexes: Vec<IndexFacts>) -> TableFacts {
    TableFacts { indexes, ..columns() }
}

fn found(ours: TableFacts, theirs: TableFacts) -> Vec<(Code, String)> {
    let (target, source) = sides(ours, theirs);
    judge(&target, &source).into_iter().map(|finding| (finding.code, finding.sql.join("; "))).collect()
}

fn key() -> IndexFacts {
    IndexFacts { primary: true, constraint: Some("t_pkey".to_owned()), ..unique("t_pkey", &["id"]) }
}

#[test]
fn a_key_that_the_source_keeps_is_no_finding() {
    assert_eq!(found(with(vec![key()]), with(vec![key()])), []);
    let both = unique("both", &["id", "mail"]);
    assert_eq!(found(with(vec![key(), both]), with(vec![key()])), [], "what holds for a part holds for the whole");
}

#[test]
fn a_key_of_the_targets_own_is_dropped_as_it_was_made() {
    let mail = || unique("by_mail", &["mail"]);
    let index = [(Code::UniqueExtra, r#"DROP INDEX "s"."by_mail""#.to_owned())];
    assert_eq!(found(with(vec![key(), mail()]), with(vec![key()])), index);
    let constraint = IndexFacts { constraint: Some("one".to_owned()), ..mail() };
    let sql = r#"ALTER TABLE "s"."t" DROP CONSTRAINT "one""#.to_owned();
    assert_eq!(found(with(vec![key(), constraint]), with(vec![key()])), [(Code::UniqueExtra, sql)]);
    let partial = IndexFacts { predicate: Some("id > 0".to_owned()), ..mail() };
    assert_eq!(found(with(vec![key(), mail()]), with(vec![key(), partial])), index, "it keeps some rows only");
    let mut own = with(vec![key(), unique("own", &["\"Own\""])]);
    own.columns.push(column("Own", "integer"));
    assert_eq!(found(own, with(vec![key()])), [], "it is about what the source has not");
}

#[test]
fn a_constraint_of_the_targets_own_is_found_by_what_it_says() {
    let check = |name: &str, text: &str| TableFacts {
        constraints: vec![(name.to_owned(), text.to_owned())],
        ..with(vec![key()])
    };
    assert_eq!(found(check("a", "CHECK ((id > 0))"), check("b", "CHECK ((id > 0))")), []);
    let sql = r#"ALTER TABLE "s"."t" DROP CONSTRAINT "a""#.to_owned();
    assert_eq!(found(check("a", "CHECK ((id > 1))"), check("b", "CHECK ((id > 0))")), [(Code::ConstraintExtra, sql)]);
}

#[test]
fn an_identity_without_an_index_is_given_one() {
    let without = |ours| found(ours, with(vec![key()]));
    let sql = |text: &str| [(Code::KeyUnindexed, text.to_owned())];
    assert_eq!(without(columns()), sql(r#"ALTER TABLE "s"."t" ADD PRIMARY KEY ("id")"#));
    let plain = IndexFacts { unique: false, ..key() };
    assert_eq!(without(with(vec![plain])), [], "it is found fast enough");
    let partitioned = TableFacts { partition_key: Some("RANGE (mail)".to_owned()), ..columns() };
    assert_eq!(without(partitioned), sql(r#"CREATE INDEX ON "s"."t" ("id")"#));
    assert_eq!(without(table(vec![column("mail", "text")])), [], "the column is missed by others");
}

#[test]
fn foreign_keys_to_and_from_elsewhere_are_told_apart() {
    let (mut target, source) = sides(with(vec![key()]), with(vec![key()]));
    let outer = |child_is_wanted| {
        let (child, parent) = (TableName::new("s", "c"), TableName::new("s", "p"));
        OuterKey { name: "k".to_owned(), child, parent, child_is_wanted }
    };
    target.foreign_keys = vec![outer(true), outer(false)];
    let found = judge(&target, &source);
    assert_eq!((found[0].code, found[0].object.as_str()), (Code::ForeignKeyOut, "s.c"));
    assert_eq!((found[1].code, found[1].object.as_str()), (Code::ForeignKeyIn, "s.p"));
    assert!(
        found.iter().all(|finding| finding.sql == [r#"ALTER TABLE "s"."c" DROP CONSTRAINT "k""#]),
        "{name:?}",
        name = name()
    );
}
