//! Why a command does not do what it was asked: what it was about, the cause, and the way out.
//!
//! The stages' own errors come in with their verdicts; out goes one line, a hint, and the exit code.

use std::error::Error;

use crate::cli::ExitCode;
use crate::error::{Judged, Verdict};

/// A command that could not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct CommandError {
    what: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
    verdict: Verdict,
}

impl CommandError {
    /// Refused, or impossible until somebody acts; `hint` says how.
    pub fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, verdict: Verdict::halt(hint) }
    }

    /// Failed; it may go well another time.
    pub fn failed(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, verdict: Verdict::Retry }
    }

    /// A stage's error, with what the command was doing.
    pub fn at(what: impl Into<String>, source: impl Judged + Send + Sync + 'static) -> Self {
        let verdict = source.verdict();
        Self { what: what.into(), source: Some(Box::new(source)), verdict }
    }

    /// The same, with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What the process answers.
    pub fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Verdict::Retry => ExitCode::Failure,
            Verdict::Halt { .. } => ExitCode::Refused,
        }
    }
}

impl Judged for CommandError {
    fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    #[test]
    fn a_refusal_says_how_and_a_failure_may_pass() {
        let refused = CommandError::refused("the slot is in use", "Stop the daemon.");
        assert_eq!(refused.exit_code(), ExitCode::Refused);
        assert_eq!(refused.verdict(), Verdict::halt("Stop the daemon."));
        let failed = CommandError::failed("cannot start").because(std::io::Error::other("no such file"));
        assert_eq!((failed.exit_code(), chain(&failed).as_str()), (ExitCode::Failure, "cannot start: no such file"));
        let outer = CommandError::at("slot reset", refused);
        assert_eq!((outer.exit_code(), chain(&outer).as_str()), (ExitCode::Refused, "slot reset: the slot is in use"));
    }
}
