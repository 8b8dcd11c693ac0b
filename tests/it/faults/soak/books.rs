//! What a daemon holds while all is well: memory, files, connections, slots. A leak makes it more.

use std::fmt;

use crate::faults::scene::Scene;
use crate::support::pair::text;
use crate::support::prelude::*;

/// Sessions of a daemon that is well. One that was just lost may not be back when its books are looked at.
const USUAL: [u64; 3] = [3, 2, 2];

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    pid: u32,
    /// Resident, in bytes.
    memory: u64,
    descriptors: usize,
    threads: usize,
    /// Sessions on the source and on each target.
    sessions: [u64; 3],
    slots: String,
    /// In its directory.
    files: usize,
}

impl fmt::Display for Holding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, memory, descriptors, threads, sessions, slots, files } = self;
        let memory = *memory as f64 / 1e6;
        write!(
            out,
            "process {pid}, {memory:.1} MB, {descriptors} descriptors, {threads} threads, sessions {}, {slots} slot, \
             {files} files",
            sessions.map(|count| count.to_string()).join("+")
        )
    }
}

impl Holding {
    /// Of the daemon as it is.
    pub async fn of(scene: &Scene) -> Self {
        let pid = scene.daemon.pid();
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("it runs").count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
        let kilobytes: u64 = resident.trim().strip_suffix(" kB").expect("in kB").parse().expect("a number");
        let sessions = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name LIKE 'walferry%'";
        let slots = "SELECT count(*)::text FROM pg_replication_slots";
        let [a, b] = &scene.stage.places[..] else { unreachable!("there are two") };
        let ask = async |client| text(client, sessions).await.and_then(|count| count.parse().ok()).expect("a count");
        Self {
            pid,
            memory: kilobytes * 1024,
            descriptors: count("fd"),
            threads: count("task"),
            sessions: [ask(&scene.stage.on_source).await, ask(&a.client).await, ask(&b.client).await],
            slots: text(&scene.stage.on_source, slots).await.expect("a count"),
            files: std::fs::read_dir(scene.daemon.directory()).expect("it is there").count(),
        }
    }

    /// Waits until the same process holds no more than this; what it was just about to let go of, it may.
    pub async fn wait_no_more(&self, scene: &Scene) {
        let no_more = async || {
            let now = Self::of(scene).await;
            assert_eq!(self.pid, now.pid, "it is another process");
            let same = (&self.slots, self.files) == (&now.slots, now.files);
            let sessions = self.sessions.iter().zip(USUAL).map(|(before, usual)| usual.max(*before));
            let same = same && now.sessions.iter().zip(sessions).all(|(now, allowed)| *now <= allowed);
            let few = now.descriptors <= self.descriptors + 2 && now.threads <= self.threads + 2;
            // An allocator keeps what was needed once, the buffers of copies among it.
            let small = now.memory < 2 * self.memory + (64 << 20);
            if !(same && few && small) {
                eprintln!("{now}, where it was {self}");
            }
            (same && few && small).then_some(())
        };
        wait_for("the daemon to hold no more than before", seconds(20), no_more).await;
    }
}
