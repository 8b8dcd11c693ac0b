//! The configuration file as it is written: the TOML's keys, each optional, with its place in the text.
//!
//! In: text. Out: [`File`], for `resolve` to check. Serde refuses unknown keys and wrong kinds of values; what a value
//! means is not asked here, because `${VAR}` may stand in any of them. There is no `Debug`: a URL may hold a password.

use std::sync::LazyLock;

use serde::Deserialize;
use toml::Spanned;

/// The defaults, as text. It is also the file that a user starts from.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The defaults, parsed: whatever the user's file leaves out is looked up here, except URLs and targets.
pub(super) static DEFAULTS: LazyLock<File> =
    LazyLock::new(|| parse(EXAMPLE).expect("config.example.toml is compiled in, and a test reads it"));

/// Text, with its place; `None` when the key is not there.
pub(super) type Text = Option<Spanned<String>>;
/// A list of texts, each with its place.
pub(super) type Texts = Option<Spanned<Vec<Spanned<String>>>>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub source: Source,
    pub target: Vec<Spanned<Target>>,
    pub copy: Copy,
    pub apply: Apply,
    pub http: Http,
    pub log: Log,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Source {
    pub url: Text,
    pub url_file: Text,
    pub slot: Text,
    pub publication: Text,
    pub tables: Texts,
    pub values: Text,
    pub heartbeat_interval: Text,
    pub status_interval: Text,
    pub max_frame: Text,
    pub max_retained_wal: Text,
    pub on_max_retained_wal: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Target {
    pub name: Text,
    pub url: Text,
    pub url_file: Text,
    pub tables: Texts,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Copy {
    pub existing_rows: Text,
    pub mode: Text,
    pub max_rate: Text,
    pub workers: Option<Spanned<i64>>,
    pub range_bytes: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Apply {
    pub batch_bytes: Text,
    pub queue_bytes: Text,
    pub synchronous_commit: Option<Spanned<bool>>,
    pub conflicts: Text,
    pub on_error: Text,
    pub bulk: Text,
    pub retry_max_interval: Text,
    pub halted_retry_interval: Text,
    pub drain_timeout: Text,
    pub isolate_after: Text,
    pub isolate_at: Text,
    pub progress_bytes: Text,
    pub statement_timeout: Text,
    pub lock_timeout: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub listen: Text,
    pub token_file: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub format: Text,
    pub level: Text,
}

/// Reads the text.
///
/// # Errors
/// It is not TOML, a key is unknown, or a value is of the wrong kind; the error knows the place.
pub(super) fn parse(text: &str) -> Result<File, toml::de::Error> {
    toml::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that a section takes, as serde names them when it meets one it does not know.
    fn keys_of(section: &str) -> Vec<String> {
        let error = parse(&format!("{section}\nno_such_key = 1")).err().unwrap();
        let (_, expected) = error.message().split_once("expected").unwrap();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_example_names_every_key_once_with_its_default_or_behind_a_hash() {
        let sections = ["[source]", "[[target]]", "[copy]", "[apply]", "[http]", "[log]"];
        assert_eq!(keys_of("").len(), sections.len());
        for section in sections {
            let rest = EXAMPLE.split_once(&format!("\n{section}\n")).unwrap_or_else(|| panic!("no {section}")).1;
            let body = rest.split("\n[").next().unwrap();
            for key in keys_of(section) {
                let lines = body.lines().filter(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
                assert_eq!(lines.count(), 1, "{section} {key}");
            }
        }
    }

    #[test]
    fn the_example_stays_a_valid_file_when_its_optional_keys_are_uncommented() {
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
            Some(key) if key.contains(" = ") && !key.contains(": ") => key,
            _ => line,
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let file = parse(&text).unwrap_or_else(|error| panic!("{error}"));
        assert!(file.source.tables.is_some() && file.source.url_file.is_some());
    }
}
