//! What to do about an error: the one question every stage's own error type answers.

/// The two ways an error can be met. There is no third: nothing is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass by itself (a lost connection, a deadlock, a server that restarts): try again with backoff.
    Retry,
    /// It will not pass until somebody acts.
    Halt {
        /// What to do about it, in one or two sentences, with the statement or setting where there is one.
        hint: String,
    },
}

impl Verdict {
    /// Stop, with the way out.
    pub fn halt(hint: impl Into<String>) -> Self {
        Verdict::Halt { hint: hint.into() }
    }
}

/// An error that knows its verdict.
pub trait Judged: std::error::Error {
    /// Retry, or halt and say what helps.
    fn verdict(&self) -> Verdict;
}

/// The error and everything it was caused by, in one line. `Display` of an error never repeats its source.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
