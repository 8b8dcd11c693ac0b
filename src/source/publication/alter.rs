//! Putting tables into a publication that is there, and taking them out: in go its name and the tables, out comes what
//! it publishes then, or why not, with the statement for whoever may.
//!
//! A table whose rows nothing tells apart is not put in where UPDATE or DELETE is published: the source would refuse
//! these to its application from then on (`CheckCmdReplicaIdentity` in execReplication.c). Whether that is so is seen
//! in the transaction that puts it in, which is then rolled back.

use super::{Publication, missing, read, without_identity};
use crate::postgres::{Client, PgError};
use crate::relation::TableName;
use crate::source::SourceError;
use crate::source::answer::get;
use crate::sql::Sql;

/// What is done with the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// Put them in.
    Add,
    /// Take them out.
    Drop,
}

/// The statement.
pub fn statement(publication: &str, alteration: Alteration, tables: &[TableName]) -> Sql {
    let tables: Vec<Sql> = tables.iter().map(Sql::table).collect();
    let verb = Sql::new(match alteration {
        Alteration::Add => "ADD",
        Alteration::Drop => "DROP",
    });
    Sql::format("ALTER PUBLICATION {} {} TABLE {}", &[&Sql::ident(publication), &verb, &Sql::join(&tables, ", ")])
}

/// The tables of the client's database that can be published, by name.
///
/// # Errors
/// As [`Client::query`].
pub async fn candidates(client: &Client) -> Result<Vec<TableName>, SourceError> {
    let sql = Sql::new(
        "SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'walferry') ORDER BY 1, 2",
    );
    let rows = client.query(&sql, &[]).await.map_err(SourceError::during("listing the source's tables"))?;
    rows.iter().map(|row| Ok(TableName::new(get::<String>(row, "schema")?, get::<String>(row, "name")?))).collect()
}

/// Alters the publication, and gives it as it is then.
///
/// # Errors
/// [`SourceError::Publication`] with the statement that helps; or a table is locked for long.
pub async fn alter(
    client: &Client,
    name: &str,
    alteration: Alteration,
    tables: &[TableName],
) -> Result<Publication, SourceError> {
    let doing = || SourceError::during(format!("altering publication \"{name}\""));
    client.batch(&Sql::new("BEGIN; SET LOCAL lock_timeout = '5s'")).await.map_err(doing())?;
    let altered = try_alter(client, name, alteration, tables).await;
    let end = if altered.is_ok() { Sql::new("COMMIT") } else { Sql::new("ROLLBACK") };
    client.batch(&end).await.map_err(doing())?;
    altered
}

async fn try_alter(
    client: &Client,
    name: &str,
    alteration: Alteration,
    tables: &[TableName],
) -> Result<Publication, SourceError> {
    let sql = statement(name, alteration, tables);
    client.batch(&sql).await.map_err(|error| refused(name, &sql, error))?;
    let publication = read(client, name).await?.ok_or_else(|| missing(name))?;
    let faceless: Vec<TableName> = without_identity(&publication)
        .into_iter()
        .map(|table| table.name.clone())
        .filter(|table| alteration == Alteration::Add && tables.contains(table))
        .collect();
    if faceless.is_empty() {
        return Ok(publication);
    }
    let listed = faceless.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let remedies: Vec<Sql> = faceless
        .iter()
        .map(|table| Sql::format("ALTER TABLE {} REPLICA IDENTITY FULL", &[&Sql::table(table)]))
        .collect();
    Err(SourceError::Publication {
        name: name.to_owned(),
        problem: format!(
            "would have the source refuse UPDATE and DELETE on {listed}, which has neither a primary key nor another \
             replica identity"
        ),
        remedy: format!("give it a primary key, or run on the source: {};", Sql::join(&remedies, "; ").as_str()),
        sql: remedies,
    })
}

/// insufficient_privilege: not the owner of the publication, or of a table.
fn refused(name: &str, sql: &Sql, error: PgError) -> SourceError {
    match error.code() {
        Some("42501") => SourceError::Publication {
            name: name.to_owned(),
            problem: "may not be altered by the source's role, which does not own it, or not the table".to_owned(),
            remedy: format!("have the owner of both run: {};", sql.as_str()),
            sql: vec![sql.clone()],
        },
        _ => SourceError::during(format!("altering publication \"{name}\""))(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let tables = [TableName::new("public", "Orders"), TableName::new("s", "t")];
        assert_eq!(
            statement("p", Alteration::Add, &tables).as_str(),
            r#"ALTER PUBLICATION "p" ADD TABLE "public"."Orders", "s"."t""#
        );
        assert!(statement("p", Alteration::Drop, &tables[..1]).as_str().contains("DROP TABLE"));
    }
}
