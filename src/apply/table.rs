//! A source table matched to the target's: which columns are written, and how a row is found.
//!
//! In goes the Relation message's description and the target's catalogue; out comes a [`TargetTable`], or the
//! difference that makes applying impossible, with the statement that mends it. Columns are matched by name. Extra
//! columns of the target are left to their defaults; generated ones are left to the server.

use std::sync::Arc;

use crate::postgres::binary;
use crate::postgres::catalog::{ColumnInfo, TableInfo, UniqueIndex};
use crate::relation::{Relation, ReplicaIdentity};
use crate::sql::Sql;

/// A source table as it is written to the target.
#[derive(Clone, Debug)]
pub struct TargetTable {
    /// As the source describes it.
    pub relation: Arc<Relation>,
    /// As the target has it.
    pub info: TableInfo,
    /// For each column of the source's rows, its place in the target's columns.
    targets: Vec<usize>,
    /// The columns that are written.
    pub written: Vec<Written>,
    /// The conditions that find a row; all of them together.
    pub locator: Vec<Term>,
    /// Whether at most one row can fulfil them. If not, one of the fulfilling rows is taken.
    pub locates_one: bool,
    /// Whether rows that the target transaction at hand has written are not to be found.
    pub untouched: bool,
    /// The unique indexes a row could collide with: source column and operator of each.
    pub uniques: Vec<Vec<(usize, Sql)>>,
    /// Which of them is behind the locator.
    pub key: Option<usize>,
}

/// A column that is written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its place in the source's rows.
    pub index: usize,
    /// Its name, quoted.
    pub ident: Sql,
    /// GENERATED ALWAYS AS IDENTITY.
    pub identity_always: bool,
}

/// How a column's values arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As text, whatever the type is.
    Text,
    /// As this type's send function gives them.
    Binary {
        /// The source's type, which is built in.
        oid: u32,
        /// Its array type.
        array: u32,
    },
}

/// One condition of finding a row.
#[derive(Clone, Debug)]
pub struct Term {
    /// The column's place in the source's rows.
    pub index: usize,
    /// Its name, quoted.
    pub ident: Sql,
    /// How to compare.
    pub test: Test,
}

/// How a column is compared with a value.
#[derive(Clone, Debug)]
pub enum Test {
    /// By the index's own operator; never NULL.
    Equal(Sql),
    /// By the type's equality, which for this type means equal text; NULL equals NULL.
    NotDistinct,
    /// By the text of the output function: for types without equality, or whose equality is looser than identity.
    SameText,
}

/// Built-in types whose equality means equal output text (`pg_type.dat`): bool, bytea, "char", name, int8, int2, int4,
/// text, oid, macaddr, inet, cidr, varchar, date, time, timestamp, timestamptz, bit, varbit, uuid, pg_lsn. (Not
/// bpchar: its equality passes over blanks at the end, which a column without a length keeps.)
const IDENTICAL_WHEN_EQUAL: [u32; 21] =
    [16, 17, 18, 19, 20, 21, 23, 25, 26, 829, 869, 650, 1043, 1082, 1083, 1114, 1184, 1560, 1562, 2950, 3220];

/// Why a table cannot be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    /// Columns the source sends and the target does not have (places in the source's columns).
    MissingColumns(Vec<usize>),
}

impl TargetTable {
    /// Matches the two descriptions.
    ///
    /// # Errors
    /// The [`Difference`] that makes it impossible.
    pub fn new(relation: Arc<Relation>, info: TableInfo) -> Result<Self, Difference> {
        let place = |name: &str| info.columns.iter().position(|column| column.name == name);
        let found: Vec<Option<usize>> = relation.columns.iter().map(|column| place(&column.name)).collect();
        let missing: Vec<usize> = (0..found.len()).filter(|&index| found[index].is_none()).collect();
        if !missing.is_empty() {
            return Err(Difference::MissingColumns(missing));
        }
        let targets: Vec<usize> = found.into_iter().flatten().collect();
        let matched: Vec<(usize, &ColumnInfo)> =
            targets.iter().enumerate().map(|(index, target)| (index, &info.columns[*target])).collect();
        let written = matched
            .iter()
            .filter(|(_, column)| !column.generated)
            .map(|&(index, column)| Written {
                index,
                ident: Sql::ident(&column.name),
                identity_always: column.identity_always,
            })
            .collect();
        let indexes: Vec<(&UniqueIndex, Vec<(usize, Sql)>)> = info
            .unique
            .iter()
            .filter(|index| !index.deferrable)
            .filter_map(|index| Some((index, places(&relation, index)?)))
            .collect();
        let key = indexes
            .iter()
            .position(|(index, columns)| index.not_null && columns.iter().all(|(at, _)| relation.columns[*at].is_key));
        let uniques: Vec<Vec<(usize, Sql)>> = indexes.into_iter().map(|(_, columns)| columns).collect();
        let locator = locator(&relation, &matched, key.map(|key| uniques[key].as_slice()));
        let locates_one = key.is_some();
        Ok(Self { targets, written, locator, locates_one, untouched: false, uniques, key, relation, info })
    }

    /// Whether rows are found by a key and by more than that: a row that differs from the source's in another column is
    /// not found.
    pub fn differs_from_key(&self) -> bool {
        self.key.is_some() && self.locator.iter().any(|term| !matches!(term.test, Test::Equal(_)))
    }

    /// How a column of the source's rows arrives.
    pub fn wire(&self, index: usize) -> Wire {
        let array = |oid| binary::array_of(oid).map(|array| Wire::Binary { oid, array });
        let oid = self.relation.columns.get(index).map(|column| column.type_oid);
        oid.filter(|_| self.relation.binary).and_then(array).unwrap_or(Wire::Text)
    }

    /// Whether COPY takes the rows as they arrive: text, or what the columns' receive functions read. (A domain's reads
    /// what that of the type below it does: `domain_recv`.)
    pub fn copies(&self) -> bool {
        self.written.iter().all(|column| match self.wire(column.index) {
            Wire::Text => true,
            Wire::Binary { oid, .. } => oid == self.column(column.index).base_type_oid,
        })
    }

    /// The target's column for a column of the source's rows.
    pub fn column(&self, index: usize) -> &ColumnInfo {
        &self.info.columns[self.targets[index]]
    }

    /// Whether a column of the source's rows belongs to the key.
    pub fn is_key(&self, index: usize) -> bool {
        self.key.is_some_and(|key| self.uniques[key].iter().any(|(at, _)| *at == index))
    }

    /// Whether the target has columns that the source does not send and that are not generated.
    pub fn has_own_columns(&self) -> bool {
        let sent = |at: &usize| self.targets.contains(at);
        (0..self.info.columns.len()).any(|at| !sent(&at) && !self.info.columns[at].generated)
    }

    /// The same table, whose rows are found by their key alone. A row of this key that the transaction itself has
    /// written is another: it has taken the key over, as in a swap.
    pub fn by_key(&self) -> Self {
        Self { untouched: true, ..self.by_key_alone() }
    }

    /// The same table, whose rows are found by their key alone.
    pub fn by_key_alone(&self) -> Self {
        let mut table = self.clone();
        table.locator.retain(|term| matches!(term.test, Test::Equal(_)));
        table
    }

    /// The table as UPDATE, DELETE and TRUNCATE name it. The source says of every inheritance child by its own
    /// name what happens to it, so none may be touched for its parent's sake. A partitioned table has no rows but
    /// its partitions'.
    pub fn only(&self) -> Sql {
        let name = Sql::table(&self.info.name);
        if self.info.partitioned { name } else { Sql::format("ONLY {}", &[&name]) }
    }
}

/// An index's columns as places in the source's rows; `None` when the source does not send one of them.
fn places(relation: &Relation, index: &UniqueIndex) -> Option<Vec<(usize, Sql)>> {
    let place = |(name, operator): &(String, Sql)| {
        Some((relation.columns.iter().position(|column| column.name == *name)?, operator.clone()))
    };
    index.columns.iter().map(place).collect()
}

/// With a key: its columns by the index's operators. With FULL, every other column as well, so that a row that has
/// taken over another's key in the meantime is not mistaken for it.
fn locator(relation: &Relation, matched: &[(usize, &ColumnInfo)], key: Option<&[(usize, Sql)]>) -> Vec<Term> {
    let full = relation.identity == ReplicaIdentity::Full;
    let operator = |index: usize| key?.iter().find(|(at, _)| *at == index).map(|(_, operator)| operator.clone());
    let term = |&(index, column): &(usize, &ColumnInfo)| {
        let test = match operator(index) {
            Some(operator) => Test::Equal(operator),
            // With a key by index, its columns are enough.
            None if key.is_some() && !full => return None,
            None if !relation.columns[index].is_key => return None,
            // Not written, so not comparable; rows that differ in nothing else are equal here. A key, though, must
            // be found by all of it: better no row than another.
            None if column.generated && full => return None,
            None if IDENTICAL_WHEN_EQUAL.contains(&column.base_type_oid) && !column.loose_collation => {
                Test::NotDistinct
            }
            None => Test::SameText,
        };
        Some(Term { index, ident: Sql::ident(&column.name), test })
    };
    // Index conditions first: cheap ones before costly ones.
    let (mut first, rest): (Vec<Term>, Vec<Term>) =
        matched.iter().filter_map(term).partition(|term| matches!(term.test, Test::Equal(_)));
    first.extend(rest);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::{Column, RelationId, TableName};

    fn relation(identity: ReplicaIdentity, columns: &[(&str, bool)]) -> Arc<Relation> {
        let column = |&(name, is_key): &(&str, bool)| Column {
            name: name.to_owned(),
            type_oid: 23,
            type_modifier: -1,
            is_key: is_key || identity == ReplicaIdentity::Full,
        };
        let columns = columns.iter().map(column).collect();
        Arc::new(Relation { id: RelationId(1), name: TableName::new("s", "t"), identity, columns, binary: false })
    }

    fn info(columns: &[&str], unique: &[(&str, &[&str])]) -> TableInfo {
        let column = |name: &&str| ColumnInfo {
            name: (*name).to_owned(),
            type_oid: 23,
            base_type_oid: if *name == "j" { 114 } else { 23 },
            enum_below: None,
            type_name: Sql::new("pg_catalog.int4"),
            base_type_name: Sql::new("pg_catalog.int4"),
            read_from_text: true,
            generated: *name == "g",
            identity_always: false,
            loose_collation: false,
        };
        let index = |&(name, columns): &(&str, &[&str])| UniqueIndex {
            name: name.to_owned(),
            columns: columns.iter().map(|c| ((*c).to_owned(), Sql::new("OPERATOR(pg_catalog.=)"))).collect(),
            primary: name == "pk",
            deferrable: name == "deferrable",
            not_null: name != "nullable",
        };
        TableInfo {
            name: TableName::new("s", "t"),
            oid: 1,
            partitioned: false,
            columns: columns.iter().map(column).collect(),
            unique: unique.iter().map(index).collect(),
            cascaded: false,
            rekeyed: false,
            referenced: false,
            fires: false,
            fires_as_replica: false,
        }
    }

    fn located(table: &TargetTable) -> Vec<usize> {
        table.locator.iter().map(|term| term.index).collect()
    }

    #[test]
    fn a_row_is_found_by_the_index_on_its_key() {
        let source = relation(ReplicaIdentity::Default, &[("v", false), ("id", true)]);
        let table = TargetTable::new(source, info(&["extra", "id", "v"], &[("pk", &["id"]), ("u", &["v"])])).unwrap();
        assert!(table.locates_one);
        assert_eq!(located(&table), [1]);
        assert_eq!((table.uniques.len(), table.key), (2, Some(0)));
    }

    #[test]
    fn without_an_index_on_the_target_one_of_the_equal_rows_is_taken() {
        let source = relation(ReplicaIdentity::Default, &[("v", false), ("id", true)]);
        for unique in [&[][..], &[("deferrable", &["id"][..])], &[("nullable", &["id"])], &[("pk", &["v"])]] {
            let table = TargetTable::new(Arc::clone(&source), info(&["id", "v"], unique)).unwrap();
            assert!(!table.locates_one, "{unique:?}");
            assert_eq!(located(&table), [1], "{unique:?}");
        }
    }

    #[test]
    fn full_identity_compares_every_column_but_generated_ones() {
        let source = relation(ReplicaIdentity::Full, &[("j", false), ("g", false), ("id", false)]);
        let table = TargetTable::new(source, info(&["id", "g", "j"], &[("pk", &["id"])])).unwrap();
        assert_eq!(located(&table), [2, 0], "the index's column first");
        assert!(matches!(table.locator[1].test, Test::SameText), "json has no equality");
        assert_eq!(table.written.iter().map(|w| w.index).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn a_column_the_target_lacks_is_named() {
        let source = relation(ReplicaIdentity::Default, &[("id", true), ("new", false)]);
        let difference = TargetTable::new(source, info(&["id"], &[])).unwrap_err();
        assert_eq!(difference, Difference::MissingColumns(vec![1]));
    }
}
