//! The repository's top level, and the map in src/lib.rs.

use std::path::Path;

use crate::Breach;
use crate::scanner::Source;

/// What may be at the top, beside dotfiles and build output.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "config.example.toml",
    "sql",
    "deploy",
    "tests",
    "benches",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "target",
];

pub fn the_top_level_is_fixed() -> Vec<Breach> {
    let entries = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("cannot list the repository");
    let names = entries.map(|entry| entry.expect("cannot list the repository").file_name());
    strangers(names.map(|name| name.to_string_lossy().into_owned()))
}

pub fn strangers(names: impl Iterator<Item = String>) -> Vec<Breach> {
    let strange = names.filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    let message = "not a part of the top level: find its place below, or change the list in tests/tidy/layout.rs";
    strange.map(|path| Breach { path, line: 0, message: message.to_owned() }).collect()
}

pub fn the_map_names_every_module() -> Vec<Breach> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    unmapped(&Source::new("src/lib.rs", &std::fs::read_to_string(path).expect("cannot read src/lib.rs")))
}

pub fn unmapped(library: &Source) -> Vec<Breach> {
    let is_map = |line: &&str| line.starts_with("//!");
    let map: Vec<&str> = library.text.lines().filter(is_map).collect();
    let map = map.join("\n");
    let mut breaches = Vec::new();
    for (index, line) in library.product.lines().enumerate() {
        let declaration = line.trim_start_matches("pub ").trim_start_matches("(crate) ");
        let Some(module) = declaration.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) else { continue };
        if crate::scanner::find(&map, module).next().is_none() {
            breaches.push(Breach::new(library, index + 1, format!("the map at the top does not mention {module}")));
        }
    }
    breaches
}
