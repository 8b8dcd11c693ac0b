//! The pages that `walferry man` writes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use walferry::config::EXAMPLE;

use super::{command, commands, done, has, help, page_names, read, walferry};

/// A directory with all pages, where `man` looks for them.
struct Manual(tempfile::TempDir);

impl Manual {
    fn write() -> Self {
        let place = tempfile::tempdir().unwrap();
        for section in ["man1", "man5"] {
            walferry(&["man", place.path().join(section).to_str().unwrap()]);
        }
        let manual = Self(place);
        let expected: BTreeSet<String> =
            page_names().iter().map(|name| format!("{name}.1")).chain(["walferry.toml.5".to_owned()]).collect();
        let entries = std::fs::read_dir(manual.0.path().join("man1")).unwrap();
        let found: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found, expected, "one page for each command, and one for the configuration");
        manual
    }

    fn path(&self, page: &str) -> PathBuf {
        self.0.path().join("man1").join(page)
    }

    /// The page's text as it was meant, before roff.
    fn meant(&self, page: &str) -> String {
        read(&self.path(page)).replace("\\-", "-").replace("\\*(Aq", "'").replace("\\&", "")
    }
}

/// The sections of a page.
fn sections(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(|title| title.trim_matches('"')).collect()
}

#[test]
fn every_command_has_a_page_with_all_its_options_and_what_surrounds_it() {
    let manual = Manual::write();
    for (name, words) in page_names().iter().zip(commands()) {
        let page = manual.meant(&format!("{name}.1"));
        let help = help(&words);
        let (usage, options) = help.split_once("\nOptions:\n").unwrap();
        let options = options.split_whitespace().map(|word| word.trim_end_matches(','));
        let options: Vec<&str> = options.filter(|word| word.starts_with('-') && word.len() > 1).collect();
        assert!(options.contains(&"--help") && options.contains(&"--config"), "{help}");
        for option in options {
            assert!(page.contains(&format!("\\fB{option}\\fR")), "{name} lacks {option}: {page}");
        }
        for argument in usage.lines().find(|line| line.starts_with("Usage: ")).unwrap().split(' ') {
            if let Some(argument) = argument.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
                let argument = if argument == "COMMAND" { "command" } else { argument };
                assert!(page.contains(&format!("\\fI{argument}\\fR")), "{name} lacks {argument}: {page}");
            }
        }
        let sections = sections(&page);
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"] {
            assert!(sections.contains(&section), "{name} lacks {section}: {sections:?}");
        }
    }
    for page in ["walferry.1", "walferry-run.1"] {
        let page = manual.meant(page);
        for section in ["FILES", "ENVIRONMENT", "SIGNALS"] {
            assert!(sections(&page).contains(&section), "{page}");
        }
        for code in 0..4 {
            assert!(page.contains(&format!("\n\\fB{code}\\fR\n")), "no exit code {code}: {page}");
        }
    }
}

#[test]
fn the_page_of_the_configuration_has_every_key_and_every_word_of_the_example() {
    let page = Manual::write().meant("walferry.toml.5");
    let (_, example) = EXAMPLE.split_once("\n#\n").expect("a paragraph that presents the example");
    let mut keys = 0;
    for line in example.lines().filter(|line| !line.is_empty()) {
        let bare = line.trim_start_matches("# ");
        assert!(page.contains(bare), "the page lacks: {line}");
        keys += usize::from(page.contains(&format!("\n\\fB{bare}\\fR\n")));
    }
    let table = walferry::config::EXAMPLE.parse::<toml::Table>().unwrap();
    let keys_with_values: usize = table.values().map(|value| value.as_table().map_or(2, toml::Table::len)).sum();
    assert!(keys > keys_with_values, "{keys} entries, and {keys_with_values} keys with a value");
    for name in table.keys() {
        assert!(sections(&page).iter().any(|section| section.trim_matches(['[', ']']) == name), "no section {name}");
    }
}

#[test]
fn every_page_reads_without_a_warning_and_refers_to_pages_that_there_are() {
    if !has("man") || !has("lexgrog") {
        return;
    }
    let manual = Manual::write();
    let mut pages: Vec<String> = page_names().iter().map(|name| format!("{name}.1")).collect();
    pages.push("walferry.toml.5".to_owned());
    let references: BTreeSet<String> =
        pages.iter().map(|page| page.rsplit_once('.').unwrap()).map(|(name, at)| format!("{name}({at})")).collect();
    for page in &pages {
        let path = manual.path(page);
        let mut man = command("man", &["--warnings=w", "--no-hyphenation", "-l", path.to_str().unwrap()]);
        let output = man.env("MANWIDTH", "100").output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{page}: {complaints}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(&page.rsplit_once('.').unwrap().0.to_uppercase()), "{page}: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{page}: {text}");
        let words = text.split(|c: char| c.is_whitespace() || c == ',');
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("walferry") && word.ends_with(')')).collect();
        assert!(!named.is_empty(), "{page}: {text}");
        for reference in named {
            assert!(references.contains(reference), "{page} refers to {reference}");
        }
        // What `whatis` and `apropos` find.
        let known = done(&mut command("lexgrog", &[path.to_str().unwrap()]));
        let name = page.rsplit_once('.').unwrap().0;
        assert!(known.contains(&format!(": \"{name} - ")), "{known}");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let output = command(super::PROGRAM, &["man", "/dev/null/pages"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("error: cannot write /dev/null/pages: "), "{error}");
}
