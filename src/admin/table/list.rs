//! `walferry table list`.

use serde::Serialize;

use crate::admin::daemon::ask;
use crate::admin::output::{self, grouped, line, table};
use crate::admin::{CommandError, servers};
use crate::cli::{ExitCode, Output};
use crate::config::Config;
use crate::launcher::setup::{Setup, TargetSetup};
use crate::relation::TableName;
use crate::tablesync::state;

/// A table of a target.
#[derive(Debug, Serialize)]
struct Row {
    target: String,
    schema: String,
    name: String,
    /// As the daemon says; `copying`, `catching up`, `done`, `paused` or `quarantined` as the target has it.
    state: String,
    rows: u64,
    copy_lsn: Option<String>,
    error: Option<String>,
}

/// Prints the tables of all targets.
///
/// # Errors
/// Neither the daemon nor a target answers.
pub async fn run(config: Config, output: Output) -> Result<ExitCode, CommandError> {
    let rows = match ask(&config.http).await {
        Ok(status) if status.stream == config.source.slot => status
            .tables
            .into_iter()
            .map(|table| Row {
                target: table.target,
                schema: table.schema,
                name: table.name,
                state: table.state.to_string(),
                rows: table.rows,
                copy_lsn: table.copy_lsn,
                error: table.error,
            })
            .collect(),
        Ok(_) | Err(_) => stored(config).await?,
    };
    if output.json {
        output::json(&rows)?;
        return Ok(ExitCode::Success);
    }
    let shown = |row: &Row| {
        let name = TableName::new(&row.schema, &row.name).to_string();
        let copied = row.copy_lsn.clone().unwrap_or_else(|| "-".to_owned());
        vec![row.target.clone(), name, row.state.clone(), grouped(row.rows), copied]
    };
    line(&table(&["target", "table", "state", "rows copied", "followed from"], &[3], rows.iter().map(shown)))?;
    for Row { target, schema, name, error, .. } in &rows {
        if let Some(error) = error {
            line(&format!("! target {target}: {schema}.{name}: {error}"))?;
        }
    }
    Ok(ExitCode::Success)
}

/// What the targets have written down.
async fn stored(config: Config) -> Result<Vec<Row>, CommandError> {
    let setup = servers::setup(config)?;
    let mut rows = Vec::new();
    for target in &setup.targets {
        rows.extend(of(&setup, target).await?);
    }
    Ok(rows)
}

async fn of(setup: &Setup, target: &TargetSetup) -> Result<Vec<Row>, CommandError> {
    let client = servers::target(setup, target).await?;
    let tables = state::load(&client, &setup.stream).await.map_err(servers::at(target))?;
    let row = |table: state::TableState| Row {
        target: target.name.clone(),
        state: table.state.as_str().to_owned(),
        rows: table.rows,
        copy_lsn: table.was_begun().then(|| table.copy_lsn.to_string()),
        error: table.error,
        schema: table.name.schema,
        name: table.name.name,
    };
    Ok(tables.into_iter().map(row).collect())
}
