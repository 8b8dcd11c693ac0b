//! From what is written to what is meant: every key read, defaulted and checked, then the checks between keys.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::file::{self, DEFAULTS, Text};
use super::interpolate::Environment;
use super::problem::Problem;
use super::reader::Reader;
use super::{
    Apply, Bulk, Config, ConflictPolicy, Copy, CopyMode, ExistingRows, Http, Log, LogFormat, OnError, OnRetained,
    Source, Target, Values,
};

/// `NAMEDATALEN - 1`: PostgreSQL cuts longer names.
const NAME_BYTES: usize = 63;
const DAY: Duration = Duration::from_secs(86_400);
/// Intervals that may not be zero.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// PostgreSQL counts timeouts in milliseconds, 0 is none; up to 24 days.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);
/// Amounts of memory, or of WAL between two steps.
const AMOUNT: RangeInclusive<u64> = 1 << 10..=1 << 40;
/// Message lengths are signed 32-bit numbers (PostgreSQL documentation, "Message Formats").
const FRAME: RangeInclusive<u64> = 64 << 10..=i32::MAX as u64;
const WORKERS: RangeInclusive<i64> = 1..=64;

/// Reads a key by its name: `read!(reader, written, apply.batch_bytes, size, limits)`.
macro_rules! read {
    ($reader:ident, $written:ident, $section:ident . $key:ident, $kind:ident $(, $limits:expr)?) => {
        $reader.$kind(
            concat!(stringify!($section), ".", stringify!($key)),
            &$written.$section.$key,
            &DEFAULTS.$section.$key
            $(, $limits)?
        )
    };
}

/// The configuration that `written` means; or all that is wrong with it. Relative paths start at `directory`.
pub(super) fn resolve(
    written: &file::File,
    directory: &Path,
    environment: Environment<'_>,
) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader::new(environment, directory);
    let source = source(&mut reader, written);
    let targets = targets(&mut reader, written);
    let config = complete(&mut reader, written, source, targets);
    match config {
        Some(config) if reader.problems.is_empty() => {
            apart(&mut reader, written, &config);
            if reader.problems.is_empty() { Ok(config) } else { Err(reader.problems) }
        }
        _ => Err(reader.problems),
    }
}

/// The remaining sections; `None` when any part is missing, after the problem was noted.
fn complete(
    reader: &mut Reader<'_>,
    written: &file::File,
    source: Option<Source>,
    targets: Vec<Target>,
) -> Option<Config> {
    let (copy, apply) = (copy(reader, written), apply(reader, written));
    let http = Http { listen: listen(reader, written), token_file: reader.token_file(&written.http.token_file) };
    let log = log(reader, written);
    Some(Config { source: source?, targets, copy: copy?, apply: apply?, http, log: log? })
}

fn source(reader: &mut Reader<'_>, written: &file::File) -> Option<Source> {
    let section = &written.source;
    let url = reader.connection("source", None, &section.url, &section.url_file);
    let slot = read!(reader, written, source.slot, text);
    if let Some(found) = &slot
        && !is_name(&found.value, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        reader.wrong(found, "is not a slot name", "1 to 63 of a-z, 0-9 and _");
    }
    let publication = read!(reader, written, source.publication, text);
    if let Some(found) = &publication
        && !is_name(&found.value, |c| c != '\0')
    {
        reader.wrong(found, "is not a publication's name", "1 to 63 bytes");
    }
    let tables = reader.tables("source.tables", &section.tables);
    let values: Option<Values> = read!(reader, written, source.values, choice);
    let heartbeat_interval = read!(reader, written, source.heartbeat_interval, optional_duration, INTERVAL);
    let status_interval = read!(reader, written, source.status_interval, duration, INTERVAL);
    let max_frame = read!(reader, written, source.max_frame, size, FRAME);
    let max_retained_wal = read!(reader, written, source.max_retained_wal, size, 0..=*AMOUNT.end());
    let on_max_retained_wal: Option<OnRetained> = read!(reader, written, source.on_max_retained_wal, choice);
    let (slot, publication) = (slot?.value, publication?.value);
    Some(Source {
        url: url?,
        slot,
        publication,
        tables,
        values: values?,
        heartbeat_interval,
        status_interval,
        max_frame,
        max_retained_wal,
        on_max_retained_wal: on_max_retained_wal?,
    })
}

fn targets(reader: &mut Reader<'_>, written: &file::File) -> Vec<Target> {
    if written.target.is_empty() {
        reader.problem("target", None, "there is no [[target]]", "add one, with a name and a url");
    }
    let mut names = BTreeSet::new();
    let mut read =
        |section: &toml::Spanned<file::Target>| target(reader, section.span(), section.get_ref(), &mut names);
    written.target.iter().filter_map(&mut read).collect()
}

/// One target; `names` are those of the earlier ones.
fn target(
    reader: &mut Reader<'_>,
    header: Range<usize>,
    section: &file::Target,
    names: &mut BTreeSet<String>,
) -> Option<Target> {
    let name = match &section.name {
        Some(name) => reader.fill("target.name", name),
        None => {
            reader.problem("target.name", Some(header.clone()), "is missing", "add name = \"NAME\" to this [[target]]");
            None
        }
    };
    if let Some(found) = &name
        && !is_name(&found.value, |c| c.is_ascii_alphanumeric() || "_-".contains(c))
    {
        reader.wrong(found, "is not a target's name", "1 to 63 of A-Z, a-z, 0-9, _ and -");
    }
    if let Some(found) = &name
        && !names.insert(found.value.clone())
    {
        reader.wrong(found, "is the name of an earlier target", "give each target a name of its own");
    }
    let url = reader.connection("target", Some(header), &section.url, &section.url_file);
    let tables = reader.tables("target.tables", &section.tables);
    Some(Target { name: name?.value, url: url?, tables })
}

fn copy(reader: &mut Reader<'_>, written: &file::File) -> Option<Copy> {
    let existing_rows: Option<ExistingRows> = read!(reader, written, copy.existing_rows, choice);
    let mode: Option<CopyMode> = read!(reader, written, copy.mode, choice);
    let workers = written.copy.workers.as_ref().or(DEFAULTS.copy.workers.as_ref())?;
    if !WORKERS.contains(workers.get_ref()) {
        let message = format!("{} is out of range", workers.get_ref());
        reader.problem("copy.workers", Some(workers.span()), message, "from 1 to 64");
    }
    // A range of less than a page (8 KiB) would hold nothing.
    let max_rate = read!(reader, written, copy.max_rate, size, 0..=*AMOUNT.end());
    let range_bytes = read!(reader, written, copy.range_bytes, size, 8 << 10..=*AMOUNT.end());
    let workers = usize::try_from(*workers.get_ref()).ok()?;
    Some(Copy { existing_rows: existing_rows?, mode: mode?, workers, max_rate, range_bytes })
}

fn apply(reader: &mut Reader<'_>, written: &file::File) -> Option<Apply> {
    let conflicts: Option<ConflictPolicy> = read!(reader, written, apply.conflicts, choice);
    let on_error: Option<OnError> = read!(reader, written, apply.on_error, choice);
    let bulk: Option<Bulk> = read!(reader, written, apply.bulk, choice);
    let synchronous = written.apply.synchronous_commit.as_ref().or(DEFAULTS.apply.synchronous_commit.as_ref())?;
    Some(Apply {
        batch_bytes: read!(reader, written, apply.batch_bytes, size, AMOUNT),
        queue_bytes: read!(reader, written, apply.queue_bytes, size, AMOUNT),
        synchronous_commit: *synchronous.get_ref(),
        retry_max_interval: read!(reader, written, apply.retry_max_interval, duration, INTERVAL),
        halted_retry_interval: read!(reader, written, apply.halted_retry_interval, duration, INTERVAL),
        drain_timeout: read!(reader, written, apply.drain_timeout, duration, Duration::ZERO..=DAY),
        isolate_after: read!(reader, written, apply.isolate_after, optional_duration, TIMEOUT),
        isolate_at: read!(reader, written, apply.isolate_at, size, AMOUNT),
        progress_bytes: read!(reader, written, apply.progress_bytes, size, AMOUNT),
        statement_timeout: read!(reader, written, apply.statement_timeout, optional_duration, TIMEOUT),
        lock_timeout: read!(reader, written, apply.lock_timeout, optional_duration, TIMEOUT),
        conflicts: conflicts?,
        on_error: on_error?,
        bulk: bulk?,
    })
}

fn listen(reader: &mut Reader<'_>, written: &file::File) -> Option<SocketAddr> {
    let found = read!(reader, written, http.listen, text)?;
    if found.value.is_empty() {
        return None;
    }
    let address = found.value.parse();
    if address.is_err() {
        reader.wrong(&found, "is not an address", "write it as IP:PORT, such as \"0.0.0.0:9432\"; \"\" turns it off");
    }
    address.ok()
}

fn log(reader: &mut Reader<'_>, written: &file::File) -> Option<Log> {
    let format: Option<LogFormat> = read!(reader, written, log.format, choice);
    let level = read!(reader, written, log.level, text)?;
    if EnvFilter::builder().parse(&level.value).is_err() || level.value.trim().is_empty() {
        let help = "write \"info\" or \"debug\", or directives such as \"info,walferry::apply=debug\"";
        reader.wrong(&level, "is not a log level", help);
    }
    Some(Log { format: format?, level: level.value })
}

/// A database that followed itself, or that two targets fed, would be destroyed: all URLs differ.
fn apart(reader: &mut Reader<'_>, written: &file::File, config: &Config) {
    let place = |url: &Text, url_file: &Text| url.as_ref().or(url_file.as_ref()).map(toml::Spanned::span);
    for (index, target) in config.targets.iter().enumerate() {
        let section = written.target[index].get_ref();
        let mut same = |other: String| {
            let message = format!("target \"{}\" has the same url as {other}", target.name);
            reader.problem("target.url", place(&section.url, &section.url_file), message, "name another database");
        };
        if target.url.expose() == config.source.url.expose() {
            same("the source".to_owned());
        }
        if let Some(other) = config.targets[..index].iter().find(|other| other.url.expose() == target.url.expose()) {
            same(format!("target \"{}\"", other.name));
        }
    }
}

fn is_name(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    (1..=NAME_BYTES).contains(&text.len()) && text.chars().all(allowed)
}

#[cfg(test)]
mod tests;
