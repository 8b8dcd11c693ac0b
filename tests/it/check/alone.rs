//! Faults that would hide others, or that take a configuration of their own: each made by itself, found, and taken
//! back.

use super::fixture::{PUBLISH, Servers, Side, Told};
use crate::support::prelude::*;

/// One of them.
struct Alone {
    on: Side,
    /// How it is made; `{database}` is the database of that side.
    sql: &'static [&'static str],
    /// How it is taken back.
    undo: &'static [&'static str],
    /// What the configuration says besides.
    extra: &'static str,
    /// Which server the finding is about, and its code.
    server: &'static str,
    code: &'static str,
}

const NOTHING: Alone = Alone { on: Side::Source, sql: &[], undo: &[], extra: "", server: "source", code: "" };
const THERE: Alone = Alone { on: Side::Target, server: "one", ..NOTHING };
const MERGE: &str = "[copy]\nexisting_rows = \"merge\"";
const ALIGN: &str = "[copy]\nmode = \"merge\"";
const TRUNCATE: &str = "[copy]\nexisting_rows = \"truncate\"";

const ALL: &[Alone] = &[
    Alone { sql: &["DROP PUBLICATION walferry"], undo: &[PUBLISH], code: "publication-wrong", ..NOTHING },
    Alone { sql: &["DROP PUBLICATION walferry"], undo: &[PUBLISH], server: "one", code: "tables-unseen", ..NOTHING },
    Alone {
        sql: &["DROP PUBLICATION walferry", "CREATE PUBLICATION walferry"],
        undo: &["DROP PUBLICATION walferry", PUBLISH],
        code: "publication-empty",
        ..NOTHING
    },
    Alone {
        sql: &["ALTER PUBLICATION walferry SET (publish_via_partition_root = false)"],
        undo: &["ALTER PUBLICATION walferry SET (publish_via_partition_root = true)"],
        code: "published-by-leaf",
        ..NOTHING
    },
    Alone {
        sql: &["ALTER PUBLICATION walferry SET (publish = 'update, delete')"],
        undo: &["ALTER PUBLICATION walferry SET (publish = 'insert, update, delete, truncate')"],
        server: "one",
        code: "not-copied",
        ..NOTHING
    },
    Alone {
        sql: &["SELECT pg_create_physical_replication_slot('walferry')"],
        undo: &["SELECT pg_drop_replication_slot('walferry')"],
        code: "slot-unusable",
        ..NOTHING
    },
    Alone {
        sql: &["SELECT pg_create_logical_replication_slot('walferry', 'pgoutput')"],
        undo: &["SELECT pg_drop_replication_slot('walferry')"],
        code: "slot-unknown",
        ..NOTHING
    },
    Alone {
        sql: &["SELECT lo_create(4711)"],
        undo: &["SELECT lo_unlink(4711)"],
        code: "large-objects-not-carried",
        ..NOTHING
    },
    Alone {
        sql: &["DROP TABLE shop.gone", "CREATE VIEW shop.gone AS SELECT 1 AS id"],
        undo: &[
            "DROP VIEW shop.gone",
            "CREATE TABLE shop.gone (id int PRIMARY KEY, v text)",
            "GRANT ALL ON shop.gone TO writer",
        ],
        code: "no-table",
        ..THERE
    },
    Alone {
        sql: &["ALTER TABLE shop.gone DROP CONSTRAINT gone_pkey"],
        undo: &["ALTER TABLE shop.gone ADD PRIMARY KEY (id)"],
        extra: MERGE,
        code: "merge-key-missing",
        ..THERE
    },
    Alone {
        sql: &["ALTER TABLE shop.gone DROP CONSTRAINT gone_pkey"],
        undo: &["ALTER TABLE shop.gone ADD PRIMARY KEY (id)"],
        extra: ALIGN,
        code: "not-merged",
        ..THERE
    },
    Alone {
        sql: &["REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"],
        undo: &["GRANT TEMPORARY ON DATABASE {database} TO PUBLIC"],
        extra: MERGE,
        code: "temporary-refused",
        ..THERE
    },
    Alone {
        sql: &[
            "CREATE TABLE public.kin (id int REFERENCES shop.parent ON DELETE CASCADE)",
            "INSERT INTO shop.parent VALUES (1); INSERT INTO public.kin VALUES (1)",
        ],
        undo: &["DROP TABLE public.kin", "DELETE FROM shop.parent"],
        extra: TRUNCATE,
        code: "foreign-key-cascades",
        ..THERE
    },
];

fn has(told: &Told, server: &str, code: &str) -> bool {
    told.findings().iter().any(|finding| finding["server"] == server && finding["code"] == code)
}

#[tokio::test]
async fn each_fault_by_itself_is_found_until_it_is_taken_back() {
    let mut servers = Servers::whole().await;
    for alone in ALL {
        servers.daemon = Daemon::builder(&servers.source.url_as("reader", &servers.from.name))
            .target("one", &servers.target.url_as("writer", &servers.to.name))
            .extra(alone.extra)
            .prepare();
        for statement in alone.sql {
            servers.run(alone.on, &servers.of(alone.on, statement)).await;
        }
        let told = servers.check(&[]).await;
        assert!(has(&told, alone.server, alone.code), "{} is not in {:#}", alone.code, told.report);
        for finding in told.findings() {
            assert!(!finding["why"].as_str().unwrap().is_empty(), "{finding}");
        }
        for statement in alone.undo {
            servers.run(alone.on, &servers.of(alone.on, statement)).await;
        }
        let told = servers.check(&["--strict"]).await;
        assert!(!has(&told, alone.server, alone.code) && told.code == Some(0), "{}: {:#}", alone.code, told.report);
    }
}

#[tokio::test]
async fn servers_that_do_not_answer_and_a_target_that_is_the_source_are_errors() {
    let mut servers = Servers::whole().await;
    let from = servers.source.url_as("reader", &servers.from.name);
    servers.daemon = Daemon::builder(&from)
        .target("itself", &servers.from.url)
        .target("one", &servers.target.url_as("writer", "nowhere"))
        .prepare();
    let told = servers.check(&[]).await;
    assert_eq!((told.code, &told.report["complete"]), (Some(2), &false.into()));
    assert!(has(&told, "itself", "target-is-source") && has(&told, "one", "connection-failed"), "{:#}", told.report);
    assert!(!has(&told, "source", "connection-failed"));
    servers.source.stop().await;
    let told = servers.check(&[]).await;
    assert!(told.code == Some(2) && has(&told, "source", "connection-failed"), "{:#}", told.report);
}

/// The only collation that has a version everywhere is PostgreSQL's own, which came with 17.
#[tokio::test]
async fn a_collation_that_has_changed_since_is_found_and_mended() {
    let major = majors().pop().unwrap();
    if major < 17 {
        eprintln!("SKIPPED: PostgreSQL {major} has no collation of its own");
        return;
    }
    let mut servers = Servers::of_versions(major, major).await;
    let made = "CREATE DATABASE sorted TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'";
    servers.target.execute("postgres", made).await;
    servers.daemon = Daemon::builder(&servers.source.url_as("reader", &servers.from.name))
        .target("one", &servers.target.url_as("writer", "sorted"))
        .prepare();
    let told = servers.check(&[]).await;
    assert!(has(&told, "one", "database-collation"), "{:#}", told.report);
    assert!(!has(&told, "one", "collation-changed"), "{:#}", told.report);
    let aged = "UPDATE pg_database SET datcollversion = '0' WHERE datname = 'sorted'";
    servers.target.execute("postgres", aged).await;
    let told = servers.check(&[]).await;
    let found = told.findings().iter().find(|finding| finding["code"] == "collation-changed").expect("is found");
    for statement in found["sql"].as_array().unwrap() {
        servers.target.execute("sorted", statement.as_str().unwrap()).await;
    }
    let told = servers.check(&[]).await;
    assert!(!has(&told, "one", "collation-changed"), "{:#}", told.report);
}
