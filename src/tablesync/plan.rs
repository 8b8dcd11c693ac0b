//! What is to be done for one table, decided before the first row moves. Pure.
//!
//! In: the table as published, as the target has it, and the settings. Out: a [`TablePlan`]: how rows are written, in
//! which format, and the pieces, each of which becomes one target transaction.

use super::merge::Merge;
use super::partition::{BlockRange, ranges};
use super::source_tables::SourceFacts;
use super::statement::{self, Format};
use super::target_tables::TargetTable;
use super::{CopySettings, ExistingRows};
use crate::postgres::{binary, catalog};
use crate::relation::{ReplicaIdentity, TableName};
use crate::source::publication::{Leaf, PublishedTable};
use crate::sql::Sql;

/// How rows get into the table. The COPY statements do not name their format yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Straight in.
    Copy(Sql),
    /// Beside those that are there, by way of a staging table.
    Merge { create: Sql, copy: Sql, apply: Vec<Sql> },
    /// No column is copied, so only the number of rows is.
    Blank,
    /// None: the publication does not publish inserts.
    Nothing,
}

/// One statement at the source, and the table it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// `pg_class.oid` of the leaf.
    pub oid: u32,
    /// `COPY … TO STDOUT` without its format, or the count of rows for [`Write::Blank`].
    pub select: Sql,
}

/// One target transaction's share of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// In order; all into one COPY.
    pub reads: Vec<Read>,
    /// About how much; decides which goes first.
    pub bytes: u64,
}

/// How one table is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlan {
    /// Its name on both sides.
    pub table: TableName,
    /// How rows are written.
    pub write: Write,
    /// Rows may go in binary while this statement on the target gives `t`; `None`: they go as text.
    pub binary: Option<Sql>,
    /// Never empty: the last one to commit finishes the table.
    pub pieces: Vec<Piece>,
}

/// The published columns that can be written: in publication order, without those the target generates.
pub fn writable(published: &PublishedTable, target: &TargetTable) -> Vec<String> {
    let can_be_written = |name: &&String| target.column(name).is_some_and(|column| !column.generated);
    published.columns.iter().map(|column| &column.name).filter(can_be_written).cloned().collect()
}

/// The key by which rows are merged: the replica identity if the target has it as a key, otherwise the target's
/// primary key or another unique key, always of copied columns.
pub fn merge_key<'a>(published: &PublishedTable, target: &'a TargetTable, copied: &[String]) -> Option<&'a [String]> {
    let is_identity = |key: &&Vec<String>| {
        key.len() == published.identity_columns.len() && key.iter().all(|c| published.identity_columns.contains(c))
    };
    let usable = || target.keys.iter().filter(|key| key.iter().all(|column| copied.contains(column)));
    usable().find(is_identity).or_else(|| usable().next()).map(Vec::as_slice)
}

/// Whether the source has no two rows of the same key: its replica identity is an index, unless it is the whole row.
fn is_unique(published: &PublishedTable, key: &[String]) -> bool {
    let identity = &published.identity_columns;
    let by_index = matches!(published.identity, ReplicaIdentity::Default | ReplicaIdentity::Index);
    by_index && !identity.is_empty() && identity.iter().all(|column| key.contains(column))
}

/// What a plan depends on besides the table.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The settings.
    pub settings: &'a CopySettings,
    /// Whether the rows that the table holds become the source's.
    pub aligned: bool,
    /// Whether the publication publishes inserts.
    pub insert_published: bool,
    /// Whether the target will check a foreign key of the table to itself: then all rows must be in one statement.
    pub self_reference: bool,
    /// What the source says of its leaves and types.
    pub source: &'a SourceFacts,
    /// Whether both servers are of versions for which `postgres::binary` is proven.
    pub binary_proven: bool,
}

/// Plans one table.
///
/// A merge is one transaction: after a crash it has happened or has not, and no row that was there before needs to be
/// deleted to begin again.
pub fn plan(published: &PublishedTable, target: &TargetTable, given: Given<'_>) -> TablePlan {
    let columns = writable(published, target);
    let table = published.name.clone();
    if !given.insert_published {
        return TablePlan { table, write: Write::Nothing, binary: None, pieces: vec![Piece::default()] };
    }
    if columns.is_empty() {
        let count =
            |leaf: &Leaf| Read { oid: leaf.oid, select: statement::count(&leaf.name, published.row_filter.as_ref()) };
        let piece = Piece { reads: published.leaves.iter().map(count).collect(), bytes: published.bytes };
        return TablePlan { table, write: Write::Blank, binary: None, pieces: vec![piece] };
    }
    let write = write(published, target, &columns, given);
    let together = given.self_reference || matches!(write, Write::Merge { .. });
    let pieces: Vec<Piece> = match together {
        true => vec![whole(published, &columns, given)],
        false => published.leaves.iter().flat_map(|leaf| cut(published, leaf, &columns, given)).collect(),
    };
    // A partitioned table without partitions has no leaf, but has to be finished.
    let pieces = if pieces.is_empty() { vec![Piece::default()] } else { pieces };
    TablePlan { table, write, binary: binary(published, target, &columns, given), pieces }
}

/// Binary needs every column to have one type on both sides, below any domains, that is portable.
fn binary(published: &PublishedTable, target: &TargetTable, columns: &[String], given: Given<'_>) -> Option<Sql> {
    let mut types = Vec::with_capacity(columns.len());
    for name in columns {
        let there = published.columns.iter().find(|column| column.name == *name)?;
        let here = target.column(name)?;
        let type_oid = given.source.base_type(there.type_oid);
        if type_oid != here.base_type_oid || !binary::is_portable(type_oid) {
            return None;
        }
        types.push((name.as_str(), here.type_oid));
    }
    given.binary_proven.then(|| statement::hold_types(&published.name, target.oid, &types))
}

impl TablePlan {
    /// The format of one piece. Several COPYs of one piece make one stream as text only: binary has header and end.
    pub fn format(&self, piece: &Piece) -> Format {
        match self.binary.is_some() && piece.reads.len() == 1 {
            true => Format::Binary,
            false => Format::Text,
        }
    }
}

fn write(published: &PublishedTable, target: &TargetTable, columns: &[String], given: Given<'_>) -> Write {
    let overwrites = given.settings.existing_rows == ExistingRows::Merge;
    let key = (overwrites || given.aligned).then(|| merge_key(published, target, columns)).flatten();
    let Some(key) = key else { return Write::Copy(statement::copy_in(&published.name, columns)) };
    let always = |name: &&String| target.column(name).is_some_and(|column| column.identity_always);
    let identity_always: Vec<String> = columns.iter().filter(always).cloned().collect();
    let (table, kind) = (&published.name, target.kind);
    let is_own =
        |name: &&String| target.column(name).is_some_and(|column| column.base_type_oid < catalog::FIRST_USER_OID);
    let comparable: Vec<String> = key.iter().filter(is_own).cloned().collect();
    let is_unique = is_unique(published, key);
    let merge =
        Merge { table, kind, columns, key, comparable: &comparable, is_unique, identity_always: &identity_always };
    let apply = if overwrites { merge.overwrite() } else { merge.align() };
    Write::Merge { create: merge.create_staging(), copy: merge.copy_in(), apply }
}

fn read(published: &PublishedTable, leaf: &Leaf, columns: &[String], range: BlockRange) -> Read {
    Read { oid: leaf.oid, select: statement::copy_out(&leaf.name, columns, published.row_filter.as_ref(), range) }
}

fn whole(published: &PublishedTable, columns: &[String], given: Given<'_>) -> Piece {
    let reads = published.leaves.iter().map(|leaf| read(published, leaf, columns, BlockRange::WHOLE)).collect();
    Piece { reads, bytes: published.leaves.iter().map(|leaf| given.source.size(leaf).bytes).sum() }
}

fn cut(published: &PublishedTable, leaf: &Leaf, columns: &[String], given: Given<'_>) -> Vec<Piece> {
    let size = given.source.size(leaf);
    let ranges = ranges(size.blocks, size.bytes, given.settings.range_bytes);
    let bytes = size.bytes / ranges.len() as u64;
    ranges.into_iter().map(|range| Piece { reads: vec![read(published, leaf, columns, range)], bytes }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::super::fixture;
    use super::super::source_tables::Size;
    use super::*;

    const SETTINGS: CopySettings = fixture::settings(1000);

    fn planned(published: &PublishedTable, target: &TargetTable, change: impl FnOnce(&mut Given<'_>)) -> TablePlan {
        let sizes = published.leaves.iter().map(|leaf| (leaf.oid, Size { blocks: 100, bytes: leaf.bytes }));
        let source = SourceFacts { sizes: sizes.collect(), domains: [(99, 23)].into() };
        let mut given = Given {
            settings: &SETTINGS,
            aligned: false,
            insert_published: true,
            self_reference: false,
            source: &source,
            binary_proven: true,
        };
        change(&mut given);
        plan(published, target, given)
    }

    #[test]
    fn every_leaf_is_cut_into_ranges_of_its_own_size_and_written_under_the_tables_name() {
        let published = fixture::partitioned("t", &["id", "v"], &[("t1", 2500), ("t2", 10)]);
        let plan = planned(&published, &fixture::target(&["id", "v"]), |_| ());
        assert_eq!(plan.write, Write::Copy(statement::copy_in(&published.name, &["id".into(), "v".into()])));
        let selects: Vec<&str> = plan.pieces.iter().map(|piece| piece.reads[0].select.as_str()).collect();
        assert_eq!(selects.len(), 4);
        assert!(selects[0].contains(r#"ONLY "s"."t1" WHERE ctid < '(33,0)'"#), "{}", selects[0]);
        assert!(selects[2].contains(r#"ONLY "s"."t1" WHERE ctid >= '(66,0)'::pg_catalog.tid)"#), "{}", selects[2]);
        assert!(selects[3].contains(r#"ONLY "s"."t2")"#), "{}", selects[3]);
    }

    #[test]
    fn a_self_reference_and_a_merge_are_one_piece() {
        let published = fixture::partitioned("t", &["id", "v"], &[("t1", 2500), ("t2", 10)]);
        let target = fixture::target(&["id", "v"]);
        static MERGE: LazyLock<CopySettings> =
            LazyLock::new(|| CopySettings { existing_rows: ExistingRows::Merge, ..SETTINGS });
        let one = planned(&published, &target, |given| given.self_reference = true);
        let other = planned(&published, &target, |given| given.settings = &*MERGE);
        let aligned = planned(&published, &target, |given| given.aligned = true);
        for plan in [&one, &other, &aligned] {
            assert_eq!(plan.pieces.len(), 1);
            assert_eq!(plan.pieces[0].reads.len(), 2);
        }
        assert!(matches!(one.write, Write::Copy(_)));
        let ends = |plan: &TablePlan, end: &str| match &plan.write {
            Write::Merge { apply, .. } => apply.last().is_some_and(|last| last.as_str().ends_with(end)),
            _ => false,
        };
        assert!(ends(&other, r#"DO UPDATE SET "v" = EXCLUDED."v""#), "{:?}", other.write);
        assert!(
            ends(&aligned, r#"(old."id", old."v")::record OPERATOR(pg_catalog.*=) ROW(new."id", new."v")::record)"#),
            "{:?}",
            aligned.write
        );
    }

    #[test]
    fn rows_go_in_binary_where_every_copied_column_has_one_portable_type_on_both_sides() {
        let mut published = fixture::published("t", &["id", "v", "w"]);
        let mut target = fixture::target(&["id", "v"]);
        let format = |published: &PublishedTable, target: &TargetTable, proven| {
            let plan = planned(published, target, |given| given.binary_proven = proven);
            plan.format(&plan.pieces[0])
        };
        published.columns[2].type_oid = 790;
        assert_eq!(format(&published, &target, true), Format::Binary, "money is not copied");
        assert_eq!(format(&published, &target, false), Format::Text);
        target.columns[1].base_type_oid = 20;
        assert_eq!(format(&published, &target, true), Format::Text, "another type");
        published.columns[1].type_oid = 20;
        assert_eq!(format(&published, &target, true), Format::Binary);
        (published.columns[1].type_oid, target.columns[1].base_type_oid) = (1186, 1186);
        assert_eq!(format(&published, &target, true), Format::Text, "interval");
        // Domains: over integer at the source, over another one on the target.
        published.columns[1].type_oid = 99;
        (target.columns[1].type_oid, target.columns[1].base_type_oid) = (17_000, 23);
        assert_eq!(format(&published, &target, true), Format::Binary);
        let plan = planned(&published, &target, |_| ());
        assert!(plan.binary.unwrap().as_str().contains("(ARRAY['id', 'v']::name[], ARRAY[23, 17000]::oid[])"));
    }

    #[test]
    fn a_piece_of_several_reads_goes_as_text() {
        let published = fixture::partitioned("t", &["id"], &[("t1", 10), ("t2", 10)]);
        let plan = planned(&published, &fixture::target(&["id"]), |given| given.self_reference = true);
        assert_eq!((plan.pieces[0].reads.len(), plan.format(&plan.pieces[0])), (2, Format::Text));
    }

    #[test]
    fn columns_the_target_generates_or_lacks_are_not_written() {
        let mut target = fixture::target(&["id", "sum"]);
        target.columns[1].generated = true;
        assert_eq!(writable(&fixture::published("t", &["sum", "id", "more"]), &target), ["id"]);
    }

    #[test]
    fn without_inserts_or_columns_or_leaves_there_is_still_a_piece_to_finish_the_table() {
        let target = fixture::target(&["id"]);
        let none = planned(&fixture::published("t", &["id"]), &target, |given| given.insert_published = false);
        assert_eq!((none.write, none.pieces), (Write::Nothing, vec![Piece::default()]));
        let blank = planned(&fixture::published("t", &[]), &target, |_| ());
        assert_eq!(blank.write, Write::Blank);
        assert_eq!(blank.pieces[0].reads[0].select.as_str(), r#"SELECT count(*) FROM ONLY "s"."t""#);
        assert_eq!(planned(&fixture::partitioned("t", &["id"], &[]), &target, |_| ()).pieces, [Piece::default()]);
    }

    #[test]
    fn of_a_key_that_is_the_sources_too_there_is_one_row_each() {
        let mut published = fixture::published("t", &["a", "b"]);
        assert!(is_unique(&published, &["a".into()]) && is_unique(&published, &["b".into(), "a".into()]));
        assert!(!is_unique(&published, &["b".into()]));
        published.identity = ReplicaIdentity::Full;
        assert!(!is_unique(&published, &["a".into()]));
    }

    #[test]
    fn rows_are_merged_by_the_replica_identity_when_the_target_has_that_key() {
        let mut published = fixture::published("t", &["a", "b", "c"]);
        published.identity_columns = vec!["c".into(), "b".into()];
        let mut target = fixture::target(&["a", "b", "c"]);
        let columns = writable(&published, &target);
        target.keys = vec![vec!["a".into()], vec!["b".into(), "c".into()]];
        assert_eq!(merge_key(&published, &target, &columns).unwrap(), ["b", "c"]);
        target.keys.pop();
        assert_eq!(merge_key(&published, &target, &columns).unwrap(), ["a"]);
        assert_eq!(merge_key(&published, &target, &columns[1..]), None);
    }
}
