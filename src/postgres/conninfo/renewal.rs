//! Secrets that change: a connection string, with the files it leads to, is read anew for every connection.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::ConnectOptions;
use crate::error::Verdict;
use crate::postgres::PgError;

/// Where options come from.
#[derive(Clone, Debug)]
pub enum Renewal {
    /// This connection string; its password file, service file and root certificate may be others than before.
    Text(SecretString),
    /// The connection string in this file.
    File(PathBuf),
}

impl ConnectOptions {
    /// Has the options resolved anew for every connection: from `file`, or from `text` itself where there is none. A
    /// password that is changed there, or in the password file, counts from the next connection on.
    #[must_use]
    pub fn renewing(self, text: &str, file: Option<&Path>) -> Self {
        let renewal = match file {
            Some(file) => Renewal::File(file.to_owned()),
            None => Renewal::Text(text.into()),
        };
        Self { renewal: Some(renewal), ..self }
    }

    /// The options as they are now; `None` where they are not resolved anew.
    ///
    /// # Errors
    /// They cannot be read now. That may pass: a file may be about to be replaced.
    pub(crate) fn renewed(&self) -> Result<Option<Self>, PgError> {
        let Some(renewal) = &self.renewal else { return Ok(None) };
        let failed = |why: &dyn std::fmt::Display| {
            let of = match renewal {
                Renewal::Text(_) => self.describe(),
                Renewal::File(file) => format!("the connection string in {}", file.display()),
            };
            PgError::no_session(format!("{of}: {why}"), Verdict::Retry)
        };
        let text = match renewal {
            Renewal::Text(text) => text.clone(),
            Renewal::File(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
                // As at the start; and a file that is being written is empty for a moment.
                if text.trim().is_empty() {
                    return Err(failed(&"the file is empty"));
                }
                text.trim_end_matches(['\r', '\n']).into()
            }
        };
        let mut renewed = Self::parse(text.expose_secret()).map_err(|error| failed(&error))?;
        renewed.renewal = Some(renewal.clone());
        renewed.answers_soon = self.answers_soon;
        // One record of what was seen, whichever connection sees it.
        renewed.tls.certificates = self.tls.certificates.clone();
        Ok(Some(renewed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Judged;

    #[test]
    fn a_file_is_read_again_for_every_connection() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://u:one@h/db\n").unwrap();
        let options = ConnectOptions::parse("postgres://u:one@h/db").unwrap();
        assert!(options.renewed().unwrap().is_none(), "what was made by hand stays");
        let options = options.renewing("", Some(file.path()));
        std::fs::write(file.path(), "postgres://u:two@h/db\r\n").unwrap();
        let renewed = options.renewed().unwrap().unwrap();
        assert_eq!(renewed.password.as_ref().unwrap().expose_secret(), "two");
        std::fs::write(file.path(), "postgres://u:three@h/db").unwrap();
        let again = renewed.renewed().unwrap().unwrap();
        assert_eq!(again.password.as_ref().unwrap().expose_secret(), "three");
    }

    #[test]
    fn a_file_that_cannot_be_read_now_is_named_without_what_it_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = ConnectOptions::parse("postgres://u@h/db").unwrap().renewing("", Some(file.path()));
        for wrong in ["postgres://u:hunter2@h/db?sslmode=sometimes", "hunter2", ""] {
            std::fs::write(file.path(), wrong).unwrap();
            let Err(error) = options.renewed() else { panic!("\"{wrong}\" was taken") };
            let text = format!("{error} {error:?}");
            assert!(text.contains(file.path().to_str().unwrap()) && !text.contains("hunter2"), "{text}");
            assert_eq!(error.verdict(), Verdict::Retry);
        }
        let path = file.path().to_owned();
        drop(file);
        assert!(options.renewed().unwrap_err().to_string().contains(path.to_str().unwrap()));
    }
}
