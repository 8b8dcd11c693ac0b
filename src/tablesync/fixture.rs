//! Tables for the unit tests of this stage.

use super::target_tables::{Kind, TargetColumn, TargetTable};
use super::{CopyMode, CopyScope, CopySettings, ExistingRows};
use crate::relation::{ReplicaIdentity, TableName};
use crate::source::publication::{Leaf, PublishedColumn, PublishedTable, TableKind};

/// `s.name` with integer columns, the first of them the key; 10 bytes large.
pub fn published(name: &str, columns: &[&str]) -> PublishedTable {
    let column = |name: &&str| PublishedColumn {
        name: (*name).to_owned(),
        type_oid: 23,
        type_name: "integer".to_owned(),
        type_modifier: -1,
        not_null: false,
        generated: false,
    };
    PublishedTable {
        name: TableName::new("s", name),
        oid: 1,
        kind: TableKind::Plain,
        columns: columns.iter().map(column).collect(),
        unsent: Vec::new(),
        row_filter: None,
        identity: ReplicaIdentity::Default,
        identity_columns: columns.iter().take(1).map(|&column| column.to_owned()).collect(),
        identifiable: true,
        falsely_full: false,
        entries: vec![1],
        bytes: 10,
        leaves: vec![Leaf { oid: 1, name: TableName::new("s", name), bytes: 10 }],
    }
}

/// The same, published through its root, with these leaves and their sizes.
pub fn partitioned(name: &str, columns: &[&str], leaves: &[(&str, u64)]) -> PublishedTable {
    let leaf =
        |(oid, (name, bytes)): (u32, &(&str, u64))| Leaf { oid, name: TableName::new("s", *name), bytes: *bytes };
    PublishedTable {
        kind: TableKind::Partitioned,
        bytes: leaves.iter().map(|(_, bytes)| bytes).sum(),
        leaves: (2..).zip(leaves).map(leaf).collect(),
        ..published(name, columns)
    }
}

/// A target's table with these columns, the first of them the key, on which everything is allowed.
pub fn target(columns: &[&str]) -> TargetTable {
    let column = |name: &&str| TargetColumn {
        name: (*name).to_owned(),
        type_oid: 23,
        base_type_oid: 23,
        not_null: false,
        has_default: false,
        generated: false,
        identity_always: false,
    };
    TargetTable {
        oid: 1,
        kind: Kind::Plain,
        columns: columns.iter().map(column).collect(),
        keys: columns.iter().take(1).map(|&column| vec![column.to_owned()]).collect(),
        missing_privileges: Vec::new(),
        schema_closed: false,
        row_security: false,
        triggers: Vec::new(),
        replica_triggers: Vec::new(),
    }
}

/// Those of a configuration that says nothing, but for the size.
pub const fn settings(range_bytes: u64) -> CopySettings {
    CopySettings { existing_rows: ExistingRows::Refuse, mode: CopyMode::Replace, rate: None, workers: 1, range_bytes }
}

/// These tables, everything published, nothing special allowed.
pub fn scope(tables: Vec<PublishedTable>) -> CopyScope {
    CopyScope {
        stream: "stream".to_owned(),
        target_name: "target".to_owned(),
        tables,
        insert_published: true,
        truncate_published: false,
        replica_role: false,
        settings: settings(1 << 30),
    }
}
