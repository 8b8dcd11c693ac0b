//! walferry.toml(5) from `config.example.toml`: its comments are the text, its keys the entries.

use clap_mangen::roff::{Roff, bold, roman};

use super::page::{entry, see_also};
use crate::config::EXAMPLE;

const PURPOSE: &str = "\
    This file says what walferry replicates, from where and to where. It is TOML. The entries below show every key \
    with its default, or, where it is required or has none, with an example. \
    Keys that are left out have their defaults.";

const PLACE: &str = "\
    It is the file that --config names, else the one that the environment variable WALFERRY_CONFIG names, else \
    walferry.toml in the current directory. The service walferry@NAME reads /etc/walferry/NAME.toml.";

const AFTERWARDS: &str = "\
    walferry config prints what walferry has understood, with secrets hidden. walferry check says whether it works on \
    the servers.";

/// What the example is made of.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    /// Comments that a blank line, or a table, follows.
    Text(String),
    /// `[source]`
    Table(&'a str),
    /// `slot = "walferry"` with its comments.
    Key { line: &'a str, text: String },
}

/// The page's text.
pub fn page() -> String {
    let mut roff = Roff::new();
    let version = concat!("walferry ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["WALFERRY.TOML", "5", "\"\"", version, "walferry"]);
    roff.control("SH", ["NAME"]).text([roman("walferry.toml - the configuration of walferry")]);
    roff.control("SH", ["SYNOPSIS"]).text([bold("walferry"), roman(" --config FILE COMMAND")]);
    roff.control("SH", ["DESCRIPTION"]).text([roman(PURPOSE)]);
    roff.control("PP", []).text([roman(PLACE)]);
    roff.control("PP", []).text([roman(AFTERWARDS)]);
    let parts = parts(EXAMPLE);
    // The first paragraph presents the example itself.
    for part in &parts[1..] {
        match part {
            Part::Text(text) => _ = roff.control("PP", []).text([roman(text)]),
            Part::Table(name) => _ = roff.control("SH", [*name]),
            Part::Key { line, text } => entry(&mut roff, line, text),
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    let pages = ["walferry", "walferry-config", "walferry-check", "walferry-run"];
    see_also(&mut roff, &pages.map(|name| format!("{name}(1)")));
    roff.render()
}

fn parts(example: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut comments: Vec<&str> = Vec::new();
    for line in example.lines().chain([""]) {
        if let Some(comment) = line.strip_prefix("# ").filter(|comment| !is_key(comment)) {
            comments.push(comment);
            continue;
        }
        let text = std::mem::take(&mut comments).join(" ");
        let line = line.trim_start_matches(['#', ' ']);
        if is_key(line) {
            parts.push(Part::Key { line, text });
            continue;
        }
        if !line.is_empty() {
            parts.push(Part::Table(line));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
    }
    parts
}

fn is_key(line: &str) -> bool {
    let name = line.split_once(" = ").map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|character| character.is_ascii_lowercase() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_what_they_stand_above() {
        let example =
            "# First,\n# of two.\n#\n# Second.\n\n# Of [a].\n[a]\n# Of b.\n# Or so.\nb = 1\n# Of c.\n# c = \"#\"\n";
        let key = |line, text: &str| Part::Key { line, text: text.to_owned() };
        let text = |text: &str| Part::Text(text.to_owned());
        let expected = [
            text("First, of two."),
            text("Second."),
            Part::Table("[a]"),
            text("Of [a]."),
            key("b = 1", "Of b. Or so."),
            key("c = \"#\"", "Of c."),
        ];
        assert_eq!(parts(example), expected);
    }

    #[test]
    fn the_example_has_a_presentation_that_can_be_left_out_and_no_key_without_a_text() {
        let parts = parts(EXAMPLE);
        assert!(matches!(&parts[0], Part::Text(text) if text.starts_with("walferry's configuration: ")), "{parts:?}");
        assert!(matches!(&parts[1], Part::Text(text) if text.starts_with("${VAR} in any text")), "{parts:?}");
        for part in parts {
            assert!(!matches!(&part, Part::Key { text, .. } if text.is_empty()), "{part:?}");
        }
    }
}
