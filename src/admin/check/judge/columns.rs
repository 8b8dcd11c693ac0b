//! The checks of columns and their types: what differs between the sides. Pure.

use std::collections::BTreeSet;

use super::facts::source::SourceFacts;
use super::facts::tables::{ColumnFacts, TableFacts};
use super::facts::target::TargetFacts;
use super::facts::types::{ColumnType, Made};
use super::{Code, Finding};
use crate::relation::{Displayed, TableName};
use crate::source::publication::PublishedTable;
use crate::sql::Sql;

/// What a target's column of a table is, beside the source's.
struct Pair<'a> {
    table: &'a TableName,
    ours: &'a ColumnFacts,
    theirs: &'a ColumnFacts,
}

/// Columns that are on both sides, and those that only the target has.
pub fn judge(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for published in &facts.wanted {
        let name = &published.name;
        let (Some(ours), Some(theirs)) = (facts.tables.get(name), source.tables.get(name)) else { continue };
        for column in &ours.columns {
            if let Some(theirs) = theirs.column(&column.name) {
                let pair = Pair { table: name, ours: column, theirs };
                findings.extend(generated(&pair, facts.server.version));
                if published.columns.iter().any(|sent| sent.name == column.name) {
                    findings.extend(
                        [kind(&pair), not_null(&pair), identity(&pair), default(&pair), collation(&pair)].concat(),
                    );
                }
            }
        }
        findings.extend(extra(published, ours, theirs));
    }
    findings
}

impl Pair<'_> {
    fn finding(&self, code: Code, what: &str) -> Finding {
        let what = format!("column {} {what}", Displayed(&self.ours.name));
        Finding::new(code, self.table.to_string(), what)
    }

    /// `ALTER TABLE …` of this table, with table and column in its places.
    fn alter(&self, template: &'static str, more: &[&Sql]) -> Sql {
        let (table, column) = (Sql::table(self.table), Sql::ident(&self.ours.name));
        let pieces: Vec<&Sql> = [&table, &column].into_iter().chain(more.iter().copied()).collect();
        Sql::format(template, &pieces)
    }
}

fn kind(pair: &Pair) -> Vec<Finding> {
    let (ours, theirs) = (&pair.ours.type_name, &pair.theirs.type_name);
    if ours == theirs || pair.ours.expression.is_some() {
        return vec![];
    }
    let (code, why) = match takes_every(ours, theirs) {
        true => (Code::TypeWider, "every value of the source's type fits, but is another to those who read the target"),
        false => {
            (Code::TypeDiffers, "values travel as text; one that the target's type does not take stops the target")
        }
    };
    let (column, kind) = (Sql::ident(&pair.ours.name), Sql::from_catalog(theirs.clone()));
    let sql = pair.alter("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING {}::text::{}", &[&kind, &column, &kind]);
    vec![pair.finding(code, &format!("is {ours}, and {theirs} on the source")).why(why).sql(&sql)]
}

/// Whether every value of `theirs`, as text, is one of `ours`. Both as `format_type` prints them.
fn takes_every(ours: &str, theirs: &str) -> bool {
    const INTEGERS: [&str; 4] = ["smallint", "integer", "bigint", "numeric"];
    let place = |name: &str| INTEGERS.iter().position(|integer| *integer == name);
    let (our_base, our_numbers) = modifiers(ours);
    let (their_base, their_numbers) = modifiers(theirs);
    match (our_base.as_str(), their_base.as_str()) {
        ("text", _) => true,
        ("character varying", _) if our_numbers.is_empty() => true,
        ("character varying", "character varying" | "character") => {
            matches!((our_numbers.as_slice(), their_numbers.as_slice()), ([most], [length]) if most >= length)
        }
        ("numeric", "numeric") => match (our_numbers.as_slice(), their_numbers.as_slice()) {
            ([], _) => true,
            ([precision, scale], [other, their_scale]) => {
                scale >= their_scale && precision - scale >= other - their_scale
            }
            _ => false,
        },
        ("double precision", "real") => true,
        (ours, theirs) if our_numbers.is_empty() && their_numbers.is_empty() => {
            matches!((place(ours), place(theirs)), (Some(our), Some(their)) if our >= their)
        }
        _ => false,
    }
}

/// `numeric(10,2)`: `numeric`, and 10 and 2.
fn modifiers(type_name: &str) -> (String, Vec<i64>) {
    let Some((before, rest)) = type_name.split_once('(') else { return (type_name.to_owned(), Vec::new()) };
    let (numbers, after) = rest.split_once(')').unwrap_or((rest, ""));
    let numbers = numbers.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    (format!("{before}{after}"), numbers)
}

fn not_null(pair: &Pair) -> Vec<Finding> {
    if !pair.ours.not_null || pair.theirs.not_null || pair.ours.expression.is_some() {
        return vec![];
    }
    let finding =
        pair.finding(Code::ColumnNotNull, "is NOT NULL, and on the source it is not").why("a NULL stops the target");
    if pair.ours.in_primary_key {
        let advice = "It is of the target's primary key: make it NOT NULL on the source, or choose another key here.";
        return vec![finding.advice(advice)];
    }
    vec![finding.sql(&pair.alter("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", &[]))]
}

fn identity(pair: &Pair) -> Vec<Finding> {
    let (None, None, Some(how)) = (&pair.ours.identity, &pair.ours.expression, &pair.theirs.identity) else {
        return vec![];
    };
    let steps = [
        (pair.ours.has_default, "ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT"),
        (!pair.ours.not_null, "ALTER TABLE {} ALTER COLUMN {} SET NOT NULL"),
    ];
    let mut statements: Vec<Sql> =
        steps.into_iter().filter(|(needed, _)| *needed).map(|(_, template)| pair.alter(template, &[])).collect();
    // Words of the query that gathers them.
    let how = Sql::from_catalog(how.clone());
    statements.push(pair.alter("ALTER TABLE {} ALTER COLUMN {} ADD GENERATED {} AS IDENTITY", &[&how]));
    vec![
        pair.finding(Code::IdentityColumn, "is an identity column on the source, and on the target it is not")
            .why("the source's values come all the same; but who writes to the target one day has to bring them")
            .script(&statements),
    ]
}

fn default(pair: &Pair) -> Vec<Finding> {
    let Some(theirs) = &pair.theirs.default else { return vec![] };
    if pair.ours.has_default || pair.ours.expression.is_some() {
        return vec![];
    }
    let finding = pair
        .finding(Code::DefaultMissing, "has a default on the source, and on the target it has none")
        .why("the source's values come all the same; but who writes to the target one day has to bring them");
    if !theirs.portable {
        return vec![finding.advice("It needs a function or type that somebody made: create that, then the default.")];
    }
    let sequence = theirs.sequence.iter();
    let create: Vec<Sql> =
        sequence.map(|name| Sql::format("CREATE SEQUENCE IF NOT EXISTS {}", &[&Sql::table(name)])).collect();
    let expression = Sql::from_catalog(theirs.expression.clone());
    let set = pair.alter("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}", &[&expression]);
    vec![finding.script(&create).sql(&set)]
}

fn collation(pair: &Pair) -> Vec<Finding> {
    let (ours, theirs) = (&pair.ours.collation, &pair.theirs.collation);
    if ours == theirs || pair.ours.type_name != pair.theirs.type_name {
        return vec![];
    }
    let shown = |collation: &Option<String>| collation.clone().unwrap_or_else(|| "pg_catalog.\"default\"".to_owned());
    let (kind, collation) = (Sql::from_catalog(pair.theirs.type_name.clone()), Sql::from_catalog(shown(theirs)));
    vec![
        pair.finding(
            Code::ColumnCollation,
            &format!("has collation {}, and {} on the source", shown(ours), shown(theirs)),
        )
        .why("its values sort otherwise, and may be equal otherwise")
        .sql(&pair.alter("ALTER TABLE {} ALTER COLUMN {} TYPE {} COLLATE {}", &[&kind, &collation])),
    ]
}

/// GENERATED ALWAYS AS (expression), on one side or on both.
fn generated(pair: &Pair, version: u32) -> Vec<Finding> {
    match (&pair.ours.expression, &pair.theirs.expression) {
        (Some(_), None) => {
            let finding = pair
                .finding(Code::ColumnGenerated, "is generated on the target, and on the source it is not")
                .why("the source's values of it are not written");
            let kind = Sql::from_catalog(pair.theirs.type_name.clone());
            let column = Sql::ident(&pair.ours.name);
            vec![match pair.ours.is_virtual {
                false => finding.sql(&pair.alter("ALTER TABLE {} ALTER COLUMN {} DROP EXPRESSION", &[])),
                true => finding.sql(&pair.alter("ALTER TABLE {} DROP COLUMN {}, ADD COLUMN {} {}", &[&column, &kind])),
            }]
        }
        (None, Some(expression)) => {
            let what = "is generated on the source, which does not send it, and here nothing computes it";
            vec![
                pair.finding(Code::ColumnNotSent, what)
                    .why("it is left to its default")
                    .sql(&anew(pair, expression, version)),
            ]
        }
        (Some(ours), Some(theirs)) if ours != theirs => {
            let text = Sql::from_catalog(theirs.clone());
            let sql = match version >= 170_000 {
                true => pair.alter("ALTER TABLE {} ALTER COLUMN {} SET EXPRESSION AS ({})", &[&text]),
                false => anew(pair, theirs, version),
            };
            let what = "is generated by another expression than on the source";
            vec![pair.finding(Code::ExpressionDiffers, what).why("its values differ from the source's").sql(&sql)]
        }
        _ => vec![],
    }
}

/// What a generated column holds is computed again: nothing is lost with it.
fn anew(pair: &Pair, expression: &str, version: u32) -> Sql {
    let kind = Sql::from_catalog(pair.theirs.type_name.clone());
    let (column, expression) = (Sql::ident(&pair.ours.name), Sql::from_catalog(expression.to_owned()));
    let how = Sql::new(if pair.theirs.is_virtual && version >= 180_000 { "VIRTUAL" } else { "STORED" });
    pair.alter(
        "ALTER TABLE {} DROP COLUMN {}, ADD COLUMN {} {} GENERATED ALWAYS AS ({}) {}",
        &[&column, &kind, &expression, &how],
    )
}

fn extra(published: &PublishedTable, ours: &TableFacts, theirs: &TableFacts) -> Vec<Finding> {
    let own = |column: &&ColumnFacts| {
        theirs.column(&column.name).is_none() && column.expression.is_none() && (column.has_default || !column.not_null)
    };
    let names: Vec<String> =
        ours.columns.iter().filter(own).map(|column| Displayed(&column.name).to_string()).collect();
    if names.is_empty() {
        return vec![];
    }
    let what = format!("has columns that the source has not: {}", names.join(", "));
    vec![
        Finding::new(Code::ColumnExtra, published.name.to_string(), what)
            .why("rows from the source get their default, and keep what is there when they are changed"),
    ]
}

/// Types of the source that something here needs, or that are here and not the same. These come before the tables:
/// their statements do.
pub fn types(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let mut said = BTreeSet::new();
    let mut findings = Vec::new();
    for column in source.types.iter().filter(|column| facts.wanted.iter().any(|table| table.name == column.table)) {
        if !said.insert(&column.name) {
            continue;
        }
        match (facts.types.get(&column.name), &column.made) {
            (Some(labels), Made::Enum(theirs)) => findings.extend(enum_labels(&column.name, labels, theirs)),
            (Some(_), Made::Extension(extension, _)) => findings.extend(extension_version(extension, facts, source)),
            (Some(_), _) => {}
            (None, _) if !is_needed(column, facts, source) => {}
            (None, Made::Extension(extension, schema)) => findings.push(extension_missing(extension, schema, column)),
            (None, made) => findings.push(type_missing(column, made)),
        }
    }
    findings.dedup();
    findings
}

/// Whether a column of this type is missing on the target, alone or with its table.
fn is_needed(wanted: &ColumnType, facts: &TargetFacts, source: &SourceFacts) -> bool {
    let missing = |column: &&ColumnType| {
        let table = facts.tables.get(&column.table);
        column.name == wanted.name && table.is_none_or(|table| table.column(&column.column).is_none())
    };
    source.types.iter().any(|column| missing(&column))
}

fn enum_labels(name: &TableName, ours: &[String], theirs: &[String]) -> Vec<Finding> {
    let missing: Vec<usize> = (0..theirs.len()).filter(|place| !ours.contains(&theirs[*place])).collect();
    if missing.is_empty() {
        return vec![];
    }
    let add = |place: &usize| {
        let (name, label) = (Sql::table(name), Sql::literal(&theirs[*place]));
        match place.checked_sub(1) {
            Some(before) => {
                Sql::format("ALTER TYPE {} ADD VALUE {} AFTER {}", &[&name, &label, &Sql::literal(&theirs[before])])
            }
            None => match ours.first() {
                Some(first) => {
                    Sql::format("ALTER TYPE {} ADD VALUE {} BEFORE {}", &[&name, &label, &Sql::literal(first)])
                }
                None => Sql::format("ALTER TYPE {} ADD VALUE {}", &[&name, &label]),
            },
        }
    };
    let statements: Vec<Sql> = missing.iter().map(add).collect();
    let what = format!("lacks {} labels of the source's", missing.len());
    vec![
        Finding::new(Code::EnumLabels, format!("type {name}"), what)
            .why("a row with one of them stops the target")
            .script(&statements),
    ]
}

fn type_missing(column: &ColumnType, made: &Made) -> Finding {
    let (name, shown) = (Sql::table(&column.name), format!("type {}", column.name));
    let finding = Finding::new(Code::TypeMissing, shown, "is missing on the target").why(format!(
        "column {} of {} needs it",
        Displayed(&column.column),
        column.table
    ));
    let finding = finding.sql(&Sql::format("CREATE SCHEMA IF NOT EXISTS {}", &[&Sql::ident(&column.name.schema)]));
    match made {
        Made::Enum(labels) => {
            let labels: Vec<Sql> = labels.iter().map(|label| Sql::literal(label)).collect();
            finding.sql(&Sql::format("CREATE TYPE {} AS ENUM ({})", &[&name, &Sql::join(&labels, ", ")]))
        }
        Made::Domain(base) => finding
            .sql(&Sql::format("CREATE DOMAIN {} AS {}", &[&name, &Sql::from_catalog(base.clone())]))
            .advice("The domain's constraints are left out: the source has checked its values."),
        Made::Extension(..) | Made::Otherwise => {
            Finding { sql: Vec::new(), ..finding }.advice("Create it as it is on the source (pg_dump --schema-only).")
        }
    }
}

fn extension_missing(extension: &str, schema: &str, column: &ColumnType) -> Finding {
    let (name, schema) = (Sql::ident(extension), Sql::ident(schema));
    Finding::new(Code::ExtensionMissing, format!("extension {}", Displayed(extension)), "is missing on the target")
        .why(format!("column {} of {} needs it", Displayed(&column.column), column.table))
        .sql(&Sql::format("CREATE SCHEMA IF NOT EXISTS {}", &[&schema]))
        .sql(&Sql::format("CREATE EXTENSION {} SCHEMA {}", &[&name, &schema]))
}

fn extension_version(extension: &str, facts: &TargetFacts, source: &SourceFacts) -> Option<Finding> {
    let (ours, theirs) = (facts.extensions.get(extension)?, source.extensions.get(extension)?);
    let name = Sql::ident(extension);
    let finding = || {
        let what = format!("is of version {ours}, and {theirs} on the source");
        Finding::new(Code::ExtensionVersion, format!("extension {}", Displayed(extension)), what)
            .why("its types may be written otherwise")
            .sql(&Sql::format("ALTER EXTENSION {} UPDATE TO {}", &[&name, &Sql::ident(theirs)]))
    };
    (ours != theirs).then(finding)
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
