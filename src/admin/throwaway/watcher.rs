//! Nothing that is started here may outlive this process, however it ends.
//!
//! A small shell reads a pipe that only this process holds open, and in it which processes were started and which have
//! ended. When the pipe closes, it ends those that are left and removes the directory: also after SIGKILL.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::admin::CommandError;

const SCRIPT: &str = r#"
    running=
    while read -r word pid signal; do
        [ "$signal" = GROUP ] && pid=-$pid signal=KILL
        rest=
        for other in $running; do case ${other%/*} in "$pid" | "-$pid") ;; *) rest="$rest $other" ;; esac; done
        running=$rest
        [ "$word" = started ] && running="$running $pid/$signal"
    done
    for one in $running; do kill -s "${one#*/}" -- "${one%/*}" 2>/dev/null; done
    for one in $running; do
        turns=0
        while kill -s 0 -- "${one%/*}" 2>/dev/null && [ "$turns" -lt 100 ]; do
            turns=$((turns + 1))
            sleep 0.1
        done
        kill -s KILL -- "${one%/*}" 2>/dev/null
    done
    [ "$1" = keep ] || rm -rf "$2"
"#;

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// PostgreSQL's immediate shutdown, which releases its shared memory; KILL would not.
    Quit,
    /// For what has nothing to release.
    Kill,
    /// For the leader of a process group, with the whole group.
    Group,
}

/// See the module. Dropping it closes the pipe and waits until the shell is done.
#[derive(Debug)]
pub struct Watcher(Mutex<Child>);

impl Watcher {
    /// Watches over what will be started, and over this directory, which stays with `keep`.
    ///
    /// # Errors
    /// No shell can be started.
    pub fn start(directory: &Path, keep: bool) -> Result<Self, CommandError> {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "walferry-watcher", if keep { "keep" } else { "remove" }])
            .arg(directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches the whole group of this process; the shell has to outlive it.
            .process_group(0)
            .spawn();
        child
            .map(|child| Self(Mutex::new(child)))
            .map_err(|source| CommandError::failed("cannot start sh").because(source))
    }

    /// A process to be ended with this one.
    ///
    /// # Errors
    /// The shell is gone.
    pub fn started(&self, pid: u32, end: End) -> Result<(), CommandError> {
        let signal = match end {
            End::Quit => "QUIT",
            End::Kill => "KILL",
            End::Group => "GROUP",
        };
        self.tell(&format!("started {pid} {signal}"))
            .map_err(|source| CommandError::failed("the shell that watches over the servers is gone").because(source))
    }

    /// The process has ended; its id may become another's.
    pub fn ended(&self, pid: u32) {
        // Told while cleaning up: with the shell gone, there is nobody who could act on the id.
        drop(self.tell(&format!("ended {pid}")));
    }

    fn tell(&self, message: &str) -> std::io::Result<()> {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut child.stdin {
            Some(pipe) => writeln!(pipe, "{message}"),
            None => Ok(()),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let child = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(child.stdin.take());
        // It ends by itself now; if waiting fails, it does so unseen.
        drop(child.wait());
    }
}

/// Sends a signal by name. Through a shell, as there is no safe call for it in Rust's library.
pub fn signal(pid: u32, name: &str) -> std::io::Result<()> {
    kill(name, &pid.to_string()).map(drop)
}

/// As [`signal`], to every process of the group that this one leads.
pub fn signal_group(leader: u32, name: &str) -> std::io::Result<()> {
    kill(name, &format!("-{leader}")).map(drop)
}

/// Whether a process of the group is left.
pub fn group_is_alive(leader: u32) -> bool {
    kill("0", &format!("-{leader}")).unwrap_or(false)
}

/// Whether the signal was sent to anybody.
fn kill(name: &str, whom: &str) -> std::io::Result<bool> {
    let mut kill = Command::new("sh");
    kill.args(["-c", r#"kill -s "$1" -- "$2""#, "kill", name, whom]).stderr(Stdio::null());
    kill.status().map(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn what_is_left_when_the_pipe_closes_is_ended_and_the_directory_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut left, mut other) = (sleeper(), sleeper());
        let watcher = Watcher::start(directory.path(), false).unwrap();
        watcher.started(left.id(), End::Kill).unwrap();
        watcher.started(other.id(), End::Quit).unwrap();
        watcher.ended(other.id());
        // Reaps the child as its parent would be gone in earnest, and the shell need not wait for a zombie.
        let reaper = std::thread::spawn(move || left.wait().unwrap());
        drop(watcher);
        assert!(!reaper.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "what had ended for the watcher was not touched");
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!directory.path().exists());
    }

    #[test]
    fn a_group_is_ended_with_its_leader() {
        let directory = tempfile::tempdir().unwrap();
        let mut leader = Command::new("sh").args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap();
        let group = leader.id();
        let watcher = Watcher::start(directory.path(), false).unwrap();
        watcher.started(group, End::Group).unwrap();
        let mut other = Command::new("sh").args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap();
        watcher.started(other.id(), End::Group).unwrap();
        watcher.ended(other.id());
        let reaper = std::thread::spawn(move || leader.wait().unwrap());
        drop(watcher);
        assert!(!reaper.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "what had ended for the watcher was not touched");
        assert!(group_is_alive(other.id()));
        signal_group(other.id(), "KILL").unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn the_directory_stays_when_it_shall() {
        let directory = tempfile::tempdir().unwrap();
        drop(Watcher::start(directory.path(), true).unwrap());
        assert!(directory.path().exists());
    }
}
