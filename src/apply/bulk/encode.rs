//! Many rows' values as a server takes them at once: arrays for a statement's parameters, lines for COPY. Pure.

use bytes::{BufMut, Bytes, BytesMut};

use crate::apply::plan::PlannedRow;
use crate::apply::statement::Value;
use crate::row::Datum;

/// `text`, the arrays' element type.
const TEXT_OID: u32 = 25;

/// A stretch of COPY lines is cut when it has this many bytes.
const STRETCH: usize = 64 * 1024;

/// A value that cannot be sent so: one in binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotText;

/// What a parameter of a statement for these rows is, of which the statement is to touch `touched`.
///
/// # Errors
/// [`NotText`].
pub fn parameter(rows: &[PlannedRow<'_>], touched: usize, value: Value) -> Result<Bytes, NotText> {
    match value {
        Value::Count => Ok(Bytes::copy_from_slice(&(touched as i64).to_be_bytes())),
        Value::New(_) | Value::Old(_) => array(rows, value),
    }
}

/// One parameter's value for each row, as a `text[]` in binary form (`array_recv` in arrayfuncs.c: dimensions, whether
/// there are NULLs, element type; each dimension's length and lower bound; each element's length and bytes).
///
/// # Errors
/// [`NotText`].
fn array(rows: &[PlannedRow<'_>], value: Value) -> Result<Bytes, NotText> {
    let length: usize =
        rows.iter().map(|row| 4 + text(datum(row, value)).map_or(0, |text| text.map_or(0, <[u8]>::len))).sum();
    let mut out = BytesMut::with_capacity(20 + length);
    out.put_i32(1);
    out.put_i32(1);
    out.put_u32(TEXT_OID);
    out.put_i32(rows.len() as i32);
    out.put_i32(1);
    for row in rows {
        match text(datum(row, value))? {
            None => out.put_i32(-1),
            Some(text) => {
                out.put_i32(text.len() as i32);
                out.put_slice(text);
            }
        }
    }
    Ok(out.freeze())
}

fn datum<'a>(row: &PlannedRow<'a>, value: Value) -> Datum<'a> {
    let found = match value {
        Value::New(index) => row.new.as_ref().and_then(|new| new.get(index)),
        Value::Old(index) => row.old.and_then(|old| old.get(index)),
        Value::Count => None,
    };
    found.unwrap_or(Datum::Null)
}

fn text(datum: Datum<'_>) -> Result<Option<&[u8]>, NotText> {
    match datum {
        Datum::Text(text) => Ok(Some(text)),
        Datum::Null | Datum::Unchanged => Ok(None),
        Datum::Binary(_) => Err(NotText),
    }
}

/// The new rows' values in these columns as lines of COPY's text format, in stretches that end with a line.
///
/// # Errors
/// [`NotText`].
pub fn lines(rows: &[PlannedRow<'_>], columns: &[usize]) -> Result<Vec<Bytes>, NotText> {
    let mut stretches = Vec::new();
    let mut out = BytesMut::with_capacity(STRETCH + STRETCH / 4);
    for row in rows {
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.put_u8(b'\t');
            }
            match text(datum(row, Value::New(*column)))? {
                None => out.put_slice(b"\\N"),
                Some(text) => escape(text, &mut out),
            }
        }
        out.put_u8(b'\n');
        if out.len() >= STRETCH {
            stretches.push(std::mem::replace(&mut out, BytesMut::with_capacity(STRETCH + STRETCH / 4)).freeze());
        }
    }
    if !out.is_empty() {
        stretches.push(out.freeze());
    }
    Ok(stretches)
}

/// As the documentation of COPY, "Text Format", has it: backslash, newline, carriage return and the delimiter.
fn escape(mut text: &[u8], out: &mut BytesMut) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t');
    while let Some(at) = text.iter().position(special) {
        out.put_slice(&text[..at]);
        out.put_u8(b'\\');
        out.put_u8(match text[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        });
        text = &text[at + 1..];
    }
    out.put_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::plan::Merged;
    use crate::row::{Cell, Row};

    fn row(values: &[Option<&'static str>]) -> Row {
        let bytes = values.iter().flatten().copied().collect::<String>();
        let mut offset = 0;
        let cell = |value: &Option<&str>| match value {
            None => Cell::Null,
            Some(text) => {
                offset += text.len() as u32;
                Cell::Text { offset: offset - text.len() as u32, length: text.len() as u32 }
            }
        };
        let cells = values.iter().map(cell).collect();
        Row::new(Bytes::from(bytes), cells).unwrap()
    }

    #[test]
    fn lines_are_what_copy_reads() {
        let rows = [row(&[Some("1"), None]), row(&[Some("a\tb\\N"), Some("c\r\nd")]), row(&[Some(""), Some("\\.")])];
        let planned: Vec<PlannedRow<'_>> =
            rows.iter().map(|row| PlannedRow { old: None, new: Some(Merged::new(row)) }).collect();
        let lines = lines(&planned, &[0, 1]).unwrap().concat();
        assert_eq!(String::from_utf8(lines).unwrap(), "1\t\\N\na\\tb\\\\N\tc\\r\\nd\n\t\\\\.\n");
    }

    #[test]
    fn long_texts_are_cut_into_stretches_at_the_end_of_a_line() {
        let row = row(&[Some("x")]);
        let planned = vec![PlannedRow { old: None, new: Some(Merged::new(&row)) }; 100_000];
        let stretches = lines(&planned, &[0]).unwrap();
        assert!(stretches.len() > 1 && stretches.iter().all(|stretch| stretch.ends_with(b"\n")));
        assert_eq!(stretches.concat().len(), 200_000);
    }

    #[test]
    fn an_array_is_what_array_recv_reads() {
        let rows = [row(&[Some("ab")]), row(&[None]), row(&[Some("")])];
        let planned: Vec<PlannedRow<'_>> = rows.iter().map(|row| PlannedRow { old: Some(row), new: None }).collect();
        let array = array(&planned, Value::Old(0)).unwrap();
        let header = [1, 1, 25, 3, 1].map(|field: i32| field.to_be_bytes()).concat();
        let elements = [&2i32.to_be_bytes()[..], b"ab", &(-1i32).to_be_bytes(), &0i32.to_be_bytes()].concat();
        assert_eq!(array, [header, elements].concat());
    }
}
