//! `walferry demo` as users start it.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::prelude::*;
use crate::support::process;

fn demo(temporary: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walferry"));
    command.arg("demo").args(arguments).env("TMPDIR", temporary).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A directory that the servers' user can get into, and that shows what is left behind.
fn place() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::Builder::new().prefix("wf").tempdir_in("/tmp").expect("cannot make a directory");
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o777)).expect("cannot chmod");
    place
}

fn is_empty(place: &tempfile::TempDir) -> bool {
    std::fs::read_dir(place.path()).expect("cannot list").next().is_none()
}

#[tokio::test]
async fn both_targets_are_equal_to_the_source_though_the_daemon_was_killed() {
    let place = place();
    let output = demo(place.path(), &["--duration", "6"]).output().await.expect("cannot start walferry");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("kill -9").count(), 2, "{text}");
    assert!(text.contains("Equal: every row"), "{text}");
    assert!(is_empty(&place), "something stays behind");
}

#[tokio::test]
async fn a_demonstration_that_is_killed_leaves_nothing_behind() {
    let place = place();
    let mut child = demo(place.path(), &["--duration", "600"]).stdout(Stdio::piped()).spawn().expect("cannot start");
    let mut lines = {
        use tokio::io::{AsyncBufReadExt, BufReader};
        BufReader::new(child.stdout.take().expect("it is piped")).lines()
    };
    let mut daemon = None;
    while let Some(line) = lines.next_line().await.expect("cannot read") {
        if let Some((_, rest)) = line.split_once("walferry run (pid ") {
            daemon = rest.trim_end_matches(')').parse::<u32>().ok();
            break;
        }
    }
    let daemon = daemon.expect("the daemon is started");
    child.kill().await.expect("cannot kill");
    wait_for("the daemon's end", seconds(30), async || (!process::is_alive(daemon)).then_some(())).await;
    wait_for("the directory's removal", seconds(30), async || is_empty(&place).then_some(())).await;
}

#[tokio::test]
async fn a_demonstration_that_is_interrupted_while_it_makes_its_servers_leaves_nothing_behind() {
    let place = place();
    let mut child = demo(place.path(), &["--duration", "600"]).stdout(Stdio::null()).spawn().expect("cannot start");
    // initdb is at work once it has begun a data directory.
    let begun = async || {
        let mut sites = std::fs::read_dir(place.path()).expect("cannot list");
        sites.any(|site| site.expect("cannot list").path().join("source/base").exists()).then_some(())
    };
    wait_for("initdb to be at work", seconds(60), begun).await;
    assert!(process::signal(child.id().expect("it runs"), "INT"));
    let status = child.wait().await.expect("cannot wait");
    assert_eq!(status.code(), Some(1));
    assert!(is_empty(&place), "something stays behind");
}
