//! The workloads, one SQL file each. Every file makes the tables, `fill(size, rounds)` which puts rows into them before
//! anything is replicated, and `run(size, round)` which makes `size` changes; the target databases get the tables too,
//! and never call the procedures.

use crate::options::Options;

/// What happens on the source.
pub struct Workload {
    pub name: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// Tables and procedures.
    pub sql: &'static str,
    /// How many changes a round makes.
    full: u64,
    quick: u64,
    /// How many of them are in a source transaction.
    per_transaction: Transaction,
    /// How many target databases each way has.
    pub targets: usize,
    /// What walferry's sessions on the target are to be set to (`options` of the connection string).
    pub session: &'static str,
}

/// The changes of a source transaction.
enum Transaction {
    Of(u64),
    OfAll,
}

use Transaction::{Of, OfAll};

impl Workload {
    const fn new(
        name: &'static str,
        title: &'static str,
        sql: &'static str,
        (full, quick): (u64, u64),
        per_transaction: Transaction,
    ) -> Self {
        Self { name, title, sql, full, quick, per_transaction, targets: 1, session: "" }
    }

    const fn to(mut self, targets: usize) -> Self {
        self.targets = targets;
        self
    }

    const fn with(mut self, session: &'static str) -> Self {
        self.session = session;
        self
    }

    /// How many changes a round makes.
    pub fn changes(&self, options: &Options) -> u64 {
        options.size(self.full, self.quick)
    }

    /// In how many transactions.
    pub fn transactions(&self, options: &Options) -> u64 {
        match self.per_transaction {
            Of(changes) => self.changes(options) / changes,
            OfAll => 1,
        }
    }
}

const TPCB: &str = include_str!("w1_tpcb.sql");
const INSERTS: &str = include_str!("w2_inserts.sql");
const BULK_INSERT: &str = include_str!("w3_bulk_insert.sql");
const UPDATES: &str = include_str!("w4_updates.sql");
const DELETES: &str = include_str!("w5_deletes.sql");
const WIDE: &str = include_str!("w6_wide.sql");
const MANY_TABLES: &str = include_str!("w7_many_tables.sql");
const HOT_KEYS: &str = include_str!("w8_hot_keys.sql");
const BULK_UPDATE: &str = include_str!("w9_bulk_update.sql");
const NO_KEY: &str = include_str!("w10_no_key.sql");

/// In the order in which they are measured.
pub const ALL: &[Workload] = &[
    Workload::new("W1", "TPC-B as pgbench's", TPCB, (800_000, 80_000), Of(4)),
    Workload::new("W2", "single-row insert transactions", INSERTS, (600_000, 50_000), Of(1)),
    Workload::new("W3", "narrow inserts in one transaction", BULK_INSERT, (1_000_000, 200_000), OfAll),
    Workload::new("W4", "random updates by key, 10 columns", UPDATES, (600_000, 50_000), Of(10)),
    Workload::new("W5", "deletes by key", DELETES, (1_000_000, 100_000), Of(10)),
    Workload::new("W6", "wide rows of JSON and text", WIDE, (40_000, 8_000), Of(10)),
    // How values are stored is the operator's choice; native's workers take no such setting.
    Workload::new("W6-lz4", "the same, walferry with lz4 for TOAST", WIDE, (40_000, 8_000), Of(10))
        .with("-c default_toast_compression=lz4"),
    Workload::new("W7", "mixed changes over 100 tables", MANY_TABLES, (600_000, 50_000), Of(10)),
    Workload::new("W8", "updates of 100 hot keys", HOT_KEYS, (500_000, 50_000), Of(1)),
    Workload::new("W9", "updates in one transaction", BULK_UPDATE, (3_000_000, 1_000_000), OfAll),
    Workload::new("W10", "REPLICA IDENTITY FULL, no index", NO_KEY, (5_000, 2_000), Of(10)),
    Workload::new("targets8", "W1 to eight targets at once", TPCB, (100_000, 20_000), Of(4)).to(8),
];
