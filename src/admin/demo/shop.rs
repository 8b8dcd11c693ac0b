//! The shop's tables on all servers, and the roles that walferry connects as: none is a superuser.

use crate::admin::CommandError;
use crate::admin::throwaway::Server;
use crate::postgres::Client;
use crate::relation::TableName;
use crate::sql::Sql;

/// The database on every server.
pub const DATABASE: &str = "shop";

/// The role that walferry connects as, on every server.
pub const ROLE: &str = "walferry";

/// The publication; the slot has the same name.
pub const STREAM: &str = "walferry_demo";

/// What is replicated.
pub fn tables() -> [TableName; 7] {
    ["accounts", "orders", "products", "documents", "readings", "carts", "ledger"]
        .map(|name| TableName::new("shop", name))
}

/// Makes the source: tables with rows, publication, and a role with REPLICATION and SELECT.
///
/// # Errors
/// A statement fails: a mistake in the demonstration.
pub async fn make_source(server: &Server, password: &str) -> Result<(), CommandError> {
    let role =
        Sql::format("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}", &[&Sql::ident(ROLE), &Sql::literal(password)]);
    let database = Sql::format("CREATE DATABASE {}", &[&Sql::ident(DATABASE)]);
    make(server, [role, database], [Sql::new(include_str!("schema.sql")), Sql::new(include_str!("source.sql"))]).await
}

/// Makes a target: the same tables, empty, of an ordinary role that owns the database.
///
/// # Errors
/// As [`make_source`].
pub async fn make_target(server: &Server, password: &str) -> Result<(), CommandError> {
    let role = Sql::format("CREATE ROLE {} LOGIN PASSWORD {}", &[&Sql::ident(ROLE), &Sql::literal(password)]);
    let database = Sql::format("CREATE DATABASE {} OWNER {}", &[&Sql::ident(DATABASE), &Sql::ident(ROLE)]);
    let become_owner = Sql::format("SET ROLE {}", &[&Sql::ident(ROLE)]);
    make(server, [role, database], [become_owner, Sql::new(include_str!("schema.sql"))]).await
}

async fn make<const N: usize>(
    server: &Server,
    in_postgres: [Sql; N],
    in_database: [Sql; 2],
) -> Result<(), CommandError> {
    run(server, "postgres", &in_postgres).await?;
    run(server, DATABASE, &in_database).await
}

async fn run(server: &Server, database: &str, statements: &[Sql]) -> Result<(), CommandError> {
    let client: Client = server.connect(database).await?;
    for statement in statements {
        client
            .batch(statement)
            .await
            .map_err(|error| CommandError::at(format!("making the shop on {}", server.name), error))?;
    }
    Ok(())
}
