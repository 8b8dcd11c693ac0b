//! What differs between two configurations, key by key, and what a running daemon makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, ConnectionString};

/// Keys that need a restart: who listens is known to others, and the slot is the stream's name everywhere.
const RESTART: [&str; 4] = ["http.listen", "http.token_file", "log.format", "source.slot"];

/// When a changed key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// With the reload.
    AtOnce,
    /// With the reload, for which the stream is drained and begun anew; the process goes on.
    NewStream,
    /// With the next start of the process.
    Restart,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtOnce => "takes effect at once",
            Self::NewStream => "takes effect: the stream begins anew",
            Self::Restart => "needs a restart to take effect",
        })
    }
}

/// A key with different values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The key as in the file; a target's keys are `target.NAME.KEY`.
    pub key: String,
    /// The value in force; `None`: there is none. Secrets are hidden, and then both look the same.
    pub before: Option<Value>,
    /// The value in the file; `None`: there is none.
    pub after: Option<Value>,
    /// When it counts.
    pub effect: Effect,
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
        let difference = |key: String| Difference {
            before: old_keys.get(&key).cloned(),
            after: new_keys.get(&key).cloned(),
            effect: effect(&key),
            key,
        };
        changed.into_iter().map(difference).collect()
    }

    /// This configuration as far as a daemon that runs by `running` can take it over: keys that need a restart stay.
    #[must_use]
    pub fn taken_over_by(mut self, running: &Config) -> Config {
        self.http = running.http.clone();
        self.log.format = running.log.format;
        self.source.slot.clone_from(&running.source.slot);
        self
    }
}

fn effect(key: &str) -> Effect {
    match key {
        "log.level" => Effect::AtOnce,
        key if RESTART.contains(&key) => Effect::Restart,
        _ => Effect::NewStream,
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

    fn changes(new: &str) -> Vec<(String, Effect)> {
        let changes = config(BASE).diff(&config(new));
        changes.into_iter().map(|change| (change.key, change.effect)).collect()
    }

    #[test]
    fn the_same_file_has_no_differences() {
        assert_eq!(changes(BASE), []);
        assert_eq!(changes(&format!("{BASE}[log]\nlevel = \"info\"\n")), [], "a default written out is no change");
    }

    #[test]
    fn each_key_counts_as_soon_as_it_can() {
        let new = format!("{BASE}[apply]\nbatch_bytes = \"1MiB\"\n[http]\nlisten = \"\"\n");
        let new = new + "[log]\nlevel = \"debug\"\nformat = \"json\"\n";
        let expected = [
            ("apply.batch_bytes", Effect::NewStream),
            ("http.listen", Effect::Restart),
            ("log.format", Effect::Restart),
            ("log.level", Effect::AtOnce),
        ];
        assert_eq!(changes(&new), expected.map(|(key, effect)| (key.into(), effect)));
        let (running, new) = (config(BASE), config(&new));
        let taken = new.clone().taken_over_by(&running);
        let left: Vec<String> = taken.diff(&new).into_iter().map(|change| change.key).collect();
        assert_eq!(left, ["http.listen", "log.format"], "these wait for a restart");
        let slot = config(&BASE.replace("source.url", "source.slot = \"other\"\nsource.url"));
        assert_eq!(running.diff(&slot)[0].effect, Effect::Restart);
        assert_eq!(slot.taken_over_by(&running), running);
    }

    #[test]
    fn hidden_values_and_targets_are_compared_too() {
        assert_eq!(changes(&BASE.replace("\"b\"", "\"c\"")), [("target.t.url".to_owned(), Effect::NewStream)]);
        let more = config(&format!("{BASE}[[target]]\nname = \"u\"\nurl = \"c\"\n"));
        let [name, url] = &config(BASE).diff(&more)[..] else { panic!("two keys") };
        assert_eq!((name.key.as_str(), &name.before, &name.after), ("target.u.name", &None, &Some("u".into())));
        assert_eq!((url.key.as_str(), &url.after), ("target.u.url", &Some("[hidden]".into())));
    }
}
