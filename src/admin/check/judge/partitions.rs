//! The checks of how partitioned tables are laid out. Pure.

use std::collections::BTreeSet;

use super::facts::source::SourceFacts;
use super::facts::tables::TableFacts;
use super::facts::target::TargetFacts;
use super::{Code, Finding};
use crate::relation::TableName;
use crate::sql::Sql;

/// A row for which there is no partition stops the target. A default partition takes every row.
pub fn judge(facts: &TargetFacts, source: &SourceFacts) -> Vec<Finding> {
    let none = TableFacts::default();
    let one = |(name, ours): (&TableName, &TableFacts)| missing(name, ours, source.tables.get(name).unwrap_or(&none));
    facts.tables.iter().filter_map(one).collect()
}

fn missing(name: &TableName, ours: &TableFacts, theirs: &TableFacts) -> Option<Finding> {
    const DEFAULT: &str = "DEFAULT";
    let key = ours.partition_key.as_ref()?;
    let bounds: BTreeSet<&str> = ours.partitions.iter().map(|(_, bound)| bound.as_str()).collect();
    if bounds.contains(DEFAULT) {
        return None;
    }
    let alike = theirs.partition_key.as_ref() == Some(key)
        && bounds.iter().all(|bound| theirs.partitions.iter().any(|(_, theirs)| theirs == bound));
    let table = Sql::table(name);
    let finding = |what: String| {
        Finding::new(Code::PartitionMissing, name.to_string(), what)
            .why("a row that no partition takes stops the target")
    };
    if alike {
        let lacking: Vec<&(TableName, String)> =
            theirs.partitions.iter().filter(|(_, bound)| !bounds.contains(bound.as_str())).collect();
        let create = |(partition, bound): &&(TableName, String)| {
            let bound = Sql::from_catalog(bound.clone());
            Sql::format("CREATE TABLE {} PARTITION OF {} {}", &[&Sql::table(partition), &table, &bound])
        };
        let statements: Vec<Sql> = lacking.iter().map(create).collect();
        let what = format!("lacks {} partitions that the source has", lacking.len());
        return (!lacking.is_empty()).then(|| finding(what).script(&statements));
    }
    // Whether its moduli are complete would be another question; a default is not allowed.
    if key.starts_with("HASH") {
        return None;
    }
    let rest = Sql::table(&TableName::new(&*name.schema, format!("{}_default", name.name)));
    Some(
        finding("is partitioned otherwise than on the source, without a default partition".to_owned())
            .sql(&Sql::format("CREATE TABLE {} PARTITION OF {} DEFAULT", &[&rest, &table])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(key: Option<&str>, bounds: &[&str]) -> TableFacts {
        let partition =
            |(place, bound): (usize, &&str)| (TableName::new("s", format!("t_{place}")), (*bound).to_owned());
        TableFacts {
            partition_key: key.map(str::to_owned),
            partitions: bounds.iter().enumerate().map(partition).collect(),
            ..TableFacts::default()
        }
    }

    fn found(ours: &TableFacts, theirs: &TableFacts) -> Vec<String> {
        missing(&TableName::new("s", "t"), ours, theirs).map_or_else(Vec::new, |finding| finding.sql)
    }

    #[test]
    fn rows_that_no_partition_takes_are_given_one() {
        let (key, one, two) = (Some("RANGE (at)"), "FOR VALUES FROM (1) TO (2)", "FOR VALUES FROM (2) TO (3)");
        let both = table(key, &[one, two]);
        let none: [&str; 0] = [];
        assert_eq!(found(&both, &both), none);
        assert_eq!(found(&table(None, &[]), &both), none, "a plain table takes all");
        assert_eq!(found(&table(key, &["DEFAULT"]), &both), none);
        let create = format!(r#"CREATE TABLE "s"."t_1" PARTITION OF "s"."t" {two}"#);
        assert_eq!(found(&table(key, &[one]), &both), [create]);
        let rest = r#"CREATE TABLE "s"."t_default" PARTITION OF "s"."t" DEFAULT"#;
        assert_eq!(found(&table(key, &["FOR VALUES FROM (0) TO (9)"]), &both), [rest]);
        assert_eq!(found(&both, &table(None, &[])), [rest]);
        assert_eq!(found(&table(Some("HASH (id)"), &["x"]), &both), none);
    }
}
