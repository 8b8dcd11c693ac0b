//! pgoutput's messages as a source writes them (documentation: "Logical Replication Message Formats").

use bytes::{BufMut, Bytes};

/// The table's OID.
const TABLE: u32 = 16_384;
const COMMIT_LSN: u64 = 0x1_0000;
const END_LSN: u64 = 0x1_0030;

/// A column's value.
#[derive(Clone)]
pub enum Value {
    Null,
    /// TOASTed, and not touched by the UPDATE.
    Unchanged,
    Text(String),
}

/// Messages in one memory, as one read brings them.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Messages {
    /// Begin.
    pub fn begin(&mut self) {
        self.bytes.put_u8(b'B');
        self.bytes.put_u64(COMMIT_LSN);
        self.bytes.put_i64(0);
        self.bytes.put_u32(700);
        self.end();
    }

    /// Relation: columns by name and type; the first is the key, with FULL (`full`) all are.
    pub fn relation(&mut self, name: &str, columns: &[(&str, u32)], full: bool) {
        self.bytes.put_u8(b'R');
        self.bytes.put_u32(TABLE);
        self.string("public");
        self.string(name);
        self.bytes.put_u8(if full { b'f' } else { b'd' });
        self.bytes.put_u16(columns.len() as u16);
        for (at, (name, type_oid)) in columns.iter().enumerate() {
            self.bytes.put_u8(u8::from(full || at == 0));
            self.string(name);
            self.bytes.put_u32(*type_oid);
            self.bytes.put_i32(-1);
        }
        self.end();
    }

    /// Insert.
    pub fn insert(&mut self, new: &[Value]) {
        self.change(b'I');
        self.row(b'N', new);
        self.end();
    }

    /// Update; the whole old row comes with FULL.
    pub fn update(&mut self, old: Option<&[Value]>, new: &[Value]) {
        self.change(b'U');
        if let Some(old) = old {
            self.row(b'O', old);
        }
        self.row(b'N', new);
        self.end();
    }

    /// Delete: all columns but the key's are NULL.
    pub fn delete(&mut self, key: &[Value]) {
        self.change(b'D');
        self.row(b'K', key);
        self.end();
    }

    /// Commit.
    pub fn commit(&mut self) {
        self.bytes.put_slice(b"C\0");
        self.bytes.put_u64(COMMIT_LSN);
        self.bytes.put_u64(END_LSN);
        self.bytes.put_i64(0);
        self.end();
    }

    /// Each message; all share the memory.
    pub fn frames(self) -> Vec<Bytes> {
        let bytes = Bytes::from(self.bytes);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| bytes.slice(start..*end)).collect()
    }

    fn change(&mut self, tag: u8) {
        self.bytes.put_u8(tag);
        self.bytes.put_u32(TABLE);
    }

    fn row(&mut self, tag: u8, values: &[Value]) {
        self.bytes.put_u8(tag);
        self.bytes.put_u16(values.len() as u16);
        for value in values {
            match value {
                Value::Null => self.bytes.put_u8(b'n'),
                Value::Unchanged => self.bytes.put_u8(b'u'),
                Value::Text(text) => {
                    self.bytes.put_u8(b't');
                    self.bytes.put_u32(text.len() as u32);
                    self.bytes.put_slice(text.as_bytes());
                }
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.bytes.put_slice(text.as_bytes());
        self.bytes.put_u8(0);
    }

    fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }
}
