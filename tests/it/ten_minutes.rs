//! The README's chapter about the first stream, as an operator follows it: its own commands in one shell, on two
//! servers with their default settings; and the statements of `sql/` that it has run.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::cluster_builder::free_port;
use crate::support::pair::{run, text};
use crate::support::prelude::*;
use crate::support::versions;

const CHAPTER: &str = "## Your first stream in ten minutes";
const SYSTEMD: &str = "### From then on, under systemd";
const AWAY: &str = "### Taking it away again";

/// The blocks run in one shell, which ends with the first command that fails, and its daemon with it.
const SHELL: &str = "set -euo pipefail; exec 2>&1; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
    while read -r block; do . \"$block\"; echo 'the block is done'; done";

/// systemd as far as the chapter needs it: the unit's credentials, and its command.
const SYSTEMCTL: &str = r#"systemctl() {
    case $* in
    'enable --now walferry@shop')
        mkdir credentials
        for file in etc/shop.d/*; do cp "$file" "credentials/secret_${file##*/}"; done
        CREDENTIALS_DIRECTORY=$PWD/credentials walferry run --config etc/shop.toml 2>service.log &
        until walferry status; do kill -0 $! || return; sleep 0.1; done ;;
    'disable --now walferry@shop') kill $! && wait $! ;;
    *) echo "systemctl $*?"; return 1 ;;
    esac
}"#;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A part of the chapter.
#[derive(Debug)]
enum Step {
    /// A block of commands.
    Run(String),
    /// The text has the operator restart the source's server.
    Restart,
}

/// What is to be done below a heading of the README, up to the next one.
fn steps(heading: &str) -> Vec<Step> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading}"));
    let (mut steps, mut block) = (Vec::new(), None::<String>);
    for line in rest.lines() {
        match &mut block {
            Some(commands) if line == "```" => steps.push(Step::Run(std::mem::take(commands))),
            Some(commands) => *commands += &format!("{line}\n"),
            None if line.starts_with('#') => break,
            None if line.starts_with("Restart the source's server") => steps.push(Step::Restart),
            None => assert!(line == "```sh" || !line.starts_with("```"), "what is this for? {line}"),
        }
        block = match line {
            "```" => None,
            "```sh" => Some(String::new()),
            _ => block,
        };
    }
    assert!(steps.iter().any(|step| matches!(step, Step::Run(_))), "no commands below {heading}");
    steps
}

/// The newest version of which a server and `psql` and `pg_dump` are here, and where they are.
fn tools() -> Option<(u32, PathBuf)> {
    let complete = |bin: &PathBuf| ["psql", "pg_dump"].iter().all(|tool| bin.join(tool).is_file());
    let found = majors().into_iter().rev().find_map(|major| Some((major, versions::bin(major).filter(complete)?)));
    assert!(found.is_some() || std::env::var("CI").as_deref() != Ok("true"), "CI needs psql and pg_dump");
    if found.is_none() {
        eprintln!("SKIPPED: there are no psql and pg_dump beside any server here");
    }
    found
}

/// Somebody at a shell, with two servers.
struct Operator {
    shell: Child,
    hears: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
    dir: TempDir,
    source: Cluster,
    target: Cluster,
    databases: [Db; 2],
    listen: u16,
}

impl Operator {
    async fn new() -> Option<Self> {
        let (major, bin) = tools()?;
        // What the harness sets otherwise. The superuser needs no password, and everybody else has to know it.
        let server = || {
            let defaults = [("wal_level", "replica"), ("max_wal_senders", "10"), ("max_replication_slots", "10")];
            let server =
                Cluster::builder(major).hba(&["host all postgres all trust", "host all all all scram-sha-256"]);
            let server = server.setting("max_connections", "100").setting("max_prepared_transactions", "0");
            defaults.into_iter().fold(server, |server, (name, value)| server.setting(name, value))
        };
        let (source, target) = (server().start().await, server().start().await);
        let databases = [source.create_database().await, target.create_database().await];
        let dir = tempfile::tempdir().unwrap();
        let places = [Path::new(env!("CARGO_BIN_EXE_walferry")).parent().unwrap().to_owned(), bin];
        let others = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(places.into_iter().chain(std::env::split_paths(&others))).unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", SHELL]).current_dir(dir.path()).env_clear().env("PATH", path).env("HOME", dir.path());
        let mut shell = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cannot start bash");
        let (hears, says) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let says = BufReader::new(says).lines();
        Some(Self { shell, hears, says, dir, source, target, databases, listen: free_port() })
    }

    /// Sessions on source and target.
    async fn sessions(&self) -> [tokio_postgres::Client; 2] {
        let [from, to] = &self.databases;
        [self.source.connect(&from.name).await, self.target.connect(&to.name).await]
    }

    /// The commands with this machine's places, where they set one of the chapter's variables.
    fn here(&self, commands: &str) -> String {
        let [from, to] = &self.databases;
        let (source, target) = (self.source.port, self.target.port);
        let places = [
            ("SOURCE", format!("127.0.0.1:{source}/{}", from.name)),
            ("TARGET", format!("127.0.0.1:{target}/{}", to.name)),
            ("LISTEN", format!("127.0.0.1:{}", self.listen)),
            ("SQL", repository().join("sql").display().to_string()),
            ("ETC", self.dir.path().join("etc").display().to_string()),
        ];
        let set = |line: &str| places.iter().find(|(name, _)| line.starts_with(&format!("{name}=")));
        let line = |line| set(line).map_or(format!("{line}\n"), |(name, place)| format!("{name}={place}\n"));
        commands.lines().map(line).collect()
    }

    /// Has the shell run these commands. What they print; `Err` with it where one failed.
    async fn runs(&mut self, commands: &str) -> Result<String, String> {
        eprintln!("{commands}");
        let block = self.dir.path().join("block");
        std::fs::write(&block, self.here(commands)).unwrap();
        self.hears.write_all(format!("{}\n", block.display()).as_bytes()).await.unwrap();
        let mut printed = String::new();
        loop {
            let line = within("the commands to end", seconds(60), self.says.next_line()).await.unwrap();
            match line {
                Some(line) if line == "the block is done" => return Ok(printed),
                Some(line) => printed += &format!("{line}\n"),
                None => return Err(printed),
            }
            eprintln!("    {}", printed.lines().last().unwrap());
        }
    }

    /// Does what the README says below a heading.
    async fn follows(&mut self, heading: &str) {
        for step in steps(heading) {
            match step {
                Step::Run(commands) => drop(self.runs(&commands).await.expect("a command of the README failed")),
                Step::Restart => self.source.restart().await,
            }
        }
    }

    /// The daemon ends with the shell.
    async fn leaves(mut self) {
        drop(self.hears);
        within("the shell's end", seconds(30), self.shell.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_made_as_the_readme_says_brings_rows_until_it_is_taken_away_as_the_readme_says() {
    let Some(mut operator) = Operator::new().await else { return };
    let [source, target] = operator.sessions().await;
    let own = "CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers VALUES (1, 'one');
        CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers);";
    run(&source, own).await;
    drop(source);
    operator.follows(CHAPTER).await;

    let [source, _] = operator.sessions().await;
    let tables = ["public.customers", "public.orders", "public.greetings"];
    let written = "INSERT INTO customers VALUES (2, 'two'); INSERT INTO orders VALUES (1, 2), (2, 1);
        UPDATE customers SET name = 'first' WHERE id = 1; DELETE FROM orders WHERE id = 2; DELETE FROM greetings";
    run(&source, written).await;
    wait_equal(&source, &[&target], &tables, seconds(30)).await;
    assert_eq!(text(&target, "SELECT string_agg(name, ' ') FROM customers").await.unwrap(), "two first");
    let status = operator.runs("walferry status").await.expect("walferry status ends with 0");
    assert!(status.contains("3 of 3 tables are in step"), "{status}");
    let superusers = "SELECT count(*) FROM pg_roles WHERE rolname = 'walferry' AND rolsuper";
    assert_eq!(text(&source, superusers).await.unwrap(), "0");

    operator.runs(SYSTEMCTL).await.unwrap();
    operator.follows(SYSTEMD).await;
    run(&source, "INSERT INTO customers VALUES (3, 'by the service')").await;
    wait_equal(&source, &[&target], &tables, seconds(30)).await;
    let status = operator.runs("walferry status").await.expect("it asks the service");
    assert!(status.contains("3 of 3 tables are in step"), "{status}");

    operator.follows(AWAY).await;
    let left = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = 'walferry')
        + (SELECT count(*) FROM pg_namespace WHERE nspname = 'walferry')
        + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)";
    for session in [&source, &target] {
        assert_eq!(text(session, left).await.unwrap(), "0");
        assert_eq!(text(session, "SELECT count(*) FROM customers").await.unwrap(), "3");
    }
    assert!(!operator.dir.path().join("etc/shop.toml").exists());
    operator.leaves().await;
}

#[tokio::test]
async fn whoever_forgets_the_restart_is_stopped_by_the_check() {
    let Some(mut operator) = Operator::new().await else { return };
    for step in steps(CHAPTER) {
        let Step::Run(commands) = step else { continue };
        if let Err(printed) = operator.runs(&commands).await {
            assert!(commands.contains("walferry check") && printed.contains("[wal-level]"), "{printed}");
            return;
        }
    }
    panic!("the chapter goes on without the restart");
}

/// Has psql run a file of `sql/`, all of it or nothing.
async fn psql(bin: &Path, url: &str, file: &str, arguments: &[&str]) -> Output {
    let mut psql = Command::new(bin.join("psql"));
    psql.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-v", "password=it's secret"]).args(arguments);
    psql.arg("-f").arg(repository().join(file)).arg(url).output().await.expect("cannot start psql")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn the_sources_file_publishes_nothing_that_would_take_updates_away_from_the_application() {
    let Some((_, bin)) = tools() else { return };
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let db = cluster.create_database().await;
        let session = cluster.connect(&db.name).await;
        let tables = "CREATE SCHEMA sales; CREATE TABLE keyed (id int PRIMARY KEY);
            CREATE TABLE sales.\"Faceless\" (id int); CREATE TABLE parts (id int) PARTITION BY LIST (id);
            CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
            INSERT INTO sales.\"Faceless\" VALUES (1); INSERT INTO parts VALUES (1)";
        run(&session, tables).await;
        let made = "SELECT (SELECT count(*) FROM pg_publication) || ' ' || count(*) FROM pg_roles WHERE rolreplication
            AND NOT rolsuper";
        let refused = psql(&bin, &db.url, "sql/source/role.sql", &[]).await;
        assert_eq!(refused.status.code(), Some(3), "{}", told(&refused));
        assert_eq!(text(&session, made).await.unwrap(), "0 0", "all of it or nothing");

        let told_ = told(&refused);
        let statements: Vec<&str> = told_.lines().filter(|line| line.starts_with("ALTER TABLE")).collect();
        let wanted = ["part_1", "sales.\"Faceless\""].map(|name| format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"));
        assert_eq!(statements, wanted, "{told_}");
        run(&session, &statements.concat()).await;
        let done = psql(&bin, &db.url, "sql/source/role.sql", &[]).await;
        assert!(done.status.success(), "{}", told(&done));
        assert_eq!(text(&session, made).await.unwrap(), "1 1");
        run(&session, "UPDATE sales.\"Faceless\" SET id = 1; UPDATE parts SET id = 1").await;

        // As managed servers have it: a role that was made in another way, and some tables only.
        let anew = "DROP PUBLICATION walferry; DROP OWNED BY walferry; DROP ROLE walferry; CREATE ROLE walferry LOGIN";
        run(&session, anew).await;
        let some = ["-v", "schema=sales", "-v", "publish=TABLE sales.\"Faceless\""];
        let done = psql(&bin, &db.url, "sql/source/role.sql", &some).await;
        assert!(done.status.success(), "{}", told(&done));
        let published = "SELECT string_agg(schemaname || '.' || tablename, ' ') FROM pg_publication_tables";
        assert_eq!(text(&session, published).await.unwrap(), "sales.Faceless");
        let may = "SELECT has_table_privilege('walferry', 'sales.\"Faceless\"', 'SELECT')
            AND NOT has_table_privilege('walferry', 'keyed', 'SELECT')";
        assert_eq!(text(&session, may).await.unwrap(), "true");
    })
    .await;
}

#[tokio::test]
async fn the_targets_file_needs_no_superuser() {
    let Some((_, bin)) = tools() else { return };
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        cluster.execute("postgres", "CREATE ROLE owner LOGIN CREATEROLE").await;
        cluster.execute("postgres", "CREATE DATABASE shop OWNER owner").await;
        let session = cluster.connect("shop").await;
        run(&session, "SET ROLE owner; CREATE TABLE t (id int PRIMARY KEY)").await;
        let done = psql(&bin, &cluster.url_as("owner", "shop"), "sql/target/role.sql", &[]).await;
        assert!(done.status.success(), "{}", told(&done));
        assert_eq!(told(&done).contains("not granted: permission denied"), major >= 15, "{}", told(&done));
        run(&session, "CREATE TABLE later (id int PRIMARY KEY); RESET ROLE; SET ROLE walferry").await;
        let writes =
            "INSERT INTO t VALUES (1); UPDATE t SET id = 2; DELETE FROM t; TRUNCATE t; INSERT INTO later VALUES (1)";
        run(&session, writes).await;
        run(&session, "CREATE SCHEMA walferry").await;
        // And by a superuser, where there is more to be had.
        run(&session, "RESET ROLE; DROP SCHEMA walferry; DROP OWNED BY walferry; DROP ROLE walferry").await;
        let done = psql(&bin, &cluster.url("shop"), "sql/target/role.sql", &[]).await;
        assert!(done.status.success() && told(&done).is_empty(), "{}", told(&done));
        let replica = session.batch_execute("SET ROLE walferry; SET session_replication_role = replica").await;
        assert_eq!(replica.is_ok(), major >= 15);
    })
    .await;
}
