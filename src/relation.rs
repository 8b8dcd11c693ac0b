//! Tables as the source describes them in its Relation messages.

use std::fmt;

/// The source's `pg_class.oid` of a relation. Means nothing on a target: there, tables are found by [`TableName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId(pub u32);

/// Schema and name, exactly as in the catalogue (no quoting, no folding).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// `pg_namespace.nspname`.
    pub schema: String,
    /// `pg_class.relname`.
    pub name: String,
}

impl TableName {
    /// The table of this schema and name.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

/// As an operator would type it in SQL: each part is quoted only where it must be.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", Displayed(&self.schema), Displayed(&self.name))
    }
}

/// An identifier as an operator would type it; for messages only, statements are written with [`crate::sql`].
pub struct Displayed<'a>(pub &'a str);

impl fmt::Display for Displayed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starts_plain = self.0.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$';
        if starts_plain && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        }
    }
}

/// `pg_class.relreplident`: which old values UPDATE and DELETE carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing; UPDATE and DELETE cannot be published.
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// A published column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `pg_attribute.attname`; columns are matched by it.
    pub name: String,
    /// The source's type OID. Equal on every server for built-in types only (below 10,000, `FirstGenbkiObjectId`).
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`, -1 when there is none.
    pub type_modifier: i32,
    /// Whether the column belongs to the replica identity. With FULL every column does.
    pub is_key: bool,
}

/// A published table as of the messages that follow its Relation message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The source's OID.
    pub id: RelationId,
    /// Schema and name on the source.
    pub name: TableName,
    /// Which old values arrive.
    pub identity: ReplicaIdentity,
    /// The columns in the order in which rows carry them.
    pub columns: Vec<Column>,
    /// Whether values are as their types' send functions give them, and not text.
    pub binary: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_an_operator_would_type_them() {
        let shown = |schema, name| TableName::new(schema, name).to_string();
        assert_eq!(shown("public", "orders_2"), "public.orders_2");
        assert_eq!(shown("Sales", "a.b"), "\"Sales\".\"a.b\"");
        assert_eq!(shown("s", "say \"hi\""), "s.\"say \"\"hi\"\"\"");
        assert_eq!(shown("s", "1st"), "s.\"1st\"");
        assert_eq!(shown("s", ""), "s.\"\"");
    }
}
