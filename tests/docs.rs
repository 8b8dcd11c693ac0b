//! What the documents say of the program is what the program says of itself.

use std::fs::read_to_string;

#[test]
fn the_readme_lists_every_metric() {
    let readme = read_to_string("README.md").unwrap();
    let list = walferry::telemetry::metrics::markdown();
    assert!(readme.contains(&list), "the README's table of metrics should be:\n{list}");
}

#[test]
fn the_readme_lists_the_exit_codes_of_the_help() {
    let readme = read_to_string("README.md").unwrap();
    let help = <walferry::cli::Cli as clap::CommandFactory>::command().render_long_help().to_string();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    for line in codes.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (code, meaning) = line.split_once("  ").unwrap();
        assert!(readme.contains(&format!("| {code} | {meaning} |")), "the README lacks: {line}");
    }
}
