//! Looking at processes and signalling them, with nothing but a shell and, on Linux, /proc.

use std::path::Path;
use std::process::{Command, Stdio};

use super::wait::{PAUSE, seconds};

/// Sends a signal by name (`TERM`, `QUIT`, `STOP` …). False when there is no such process.
pub fn signal(pid: u32, name: &str) -> bool {
    // The shell's own: a separate kill is not everywhere.
    let mut kill = Command::new("sh");
    kill.args(["-c", r#"kill -s "$1" "$2""#, "kill", name, &pid.to_string()]).stderr(Stdio::null());
    kill.status().expect("cannot run sh").success()
}

/// SIGSTOP; comes back when the process stands still, or is dead.
pub fn stop(pid: u32) {
    signal(pid, "STOP");
    let (deadline, runs) = (seconds(10), |process: &Process| process.pid == pid && !"TtZX".contains(process.state));
    while all().iter().any(runs) {
        assert!(!deadline.passed(), "process {pid} does not stop");
        std::thread::sleep(PAUSE);
    }
}

/// The processes that this one started.
pub fn children(pid: u32) -> Vec<u32> {
    all().into_iter().filter(|process| process.parent == pid).map(|process| process.pid).collect()
}

/// Whether the process runs; one that is dead but not yet waited for does not.
pub fn is_alive(pid: u32) -> bool {
    all().iter().any(|process| process.pid == pid && process.state != 'Z')
}

/// The most memory the process has had resident, in bytes. Linux only.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

struct Process {
    pid: u32,
    parent: u32,
    state: char,
}

fn all() -> Vec<Process> {
    if Path::new("/proc/self/stat").exists() {
        let entries = std::fs::read_dir("/proc").expect("cannot list /proc").flatten();
        let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        return stats.filter_map(|stat| parse_stat(&stat)).collect();
    }
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid=,stat="]).output().expect("cannot run ps");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut processes = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [pid, parent, state, ..] = words[..]
            && let (Ok(pid), Ok(parent), Some(state)) = (pid.parse(), parent.parse(), state.chars().next())
        {
            processes.push(Process { pid, parent, state });
        }
    }
    processes
}

/// `pid (name) state parent …`; the name may hold anything, brackets too (proc(5)).
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some(Process { pid: pid.parse().ok()?, state: words.next()?.chars().next()?, parent: words.next()?.parse().ok()? })
}
