//! A row as JSON, and back. Pure.
//!
//! All but ASCII is written as `\u…`, which `json` keeps in a database of any encoding (documentation: "JSON Types"):
//! the row may have been refused for a letter that the encoding does not have.

use std::fmt;
use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value as Json;

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// See [`crate::row::Datum::Unchanged`].
    Unchanged,
    /// As the type's output function gives it.
    Text(String),
    /// Bytes that are not text in UTF-8; with a built-in type's OID, in the binary form of that type.
    Bytes(Vec<u8>, Option<u32>),
}

/// Values by their columns' names, in the order of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image(pub Vec<(String, Value)>);

impl Image {
    /// The value of a column.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, value)| value)
    }

    /// As a JSON object, in ASCII.
    pub fn to_json(&self) -> String {
        let mut text = String::from("{");
        for (at, (name, value)) in self.0.iter().enumerate() {
            text.push_str(if at > 0 { ", " } else { "" });
            quote(name, &mut text);
            text.push_str(": ");
            match value {
                Value::Null => text.push_str("null"),
                Value::Unchanged => text.push_str("{\"unchanged\": true}"),
                Value::Text(value) => quote(value, &mut text),
                Value::Bytes(bytes, type_oid) => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    let type_oid = type_oid.map_or_else(String::new, |oid| format!(", \"type\": {oid}"));
                    text.push_str(&format!("{{\"hex\": \"{hex}\"{type_oid}}}"));
                }
            }
        }
        text.push('}');
        text
    }

    /// What [`Self::to_json`] has written.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// For people: on one line, not in ASCII.
    pub fn shown(&self) -> String {
        let shown = |value: &Value| match value {
            Value::Null => "NULL".to_owned(),
            Value::Unchanged => "(unchanged, not sent)".to_owned(),
            Value::Text(text) => Json::from(text.as_str()).to_string(),
            Value::Bytes(bytes, _) => format!("({} bytes)", bytes.len()),
        };
        self.0.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect::<Vec<_>>().join(", ")
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for unit in text.encode_utf16() {
        match u8::try_from(unit).unwrap_or(b'\0') {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            plain @ b' '..=b'~' => out.push(char::from(plain)),
            // Writing into a String does not fail.
            _ => _ = write!(out, "\\u{unit:04x}"),
        }
    }
    out.push('"');
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Columns)
    }
}

/// Keeps the order of the columns.
struct Columns;

impl<'de> Visitor<'de> for Columns {
    type Value = Image;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row's values by column")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Image, A::Error> {
        let mut image = Image::default();
        while let Some((name, value)) = map.next_entry::<String, Json>()? {
            let value = match value {
                Json::Null => Value::Null,
                Json::String(text) => Value::Text(text),
                Json::Object(_) if value["unchanged"] == true => Value::Unchanged,
                Json::Object(_) => {
                    let bytes = value["hex"].as_str().and_then(bytes);
                    let bytes = bytes.ok_or_else(|| A::Error::custom("neither unchanged nor bytes"))?;
                    Value::Bytes(bytes, value["type"].as_u64().and_then(|oid| u32::try_from(oid).ok()))
                }
                _ => return Err(A::Error::custom("not a value of a row")),
            };
            image.0.push((name, value));
        }
        Ok(image)
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back_as_it_was_and_in_its_place() {
        let all: String = ('\u{1}'..'\u{ff}').chain("€\u{10ffff}🐘\u{d7ff}\u{e000}".chars()).collect();
        let image = Image(vec![
            ("z \"quoted\" ü".to_owned(), Value::Text(all)),
            ("null".to_owned(), Value::Null),
            ("text".to_owned(), Value::Text("null".to_owned())),
            ("like".to_owned(), Value::Text("{\"unchanged\": true}".to_owned())),
            ("empty".to_owned(), Value::Text(String::new())),
            ("big".to_owned(), Value::Unchanged),
            ("bytes".to_owned(), Value::Bytes(vec![0, 255, 16], None)),
            ("a".to_owned(), Value::Bytes(Vec::new(), Some(1043))),
        ]);
        let json = image.to_json();
        assert!(json.is_ascii(), "{json}");
        assert_eq!(Image::from_json(&json).unwrap(), image);
        assert_eq!(serde_json::from_str::<Json>(&json).unwrap()["bytes"]["hex"], "00ff10");
    }

    #[test]
    fn what_was_not_written_so_is_refused() {
        for json in ["[]", "{\"a\": 1}", "{\"a\": {\"hex\": \"0\"}}", "{\"a\": {\"hex\": \"zz\"}}", "{\"a\": {}}", "{"]
        {
            assert!(Image::from_json(json).is_err(), "{json}");
        }
    }
}
