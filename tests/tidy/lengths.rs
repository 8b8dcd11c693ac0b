//! Lengths: of files, functions and lines.

use crate::Breach;
use crate::scanner::{Source, end_of_item, find};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const LINE_CHARACTERS: usize = 120;

pub fn files_are_short(source: &Source) -> Vec<Breach> {
    let lines = source.text.lines().count();
    if lines < FILE_LINES {
        return vec![];
    }
    let message =
        format!("{lines} lines, and files stay under {FILE_LINES}: a file is one idea; give the second its own");
    vec![Breach::new(source, lines, message)]
}

pub fn functions_are_short(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for position in find(&source.code, "fn") {
        let name: String = source.code[position + 2..]
            .trim_start()
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect();
        // A type such as fn(u32) has no name.
        if name.is_empty() {
            continue;
        }
        let first = source.line_of(position);
        let lines = source.line_of(end_of_item(&source.code, position) - 1) - first + 1;
        if lines >= FUNCTION_LINES {
            let message =
                format!("{name} has {lines} lines, and functions stay under {FUNCTION_LINES}: name its steps");
            breaches.push(Breach::new(source, first, message));
        }
    }
    breaches
}

pub fn lines_fit(source: &Source) -> Vec<Breach> {
    let long = source.text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_CHARACTERS);
    let breach =
        |(index, _)| Breach::new(source, index + 1, format!("longer than {LINE_CHARACTERS} characters: break it"));
    long.map(breach).collect()
}
