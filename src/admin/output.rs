//! What commands print: lines and tables on standard output, or JSON.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::error::CommandError;

/// Writes the text and a line's end.
///
/// # Errors
/// Standard output cannot be written to. Not when whoever reads has seen enough (`walferry status | head`).
pub fn line(text: &str) -> Result<(), CommandError> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|source| CommandError::failed("cannot write to standard output").because(source)),
    }
}

/// Prints the value as JSON.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| CommandError::failed("cannot write the answer as JSON").because(source))?;
    line(&text)
}

/// A table without frames: what is copied from it has nothing to be removed.
pub fn table<'a>(header: &[&str], numbers: &[usize], rows: impl IntoIterator<Item = Vec<String>> + 'a) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        let cells = row.into_iter().enumerate().map(|(at, text)| {
            let alignment = if numbers.contains(&at) { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        });
        table.add_row(cells);
    }
    for at in numbers {
        if let Some(column) = table.column_mut(*at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `16.4 MiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(size(3 << 20), "3.0 MiB");
    }

    #[test]
    fn a_table_has_its_numbers_to_the_right() {
        let text = table(&["name", "rows"], &[1], [vec!["a".into(), "5".into()], vec!["bc".into(), "12345".into()]]);
        assert_eq!(text, " NAME   ROWS\n a         5\n bc    12345\n");
    }
}
