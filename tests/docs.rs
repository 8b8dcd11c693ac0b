//! What the documents say of the program is what the program says of itself.

use std::fs::read_to_string;

#[test]
fn the_readme_lists_every_metric() {
    let readme = read_to_string("README.md").unwrap();
    let list = walferry::telemetry::metrics::markdown();
    let list = format!("\n\n{}\n\n", list.trim_end());
    assert!(readme.contains(&list), "the README's table of metrics, between blank lines, should be:{list}");
}

#[test]
fn the_readme_lists_every_code_of_the_check() {
    let readme = read_to_string("README.md").unwrap();
    let list = format!("\n\n{}\n\n", walferry::admin::check::markdown().trim_end());
    assert!(readme.contains(&list), "the README's table of codes, between blank lines, should be:{list}");
}

/// A code that nothing gives would be a promise.
#[test]
fn every_code_of_the_check_is_given_by_a_judgement() {
    let mut judgements = read_to_string("src/admin/check/mod.rs").unwrap();
    for entry in std::fs::read_dir("src/admin/check/judge").unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().ends_with("_tests.rs") {
            let text = read_to_string(path).unwrap();
            judgements.push_str(text.split("#[cfg(test)]\nmod tests").next().unwrap());
        }
    }
    for row in walferry::admin::check::markdown().lines().skip(2) {
        let code = row.split('`').nth(1).unwrap();
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        let name: String = code.split('-').map(capital).collect();
        let given = judgements
            .match_indices(&format!("Code::{name}"))
            .any(|(at, found)| !judgements[at + found.len()..].starts_with(|next: char| next.is_ascii_alphanumeric()));
        assert!(given, "nothing gives {code}");
    }
}

/// All of them, in their order, and no other.
#[test]
fn the_readmes_table_of_exit_codes_is_that_of_the_help() {
    let readme = read_to_string("README.md").unwrap();
    let help = <walferry::cli::Cli as clap::CommandFactory>::command().render_long_help().to_string();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let mut table = String::from("\n\n| exit code | meaning |\n|---|---|\n");
    for line in codes.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (code, meaning) = line.split_once("  ").unwrap();
        table += &format!("| {code} | {meaning} |\n");
    }
    table.push('\n');
    assert!(readme.contains(&table), "the README's table of exit codes, between blank lines, should be:{table}");
}

#[test]
fn the_readme_knows_every_slot_command() {
    let readme = read_to_string("README.md").unwrap();
    let command = <walferry::cli::Cli as clap::CommandFactory>::command();
    for slot in command.find_subcommand("slot").unwrap().get_subcommands() {
        let row = format!("| `walferry slot {}` |", slot.get_name());
        assert!(readme.contains(&row), "the README lacks: {row}");
    }
}

/// A heading right after a table is drawn as a row of it.
#[test]
fn every_heading_of_the_readme_stands_alone() {
    let readme = read_to_string("README.md").unwrap();
    let lines: Vec<&str> = readme.lines().collect();
    let mut code = false;
    for pair in lines.windows(2) {
        code ^= pair[0].starts_with("```");
        assert!(code || !pair[1].starts_with('#') || pair[0].is_empty(), "no blank line before: {}", pair[1]);
    }
}

/// GitHub's anchors: lower case, blanks as hyphens, and of other signs only hyphens and underscores.
#[test]
fn every_link_of_the_readme_into_the_repository_leads_somewhere() {
    let readme = read_to_string("README.md").unwrap();
    let prose: Vec<&str> = readme.split("```").step_by(2).collect();
    let headings = prose.iter().flat_map(|part| part.lines()).filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = |letter: &char| letter.is_alphanumeric() || "-_ ".contains(*letter);
        heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    let anchors: Vec<String> = headings.map(anchor).collect();
    let mut inward = 0;
    for link in prose.iter().flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split(')').next()) {
        let found = match link.strip_prefix('#') {
            Some(named) => anchors.iter().any(|anchor| anchor == named),
            None => link.starts_with("https://") || std::path::Path::new(link).exists(),
        };
        assert!(found, "there is no {link}");
        inward += usize::from(link.starts_with('#'));
    }
    assert!(inward >= 5, "{inward} links within the README");
}
