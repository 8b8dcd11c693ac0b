//! Tables made up for the tests of judgements.

use super::facts::source::{PublicationFacts, SourceFacts};
use super::facts::tables::{ColumnFacts, IndexFacts, TableFacts};
use super::facts::target::TargetFacts;
use crate::relation::{ReplicaIdentity, TableName};
use crate::source::publication::{Publication, PublishedColumn, PublishedTable, TableKind};

/// `s.t`.
pub fn name() -> TableName {
    TableName::new("s", "t")
}

/// A column of this name and type.
pub fn column(name: &str, type_name: &str) -> ColumnFacts {
    ColumnFacts { name: name.to_owned(), type_name: type_name.to_owned(), ..ColumnFacts::default() }
}

/// A unique index over these columns.
pub fn unique(name: &str, keys: &[&str]) -> IndexFacts {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    IndexFacts { name: name.to_owned(), unique: true, keys, ..IndexFacts::default() }
}

/// `s.t` with these columns.
pub fn table(columns: Vec<ColumnFacts>) -> TableFacts {
    TableFacts { columns, ..TableFacts::default() }
}

/// Both sides with `s.t`, all of whose columns on the source are published. Its identity is `id`.
pub fn sides(ours: TableFacts, theirs: TableFacts) -> (TargetFacts, SourceFacts) {
    let sent = |column: &ColumnFacts| PublishedColumn {
        name: column.name.clone(),
        type_oid: 23,
        type_name: column.type_name.clone(),
        type_modifier: -1,
        not_null: column.not_null,
        generated: false,
    };
    let is_sent = |column: &&ColumnFacts| column.expression.is_none();
    let published = PublishedTable {
        name: name(),
        oid: 1,
        kind: TableKind::Plain,
        columns: theirs.columns.iter().filter(is_sent).map(sent).collect(),
        unsent: Vec::new(),
        row_filter: None,
        identity: ReplicaIdentity::Default,
        identity_columns: vec!["id".to_owned()],
        identifiable: true,
        falsely_full: false,
        entries: vec![1],
        bytes: 0,
        leaves: Vec::new(),
    };
    let publication = Publication {
        name: "p".to_owned(),
        via_root: true,
        all_tables: false,
        insert: true,
        update: true,
        delete: true,
        truncate: true,
        tables: vec![published.clone()],
    };
    let source = SourceFacts {
        publication: PublicationFacts::Complete(publication),
        tables: [(name(), theirs)].into(),
        ..SourceFacts::default()
    };
    let target = TargetFacts { wanted: vec![published], tables: [(name(), ours)].into(), ..TargetFacts::default() };
    (target, source)
}
