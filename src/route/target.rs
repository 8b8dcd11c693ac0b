//! One target's share of the stream.
//!
//! A decision is made once per relation as announced (per `Arc`), not per change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::density::Density;
use super::error::RouteError;
use super::patterns::Patterns;
use crate::change::{Begin, Change, Part, TargetId};
use crate::lsn::Lsn;
use crate::relation::{Relation, RelationId, TableName};

/// What a target gets of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed {
    /// All of it; shared with the other targets, unless it lies sparse in the stream.
    Whole(Arc<Part>),
    /// Some of its changes, or none but the Commit that ends what was sent before.
    Subset(Arc<Part>),
    /// Nothing: the target need not hear of it.
    Nothing,
}

/// Decides what one target gets. Parts must be given to it in order, and all of them.
#[derive(Debug)]
pub struct TargetRoute {
    id: TargetId,
    tables: Vec<Patterns>,
    copied: HashMap<TableName, Lsn>,
    without: HashSet<TableName>,
    /// Whether it is only of the copied tables.
    only_copied: bool,
    /// Asked for every change.
    decisions: BTreeMap<RelationId, (Arc<Relation>, Decision)>,
    /// Parts of the transaction at hand that the target has got.
    sent: u32,
    density: Density,
}

/// What of the stream belongs to a part or stands between two, besides changes: Begin and Commit, or a keepalive.
const FRAMES: usize = 128;

/// From where on a relation's changes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// The target has no such table.
    Never,
    /// Whatever the commit.
    Always,
    /// From the commit at this position on.
    From(Lsn),
}

impl TargetRoute {
    /// The share of target `id`: the tables chosen by `tables` (all without), those in `copied` from the commit at
    /// their copy's position on.
    pub fn new(id: TargetId, tables: Vec<Patterns>, copied: HashMap<TableName, Lsn>) -> Self {
        let (without, decisions) = (HashSet::new(), BTreeMap::new());
        Self { id, tables, copied, without, only_copied: false, decisions, sent: 0, density: Density::new() }
    }

    /// The same without the changes of these tables: what the stream still brings of tables that are no longer wanted.
    #[must_use]
    pub fn without(self, tables: HashSet<TableName>) -> Self {
        Self { without: tables, ..self }
    }

    /// The same without the changes of all tables but those in `copied`.
    #[must_use]
    pub fn only_copied(self) -> Self {
        Self { only_copied: true, ..self }
    }

    /// Whose share it is.
    pub fn id(&self) -> TargetId {
        self.id
    }

    /// The table now holds exactly the commits below `lsn`.
    pub fn set_copied(&mut self, table: TableName, lsn: Lsn) {
        self.copied.insert(table, lsn);
        self.decisions.clear();
    }

    /// Whether a change of `relation` in this transaction is for the target.
    ///
    /// # Errors
    /// When the table has a copy position and the transaction's commit position is not known yet (it is streamed before
    /// its commit). To leave the change out could lose it, to send it could apply it twice.
    pub fn wants(&self, relation: &Relation, begin: &Begin) -> Result<bool, RouteError> {
        self.decide(relation).wants(relation, begin)
    }

    /// Whether the part holds a change for the target of a table that had been copied before it committed.
    pub fn takes_copied(&mut self, part: &Part) -> bool {
        let Some(commit) = part.begin.commit_lsn else { return false };
        let relations = |change: &'_ Change| -> Vec<Arc<Relation>> {
            match change {
                Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
                    vec![Arc::clone(relation)]
                }
                Change::Truncate { relations, .. } => relations.clone(),
                Change::Message(_) => Vec::new(),
            }
        };
        let copied =
            |relation: Arc<Relation>| matches!(self.decide(&relation), Decision::From(from) if commit.lsn() >= from);
        part.changes.iter().flat_map(relations).any(copied)
    }

    /// The target's share of `part`.
    ///
    /// # Errors
    /// As [`TargetRoute::wants`].
    pub fn route(&mut self, part: &Arc<Part>) -> Result<Routed, RouteError> {
        if part.index == 0 {
            self.sent = 0;
        }
        let kept = self.keep(part)?;
        let memory = kept.as_ref().map_or(part.memory, |kept| kept.iter().map(Change::memory).sum());
        let sparse = self.density.pass(part.memory + FRAMES, memory);
        let Some(mut kept) = kept else {
            self.sent += 1;
            return Ok(Routed::Whole(if sparse { copy(part) } else { Arc::clone(part) }));
        };
        let ends_what_was_sent = part.commit.is_some() && self.sent > 0;
        if kept.is_empty() && !ends_what_was_sent {
            return Ok(Routed::Nothing);
        }
        if sparse {
            Change::copy_rows(&mut kept);
        }
        let index = self.sent;
        self.sent += 1;
        Ok(Routed::Subset(Arc::new(Part {
            begin: part.begin,
            origin: part.origin.clone(),
            index,
            memory,
            changes: kept,
            commit: part.commit,
        })))
    }

    /// Something of `bytes` bytes that is for no target stood between two parts.
    pub fn pass_over(&mut self, bytes: usize) {
        self.density.pass(bytes + FRAMES, 0);
    }

    /// The changes to keep; `None` when the part can be handed on as it is. Nothing is cloned up to the first change
    /// that is not wanted.
    fn keep(&mut self, part: &Part) -> Result<Option<Vec<Change>>, RouteError> {
        let as_it_is = part.index == self.sent && !part.changes.is_empty();
        let mut kept = (!as_it_is).then(Vec::new);
        for (at, change) in part.changes.iter().enumerate() {
            match (self.share(change, &part.begin)?, &mut kept) {
                (Share::All, None) => {}
                (Share::All, Some(kept)) => kept.push(change.clone()),
                (Share::Instead(change), kept) => kept.get_or_insert_with(|| part.changes[..at].to_vec()).push(change),
                (Share::None, kept) => {
                    kept.get_or_insert_with(|| part.changes[..at].to_vec());
                }
            }
        }
        Ok(kept)
    }

    /// What of one change the target gets.
    fn share(&mut self, change: &Change, begin: &Begin) -> Result<Share, RouteError> {
        match change {
            Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. } => {
                Ok(if self.wants_cached(relation, begin)? { Share::All } else { Share::None })
            }
            Change::Truncate { relations, cascade, restart_identity } => {
                let mut kept = Vec::with_capacity(relations.len());
                for relation in relations {
                    if self.wants_cached(relation, begin)? {
                        kept.push(Arc::clone(relation));
                    }
                }
                Ok(match kept.len() {
                    0 => Share::None,
                    all if all == relations.len() => Share::All,
                    _ => Share::Instead(Change::Truncate {
                        relations: kept,
                        cascade: *cascade,
                        restart_identity: *restart_identity,
                    }),
                })
            }
            // A target is not told what is not data.
            Change::Message(_) => Ok(Share::None),
        }
    }

    fn wants_cached(&mut self, relation: &Arc<Relation>, begin: &Begin) -> Result<bool, RouteError> {
        let decision = match self.decisions.get(&relation.id) {
            Some((known, decision)) if Arc::ptr_eq(known, relation) => *decision,
            _ => {
                let decision = self.decide(relation);
                self.decisions.insert(relation.id, (Arc::clone(relation), decision));
                decision
            }
        };
        decision.wants(relation, begin)
    }

    fn decide(&self, relation: &Relation) -> Decision {
        let wanted = self.tables.iter().all(|tables| tables.matches(&relation.name));
        // A source that is itself a target has walferry's tables; those of this target speak of this target.
        let own = relation.name.schema == "walferry";
        if own || !wanted || self.without.contains(&relation.name) {
            return Decision::Never;
        }
        let other = if self.only_copied { Decision::Never } else { Decision::Always };
        self.copied.get(&relation.name).map_or(other, |lsn| Decision::From(*lsn))
    }
}

/// The part in memory of its own.
fn copy(part: &Part) -> Arc<Part> {
    let mut part = part.clone();
    Change::copy_rows(&mut part.changes);
    Arc::new(part)
}

impl Decision {
    fn wants(self, relation: &Relation, begin: &Begin) -> Result<bool, RouteError> {
        match (self, begin.commit_lsn) {
            (Decision::Never, _) => Ok(false),
            (Decision::Always, _) => Ok(true),
            (Decision::From(copied), Some(commit)) => Ok(commit.lsn() >= copied),
            (Decision::From(_), None) => {
                Err(RouteError::CommitUnknown { table: relation.name.clone(), xid: begin.xid })
            }
        }
    }
}

/// What of a change a target gets.
enum Share {
    All,
    Instead(Change),
    None,
}
