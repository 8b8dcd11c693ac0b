//! Rows that come beside those that a table holds: the text of a merge's statements. Pure.
//!
//! They wait in a staging table first. Then they either overwrite those of the same key ([`Merge::overwrite`]), or the
//! table becomes what they are ([`Merge::align`]): who reads it meanwhile sees it as it was, and a row that is the same
//! on both sides is not touched.

use super::statement::{copy_in, list, only};
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
    ///
    /// Rows are the same if they are so byte by byte (`*=`, for which every type is good; PostgreSQL: "Composite Type
    /// Comparison". Without the casts it would be a comparison column by column, which has no such operator). A
    /// temporary table has no statistics but by ANALYZE, and without them the join may take for ever.
    pub fn align(&self) -> Vec<Sql> {
        let (table, staging) = (only(self.table, self.kind), Sql::table(&staging()));
        let row = |side| Sql::format("ROW({})::record", &[&of(side, self.columns)]);
        let same = Sql::format("{} OPERATOR(pg_catalog.*=) {}", &[&row("old"), &row("new")]);
        let analyze = Sql::format("ANALYZE {}", &[&staging]);
        let delete = Sql::format(
            "DELETE FROM {} AS old WHERE NOT EXISTS (SELECT FROM {} AS new WHERE {} AND {})",
            &[&table, &staging, &self.same_key(), &same],
        );
        let lacking =
            Sql::format(" AS new WHERE NOT EXISTS (SELECT FROM {} AS old WHERE {})", &[&table, &self.same_key()]);
        let insert = Sql::join([&self.insert(), &lacking], "");
        vec![analyze, delete, insert]
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
        let same: Vec<Sql> = self.key.iter().map(|column| compare(column, "=")).collect();
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
    Sql::format("old.{} {} new.{}", &[&column, &Sql::new(operator), &column])
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

    #[test]
    fn overwriting_updates_what_is_no_key_and_never_an_identity_that_is_always_generated() {
        let table = TableName::new("s", "t");
        let (columns, key, always) = (names(&["id", "seq", "v"]), names(&["id"]), names(&["seq"]));
        let merge = Merge { table: &table, kind: Kind::Plain, columns: &columns, key: &key, identity_always: &always };
        assert_eq!(
            texts(&merge.overwrite()),
            [
                concat!(
                    r#"DELETE FROM "s"."t" AS old USING "pg_temp"."walferry_copy" AS new "#,
                    r#"WHERE old."id" = new."id" AND (old."seq" <> new."seq")"#
                ),
                concat!(
                    r#"INSERT INTO "s"."t" ("id", "seq", "v") OVERRIDING SYSTEM VALUE "#,
                    r#"SELECT "id", "seq", "v" FROM "pg_temp"."walferry_copy" "#,
                    r#"ON CONFLICT ("id") DO UPDATE SET "v" = EXCLUDED."v""#
                ),
            ]
        );
    }

    #[test]
    fn overwriting_by_keys_alone_changes_nothing_that_is_there() {
        let table = TableName::new("s", "t");
        let columns = names(&["a", "b"]);
        let always = names(&["a"]);
        let merge =
            Merge { table: &table, kind: Kind::Plain, columns: &columns, key: &columns, identity_always: &always };
        let statements = merge.overwrite();
        assert_eq!(statements.len(), 1);
        assert!(statements[0].as_str().ends_with(r#"ON CONFLICT ("a", "b") DO NOTHING"#));
    }

    #[test]
    fn aligning_deletes_what_is_not_the_same_and_inserts_what_is_lacking_then() {
        let table = TableName::new("s", "t");
        let (columns, key) = (names(&["a", "b", "v"]), names(&["a", "b"]));
        let merge = Merge { table: &table, kind: Kind::Plain, columns: &columns, key: &key, identity_always: &[] };
        assert_eq!(
            texts(&merge.align()),
            [
                r#"ANALYZE "pg_temp"."walferry_copy""#,
                concat!(
                    r#"DELETE FROM ONLY "s"."t" AS old WHERE NOT EXISTS "#,
                    r#"(SELECT FROM "pg_temp"."walferry_copy" AS new "#,
                    r#"WHERE old."a" = new."a" AND old."b" = new."b" AND ROW(old."a", old."b", old."v")::record "#,
                    r#"OPERATOR(pg_catalog.*=) ROW(new."a", new."b", new."v")::record)"#
                ),
                concat!(
                    r#"INSERT INTO "s"."t" ("a", "b", "v") OVERRIDING SYSTEM VALUE SELECT "a", "b", "v" "#,
                    r#"FROM "pg_temp"."walferry_copy" AS new WHERE NOT EXISTS "#,
                    r#"(SELECT FROM ONLY "s"."t" AS old WHERE old."a" = new."a" AND old."b" = new."b")"#
                ),
            ]
        );
    }
}
