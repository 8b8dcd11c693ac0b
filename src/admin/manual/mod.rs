//! `walferry man`: the manual pages, made of what the program itself knows.
//!
//! ```text
//! cli (commands, options, exit codes) ─▶ page ◀─ facts (files, variables, signals)   walferry(1), walferry-run(1), …
//! config.example.toml ─▶ configuration                                               walferry.toml(5)
//! ```

mod configuration;
mod facts;
mod page;

use std::path::Path;

use clap_mangen::roff::Roff;

use super::CommandError;
use crate::cli::{ExitCode, ManualPages};

/// Writes all pages into the directory.
///
/// # Errors
/// It cannot be written to.
pub fn run(pages: &ManualPages) -> Result<ExitCode, CommandError> {
    let cannot = |path: &Path, source| CommandError::failed(format!("cannot write {}", path.display())).because(source);
    let directory = &pages.directory;
    std::fs::create_dir_all(directory).map_err(|source| cannot(directory, source))?;
    for (name, text) in all()? {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| cannot(&path, source))?;
    }
    Ok(ExitCode::Success)
}

/// Each page's file name and text.
fn all() -> Result<Vec<(String, String)>, CommandError> {
    let commands = page::commands();
    let mut pages = Vec::with_capacity(commands.len() + 1);
    for command in &commands {
        pages.push((format!("{}.1", page::name(command)), page::page(command, &commands)?));
    }
    pages.push(("walferry.toml.5".to_owned(), configuration::page()));
    Ok(pages)
}

/// Puts parts that were made by themselves together: what each begins with, a page has once.
fn join(parts: &[String]) -> String {
    let preamble = Roff::new().render();
    let parts = parts.iter().map(|part| part.replace(&preamble, ""));
    parts.fold(preamble.clone(), |page, part| page + &part)
}
