//! Writes the configuration file of a daemon under test, and starts it.

use std::fmt::Write;

use super::cluster_builder::free_port;
use super::daemon::Daemon;
use super::modes::Bulk;

/// What the daemon shall be told. Sections and keys are those of `config.example.toml`.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    source: String,
    targets: Vec<String>,
    apply: String,
    extra: String,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// A daemon that reads from here, through the slot and publication `walferry`.
    pub fn new(source_url: &str) -> Self {
        let new = Self::default().environment("NO_COLOR", "1");
        new.source("url", quoted(source_url))
            .source("slot", quoted("walferry"))
            .source("publication", quoted("walferry"))
    }

    /// Another slot.
    pub fn slot(self, slot: &str) -> Self {
        self.source("slot", quoted(slot))
    }

    /// Another publication.
    pub fn publication(self, publication: &str) -> Self {
        self.source("publication", quoted(publication))
    }

    /// The tables to replicate.
    pub fn tables(self, tables: &[&str]) -> Self {
        self.source("tables", list(tables))
    }

    /// A key of `[source]`, its value as TOML. The last one of a name holds.
    pub fn source(mut self, key: &str, value: impl AsRef<str>) -> Self {
        let start = format!("{key} = ");
        let kept: Vec<&str> = self.source.lines().filter(|line| !line.starts_with(&start)).collect();
        self.source =
            kept.iter().chain([&&*format!("{start}{}", value.as_ref())]).map(|line| format!("{line}\n")).collect();
        self
    }

    /// A key of `[apply]`, its value as TOML. Each name once.
    pub fn apply(mut self, key: &str, value: &str) -> Self {
        writeln!(self.apply, "{key} = {value}").expect("writing to a string");
        self
    }

    /// The way of applying, whatever WALFERRY_TEST_BULK says.
    pub fn bulk(self, bulk: Bulk) -> Self {
        self.apply("bulk", &quoted(bulk.name()))
    }

    /// A target that takes every table.
    pub fn target(self, name: &str, url: &str) -> Self {
        self.target_with(name, url, "")
    }

    /// A target that takes these tables.
    pub fn target_tables(self, name: &str, url: &str, tables: &[&str]) -> Self {
        self.target_with(name, url, &format!("tables = {}", list(tables)))
    }

    /// A target with further keys, as TOML lines.
    pub fn target_with(mut self, name: &str, url: &str, lines: &str) -> Self {
        self.targets.push(format!("name = {}\nurl = {}\n{lines}\n", quoted(name), quoted(url)));
        self
    }

    /// Replaces text in every target's URL, such as the role.
    pub fn retarget(mut self, from: &str, to: &str) -> Self {
        self.targets = self.targets.iter().map(|target| target.replace(from, to)).collect();
        self
    }

    /// Further sections, as TOML (`[copy]` …; not `[http]` and `[log]`, and `[apply]` only without [`Builder::apply`]).
    pub fn extra(mut self, toml: &str) -> Self {
        writeln!(self.extra, "{toml}").expect("writing to a string");
        self
    }

    /// An environment variable of the daemon's process: how faults are injected.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes the file and starts the daemon; it may not be ready yet.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start();
        daemon
    }

    /// Writes the file, starts nothing: for other commands than `run`.
    pub fn prepare(self) -> Daemon {
        let port = free_port();
        Daemon::new(&self.toml(port), port, self.environment)
    }

    fn toml(&self, port: u16) -> String {
        let mut toml = format!("[source]\n{}\n", self.source);
        for target in &self.targets {
            write!(toml, "[[target]]\n{target}\n").expect("writing to a string");
        }
        if !self.apply.is_empty() {
            writeln!(toml, "[apply]\n{}", self.apply).expect("writing to a string");
        }
        write!(toml, "[http]\nlisten = \"127.0.0.1:{port}\"\n\n[log]\nlevel = \"debug\"\n\n{}", self.extra)
            .expect("writing to a string");
        match std::env::var("WALFERRY_TEST_BULK") {
            Ok(mode) if !toml.contains("\nbulk = ") => with_bulk(&toml, &mode),
            _ => toml,
        }
    }
}

/// The same configuration with this way of applying, so that tests that are indifferent to it can be run in each.
fn with_bulk(toml: &str, mode: &str) -> String {
    let section = format!("[apply]\nbulk = \"{mode}\"\n");
    match toml.contains("[apply]\n") {
        true => toml.replacen("[apply]\n", &section, 1),
        false => format!("{toml}\n{section}"),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(texts: &[&str]) -> String {
    toml::Value::from(texts.to_vec()).to_string()
}
