//! `walferry check`: everything that would keep replication from working, or surprise somebody later, found beforehand.
//!
//! ```text
//!   source ──▶ source_facts ──▶ source (judgements) ──┐
//!   target ──▶ target_facts ──▶ target (judgements) ──┴▶ findings ──▶ text or JSON, exit code
//! ```
//! Gathering changes nothing; judging is pure. Each finding says what is the case, why it matters, and what mends it.

mod finding;
mod source;
mod source_facts;
mod target;
mod target_facts;

use futures_util::future::join_all;
use serde::Serialize;

use self::finding::{Finding, Severity};
use self::target_facts::TargetFacts;
use super::output::{self, line};
use super::{CommandError, servers};
use crate::cli::{ExitCode, Output};
use crate::config::Config;
use crate::error::{Judged, Verdict, chain};

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing that was found stands against replication.
    ok: bool,
    /// Whether everything could be looked at.
    complete: bool,
    /// The worst first.
    findings: Vec<Finding>,
}

/// Prints the findings. [`ExitCode::Refused`] when one would stop replication, [`ExitCode::Failure`] when a server
/// cannot be reached and that is all.
///
/// # Errors
/// The configuration cannot be used.
pub async fn run(config: Config, output: Output) -> Result<ExitCode, CommandError> {
    let setup = servers::setup(config)?;
    let mut findings = Vec::new();
    let (mut unreachable, mut complete) = (false, true);
    let (mut source, source_answers) = match source_facts::gather(&setup).await {
        Ok(facts) => (facts, true),
        Err(error) => {
            unreachable = true;
            findings.push(broken(&error).on("source"));
            (source_facts::SourceFacts::default(), false)
        }
    };
    let published = source.publication.published();
    let targets = join_all(setup.targets.iter().map(|target| target_facts::gather(&setup, target, published))).await;
    source.known = known(&targets);
    source.copying = targets.iter().flatten().map(|facts| i64::from(facts.copying)).sum();
    if source_answers {
        findings.extend(source::judge(&source));
    }
    for (target, facts) in setup.targets.iter().zip(targets) {
        match facts {
            Ok(facts) => {
                findings.extend(target::judge(&target.name, &facts, source.position.as_ref()));
                if !facts.tables_known {
                    complete = false;
                    findings.push(
                        Finding::warning("tables", "were not looked at yet: see the other findings").on(&target.name),
                    );
                }
            }
            Err(error) => {
                unreachable = true;
                findings.push(broken(&error).on(&target.name));
            }
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    show(findings, unreachable, complete && !unreachable, output)
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

fn broken(error: &CommandError) -> Finding {
    let finding = Finding::error("connection", chain(error));
    match error.verdict() {
        Verdict::Halt { hint } => finding.mend(hint),
        Verdict::Retry => finding,
    }
}

fn show(findings: Vec<Finding>, unreachable: bool, complete: bool, output: Output) -> Result<ExitCode, CommandError> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
    let only_connections = || {
        let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        unreachable && errors.all(|finding| finding.object == "connection" && finding.mend.is_none())
    };
    let code = match errors {
        0 => ExitCode::Success,
        _ if only_connections() => ExitCode::Failure,
        _ => ExitCode::Refused,
    };
    if output.json {
        output::json(&Report { ok: errors == 0, complete, findings })?;
        return Ok(code);
    }
    findings.iter().try_for_each(|finding| line(&text(finding)))?;
    line(&closing(errors, warnings, complete))?;
    Ok(code)
}

fn closing(errors: usize, warnings: usize, complete: bool) -> String {
    match (errors, warnings) {
        (0, _) if !complete => format!(
            "Nothing that was found stands against replication, but not everything could be looked at; {warnings} \
             warnings."
        ),
        (0, 0) => "Nothing stands against replication.".to_owned(),
        (0, _) => format!("Nothing stands against replication; {warnings} warnings."),
        _ => format!("{errors} errors, {warnings} warnings: replication will not work before the errors are mended."),
    }
}

fn text(finding: &Finding) -> String {
    let Finding { severity, server, object, what, why, mend } = finding;
    let mut text = format!("{:<8} {server}: {object} {what}\n", severity.as_str());
    if !why.is_empty() {
        text += &format!("         why:  {why}\n");
    }
    if let Some(mend) = mend {
        text += &format!("         mend: {mend}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Output = Output { json: true };

    fn code(findings: Vec<Finding>, unreachable: bool) -> ExitCode {
        show(findings, unreachable, !unreachable, JSON).unwrap()
    }

    #[test]
    fn the_exit_code_says_whether_somebody_has_to_act() {
        assert_eq!(code(vec![], false), ExitCode::Success);
        assert_eq!(code(vec![Finding::warning("a", "b")], false), ExitCode::Success);
        assert_eq!(code(vec![Finding::error("a", "b")], false), ExitCode::Refused);
        let down = || Finding::error("connection", "refused");
        assert_eq!(code(vec![down()], true), ExitCode::Failure);
        assert_eq!(code(vec![down(), Finding::error("a", "b")], true), ExitCode::Refused);
    }

    #[test]
    fn what_was_not_looked_at_is_no_all_clear() {
        assert_eq!(closing(0, 0, true), "Nothing stands against replication.");
        assert!(closing(0, 1, false).contains("not everything could be looked at"));
        assert!(closing(2, 1, false).starts_with("2 errors"));
    }

    #[test]
    fn a_finding_is_shown_with_its_way_out() {
        let finding =
            Finding::error("wal_level", "is replica").why("the WAL lacks it").mend("ALTER SYSTEM").on("source");
        assert_eq!(
            text(&finding),
            "error    source: wal_level is replica\n         why:  the WAL lacks it\n         mend: ALTER SYSTEM\n"
        );
    }
}
