//! The checks of keys, indexes and constraints that refuse rows the source has, and of foreign keys to and from tables
//! that are not replicated. Pure.

use super::facts::source::SourceFacts;
use super::facts::tables::{IndexFacts, TableFacts};
use super::facts::target::{OuterKey, TargetFacts};
use super::{Code, Finding};
use crate::relation::{Displayed, TableName};
use crate::source::publication::{Publication, PublishedTable};
use crate::sql::Sql;

/// All findings.
pub fn judge(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let changes = |publication: &Publication| publication.update || publication.delete;
    let changes = source.publication.published().is_some_and(changes);
    for published in &facts.wanted {
        let name = &published.name;
        let (Some(ours), Some(theirs)) = (facts.tables.get(name), source.tables.get(name)) else { continue };
        findings.extend(uniques(name, ours, theirs));
        findings.extend(constraints(name, ours, theirs));
        if changes {
            findings.extend(unindexed(published, ours));
        }
    }
    findings.extend(facts.foreign_keys.iter().map(|key| foreign_key(key, facts.replica_role)));
    findings
}

/// A key as an index prints it.
fn is_column(key: &str, name: &str) -> bool {
    key == name || key == Sql::ident(name).as_str()
}

/// A key is kept by the source when one of its own keys is part of it. What the target alone has is its own affair.
fn uniques(name: &TableName, ours: &TableFacts, theirs: &TableFacts) -> Vec<Finding> {
    let implied = |index: &IndexFacts| {
        let covers = |other: &&IndexFacts| {
            other.unique
                && other.keys.iter().all(|key| index.keys.contains(key))
                && (other.predicate.is_none() || other.predicate == index.predicate)
        };
        theirs.indexes.iter().any(|other| covers(&other))
    };
    let own = |index: &IndexFacts| {
        let is_own = |key: &String| {
            ours.columns.iter().any(|column| is_column(key, &column.name) && theirs.column(&column.name).is_none())
        };
        index.keys.iter().any(is_own)
    };
    let one = |index: &IndexFacts| {
        let sql = match &index.constraint {
            Some(constraint) => drop_constraint(name, constraint),
            None => Sql::format("DROP INDEX {}", &[&Sql::table(&TableName::new(&*name.schema, &*index.name))]),
        };
        let what = format!("has a unique key that the source has not: {} ({})", index.name, index.keys.join(", "));
        Finding::new(Code::UniqueExtra, name.to_string(), what)
            .why("two rows of the source may be one to it: one takes the place of the other, or stops the target")
            .sql(&sql)
            .advice("Or make the key on the source too.")
    };
    ours.indexes.iter().filter(|index| index.unique && !implied(index) && !own(index)).map(one).collect()
}

fn constraints(name: &TableName, ours: &TableFacts, theirs: &TableFacts) -> Vec<Finding> {
    let kept = |definition: &String| theirs.constraints.iter().any(|(_, theirs)| theirs == definition);
    let one = |(constraint, _): &(String, String)| {
        let what = format!("has a constraint that the source has not: {}", Displayed(constraint));
        Finding::new(Code::ConstraintExtra, name.to_string(), what)
            .why("a row of the source that breaks it stops the target")
            .sql(&drop_constraint(name, constraint))
            .advice("Or make the constraint on the source too.")
    };
    ours.constraints.iter().filter(|(_, definition)| !kept(definition)).map(one).collect()
}

fn drop_constraint(table: &TableName, constraint: &str) -> Sql {
    Sql::format("ALTER TABLE {} DROP CONSTRAINT {}", &[&Sql::table(table), &Sql::ident(constraint)])
}

/// Rows are found by the source's identity.
fn unindexed(published: &PublishedTable, ours: &TableFacts) -> Vec<Finding> {
    let identity = &published.identity_columns;
    let present = identity.iter().all(|column| ours.column(column).is_some());
    let serves = |index: &IndexFacts| {
        index.predicate.is_none() && index.keys.iter().all(|key| identity.iter().any(|column| is_column(key, column)))
    };
    if identity.is_empty() || !present || ours.indexes.iter().any(serves) {
        return vec![];
    }
    let names: Vec<Sql> = identity.iter().map(|column| Sql::ident(column)).collect();
    let (table, columns) = (Sql::table(&published.name), Sql::join(&names, ", "));
    let template = match (&ours.partition_key, ours.indexes.iter().any(|index| index.primary)) {
        // A unique one would have to hold the partition key.
        (Some(_), _) => "CREATE INDEX ON {} ({})",
        (None, true) => "CREATE UNIQUE INDEX ON {} ({})",
        (None, false) => "ALTER TABLE {} ADD PRIMARY KEY ({})",
    };
    let shown: Vec<String> = identity.iter().map(|column| Displayed(column).to_string()).collect();
    let what = format!("has no index on the target for the replica identity ({})", shown.join(", "));
    vec![
        Finding::new(Code::KeyUnindexed, published.name.to_string(), what)
            .why("each UPDATE and DELETE searches the whole table")
            .sql(&Sql::format(template, &[&table, &columns])),
    ]
}

fn foreign_key(key: &OuterKey, replica_role: bool) -> Finding {
    let name = Displayed(&key.name);
    let (code, object, what, why) = match key.child_is_wanted {
        true => (
            Code::ForeignKeyOut,
            &key.child,
            format!("refers to {}, which is not replicated (constraint {name})", key.parent),
            match replica_role {
                true => "the replica role does not check it: rows may refer to nothing",
                false => "a row whose partner is not there stops the target",
            },
        ),
        false => (
            Code::ForeignKeyIn,
            &key.parent,
            format!("is referred to by {}, which is not replicated (constraint {name})", key.child),
            match replica_role {
                true => "the replica role does not check it: rows there may come to refer to nothing",
                false => "deleting a row that one there refers to stops the target, or changes the other table",
            },
        ),
    };
    Finding::new(code, object.to_string(), what)
        .why(why)
        .sql(&drop_constraint(&key.child, &key.name))
        .advice("Or replicate the other table too.")
}

#[cfg(test)]
#[path = "constraints_tests.rs"]
mod tests;
