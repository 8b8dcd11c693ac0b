//! Each finding of preflight, on tables made up for it.

use super::super::fixture;
use super::super::order::ForeignKey;
use super::*;

fn catalog(tables: &[(&str, TargetTable)]) -> TargetCatalog {
    TargetCatalog {
        role: "me".into(),
        database: "db".into(),
        grants_parameters: true,
        may_create_temporary: true,
        schemas: ["s".to_owned()].into(),
        tables: tables.iter().map(|(name, table)| (TableName::new("s", *name), table.clone())).collect(),
        foreign_keys: Vec::new(),
    }
}

fn stops(findings: &[Finding]) -> Vec<(&str, &str, &str)> {
    let of = |f: &&Finding| f.weight == Weight::Stops;
    let shown = |f| {
        let Finding { table, problem, sql, .. }: &Finding = f;
        (table.name.as_str(), problem.as_str(), sql.as_ref().map_or("", Sql::as_str))
    };
    findings.iter().filter(of).map(shown).collect()
}

#[test]
fn a_target_that_fits_has_no_finding() {
    let scope = fixture::scope(vec![fixture::published("t", &["id", "v"])]);
    assert_eq!(judge(&scope, &catalog(&[("t", fixture::target(&["v", "id"]))]), &BTreeSet::new()), []);
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_the_statement_that_mends_it() {
    let scope = fixture::scope(vec![fixture::published("t", &["id", "v"]), fixture::published("gone", &["id"])]);
    let mut target = fixture::target(&["id", "extra"]);
    target.columns[1].not_null = true;
    target.missing_privileges = vec![Sql::new("INSERT"), Sql::new("TRUNCATE")];
    target.row_security = true;
    let findings = judge(&scope, &catalog(&[("t", target)]), &[TableName::new("s", "t")].into());
    let statements: Vec<&str> = stops(&findings).iter().map(|(_, _, sql)| *sql).collect();
    assert_eq!(
        statements,
        [
            r#"ALTER TABLE "s"."t" ADD COLUMN "v" integer"#,
            r#"ALTER TABLE "s"."t" ALTER COLUMN "extra" DROP NOT NULL"#,
            r#"GRANT INSERT ON TABLE "s"."t" TO "me""#,
            r#"ALTER ROLE "me" BYPASSRLS"#,
            r#"TRUNCATE ONLY "s"."t""#,
            r#"CREATE TABLE "s"."gone" ("id" integer, PRIMARY KEY ("id"))"#,
        ]
    );
}

#[test]
fn truncate_is_demanded_when_the_stream_will_need_it() {
    let mut scope = fixture::scope(vec![fixture::published("t", &["id"])]);
    let mut target = fixture::target(&["id"]);
    target.missing_privileges = vec![Sql::new("TRUNCATE")];
    let catalog = catalog(&[("t", target)]);
    assert_eq!(judge(&scope, &catalog, &BTreeSet::new()), []);
    scope.truncate_published = true;
    assert_eq!(stops(&judge(&scope, &catalog, &BTreeSet::new())).len(), 1);
}

#[test]
fn a_view_is_no_place_to_copy_to() {
    let mut target = fixture::target(&[]);
    target.kind = Kind::Other('v');
    let findings =
        judge(&fixture::scope(vec![fixture::published("t", &["id"])]), &catalog(&[("t", target)]), &BTreeSet::new());
    assert_eq!(stops(&findings), [("t", "is no table on the target but a view", "")]);
}

#[test]
fn generated_columns_triggers_and_unpublished_inserts_are_warnings() {
    let mut scope = fixture::scope(vec![fixture::published("t", &["id", "sum"])]);
    scope.insert_published = false;
    let mut target = fixture::target(&["id", "sum"]);
    target.columns[1].generated = true;
    target.triggers = vec!["Audit".into()];
    let findings = judge(&scope, &catalog(&[("t", target)]), &BTreeSet::new());
    assert_eq!(findings.len(), 3);
    assert!(findings.iter().all(|finding| finding.weight == Weight::Warns));
    assert!(findings[1].problem.contains("\"Audit\""));
}

#[test]
fn in_the_replica_role_other_triggers_fire_than_without_it() {
    let mut scope = fixture::scope(vec![fixture::published("t", &["id"])]);
    let mut target = fixture::target(&["id"]);
    target.triggers = vec!["ordinary".into(), "always".into()];
    target.replica_triggers = vec!["always".into(), "replica".into()];
    let catalog = catalog(&[("t", target)]);
    let mut said = |replica_role| {
        scope.replica_role = replica_role;
        let findings = judge(&scope, &catalog, &BTreeSet::new());
        assert_eq!(findings.iter().map(|finding| finding.weight).collect::<Vec<_>>(), [Weight::Warns]);
        findings[0].problem.clone()
    };
    assert!(said(false).contains("on the target: ordinary, always (the role may not set"));
    assert!(said(true).contains("on the target: always, replica (ENABLE ALWAYS or ENABLE REPLICA"));
}

#[test]
fn a_circle_of_foreign_keys_needs_the_replica_role() {
    let mut scope = fixture::scope(vec![fixture::published("a", &["id"]), fixture::published("b", &["id"])]);
    let mut catalog = catalog(&[("a", fixture::target(&["id"])), ("b", fixture::target(&["id"]))]);
    let key = |child, parent| ForeignKey { child: TableName::new("s", child), parent: TableName::new("s", parent) };
    catalog.foreign_keys = vec![key("a", "b"), key("b", "a")];
    let findings = judge(&scope, &catalog, &BTreeSet::new());
    assert_eq!(stops(&findings).len(), 2);
    let statements: Vec<&str> = findings.iter().filter_map(|f| f.sql.as_ref()).map(Sql::as_str).collect();
    assert_eq!(statements, [format!("GRANT SET ON PARAMETER session_replication_role TO \"{}\"", catalog.role)]);
    catalog.grants_parameters = false;
    assert!(judge(&scope, &catalog, &BTreeSet::new()).iter().all(|finding| finding.sql.is_none()));
    scope.replica_role = true;
    assert_eq!(judge(&scope, &catalog, &BTreeSet::new()), []);
}

#[test]
fn merging_needs_a_key_and_temporary_tables() {
    let mut scope = fixture::scope(vec![fixture::published("t", &["id"])]);
    scope.settings.existing_rows = ExistingRows::Merge;
    let mut target = fixture::target(&["id"]);
    target.keys.clear();
    let mut catalog = catalog(&[("t", target)]);
    catalog.may_create_temporary = false;
    let findings = judge(&scope, &catalog, &BTreeSet::new());
    let statements: Vec<&str> = stops(&findings).iter().map(|(_, _, sql)| *sql).collect();
    assert_eq!(
        statements,
        [r#"ALTER TABLE "s"."t" ADD PRIMARY KEY ("id")"#, r#"GRANT TEMPORARY ON DATABASE "db" TO "me""#]
    );
}
