//! `walferry check`: everything that would keep replication from working, or surprise somebody later, found beforehand.
//!
//! ```text
//!   source ──▶ facts/source ──▶ judge/source ──┐
//!                   │                          ├──▶ findings ──▶ report: text or JSON, exit code
//!   target ──▶ facts/target ──▶ judge/target ──┘
//! ```
//! Gathering changes nothing; judging is pure. Each finding has a code (`code.rs`), says what is the case and why it
//! matters, and what mends it: statements, and where there are none, what to do.

mod code;
mod facts;
mod finding;
mod judge;
mod report;

use std::collections::BTreeMap;

use futures_util::future::join_all;

use self::code::Code;
use self::facts::source::SourceFacts;
use self::facts::target::TargetFacts;
use self::finding::Finding;
use super::{CommandError, servers};
use crate::cli::{Check, ExitCode};
use crate::config::Config;
use crate::error::{Judged, Verdict, chain};

pub use self::code::markdown;

/// Prints the findings, and says by the exit code how bad the worst of them is.
///
/// # Errors
/// The configuration cannot be used.
pub async fn run(config: Config, check: Check) -> Result<ExitCode, CommandError> {
    let setup = servers::setup(config)?;
    let mut findings = Vec::new();
    let mut complete = true;
    let (mut source, source_answers) = match facts::source::gather(&setup).await {
        Ok(facts) => (facts, true),
        Err(error) => {
            findings.push(broken(&error).on("source"));
            (SourceFacts::default(), false)
        }
    };
    let gathering = setup.targets.iter().map(|target| facts::target::gather(&setup, target, &source));
    let targets = join_all(gathering).await;
    facts::source::look_again(&setup, &mut source).await;
    source.known = known(&targets);
    source.copying = targets.iter().flatten().map(|facts| i64::from(facts.copying)).sum();
    if source_answers {
        findings.extend(judge::source::judge(&source));
    }
    complete &= source_answers;
    let mut seen = BTreeMap::new();
    for (target, facts) in setup.targets.iter().zip(&targets) {
        match facts {
            Ok(facts) => {
                findings.extend(judge::target::judge(&target.name, facts, &source));
                findings.extend(twice(&mut seen, &target.name, facts).map(|finding| finding.on(&target.name)));
                complete &= facts.tables_known;
            }
            Err(error) => {
                findings.push(broken(error).on(&target.name));
                complete = false;
            }
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    report::show(findings, complete, check)
}

/// Whether a target knows the stream. `None` when none that can be asked does and others cannot be.
fn known(targets: &[Result<TargetFacts, CommandError>]) -> Option<bool> {
    let answers = |facts: &&TargetFacts| !facts.schema || facts.may_use_schema;
    let asked: Vec<&TargetFacts> = targets.iter().flatten().filter(answers).collect();
    match asked.iter().any(|facts| facts.stored.is_some()) {
        true => Some(true),
        false => (asked.len() == targets.len()).then_some(false),
    }
}

/// The database of a target that was there before. `seen`: whose they are.
fn twice<'a>(seen: &mut BTreeMap<(String, String), &'a str>, name: &'a str, facts: &TargetFacts) -> Option<Finding> {
    let database = (facts.system_identifier.clone()?, facts.server.database.clone());
    let first = seen.insert(database, name)?;
    let finding = Finding::new(Code::TargetTwice, "url", format!("leads to the database of target \"{first}\" too"))
        .why("each change would be applied twice, and both would write one position");
    Some(finding.advice("Take one of the two out of the configuration."))
}

fn broken(error: &CommandError) -> Finding {
    let finding = Finding::new(Code::ConnectionFailed, "connection", chain(error))
        .why("nothing goes to or from this server, and what else is wrong with it is not known");
    match error.verdict() {
        Verdict::Halt { hint } => finding.advice(hint),
        Verdict::Retry => finding.advice("See whether the server runs, and whether it can be reached from here."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_targets_that_are_one_database_are_found() {
        let mut seen = BTreeMap::new();
        let facts = |system: Option<&str>, database: &str| {
            let mut facts = TargetFacts { system_identifier: system.map(str::to_owned), ..TargetFacts::default() };
            facts.server.database = database.to_owned();
            facts
        };
        assert!(twice(&mut seen, "a", &facts(Some("1"), "shop")).is_none());
        assert!(twice(&mut seen, "b", &facts(Some("1"), "other")).is_none());
        assert!(twice(&mut seen, "c", &facts(Some("2"), "shop")).is_none());
        assert!(twice(&mut seen, "d", &facts(None, "shop")).is_none(), "nobody knows");
        let found = twice(&mut seen, "e", &facts(Some("1"), "shop")).unwrap();
        assert!(found.what.contains("target \"a\""), "{found:?}");
    }
}
