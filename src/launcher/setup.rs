//! What a run of the daemon is made from: the configuration with its connection strings and patterns read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::error::LaunchError;
use crate::apply::bulk::BulkMode;
use crate::apply::dead_letter::OnError;
use crate::apply::exact::ConflictPolicy;
use crate::change::TargetId;
use crate::config::{self, Config, ConnectionString};
use crate::postgres::ConnectOptions;
use crate::relation::TableName;
use crate::route::Patterns;
use crate::source::publication::{Publication, PublishedTable};
use crate::tablesync::{CopyMode, CopySettings, ExistingRows, Rate};

/// The configuration, ready for use.
pub struct Setup {
    /// The stream's name: the slot's.
    pub stream: String,
    /// The source.
    pub source: ConnectOptions,
    /// Which tables; `None`: all that are published.
    pub tables: Option<Patterns>,
    /// Where to; a target's id is its place.
    pub targets: Vec<TargetSetup>,
    /// How to copy.
    pub copy: CopySettings,
    /// What to do about conflicts.
    pub conflicts: ConflictPolicy,
    /// What to do with a change of one row that a target does not take.
    pub on_error: OnError,
    /// When changes are applied in bulk.
    pub bulk: BulkMode,
    /// The rest of the configuration.
    pub config: Config,
}

/// One target.
pub struct TargetSetup {
    /// Its place.
    pub id: TargetId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub connect: ConnectOptions,
    /// Which of the stream's tables it gets; `None`: all.
    pub tables: Option<Patterns>,
}

impl Setup {
    /// Reads connection strings and patterns.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn new(config: Config) -> Result<Self, LaunchError> {
        // It is asked who it is and what is there; what is written there waits for nobody.
        let source = ConnectOptions { answers_soon: true, ..connect("source.url", &config.source.url)? };
        let tables = patterns("source.tables", config.source.tables.as_deref())?;
        let mut targets = Vec::with_capacity(config.targets.len());
        for (place, target) in config.targets.iter().enumerate() {
            targets.push(TargetSetup {
                id: TargetId(place),
                name: target.name.clone(),
                connect: connect(&format!("the url of target \"{}\"", target.name), &target.url)?,
                tables: patterns(&format!("tables of target \"{}\"", target.name), target.tables.as_deref())?,
            });
        }
        let copy = CopySettings {
            existing_rows: match config.copy.existing_rows {
                config::ExistingRows::Refuse => ExistingRows::Refuse,
                config::ExistingRows::Truncate => ExistingRows::Truncate,
                config::ExistingRows::Merge => ExistingRows::Merge,
            },
            mode: match config.copy.mode {
                config::CopyMode::Replace => CopyMode::Replace,
                config::CopyMode::Merge => CopyMode::Merge,
            },
            workers: config.copy.workers,
            rate: Rate::new(config.copy.max_rate).map(Arc::new),
            range_bytes: config.copy.range_bytes,
        };
        let conflicts = match config.apply.conflicts {
            config::ConflictPolicy::SourceWins => ConflictPolicy::SourceWins,
            config::ConflictPolicy::Stop => ConflictPolicy::Stop,
        };
        let on_error = match config.apply.on_error {
            // Whoever follows the target sees to a quarantine.
            config::OnError::Halt | config::OnError::QuarantineTable => OnError::Halt,
            config::OnError::DeadLetter => OnError::DeadLetter,
        };
        let bulk = match config.apply.bulk {
            config::Bulk::Auto => BulkMode::Auto,
            config::Bulk::Always => BulkMode::Always,
            config::Bulk::Never => BulkMode::Never,
        };
        Ok(Self {
            stream: config.source.slot.clone(),
            source,
            tables,
            targets,
            copy,
            conflicts,
            on_error,
            bulk,
            config,
        })
    }

    /// `application_name` of all connections.
    pub fn application_name(&self) -> String {
        format!("walferry/{}", self.stream)
    }

    /// Whether the stream's own patterns choose a table.
    pub fn chooses(&self, table: &TableName) -> bool {
        table.schema != "walferry" && self.tables.as_ref().is_none_or(|tables| tables.matches(table))
    }

    /// The tables of a publication that a target gets.
    pub fn wanted(&self, target: &TargetSetup, publication: &Publication) -> Vec<PublishedTable> {
        let wanted = |table: &&PublishedTable| {
            self.chooses(&table.name) && target.tables.as_ref().is_none_or(|tables| tables.matches(&table.name))
        };
        publication.tables.iter().filter(wanted).cloned().collect()
    }

    /// The stream's tables in a publication, each with what tells it from another of its name.
    pub fn chosen(&self, publication: &Publication) -> BTreeSet<(TableName, u32, Vec<u32>)> {
        let chosen = publication.tables.iter().filter(|table| self.chooses(&table.name));
        chosen.map(|table| (table.name.clone(), table.oid, table.entries.clone())).collect()
    }

    /// The longest wait between attempts.
    pub fn retry_max_interval(&self) -> Duration {
        self.config.apply.retry_max_interval
    }
}

fn connect(key: &str, url: &ConnectionString) -> Result<ConnectOptions, LaunchError> {
    let options = ConnectOptions::parse(url.expose());
    let options = options.map_err(|source| LaunchError::ConnectionString { key: key.to_owned(), source })?;
    Ok(options.renewing(url.expose(), url.file()))
}

fn patterns(key: &str, list: Option<&[String]>) -> Result<Option<Patterns>, LaunchError> {
    list.map(Patterns::parse).transpose().map_err(|source| LaunchError::Patterns { key: key.to_owned(), source })
}
