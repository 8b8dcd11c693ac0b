//! Tables whose changes could not be applied in bulk sit out for a while, longer each time: what fails is done twice.
//! Pure.

use std::collections::HashMap;

use crate::relation::RelationId;

/// The longest that a table sits out, in batches.
const LONGEST: u32 = 1 << 10;

/// Who sits out.
#[derive(Debug, Default)]
pub struct Bench {
    tables: HashMap<RelationId, Sitting>,
    /// For what was no single table's failure.
    all: Sitting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sitting {
    failures: u32,
    /// For how many batches more.
    left: u32,
}

impl Sitting {
    fn fail(&mut self) {
        self.failures += 1;
        self.left = LONGEST.min(2_u32.saturating_pow(self.failures));
    }
}

impl Bench {
    /// A batch comes: whether any of it may be applied in bulk.
    pub fn admits(&mut self) -> bool {
        self.tables.values_mut().for_each(|sitting| sitting.left = sitting.left.saturating_sub(1));
        let admits = self.all.left == 0;
        self.all.left = self.all.left.saturating_sub(1);
        admits
    }

    /// Whether a table's changes of this batch are to be applied one by one.
    pub fn has(&self, table: RelationId) -> bool {
        !self.tables.is_empty() && self.tables.get(&table).is_some_and(|sitting| sitting.left > 0)
    }

    /// A table's changes failed; of `None`, the batch as a whole.
    pub fn failed(&mut self, table: Option<RelationId>) {
        table.map_or(&mut self.all, |table| self.tables.entry(table).or_default()).fail();
    }

    /// A batch went well: who was in it starts anew.
    pub fn succeeded(&mut self) {
        self.tables.retain(|_, sitting| sitting.left > 0);
        self.all = Sitting::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Option<RelationId> = Some(RelationId(1));

    /// For how many batches the table sits out now.
    fn sits(bench: &mut Bench) -> u32 {
        (0..2 * LONGEST).take_while(|_| bench.admits() && bench.has(RelationId(1))).count() as u32
    }

    #[test]
    fn who_fails_again_sits_longer_and_who_gets_on_is_forgiven() {
        let mut bench = Bench::default();
        let mut before = 0;
        for _ in 0..20 {
            bench.failed(TABLE);
            let now = sits(&mut bench);
            assert!(now > before || now == LONGEST - 1, "{now} after {before}");
            assert!(!bench.has(RelationId(2)));
            before = now;
        }
        bench.succeeded();
        bench.failed(TABLE);
        assert_eq!(sits(&mut bench), 1);
    }

    #[test]
    fn where_no_table_is_to_blame_all_sit_out() {
        let mut bench = Bench::default();
        assert!(bench.admits());
        bench.failed(None);
        assert!(!bench.admits() && !bench.admits());
        assert!(bench.admits() && !bench.has(RelationId(1)));
    }
}
