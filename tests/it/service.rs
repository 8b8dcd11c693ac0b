//! The daemon as a service: what a service manager is told by it, and the unit that `deploy/systemd` has for it.

mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio::net::UnixDatagram;

use self::systemd::Systemd;
use crate::support::prelude::*;

/// The service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { socket: UnixDatagram::bind(dir.path().join("notify")).unwrap(), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    /// Manages this daemon from its next start on, with a watchdog.
    fn manage(&self, daemon: &mut Daemon, watchdog: Duration) {
        daemon.set_environment("NOTIFY_SOCKET", self.path().to_str().unwrap());
        daemon.set_environment("WATCHDOG_USEC", &watchdog.as_micros().to_string());
    }

    /// What it is told until it is told this, line by line.
    async fn told(&self, wanted: &str) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        within(&format!("to be told \"{wanted}\""), seconds(60), async {
            let mut buffer = vec![0; 4096];
            while !told.iter().any(|line| line.contains(wanted)) {
                let length = self.socket.recv(&mut buffer).await.unwrap();
                told.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
            }
        })
        .await;
        told
    }
}

fn has(told: &[String], line: &str) -> bool {
    told.iter().any(|told| told == line)
}

#[tokio::test]
async fn a_service_manager_is_told_when_it_streams_and_how_it_is_until_it_stops() {
    let mut stage = Stage::new(1).await;
    let proxy = Proxy::to(&stage.source).await;
    proxy.set(Mode::Stall);
    let targets = [stage.places[0].db.url.clone()];
    let mut daemon = stage.daemon_via(&proxy.url(&stage.from.name), &targets).prepare();
    let manager = Manager::new();
    manager.manage(&mut daemon, Duration::from_secs(20));
    daemon.start();
    let told = manager.told("STATUS=the source is connecting").await;
    assert!(!has(&told, "READY=1"), "{told:?}");
    let told = manager.told("WATCHDOG=1").await;
    assert!(!has(&told, "READY=1"), "ready before it streams: {told:?}");

    proxy.set(Mode::Pass);
    let told = manager.told("STATUS=streaming, 1 of 1 targets in step").await;
    assert_eq!(told.iter().filter(|line| *line == "READY=1").count(), 1, "{told:?}");
    daemon.wait_ready(seconds(10)).await;

    daemon.signal("HUP");
    let told = manager.told("READY=1").await;
    assert!(has(&told, "RELOADING=1") && told.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{told:?}");

    stage.places[0].cluster.kill9().await;
    manager.told("STATUS=target t0 is retrying").await;
    let told = manager.told("WATCHDOG=1").await;
    assert!(!has(&told, "READY=1"), "{told:?}");
    stage.places[0].cluster.start_again().await;
    manager.told("STATUS=streaming, 1 of 1 targets in step").await;

    daemon.signal("TERM");
    manager.told("STOPPING=1").await;
    assert!(daemon.wait_exit(seconds(20)).await.success());
}

#[tokio::test]
async fn a_standby_is_a_ready_service_and_says_so_where_it_is_asked() {
    let stage = Stage::new(1).await;
    let mut active = stage.daemon().start();
    active.wait_ready(seconds(60)).await;
    let mut standby = stage.daemon().prepare();
    let manager = Manager::new();
    manager.manage(&mut standby, Duration::from_secs(20));
    standby.start();
    let told = manager.told("STATUS=standing by").await;
    assert!(has(&told, "READY=1"), "{told:?}");
    let (code, text) = standby.get("/readyz").await.unwrap();
    assert!(code == 503 && text.contains("the source is standby"), "{code} {text}");
    assert_eq!(standby.get("/readyz?standby=ok").await, Some((200, "standing by\n".to_owned())));
    assert_eq!(active.get("/readyz?standby=ok").await, Some((200, "ready\n".to_owned())));
    assert_eq!(active.get("/readyz?standby=yes").await.unwrap().0, 400);
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_warned_of_once_and_stops_nothing() {
    let stage = Stage::new(1).await;
    let mut daemon = stage.daemon().prepare();
    daemon.set_environment("NOTIFY_SOCKET", "/nonexistent/notify");
    daemon.start();
    stage.assert_follows(0, 1).await;
    daemon.wait_log("NOTIFY_SOCKET", seconds(10)).await;
    daemon.wait_ready(seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
    assert_eq!(daemon.log_count("NOTIFY_SOCKET"), 1);
}

/// Runs systemd's own examination, with man pages of this directory; `None` where there is no systemd, which CI must
/// have.
fn analyze(arguments: &[&str], unit: &Path, manual: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).arg(unit).env("MANPATH", manual).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: there is no systemd-analyze");
            None
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    }
}

/// The unit, with the program at this path: it is not installed here.
fn unit(program: &str) -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/walferry@.service");
    let text = std::fs::read_to_string(unit).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/walferry run "), "{text}");
    text.replace("/usr/bin/walferry", program)
}

#[tokio::test]
async fn under_a_real_systemd_the_unit_starts_reloads_is_watched_and_stops_by_draining() {
    let stage = Stage::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let Some(systemd) = Systemd::start(dir.path()).await else { return };
    systemd.done(&format!("mkdir -m 755 /run/program && cp {} /run/program", env!("CARGO_BIN_EXE_walferry")));
    systemd.write("/etc/systemd/system/walferry@.service", 0o644, &unit("/run/program/walferry"));
    systemd.done("mkdir -p -m 755 /etc/walferry /etc/systemd/system/walferry@.service.d");
    systemd.done("mkdir -m 700 /etc/walferry/shop.d");
    systemd.write("/etc/walferry/shop.d/source", 0o600, &stage.from.url);
    systemd.write("/etc/walferry/shop.d/staging", 0o600, &stage.places[0].db.url);
    let secret = |name| format!("url_file = \"${{CREDENTIALS_DIRECTORY}}/secret_{name}\"");
    let target = format!("[[target]]\nname = \"staging\"\n{}", secret("staging"));
    let config = format!("[source]\n{}\n{target}\n[http]\nlisten = \"\"\n", secret("source"));
    systemd.write("/etc/walferry/shop.toml", 0o644, &config);
    let quick = "[Service]\nWatchdogSec=8s\nRestartSec=100ms\n";
    systemd.write("/etc/systemd/system/walferry@.service.d/quick.conf", 0o644, quick);

    // It comes back when the unit is ready: by then the table is copied, and the stream followed.
    systemd.done("systemctl daemon-reload && systemctl start walferry@shop");
    let shown = |property: &str| systemd.done(&format!("systemctl show walferry@shop --value -p {property}"));
    assert_eq!(shown("StatusText"), "streaming, 1 of 1 targets in step");
    stage.assert_follows(0, 1).await;
    systemd.done("systemctl reload walferry@shop && systemctl is-active walferry@shop");

    let frozen = shown("MainPID");
    systemd.done("systemctl kill --signal=STOP walferry@shop");
    let replaced = async || (shown("NRestarts") == "1" && shown("ActiveState") == "active").then_some(());
    wait_for("the watchdog to have it started anew", seconds(30), replaced).await;
    assert_ne!(shown("MainPID"), frozen);
    stage.assert_follows(0, 2).await;

    let load = Load::start(&stage, 0..2, Duration::from_millis(2)).await;
    load.more(50).await;
    systemd.done("systemctl stop walferry@shop");
    assert_eq!(shown("Result"), "success");
    assert_eq!(shown("ExecMainStatus"), "0", "it was not stopped in order");
    load.stop().await;

    // What needs somebody is not tried again and again.
    systemd.write("/etc/walferry/shop.toml", 0o644, "[source]\nnonsense = 1\n");
    assert!(!systemd.run("systemctl start walferry@shop").status.success());
    assert_eq!((shown("ActiveState"), shown("ExecMainStatus")), ("failed".to_owned(), "2".to_owned()));
}

#[test]
fn the_unit_is_one_that_systemd_finds_nothing_wrong_with() {
    let text = unit(env!("CARGO_BIN_EXE_walferry"));
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("walferry@shop.service");
    std::fs::write(&unit, text).unwrap();
    // It looks the manual pages up that the unit refers to.
    let manual = dir.path().join("man");
    for section in ["man1", "man5"] {
        let written = Command::new(env!("CARGO_BIN_EXE_walferry")).arg("man").arg(manual.join(section)).status();
        assert!(written.unwrap().success());
    }
    let Some(verified) = analyze(&["verify"], &unit, &manual) else { return };
    let complaints = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && complaints.is_empty(), "{}: {complaints}", verified.status);
    // An exposure of 1.5 (of 10) at most; what is left is that it uses the network.
    let exposed =
        analyze(&["security", "--offline=true", "--threshold=15"], &unit, &manual).expect("it was there just now");
    assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
}
