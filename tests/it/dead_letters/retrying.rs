//! Letters that are applied: every value as it was, in order, once the target is mended.

use super::{LONG, ON, STRICT, TABLES, json, letters, passed, told, wait_letters};
use crate::support::pair::{Pair, run, text};
use crate::support::prelude::*;

/// Of one type each that goes in binary, and of those for which the stream goes in text.
const BINARY: &str = "CREATE TABLE v (id int PRIMARY KEY, b bool, i2 smallint, i8 bigint, num numeric, f4 real,
    f8 float8, s text, c char(5), vc varchar(20), by bytea, d date, ts timestamp, tz timestamptz, tm time, u uuid,
    j json, jb jsonb, ip inet, mac macaddr, pt point, vb varbit, r int4range, tv tsvector, l pg_lsn)";
const TEXT: &str =
    "CREATE TABLE v (id int PRIMARY KEY, a text[], aa int[], iv interval, m money, j jsonb, s text, by bytea)";

const BINARY_ROWS: [&str; 3] = [
    "1, true, -5, 9007199254740993, 12345678901234567890.12345678901234567890, 0.1, 1e-300, 'a \"b\" \\ ''c'' é€🐘
', 'ab', 'x', '\\x00ff', '2024-02-29', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789012+05', '23:59:59.5',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\": [1, null]}', '{\"a\": \"é\"}', '10.0.0.0/8', '08:00:2b:01:02:03',
     '(1.5,-2)', B'1010', '[1,5)', 'fat cat', '0/16B3748'",
    "2, NULL, NULL, NULL, 'NaN', 'Infinity', '-Infinity', '', '', '', '', 'infinity', '-infinity', 'infinity', '00:00',
     NULL, 'null', 'null', '::1', NULL, NULL, B'', 'empty', '', '0/0'",
    "3",
];
const TEXT_ROWS: [&str; 3] = [
    "1, ARRAY['a \"b\" \\ ''c''', NULL, '', 'NULL', '{}', 'é€🐘'], '{{1,2},{3,NULL}}', '1 mon -2 days 03:04:05.6', 12.34,
     '{\"a\": 1}', 'it''s', '\\x00ff'",
    "2, '{}', NULL, '0', 0, 'null', '', ''",
    "3",
];

/// A column that the target alone has.
const REFUSE: &str = "ALTER TABLE v ADD own int, ADD CONSTRAINT no CHECK (own IS NOT NULL) NOT VALID";

async fn comes_back(table: &str, rows: [&str; 3]) {
    let pair = Pair::start(table).await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.target, REFUSE).await;
    for row in rows {
        run(&pair.source, &format!("INSERT INTO v VALUES ({row})")).await;
    }
    wait_letters(&pair.target, 3).await;
    assert_eq!(text(&pair.target, "SELECT count(*) FROM v").await.unwrap(), "0");
    let hidden = "SELECT count(*) FROM walferry.dead_letter WHERE new::text LIKE '%hex%'";
    assert_eq!(text(&pair.target, hidden).await.unwrap(), "0", "every value is to be read in the letter");
    let still = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert_eq!(still.status.code(), Some(3), "{}", told(&still));
    assert!(told(&still).matches("still refused").count() == 3 && told(&still).contains("23514"), "{}", told(&still));
    let tries = "SELECT string_agg(DISTINCT retries::text, ' ') FROM walferry.dead_letter";
    assert_eq!(text(&pair.target, tries).await.unwrap(), "1");

    run(&pair.target, "ALTER TABLE v DROP CONSTRAINT no").await;
    let done = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert!(done.status.success() && told(&done).matches(": applied").count() == 3, "{}", told(&done));
    assert!(letters(&pair.target).await.is_empty());
    pair.equal(&["v"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn values_that_came_in_binary_are_readable_in_the_letter_and_come_back_as_they_were() {
    comes_back(BINARY, BINARY_ROWS).await;
}

#[tokio::test]
async fn values_that_came_as_text_come_back_as_they_were() {
    comes_back(TEXT, TEXT_ROWS).await;
}

/// The change keeps what it does not hold.
#[tokio::test]
async fn an_update_that_was_set_aside_keeps_the_large_value_that_the_source_did_not_send() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t SELECT i, 'c' || i, 'n', i, repeat('big', 3000) FROM generate_series(1, 3) i")
        .await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t"], seconds(20)).await;
    run(&pair.target, STRICT).await;
    let statements = format!(
        "UPDATE t SET note = '{LONG}' WHERE id = 1; UPDATE t SET id = 40, n = 40000 WHERE id = 2;
         DELETE FROM t WHERE id = 3"
    );
    run(&pair.source, &statements).await;
    let expected = ["update t {\"id\": \"1\"} 23514", "update t {\"id\": \"2\"} 22003"];
    assert_eq!(wait_letters(&pair.target, 2).await, expected);
    // One is mended so that the table is written anew.
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short; ALTER TABLE t ALTER n TYPE int").await;
    let done = json(&daemon.run(&["dead-letter", "retry", "--all", "--json"]).await);
    assert!(done.as_array().unwrap().iter().all(|letter| letter["outcome"] == "applied"), "{done}");
    pair.equal(&["t"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn changes_of_one_row_are_applied_in_their_order_and_a_later_one_waits_for_the_earlier() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'c1', 'n', 1, repeat('big', 3000))").await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["t"], seconds(20)).await;
    run(&pair.target, STRICT).await;
    let statements = format!(
        "UPDATE t SET note = '{LONG} 1' WHERE id = 1;
         INSERT INTO t VALUES (5, 'c5', '{LONG} 5', 5, repeat('big', 3000));
         UPDATE t SET note = '{LONG} 2', code = 'x' WHERE id = 1;
         UPDATE t SET code = 'y' WHERE id = 5;
         UPDATE t SET id = 6 WHERE id = 5;
         UPDATE t SET n = 7 WHERE id = 6"
    );
    run(&pair.source, &statements).await;
    let found = wait_letters(&pair.target, 6).await;
    assert!(found[5].starts_with("update t {\"id\": \"6\"}"), "{found:?}");
    let ids =
        text(&pair.target, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM walferry.dead_letter").await.unwrap();
    let ids: Vec<&str> = ids.split(' ').collect();
    run(&pair.target, "ALTER TABLE t DROP CONSTRAINT short").await;
    let waits = daemon.run(&["dead-letter", "retry", ids[2]]).await;
    let said = format!("letter {} is of the same row, and older", ids[0]);
    assert!(waits.status.code() == Some(3) && told(&waits).contains(&said), "{}", told(&waits));
    let waits = daemon.run(&["dead-letter", "retry", ids[5]]).await;
    assert!(told(&waits).contains(&format!("letter {} is of the same row", ids[4])), "{}", told(&waits));

    let one = daemon.run(&["dead-letter", "retry", ids[0], ids[1]]).await;
    assert!(one.status.success(), "{}", told(&one));
    let rest = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert!(rest.status.success(), "{}", told(&rest));
    pair.equal(&["t"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// A letter that the database's encoding does not have is kept all the same.
#[tokio::test]
async fn what_the_targets_encoding_does_not_have_is_kept_and_shown() {
    let pair = Pair::start(TABLES).await;
    let name = format!("{}_latin1", pair.to.name);
    let create = format!("CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    run(&pair.source, &create).await;
    let latin = pair.cluster.connect(&name).await;
    run(&latin, TABLES).await;
    let mut daemon = pair.daemon(ON).retarget(&pair.to.url, &pair.cluster.url(&name)).start();
    daemon.wait_ready(seconds(30)).await;
    run(&pair.source, "INSERT INTO t VALUES (1, 'café', 'é', 1, NULL), (2, 'c2', 'euro €', 2, NULL)").await;
    assert_eq!(wait_letters(&latin, 1).await, ["insert t {\"id\": \"2\"} 22P05"]);
    let shown = daemon.run(&["dead-letter", "list", "--values"]).await;
    assert!(told(&shown).contains("euro €"), "{}", told(&shown));
    let still = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert!(still.status.code() == Some(3) && told(&still).contains("22P05"), "{}", told(&still));
    assert_eq!(text(&latin, "SELECT string_agg(note, ' ') FROM t").await.unwrap(), "é");
    assert!(daemon.terminate(seconds(20)).await.success());
}

/// Foreign keys fire where the role may not turn them off.
#[tokio::test]
async fn a_row_whose_parent_was_refused_waits_with_it_and_both_are_applied_in_order() {
    let pair = Pair::start("").await;
    let plain = "plain_parent_writer";
    let tables = "CREATE TABLE p (id int PRIMARY KEY, note text);
                  CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE, note text)";
    run(&pair.source, tables).await;
    let role = format!("CREATE ROLE {plain} LOGIN; GRANT ALL ON p, c TO {plain};");
    let database = format!("GRANT CREATE, CONNECT ON DATABASE {} TO {plain}", pair.to.name);
    run(&pair.target, &format!("{tables}; {role} {database}")).await;
    let url = pair.cluster.url_as(plain, &pair.to.name);
    let mut daemon = pair.daemon(ON).retarget(&pair.to.url, &url).start();
    daemon.wait_ready(seconds(30)).await;
    let no = "ADD CONSTRAINT no CHECK (note IS NOT NULL)";
    run(&pair.target, &format!("ALTER TABLE p {no}; ALTER TABLE c {no}")).await;
    run(&pair.source, "INSERT INTO p VALUES (1, NULL), (2, 'fine'), (3, 'fine')").await;
    run(&pair.source, "INSERT INTO c VALUES (10, 1, 'fine'), (20, 2, NULL), (30, 3, NULL)").await;
    let expected = [
        "insert p {\"id\": \"1\"} 23514",
        "insert c {\"id\": \"10\"} 23503",
        "insert c {\"id\": \"20\"} 23514",
        "insert c {\"id\": \"30\"} 23514",
    ];
    assert_eq!(wait_letters(&pair.target, 4).await, expected);
    // The source's cascade deletes the child, which is not there, as after a cascade of the target's own.
    run(&pair.source, "DELETE FROM p WHERE id = 3").await;
    let superseded = async || letters(&pair.target).await[3].ends_with("superseded").then_some(());
    wait_for("the letter of a deleted row to be known as pointless", seconds(20), superseded).await;

    run(&pair.target, "ALTER TABLE p DROP CONSTRAINT no; ALTER TABLE c DROP CONSTRAINT no").await;
    let done = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert!(told(&done).matches(": applied").count() == 3 && done.status.code() == Some(3), "{}", told(&done));
    assert_eq!(letters(&pair.target).await.len(), 1);
    pair.equal(&["p", "c"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}

#[tokio::test]
async fn rows_without_a_key_are_set_aside_and_applied_by_all_of_their_values() {
    let pair = Pair::start(TABLES).await;
    run(&pair.source, "INSERT INTO bare VALUES (1, 'a'), (1, 'a'), (2, NULL); INSERT INTO f VALUES (1, 'a'), (5, 'a')")
        .await;
    let mut daemon = pair.daemon(ON).start();
    daemon.wait_ready(seconds(30)).await;
    pair.equal(&["bare", "f"], seconds(20)).await;
    run(
        &pair.target,
        "ALTER TABLE bare ADD CONSTRAINT no CHECK (note <> 'no'); ALTER TABLE f ADD CONSTRAINT no CHECK (note <> 'no')",
    )
    .await;
    run(
        &pair.source,
        "UPDATE bare SET note = 'no' WHERE ctid = (SELECT min(ctid) FROM bare); INSERT INTO bare VALUES (3, 'no');
         UPDATE bare SET note = 'no' WHERE a = 2; UPDATE f SET note = 'no';
         UPDATE f SET id = 2, note = 'yes' WHERE id = 1; DELETE FROM f WHERE id = 5",
    )
    .await;
    let expected = [
        "update bare 23514",
        "insert bare 23514",
        "update bare 23514",
        "update f {\"id\": \"1\"} 23514",
        "update f {\"id\": \"5\"} 23514",
    ];
    let found = wait_letters(&pair.target, 5).await;
    assert!(found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected)), "{found:?}");
    passed(&pair, 9).await;
    run(&pair.target, "ALTER TABLE bare DROP CONSTRAINT no; ALTER TABLE f DROP CONSTRAINT no").await;
    let done = daemon.run(&["dead-letter", "retry", "--all", "--table", "public.bare"]).await;
    assert!(done.status.success(), "{}", told(&done));
    pair.equal(&["bare", "f"], seconds(10)).await;
    // The row that it is of has gone on, under another key.
    let late = daemon.run(&["dead-letter", "retry", "--all"]).await;
    assert!(late.status.code() == Some(3), "{}", told(&late));
    pair.equal(&["bare", "f"], seconds(10)).await;
    assert!(daemon.terminate(seconds(20)).await.success());
}
