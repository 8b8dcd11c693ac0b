//! What a connection string may draw on outside itself: `PG*` variables, home directory, user name, directories.
//! A value, so that tests (and callers who must not be influenced) can give their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::ConnInfoError;
use super::settings::Origin;

/// Where Debian, Red Hat and the PostgreSQL packages put the socket; PostgreSQL built from source uses `/tmp`.
const PACKAGED_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Variables, names and directories. `Debug` shows no values of variables: `PGPASSWORD` is one.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    /// For `~/.pgpass`, `~/.pg_service.conf`, `~/.postgresql`.
    pub home: Option<PathBuf>,
    /// The operating system's name for the effective user.
    pub user: Option<String>,
    /// Where the socket is when no host is given.
    pub socket_directory: PathBuf,
    /// Where `pg_service.conf` is looked for last, unless `PGSYSCONFDIR` says otherwise.
    pub system_config_directories: Vec<PathBuf>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("PG"))
            .collect();
        let packaged = Path::new(PACKAGED_SOCKET_DIRECTORY);
        Self {
            variables,
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            user: whoami::username().ok().filter(|user| !user.is_empty()),
            socket_directory: if packaged.is_dir() { packaged.to_owned() } else { "/tmp".into() },
            // Compiled into libpq: Debian's and the PostgreSQL packages' for Red Hat.
            system_config_directories: vec!["/etc/postgresql-common".into(), "/etc/sysconfig/pgsql".into()],
        }
    }

    /// An environment that says nothing but who the user is.
    pub fn bare(user: &str) -> Self {
        Self {
            variables: BTreeMap::new(),
            home: None,
            user: Some(user.to_owned()),
            socket_directory: "/tmp".into(),
            system_config_directories: Vec::new(),
        }
    }

    /// The same with a variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// The same with that home directory.
    #[must_use]
    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// The variable's value for that keyword; set but empty is a value, as it is for libpq.
    pub(super) fn variable(
        &self,
        keyword: &'static str,
        variable: &'static str,
    ) -> Result<Option<String>, ConnInfoError> {
        let Some(value) = self.variables.get(variable) else { return Ok(None) };
        let Some(text) = value.to_str().filter(|text| !text.contains('\0')) else {
            let origin = Origin::Variable(variable);
            return Err(ConnInfoError::Invalid { keyword, origin, value: None, expected: "UTF-8 text" });
        };
        Ok(Some(text.to_owned()))
    }

    /// A variable that holds a path.
    pub(super) fn path(&self, variable: &str) -> Option<PathBuf> {
        self.variables.get(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A file in the home directory, if there is a home directory.
    pub(super) fn in_home(&self, file: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_debug_form_names_variables_and_hides_their_values() {
        let shown = format!("{:?}", Environment::bare("ann").with("PGPASSWORD", "hunter2"));
        assert!(shown.contains("PGPASSWORD") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_process_knows_who_it_runs_as() {
        assert!(Environment::of_process().user.is_some());
    }
}
