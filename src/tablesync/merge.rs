//! Rows that come beside those that a table holds: the text of a merge's statements. Pure.
//!
//! They wait in a staging table first. Then they either overwrite those of the same key ([`Merge::overwrite`]), or the
//! table becomes what they are ([`Merge::align`]): who reads it meanwhile sees it as it was, and a row that is the same
//! on both sides is not touched.

use super::statement::{self, copy_in, list, only};
use super::target_tables::Kind;
use crate::relation::TableName;
use crate::sql::Sql;

/// Where the rows wait; dropped with the transaction.
fn staging() -> TableName {
    TableName::new("pg_temp", "walferry_copy")
}

/// How rows are merged into those that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge<'a> {
    /// The table.
    pub table: &'a TableName,
    /// What it is on the target.
    pub kind: Kind,
    /// What is copied.
    pub columns: &'a [String],
    /// Of them, the key that says which rows are the same.
    pub key: &'a [String],
    /// Of the key, those of PostgreSQL's own types, below any domains: the others' `=` is not in `pg_catalog`, or does
    /// not take a domain (over an enum).
    pub comparable: &'a [String],
    /// Whether the source has the key, too, so that no two of its rows are of the same.
    pub is_unique: bool,
    /// Of them, those GENERATED ALWAYS AS IDENTITY.
    pub identity_always: &'a [String],
}

impl Merge<'_> {
    /// Makes the staging table: the columns' names and types, and no constraint.
    pub fn create_staging(&self) -> Sql {
        Sql::format(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
            &[&Sql::table(&staging()), &list(self.columns), &Sql::table(self.table)],
        )
    }

    /// Fills it.
    pub fn copy_in(&self) -> Sql {
        copy_in(&staging(), self.columns)
    }

    /// Writes its rows over those of the table, whose other rows stay. An identity column that is GENERATED ALWAYS
    /// cannot be updated, so a row in which such a column differs is deleted first and inserted anew.
    pub fn overwrite(&self) -> Vec<Sql> {
        let is_key = |column: &&String| self.key.contains(column);
        let fixed: Vec<&String> = self.identity_always.iter().filter(|column| !is_key(column)).collect();
        let set: Vec<Sql> = self
            .columns
            .iter()
            .filter(|column| !is_key(column) && !fixed.contains(column))
            .map(|column| excluded(column))
            .collect();
        let action = match set.is_empty() {
            true => Sql::new("DO NOTHING"),
            false => Sql::format("DO UPDATE SET {}", &[&Sql::join(&set, ", ")]),
        };
        let conflict = Sql::format(" ON CONFLICT ({}) {}", &[&list(self.key), &action]);
        let insert = Sql::join([&self.insert(), &conflict], "");
        let differ: Vec<Sql> = fixed.iter().map(|column| compare(column, "<>")).collect();
        let delete = (!differ.is_empty()).then(|| {
            Sql::format(
                "DELETE FROM {} AS old USING {} AS new WHERE {} AND ({})",
                &[&Sql::table(self.table), &Sql::table(&staging()), &self.same_key(), &Sql::join(&differ, " OR ")],
            )
        });
        delete.into_iter().chain([insert]).collect()
    }

    /// Makes the table's rows those of the staging table: what is not the same there goes, and what is lacking then is
    /// inserted. So a value of a unique column may have gone from one row to another, a row may have changed its
    /// partition or its identity column, and of a row that has changed nothing stays that the source does not have.
    /// What was to go and is still there (a trigger has kept it) is in the way of what is inserted.
    ///
    /// Rows are the same if they are so byte by byte, and so are then their keys, which are compared beside it for the
    /// sake of the join alone. A temporary table has no statistics but by ANALYZE, and without them the join may take
    /// for ever. The lock waits for whoever has written to the table and not committed yet, as TRUNCATE does: what is
    /// committed once rows are compared would stay as it is.
    pub fn align(&self) -> Vec<Sql> {
        let (table, staging) = (only(self.table, self.kind), Sql::table(&staging()));
        let same = equal(self.comparable.iter()).chain([identical(self.columns)]).collect::<Vec<_>>();
        let same = Sql::join(&same, " AND ");
        let analyze = Sql::format("ANALYZE {}", &[&staging]);
        let lock = statement::lock_out_writers(self.table, self.kind);
        let delete = Sql::format(
            "DELETE FROM {} AS old WHERE NOT EXISTS (SELECT FROM {} AS new WHERE {})",
            &[&table, &staging, &same],
        );
        let lacking = Sql::format(" AS new WHERE NOT EXISTS (SELECT FROM {} AS old WHERE {})", &[&table, &same]);
        let insert = Sql::join([&self.insert(), &lacking], "");
        [analyze, lock, delete].into_iter().chain(self.delete_repeated()).chain([insert]).collect()
    }

    /// Of rows that the source has twice one may be there. It goes, so that inserting both meets the target's key.
    fn delete_repeated(&self) -> Option<Sql> {
        let key = list(self.key);
        let delete = || {
            Sql::format(
                "DELETE FROM {} AS old USING (SELECT {} FROM {} GROUP BY {} HAVING count(*) > 1) AS new WHERE {}",
                &[&only(self.table, self.kind), &key, &Sql::table(&staging()), &key, &self.same_key()],
            )
        };
        (!self.is_unique).then(delete)
    }

    /// All of the staging table.
    fn insert(&self) -> Sql {
        let columns = list(self.columns);
        Sql::format(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            &[&Sql::table(self.table), &columns, &columns, &Sql::table(&staging())],
        )
    }

    fn same_key(&self) -> Sql {
        let others: Vec<String> = self.key.iter().filter(|column| !self.comparable.contains(column)).cloned().collect();
        let others = (!others.is_empty()).then(|| identical(&others));
        let same: Vec<Sql> = equal(self.comparable.iter()).chain(others).collect();
        Sql::join(&same, " AND ")
    }
}

fn excluded(column: &str) -> Sql {
    let column = Sql::ident(column);
    Sql::format("{} = EXCLUDED.{}", &[&column, &column])
}

/// Key and identity columns are never NULL.
fn compare(column: &str, operator: &'static str) -> Sql {
    let column = Sql::ident(column);
    Sql::format("old.{} OPERATOR(pg_catalog.{}) new.{}", &[&column, &Sql::new(operator), &column])
}

fn equal<'a>(columns: impl Iterator<Item = &'a String>) -> impl Iterator<Item = Sql> {
    columns.map(|column| compare(column, "="))
}

/// Byte by byte, for which every type is good (PostgreSQL: "Composite Type Comparison"; without the casts it would be a
/// comparison column by column, which has no such operator).
fn identical(columns: &[String]) -> Sql {
    let row = |side| Sql::format("ROW({})::record", &[&of(side, columns)]);
    Sql::format("{} OPERATOR(pg_catalog.*=) {}", &[&row("old"), &row("new")])
}

/// `old.a, old.b`.
fn of(side: &'static str, columns: &[String]) -> Sql {
    let side = Sql::new(side);
    let columns: Vec<Sql> = columns.iter().map(|column| Sql::join([&side, &Sql::ident(column)], ".")).collect();
    Sql::join(&columns, ", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|&column| column.to_owned()).collect()
    }

    fn texts(statements: &[Sql]) -> Vec<&str> {
        statements.iter().map(Sql::as_str).collect()
    }

    fn merge<'a>(table: &'a TableName, columns: &'a [String], key: &'a [String], always: &'a [String]) -> Merge<'a> {
        let kind = Kind::Plain;
        Merge { table, kind, columns, key, comparable: key, is_unique: true, identity_always: always }
    }

    #[test]
    fn overwriting_updates_what_is_no_key_and_never_an_identity_that_is_always_generated() {
        let table = TableName::new("s", "t");
        let (columns, key, always) = (names(&["id", "seq", "v"]), names(&["id"]), names(&["seq"]));
        let merge = merge(&table, &columns, &key, &always);
        assert_eq!(
            texts(&merge.overwrite()),
            [
                concat!(
                    r#"DELETE FROM "s"."t" AS old USING "pg_temp"."walferry_copy" AS new "#,
                    r#"WHERE old."id" OPERATOR(pg_catalog.=) new."id" "#,
                    r#"AND (old."seq" OPERATOR(pg_catalog.<>) new."seq")"#
                ),
                concat!(
                    r#"INSERT INTO "s"."t" ("id", "seq", "v") OVERRIDING SYSTEM VALUE "#,
                    r#"SELECT "id", "seq", "v" FROM "pg_temp"."walferry_copy" "#,
                    r#"ON CONFLICT ("id") DO UPDATE SET "v" = EXCLUDED."v""#
                ),
            ]
        );
        let merge = Merge { comparable: &[], ..merge };
        let by_bytes = r#"WHERE ROW(old."id")::record OPERATOR(pg_catalog.*=) ROW(new."id")::record AND ("#;
        assert!(merge.overwrite()[0].as_str().contains(by_bytes), "{:?}", merge.overwrite());
    }

    #[test]
    fn overwriting_by_keys_alone_changes_nothing_that_is_there() {
        let table = TableName::new("s", "t");
        let columns = names(&["a", "b"]);
        let always = names(&["a"]);
        let statements = merge(&table, &columns, &columns, &always).overwrite();
        assert_eq!(statements.len(), 1);
        assert!(statements[0].as_str().ends_with(r#"ON CONFLICT ("a", "b") DO NOTHING"#));
    }

    #[test]
    fn aligning_deletes_what_is_not_the_same_and_inserts_what_is_lacking_then() {
        let table = TableName::new("s", "t");
        let (columns, key) = (names(&["a", "b", "v"]), names(&["a", "b"]));
        let merge = merge(&table, &columns, &key, &[]);
        let merge = Merge { comparable: &key[..1], ..merge };
        let same = concat!(
            r#"old."a" OPERATOR(pg_catalog.=) new."a" AND ROW(old."a", old."b", old."v")::record "#,
            r#"OPERATOR(pg_catalog.*=) ROW(new."a", new."b", new."v")::record)"#
        );
        let aligned = [
            r#"ANALYZE "pg_temp"."walferry_copy""#.to_owned(),
            r#"LOCK TABLE ONLY "s"."t" IN SHARE ROW EXCLUSIVE MODE"#.to_owned(),
            [
                r#"DELETE FROM ONLY "s"."t" AS old WHERE NOT EXISTS "#,
                r#"(SELECT FROM "pg_temp"."walferry_copy" AS new WHERE "#,
                same,
            ]
            .concat(),
            [
                r#"INSERT INTO "s"."t" ("a", "b", "v") OVERRIDING SYSTEM VALUE SELECT "a", "b", "v" "#,
                r#"FROM "pg_temp"."walferry_copy" AS new WHERE NOT EXISTS (SELECT FROM ONLY "s"."t" AS old WHERE "#,
                same,
            ]
            .concat(),
        ];
        assert_eq!(texts(&merge.align()), aligned);
        let repeated = concat!(
            r#"DELETE FROM ONLY "s"."t" AS old USING (SELECT "a", "b" FROM "pg_temp"."walferry_copy" "#,
            r#"GROUP BY "a", "b" HAVING count(*) > 1) AS new WHERE old."a" OPERATOR(pg_catalog.=) new."a" "#,
            r#"AND ROW(old."b")::record OPERATOR(pg_catalog.*=) ROW(new."b")::record"#
        );
        let statements = Merge { is_unique: false, ..merge }.align();
        assert_eq!(texts(&statements), [&aligned[0], &aligned[1], &aligned[2], repeated, &aligned[3]]);
    }
}
