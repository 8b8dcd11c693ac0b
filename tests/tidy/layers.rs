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
    "src/apply/plan",
];

const IMPURE: &[&str] = &["tokio", "async fn", ".await", "Instant::now", "SystemTime::now"];

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
    for (position, imported) in imports(&source.code) {
        // What has no layer is an item of lib.rs.
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

/// The first name of every path from the crate's root, `use crate::{a, b::c}` included.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut imports = Vec::new();
    for start in find(code, "crate::") {
        let path = start + "crate::".len();
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
    breaches
}

/// `super::super::…` up to the crate's root would hide an import from the rule above.
pub fn crate_paths_are_spelled_out(source: &Source) -> Vec<Breach> {
    if module(source).is_none() {
        return vec![];
    }
    let inner = source.path.trim_end_matches("/mod.rs").matches('/').count();
    let climb = "super::".repeat(inner);
    let climbs = source.uses(&climb).map(|position| {
        let message = format!("{climb} reaches the crate's root: write crate::");
        Breach::new(source, source.line_of(position), message)
    });
    climbs.collect()
}
