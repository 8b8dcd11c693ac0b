//! How a large table is cut into pieces that are copied side by side: ranges of blocks, as conditions on `ctid`. Pure.
//!
//! The last range has no end, so rows in blocks added after the table was measured are not missed. Range scans on
//! `ctid` read only their blocks (TID Range Scan, PostgreSQL 14).

use crate::sql::Sql;

/// Blocks `from` (inclusive) to `to` (exclusive; `None`: to the end) of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub from: u32,
    /// The block after the last.
    pub to: Option<u32>,
}

impl BlockRange {
    /// Everything.
    pub const WHOLE: BlockRange = BlockRange { from: 0, to: None };

    /// As a condition on `ctid`; `None` when it excludes nothing.
    pub fn condition(self) -> Option<Sql> {
        // A line pointer's number starts at 1, so (n,0) lies before every row of block n.
        let start_of = |block: u32| Sql::format("'({},0)'::pg_catalog.tid", &[&Sql::number(block)]);
        let from = (self.from > 0).then(|| Sql::format("ctid >= {}", &[&start_of(self.from)]));
        let to = self.to.map(|block| Sql::format("ctid < {}", &[&start_of(block)]));
        let both: Vec<Sql> = from.into_iter().chain(to).collect();
        (!both.is_empty()).then(|| Sql::join(&both, " AND "))
    }
}

/// The most ranges of one table: each has statements of its own in memory. They are larger where these are too few.
const MOST: u64 = 10_000;

/// Cuts a table of `blocks` blocks and `bytes` bytes (with TOAST, so it may be more than the blocks hold) into ranges
/// of about `range_bytes`. Never empty.
pub fn ranges(blocks: u32, bytes: u64, range_bytes: u64) -> Vec<BlockRange> {
    let wanted = bytes.div_ceil(range_bytes.max(1)).min(MOST);
    // At least one block each.
    let count = wanted.clamp(1, u64::from(blocks.max(1)));
    let start = |index: u64| {
        // Below `blocks`, because index < count.
        u32::try_from(u64::from(blocks) * index / count).expect("a share of a u32 fits a u32")
    };
    (0..count)
        .map(|index| BlockRange { from: start(index), to: (index + 1 < count).then(|| start(index + 1)) })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_table_is_one_range_without_condition() {
        assert_eq!(ranges(10, 81_920, 1 << 20), [BlockRange::WHOLE]);
        assert_eq!(ranges(0, 0, 1 << 20), [BlockRange::WHOLE]);
        assert_eq!(BlockRange::WHOLE.condition(), None);
    }

    #[test]
    fn conditions_name_the_blocks() {
        let text = |from, to| BlockRange { from, to }.condition().unwrap().to_string();
        assert_eq!(text(0, Some(5)), "ctid < '(5,0)'::pg_catalog.tid");
        assert_eq!(text(5, None), "ctid >= '(5,0)'::pg_catalog.tid");
        assert_eq!(text(5, Some(9)), "ctid >= '(5,0)'::pg_catalog.tid AND ctid < '(9,0)'::pg_catalog.tid");
    }

    #[test]
    fn toast_counts_towards_the_size() {
        // 10 blocks that point at 100 MB of TOASTed values: one range per block, not one for all.
        assert_eq!(ranges(10, 100 << 20, 10 << 20).len(), 10);
        assert_eq!(ranges(1, 100 << 20, 10 << 20).len(), 1);
    }

    #[test]
    fn a_huge_table_is_cut_into_larger_ranges() {
        // 10 TiB.
        assert_eq!(ranges(10 << 27, 10 << 40, 64 << 20).len(), 10_000);
    }

    proptest! {
        #[test]
        fn ranges_cover_every_block_once(blocks in 0..=u32::MAX, bytes in 0..1_u64 << 50, parts in 1..20_000_u64) {
            let ranges = ranges(blocks, bytes, bytes / parts + 1);
            prop_assert_eq!(ranges[0].from, 0);
            prop_assert_eq!(ranges[ranges.len() - 1].to, None);
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].to, Some(pair[1].from));
                prop_assert!(pair[0].from < pair[1].from);
            }
        }
    }
}
