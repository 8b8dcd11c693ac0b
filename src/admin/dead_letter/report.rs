//! Letters as JSON and as text. Pure.

use serde_json::{Map, Value as Json, json};

use crate::admin::output;
use crate::apply::dead_letter::{Image, Letter, Value};
use crate::relation::TableName;

/// As JSON: an image only where it was asked for.
pub(super) fn json(target: &str, letter: &Letter) -> Json {
    let mut out = json!({
        "target": target,
        "id": letter.id,
        "table": letter.table.to_string(),
        "operation": letter.operation,
        "key": letter.key.as_ref().map(image),
        "sqlstate": letter.sqlstate,
        "error": letter.error,
        "end_lsn": letter.end_lsn,
        "commit_time": letter.commit_time,
        "superseded_lsn": letter.superseded_lsn,
        "failed_at": letter.failed_at,
        "retries": letter.retries,
    });
    for (name, value) in [("new_key", &letter.new_key), ("old", &letter.old), ("new", &letter.new)] {
        if let Some(value) = value {
            out[name] = image(value);
        }
    }
    out
}

fn image(image: &Image) -> Json {
    let value = |value: &Value| match value {
        Value::Null => Json::Null,
        Value::Unchanged => json!({ "unchanged": true }),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Bytes(bytes, type_oid) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex, "type": type_oid })
        }
    };
    Json::Object(image.0.iter().map(|(name, found)| (name.clone(), value(found))).collect::<Map<_, _>>())
}

/// As text for a terminal.
pub(super) fn text(letters: &[(&str, Letter)]) -> String {
    let header = ["target", "id", "table", "operation", "key", "commit", "tries", "sqlstate", "error"];
    let row = |(target, letter): &(&str, Letter)| {
        let error = match &letter.superseded_lsn {
            Some(lsn) => format!("{} (a later change, of {lsn}, has made this one pointless)", letter.error),
            None => letter.error.clone(),
        };
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            (*target).to_owned(),
            letter.id.to_string(),
            letter.table.to_string(),
            letter.operation.clone(),
            key(letter),
            or_dash(&letter.end_lsn),
            letter.retries.to_string(),
            or_dash(&letter.sqlstate),
            error,
        ]
    };
    let mut text = output::table(&header, &[1, 6], letters.iter().map(row));
    for (target, letter) in letters {
        for (what, image) in [("old", &letter.old), ("new", &letter.new)] {
            if let Some(image) = image {
                text += &format!("{target} {} {what}: {}\n", letter.id, image.shown());
            }
        }
    }
    text
}

fn key(letter: &Letter) -> String {
    let shown = |image: &Image| image.shown();
    match (&letter.key, &letter.new_key) {
        (Some(key), Some(new)) => format!("{} -> {}", shown(key), shown(new)),
        (Some(key), None) => shown(key),
        (None, _) => "row without a key".to_owned(),
    }
}

/// `schema.table`, each plain or in double quotes, as [`TableName`] is shown.
pub(super) fn table_name(text: &str) -> Option<TableName> {
    let (schema, rest) = part(text)?;
    let (name, rest) = part(rest.strip_prefix('.')?)?;
    rest.is_empty().then(|| TableName::new(schema, name))
}

fn part(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let (mut name, mut rest) = (String::new(), quoted);
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_name_is_read_as_it_is_shown() {
        for name in [("public", "orders"), ("Sales", "a.b"), ("s", "say \"hi\""), ("a b", "\"")] {
            let name = TableName::new(name.0, name.1);
            assert_eq!(table_name(&name.to_string()), Some(name));
        }
        for wrong in ["orders", "a.b.c", "\"a", ".t", "s.", "\"a\"b.c", ""] {
            assert_eq!(table_name(wrong), None, "{wrong}");
        }
    }

    fn letter() -> Letter {
        let key = Image(vec![("id".to_owned(), Value::Text("5".to_owned()))]);
        Letter {
            id: 7,
            table: TableName::new("public", "t"),
            operation: "insert".to_owned(),
            key: Some(key),
            new_key: None,
            old: None,
            new: Some(Image(vec![("note".to_owned(), Value::Text("private".to_owned()))])),
            sqlstate: Some("23514".to_owned()),
            error: "a check".to_owned(),
            end_lsn: Some("0/1".to_owned()),
            commit_time: None,
            superseded_lsn: None,
            failed_at: String::new(),
            retries: 2,
        }
    }

    #[test]
    fn a_letter_is_shown_by_key_and_error_and_with_values_where_they_were_read() {
        let shown = text(&[("one", letter())]);
        assert!(shown.contains("id=\"5\"") && shown.contains("23514") && shown.contains("a check"), "{shown}");
        assert!(shown.contains("one 7 new: note=\"private\""), "{shown}");
        let bare = Letter { new: None, superseded_lsn: Some("0/2".to_owned()), ..letter() };
        let shown = text(&[("one", bare.clone())]);
        assert!(!shown.contains("private") && shown.contains("0/2"), "{shown}");
        assert_eq!(json("one", &bare)["key"]["id"], "5");
        assert!(json("one", &bare).get("new").is_none());
        assert_eq!(json("one", &letter())["new"]["note"], "private");
    }
}
