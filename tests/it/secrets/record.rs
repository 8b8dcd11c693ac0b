//! Everything the daemon and its commands have written, as far as anybody can read it.

use std::path::{Path, PathBuf};

use super::markers::{A_NAMED_KEY, A_SECRET_IN_ENVIRONMENT, PUBLIC};
use super::scanner::Scanner;
use super::stage::{ROLES, Stage};
use crate::support::cluster::{Cluster, Db};
use crate::support::followed::rows;

/// See the module.
#[derive(Debug, Default)]
pub struct Record {
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    name: String,
    /// What may be found in it.
    may: &'static [&'static str],
    bytes: Vec<u8>,
}

/// Where a row that is refused may be named.
const NAMES_ROWS: &[&str] = &[A_NAMED_KEY];

/// What the daemon serves, with whether it names rows that are refused.
const PAGES: [(&str, bool); 6] = [
    ("/", false),
    ("/metrics", false),
    ("/livez", false),
    ("/readyz", true),
    ("/api/v1/status", true),
    ("/api/v1/lag", false),
];

/// Commands that change nothing, or nothing but the log.
const COMMANDS: [&[&str]; 13] = [
    &["config"],
    &["config", "--json"],
    &["config", "--diff"],
    &["config", "--diff", "--json"],
    &["check"],
    &["check", "--json"],
    &["status"],
    &["status", "--json"],
    &["slot", "list"],
    &["slot", "list", "--json"],
    // There is one, and nobody answers whether it may go.
    &["slot", "create"],
    &["slot", "drop"],
    &["log-level", "trace"],
];

impl Record {
    fn add(&mut self, name: String, may: &'static [&'static str], bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "{name}: there is nothing to look at");
        self.outputs.push(Output { name, may, bytes });
    }

    /// What the daemon serves now, and what is to be seen of its process.
    pub async fn look(&mut self, stage: &Stage, when: &str) {
        for (path, names_rows) in PAGES {
            let (code, body) = stage.daemon.get(path).await.unwrap_or_else(|| panic!("{when}: {path} is not answered"));
            assert!(code == 200 || (code == 503 && path == "/readyz"), "{when}: {path} is answered with {code}");
            let may = if names_rows { NAMES_ROWS } else { &[] };
            self.add(format!("{when}: GET {path}"), may, body.into_bytes());
        }
        let process = PathBuf::from(format!("/proc/{}", stage.daemon.pid()));
        for (file, may) in [("cmdline", &[][..]), ("environ", &[A_SECRET_IN_ENVIRONMENT])] {
            match std::fs::read(process.join(file)) {
                Ok(bytes) => self.add(format!("{when}: /proc/PID/{file}"), may, bytes),
                Err(error) if cfg!(target_os = "linux") => panic!("cannot look into {}: {error}", process.display()),
                Err(_) => {}
            }
        }
    }

    /// What each command prints now.
    pub async fn ask(&mut self, stage: &Stage, when: &str) {
        for arguments in COMMANDS {
            self.run(stage, when, arguments).await;
        }
    }

    /// What this command prints, and gives it.
    pub async fn run(&mut self, stage: &Stage, when: &str, arguments: &[&str]) -> String {
        let output = stage.daemon.run(arguments).await;
        let bytes = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&bytes).into_owned();
        self.add(format!("{when}: walferry {}", arguments.join(" ")), NAMES_ROWS, bytes);
        said
    }

    /// What the servers show of the daemon's sessions now.
    pub async fn look_at_sessions(&mut self, stage: &Stage, when: &str) {
        for (server, cluster) in [("the source", &stage.source), ("the target", &stage.target)] {
            let client = cluster.connect("postgres").await;
            let sessions = rows(&client, &format!("SELECT * FROM pg_stat_activity WHERE usename IN ({ROLES})")).await;
            self.add(format!("{when}: sessions on {server}"), &[], sessions.join("\n").into_bytes());
        }
    }

    /// What is kept on the targets.
    pub async fn look_at_tables(&mut self, stage: &Stage) {
        for (cluster, db) in [(&stage.target, &stage.to), (&stage.target, &stage.beside)] {
            for table in own_tables(cluster, db).await {
                let kept = rows(&cluster.connect(&db.name).await, &format!("SELECT * FROM walferry.{table}")).await;
                self.add(format!("{table} in {}", db.name), &[], kept.join("\n").into_bytes());
            }
        }
    }

    /// The statements that the daemon has sent, as the servers have logged them: without their parameters.
    pub fn read_statements(&mut self, stage: &Stage) {
        for (server, cluster) in [("the source", &stage.source), ("the target", &stage.target)] {
            let log = std::fs::read_to_string(cluster.log_path()).expect("cannot read a server's log");
            let is_start = |line: &str| line.starts_with("20");
            let (mut statements, mut wanted) = (String::new(), false);
            for line in log.lines() {
                if is_start(line) {
                    let by_daemon =
                        ROLES.split(", ").any(|role| line.contains(&format!("{}@", role.trim_matches('\''))));
                    wanted = by_daemon && line.contains(" LOG:  ");
                }
                if wanted {
                    statements.push_str(line);
                    statements.push('\n');
                }
            }
            assert!(statements.contains("walferry"), "{server} has logged no statement of the daemon:\n{statements}");
            self.add(format!("statements on {server}"), &[], statements.into_bytes());
        }
    }

    /// The log, and whatever else is in the daemon's directories.
    pub fn read_files(&mut self, stage: &Stage) {
        let mut files = Vec::new();
        for directory in [stage.daemon.directory(), stage.home.path()] {
            list(directory, &mut files);
        }
        files.retain(|file| *file != stage.daemon.config_path());
        assert!(files.iter().any(|file| file.ends_with("log")), "there is no log: {files:?}");
        for file in files {
            let bytes = std::fs::read(&file).expect("cannot read a file of the daemon's");
            self.add(format!("the file {}", file.display()), NAMES_ROWS, bytes);
        }
    }

    /// Panics where something is in what must not hold it; and unless what may be seen was: then the looks were at what
    /// they were to be at.
    pub fn judge(&self, scanner: &Scanner) {
        let mut leaks = Vec::new();
        for output in &self.outputs {
            let found = scanner.find(&output.bytes);
            let found = found.iter().filter(|found| !output.may.contains(&found.what));
            leaks.extend(found.map(|found| format!("{}: {found}", output.name)));
        }
        assert!(leaks.is_empty(), "{} found:\n{}", leaks.len(), leaks.join("\n"));
        for name in ["GET /metrics", "GET /api/v1/status", "walferry status", "statements on", "table_state", "/log"] {
            self.assert_shows(name, PUBLIC);
        }
        for name in ["GET /readyz", "GET /api/v1/status", "walferry status --json", "/log"] {
            self.assert_shows(name, super::markers::NAMED_KEY);
        }
        self.assert_shows("sessions on", "walferry/");
        self.assert_shows("/proc/PID/environ", "BESIDE_URL");
        eprintln!(
            "{} outputs, {} bytes",
            self.outputs.len(),
            self.outputs.iter().map(|o| o.bytes.len()).sum::<usize>()
        );
    }

    fn assert_shows(&self, name: &str, text: &str) {
        let shows = |output: &&Output| {
            output.name.contains(name) && memchr::memmem::find(&output.bytes, text.as_bytes()).is_some()
        };
        assert!(self.outputs.iter().any(|output| shows(&output)), "no output \"{name}\" shows {text}");
    }
}

/// The tables of walferry's schema that hold something.
async fn own_tables(cluster: &Cluster, db: &Db) -> Vec<String> {
    let client = cluster.connect(&db.name).await;
    let tables = "SELECT relname FROM pg_class WHERE relnamespace = 'walferry'::regnamespace AND relkind = 'r'";
    let tables: Vec<String> =
        rows(&client, tables).await.iter().map(|row| row.trim_matches(['(', ')']).to_owned()).collect();
    for known in ["progress", "table_state"] {
        assert!(tables.iter().any(|table| table == known), "there is no walferry.{known} in {tables:?}");
    }
    let mut filled = Vec::new();
    for table in tables {
        if !rows(&client, &format!("SELECT 1 FROM walferry.{table}")).await.is_empty() {
            filled.push(table);
        }
    }
    filled
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("cannot list a directory") {
        let path = entry.expect("cannot list a directory").path();
        match path.is_dir() {
            true => list(&path, files),
            false => files.push(path),
        }
    }
}
