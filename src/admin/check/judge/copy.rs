//! The checks of the initial copy, which has its own (`tablesync`), and of the room it needs. Pure.

use super::facts::source::SourceFacts;
use super::facts::target::TargetFacts;
use super::{Code, Finding};
use crate::admin::output::size;
use crate::sql::Sql;
use crate::tablesync::{self, Matter};

/// What the copy itself would refuse or suffer from.
pub fn tables(facts: &TargetFacts) -> Vec<Finding> {
    facts.copy.iter().filter_map(one).collect()
}

fn one(found: &tablesync::Finding) -> Option<Finding> {
    let (code, why) = match found.matter {
        Matter::Missing => (Code::TableMissing, "rows are written to the table of the same name"),
        Matter::NoTable => (Code::NoTable, "rows are written to tables only"),
        Matter::ColumnMissing => (Code::ColumnMissing, "columns are matched by name, and none is left out"),
        Matter::ColumnRequired => (Code::ColumnRequired, "each row would leave it NULL, which it refuses"),
        Matter::SchemaClosed => (Code::SchemaClosed, "the tables in it cannot be reached"),
        Matter::Privilege => (Code::PrivilegeMissing, "the copy and the stream need each of them"),
        Matter::RowSecurity => (Code::RowSecurity, "rows hidden from the role would be missed, or come in twice"),
        Matter::NotCopied => (Code::NotCopied, "the target has what it holds already, and what changes from now on"),
        Matter::Occupied => (Code::RowsPresent, "they would be mixed with the source's"),
        Matter::NoMergeKey => (Code::MergeKeyMissing, "rows are merged by key"),
        Matter::NotMerged => (Code::NotMerged, "who reads it meanwhile finds it empty, and then half filled"),
        Matter::Circle => (Code::ForeignKeyCircle, "none of them can be filled first"),
        Matter::NoTemporary => (Code::TemporaryRefused, "rows are merged through one"),
        Matter::Cascades => (Code::ForeignKeyCascades, "rows would be changed that are not walferry's"),
        // Judged from the facts, by what mends them; the identity is the source's.
        Matter::FalselyFull | Matter::ColumnGenerated | Matter::ColumnNotSent | Matter::Triggers => return None,
    };
    let finding = Finding::new(code, found.table.to_string(), found.problem.clone()).why(why);
    let finding = found.sql.iter().fold(finding, Finding::sql);
    Some(match found.matter {
        Matter::NoTable => finding.advice("Rename it, and create the table as it is on the source."),
        Matter::Missing => finding.advice("Better by pg_dump --schema-only: this has no defaults and indexes."),
        Matter::Occupied => finding.advice("Set copy.existing_rows to \"truncate\" or \"merge\"."),
        Matter::Circle => finding.advice("Let the role set session_replication_role, or drop one of the foreign keys."),
        Matter::NotCopied => finding.advice("Publish inserts, unless it is meant so."),
        Matter::NoMergeKey if found.sql.is_none() => finding.advice("Give the table a primary key on the source."),
        Matter::NotMerged if found.sql.is_none() => {
            finding.advice("Give the table a primary key, or let the role set session_replication_role.")
        }
        _ => finding,
    })
}

/// What the target's disk has to take; how much room it has, SQL does not tell.
pub fn room(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.copying && source.bytes > 0 {
        let what = format!("takes about {} for the initial copy, and as much WAL once more", size(source.bytes));
        findings.push(
            Finding::new(Code::DiskRoom, "disk", what)
                .why("that is what the tables take on the source; a full disk stops the target's server")
                .advice("How much room there is cannot be asked by SQL: look at it (df)."),
        );
    }
    if !facts.idle_slots.is_empty() {
        let what = format!("{} are inactive, and keep all WAL", facts.idle_slots.join(", "));
        findings.push(
            Finding::new(Code::SlotsKeepWal, "replication slots", what)
                .why("the initial copy writes much of it, until the target's disk is full")
                .reloaded("max_slot_wal_keep_size", &Sql::literal("20GB"))
                .advice("Drop those that nobody needs: SELECT pg_drop_replication_slot(…)."),
        );
    }
    findings
}
