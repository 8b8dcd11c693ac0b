//! What differs between two configurations, key by key: a reload (SIGHUP) takes over what it can and names the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Config, ConnectionString};

/// The keys that a running daemon takes over; everything else needs a restart.
const RELOADABLE: [&str; 1] = ["log.level"];

/// A key with different values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key as in the file; a target's keys are `target.NAME.KEY`.
    pub key: String,
    /// Whether a running daemon can take it over; if not, it needs a restart.
    pub reloadable: bool,
}

impl Config {
    /// Which keys have other values in `new`, in alphabetical order.
    pub fn diff(&self, new: &Config) -> Vec<Difference> {
        let (old_keys, new_keys) = (leaves(self), leaves(new));
        let mut changed: BTreeSet<String> = (old_keys.keys().chain(new_keys.keys()))
            .filter(|key| old_keys.get(*key) != new_keys.get(*key))
            .cloned()
            .collect();
        // The rendered values of URLs are hidden, so the URLs themselves are compared.
        let (old_urls, new_urls) = (urls(self), urls(new));
        changed.extend(old_urls.iter().filter_map(|(key, old)| {
            new_urls.get(key).filter(|new| new.expose() != old.expose()).map(|_| key.clone())
        }));
        changed.into_iter().map(|key| Difference { reloadable: RELOADABLE.contains(&key.as_str()), key }).collect()
    }
}

fn urls(config: &Config) -> BTreeMap<String, &ConnectionString> {
    let targets = config.targets.iter().map(|target| (format!("target.{}.url", target.name), &target.url));
    targets.chain([("source.url".to_owned(), &config.source.url)]).collect()
}

/// Every key with its value, as the file would have it.
fn leaves(config: &Config) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    let Ok(Value::Object(sections)) = serde_json::to_value(config) else { return out };
    for (section, value) in sections {
        match value {
            Value::Array(targets) => targets.into_iter().for_each(|target| {
                let name = target["name"].as_str().unwrap_or_default().to_owned();
                section_leaves(&format!("{section}.{name}"), target, &mut out);
            }),
            value => section_leaves(&section, value, &mut out),
        }
    }
    out
}

fn section_leaves(section: &str, value: Value, out: &mut BTreeMap<String, Value>) {
    let Value::Object(keys) = value else { return };
    out.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, "walferry.toml", |_| None).unwrap_or_else(|error| panic!("{error}"))
    }

    const BASE: &str = "source.url = \"a\"\n[[target]]\nname = \"t\"\nurl = \"b\"\n";

    fn changes(new: &str) -> Vec<(String, bool)> {
        let changes = config(BASE).diff(&config(new));
        changes.into_iter().map(|change| (change.key, change.reloadable)).collect()
    }

    #[test]
    fn the_same_file_has_no_differences() {
        assert_eq!(changes(BASE), []);
        assert_eq!(changes(&format!("{BASE}[log]\nlevel = \"info\"\n")), [], "a default written out is no change");
    }

    #[test]
    fn a_log_level_can_be_reloaded_and_a_batch_size_cannot() {
        let new =
            format!("{BASE}[apply]\nbatch_bytes = \"1MiB\"\nretry_max_interval = \"1s\"\n[log]\nlevel = \"debug\"\n");
        let expected = [("apply.batch_bytes", false), ("apply.retry_max_interval", false), ("log.level", true)]
            .map(|(k, r)| (k.into(), r));
        assert_eq!(changes(&new), expected);
    }

    #[test]
    fn hidden_values_and_targets_are_compared_too() {
        assert_eq!(changes(&BASE.replace("\"b\"", "\"c\"")), [("target.t.url".to_owned(), false)]);
        let more = format!("{BASE}[[target]]\nname = \"u\"\nurl = \"c\"\n");
        assert_eq!(changes(&more), [("target.u.name".to_owned(), false), ("target.u.url".to_owned(), false)]);
    }
}
