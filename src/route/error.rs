//! A pattern that cannot be read, and a change that cannot be decided.

use crate::error::{Judged, Verdict};
use crate::relation::TableName;

/// A table pattern that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{pattern}\" is not a table pattern: {problem}")]
pub struct PatternError {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Judged for PatternError {
    fn verdict(&self) -> Verdict {
        Verdict::halt(
            "Write schema.table, such as public.orders, public.* or !public.audit_*. Names are taken exactly as \
             written (Orders is not orders; nothing is folded to lower case), * stands for any characters and ? for \
             one; a name with a dot, a blank or one of these characters goes in double quotes: \"my.schema\".\"T\".",
        )
    }
}

/// A change of which it cannot be said whether the target holds it already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The transaction is streamed before its commit, and the table's copy decides by the commit's position.
    #[error(
        "transaction {xid} changes table {table} before its commit position is known, which decides whether the \
             table's copy holds it already"
    )]
    CommitUnknown {
        /// The table.
        table: TableName,
        /// The transaction.
        xid: u32,
    },
}

impl Judged for RouteError {
    fn verdict(&self) -> Verdict {
        Verdict::halt(
            "Transactions must not be streamed before their commit while tables with a copy position are followed: \
             this is a mistake of walferry itself; report it with this message. Nothing was applied.",
        )
    }
}
