//! Many rows' values as a server takes them at once: arrays for a statement's parameters, or what COPY reads. Pure.
//!
//! Row by row: a row's values lie together, and those of the next one somewhere else.

use bytes::{BufMut, Bytes, BytesMut};

use crate::apply::plan::PlannedRow;
use crate::apply::statement::Value;
use crate::apply::table::Wire;
use crate::row::Datum;

/// `text`, the type of an array's elements that arrived as text.
const TEXT_OID: u32 = 25;

/// A stretch of what COPY reads is cut when it has this many bytes.
const STRETCH: usize = 64 * 1024;

/// A value that did not arrive as its column does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherFormat;

/// What the parameters of a statement for these rows are, of which the statement is to touch `touched`: one parameter's
/// value for each row is an array in binary form.
///
/// # Errors
/// [`OtherFormat`].
pub fn parameters(rows: &[PlannedRow<'_>], touched: u64, values: &[(Value, Wire)]) -> Result<Vec<Bytes>, OtherFormat> {
    let mut arrays: Vec<BytesMut> =
        values.iter().map(|(value, wire)| array(*wire, rows.len(), datum(&rows[0], *value))).collect();
    for row in rows {
        for (array, (value, wire)) in arrays.iter_mut().zip(values) {
            match bytes(datum(row, *value), *wire)? {
                None => array.put_i32(-1),
                Some(bytes) => {
                    array.put_i32(bytes.len() as i32);
                    array.put_slice(bytes);
                }
            }
        }
    }
    let count = Bytes::copy_from_slice(&(touched as i64).to_be_bytes());
    let parameter = |(array, (value, _)): (BytesMut, &(Value, Wire))| match value {
        Value::Count => count.clone(),
        Value::New(_) | Value::Old(_) => array.freeze(),
    };
    Ok(arrays.into_iter().zip(values).map(parameter).collect())
}

/// The beginning of an array (`array_recv` in arrayfuncs.c: dimensions, whether there are NULLs, element type; each
/// dimension's length and lower bound; then each element's length and bytes). Its values are as long as the first one,
/// as far as can be told.
fn array(wire: Wire, length: usize, first: Datum<'_>) -> BytesMut {
    let size = match first {
        Datum::Text(bytes) | Datum::Binary(bytes) => bytes.len(),
        Datum::Null | Datum::Unchanged => 0,
    };
    let mut out = BytesMut::with_capacity(20 + length * (4 + size + size / 8));
    out.put_i32(1);
    out.put_i32(1);
    out.put_u32(match wire {
        Wire::Text => TEXT_OID,
        Wire::Binary { oid, .. } => oid,
    });
    out.put_i32(length as i32);
    out.put_i32(1);
    out
}

fn datum<'a>(row: &PlannedRow<'a>, value: Value) -> Datum<'a> {
    let found = match value {
        Value::New(index) => row.new.as_ref().and_then(|new| new.get(index)),
        Value::Old(index) => row.old.and_then(|old| old.get(index)),
        Value::Count => None,
    };
    found.unwrap_or(Datum::Null)
}

fn bytes(datum: Datum<'_>, wire: Wire) -> Result<Option<&[u8]>, OtherFormat> {
    match (datum, wire) {
        (Datum::Text(bytes), Wire::Text) | (Datum::Binary(bytes), Wire::Binary { .. }) => Ok(Some(bytes)),
        (Datum::Null | Datum::Unchanged, _) => Ok(None),
        (Datum::Text(_), Wire::Binary { .. }) | (Datum::Binary(_), Wire::Text) => Err(OtherFormat),
    }
}

/// The new rows' values in these columns as lines of COPY's text format, in stretches that end with a line.
///
/// # Errors
/// [`OtherFormat`].
pub fn lines(rows: &[PlannedRow<'_>], columns: &[usize]) -> Result<Vec<Bytes>, OtherFormat> {
    let mut out = Stretches::default();
    for row in rows {
        let line = out.tail();
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                line.put_u8(b'\t');
            }
            match bytes(datum(row, Value::New(*column)), Wire::Text)? {
                None => line.put_slice(b"\\N"),
                Some(text) => escape(text, line),
            }
        }
        line.put_u8(b'\n');
    }
    Ok(out.finish())
}

/// The new rows' values in these columns, all of which arrive in binary, in COPY's binary format (documentation of
/// COPY, "Binary Format"), in stretches that end with a row.
///
/// # Errors
/// [`OtherFormat`].
pub fn tuples(rows: &[PlannedRow<'_>], columns: &[(usize, Wire)]) -> Result<Vec<Bytes>, OtherFormat> {
    let mut out = Stretches::default();
    let header = out.tail();
    header.put_slice(b"PGCOPY\n\xff\r\n\0");
    // No flags; no extension.
    header.put_i32(0);
    header.put_i32(0);
    for row in rows {
        let tuple = out.tail();
        tuple.put_i16(columns.len() as i16);
        for (column, wire) in columns {
            match bytes(datum(row, Value::New(*column)), *wire)? {
                None => tuple.put_i32(-1),
                Some(value) => {
                    tuple.put_i32(value.len() as i32);
                    tuple.put_slice(value);
                }
            }
        }
    }
    out.tail().put_i16(-1);
    Ok(out.finish())
}

/// What COPY reads, as it is made.
#[derive(Default)]
struct Stretches {
    full: Vec<Bytes>,
    last: BytesMut,
}

impl Stretches {
    /// Where the next row goes.
    fn tail(&mut self) -> &mut BytesMut {
        if self.last.len() >= STRETCH {
            self.full.push(std::mem::take(&mut self.last).freeze());
        }
        if self.last.capacity() == 0 {
            self.last.reserve(STRETCH + STRETCH / 4);
        }
        &mut self.last
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.full.push(self.last.freeze());
        }
        self.full
    }
}

/// As the documentation of COPY, "Text Format", has it: backslash, newline, carriage return and the delimiter.
fn escape(mut text: &[u8], out: &mut BytesMut) {
    while let Some(at) = first_special(text) {
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

fn first_special(text: &[u8]) -> Option<usize> {
    let found = memchr::memchr3(b'\\', b'\n', b'\r', text);
    memchr::memchr(b'\t', &text[..found.unwrap_or(text.len())]).or(found)
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
        let array = parameters(&planned, 3, &[(Value::Old(0), Wire::Text)]).unwrap().remove(0);
        let header = [1, 1, 25, 3, 1].map(|field: i32| field.to_be_bytes()).concat();
        let elements = [&2i32.to_be_bytes()[..], b"ab", &(-1i32).to_be_bytes(), &0i32.to_be_bytes()].concat();
        assert_eq!(array, [header, elements].concat());
    }
}
