//! Finds PostgreSQL's server programs on this machine.
//!
//! Packages put them in places that are not on the PATH, as several versions may be installed side by side.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::admin::CommandError;

/// The oldest version that walferry works with.
const OLDEST: u32 = 14;

/// `parent/prefix*/bin`: Debian and Ubuntu; Red Hat and Fedora (PostgreSQL's packages); Homebrew on both kinds of Mac;
/// Postgres.app.
const PLACES: &[(&str, &str)] = &[
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql"),
    ("/usr/local/opt", "postgresql"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
    ("/usr/local", "pgsql"),
];

/// A directory with `initdb` and `postgres`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// Where.
    pub directory: PathBuf,
    /// The major version.
    pub major: u32,
}

/// Those in this directory.
///
/// # Errors
/// It has none, or they do not run here.
pub fn in_directory(directory: &Path) -> Result<Binaries, CommandError> {
    examine(directory).ok_or_else(|| {
        let what = format!("no PostgreSQL server programs (initdb, postgres) that run here in {}", directory.display());
        CommandError::refused(what, "Name the directory that holds them.")
    })
}

/// Those of this major version: in the directory that the environment names in `WALFERRY_PG_BIN_<major>`, else on the
/// PATH or where packages put them.
///
/// # Errors
/// There are none.
pub fn of_major(major: u32) -> Result<Binaries, CommandError> {
    let variable = format!("WALFERRY_PG_BIN_{major}");
    let named = std::env::var_os(&variable).and_then(|directory| examine(Path::new(&directory)));
    let (on_path, elsewhere) = everywhere();
    let mut all = named.into_iter().chain(on_path).chain(elsewhere);
    all.find(|binaries| binaries.major == major).ok_or_else(|| {
        let what = format!("no server programs of PostgreSQL {major} found on this machine");
        CommandError::refused(what, format!("Install them, or name their directory in {variable}."))
    })
}

/// Those on the PATH, else the newest.
///
/// # Errors
/// There are none, or only such that are too old.
pub fn find() -> Result<Binaries, CommandError> {
    let (on_path, elsewhere) = everywhere();
    choose(on_path, elsewhere)
}

/// On the PATH, and where packages put them.
fn everywhere() -> (Vec<Binaries>, Vec<Binaries>) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter_map(|directory| examine(&directory)).collect();
    let packaged = PLACES.iter().flat_map(|(parent, prefix)| below(Path::new(parent), prefix));
    (on_path, packaged.chain(pg_config()).filter_map(|directory| examine(&directory)).collect())
}

fn choose(on_path: Vec<Binaries>, mut elsewhere: Vec<Binaries>) -> Result<Binaries, CommandError> {
    elsewhere.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    let all: Vec<Binaries> = on_path.into_iter().chain(elsewhere).collect();
    if let Some(found) = all.iter().find(|binaries| binaries.major >= OLDEST) {
        return Ok(found.clone());
    }
    let hint = format!(
        "Install PostgreSQL {OLDEST} or later: apt install postgresql (Debian, Ubuntu), dnf install postgresql-server \
         (Fedora, Red Hat), brew install postgresql@17 (macOS); or put the directory of its programs on the PATH."
    );
    let what = match all.first() {
        None => "no PostgreSQL server programs (initdb, postgres) found on this machine".to_owned(),
        Some(old) => {
            format!("the PostgreSQL server found, {} in {}, is too old", old.major, old.directory.display())
        }
    };
    Err(CommandError::refused(what, hint))
}

fn below(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    // What is not there, or not readable, has no programs to offer.
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let fits = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    entries.filter(fits).map(|entry| entry.path().join("bin")).collect()
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn examine(directory: &Path) -> Option<Binaries> {
    if !directory.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    let major = major(&String::from_utf8_lossy(&output.stdout))?;
    Some(Binaries { directory: directory.to_owned(), major })
}

/// Of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `postgres (PostgreSQL) 17beta2`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL)")?.1.trim_start();
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Judged, Verdict};

    fn binaries(directory: &str, major: u32) -> Binaries {
        Binaries { directory: directory.into(), major }
    }

    #[test]
    fn a_version_is_read_as_packages_print_it() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 17beta2\n"), Some(17));
        assert_eq!(major("postgres: not found"), None);
    }

    #[test]
    fn the_path_comes_first_and_then_the_newest() {
        let packaged = vec![binaries("/b", 15), binaries("/c", 17)];
        assert_eq!(choose(vec![binaries("/a", 14)], packaged.clone()).unwrap(), binaries("/a", 14));
        assert_eq!(choose(vec![binaries("/a", 13)], packaged).unwrap(), binaries("/c", 17));
    }

    #[test]
    fn nothing_to_run_says_what_to_install() {
        for (found, says) in [(vec![], "no PostgreSQL server programs"), (vec![binaries("/a", 9)], "9 in /a")] {
            let error = choose(found, vec![]).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(matches!(error.verdict(), Verdict::Halt { hint } if hint.contains("apt install postgresql")));
        }
    }
}
