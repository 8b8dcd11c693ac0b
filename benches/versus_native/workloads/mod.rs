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
    /// Changes in a source transaction; none: all are in one.
    pub per_transaction: Option<u64>,
    full: u64,
    quick: u64,
}

/// In the order in which they are measured.
pub const ALL: &[Workload] = &[
    Workload {
        name: "W1",
        title: "pgbench's TPC-B, 4 changes per transaction",
        sql: include_str!("w1_tpcb.sql"),
        per_transaction: Some(4),
        full: 400_000,
        quick: 80_000,
    },
    Workload {
        name: "W2",
        title: "single-row inserts, one per transaction",
        sql: include_str!("w2_inserts.sql"),
        per_transaction: Some(1),
        full: 300_000,
        quick: 50_000,
    },
    Workload {
        name: "W3",
        title: "narrow inserts in one transaction",
        sql: include_str!("w3_bulk_insert.sql"),
        per_transaction: None,
        full: 1_000_000,
        quick: 200_000,
    },
    Workload {
        name: "W4",
        title: "random updates by key of 10 mixed columns",
        sql: include_str!("w4_updates.sql"),
        per_transaction: Some(10),
        full: 300_000,
        quick: 50_000,
    },
    Workload {
        name: "W5",
        title: "deletes by key",
        sql: include_str!("w5_deletes.sql"),
        per_transaction: Some(10),
        full: 500_000,
        quick: 100_000,
    },
];

impl Workload {
    /// How many changes a round makes.
    pub fn changes(&self, options: &Options) -> u64 {
        options.size(self.full, self.quick)
    }

    /// In how many transactions.
    pub fn transactions(&self, options: &Options) -> u64 {
        self.per_transaction.map_or(1, |changes| self.changes(options) / changes)
    }
}
