//! The publication: in goes its name, out comes what it publishes, exactly as the stream will.
//!
//! An existing publication is taken as it is. Its operations, row filters, column lists, generated columns and
//! `publish_via_partition_root` hold for the initial copy too, so all of them are read here.
//!
//! | version | `pg_publication_tables` (documentation: "System Views") |
//! |---|---|
//! | 14 | names only: no column lists, no row filters yet |
//! | 15 to 17 | `attnames` may name generated columns, which pgoutput of these versions never sends |
//! | 18 | `attnames` holds stored generated columns where they are published; virtual ones never are |
//!
//! With `publish_via_partition_root` the view names the root of a partition tree, otherwise its leaves. It holds what
//! FOR ALL TABLES and FOR TABLES IN SCHEMA come to at the moment, and never unlogged or temporary tables.

pub mod alter;
mod ensure;
mod read;

pub use ensure::{Chosen, ensure, missing, rehearse};
pub use read::{exists, read};

use std::collections::HashMap;

use crate::relation::{RelationId, ReplicaIdentity, TableName};
use crate::sql::Sql;

/// What a publication publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// `pg_publication.pubname`.
    pub name: String,
    /// `publish_via_partition_root`: changes of partitions arrive under the root's name, and by its columns.
    pub via_root: bool,
    /// FOR ALL TABLES: tables to come are in it as well.
    pub all_tables: bool,
    /// INSERT is published.
    pub insert: bool,
    /// UPDATE is published.
    pub update: bool,
    /// DELETE is published.
    pub delete: bool,
    /// TRUNCATE is published.
    pub truncate: bool,
    /// Ordered by schema and name.
    pub tables: Vec<PublishedTable>,
}

/// Whether rows lie in the table itself or in its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table, or a partition published under its own name.
    Plain,
    /// Partitioned, published under its root's (or this subtree's top) name.
    Partitioned,
}

/// One table as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTable {
    /// Schema and name.
    pub name: TableName,
    /// `pg_class.oid`.
    pub oid: u32,
    /// The OIDs of all that makes the publication hold this table: entries of the table, of partitioned tables above
    /// it, and of the schemas of these; the publication itself where it is FOR ALL TABLES. Never empty, in order.
    /// Whatever is dropped and made again has another, so a table has been published all the time if one has stayed.
    pub entries: Vec<u32>,
    /// Plain or partitioned.
    pub kind: TableKind,
    /// The published columns in the order of `attnum`.
    pub columns: Vec<PublishedColumn>,
    /// Columns that the source computes and does not send.
    pub unsent: Vec<String>,
    /// The row filter as `pg_get_expr` prints it.
    pub row_filter: Option<Sql>,
    /// `pg_class.relreplident` of this table.
    pub identity: ReplicaIdentity,
    /// Columns of the identity's index. Empty for FULL, for NOTHING, and for DEFAULT without a usable primary key.
    pub identity_columns: Vec<String>,
    /// Whether every leaf can say which row an UPDATE or DELETE meant; where not, the source refuses these.
    pub identifiable: bool,
    /// The stream announces REPLICA IDENTITY FULL for UPDATE or DELETE, and some leaf does not log its old rows:
    /// ALTER TABLE sets the identity of a partitioned table without its partitions, the announcement is the
    /// root's, and the old rows are the leaves'.
    pub falsely_full: bool,
    /// `pg_relation_size` of all leaves, an estimate of what the copy reads (TOAST not counted).
    pub bytes: u64,
    /// Where the rows lie: the leaves of a partitioned table, or a plain table itself. Foreign tables are left out:
    /// their changes are not in this server's WAL.
    pub leaves: Vec<Leaf>,
}

impl Publication {
    /// The first of these tables of it whose copy would be another one by a later or earlier reading.
    pub fn changed_in<'a>(&self, other: &Self, tables: &'a [PublishedTable]) -> Option<&'a PublishedTable> {
        let by_oid: HashMap<u32, &PublishedTable> = other.tables.iter().map(|table| (table.oid, table)).collect();
        let stays = |table: &PublishedTable| by_oid.get(&table.oid).is_some_and(|found| found.is_copied_like(table));
        tables.iter().find(|table| self.insert != other.insert || !stays(table))
    }
}

impl PublishedTable {
    /// What the table is beside its name, in a publication of this name: see [`has_stayed`].
    pub fn origin(&self, publication: &str) -> String {
        let entries: Vec<String> = self.entries.iter().map(u32::to_string).collect();
        format!("{} {} {publication}", self.oid, entries.join(","))
    }

    /// Whether a copy of this table is also one of `other`, the table in a later or earlier reading: the same table,
    /// published by the same entries, with the same columns and filter, its rows in the same places.
    fn is_copied_like(&self, other: &Self) -> bool {
        let places = |table: &Self| table.leaves.iter().map(|leaf| (leaf.oid, leaf.name.clone())).collect::<Vec<_>>();
        (&self.name, self.oid, &self.entries, self.kind) == (&other.name, other.oid, &other.entries, other.kind)
            && (&self.columns, &self.row_filter) == (&other.columns, &other.row_filter)
            && places(self) == places(other)
    }
}

/// Why changes of a table may be missing since its origin was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The table is another one of its name.
    MadeAnew,
    /// It was not in the publication for a while.
    TakenOut,
    /// It is published by another publication. (One that was renamed is another: what was logged before that is not
    /// found under the new name.)
    OtherPublication,
}

/// Whether a table has gone on being published from when the one origin was noted to the other: nothing says so but
/// an entry that both have.
pub fn has_stayed(noted: &str, now: &str) -> Result<(), Gap> {
    let fields = |text: &str| {
        let mut fields = text.splitn(3, ' ').map(str::to_owned);
        [fields.next(), fields.next(), fields.next()].map(Option::unwrap_or_default)
    };
    let ([oid, entries, publication], [oid_now, entries_now, publication_now]) = (fields(noted), fields(now));
    if oid != oid_now {
        return Err(Gap::MadeAnew);
    }
    if publication != publication_now {
        return Err(Gap::OtherPublication);
    }
    match entries.split(',').any(|entry| entries_now.split(',').any(|now| now == entry)) {
        true => Ok(()),
        false => Err(Gap::TakenOut),
    }
}

/// The table of the source whose origin was noted so.
pub fn relation_of(noted: &str) -> Option<RelationId> {
    noted.split(' ').next()?.parse().ok().map(RelationId)
}

/// A published column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedColumn {
    /// `pg_attribute.attname`.
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// As `format_type` prints it with an empty `search_path`: qualified unless built in.
    pub type_name: String,
    /// `pg_attribute.atttypmod`, -1 when there is none.
    pub type_modifier: i32,
    /// `pg_attribute.attnotnull`.
    pub not_null: bool,
    /// A stored generated column that is published (PostgreSQL 18).
    pub generated: bool,
}

/// A table that holds rows of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema and name.
    pub name: TableName,
    /// `pg_relation_size`.
    pub bytes: u64,
}

/// Tables whose UPDATE or DELETE is published although no replica identity tells their rows apart: the source refuses
/// such statements (`CheckCmdReplicaIdentity` in execReplication.c), so applications break there, not here.
pub fn without_identity(publication: &Publication) -> Vec<&PublishedTable> {
    if !publication.update && !publication.delete {
        return Vec::new();
    }
    publication.tables.iter().filter(|table| !table.identifiable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_stayed_while_it_keeps_its_oid_and_one_of_its_entries() {
        assert_eq!(has_stayed("7 9 p q", "7 9 p q"), Ok(()));
        assert_eq!(has_stayed("7 9 p", "8 9 p"), Err(Gap::MadeAnew));
        assert_eq!(has_stayed("7 9 p", "7 10 p"), Err(Gap::TakenOut));
        assert_eq!(
            has_stayed("7 9,10 p", "7 10,11 p"),
            Ok(()),
            "named by itself and by its schema, then by the latter"
        );
        assert_eq!(has_stayed("7 9,10 p", "7 11,12 p"), Err(Gap::TakenOut));
        assert_eq!(has_stayed("7 9 p", "7 9 q"), Err(Gap::OtherPublication), "renamed");
        assert_eq!(has_stayed("7 9 p", "7 11 q"), Err(Gap::OtherPublication));
    }
}
