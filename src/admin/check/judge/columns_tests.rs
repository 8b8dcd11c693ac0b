//! Each check of columns and types, on tables made up for it.

use super::super::facts::tables::DefaultFacts;
use super::super::fixture::{column, name, sides, table};
use super::*;

fn found(ours: Vec<ColumnFacts>, theirs: Vec<ColumnFacts>) -> Vec<Finding> {
    let (target, source) = sides(table(ours), table(theirs));
    judge(&target, &source)
}

fn only(ours: ColumnFacts, theirs: ColumnFacts) -> (Code, String) {
    let mut found = found(vec![ours], vec![theirs]);
    assert_eq!(found.len(), 1, "{found:?}");
    let found = found.remove(0);
    (found.code, found.sql.join("; "))
}

#[test]
fn columns_that_are_alike_are_no_finding() {
    let columns = || vec![column("id", "integer"), column("v", "text")];
    assert_eq!(found(columns(), columns()), []);
}

#[test]
fn a_type_that_takes_every_value_is_told_from_one_that_may_not() {
    for (ours, theirs, takes) in [
        ("bigint", "integer", true),
        ("integer", "bigint", false),
        ("numeric", "bigint", true),
        ("numeric(10,2)", "integer", false),
        ("numeric(12,2)", "numeric(10,2)", true),
        ("numeric(10,4)", "numeric(10,2)", false),
        ("text", "uuid", true),
        ("character varying", "text", true),
        ("character varying(20)", "character varying(10)", true),
        ("character varying(5)", "character varying(10)", false),
        ("character varying(5)", "text", false),
        ("double precision", "real", true),
        ("double precision", "bigint", false),
        ("timestamp without time zone", "timestamp with time zone", false),
    ] {
        assert_eq!(takes_every(ours, theirs), takes, "{ours} for {theirs}");
    }
    let sql = r#"ALTER TABLE "s"."t" ALTER COLUMN "v" TYPE bigint USING "v"::text::bigint"#;
    assert_eq!(only(column("v", "integer"), column("v", "bigint")), (Code::TypeDiffers, sql.to_owned()));
    assert_eq!(only(column("v", "numeric"), column("v", "bigint")).0, Code::TypeWider);
}

#[test]
fn what_the_target_refuses_and_the_source_does_not_is_found() {
    let strict = ColumnFacts { not_null: true, ..column("v", "text") };
    let sql = r#"ALTER TABLE "s"."t" ALTER COLUMN "v" DROP NOT NULL"#;
    assert_eq!(only(strict.clone(), column("v", "text")), (Code::ColumnNotNull, sql.to_owned()));
    assert_eq!(found(vec![column("v", "text")], vec![strict.clone()]), []);
    let key = ColumnFacts { in_primary_key: true, ..strict };
    assert_eq!(only(key, column("v", "text")), (Code::ColumnNotNull, String::new()));
}

#[test]
fn generated_columns_are_mended_by_what_the_source_has() {
    let generated = |text: &str| ColumnFacts { expression: Some(text.to_owned()), ..column("v", "integer") };
    let plain = || column("v", "integer");
    let drop = r#"ALTER TABLE "s"."t" ALTER COLUMN "v" DROP EXPRESSION"#;
    assert_eq!(only(generated("1"), plain()), (Code::ColumnGenerated, drop.to_owned()));
    let anew = r#"ALTER TABLE "s"."t" DROP COLUMN "v", ADD COLUMN "v" integer GENERATED ALWAYS AS (2) STORED"#;
    assert_eq!(only(plain(), generated("2")), (Code::ColumnNotSent, anew.to_owned()));
    assert_eq!(only(generated("1"), generated("2")), (Code::ExpressionDiffers, anew.to_owned()));
    assert_eq!(found(vec![generated("1")], vec![generated("1")]), []);
    let virtual_ = ColumnFacts { is_virtual: true, ..generated("1") };
    assert!(only(virtual_, plain()).1.contains("DROP COLUMN"));
}

#[test]
fn an_identity_column_is_made_one_step_by_step() {
    let theirs = || ColumnFacts { identity: Some("ALWAYS".to_owned()), not_null: true, ..column("v", "integer") };
    let ours = ColumnFacts { has_default: true, ..column("v", "integer") };
    let sql =
        r#"ALTER TABLE "s"."t" ALTER COLUMN "v" DROP DEFAULT; ALTER TABLE "s"."t" ALTER COLUMN "v" SET NOT NULL; "#;
    let add = r#"ALTER TABLE "s"."t" ALTER COLUMN "v" ADD GENERATED ALWAYS AS IDENTITY"#;
    assert_eq!(only(ours, theirs()), (Code::IdentityColumn, format!("{sql}{add}")));
    let other = ColumnFacts { identity: Some("BY DEFAULT".to_owned()), ..theirs() };
    assert_eq!(found(vec![other], vec![theirs()]), [], "values are written over either");
}

#[test]
fn a_default_comes_with_the_sequence_it_takes_from() {
    let with = |portable, sequence: Option<&str>| {
        let sequence = sequence.map(|name| TableName::new("s", name));
        let default = DefaultFacts { expression: "f()".to_owned(), sequence, portable };
        ColumnFacts { default: Some(default), has_default: true, ..column("v", "integer") }
    };
    let set = r#"ALTER TABLE "s"."t" ALTER COLUMN "v" SET DEFAULT f()"#;
    assert_eq!(only(column("v", "integer"), with(true, None)), (Code::DefaultMissing, set.to_owned()));
    let both = format!(r#"CREATE SEQUENCE IF NOT EXISTS "s"."q"; {set}"#);
    assert_eq!(only(column("v", "integer"), with(true, Some("q"))), (Code::DefaultMissing, both));
    assert_eq!(only(column("v", "integer"), with(false, None)), (Code::DefaultMissing, String::new()));
    assert_eq!(found(vec![with(true, None)], vec![with(true, Some("q"))]), [], "it has one of its own");
}

#[test]
fn collations_and_columns_of_the_targets_own_are_to_be_known() {
    let sorted = |by: &str| ColumnFacts { collation: Some(by.to_owned()), ..column("v", "text") };
    let sql = r#"ALTER TABLE "s"."t" ALTER COLUMN "v" TYPE text COLLATE pg_catalog."default""#;
    assert_eq!(only(sorted("pg_catalog.\"C\""), column("v", "text")), (Code::ColumnCollation, sql.to_owned()));
    let own = ColumnFacts { has_default: true, not_null: true, ..column("mine", "integer") };
    let extra = found(vec![column("id", "integer"), own], vec![column("id", "integer")]);
    assert_eq!((extra.len(), extra[0].code), (1, Code::ColumnExtra));
}

fn with_type(made: Made, present: Option<&[&str]>, there: bool) -> Vec<Finding> {
    let columns = if there { vec![column("v", "s.k")] } else { vec![] };
    let (mut target, mut source) = sides(table(columns), table(vec![column("v", "s.k")]));
    let kind = TableName::new("s", "k");
    source.types = vec![ColumnType { table: name(), column: "v".to_owned(), name: kind.clone(), made }];
    if let Some(labels) = present {
        target.types.insert(kind, labels.iter().map(|label| (*label).to_owned()).collect());
    }
    types(&target, &source)
}

#[test]
fn labels_that_are_missing_are_added_at_their_places() {
    let labels = || Made::Enum(["a", "b", "c"].map(str::to_owned).to_vec());
    assert_eq!(with_type(labels(), Some(&["a", "b", "c", "more"]), true), []);
    let found = with_type(labels(), Some(&["b"]), true);
    assert_eq!(found[0].code, Code::EnumLabels);
    assert_eq!(
        found[0].sql,
        [r#"ALTER TYPE "s"."k" ADD VALUE 'a' BEFORE 'b'"#, r#"ALTER TYPE "s"."k" ADD VALUE 'c' AFTER 'b'"#]
    );
}

#[test]
fn a_type_is_missed_only_where_a_column_needs_it() {
    let labels = || Made::Enum(vec!["a".to_owned()]);
    assert_eq!(with_type(labels(), None, true), [], "the target has the column in another type");
    let missing = with_type(labels(), None, false);
    assert_eq!(missing[0].code, Code::TypeMissing);
    assert_eq!(missing[0].sql[1], r#"CREATE TYPE "s"."k" AS ENUM ('a')"#);
    let domain = with_type(Made::Domain("integer".to_owned()), None, false);
    assert_eq!(domain[0].sql[1], r#"CREATE DOMAIN "s"."k" AS integer"#);
    let other = with_type(Made::Otherwise, None, false);
    assert!(other[0].sql.is_empty() && other[0].advice.is_some(), "{other:?}");
    let extension = with_type(Made::Extension("hstore".to_owned(), "x".to_owned()), None, false);
    assert_eq!(extension[0].code, Code::ExtensionMissing);
    assert_eq!(extension[0].sql[1], r#"CREATE EXTENSION "hstore" SCHEMA "x""#);
}

#[test]
fn an_extension_of_another_version_is_to_be_known() {
    let (mut target, mut source) = sides(table(vec![]), table(vec![]));
    let (kind, made) = (TableName::new("s", "k"), Made::Extension("hstore".to_owned(), "s".to_owned()));
    source.types = vec![ColumnType { table: name(), column: "v".to_owned(), name: kind.clone(), made }];
    target.types.insert(kind, vec![]);
    target.extensions.insert("hstore".to_owned(), "1.7".to_owned());
    source.extensions.insert("hstore".to_owned(), "1.8".to_owned());
    let found = types(&target, &source);
    assert_eq!(found[0].sql, [r#"ALTER EXTENSION "hstore" UPDATE TO "1.8""#]);
    source.extensions.insert("hstore".to_owned(), "1.7".to_owned());
    assert_eq!(types(&target, &source), []);
}
