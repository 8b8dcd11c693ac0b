//! The servers' place on this machine: a temporary directory, who runs there, what may not outlive it.

use std::path::{Path, PathBuf};
use std::process::Command;

use ring::rand::{SecureRandom, SystemRandom};
use tempfile::TempDir;

use super::account::{Account, temporary};
use super::binaries::Binaries;
use super::watcher::Watcher;
use crate::admin::CommandError;

/// See the module. Dropping it removes everything, unless it is to be kept.
pub struct Site {
    /// PostgreSQL's programs.
    pub binaries: Binaries,
    /// Every role's password.
    pub password: String,
    /// Knows every process.
    pub watcher: Watcher,
    account: Option<Account>,
    // The last field: removed when nobody writes to it any more.
    directory: TempDir,
}

impl Site {
    /// Makes the directory, for servers by these programs; its name begins with `walferry-` and what it is `for_what`.
    ///
    /// # Errors
    /// Something that servers need is not there.
    pub fn prepare(binaries: Binaries, for_what: &str, keep: bool) -> Result<Self, CommandError> {
        let account = Account::for_servers()?;
        let mut directory =
            tempfile::Builder::new()
                .prefix(&format!("walferry-{for_what}-"))
                .tempdir_in(temporary())
                .map_err(|source| CommandError::failed("cannot make a temporary directory").because(source))?;
        directory.disable_cleanup(keep);
        if let Some(account) = account {
            account.own(directory.path())?;
        }
        let watcher = Watcher::start(directory.path(), keep)?;
        Ok(Self { binaries, password: password()?, watcher, account, directory })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file that only the servers' user (and root) can read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, CommandError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path(name);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| CommandError::failed(format!("cannot write {}", path.display())).because(source))?;
        if let Some(account) = self.account {
            account.own(&path)?;
        }
        Ok(path)
    }

    /// One of PostgreSQL's programs, run as the servers' user, untouched by the caller's `PG*` variables.
    pub fn program(&self, name: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.binaries.directory.join(name));
        without_pg_variables(&mut command);
        // Setting the user id also gives up root's supplementary groups.
        if let Some(account) = self.account {
            command.gid(account.gid).uid(account.uid);
        }
        // A group of its own: Ctrl-C is this process's to deal with.
        command.current_dir(self.directory()).process_group(0);
        command
    }
}

/// The caller's `PG*` variables are meant for other servers than these.
pub fn without_pg_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
}

fn password() -> Result<String, CommandError> {
    Ok(random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Random bytes, fit for secrets.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> Result<[u8; N], CommandError> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(ring::error::Unspecified) => Err(CommandError::failed("the system gives no random numbers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_differ() {
        let (one, other) = (password().unwrap(), password().unwrap());
        assert!(one.len() == 32 && one != other);
    }
}
