//! What a check found: severity, where, what, why it matters, and what mends it.

use serde::Serialize;

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Replication will not work, or not start.
    Error,
    /// It works until something happens, or something is not as one might think.
    Warning,
    /// To be known.
    Info,
}

impl Severity {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// `source`, or the target's name.
    pub server: String,
    /// The table, role, setting.
    pub object: String,
    /// What is the case.
    pub what: String,
    /// Why it matters; empty when that is plain.
    pub why: String,
    /// The statement or setting that mends it.
    pub mend: Option<String>,
}

impl Finding {
    fn new(severity: Severity, object: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            severity,
            server: String::new(),
            object: object.into(),
            what: what.into(),
            why: String::new(),
            mend: None,
        }
    }

    /// Something that keeps replication from working.
    pub fn error(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, object, what)
    }

    /// Something that may go wrong later.
    pub fn warning(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, object, what)
    }

    /// Something to know.
    pub fn info(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Info, object, what)
    }

    /// Why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// The statement or setting that mends it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// The same, about this server.
    #[must_use]
    pub fn on(mut self, server: &str) -> Self {
        server.clone_into(&mut self.server);
        self
    }
}
