//! `walferry table add|remove`: in and out of the publication, as far as the configuration agrees.

use serde_json::json;

use crate::admin::output::{self, line};
use crate::admin::{CommandError, servers};
use crate::cli::{ExitCode, OneTable};
use crate::config::Config;
use crate::launcher::setup::Setup;
use crate::relation::TableName;
use crate::route::Patterns;
use crate::source::publication::alter::{Alteration, alter, candidates};
use crate::source::publication::{self, Publication};

/// Alters the publication.
///
/// # Errors
/// The configuration says otherwise, the source's role may not, or a table cannot be published.
pub async fn run(config: Config, table: &OneTable, alteration: Alteration) -> Result<ExitCode, CommandError> {
    let pattern = Patterns::parse(std::slice::from_ref(&table.name));
    let pattern = pattern.map_err(|error| CommandError::at("the table is not named", error))?;
    let setup = servers::setup(config)?;
    let source = servers::source(&setup).await?;
    let failed = |error| CommandError::at("nothing was changed", error);
    let name = &setup.config.source.publication;
    let found = publication::read(&source, name).await.map_err(failed)?;
    let found = found.ok_or_else(|| failed(publication::missing(name)))?;
    let known = match alteration {
        Alteration::Add => candidates(&source).await.map_err(failed)?,
        Alteration::Drop => found.tables.iter().map(|table| table.name.clone()).collect(),
    };
    let chosen: Vec<TableName> = known.into_iter().filter(|known| pattern.matches(known)).collect();
    agrees(&setup, &found, &table.name, &chosen, alteration)?;
    let is_in = |table: &TableName| found.tables.iter().any(|published| published.name == *table);
    let (there, new): (Vec<TableName>, Vec<TableName>) = chosen.into_iter().partition(is_in);
    let changed = if alteration == Alteration::Add { new } else { there };
    if !changed.is_empty() {
        alter(&source, name, alteration, &changed).await.map_err(failed)?;
    }
    print(name, &changed, alteration, table)
}

/// Whether the configuration, and the publication's kind, have nothing against it.
fn agrees(
    setup: &Setup,
    publication: &Publication,
    written: &str,
    chosen: &[TableName],
    alteration: Alteration,
) -> Result<(), CommandError> {
    let name = &publication.name;
    if chosen.is_empty() {
        let (what, hint) = match alteration {
            Alteration::Add => ("the source has no table", "Names are taken exactly as written, nothing is folded."),
            Alteration::Drop => ("the publication has no table", "`walferry table list` shows those that it has."),
        };
        return Err(CommandError::refused(format!("{what} {written}"), hint));
    }
    let listed = |tables: &[&TableName]| tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match alteration {
        Alteration::Add => {
            let others: Vec<&TableName> = chosen.iter().filter(|table| !setup.chooses(table)).collect();
            if others.is_empty() {
                return Ok(());
            }
            let what = format!("source.tables does not choose {}", listed(&others));
            Err(CommandError::refused(what, "Add it there, have the daemon reload, and run this again."))
        }
        Alteration::Drop if publication.all_tables => Err(CommandError::refused(
            format!("publication \"{name}\" is FOR ALL TABLES"),
            "To have a table left out, exclude it in source.tables (\"!schema.table\") and have the daemon reload.",
        )),
        Alteration::Drop => {
            let wanted: Vec<&TableName> = chosen.iter().filter(|table| setup.chooses(table)).collect();
            if setup.tables.is_none() || wanted.is_empty() {
                return Ok(());
            }
            let what = format!("source.tables chooses {}, and a start without it would be refused", listed(&wanted));
            let hint = "Exclude it there (\"!schema.table\"), have the daemon reload, and run this again.";
            Err(CommandError::refused(what, hint))
        }
    }
}

fn print(
    publication: &str,
    changed: &[TableName],
    alteration: Alteration,
    table: &OneTable,
) -> Result<ExitCode, CommandError> {
    let names: Vec<String> = changed.iter().map(ToString::to_string).collect();
    if table.output.json {
        output::json(&json!({ "publication": publication, "changed": names }))?;
        return Ok(ExitCode::Success);
    }
    line(&match (alteration, names.as_slice()) {
        (Alteration::Add, []) => format!("Publication {publication} has {} already.", table.name),
        (Alteration::Add, names) => format!(
            "Publication {publication} has {} from now on. A running daemon copies and follows it within seconds: \
             `walferry table list` shows how far it is.",
            names.join(", ")
        ),
        (Alteration::Drop, names) => format!(
            "Publication {publication} has {} no more. Rows that are on the targets stay there.",
            names.join(", ")
        ),
    })?;
    Ok(ExitCode::Success)
}
