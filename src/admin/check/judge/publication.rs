//! The checks of the publication: what it holds, how its rows are told apart, whether they may be read. Pure.

use super::facts::source::{PublicationFacts, SourceFacts, Unreadable};
use super::server::unmatched;
use super::{Code, Finding};
use crate::relation::{Displayed, ReplicaIdentity, TableName};
use crate::source::publication::{Publication, PublishedTable, without_identity};
use crate::sql::Sql;

/// Tables above this many bytes are large.
const LARGE: u64 = 100 << 20;

/// All findings.
pub fn judge(facts: &SourceFacts) -> Vec<Finding> {
    let mut findings = existence(&facts.publication);
    findings.extend(unmatched("source.tables", &facts.unmatched));
    if let Some(publication) = facts.publication.published() {
        findings.extend(operations(publication));
        findings.extend(leaves(facts, publication));
        findings.extend(identities(publication));
    }
    findings.extend(facts.unreadable.iter().flat_map(|table| unreadable(&facts.server.role, table)));
    findings.extend(facts.unlogged.iter().map(unlogged));
    findings
}

fn existence(publication: &PublicationFacts) -> Vec<Finding> {
    let object = "publication";
    match publication {
        PublicationFacts::Unknown => vec![],
        PublicationFacts::Complete(publication) if publication.tables.is_empty() => {
            let object = format!("publication {}", Displayed(&publication.name));
            vec![
                Finding::new(Code::PublicationEmpty, object, "publishes no table")
                    .why("there is nothing to replicate")
                    .advice("ALTER PUBLICATION … ADD TABLE … for each table that is wanted."),
            ]
        }
        PublicationFacts::Complete(_) => vec![],
        PublicationFacts::ToBeMade(Some(publication)) => {
            let what = format!("does not exist; walferry run creates it with {} tables", publication.tables.len());
            let finding = Finding::new(Code::PublicationToBeMade, object, what);
            vec![finding.why("they were checked as they would be published")]
        }
        PublicationFacts::ToBeMade(None) => {
            vec![
                Finding::new(Code::PublicationLocked, object, "does not exist; walferry run creates it")
                    .why("which tables it will hold cannot be found out now, because others have locked some")
                    .advice("Check again once those transactions have ended."),
            ]
        }
        PublicationFacts::Wrong { problem, remedy, sql, .. } => {
            let finding = Finding::new(Code::PublicationWrong, object, problem.clone());
            vec![finding.why("the stream is what the publication says").script(sql).advice(remedy.clone())]
        }
    }
}

fn operations(publication: &Publication) -> Vec<Finding> {
    let operations = [
        (publication.insert, "insert"),
        (publication.update, "update"),
        (publication.delete, "delete"),
        (publication.truncate, "truncate"),
    ];
    let missing: Vec<&str> = operations.iter().filter(|(published, _)| !published).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return vec![];
    }
    let sql = Sql::format(
        "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
        &[&Sql::ident(&publication.name)],
    );
    let object = format!("publication {}", Displayed(&publication.name));
    vec![
        Finding::new(Code::OperationsLeftOut, object, format!("leaves out {}", missing.join(", ")))
            .why("the targets differ from the source after such statements; right if meant so")
            .sql(&sql),
    ]
}

fn leaves(facts: &SourceFacts, publication: &Publication) -> Vec<Finding> {
    let partitions = facts.tables.values().filter(|table| table.is_partition).count();
    if publication.via_root || partitions == 0 {
        return vec![];
    }
    let sql =
        Sql::format("ALTER PUBLICATION {} SET (publish_via_partition_root = true)", &[&Sql::ident(&publication.name)]);
    let object = format!("publication {}", Displayed(&publication.name));
    vec![
        Finding::new(Code::PublishedByLeaf, object, format!("publishes {partitions} partitions under their own names"))
            .why("each target needs the same partitions, also those to come; their tables are not copied as a whole")
            .sql(&sql)
            .advice("Leave it if the targets are partitioned alike: TRUNCATE of a single partition is then carried."),
    ]
}

fn identities(publication: &Publication) -> Vec<Finding> {
    let without = without_identity(publication).into_iter().filter(|table| !table.falsely_full).map(|table| {
        Finding::new(Code::IdentityMissing, table.name.to_string(), "has no replica identity")
            .why("the source refuses UPDATE and DELETE on it while it is published")
            .script(&full(table))
            .advice("A primary key is better, where the table can have one.")
    });
    let falsely = publication.tables.iter().filter(|table| table.falsely_full).map(|table| {
        let what = "has REPLICA IDENTITY FULL, and partitions that have not";
        Finding::new(Code::IdentityFalselyFull, table.name.to_string(), what)
            .why("old rows of its partitions would arrive with values missing")
            .script(&full(table))
    });
    let slow = |table: &&PublishedTable| {
        let changes = publication.update || publication.delete;
        changes && table.identity == ReplicaIdentity::Full && table.bytes > LARGE
    };
    let large = publication.tables.iter().filter(slow).map(|table| {
        Finding::new(Code::IdentityFullLarge, table.name.to_string(), "is large and has REPLICA IDENTITY FULL")
            .why("without a unique key on the target, each UPDATE and DELETE searches the whole table there")
            .advice("Give it a primary key, and go back to REPLICA IDENTITY DEFAULT.")
    });
    without.chain(falsely).chain(large).collect()
}

/// ALTER TABLE sets the identity of a partitioned table without its partitions, and of these old rows are logged.
fn full(table: &PublishedTable) -> Vec<Sql> {
    let mut names = vec![&table.name];
    names.extend(table.leaves.iter().map(|leaf| &leaf.name).filter(|name| **name != table.name));
    names.into_iter().map(|name| Sql::format("ALTER TABLE {} REPLICA IDENTITY FULL", &[&Sql::table(name)])).collect()
}

fn unreadable(role: &str, table: &Unreadable) -> Vec<Finding> {
    let (name, role) = (table.table.to_string(), Sql::ident(role));
    let mut findings = Vec::new();
    if table.schema_closed {
        let sql = Sql::format("GRANT USAGE ON SCHEMA {} TO {}", &[&Sql::ident(&table.table.schema), &role]);
        let finding = Finding::new(Code::SchemaClosed, &name, "is in a schema the role may not use");
        findings.push(finding.why("the initial copy reads it").sql(&sql));
    }
    if table.no_select {
        let sql = Sql::format("GRANT SELECT ON {} TO {}", &[&Sql::table(&table.table), &role]);
        let finding = Finding::new(Code::PrivilegeMissing, &name, "may not be read by the role");
        findings.push(finding.why("the initial copy reads it").sql(&sql));
    }
    if table.row_security {
        let sql = Sql::format("ALTER ROLE {} BYPASSRLS", &[&role]);
        let finding = Finding::new(Code::RowSecurity, &name, "has row level security");
        findings.push(finding.why("rows hidden from the role would not be copied").sql(&sql));
    }
    findings
}

fn unlogged(table: &TableName) -> Finding {
    let sql = Sql::format("ALTER TABLE {} SET LOGGED", &[&Sql::table(table)]);
    Finding::new(Code::UnloggedSource, table.to_string(), "is unlogged")
        .why("its changes are not in the WAL, so it is not replicated")
        .sql(&sql)
        .advice("Or leave it out of source.tables.")
}
