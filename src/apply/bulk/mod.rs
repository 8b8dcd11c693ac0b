//! Bulk apply: a batch as planned, many rows a statement. In go parts, out comes whether the target took them; if not,
//! nothing was done, and they are applied exactly.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | the plan of parts |
//! | `ready.rs` | a plan with every value in its place |
//! | `fly.rs` | the flight, and what becomes of it |
//! | `traits.rs` | which tables may be planned (pure) |
//! | `encode.rs` | arrays and COPY lines (pure) |
//! | `bench.rs` | tables that failed and sit out for a while (pure) |
//!
//! New rows come by COPY where there are many, all else by arrays (see [`super::statement`]). A group is to touch as
//! many rows as it has; one that does not has met a conflict, which exact apply knows how to mend and report.
//! In a small batch it raises then, so that all of it can travel in one flight with its COMMIT; in a large one, where
//! that costs more than a round trip, and in pieces, the answers tell, and COMMIT waits for them.

pub mod bench;
pub mod encode;
mod fly;
mod ready;
pub mod traits;

use std::sync::Arc;

pub(super) use self::ready::Ready;
use self::traits::Manner;
use super::exact::Applier;
use super::plan::{Planner, Stage, Traits};
use crate::change::{Change, Part};
use crate::relation::Relation;

/// When changes are applied in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkMode {
    /// Where there are enough of them for it to pay.
    Auto,
    /// Wherever it is possible.
    Always,
    /// Not at all.
    Never,
}

/// Fewer changes are applied one by one in [`BulkMode::Auto`]: statements of their own are as quick.
const FEW: usize = 16;

/// More bytes than this are applied one by one: a value and its copies must fit in memory, and in a message.
const MOST: usize = 64 << 20;

/// New rows from this number on come by COPY.
const COPY: usize = 50;

/// Parts as planned.
struct Planned<'a> {
    stages: Vec<Stage<'a>>,
    /// Changes of tables that are applied one by one, apart from the rest.
    apart: Vec<Arc<Part>>,
    /// How many changes are planned.
    changes: u64,
}

/// How one change is applied.
#[derive(Clone, Copy)]
enum Way {
    Planned,
    Apart,
    /// With it, the whole batch change by change.
    Exact,
}

impl Applier {
    /// The plan of these parts, whose tables have been matched; `None` where they are to be applied exactly.
    fn plan<'a>(&mut self, parts: &'a [Arc<Part>]) -> Option<Planned<'a>> {
        let count: usize = parts.iter().map(|part| part.changes.len()).sum();
        let memory: usize = parts.iter().map(|part| part.memory).sum();
        let wanted = match self.bulk {
            BulkMode::Never => false,
            BulkMode::Always => count > 0,
            BulkMode::Auto => count >= FEW,
        };
        if !wanted || memory > MOST || !self.bench.admits() {
            return None;
        }
        let mut planner = Planner::default();
        let mut apart: Vec<Arc<Part>> = Vec::new();
        let mut last: Option<(&Arc<Relation>, Way)> = None;
        let mut at = 0;
        for part in parts {
            let mut left = Vec::new();
            for change in &part.changes {
                let way = match (relation(change), last) {
                    (Some(relation), Some((known, way))) if Arc::ptr_eq(relation, known) => way,
                    (Some(relation), _) => {
                        let way = self.way(relation);
                        last = Some((relation, way));
                        way
                    }
                    (None, _) => self.way_of_all(change),
                };
                match way {
                    Way::Planned => planner.push(at, change, |relation| self.traits(relation)).ok()?,
                    Way::Apart => left.push(change.clone()),
                    Way::Exact => return None,
                }
                at += 1;
            }
            if !left.is_empty() {
                apart.push(Arc::new(share(part, left)));
            }
        }
        let changes = (count - apart.iter().map(|part| part.changes.len()).sum::<usize>()) as u64;
        Some(Planned { stages: planner.finish().ok()?, apart, changes })
    }

    fn way(&self, relation: &Arc<Relation>) -> Way {
        match self.session.manner(relation) {
            Some(Manner::Planned(_)) if !self.bench.has(relation.id) => Way::Planned,
            Some(Manner::Planned(traits)) if traits.parents.is_empty() && !traits.referenced => Way::Apart,
            Some(Manner::Exact { apart: true }) => Way::Apart,
            _ => Way::Exact,
        }
    }

    /// A TRUNCATE is planned if all its tables are.
    fn way_of_all(&self, change: &Change) -> Way {
        let Change::Truncate { relations, .. } = change else { return Way::Planned };
        let planned = relations.iter().all(|relation| matches!(self.way(relation), Way::Planned));
        if planned { Way::Planned } else { Way::Exact }
    }

    fn traits(&self, relation: &Arc<Relation>) -> Arc<Traits> {
        match self.session.manner(relation) {
            Some(Manner::Planned(traits)) => Arc::clone(traits),
            _ => unreachable!("only what is planned is asked for"),
        }
    }
}

/// The table of a change that is of one.
fn relation(change: &Change) -> Option<&Arc<Relation>> {
    match change {
        Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
            Some(relation)
        }
        Change::Truncate { .. } | Change::Message(_) => None,
    }
}

/// These changes of a part.
fn share(part: &Part, changes: Vec<Change>) -> Part {
    let memory = changes.iter().map(Change::memory).sum();
    Part { begin: part.begin, origin: None, index: part.index, changes, commit: part.commit, memory }
}
