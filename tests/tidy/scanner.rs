//! Rust source as the rules see it: the code without comments and what strings hold, line for line.

use std::path::Path;

/// A file. All texts have the same lines and the same length in bytes, so a position in one is a position in each.
#[derive(Debug)]
pub struct Source {
    /// From the repository's root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// Comments and the insides of strings and character literals are blank.
    pub code: String,
    /// As `code`, without what is under `#[cfg(test)]`.
    pub product: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_strings(text);
        let product = blank_tests(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, product }
    }

    /// The line of a position, from 1.
    pub fn line_of(&self, position: usize) -> usize {
        1 + self.text.as_bytes()[..position].iter().filter(|byte| **byte == b'\n').count()
    }

    /// The positions of this text in the product's code, where it is not part of a longer name.
    pub fn uses<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = usize> + 'a {
        find(&self.product, wanted)
    }
}

/// Where `wanted` is in `code`, not as a part of a longer name.
pub fn find<'a>(code: &'a str, wanted: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_name = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = code.as_bytes();
    let starts_name = is_name(wanted.as_bytes().first());
    let ends_name = is_name(wanted.as_bytes().last());
    code.match_indices(wanted).map(|(position, _)| position).filter(move |&position| {
        let before = position.checked_sub(1).and_then(|before| bytes.get(before));
        !(starts_name && is_name(before) || ends_name && is_name(bytes.get(position + wanted.len())))
    })
}

/// Every Rust file of ours.
pub fn every_source() -> Vec<Source> {
    let mut sources = Vec::new();
    for directory in ["src", "tests", "benches"] {
        collect(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(directory), &mut sources);
    }
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        if tests.iter().any(|stem| source.path == format!("{stem}.rs") || source.path.starts_with(&format!("{stem}/")))
        {
            source.product = blank_all(&source.product);
        }
    }
    sources
}

/// The modules with files of their own that this file declares under `#[cfg(test)]`, as paths without extension.
pub fn test_modules(source: &Source) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let parent = || stem.rsplit_once('/').map_or("", |(parent, _)| parent);
    let owns_directory = !matches!(stem.rsplit('/').next(), Some("mod" | "lib" | "main"));
    let directory = if owns_directory { stem } else { parent() };
    let attribute = "#[cfg(test)]";
    let names = source.code.match_indices(attribute).filter_map(|(position, _)| {
        let start = position + attribute.len();
        let end = start + source.code[start..].find(';')?;
        let words: Vec<&str> = source.code[start..end].split_whitespace().collect();
        let ["mod", name] = words[words.len().checked_sub(2)?..] else { return None };
        // An item that has a body ends before that semicolon.
        if source.code[start..end].contains('{') {
            return None;
        }
        let path = source.text[start..end].split_once("#[path = \"").and_then(|(_, rest)| rest.split_once(".rs\""));
        Some(path.map_or_else(|| format!("{directory}/{name}"), |(path, _)| format!("{}/{path}", parent())))
    });
    names.collect()
}

fn collect(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(root.join(directory)) else { return };
    let mut names: Vec<_> = entries.map(|entry| entry.expect("cannot list a directory").file_name()).collect();
    names.sort();
    for name in names {
        let path = directory.join(&name);
        if root.join(&path).is_dir() {
            // Build output of the fuzz targets.
            if name != "target" {
                collect(root, &path, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root.join(&path)).expect("cannot read a source file");
            sources.push(Source::new(&path.to_string_lossy().replace('\\', "/"), &text));
        }
    }
}

/// Replaces every byte but line ends by a space, in this range.
fn blank(bytes: &mut [u8], from: usize, to: usize) {
    for byte in &mut bytes[from..to] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn blank_all(code: &str) -> String {
    code.chars()
        .map(|character| if character == '\n' { "\n".into() } else { " ".repeat(character.len_utf8()) })
        .collect()
}

fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") {
            let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            blank(&mut code, at, end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = at + block_comment_length(rest);
            blank(&mut code, at, end);
            at = end;
        } else if let Some((open, close)) = literal(bytes, at) {
            blank(&mut code, at + open, at + close);
            at += close;
            // Past the closing quote, so that it does not open another.
            at += 1;
        } else {
            at += 1;
        }
    }
    String::from_utf8(code).expect("whole characters were blanked")
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// A string, raw string or character literal at this position: where its inside begins and ends, relative to it.
fn literal(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = &bytes[at..];
    match rest[0] {
        b'"' => Some((1, end_of_quoted(rest, 1, b'"'))),
        b'\'' => character(rest),
        b'r' if !(at > 0
            && (bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'b' || bytes[at - 1] == b'_')) =>
        {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None;
            }
            let closing: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let inside = 2 + hashes;
            let length = rest[inside..].windows(closing.len()).position(|window| window == closing);
            let end = inside + length.unwrap_or(rest.len() - inside);
            Some((inside, end))
        }
        _ => None,
    }
}

/// A character literal, not a lifetime.
fn character(rest: &[u8]) -> Option<(usize, usize)> {
    if rest.get(1) == Some(&b'\\') {
        return Some((1, end_of_quoted(rest, 1, b'\'')));
    }
    let text = std::str::from_utf8(rest.get(1..)?.get(..4.min(rest.len() - 1))?);
    let length = match text {
        Ok(text) => text.chars().next()?.len_utf8(),
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&rest[1..=error.valid_up_to()]).ok()?.chars().next()?.len_utf8()
        }
        Err(_) => return None,
    };
    (rest.get(1 + length) == Some(&b'\'')).then_some((1, 1 + length))
}

fn end_of_quoted(rest: &[u8], inside: usize, quote: u8) -> usize {
    let mut at = inside;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at.min(rest.len())
}

/// Blanks each item that an attribute `#[cfg(test)]` stands before.
fn blank_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for (position, attribute) in code.match_indices("#[cfg(test)]") {
        let end = end_of_item(code, position + attribute.len());
        blank(&mut bytes, position, end);
    }
    String::from_utf8(bytes).expect("whole characters were blanked")
}

/// Where the item that begins here ends: at its closing brace, or at its semicolon.
pub fn end_of_item(code: &str, from: usize) -> usize {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (offset, byte) in code.as_bytes()[from..].iter().enumerate() {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.saturating_sub(1),
            b'{' => braces += 1,
            b'}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && others == 0 {
                    return from + offset + 1;
                }
            }
            b';' if braces == 0 && others == 0 => return from + offset + 1,
            _ => {}
        }
    }
    code.len()
}
