//! A real systemd, as process 1 of namespaces of its own: it sees this machine's programs and network, and a private
//! copy of everything that it might write to. Only units that a test gives it are started.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::guard::Guard;
use crate::support::prelude::*;
use crate::support::process;

/// What becomes process 1: makes the private copies, and a target that waits for nothing.
const FIRST: &str = r"
    set -e
    mount --make-rprivate /
    mount -t proc proc /proc
    mount -t tmpfs -o mode=755 tmpfs /run
    cp -a /etc /run/etc
    mount --bind /run/etc /etc
    for directory in /tmp /var; do mount -t tmpfs tmpfs $directory; done
    mount -t cgroup2 none /sys/fs/cgroup
    mount --make-rshared /
    cd /etc/systemd/system
    for target in sysinit basic network-online shutdown; do
        printf '[Unit]\nDefaultDependencies=no\n' >$target.target
    done
    export container=other
    exec /lib/systemd/systemd --unit=basic.target --log-target=null
";

/// See the module. Ends with everything in it when dropped.
pub struct Systemd {
    namespaces: Child,
    first: u32,
    _guard: Guard,
}

impl Systemd {
    /// Starts it; `None`, said aloud, where namespaces or systemd are not to be had.
    pub async fn start(files: &Path) -> Option<Self> {
        let namespaces = ["--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child"];
        let unshare = |command: &str| {
            let mut unshare = Command::new("unshare");
            unshare.args(namespaces).args(["sh", "-c", command]).process_group(0);
            unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            unshare
        };
        let possible = "mount --make-rprivate / && mount -t cgroup2 none /mnt && test -x /lib/systemd/systemd";
        if !unshare(possible).status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no systemd can be started here");
            return None;
        }
        let namespaces = unshare(FIRST).spawn().expect("cannot start unshare");
        let guard = Guard::new(namespaces.id(), "KILL", files);
        let first = async || process::children(namespaces.id()).first().copied();
        let first = wait_for("process 1", seconds(10), first).await;
        let systemd = Self { namespaces, first, _guard: guard };
        let answers = async || systemd.run("systemctl is-active basic.target").status.success().then_some(());
        wait_for("systemd to answer", seconds(20), answers).await;
        Some(systemd)
    }

    /// Runs a shell command inside.
    pub fn run(&self, command: &str) -> Output {
        let mut inside = Command::new("nsenter");
        inside.args(["-t", &self.first.to_string(), "-m", "-p", "-C", "-i", "-u", "sh", "-c", command]);
        inside.stdin(Stdio::null()).output().expect("cannot start nsenter")
    }

    /// Runs one that must succeed; what it prints.
    pub fn done(&self, command: &str) -> String {
        let output = self.run(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text.trim_end().to_owned()
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, mode: u32, text: &str) {
        let mut inside = Command::new("nsenter");
        inside.args(["-t", &self.first.to_string(), "-m", "sh", "-c", r#"umask 077; cat >"$0" && chmod "$1" "$0""#]);
        inside.args([path, &format!("{mode:o}")]).stdin(Stdio::piped());
        let mut writing = inside.spawn().expect("cannot start nsenter");
        std::io::Write::write_all(&mut writing.stdin.take().expect("a pipe"), text.as_bytes()).expect("cannot write");
        assert!(writing.wait().expect("cannot wait").success(), "cannot write {path}");
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The namespaces' processes go with the one that made them.
        let _ = self.namespaces.kill();
        let _ = self.namespaces.wait();
    }
}
