//! Makes throwaway servers: data directory from a template, settings, access rules, files, a free port.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::cluster::Cluster;
use super::disk::Disk;
use super::versions;

/// What a server shall be like. The defaults: logical decoding on, no fsync, everybody trusted.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) major: u32,
    pub(super) settings: Vec<(String, String)>,
    hba: Vec<String>,
    files: Vec<(String, String)>,
    own_disk: Option<(&'static str, u32)>,
}

/// Fast where durability across a power failure is not the subject; each of these leaves the behaviour that tests look
/// at (crash recovery after SIGKILL, commit order, synchronous_commit) as it is.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "'127.0.0.1'"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "logical"),
    ("max_wal_senders", "30"),
    ("max_replication_slots", "30"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "10"),
    ("shared_buffers", "'64MB'"),
    ("jit", "off"),
    ("log_line_prefix", "'%m [%p] %a %u@%d '"),
    ("timezone", "'UTC'"),
];

/// How many template data directories a major has. Servers of one template share a system identifier, so the servers
/// of one test are made from different ones.
const IDENTITIES: u32 = 4;

impl Builder {
    /// A server of this major.
    pub fn new(major: u32) -> Self {
        let settings = SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self {
            major,
            settings,
            hba: vec!["host all all all trust".into(), "host replication all all trust".into()],
            files: vec![],
            own_disk: None,
        }
    }

    /// A line for `postgresql.conf`; the value as it stands there, quoted where it must be. The last one wins.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the access rules for TCP by these lines of `pg_hba.conf`. The harness itself comes by Unix socket.
    pub fn hba(mut self, lines: &[&str]) -> Self {
        self.hba = lines.iter().map(|line| (*line).to_owned()).collect();
        self
    }

    /// A file in the data directory (mode 0600), such as `server.key`.
    pub fn file(mut self, name: &str, content: impl Into<String>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// A disk of its own, of so many megabytes, for a part of the data directory: `base` for the databases,
    /// `pg_replslot` for slots and what logical decoding spills. It lasts as long as the [`Cluster`]. Needs root.
    pub fn own_disk(mut self, part: &'static str, megabytes: u32) -> Self {
        self.own_disk = Some((part, megabytes));
        self
    }

    /// Makes the server and starts it.
    pub async fn start(self) -> Cluster {
        let template = template(self.major, next_identity());
        self.start_from(&template).await
    }

    /// Makes a server whose data directory is a copy of this one, and starts it.
    pub(super) async fn start_from(self, data: &Path) -> Cluster {
        let dir =
            tempfile::Builder::new().prefix("walferry-").tempdir_in(short_temp_dir()).expect("cannot make a directory");
        versions::give_to_server_user(dir.path());
        copy_data(data, &dir.path().join("data"));
        let mut cluster = Cluster::new(dir, self.major, versions::bin(self.major).expect("no such server here"));
        cluster.disk = self.own_disk.map(|(part, megabytes)| Disk::mount(&cluster.data_dir().join(part), megabytes));
        // Another process may take the port between the look and the start: then take another.
        for attempt in 1.. {
            cluster.port = free_port();
            self.configure(&cluster);
            match cluster.try_start().await {
                Ok(()) => break,
                Err(log) if attempt < 5 && log.contains("Address already in use") => {}
                Err(log) => panic!("PostgreSQL {} does not start:\n{log}", self.major),
            }
        }
        cluster
    }

    fn configure(&self, cluster: &Cluster) {
        use std::fmt::Write;
        let data = cluster.data_dir();
        let mut settings = String::new();
        for (name, value) in &self.settings {
            writeln!(settings, "{name} = {value}").expect("writing to a string");
        }
        writeln!(settings, "port = {}", cluster.port).expect("writing to a string");
        writeln!(settings, "unix_socket_directories = '{}'", cluster.socket_dir().display())
            .expect("writing to a string");
        write_as_server(&data.join("postgresql.conf"), &settings);
        let hba = format!("local all all trust\nlocal replication all trust\n{}\n", self.hba.join("\n"));
        write_as_server(&data.join("pg_hba.conf"), &hba);
        for (name, content) in &self.files {
            write_as_server(&data.join(name), content);
        }
    }
}

/// The template for the next server of this test: a test runs on one thread, and tests that run beside it in the same
/// process take no identity from it.
pub fn next_identity() -> u32 {
    thread_local! {
        static MADE: Cell<u32> = const { Cell::new(0) };
    }
    MADE.replace(MADE.get() + 1) % IDENTITIES
}

/// A command that runs as the user servers run as. It replaces itself: the child's process id is the server's.
pub(super) fn as_server_user(program: &Path) -> Command {
    as_server_user_on(None, program)
}

/// The same, with a disk of its own in sight.
pub(super) fn as_server_user_on(disk: Option<&Disk>, program: &Path) -> Command {
    if !versions::is_root() {
        return Command::new(program);
    }
    let (name, ..) = versions::server_user();
    let mut command = disk.map_or_else(|| Command::new("setpriv"), |disk| disk.seeing("setpriv"));
    command.args([&format!("--reuid={name}"), &format!("--regid={name}"), "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

/// Copies a data directory with its owners and modes, sharing blocks where the file system can.
pub(super) fn copy_data(from: &Path, to: &Path) {
    let reflink = cfg!(target_os = "linux").then_some("--reflink=auto");
    let status = Command::new("cp").arg("-a").args(reflink).arg(from).arg(to).status().expect("cannot run cp");
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

/// Writes a file of mode 0600 that belongs to the server's user.
pub(super) fn write_as_server(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).expect("cannot write a server's file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("cannot chmod");
    versions::give_to_server_user(path);
}

/// The data directory servers of this major and identity are copied from; made by `initdb` the first time.
fn template(major: u32, identity: u32) -> PathBuf {
    let bin =
        versions::bin(major).unwrap_or_else(|| panic!("no PostgreSQL {major} here: run tests/run, which fetches it"));
    // Minor versions may differ in what initdb writes.
    let version = Command::new(bin.join("postgres")).arg("--version").output().expect("cannot run postgres");
    let version: String =
        String::from_utf8_lossy(&version.stdout).chars().filter(char::is_ascii_alphanumeric).collect();
    let templates = versions::cache_dir().join("templates");
    let template = templates.join(format!("{version}-{identity}"));
    if template.join("PG_VERSION").exists() {
        return template;
    }
    std::fs::create_dir_all(&templates).expect("cannot make the cache directory");
    let scratch = tempfile::Builder::new().prefix("initdb-").tempdir_in(&templates).expect("cannot make a directory");
    versions::give_to_server_user(scratch.path());
    let data = scratch.path().join("data");
    let output = as_server_user(&bin.join("initdb"))
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .expect("cannot run initdb");
    assert!(output.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
    // When another process was faster, its template serves as well.
    if let Err(error) = std::fs::rename(&data, &template) {
        assert!(template.join("PG_VERSION").exists(), "cannot keep the template: {error}");
    }
    template
}

/// A socket's path has at most 107 bytes, and some systems' temporary directories have long names.
fn short_temp_dir() -> PathBuf {
    let dir = std::env::temp_dir();
    if dir.as_os_str().len() > 60 { PathBuf::from("/tmp") } else { dir }
}

/// The ports that servers and daemons take: outside the range from which the kernel takes ports for outgoing
/// connections, so that nothing takes them while their owner restarts.
const PORTS: Range<u16> = 10_000..32_000;

/// How many of them a test has to itself where the runner numbers the tests that run at a time (nextest does).
const PORTS_OF_A_TEST: u16 = 1_000;

/// A TCP port nobody listens on. It is given once, and no other test takes it before its owner has started.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().expect("a test failed while it took a port");
    let given = given.get_or_insert_default();
    let ports = ports_of_slot(std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse().ok()));
    loop {
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let port = ports.start + u16::try_from(random % ports.len() as u64).expect("a range of ports");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}

/// The ports of the test that runs as this number of those that run at a time.
pub fn ports_of_slot(slot: Option<u64>) -> Range<u16> {
    let Some(slot) = slot else { return PORTS };
    let parts = u64::from((PORTS.end - PORTS.start) / PORTS_OF_A_TEST);
    let part = u16::try_from(slot % parts).expect("a part of the ports");
    let start = PORTS.start + part * PORTS_OF_A_TEST;
    start..start + PORTS_OF_A_TEST
}
