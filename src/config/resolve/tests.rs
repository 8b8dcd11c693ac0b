//! What users write, and what they are told.

use super::*;
use crate::config::{ConfigError, EXAMPLE};

const BASE: &str = "source.url = \"host=s\"\n[[target]]\nname = \"t\"\nurl = \"host=t\"\n";

fn environment(name: &str) -> Option<String> {
    match name {
        "SOURCE_URL" => Some("postgres://u:hunter2@source/db".to_owned()),
        "TARGET_URL" => Some("postgres://u:hunter2@target/db".to_owned()),
        "TOKEN" => Some("hunter2-and-some-more".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "walferry.toml", environment)
}

fn config(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("it was accepted").to_string()
}

/// `BASE` and these lines are refused with a message that holds `expected`.
#[track_caller]
fn refused(lines: &str, expected: &str) {
    let message = refusal(&format!("{BASE}{lines}\n"));
    assert!(message.contains(expected), "{message}");
}

#[test]
fn the_example_is_a_valid_configuration_and_says_what_the_defaults_are() {
    let example = config(EXAMPLE);
    let mut least = config(BASE);
    assert_eq!(example.diff(&least).len(), 5, "they differ in the source's url and the target's name and url only");
    least.source.url = example.source.url.clone();
    least.targets = example.targets.clone();
    assert_eq!(example, least);
}

#[test]
fn the_defaults_are_these() {
    let Config { source, copy, apply, http, log, .. } = config(BASE);
    assert_eq!((source.slot.as_str(), source.publication.as_str(), source.tables), ("walferry", "walferry", None));
    assert_eq!(source.heartbeat_interval, Some(Duration::from_secs(10)));
    assert_eq!((source.status_interval, source.max_frame), (Duration::from_secs(5), 1 << 30));
    assert_eq!((copy.existing_rows, copy.mode), (ExistingRows::Refuse, CopyMode::Replace));
    assert_eq!((copy.workers, copy.max_rate, copy.range_bytes), (2, 0, 256 << 20));
    assert_eq!((apply.batch_bytes, apply.queue_bytes, apply.progress_bytes), (16 << 20, 48 << 20, 16 << 20));
    assert_eq!((apply.conflicts, apply.synchronous_commit), (ConflictPolicy::SourceWins, false));
    assert_eq!((apply.statement_timeout, apply.lock_timeout), (None, Some(Duration::from_secs(30))));
    assert_eq!(apply.drain_timeout, Duration::from_secs(20));
    assert_eq!(http.listen, Some("127.0.0.1:9432".parse().unwrap()));
    assert_eq!((log.format, log.level.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn a_whole_file_is_read() {
    let text = r#"
        [source]
        url = "${SOURCE_URL}"
        slot = "orders_1"
        tables = ["public.*", "!public.audit_*"]
        heartbeat_interval = "0s"
        [[target]]
        name = "staging"
        url = "${TARGET_URL}"
        [[target]]
        name = "analytics"
        url = "host=other"
        tables = ["public.orders"]
        [copy]
        existing_rows = "truncate"
        mode = "merge"
        workers = 64
        [apply]
        batch_bytes = "64MB"
        conflicts = "stop"
        retry_max_interval = "1m 30s"
        [http]
        listen = ""
        [log]
        format = "json"
        level = "info,walferry::apply=debug"
    "#;
    let config = config(text);
    assert_eq!(config.source.url.expose(), "postgres://u:hunter2@source/db");
    assert_eq!(config.source.slot, "orders_1");
    assert_eq!(config.source.tables.unwrap(), ["public.*", "!public.audit_*"]);
    assert_eq!(config.source.heartbeat_interval, None);
    assert_eq!(config.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), ["staging", "analytics"]);
    assert_eq!(config.targets[1].tables.as_deref().unwrap(), ["public.orders"]);
    assert_eq!((config.copy.existing_rows, config.copy.mode), (ExistingRows::Truncate, CopyMode::Merge));
    assert_eq!(config.copy.workers, 64);
    assert_eq!((config.apply.batch_bytes, config.apply.conflicts), (64_000_000, ConflictPolicy::Stop));
    assert_eq!(config.apply.retry_max_interval, Duration::from_secs(90));
    assert_eq!((config.http.listen, config.log.format), (None, LogFormat::Json));
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_keys_there_are() {
    let message = refusal(&format!("{BASE}[apply]\nbatch_byte = \"1MB\"\n"));
    assert!(message.starts_with("walferry.toml:6:1: unknown key `batch_byte`\n"), "{message}");
    assert!(
        message.contains("\n 6 | batch_byte = \"1MB\"\n   | ^^^^^^^^^^\n   = expected one of `batch_bytes`"),
        "{message}"
    );
    refused("[aply]", "unknown key `aply`");
    refused("tabels = []", "unknown key `tabels`");
}

#[test]
fn what_is_not_toml_is_shown_with_its_line_but_not_its_secret() {
    let message = refusal("[source]\nurl = \"postgres://u:hunter2@h\n");
    assert!(message.starts_with("walferry.toml:2:") && message.contains("url = [hidden]"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_value_of_the_wrong_kind_is_shown_with_its_line_but_not_its_secret() {
    refused("[copy]\nworkers = \"four\"", "walferry.toml:6:11: invalid type: text");
    refused("[apply]\nbatch_bytes = 8", "invalid type: integer `8`");
    for text in
        ["source = \"postgres://u:hunter2@h\"", "target = \"host=h password=hunter2\"", "[source]\nurl = [\"hunter2\"]"]
    {
        let message = refusal(text);
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_missing_variable_is_named_with_its_key() {
    let message = refusal(&BASE.replace("host=s", "${NOPE}"));
    assert!(
        message.starts_with("walferry.toml:1:14: source.url: the environment variable NOPE is not set"),
        "{message}"
    );
    refused("[log]\nlevel = \"${LEVEL}\"", "log.level: the environment variable LEVEL is not set");
}

#[test]
fn bad_values_are_refused_with_the_way_to_write_them() {
    refused("[apply]\ndrain_timeout = \"30 parsecs\"", "apply.drain_timeout: \"30 parsecs\" is not a duration");
    refused("[apply]\nlock_timeout = \"30\"", "write it as \"30s\"");
    refused("[apply]\nlock_timeout = \"1us\"", "from \"1ms\" to");
    refused("[apply]\nretry_max_interval = \"0s\"", "apply.retry_max_interval: \"0s\" is out of range");
    refused("[apply]\nbatch_bytes = \"8 MX\"", "apply.batch_bytes: \"8 MX\" is not a size");
    refused("[apply]\nbatch_bytes = \"0\"", "from \"1KiB\" to");
    refused("[apply]\nconflicts = \"ignore\"", "expected \"source_wins\" or \"stop\"");
    refused("[copy]\nexisting_rows = \"keep\"", "expected one of \"refuse\", \"truncate\", \"merge\"");
    refused("[copy]\nmode = \"update\"", "expected \"replace\" or \"merge\"");
    refused("[copy]\nworkers = 0", "copy.workers: 0 is out of range");
    refused("[copy]\nworkers = 65", "from 1 to 64");
    refused("[http]\nlisten = \"9432\"", "http.listen: \"9432\" is not an address");
    refused("[log]\nlevel = \"walferry=loud\"", "log.level: \"walferry=loud\" is not a log level");
    refused("tables = []", "target.tables: the list is empty");
    refused("tables = [\"orders\"]", "target.tables: \"orders\" is not a table");
}

#[test]
fn names_follow_their_rules() {
    for slot in ["Orders", "a-b", "", &"a".repeat(64)] {
        let message = refusal(&format!("source.slot = \"{slot}\"\n{BASE}"));
        assert!(message.contains("source.slot:") && message.contains("is not a slot name"), "{message}");
    }
    let message = refusal(&BASE.replace("\"t\"", "\"a b\""));
    assert!(message.contains("target.name: \"a b\" is not a target's name"), "{message}");
    let message = refusal(&BASE.replace("name = \"t\"", ""));
    assert!(message.starts_with("walferry.toml:2:") && message.contains("target.name: is missing"), "{message}");
}

#[test]
fn there_is_a_source_and_at_least_one_target() {
    let message = refusal("");
    assert!(message.contains("source.url: is missing") && message.contains("there is no [[target]]"), "{message}");
}

#[test]
fn two_targets_differ_in_name_and_all_databases_in_url() {
    refused(
        "[[target]]\nname = \"t\"\nurl = \"host=u\"",
        "walferry.toml:6:8: target.name: \"t\" is the name of an earlier",
    );
    refused("[[target]]\nname = \"u\"\nurl = \"host=t\"", "target \"u\" has the same url as target \"t\"");
    refused("[[target]]\nname = \"u\"\nurl = \"host=s\"", "target \"u\" has the same url as the source");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text =
        "[source]\nslot = \"X\"\n[[target]]\nname = \"t\"\n[apply]\nlock_timeout = \"x\"\n[log]\nformat = \"xml\"\n";
    let Err(ConfigError::Invalid { problems, .. }) = parse(text) else { panic!("it was accepted") };
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["source.url", "source.slot", "target.url", "apply.lock_timeout", "log.format"]);
}

#[test]
fn a_url_may_be_in_a_file_next_to_the_configuration_but_not_also_in_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "host=from-file\n").unwrap();
    let name = directory.path().join("walferry.toml");
    let parse = |text: &str| Config::parse(text, name.to_str().unwrap(), environment);
    let config = parse(&BASE.replace("url = \"host=s\"", "url_file = \"secret\"")).unwrap();
    assert_eq!(config.source.url.expose(), "host=from-file");
    assert_eq!(config.source.url.file(), Some(directory.path().join("secret").as_path()));

    let both = parse(&format!("source.url_file = \"secret\"\n{BASE}")).unwrap_err().to_string();
    assert!(both.contains("both url and url_file are there"), "{both}");
    let none = parse(&BASE.replace("url = \"host=s\"", "url_file = \"gone\"")).unwrap_err().to_string();
    assert!(none.contains("source.url_file: cannot read") && none.contains("gone"), "{none}");
}

#[test]
fn an_empty_url_is_not_taken_for_the_local_database() {
    let message = refusal(&BASE.replace("host=t", ""));
    assert!(message.contains("target.url: is empty"), "{message}");
}

#[test]
fn secrets_are_never_shown() {
    let config = config(EXAMPLE);
    let shown = format!("{config:?} {config:#?} {} {}", config.render_toml(), config.render_json());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(shown.matches("[hidden]").count(), 8);
    // What a variable holds may be secret even where it does not belong.
    let message = refusal(&format!("source.slot = \"${{SOURCE_URL}}\"\n{BASE}"));
    assert!(message.contains("${SOURCE_URL}") && !message.contains("hunter2"), "{message}");
}

#[test]
fn a_connection_string_or_a_token_in_the_wrong_place_is_not_shown() {
    let url = "postgres://u:hunter2@h/db";
    for (text, says) in [
        (BASE.replace("\"t\"", &format!("\"{url}\"")), "target.name: \"[hidden]\" is not a target's name"),
        (BASE.replace("url = \"host=s\"", &format!("url_file = \"{url}\"")), "not the name of a file"),
        (BASE.replace("url = \"host=s\"", "url_file = \"host=h password=hunter2\""), "not the name of a file"),
        (BASE.replace("url = \"host=s\"", "url_file = \"${SOURCE_URL}\""), "not the name of a file"),
        (format!("{BASE}[http]\nlisten = \"{url}\""), "http.listen: \"[hidden]\" is not an address"),
        (format!("{BASE}[http]\ntoken = \"hunter2-and-some-more\""), "unknown key `token`"),
        (format!("{BASE}[http]\ntoken_file = \"${{TOKEN}}\""), "cannot read ${TOKEN}: No such file"),
    ] {
        let message = refusal(&text);
        assert!(message.contains(says) && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn the_rendered_configuration_reads_back_as_the_same() {
    let mut before = config(BASE);
    before.apply.batch_bytes = 1_000_001;
    before.http.listen = None;
    before.source.heartbeat_interval = None;
    before.source.tables = Some(vec!["public.*".to_owned()]);
    let text = before.render_toml();
    // Both URLs are hidden and thus equal, which is refused: fill them in again.
    let text = text.replacen("\"[hidden]\"", "\"host=s\"", 1).replacen("\"[hidden]\"", "\"host=t\"", 1);
    assert_eq!(config(&text), before, "{text}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/walferry.toml"))).unwrap_err();
    assert!(crate::error::chain(&error).contains("/nonexistent/walferry.toml: No such file"), "{error}");
}
