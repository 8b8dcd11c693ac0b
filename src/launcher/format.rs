//! Text or binary: the format in which a session's values are asked for. Pure.
//!
//! In: what is published, and what may read it. Out: the option `binary` of START_REPLICATION, which holds for the
//! whole stream. Binary saves the source the output functions and the targets the input functions; but where one
//! published column's type means the same in binary on the source only ([`crate::postgres::binary`]), all values come
//! as text. So do they where a column is an array: many rows' values travel as arrays, and PostgreSQL has no arrays of
//! arrays.
//!
//! What is published may be another thing than what was when the changes were made. So each table that the stream
//! announces is looked at, and the first one that does not fit makes a text session of it, for as long as the daemon
//! is the active one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config;
use crate::postgres::binary;
use crate::relation::{Displayed, Relation, TableName};
use crate::source::publication::Publication;

/// See the module.
pub(super) struct Format {
    /// What is published, as it changes.
    publication: watch::Receiver<Arc<Publication>>,
    /// Why all is text, whatever is published.
    text: Option<String>,
}

impl Format {
    /// For a source of this `server_version_num`.
    pub(super) fn new(
        values: config::Values,
        server_version: u32,
        publication: watch::Receiver<Arc<Publication>>,
    ) -> Self {
        let text = match values {
            config::Values::Text => Some("source.values says so".to_owned()),
            config::Values::Auto if !binary::is_proven(server_version) => {
                Some("the source is of a new version".to_owned())
            }
            config::Values::Auto => None,
        };
        Self { publication, text }
    }

    /// Why the values of a session that is opened now come as text; `None`: they come in binary.
    pub(super) fn obstacle(&self) -> Option<String> {
        let first = || {
            let publication = Arc::clone(&self.publication.borrow());
            publication.tables.iter().find_map(|table| {
                let mut columns = table.columns.iter();
                let column = columns.find(|column| !fits(column.type_oid))?;
                Some(format!("{} is of type {}", named(&table.name, &column.name), column.type_name))
            })
        };
        self.text.clone().or_else(first)
    }

    /// From now on all is text, because a table was announced that does not fit.
    pub(super) fn met(&mut self, stranger: &Stranger) {
        self.text = Some(format!("{} is, or was, of a type that is not the same everywhere", stranger.0));
    }
}

/// A column that does not fit into a binary session.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stranger(String);

impl Stranger {
    /// The first one of a table.
    pub(super) fn of(relation: &Relation) -> Option<Self> {
        let column = relation.columns.iter().find(|column| !fits(column.type_oid))?;
        Some(Self(named(&relation.name, &column.name)))
    }
}

fn named(table: &TableName, column: &str) -> String {
    format!("column {} of {table}", Displayed(column))
}

fn fits(type_oid: u32) -> bool {
    binary::array_of(type_oid).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::{Column, RelationId, ReplicaIdentity};

    const INT4: u32 = 23;
    const INTERVAL: u32 = 1186;
    const TEXT_ARRAY: u32 = 1009;

    fn announced(type_oid: u32) -> Relation {
        let column = |(name, type_oid): (&str, u32)| Column {
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
            is_key: false,
        };
        Relation {
            id: RelationId(1),
            name: TableName::new("s", "t"),
            identity: ReplicaIdentity::Default,
            columns: [("id", INT4), ("V", type_oid)].map(column).into(),
            binary: true,
        }
    }

    #[test]
    fn a_table_of_types_that_are_the_same_everywhere_fits() {
        assert_eq!(Stranger::of(&announced(INT4)), None);
    }

    #[test]
    fn a_type_that_is_not_and_an_array_do_not() {
        for stranger in [INTERVAL, TEXT_ARRAY, 16_400] {
            assert_eq!(Stranger::of(&announced(stranger)), Some(Stranger("column \"V\" of s.t".to_owned())));
        }
    }

    fn format(values: config::Values, server_version: u32) -> Format {
        let none = Publication {
            name: "p".to_owned(),
            via_root: false,
            all_tables: false,
            insert: true,
            update: true,
            delete: true,
            truncate: true,
            tables: Vec::new(),
        };
        Format::new(values, server_version, watch::Sender::new(Arc::new(none)).subscribe())
    }

    #[test]
    fn binary_is_asked_for_where_nothing_speaks_against_it() {
        assert_eq!(format(config::Values::Auto, 180_000).obstacle(), None);
        assert!(format(config::Values::Text, 180_000).obstacle().unwrap().contains("source.values"));
        assert!(format(config::Values::Auto, 190_000).obstacle().unwrap().contains("new version"));
    }

    #[test]
    fn once_a_stranger_was_met_all_is_text() {
        let mut format = format(config::Values::Auto, 180_000);
        format.met(&Stranger::of(&announced(INTERVAL)).unwrap());
        assert!(format.obstacle().unwrap().contains("column \"V\" of s.t"));
    }
}
