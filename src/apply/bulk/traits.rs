//! Whether a table's changes may be planned, and what the plan must know of it. Pure.

use std::sync::Arc;

use crate::apply::plan::{Identity, Traits};
use crate::apply::table::{TargetTable, Wire};
use crate::relation::ReplicaIdentity;

/// How a table's changes are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As planned.
    Planned(Arc<Traits>),
    /// Change by change. What other tables' changes do neither needs nor disturbs that if it is `apart`; if not, the
    /// whole batch is applied so.
    Exact {
        /// See above.
        apart: bool,
    },
}

/// The manner of a table, on a target with these foreign keys (who refers, to whom).
pub fn manner(table: &TargetTable, replica_role: bool, foreign_keys: &[(u32, u32)]) -> Manner {
    let info = &table.info;
    // What fires may read and write any table, and sees every change.
    if if replica_role { info.fires_as_replica } else { info.fires } {
        return Manner::Exact { apart: false };
    }
    let checked = if replica_role { &[] } else { foreign_keys };
    let parents: Vec<u32> = checked.iter().filter(|(child, _)| *child == info.oid).map(|(_, parent)| *parent).collect();
    let referenced = checked.iter().any(|(_, parent)| *parent == info.oid);
    let apart = Manner::Exact { apart: parents.is_empty() && !referenced };
    let writable = table.written.iter().all(|column| {
        // UPDATE cannot set an identity column, and only of one in the key is it known whether it has changed.
        let settable = !column.identity_always || table.is_key(column.index);
        let target = table.column(column.index);
        let as_it_is = matches!(table.wire(column.index), Wire::Binary { oid, .. } if oid == target.base_type_oid);
        settable && (as_it_is || target.read_from_text)
    });
    if !writable || table.written.is_empty() {
        return apart;
    }
    let Some(identity) = identity(table) else { return apart };
    let fixed = table.written.iter().any(|column| column.identity_always);
    let overwrites = !table.has_own_columns() && (replica_role || !info.referenced);
    Manner::Planned(Arc::new(Traits { table: info.oid, identity, overwrites, rekeys: !fixed, parents, referenced }))
}

fn identity(table: &TargetTable) -> Option<Identity> {
    if let Some(key) = table.key {
        return Some(Identity::Key(table.uniques[key].iter().map(|(at, _)| *at).collect()));
    }
    match table.relation.identity {
        // A row's position is unique per partition only.
        ReplicaIdentity::Full => (!table.info.partitioned && !table.locator.is_empty()).then_some(Identity::Whole),
        _ => table.locator.is_empty().then_some(Identity::Nothing),
    }
}
