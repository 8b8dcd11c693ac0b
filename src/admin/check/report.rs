//! How findings are told: as text or as JSON, and as an exit code.

use serde::Serialize;

use super::finding::{Finding, Severity};
use crate::admin::CommandError;
use crate::admin::output::{self, line};
use crate::cli::{Check, ExitCode};

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

/// Prints the findings and says what the process answers. `complete`: everything could be looked at.
///
/// # Errors
/// Standard output cannot be written to.
pub fn show(findings: Vec<Finding>, complete: bool, check: Check) -> Result<ExitCode, CommandError> {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let code = exit_code(errors, warnings, check.strict);
    if check.output.json {
        output::json(&Report { ok: errors == 0, complete, findings })?;
        return Ok(code);
    }
    findings.iter().try_for_each(|finding| line(&text(finding)))?;
    line(&closing(errors, warnings, complete))?;
    Ok(code)
}

/// Servers that do not fit are for whoever runs this what a configuration is that cannot be used.
fn exit_code(errors: usize, warnings: usize, strict: bool) -> ExitCode {
    match (errors, warnings) {
        (0, 0) => ExitCode::Success,
        (0, _) if strict => ExitCode::Failure,
        (0, _) => ExitCode::Success,
        _ => ExitCode::Usage,
    }
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
    let Finding { code, severity, server, object, what, why, sql, restart, advice } = finding;
    let mut text = format!("{:<8} {server}: {object} {what} [{}]\n", severity.as_str(), code.as_str());
    let mut add = |label: &str, words: &str| text += &format!("         {label:<8} {words}\n");
    if !why.is_empty() {
        add("why:", why);
    }
    for (place, statement) in sql.iter().enumerate() {
        add(if place == 0 { "mend:" } else { "" }, &format!("{statement};"));
    }
    if *restart {
        add("then:", "restart the server (managed servers: their parameters instead of ALTER SYSTEM)");
    }
    if let Some(advice) = advice {
        add(if sql.is_empty() { "mend:" } else { "or:" }, advice);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::check::code::Code;
    use crate::sql::Sql;

    #[test]
    fn the_exit_code_says_whether_somebody_has_to_act() {
        for (errors, warnings, usual, strict) in [
            (0, 0, ExitCode::Success, ExitCode::Success),
            (0, 1, ExitCode::Success, ExitCode::Failure),
            (1, 0, ExitCode::Usage, ExitCode::Usage),
            (1, 1, ExitCode::Usage, ExitCode::Usage),
        ] {
            let codes = (exit_code(errors, warnings, false), exit_code(errors, warnings, true));
            assert_eq!(codes, (usual, strict), "{errors} errors, {warnings} warnings");
        }
    }

    #[test]
    fn what_was_not_looked_at_is_no_all_clear() {
        assert_eq!(closing(0, 0, true), "Nothing stands against replication.");
        assert!(closing(0, 1, false).contains("not everything could be looked at"));
        assert!(closing(2, 1, false).starts_with("2 errors"));
    }

    #[test]
    fn a_finding_is_shown_with_its_way_out() {
        let finding = Finding::new(Code::WalLevel, "wal_level", "is replica").why("the WAL lacks it").on("source");
        let logical = Sql::literal("logical");
        assert_eq!(
            text(&finding.clone().restarted("wal_level", &logical).advice("ask")),
            "error    source: wal_level is replica [wal-level]\n         why:     the WAL lacks it\n         \
             mend:    ALTER SYSTEM SET wal_level = 'logical';\n         then:    restart the server (managed \
             servers: their parameters instead of ALTER SYSTEM)\n         or:      ask\n"
        );
        assert!(text(&finding.advice("ask")).ends_with("         mend:    ask\n"));
    }
}
