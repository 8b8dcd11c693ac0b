//! Layers: a module imports only lower ones; the pure ones know neither tokio nor a clock.

use crate::Breach;
use crate::scanner::{Source, find};

/// Each module's layer. Modules of one layer do not know each other, except in layer 0, the vocabulary.
pub const LAYERS: &[(&str, u8)] = &[
    ("lsn", 0),
    ("relation", 0),
    ("row", 0),
    ("change", 0),
    ("sql", 0),
    ("error", 0),
    ("cli", 1),
    ("pgoutput", 1),
    ("config", 1),
    ("telemetry", 1),
    ("transaction", 2),
    ("route", 2),
    ("feedback", 2),
    ("postgres", 2),
    ("source", 3),
    ("apply", 3),
    ("tablesync", 4),
    ("launcher", 5),
    ("admin", 6),
];

/// Everything under these names bytes and time as arguments only.
const PURE: &[&str] = &[
    "src/lsn",
    "src/relation",
    "src/row",
    "src/change",
    "src/sql",
    "src/error",
    "src/pgoutput",
    "src/transaction",
    "src/route",
    "src/feedback",
    "src/apply/flushed",
    "src/apply/plan",
    "src/apply/progress/touch",
    "src/launcher/lane/choice",
];

const IMPURE: &[&str] =
    &["tokio", "tokio_util", "tokio_postgres", "async fn", ".await", "Instant::now", "SystemTime::now", ".elapsed()"];

/// Modules of std that reach outside.
const OUTSIDE: &[&str] = &["fs", "net", "thread", "process", "env", "os"];

/// The module a file of src belongs to; none for lib.rs and main.rs, which may import everything.
fn module(source: &Source) -> Option<&str> {
    let path = source.path.strip_prefix("src/")?;
    let module = path.split('/').next()?.trim_end_matches(".rs");
    (!matches!(path, "lib.rs" | "main.rs")).then_some(module)
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

pub fn imports_point_down(source: &Source) -> Vec<Breach> {
    let Some(module) = module(source) else { return vec![] };
    let Some(own) = layer(module) else {
        let message = format!("module {module} has no layer: give it one in tests/tidy/layers.rs");
        return vec![Breach::new(source, 1, message)];
    };
    let mut breaches = Vec::new();
    for (position, imported) in imports(&source.code, "crate::") {
        // What has no layer does not exist: lib.rs only declares modules.
        let Some(other) = layer(&imported) else { continue };
        if imported == module || other < own || own == 0 && other == 0 {
            continue;
        }
        let message = format!(
            "{module} (layer {own}) imports {imported} (layer {other}): import lower layers only; what both need \
             belongs below both"
        );
        breaches.push(Breach::new(source, source.line_of(position), message));
    }
    breaches
}

/// The first name of every path from this root, `use crate::{a, b::c}` included.
pub fn imports(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    for start in find(code, root) {
        let path = start + root.len();
        if !code[path..].starts_with('{') {
            imports.push((start, name(&code[path..])));
            continue;
        }
        let (mut depth, mut expected) = (0, true);
        for (offset, character) in code[path..].char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expected = true,
                _ if depth == 1 && expected && !character.is_whitespace() => {
                    imports.push((path + offset, name(&code[path + offset..])));
                    expected = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    imports
}

fn name(path: &str) -> String {
    path.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

pub fn pure_modules_are_pure(source: &Source) -> Vec<Breach> {
    let stem = source.path.trim_end_matches(".rs");
    let is_pure = PURE.iter().any(|pure| stem == *pure || stem.starts_with(&format!("{pure}/")));
    if !is_pure {
        return vec![];
    }
    let mut breaches = Vec::new();
    for impure in IMPURE {
        for position in source.uses(impure) {
            let message = format!("{impure} in a pure module: take the bytes, or the time, as an argument");
            breaches.push(Breach::new(source, source.line_of(position), message));
        }
    }
    for (position, name) in imports(&source.product, "std::") {
        if OUTSIDE.contains(&name.as_str()) {
            let message = format!("std::{name} in a pure module: take what is found there as an argument");
            breaches.push(Breach::new(source, source.line_of(position), message));
        }
    }
    breaches
}

/// A module under another name, or another file's text under this one's, would hide an import from the rule above.
pub fn nothing_hides_an_import(source: &Source) -> Vec<Breach> {
    const HIDING: &[(&str, &str)] = &[
        ("include!(", "declare the file as a module"),
        ("#[path", "put the file where its module belongs"),
        ("extern crate", "write crate::"),
        ("crate as", "write crate::"),
        ("walferry::", "write crate::"),
    ];
    if module(source).is_none() {
        return vec![];
    }
    let mut breaches = Vec::new();
    for (hiding, instead) in HIDING {
        let breach = |position| {
            Breach::new(source, source.line_of(position), format!("{hiding} hides what is imported: {instead}"))
        };
        breaches.extend(source.uses(hiding).map(breach));
    }
    for (position, name) in imports(&source.product, "crate::") {
        if matches!(name.as_str(), "self" | "") {
            let message = "the crate's root as a whole hides what is imported: name the modules";
            breaches.push(Breach::new(source, source.line_of(position), message));
        }
    }
    breaches
}

/// What lib.rs would re-export could be imported by the lowest layer without a word of where it comes from.
pub fn the_root_only_declares(source: &Source) -> Vec<Breach> {
    if source.path != "src/lib.rs" {
        return vec![];
    }
    let declares = |line: &str| {
        let line = line.trim();
        let name = line.trim_start_matches("pub ").strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        line.is_empty() || line.starts_with("#![") || name.is_some_and(|name| !name.contains(' '))
    };
    let lines = source.product.lines().enumerate().filter(|(_, line)| !declares(line));
    let message = "lib.rs declares modules and nothing else: import from the module itself";
    lines.map(|(index, _)| Breach::new(source, index + 1, message)).collect()
}

/// `super::super::…` up to the crate's root would hide an import from the rule above.
pub fn crate_paths_are_spelled_out(source: &Source) -> Vec<Breach> {
    if module(source).is_none() {
        return vec![];
    }
    let inner = source.path.trim_end_matches("/mod.rs").matches('/').count();
    let climb = vec!["super"; inner].join("::");
    let leads_on = |position: &usize| !source.product[position + climb.len()..].trim_start().starts_with(')');
    let climbs = source.uses(&climb).filter(leads_on).map(|position| {
        let message = format!("{climb} reaches the crate's root: write crate::");
        Breach::new(source, source.line_of(position), message)
    });
    let groups = source.uses("super::{").filter(|position| group(&source.product[*position..]).contains("super"));
    let groups = groups.map(|position| {
        let message = "super within super::{…}: write one path for each place";
        Breach::new(source, source.line_of(position), message)
    });
    climbs.chain(groups).collect()
}

/// What is between the first brace and its closing one.
fn group(code: &str) -> &str {
    let inside = code.split_once('{').map_or("", |(_, inside)| inside);
    let mut depth = 1;
    for (offset, character) in inside.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &inside[..offset];
        }
    }
    inside
}
