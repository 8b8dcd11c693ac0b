//! A running daemon that is told what to do, by who has its token.

use crate::support::pair::{Pair, run};
use crate::support::prelude::*;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// A daemon with a token.
async fn guarded(pair: &Pair) -> Daemon {
    let mut daemon = pair.daemon("").prepare();
    daemon.guard();
    daemon.start();
    daemon.wait_ready(seconds(60)).await;
    daemon
}

#[tokio::test]
async fn who_has_the_token_reloads_and_sees_before_what_that_does() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = guarded(&pair).await;
    let pid = daemon.pid();
    assert_eq!(daemon.answered(&["status"]).await.0, Some(0), "status asks the daemon");
    let (code, same) = daemon.answered(&["config", "--diff"]).await;
    assert_eq!((code, same.trim()), (Some(0), "The daemon runs by this configuration."));

    daemon.reconfigure("[apply]\n", "[apply]\nbatch_bytes = \"3MiB\"\n");
    daemon.reconfigure("level = \"debug\"", "level = \"trace\"");
    daemon.reconfigure("slot = \"walferry\"", "slot = \"other\"");
    let streams = daemon.log_count("streaming start=");
    for command in [["config", "--diff"].as_slice(), &["reload"]] {
        assert_eq!(daemon.log_count("reload: "), 0, "to look changes nothing");
        let (code, said) = daemon.answered(command).await;
        assert_eq!(code, Some(0), "{said}");
        let line = |key: &str| said.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{key}: {said}"));
        let batch = line("apply.batch_bytes");
        assert!(batch.contains("16MiB") && batch.contains("3MiB") && batch.contains("begins anew"), "{batch}");
        assert!(line("log.level").contains("at once"), "{said}");
        assert!(line("source.slot").contains("restart"), "{said}");
    }
    let anew = async || (daemon.log_count("streaming start=") > streams).then_some(());
    wait_for("the stream to begin anew", seconds(20), anew).await;
    daemon.wait_log("TRACE", seconds(10)).await;
    let (_, left) = daemon.answered(&["config", "--diff", "--json"]).await;
    let left: serde_json::Value = serde_json::from_str(&left).unwrap();
    assert_eq!(left["changes"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!((&left["changes"][0]["key"], &left["changes"][0]["effect"]), (&"source.slot".into(), &"restart".into()));

    daemon.reconfigure("slot = \"other\"", "slot = \"walferry\"");
    run(&pair.source, "INSERT INTO t VALUES (1)").await;
    pair.equal(&["t"], seconds(30)).await;
    assert_eq!(daemon.pid(), pid);
    assert!(!daemon.log().contains("a-token-of"), "the token is in the log");
}

#[tokio::test]
async fn the_log_is_turned_up_and_down_while_it_runs() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = guarded(&pair).await;
    assert_eq!(daemon.log_count("TRACE"), 0);
    let (code, said) = daemon.answered(&["log-level", "trace"]).await;
    assert!(code == Some(0) && said.contains("\"trace\""), "{said}");
    daemon.wait_log("TRACE", seconds(20)).await;
    let (code, said) = daemon.answered(&["log-level", "loud=very=much"]).await;
    assert!(code == Some(3) && said.contains("hint: ") && said.contains("loud"), "{code:?} {said}");
    assert_eq!(daemon.answered(&["log-level", "warn"]).await.0, Some(0));
    // The configuration's level is a change again.
    let (_, left) = daemon.answered(&["config", "--diff"]).await;
    assert!(left.contains("log.level") && left.contains("\"warn\""), "{left}");
    assert_eq!(daemon.answered(&["reload"]).await.0, Some(0));
    assert!(daemon.answered(&["config", "--diff"]).await.1.contains("runs by this"));
}

#[tokio::test]
async fn without_its_token_a_daemon_is_told_nothing() {
    let pair = Pair::start(TABLES).await;
    let mut open = pair.daemon("").start();
    open.wait_ready(seconds(60)).await;
    let (code, said) = open.answered(&["reload"]).await;
    assert!(code == Some(3) && said.contains("http.token_file"), "{code:?} {said}");
    assert_eq!(open.log_count("reload: "), 0);
    open.kill9();

    let daemon = guarded(&pair).await;
    let other = daemon.config_path().with_file_name("other");
    std::fs::write(&other, "a-token-of-other-make").unwrap();
    daemon.reconfigure("/token\"", "/other\"");
    for command in [["reload"].as_slice(), &["log-level", "trace"], &["config", "--diff"]] {
        let (code, said) = daemon.answered(command).await;
        assert!(code == Some(3) && said.contains("the token is missing or wrong"), "{command:?}: {code:?} {said}");
    }
    // It is a mistake to have no token where one is named.
    for (content, says) in [(Some("short"), "holds no token"), (None, "cannot read")] {
        content.map_or_else(|| std::fs::remove_file(&other), |content| std::fs::write(&other, content)).unwrap();
        let (code, said) = daemon.answered(&["status"]).await;
        assert!(code == Some(2) && said.contains(says) && said.contains("http.token_file"), "{code:?} {said}");
    }
}

#[tokio::test]
async fn listening_to_everybody_without_a_token_is_warned_of() {
    let pair = Pair::start(TABLES).await;
    let mut daemon = pair.daemon("").prepare();
    daemon.reconfigure("listen = \"127.0.0.1:", "listen = \"0.0.0.0:");
    daemon.start();
    let warned = daemon.wait_log("http.token_file", seconds(20)).await;
    assert!(warned.contains("WARN"), "{warned}");
    daemon.wait_ready(seconds(60)).await;
    daemon.kill9();
    let mut guarded = guarded(&pair).await;
    assert_eq!(guarded.log_count("may read the names"), 0);
    assert!(guarded.is_running());
}
