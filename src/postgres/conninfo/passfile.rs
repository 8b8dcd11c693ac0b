//! The password file: lines of `host:port:database:user:password`, the first that matches counts. Facts: PostgreSQL
//! docs, "The Password File"; `passwordFromFile` and `pwdfMatchesString` in fe-connect.c.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::SecretString;

/// The contents of a password file that may be used.
pub(super) struct PassFile(SecretString);

/// What a password is looked up by.
pub(super) struct Wanted<'a> {
    /// `localhost` for the default socket directory.
    pub host: &'a str,
    /// As written, `5432` when nothing is.
    pub port: &'a str,
    pub dbname: &'a str,
    pub user: &'a str,
}

impl PassFile {
    /// Opens the file. None when there is none, or, with a warning in the log, when it must not be used.
    pub fn open(path: &Path) -> Option<Self> {
        match Self::read(path) {
            Ok(text) => text.map(|text| Self(text.into())),
            Err(why) => {
                tracing::warn!("password file {} is ignored: {why}", path.display());
                None
            }
        }
    }

    /// Checks what was opened, not what the name meant a moment before.
    fn read(path: &Path) -> Result<Option<String>, String> {
        // Opening a FIFO would wait for a writer, so look first; what is opened is checked again below.
        match std::fs::metadata(path) {
            Ok(metadata) => usable(&metadata)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        }
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        usable(&file.metadata().map_err(|error| error.to_string())?)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        // Only lines that are text can match; others (another program's encoding) must not disturb them.
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The password of the first line that matches.
    pub fn password(&self, wanted: &Wanted<'_>) -> Option<SecretString> {
        use secrecy::ExposeSecret;
        self.0.expose_secret().lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let mut rest = line.trim_end_matches(['\r', '\n']);
            for field in [wanted.host, wanted.port, wanted.dbname, wanted.user] {
                rest = after_match(rest, field)?;
            }
            Some(unescape(rest).into())
        })
    }
}

fn usable(metadata: &Metadata) -> Result<(), String> {
    if !metadata.is_file() {
        return Err("it is not a plain file".to_owned());
    }
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "it has group or world access (mode {:04o}); permissions should be u=rw (0600) or less",
            mode & 0o7777
        ));
    }
    Ok(())
}

/// What follows the field, if the field is `*` or equals the wanted text (`pwdfMatchesString`).
fn after_match<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut line_chars = line.char_indices();
    while let Some((at, mut c)) = line_chars.next() {
        let escaped = c == '\\';
        if escaped {
            (_, c) = line_chars.next()?;
        }
        match wanted.next() {
            None if c == ':' && !escaped => return Some(&line[at + 1..]),
            Some(expected) if expected == c => {}
            _ => return None,
        }
    }
    None
}

/// The password: up to a bare colon, backslashes removed.
fn unescape(field: &str) -> String {
    let mut password = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => break,
            '\\' => password.push(chars.next().unwrap_or('\\')),
            c => password.push(c),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn found(file: &str, wanted: [&str; 4]) -> Option<String> {
        let [host, port, dbname, user] = wanted;
        let password = PassFile(file.to_owned().into()).password(&Wanted { host, port, dbname, user });
        password.map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_gives_the_password() {
        let file = "# db:5432:shop:ann:comment\ndb:5432:shop:bob:no\ndb:5432:shop:ann:first\r\n*:*:*:*:any\n";
        assert_eq!(found(file, ["db", "5432", "shop", "ann"]).as_deref(), Some("first"));
        assert_eq!(found(file, ["db", "5433", "shop", "ann"]).as_deref(), Some("any"));
    }

    #[test]
    fn escapes_stars_and_colons_are_read_as_libpq_does() {
        for (line, wanted, password) in [
            (r"\:\:1:5432:a\\b:u\:v:p", ["::1", "5432", r"a\b", "u:v"], Some("p")),
            (r"*:*:*:*:a\:b\\c", ["h", "1", "d", "u"], Some(r"a:b\c")),
            (r"*:*:*:*:a:b", ["h", "1", "d", "u"], Some("a")),
            (r"*:*:*:*:end\", ["h", "1", "d", "u"], Some("end\\")),
            ("*:*:*:*:", ["h", "1", "d", "u"], Some("")),
            (r"\*:*:*:*:p", ["h", "1", "d", "u"], None),
            (r"\*:*:*:*:p", ["*", "1", "d", "u"], Some("p")),
            ("h*:*:*:*:p", ["host", "1", "d", "u"], None),
            ("h:1:d", ["h", "1", "d", "u"], None),
            ("h:1:d:u", ["h", "1", "d", "u"], None),
            ("host2:1:d:u:p", ["host", "1", "d", "u"], None),
            ("hös:1:d:u:pä", ["hös", "1", "d", "u"], Some("pä")),
            ("", ["h", "1", "d", "u"], None),
        ] {
            assert_eq!(found(line, wanted).as_deref(), password, "{line}");
        }
    }

    #[test]
    fn a_file_others_could_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".pgpass");
        std::fs::write(&path, "*:*:*:*:p\n").unwrap();
        for (mode, allowed) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o610, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(PassFile::open(&path).is_some(), allowed, "{mode:o}");
        }
        let why = PassFile::read(&path).unwrap_err();
        assert!(why.contains("group or world access (mode 0610)"), "{why}");
    }

    #[test]
    fn what_is_no_plain_file_is_ignored_and_an_absent_file_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(PassFile::read(directory.path()).unwrap_err(), "it is not a plain file");
        assert_eq!(PassFile::read(&directory.path().join("absent")), Ok(None));
    }
}
