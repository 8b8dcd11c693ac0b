//! Text that must not be shown: `Debug`, `Display` and serde write `[hidden]`; only `expose` gives it out.
//!
//! The memory is wiped when the last copy goes (the `secrecy` crate).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

const HIDDEN: &str = "[hidden]";

/// A password, or text that may contain one.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The text. It goes to a server, never into a message.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(SecretString::from(text.into()))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How to reach a server, as libpq takes it: a URL or key=value pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionString {
    secret: Secret,
    file: Option<PathBuf>,
}

impl ConnectionString {
    /// The connection string, password included. It goes to the connection code, never into a message.
    pub fn expose(&self) -> &str {
        self.secret.expose()
    }

    /// The file it was read from (`url_file`); `None` when it was written in the configuration.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The connection string that a file holds, without the line ends after it.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or is empty.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
        }
        Ok(Self { secret: Secret::from(text), file: Some(path.to_owned()) })
    }
}

impl<T: Into<String>> From<T> for ConnectionString {
    fn from(text: T) -> Self {
        Self { secret: Secret::from(text), file: None }
    }
}

/// `[hidden]`, with the file it is kept in.
impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "[hidden, in {}]", file.display()),
            None => f.write_str(HIDDEN),
        }
    }
}

impl Serialize for ConnectionString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::from("hunter2");
        let url = ConnectionString::from("postgres://u:hunter2@h/db");
        let shown = format!("{secret} {secret:?} {secret:#?} {url} {url:?} {url:#?}");
        let json = serde_json::to_string(&(&secret, &url)).unwrap();
        assert!(!shown.contains("hunter2") && !json.contains("hunter2"), "{shown} {json}");
        assert_eq!(json, r#"["[hidden]","[hidden]"]"#);
        assert_eq!(url.expose(), "postgres://u:hunter2@h/db");
    }

    #[test]
    fn a_file_is_read_without_its_last_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("url");
        std::fs::write(&path, "postgres://first \r\n").unwrap();
        let url = ConnectionString::from_file(&path).unwrap();
        assert_eq!(url.expose(), "postgres://first ");
        assert!(url.to_string().contains(path.to_str().unwrap()));
    }

    #[test]
    fn an_empty_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\n").unwrap();
        assert!(ConnectionString::from_file(file.path()).unwrap_err().to_string().contains("empty"));
    }
}
