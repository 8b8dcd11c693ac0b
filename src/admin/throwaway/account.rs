//! Who the servers run as: PostgreSQL refuses to run as root.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::admin::CommandError;

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Id of its group.
    pub gid: u32,
}

impl Account {
    /// The account for the servers; `None`: that of this process.
    ///
    /// # Errors
    /// This process is root's and there is no other user to be.
    pub fn for_servers() -> Result<Option<Self>, CommandError> {
        if id("-u", None) != Some(0) {
            return Ok(None);
        }
        let known = |name| Some(Self { uid: id("-u", Some(name))?, gid: id("-g", Some(name))? });
        ["postgres", "nobody"].into_iter().find_map(known).map(Some).ok_or_else(|| {
            CommandError::refused(
                "PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody",
                "Run it as another user.",
            )
        })
    }

    /// Gives the file or directory to the account.
    ///
    /// # Errors
    /// It may not be given away.
    pub fn own(self, path: &Path) -> Result<(), CommandError> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(|source| {
            CommandError::failed(format!("cannot give {} to the servers' user", path.display())).because(source)
        })
    }
}

/// Where a directory can be made that every user can get into.
pub fn temporary() -> PathBuf {
    let wanted = std::env::temp_dir();
    let open = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    if wanted.is_absolute() && wanted.ancestors().all(open) { wanted } else { PathBuf::from("/tmp") }
}

fn id(what: &str, user: Option<&str>) -> Option<u32> {
    let output = Command::new("id").arg(what).args(user).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
