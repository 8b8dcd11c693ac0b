//! A row's values as text. What arrives in binary is made text by the target, with the type's own output function: the
//! outcome is as if it had arrived as text (see `statement/params.rs`). What the target cannot read stays as it came.

use bytes::{Bytes, BytesMut};
use postgres_types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::image::Value;
use crate::postgres::{Client, PgError, binary};
use crate::relation::Relation;
use crate::row::{Datum, Row};
use crate::sql::Sql;

/// The values of all of a relation's columns.
///
/// # Errors
/// As [`Client::query`]; not that the target cannot read a value.
pub(super) async fn values(client: &Client, relation: &Relation, row: &Row) -> Result<Vec<Value>, PgError> {
    let mut values = Vec::with_capacity(row.len());
    let mut in_binary = Vec::new();
    for (at, (column, datum)) in relation.columns.iter().zip(row.iter()).enumerate() {
        values.push(match datum {
            Datum::Null => Value::Null,
            Datum::Unchanged => Value::Unchanged,
            Datum::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Bytes(text.to_vec(), None),
            },
            Datum::Binary(bytes) => match binary::shown(column.type_oid, bytes) {
                Some(text) => Value::Text(text),
                None => {
                    in_binary.push(at);
                    Value::Bytes(bytes.to_vec(), Some(column.type_oid))
                }
            },
        });
    }
    let raw: Vec<(Type, Raw)> = in_binary
        .iter()
        .filter_map(|&at| Some((Type::from_oid(relation.columns[at].type_oid)?, Raw(row.share(at)?))))
        .collect();
    if raw.is_empty() || raw.len() < in_binary.len() {
        return Ok(values);
    }
    let texts = match client.query_one(&output(&raw), &parameters(&raw)).await {
        Ok(texts) => texts.get::<_, Vec<String>>(0),
        Err(error) if error.code().is_some_and(|code| code.starts_with("22") || code == "08P01") => return Ok(values),
        Err(error) => return Err(error),
    };
    for (at, text) in in_binary.into_iter().zip(texts) {
        values[at] = Value::Text(text);
    }
    Ok(values)
}

fn parameters(raw: &[(Type, Raw)]) -> Vec<&(dyn ToSql + Sync)> {
    raw.iter().map(|(_, raw)| raw as &(dyn ToSql + Sync)).collect()
}

/// An array has no limit of elements that a row with a column for each would have.
fn output(raw: &[(Type, Raw)]) -> Sql {
    let texts: Vec<Sql> = raw
        .iter()
        .enumerate()
        .map(|(at, (type_, _))| {
            let place = Sql::number(at as i64 + 1);
            Sql::format("pg_catalog.format('%s', ${}::pg_catalog.{})", &[&place, &Sql::ident(type_.name())])
        })
        .collect();
    Sql::format("SELECT ARRAY[{}]", &[&Sql::join(&texts, ", ")])
}

/// A value as its type's send function gave it.
#[derive(Debug)]
struct Raw(Bytes);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}
