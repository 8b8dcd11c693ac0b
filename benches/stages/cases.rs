//! What is measured: rows of three shapes, and what happens to them.

use std::fmt;

use bytes::Bytes;
use walferry::change::{Delivery, Part};
use walferry::lsn::Lsn;
use walferry::pgoutput::{Decoder, Message, ProtocolVersion, Streaming};
use walferry::transaction::Assembler;

use crate::messages::{Messages, Value};

/// Rows of an iteration.
pub const ROWS: usize = 1_000;

/// The size of a part: a quarter of the queue's default (`apply.queue_bytes`).
const PART: usize = 4 << 20;

/// A table's columns, by name and type; the first is the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two integers.
    Narrow,
    /// Ten columns of many types.
    Mixed,
    /// A document of 2 kB beside a key and a version.
    Json,
}

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    /// In a table without a key, with REPLICA IDENTITY FULL.
    UpdateFull,
    /// The document is not touched, and not sent.
    UpdateToast,
    Delete,
}

/// An operation on rows of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub shape: Shape,
    pub operation: Operation,
}

/// Everything that is measured.
pub const CASES: [Case; 11] = [
    Case { shape: Shape::Narrow, operation: Operation::Insert },
    Case { shape: Shape::Narrow, operation: Operation::Update },
    Case { shape: Shape::Narrow, operation: Operation::Delete },
    Case { shape: Shape::Mixed, operation: Operation::Insert },
    Case { shape: Shape::Mixed, operation: Operation::Update },
    Case { shape: Shape::Mixed, operation: Operation::UpdateFull },
    Case { shape: Shape::Mixed, operation: Operation::Delete },
    Case { shape: Shape::Json, operation: Operation::Insert },
    Case { shape: Shape::Json, operation: Operation::Update },
    Case { shape: Shape::Json, operation: Operation::UpdateToast },
    Case { shape: Shape::Json, operation: Operation::Delete },
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Narrow => "narrow",
            Shape::Mixed => "mixed",
            Shape::Json => "json",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::UpdateFull => "update_full",
            Operation::UpdateToast => "update_toast",
            Operation::Delete => "delete",
        };
        write!(f, "{}_{operation}", self.shape)
    }
}

impl Shape {
    /// Every shape.
    pub const ALL: [Shape; 3] = [Shape::Narrow, Shape::Mixed, Shape::Json];

    /// Names and types (`pg_type.oid`).
    pub fn columns(self) -> &'static [(&'static str, u32)] {
        match self {
            Shape::Narrow => &[("id", 20), ("value", 23)],
            Shape::Mixed => &[
                ("id", 20),
                ("account", 23),
                ("name", 25),
                ("email", 1043),
                ("active", 16),
                ("balance", 1700),
                ("created", 1184),
                ("born", 1082),
                ("reference", 2950),
                ("note", 25),
            ],
            Shape::Json => &[("id", 20), ("version", 23), ("document", 3802)],
        }
    }

    /// The `version`-th state of the row with this key.
    pub fn values(self, key: usize, version: usize) -> Vec<Value> {
        let id = Value::Text((1_000_000 + key).to_string());
        match self {
            Shape::Narrow => vec![id, Value::Text((key + version).to_string())],
            Shape::Mixed => vec![
                id,
                Value::Text((key % 1_000).to_string()),
                Value::Text(format!("Customer number {key}")),
                Value::Text(format!("customer.{key}@mail.example.com")),
                Value::Text("t".to_owned()),
                Value::Text(format!("{key}.{:02}", version % 100)),
                Value::Text(format!("2024-05-06 07:08:{:02}.123456+00", key % 60)),
                Value::Text(format!("1984-02-{:02}", 1 + key % 28)),
                Value::Text(format!("6f1d2c3b-4a59-4687-8b9c-{key:012x}")),
                Value::Null,
            ],
            Shape::Json => vec![id, Value::Text(version.to_string()), Value::Text(document(key, version))],
        }
    }
}

/// About 2 kB, with an escape now and then.
fn document(key: usize, version: usize) -> String {
    let item = |n: usize| {
        format!(
            "{{\"sku\": \"A-{key:06}-{n:02}\", \"count\": {n}, \"price\": 12.50, \"tags\": [\"new\", \"red\"], \
             \"comment\": \"first line\\nsecond line\"}}"
        )
    };
    let items: Vec<String> = (0..16).map(item).collect();
    format!("{{\"order\": {key}, \"version\": {version}, \"items\": [{}]}}", items.join(", "))
}

impl Case {
    /// The rows' messages.
    pub fn rows(self) -> Vec<Bytes> {
        let mut messages = Messages::default();
        self.write_rows(&mut messages);
        messages.frames()
    }

    /// The messages of a transaction of these rows, decoded.
    pub fn transaction(self) -> Vec<Message> {
        let mut messages = Messages::default();
        messages.begin();
        messages.relation(&self.shape.to_string(), self.shape.columns(), self.is_full());
        self.write_rows(&mut messages);
        messages.commit();
        let mut decoder = decoder();
        messages.frames().into_iter().map(|frame| decoder.decode(frame).expect("a message")).collect()
    }

    /// The transaction.
    pub fn part(self) -> Part {
        let (mut assembler, mut out) = (assembler(), Vec::new());
        for message in self.transaction() {
            assembler.push(message, Lsn::new(1), &mut out).expect("a transaction");
        }
        match out.pop() {
            Some(Delivery::Part(part)) if part.is_whole() => part,
            other => panic!("not a whole transaction: {other:?}"),
        }
    }

    /// Whether old rows come whole.
    pub fn is_full(self) -> bool {
        self.operation == Operation::UpdateFull
    }

    fn write_rows(self, messages: &mut Messages) {
        for at in 0..ROWS {
            // New keys ascend; which rows are changed knows no order.
            let key = if self.operation == Operation::Insert { at } else { at * 617 % ROWS };
            let (old, mut new) = (self.shape.values(key, 0), self.shape.values(key, 1));
            match self.operation {
                Operation::Insert => messages.insert(&new),
                Operation::Update => messages.update(None, &new),
                Operation::UpdateFull => messages.update(Some(&old), &new),
                Operation::UpdateToast => {
                    *new.last_mut().expect("a column") = Value::Unchanged;
                    messages.update(None, &new);
                }
                Operation::Delete => {
                    new[1..].fill(Value::Null);
                    messages.delete(&new);
                }
            }
        }
    }
}

/// A session's decoder.
pub fn decoder() -> Decoder {
    Decoder::new(ProtocolVersion::V1, Streaming::Off)
}

/// A session's assembler.
pub fn assembler() -> Assembler {
    Assembler::new(PART)
}
