//! Ends a child process when the test process dies, however it dies.
//!
//! A small shell reads a pipe that only the test process holds open. When that closes without the guard having been
//! dropped first, the test was killed: the shell ends the child and removes its files.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// See the module. Dropping it lifts the guard; the child is then its owner's to end.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Sends `signal` to process `pid` and removes `files` once it is gone, should this process die first.
    pub fn new(pid: u32, signal: &str, files: &Path) -> Self {
        const SCRIPT: &str = r#"
            read -r _
            kill -s "$2" "$1" 2>/dev/null
            turns=0
            while kill -0 "$1" 2>/dev/null; do
                turns=$((turns + 1))
                [ "$turns" -lt 100 ] || kill -s KILL "$1" 2>/dev/null
                sleep 0.1
            done
            rm -rf "$3"
        "#;
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "guard", &pid.to_string(), signal])
            .arg(files)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A runner that kills the test's process group must not take the guard with it.
            .process_group(0)
            .spawn()
            .expect("cannot start sh");
        Self(child)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Killed before the pipe closes, so it never acts.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
