//! What the session has said about relations and types. Rows are read in the light of the last word on their relation.
//!
//! It belongs to one replication session: a new session announces everything again, and OIDs may have changed hands.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::relation::{Relation, RelationId};

/// Relations and types as announced.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Asked for every change: for the few that a session mostly has, comparing is quicker than hashing.
    relations: BTreeMap<RelationId, Arc<Relation>>,
    types: HashMap<u32, (String, String)>,
}

impl Catalog {
    /// Takes a Relation message's word. An identical one keeps the same `Arc`, which later stages compare by pointer:
    /// the server repeats itself whenever anything invalidates its cache.
    pub(super) fn announce(&mut self, relation: Relation) {
        match self.relations.get(&relation.id) {
            Some(known) if **known == relation => {}
            _ => {
                self.relations.insert(relation.id, Arc::new(relation));
            }
        }
    }

    /// The relation as last announced.
    pub(super) fn relation(&self, id: RelationId) -> Option<&Arc<Relation>> {
        self.relations.get(&id)
    }

    /// Takes a Type message's word.
    pub(super) fn name_type(&mut self, oid: u32, schema: String, name: String) {
        self.types.insert(oid, (schema, name));
    }

    /// Schema and name of a type that is not built in.
    pub(super) fn type_name(&self, oid: u32) -> Option<(&str, &str)> {
        self.types.get(&oid).map(|(schema, name)| (schema.as_str(), name.as_str()))
    }
}
