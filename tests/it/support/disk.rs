//! A disk of its own for a part of a server's data, which a test can fill up: "No space left on device" as it is.
//!
//! It is a tmpfs in a mount namespace that only its servers see, so that nothing has to be unmounted, however a test
//! ends. A process that does nothing else holds the namespace while the servers come and go. Linux only, by root.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// See the module.
#[derive(Debug)]
pub struct Disk {
    holder: Child,
    ballast: PathBuf,
}

impl Disk {
    /// In place of this directory, with what is in it.
    pub fn mount(directory: &Path, megabytes: u32) -> Self {
        const SCRIPT: &str = r#"
            set -e
            mkdir "$1.new"
            mount -t tmpfs -o "size=$2m" tmpfs "$1.new"
            cp -a "$1/." "$1.new/"
            mount --move "$1.new" "$1"
            rmdir "$1.new"
            echo mounted
            read -r _ || true
        "#;
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", SCRIPT, "disk"])
            .arg(directory)
            .arg(megabytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot run unshare");
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut said).expect("cannot read");
        assert_eq!(said, "mounted\n", "a disk of its own needs root, on Linux");
        let seen = format!("/proc/{}/root{}", holder.id(), directory.display());
        Self { holder, ballast: PathBuf::from(seen).join("ballast") }
    }

    /// A command that sees it, and replaces itself as `program` does.
    pub fn seeing(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg("--").arg(program);
        command
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let mut ballast = std::fs::File::create(&self.ballast).expect("cannot write");
        for size in [1 << 20, 4096] {
            let block = vec![1; size];
            let error = loop {
                if let Err(error) = ballast.write_all(&block) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// There is room again.
    pub fn free(&self) {
        std::fs::remove_file(&self.ballast).expect("it was not filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
