//! The text of the statements that move rows. Pure.
//!
//! In: names as the catalogues have them. Out: [`Sql`] for the source (`COPY … TO STDOUT`) and for the target. The
//! format is named on both sides ([`Format::of`]), so that a changed default cannot make them differ; columns are named
//! on both sides, so that their order may differ.

use super::partition::BlockRange;
use super::target_tables::Kind;
use crate::relation::TableName;
use crate::sql::Sql;

/// How COPY writes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// By the types' output and input functions.
    Text,
    /// By their send and receive functions.
    Binary,
}

impl Format {
    /// A COPY statement in this format.
    pub fn of(self, copy: &Sql) -> Sql {
        Sql::format("{} (FORMAT {})", &[copy, &Sql::new(self.as_str())])
    }

    /// As COPY names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Binary => "binary",
        }
    }
}

/// `a, b, c`, quoted.
pub(super) fn list<'a>(columns: impl IntoIterator<Item = &'a String>) -> Sql {
    let columns: Vec<Sql> = columns.into_iter().map(|column| Sql::ident(column)).collect();
    Sql::join(&columns, ", ")
}

/// ` FROM ONLY table WHERE …`: inheritance children and partitions are read by themselves.
fn from(leaf: &TableName, filter: Option<&Sql>, range: BlockRange) -> Sql {
    let filter = filter.map(|filter| Sql::format("({})", &[filter]));
    let conditions: Vec<Sql> = filter.into_iter().chain(range.condition()).collect();
    match conditions.is_empty() {
        true => Sql::format("FROM ONLY {}", &[&Sql::table(leaf)]),
        false => Sql::format("FROM ONLY {} WHERE {}", &[&Sql::table(leaf), &Sql::join(&conditions, " AND ")]),
    }
}

/// At the source: the rows of one range of one table or partition.
pub fn copy_out(leaf: &TableName, columns: &[String], filter: Option<&Sql>, range: BlockRange) -> Sql {
    let select = Sql::format("SELECT {} {}", &[&list(columns), &from(leaf, filter, range)]);
    Sql::format("COPY ({}) TO STDOUT", &[&select])
}

/// At the source: how many rows there are, for a table of which no column is copied.
pub fn count(leaf: &TableName, filter: Option<&Sql>) -> Sql {
    Sql::format("SELECT count(*) {}", &[&from(leaf, filter, BlockRange::WHOLE)])
}

/// At the target: takes what [`copy_out`] gives. Writes identity columns whatever their kind (PostgreSQL: COPY, Notes).
pub fn copy_in(table: &TableName, columns: &[String]) -> Sql {
    Sql::format("COPY {} ({}) FROM STDIN", &[&Sql::table(table), &list(columns)])
}

/// At the target: holds the columns' types as they are, and gives `t` if they are these (names with
/// `pg_attribute.atttypid`). Text that does not fit its type is refused; bytes may be taken for something else.
pub fn hold_types(table: &TableName, oid: u32, types: &[(&str, u32)]) -> Sql {
    let (names, oids): (Vec<Sql>, Vec<Sql>) =
        types.iter().map(|(name, oid)| (Sql::literal(name), Sql::number(*oid))).unzip();
    let count = i64::try_from(types.len()).expect("a table has at most 1,600 columns");
    // Each name finds its own type. Two lists in order of names would not do: the server orders names by their bytes in
    // the database's encoding, which is not the order of those that come here.
    Sql::format(
        "LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE; SELECT count(*) = {} \
         FROM unnest(ARRAY[{}]::name[], ARRAY[{}]::oid[]) AS held (name, type) \
         JOIN pg_attribute a ON a.attrelid = {} AND a.attname = held.name AND a.atttypid = held.type",
        &[
            &Sql::table(table),
            &Sql::number(count),
            &Sql::join(&names, ", "),
            &Sql::join(&oids, ", "),
            &Sql::number(oid),
        ],
    )
}

/// At the target: `rows` rows of nothing but defaults.
pub fn insert_blank(table: &TableName, rows: u64) -> Sql {
    Sql::format("INSERT INTO {} SELECT FROM generate_series(1, {})", &[&Sql::table(table), &Sql::number(rows)])
}

/// The table without inheritance children; a partitioned table has no rows but its partitions'.
pub(super) fn only(table: &TableName, kind: Kind) -> Sql {
    match kind {
        Kind::Partitioned => Sql::table(table),
        Kind::Plain | Kind::Other(_) => Sql::format("ONLY {}", &[&Sql::table(table)]),
    }
}

/// Empties all of them at once, which foreign keys among them do not hinder.
pub fn truncate(tables: &[(&TableName, Kind)]) -> Sql {
    let tables: Vec<Sql> = tables.iter().map(|(table, kind)| only(table, *kind)).collect();
    Sql::format("TRUNCATE {}", &[&Sql::join(&tables, ", ")])
}

/// Keeps others from writing to a table until the transaction ends, and waits for those that have: who may DELETE may
/// do it (`LockTableAclCheck` in lockcmds.c). Readers go on.
pub fn lock_out_writers(table: &TableName, kind: Kind) -> Sql {
    Sql::format("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", &[&only(table, kind)])
}

/// Empties one, row by row.
pub fn delete(table: &TableName, kind: Kind) -> Sql {
    Sql::format("DELETE FROM {}", &[&only(table, kind)])
}

/// `$1`, `$2`: tables. The numbers (from 1) of those that may hold rows. An ordinary table (of access method heap, OID
/// 2: HEAP_TABLE_AM_OID) has none in an empty file, which the first row makes grow at once, before it is committed.
/// Where other access methods keep rows is their affair, and an extension may keep those of an ordinary table elsewhere
/// too (Citus distributes them). A table that is dropped meanwhile has no size: another may have its name by now.
pub const NOT_BARE: Sql = Sql::new(
    "SELECT wanted.number FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (schema, name, number) \
     JOIN pg_namespace n ON n.nspname = wanted.schema \
     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name \
     WHERE c.relkind <> 'r' OR c.relam <> 2 OR EXISTS (SELECT FROM pg_extension WHERE extname <> 'plpgsql') \
     OR pg_relation_size(c.oid) IS DISTINCT FROM 0",
);

/// The numbers (places in `tables`) of those that hold rows.
pub fn occupied(tables: &[(&TableName, Kind)]) -> Sql {
    let ask = |(index, (table, kind)): (usize, &(&TableName, Kind))| {
        let number = Sql::number(i64::try_from(index).expect("a list in memory is shorter than 2^63"));
        Sql::format("SELECT {}::bigint WHERE EXISTS (SELECT FROM {})", &[&number, &only(table, *kind)])
    };
    let each: Vec<Sql> = tables.iter().enumerate().map(ask).collect();
    Sql::join(&each, " UNION ALL ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|&column| column.to_owned()).collect()
    }

    #[test]
    fn a_range_of_a_filtered_partition_is_read_by_itself() {
        let leaf = TableName::new("s", "Part 1");
        let filter = Sql::new("a > 1 OR b");
        let range = BlockRange { from: 3, to: None };
        assert_eq!(
            copy_out(&leaf, &names(&["a", "B"]), Some(&filter), range).as_str(),
            concat!(
                r#"COPY (SELECT "a", "B" FROM ONLY "s"."Part 1" WHERE (a > 1 OR b) AND "#,
                "ctid >= '(3,0)'::pg_catalog.tid) TO STDOUT"
            )
        );
        assert_eq!(
            Format::Binary.of(&copy_out(&leaf, &names(&["a"]), None, BlockRange::WHOLE)).as_str(),
            r#"COPY (SELECT "a" FROM ONLY "s"."Part 1") TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            Format::Text.of(&copy_in(&leaf, &names(&["a", "B"]))).as_str(),
            r#"COPY "s"."Part 1" ("a", "B") FROM STDIN (FORMAT text)"#
        );
    }

    #[test]
    fn types_are_compared_by_name_under_a_lock() {
        assert_eq!(
            hold_types(&TableName::new("s", "t"), 7, &[("it's", 23), ("B", 3_000_000_000)]).as_str(),
            concat!(
                r#"LOCK TABLE ONLY "s"."t" IN ROW EXCLUSIVE MODE; SELECT count(*) = 2 "#,
                "FROM unnest(ARRAY['it''s', 'B']::name[], ARRAY[23, 3000000000]::oid[]) AS held (name, type) ",
                "JOIN pg_attribute a ON a.attrelid = 7 AND a.attname = held.name AND a.atttypid = held.type"
            )
        );
    }

    #[test]
    fn a_partitioned_table_is_emptied_with_its_partitions_and_a_plain_one_without_children() {
        let (plain, root) = (TableName::new("s", "p"), TableName::new("s", "r"));
        let both = [(&plain, Kind::Plain), (&root, Kind::Partitioned)];
        assert_eq!(truncate(&both).as_str(), r#"TRUNCATE ONLY "s"."p", "s"."r""#);
        assert_eq!(delete(&plain, Kind::Plain).as_str(), r#"DELETE FROM ONLY "s"."p""#);
        assert_eq!(
            occupied(&both).as_str(),
            concat!(
                r#"SELECT 0::bigint WHERE EXISTS (SELECT FROM ONLY "s"."p") UNION ALL "#,
                r#"SELECT 1::bigint WHERE EXISTS (SELECT FROM "s"."r")"#
            )
        );
    }
}
