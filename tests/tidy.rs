//! The house rules as a test: layers, lengths, captions, and who may do what. Needs no server.
//!
//! Each rule is a function from a file to its breaches; [`scanner`] tells code from comments and strings. The last
//! module feeds each rule a snippet that breaks it: a rule that cannot bite is no rule.

#[path = "tidy/bites.rs"]
mod bites;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/layout.rs"]
mod layout;
#[path = "tidy/lengths.rs"]
mod lengths;
#[path = "tidy/places.rs"]
mod places;
#[path = "tidy/scanner.rs"]
mod scanner;

use scanner::Source;

/// Every rule that looks at one file at a time.
const RULES: &[fn(&Source) -> Vec<Breach>] = &[
    layers::imports_point_down,
    layers::pure_modules_are_pure,
    layers::crate_paths_are_spelled_out,
    layers::nothing_hides_an_import,
    layers::the_root_only_declares,
    lengths::files_are_short,
    lengths::functions_are_short,
    lengths::lines_fit,
    places::files_have_captions,
    places::raw_sql_stays_in_postgres,
    places::positions_are_made_in_one_place,
    places::nothing_is_left_to_do,
    places::no_unwrap,
];

/// A broken rule: where, which, and what to do.
#[derive(Debug)]
struct Breach {
    path: String,
    line: usize,
    message: String,
}

impl Breach {
    fn new(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, message: message.into() }
    }
}

#[test]
fn the_house_is_tidy() {
    let sources = scanner::every_source();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "no sources found");
    let mut breaches: Vec<Breach> = sources.iter().flat_map(|s| RULES.iter().flat_map(|rule| rule(s))).collect();
    breaches.extend(layout::the_map_names_every_module());
    breaches.extend(layout::the_top_level_is_fixed());
    let report: Vec<String> =
        breaches.iter().map(|breach| format!("{}:{}: {}", breach.path, breach.line, breach.message)).collect();
    assert!(report.is_empty(), "{} house rules broken:\n{}", report.len(), report.join("\n"));
}
