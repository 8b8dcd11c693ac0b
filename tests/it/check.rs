//! `walferry check` of a pair of servers that is broken in every way that can be made: each fault is found by its code,
//! and what the findings say mends it.

mod alone;
mod faults;
mod fixture;
mod pooler;

use std::collections::BTreeSet;

use self::faults::FAULTS;
use self::fixture::{Servers, Side, Told, side};
use self::pooler::Pooler;
use crate::support::prelude::*;

/// More are never needed: what one finding hides, its mending shows.
const ROUNDS: usize = 6;

#[tokio::test]
async fn each_fault_of_a_broken_pair_is_found_by_its_code_and_none_before() {
    for_each_major(async |major| all_are_found(Servers::of_versions(major, major).await).await).await;
    let different: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.code).collect();
    assert!(different.len() >= 25, "{different:?}");
}

async fn all_are_found(mut servers: Servers) {
    let before = servers.check(&["--strict"]).await;
    assert_eq!((before.code, &before.report["complete"]), (Some(0), &true.into()), "{}", before.report);
    for fault in FAULTS {
        assert!(before.of(&servers, fault).is_none(), "{} before it was made", fault.code);
    }

    servers.break_everything().await;
    let broken = servers.check(&[]).await;
    assert_eq!((broken.code, &broken.report["ok"]), (Some(2), &false.into()), "{}", broken.report);
    let mut missed = Vec::new();
    for fault in FAULTS {
        let Some(finding) = broken.of(&servers, fault) else {
            missed.push((fault.code, fault.object));
            continue;
        };
        let statements = finding["sql"].as_array().unwrap().len();
        // The right to set a parameter can be granted from 15 on.
        let by_sql = fault.by_sql && (servers.target.major >= 15 || fault.code != "foreign-key-circle");
        assert_eq!(statements > 0, by_sql, "{finding}");
        assert!(by_sql || finding["advice"].is_string() || finding["severity"] == "info", "{finding}");
        assert!(!finding["what"].as_str().unwrap().is_empty() && !finding["why"].as_str().unwrap().is_empty());
    }
    assert_eq!(missed, [], "not found: {:#}", broken.report);
}

#[tokio::test]
async fn servers_of_different_versions_that_are_alike_have_no_findings() {
    let (oldest, newest) = (majors()[0], majors()[majors().len() - 1]);
    for (source, target) in [(oldest, newest), (newest, oldest)] {
        let told = Servers::of_versions(source, target).await.check(&["--strict"]).await;
        assert_eq!((told.code, &told.report["complete"]), (Some(0), &true.into()), "{:#}", told.report);
    }
}

/// GRANT … ON PARAMETER, which a circle of foreign keys needs, came with 15.
#[tokio::test]
async fn the_statements_of_the_findings_mend_a_broken_pair() {
    for_each_major(async |major| {
        if major >= 15 {
            all_is_mended(Servers::of_versions(major, major).await).await;
        }
    })
    .await;
}

async fn all_is_mended(mut servers: Servers) {
    servers.break_everything().await;
    let mut rounds = 0;
    let told = loop {
        let told = servers.check(&[]).await;
        if !mends(&mut servers, &told).await {
            break told;
        }
        rounds += 1;
        assert!(rounds <= ROUNDS, "still not mended: {:#}", told.report);
    };

    // What is left takes somebody to act: each by name.
    let left: BTreeSet<&str> = ["archiver-fails", "clock-differs", "encoding-not-utf8", "prepared-transactions"].into();
    assert_eq!((told.code, told.codes("warning")), (Some(0), left), "{:#}", told.report);
    for finding in told.findings().iter().filter(|finding| finding["severity"] == "warning") {
        assert!(finding["advice"].is_string(), "{finding}");
    }
    assert_eq!(servers.check(&["--strict"]).await.code, Some(1));

    servers.run(Side::Source, "ROLLBACK PREPARED 'forgotten'").await;
    servers.run(Side::Source, "DROP FUNCTION pg_catalog.clock_timestamp()").await;
    servers.run(Side::Source, "ALTER FUNCTION pg_catalog.true_clock() RENAME TO clock_timestamp").await;
    let utf8 = servers.of(Side::Target, "UPDATE pg_database SET encoding = 6 WHERE datname = '{database}'");
    servers.run(Side::Target, &utf8).await;
    servers.run(Side::Target, "ALTER SYSTEM SET archive_command = 'true'").await;
    servers.run(Side::Target, "SELECT pg_reload_conf()").await;
    servers.archiver("last_archived_time > last_failed_time").await;
    let told = servers.check(&["--strict"]).await;
    assert_eq!((told.code, &told.report["complete"]), (Some(0), &true.into()), "{:#}", told.report);

    // And what was checked works.
    servers.run(Side::Source, "INSERT INTO shop.typed VALUES (1, 100000)").await;
    servers.daemon.start();
    servers.daemon.wait_ready(seconds(60)).await;
    let (source, target) =
        (servers.source.connect(&servers.from.name).await, servers.target.connect(&servers.to.name).await);
    wait_equal(&source, &[&target], &["shop.typed", "shop.late", "shop.scratch", "shop.computed"], seconds(60)).await;
    assert!(servers.daemon.terminate(seconds(60)).await.success());
}

/// Runs the statements of all findings, each on the server that it names. Whether there were any.
async fn mends(servers: &mut Servers, told: &Told) -> bool {
    let mut restarts = BTreeSet::new();
    let mut any = false;
    for finding in told.findings() {
        for statement in finding["sql"].as_array().unwrap() {
            servers.run(side(finding), statement.as_str().unwrap()).await;
            any = true;
        }
        if finding["restart"] == true {
            restarts.insert(finding["server"].as_str().unwrap());
        }
    }
    for server in restarts {
        servers.restart(if server == "source" { Side::Source } else { Side::Target }).await;
    }
    any
}

#[tokio::test]
async fn a_pooler_in_between_is_found_on_either_side() {
    let servers = Servers::whole().await;
    let (before, behind) = (Pooler::to(&servers.source).await, Pooler::to(&servers.target).await);
    let daemon = Daemon::builder(&before.through(&servers.source.url_as("reader", &servers.from.name)))
        .target("one", &behind.through(&servers.target.url_as("writer", &servers.to.name)))
        .target("direct", &servers.target.url_as("writer", &servers.to.name))
        .prepare();
    let output = daemon.run(&["check", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |code: &str| {
        let findings = report["findings"].as_array().unwrap().iter().filter(|finding| finding["code"] == code);
        findings.map(|finding| finding["server"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of("pooler"), ["source", "one"], "{report:#}");
    assert_eq!(of("target-twice"), ["direct"], "they are one database: {report:#}");
}

#[tokio::test]
async fn standbys_on_either_side_are_found() {
    let mut servers = Servers::whole().await;
    let (before, behind) = (servers.source.standby().await, servers.target.standby().await);
    let daemon = Daemon::builder(&before.url_as("reader", &servers.from.name))
        .target("one", &behind.url_as("writer", &servers.to.name))
        .prepare();
    let output = daemon.run(&["check", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let has = |server: &str, code: &str| {
        let mut findings = report["findings"].as_array().unwrap().iter();
        findings.any(|finding| finding["server"] == server && finding["code"] == code)
    };
    let source = if default_major() >= 16 { "standby-source" } else { "standby-cannot-decode" };
    assert!(has("source", source) && has("one", "target-standby"), "{report:#}");
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn findings_have_the_fields_that_the_readme_lists() {
    let servers = Servers::whole().await;
    servers.run(Side::Source, "ALTER TABLE shop.faceless REPLICA IDENTITY NOTHING").await;
    let told = servers.check(&["--strict"]).await;
    assert_eq!(told.code, Some(1), "{}", told.report);
    let readme = std::fs::read_to_string("README.md").unwrap();
    let (_, table) = readme.split_once("| field of a finding | meaning |\n|---|---|\n").expect("the table of fields");
    let rows = table.lines().take_while(|line| line.starts_with("| `"));
    let listed: BTreeSet<&str> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert!(!told.findings().is_empty());
    for finding in told.findings() {
        let fields: BTreeSet<&str> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, listed);
        let known = format!("| `{}` |", finding["code"].as_str().unwrap());
        assert!(readme.contains(&known), "the README lacks {known}");
    }
    let fields: BTreeSet<&str> = told.report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["complete", "findings", "ok"].into());
}
