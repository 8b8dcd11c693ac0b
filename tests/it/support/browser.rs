//! A headless Chromium, driven through ChromeDriver (W3C WebDriver): pages as a person's browser shows them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::cluster_builder::free_port;
use super::guard::Guard;
use super::process;
use super::wait::{Deadline, seconds, wait_for};

/// One window.
pub struct Browser {
    http: reqwest::Client,
    session: String,
    process: std::process::Child,
    _guard: Guard,
    _dir: tempfile::TempDir,
}

/// Whether Chromium is installed; if not, says so aloud, and CI must have it.
pub fn installed() -> bool {
    let runs = |name| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let found = runs("chromedriver") && runs("chromium");
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "Chromium is missing, and CI needs it");
    if !found {
        eprintln!("SKIPPED: there is no Chromium here (chromium, chromedriver)");
    }
    found
}

impl Browser {
    /// Starts one, with nothing remembered and nothing fetched by itself.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("walferry-").tempdir().unwrap();
        let port = free_port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start chromedriver");
        let guard = Guard::new(process.id(), "TERM", dir.path());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            profile.as_str(),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments },
        } } });
        let driver = format!("http://127.0.0.1:{port}");
        let made = wait_for("chromedriver to answer", seconds(20), async || {
            let answer = http.post(format!("{driver}/session")).body(wanted.to_string()).send().await.ok()?;
            Some(serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
        });
        let made = made.await;
        let id = made["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        let session = format!("{driver}/session/{id}");
        Self { http, session, process, _guard: guard, _dir: dir }
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let sent = self.http.post(format!("{}/{command}", self.session)).body(body.to_string()).send().await;
        let text = sent.expect("chromedriver has gone").text().await.unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["value"]["error"].is_null(), "{command}: {answer}");
        answer["value"].take()
    }

    /// Opens a page, and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    /// Runs a function's body in the page, and gives what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until a function's body returns something that is not null or false.
    pub async fn wait(&self, what: &str, script: &str, deadline: Deadline) -> Value {
        wait_for(what, deadline, async || {
            Some(self.run(script).await).filter(|found| *found != json!(false) && !found.is_null())
        })
        .await
    }

    /// Sets the window's inner size, as a device has it.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Has the person prefer `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Writes the whole page as PNG where `WALFERRY_TEST_SCREENSHOTS` says, for a person to look at.
    pub async fn picture(&self, name: &str) {
        let Some(dir) = std::env::var_os("WALFERRY_TEST_SCREENSHOTS") else { return };
        let taken = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        let file = std::fs::File::create(Path::new(&dir).join(format!("{name}.png"))).unwrap();
        let mut decode = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
        decode.stdin.take().unwrap().write_all(taken["data"].as_str().unwrap().as_bytes()).unwrap();
        assert!(decode.wait().unwrap().success());
    }
}

/// Chromium ends with its driver, when that is asked to.
impl Drop for Browser {
    fn drop(&mut self) {
        process::signal(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}
