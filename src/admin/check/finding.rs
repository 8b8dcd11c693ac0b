//! What a check found: its code, severity, where, what, why it matters, and what mends it.

use serde::Serialize;

use super::code::Code;
use crate::sql::Sql;

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

/// See the module. The README's table of fields speaks of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, for scripts.
    pub code: Code,
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
    /// The statements that mend it, to be run on that server one after the other by a role that may. Each is a whole
    /// one, and some cannot run in a transaction.
    pub sql: Vec<String>,
    /// Whether the server has to be restarted after them.
    pub restart: bool,
    /// What to do where no statement mends it, or instead of it.
    pub advice: Option<String>,
}

impl Finding {
    /// As bad as its code says.
    pub fn new(code: Code, object: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            server: String::new(),
            object: object.into(),
            what: what.into(),
            why: String::new(),
            sql: Vec::new(),
            restart: false,
            advice: None,
        }
    }

    /// Why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// A statement that mends it, after those that were given before.
    #[must_use]
    pub fn sql(mut self, statement: &Sql) -> Self {
        self.sql.push(statement.as_str().to_owned());
        self
    }

    /// These statements mend it.
    #[must_use]
    pub fn script<'a>(self, statements: impl IntoIterator<Item = &'a Sql>) -> Self {
        statements.into_iter().fold(self, Self::sql)
    }

    /// A setting that is taken over when the configuration is read again.
    #[must_use]
    pub fn reloaded(self, name: &'static str, value: &Sql) -> Self {
        self.sql(&Sql::format("ALTER SYSTEM SET {} = {}", &[&Sql::new(name), value]))
            .sql(&Sql::new("SELECT pg_reload_conf()"))
    }

    /// A setting that takes a restart.
    #[must_use]
    pub fn restarted(mut self, name: &'static str, value: &Sql) -> Self {
        self.restart = true;
        self.sql(&Sql::format("ALTER SYSTEM SET {} = {}", &[&Sql::new(name), value]))
    }

    /// What to do where no statement mends it, or instead of it.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same, about this server.
    #[must_use]
    pub fn on(mut self, server: &str) -> Self {
        server.clone_into(&mut self.server);
        self
    }
}
