//! What the source's catalogue says about the tables of a copy beyond what the publication does.
//!
//! In: the published tables. Out: [`SourceFacts`]: how large their leaves are with all that belongs to a row, by which
//! they are cut, and what types are below domains.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::{Client, PgError};
use crate::source::publication::{Leaf, PublishedTable};
use crate::sql::Sql;

/// How large a leaf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Of the main fork, in blocks: where its rows lie.
    pub blocks: u32,
    /// With TOAST.
    pub bytes: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SourceFacts {
    /// By OID.
    pub sizes: BTreeMap<u32, Size>,
    /// Domains, each with the type below it and all others.
    pub domains: BTreeMap<u32, u32>,
}

/// Larger than the main fork alone only with a TOAST table. (A leaf that is gone by now has no size; reading it will
/// say so.)
const SIZES: Sql = Sql::new(
    "SELECT leaf, pg_relation_size(leaf::regclass) / current_setting('block_size')::bigint, \
     pg_relation_size(leaf::regclass) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0) \
     FROM unnest($1::oid[]) AS leaf LEFT JOIN pg_class c ON c.oid = leaf",
);

const DOMAINS: Sql = Sql::new(
    "WITH RECURSIVE below (domain, oid) AS ( \
       SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = ANY ($1::oid[]) AND t.typtype = 'd' \
       UNION ALL \
       SELECT b.domain, t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'd') \
     SELECT b.domain, b.oid FROM below b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'",
);

impl SourceFacts {
    /// Asks the source.
    pub async fn load(client: &Client, tables: &[PublishedTable]) -> Result<Self, PgError> {
        let mut facts = Self::default();
        let leaves: Vec<u32> = tables.iter().flat_map(|table| &table.leaves).map(|leaf| leaf.oid).collect();
        for row in client.query(&SIZES, &[&leaves]).await? {
            let (Some(blocks), Some(bytes)) = (row.get::<_, Option<i64>>(1), row.get::<_, Option<i64>>(2)) else {
                continue;
            };
            // Block numbers are 32 bits (PostgreSQL: BlockNumber).
            let size = Size { blocks: u32::try_from(blocks).unwrap_or(u32::MAX), bytes: bytes.unsigned_abs() };
            facts.sizes.insert(row.get(0), size);
        }
        // Below this, OIDs are assigned by hand, and not to domains (FirstGenbkiObjectId in access/transam.h).
        let made = tables.iter().flat_map(|table| &table.columns).map(|column| column.type_oid);
        let made: Vec<u32> = made.filter(|oid| *oid >= 10_000).collect::<BTreeSet<u32>>().into_iter().collect();
        if !made.is_empty() {
            let rows = client.query(&DOMAINS, &[&made]).await?;
            facts.domains = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        }
        Ok(facts)
    }

    /// The type below any domains.
    pub fn base_type(&self, type_oid: u32) -> u32 {
        self.domains.get(&type_oid).copied().unwrap_or(type_oid)
    }

    /// A leaf's size; one that is not known is one range.
    pub fn size(&self, leaf: &Leaf) -> Size {
        self.sizes.get(&leaf.oid).copied().unwrap_or(Size { blocks: 0, bytes: leaf.bytes })
    }
}
