//! Who may do what: raw SQL, the making of positions, unwrap; and what may be nowhere.

use crate::Breach;
use crate::layers::imports;
use crate::scanner::Source;

/// Calls of the client library that take SQL as plain text.
const RAW_SQL: &[&str] = &[
    ".batch_execute(",
    ".simple_query(",
    ".simple_query_raw(",
    ".query_raw(",
    ".query_typed(",
    ".query_typed_raw(",
    ".execute_raw(",
];

/// What may be taken from the client library elsewhere: nothing that takes SQL, so that `.query(`, `.execute(` and
/// `.prepare(` are those of crate::postgres, which take `Sql`.
const NO_CLIENT: &[&str] = &["Row"];

/// Who may make a position whose type is a promise.
const MAKERS: &[(&str, &[&str])] = &[
    ("DurableLsn::new", &["src/apply/progress.rs", "src/lsn.rs"]),
    ("ConfirmedFlush::new", &["src/feedback.rs", "src/lsn.rs"]),
];

fn is_product(source: &Source) -> bool {
    source.path.starts_with("src/")
}

pub fn files_have_captions(source: &Source) -> Vec<Breach> {
    if source.text.starts_with("//! ") {
        return vec![];
    }
    vec![Breach::new(source, 1, "no caption: the first line says, after //!, what the file is")]
}

pub fn raw_sql_stays_in_postgres(source: &Source) -> Vec<Breach> {
    if !is_product(source) || source.path.starts_with("src/postgres/") {
        return vec![];
    }
    let mut breaches = Vec::new();
    for call in RAW_SQL {
        for position in source.uses(call) {
            let message = format!("{call}…) takes SQL as plain text: go through crate::sql::Sql and crate::postgres");
            breaches.push(Breach::new(source, source.line_of(position), message));
        }
    }
    let mut named = imports(&source.product, "tokio_postgres::");
    let whole = |position: &usize| !source.product[position + "tokio_postgres".len()..].starts_with("::");
    named.extend(source.uses("tokio_postgres").filter(whole).map(|position| (position, "as a whole".to_owned())));
    for (position, name) in named {
        if !NO_CLIENT.contains(&name.as_str()) {
            let message =
                format!("tokio_postgres ({name}) outside crate::postgres: its methods take SQL as plain text");
            breaches.push(Breach::new(source, source.line_of(position), message));
        }
    }
    breaches
}

pub fn positions_are_made_in_one_place(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (maker, places) in MAKERS {
        if is_product(source) && !places.contains(&source.path.as_str()) {
            let message = format!("{maker} is a promise only {} can make: take the position from there", places[0]);
            let breach = |position| Breach::new(source, source.line_of(position), message.clone());
            breaches.extend(source.uses(maker).map(breach));
        }
    }
    breaches
}

pub fn nothing_is_left_to_do(source: &Source) -> Vec<Breach> {
    // Put together, or this file would break its own rule.
    let notes = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let macros = [["todo", "!("].concat(), ["unimplemented", "!("].concat(), ["dbg", "!("].concat()];
    let mut breaches = Vec::new();
    for (words, text) in [(&notes, &source.text), (&macros, &source.code)] {
        for word in words {
            for position in crate::scanner::find(text, word) {
                let message = format!("{word} is left: do it, or describe what is missing where its users look");
                breaches.push(Breach::new(source, source.line_of(position), message));
            }
        }
    }
    breaches
}

pub fn no_unwrap(source: &Source) -> Vec<Breach> {
    if !is_product(source) {
        return vec![];
    }
    let breach = |position| {
        let message = "unwrap: return an error, or state the invariant with expect";
        Breach::new(source, source.line_of(position), message)
    };
    source.uses(".unwrap()").map(breach).collect()
}
