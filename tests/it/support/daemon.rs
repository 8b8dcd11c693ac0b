//! The walferry binary as a child process: started, killed, terminated, looked at through its log and its metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::daemon_builder::Builder;
use super::guard::Guard;
use super::process;
use super::wait::{Deadline, wait_for};

/// How long it may take to answer a request.
const HTTP_TIMEOUT: Duration = Duration::from_secs(20);

/// A daemon, its configuration and its log, which go on over restarts.
#[derive(Debug)]
pub struct Daemon {
    /// Where it answers HTTP, on 127.0.0.1.
    pub port: u16,
    dir: TempDir,
    http: reqwest::Client,
    environment: Vec<(String, String)>,
    token: Option<String>,
    running: Option<(Child, Guard)>,
}

/// One line of `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Daemon {
    /// What to tell a daemon that reads from here.
    pub fn builder(source_url: &str) -> Builder {
        Builder::new(source_url)
    }

    pub(super) fn new(toml: &str, port: u16, environment: Vec<(String, String)>) -> Self {
        let dir = tempfile::Builder::new().prefix("walferry-").tempdir().expect("cannot make a directory");
        // Whatever proxy the environment names; a connection of its own for each request, since the daemon may restart.
        let http = reqwest::Client::builder().no_proxy().timeout(HTTP_TIMEOUT).pool_max_idle_per_host(0);
        let http = http.build().expect("cannot make an HTTP client");
        let daemon = Self { port, dir, http, environment, token: None, running: None };
        std::fs::write(daemon.config_path(), toml).expect("cannot write the configuration");
        daemon
    }

    /// The configuration file, which a test may change between starts.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("walferry.toml")
    }

    /// Has it take commands from its next start on, by a token of its own.
    pub fn guard(&mut self) {
        let (file, token) = (self.dir.path().join("token"), "a-token-of-some-length");
        std::fs::write(&file, format!("{token}\n")).expect("cannot write the token");
        self.use_token(token);
        self.reconfigure("[http]\n", &format!("[http]\ntoken_file = \"{}\"\n", file.display()));
    }

    /// Runs a command; its exit code, and what it prints, or, if it fails, why.
    pub async fn answered(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments).await;
        // Its own log is on standard error, too.
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code(), String::from_utf8(said).expect("a command prints UTF-8"))
    }

    /// Its working directory, with the configuration file and the log.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Sends this token with every request from now on.
    pub fn use_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// Replaces text in the configuration file; it must be there.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let toml = std::fs::read_to_string(self.config_path()).expect("cannot read the configuration");
        assert!(toml.contains(from), "\"{from}\" is not in the configuration:\n{toml}");
        std::fs::write(self.config_path(), toml.replace(from, to)).expect("cannot write the configuration");
    }

    /// Sets an environment variable for the next start.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Takes an environment variable away for the next start.
    pub fn unset_environment(&mut self, name: &str) {
        self.environment.retain(|(known, _)| known != name);
    }

    /// Starts `walferry run`; its log goes on in the same file.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "the daemon is running already");
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_path()).expect("cannot open the log");
        let mut command = self.command("run");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("cannot share the log")).stderr(log);
        let child = command.spawn().expect("cannot start walferry");
        let guard = Guard::new(child.id(), "KILL", self.dir.path());
        self.running = Some((child, guard));
    }

    /// Another command with the same configuration, to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let (first, rest) = arguments.split_first().expect("a command");
        let mut command = tokio::process::Command::from(self.command(first));
        command.args(rest).stdin(Stdio::null()).kill_on_drop(true).output().await.expect("cannot start walferry")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the daemon is not running").0.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL; comes back when it is gone.
    pub fn kill9(&mut self) {
        let (mut child, _guard) = self.running.take().expect("the daemon is not running");
        child.kill().expect("cannot kill the daemon");
        child.wait().expect("cannot wait for the daemon");
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self, deadline: Deadline) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit(deadline).await
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        assert!(process::signal(self.pid(), name), "cannot send {name} to the daemon\n{}", self.log_tail());
    }

    /// Waits until it has ended by itself, and says how.
    pub async fn wait_exit(&mut self, deadline: Deadline) -> ExitStatus {
        let (child, _guard) = self.running.as_mut().expect("the daemon is not running");
        let ended = async || child.try_wait().expect("cannot wait for the daemon");
        let status = wait_for("the daemon to end", deadline, ended).await;
        self.running = None;
        status
    }

    /// Everything it has logged, over all its starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How often this text is in the log.
    pub fn log_count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Waits until this text is in the log, and gives its (last) line.
    pub async fn wait_log(&mut self, text: &str, deadline: Deadline) -> String {
        self.wait_while_running(&format!("\"{text}\" in the log"), deadline, async |daemon| {
            daemon.log().lines().rev().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// GET over HTTP, by its token if it has one: status code and body; `None` when it does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let request = self.http.get(format!("http://127.0.0.1:{}{path}", self.port));
        let request = self.token.iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.text().await.ok()?))
    }

    /// POST over HTTP, as [`Daemon::get`]: the status code.
    pub async fn post(&self, path: &str) -> Option<u16> {
        let request = self.http.post(format!("http://127.0.0.1:{}{path}", self.port));
        let request = self.token.iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        Some(request.send().await.ok()?.status().as_u16())
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&mut self, deadline: Deadline) {
        self.wait_while_running("/readyz", deadline, async |daemon| {
            daemon.get("/readyz").await.filter(|(status, _)| *status == 200).map(drop)
        })
        .await;
    }

    /// `/metrics` as it stands; nothing when the daemon does not answer.
    pub async fn metrics(&self) -> Vec<Sample> {
        let body = self.get("/metrics").await.map(|(_, body)| body).unwrap_or_default();
        body.lines().filter_map(parse_sample).collect()
    }

    /// The sum over the samples of this name that carry these labels; `None` when there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |sample: &Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        let values: Vec<f64> = self.metrics().await.into_iter().filter(fits).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until a metric is as wanted, and gives it.
    pub async fn wait_metric(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        wanted: impl Fn(f64) -> bool,
        deadline: Deadline,
    ) -> f64 {
        self.wait_while_running(&format!("metric {name} {labels:?}"), deadline, async |daemon| {
            daemon.metric(name, labels).await.filter(|value| wanted(*value))
        })
        .await
    }

    /// The most memory this process has had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        process::peak_memory(self.pid()).expect("the daemon's peak memory can be read on Linux only, while it runs")
    }

    /// Waits for a condition of a running daemon: its end is the wait's end too.
    async fn wait_while_running<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        condition: impl AsyncFn(&Self) -> Option<T>,
    ) -> T {
        wait_for(what, deadline, async || {
            let runs = self.is_running();
            let value = condition(self).await;
            assert!(value.is_some() || runs, "the daemon ended before {what}");
            value
        })
        .await
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walferry"));
        command.arg(subcommand).arg("--config").arg(self.config_path());
        command.current_dir(self.dir.path()).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((child, _guard)) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            // For a closer look at a failure: whole logs, kept in this directory.
            if let Some(dir) = std::env::var_os("WALFERRY_TEST_LOGS") {
                let test = std::thread::current().name().unwrap_or("test").replace("::", ".");
                let path = PathBuf::from(dir).join(format!("{test}.{}.log", self.port));
                let _ = std::fs::copy(self.log_path(), path);
            }
            eprintln!("--- the daemon's log:\n{}", self.log_tail());
        }
    }
}

/// A line of the Prometheus text format: `name{label="value",…} number`. Comments and blank lines are none.
pub fn parse_sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}')?;
    // No label of ours holds a quote or a comma followed by one.
    let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
    let labels = pairs.map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned())).collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}
