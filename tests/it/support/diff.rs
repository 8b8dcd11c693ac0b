//! Whether databases hold the same rows: the comparison that decides most tests.
//!
//! Rows are compared as text, as multisets: every column of the source's table, by name, in the source's order. First a
//! fingerprint computed by each server; only where it differs the rows themselves, to show the first that differ.

use std::collections::HashMap;
use std::fmt::Write;

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::cluster::describe;
use super::wait::{Deadline, PAUSE};

/// How many differing rows are shown per table and side.
const SHOWN: usize = 5;

/// Panics unless the tables hold the same rows on both sides. Names as in SQL: `public.orders`, `"Odd ""name"`.
pub async fn assert_equal(source: &Client, target: &Client, tables: &[&str]) {
    let difference = differences(source, target, tables).await;
    assert!(difference.is_empty(), "source and target differ:\n{difference}");
}

/// Waits until every target equals the source. The source must have come to rest: it is read once.
pub async fn wait_equal(source: &Client, targets: &[&Client], tables: &[&str], deadline: Deadline) {
    let mut wanted = Vec::new();
    for table in tables {
        pin(source).await;
        let columns = columns(source, table).await;
        wanted.push((
            *table,
            fingerprint(source, table, &columns).await.unwrap_or_else(|error| panic!("{error}")),
            columns,
        ));
    }
    for (number, target) in targets.iter().enumerate() {
        pin(target).await;
        for (table, fingerprint_of_source, columns) in &wanted {
            loop {
                let late = deadline.passed();
                let started = std::time::Instant::now();
                let found = fingerprint(target, table, columns).await;
                if found.as_ref() == Ok(fingerprint_of_source) {
                    break;
                }
                if late {
                    let difference = differences(source, target, &[table]).await;
                    panic!("target {number} does not become equal to the source:\n{difference}");
                }
                // A comparison of many rows is work for the server that the daemon needs too.
                tokio::time::sleep((started.elapsed() * 2).max(PAUSE)).await;
            }
        }
    }
    // A table compared early may have been spoilt since.
    for target in targets {
        assert_equal(source, target, tables).await;
    }
}

/// What differs, as text for a person; empty when nothing does.
pub async fn differences(source: &Client, target: &Client, tables: &[&str]) -> String {
    let mut report = String::new();
    pin(source).await;
    pin(target).await;
    for table in tables {
        let columns = columns(source, table).await;
        let there = fingerprint(source, table, &columns).await.unwrap_or_else(|error| panic!("{error}"));
        match fingerprint(target, table, &columns).await {
            Ok(here) if here == there => {}
            Ok(here) => {
                let counts = format!("{table}: {} rows on the source, {} on the target", there.rows, here.rows);
                writeln!(report, "{counts}").expect("writing to a string");
                differing_rows(source, target, table, &columns, &mut report).await;
            }
            Err(error) => writeln!(report, "{table}: {error}").expect("writing to a string"),
        }
    }
    report
}

/// Two tables of one fingerprint hold the same rows, as far as 64-bit hashes can tell.
#[derive(Debug, PartialEq)]
struct Fingerprint {
    rows: i64,
    sum: String,
}

async fn fingerprint(client: &Client, table: &str, columns: &str) -> Result<Fingerprint, String> {
    let hash = format!("hashtextextended(ROW({columns})::text, 0)::numeric");
    let query = format!("SELECT count(*), coalesce(sum({hash}), 0)::text FROM {table} t");
    let row = client.query_one(&query, &[]).await.map_err(|error| describe(&error))?;
    Ok(Fingerprint { rows: row.get(0), sum: row.get(1) })
}

/// Output settings that decide what a value's text is.
async fn pin(client: &Client) {
    let settings = "SET extra_float_digits = 3; SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres';
                    SET bytea_output = 'hex'; SET timezone = 'UTC'; SET xmloption = 'content'";
    client.batch_execute(settings).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
}

async fn columns(client: &Client, table: &str) -> String {
    let query = "SELECT string_agg(format('t.%I', attname), ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped";
    let row = client.query_one(query, &[&table]).await;
    let row = row.unwrap_or_else(|error| panic!("{table}: {}", describe(&error)));
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

async fn differing_rows(source: &Client, target: &Client, table: &str, columns: &str, report: &mut String) {
    let mut balance: HashMap<String, i64> = HashMap::new();
    for (client, weight) in [(source, 1), (target, -1)] {
        for row in rows(client, table, columns).await {
            *balance.entry(row).or_default() += weight;
        }
    }
    let mut differing: Vec<(&String, &i64)> = balance.iter().filter(|(_, count)| **count != 0).collect();
    differing.sort();
    for (side, sign) in [("source", 1), ("target", -1)] {
        let surplus: Vec<_> = differing.iter().filter(|(_, count)| count.signum() == sign).collect();
        for (row, count) in surplus.iter().take(SHOWN) {
            let row: String = row.chars().take(300).collect();
            writeln!(report, "  only on the {side}, {} times: {row}", count.abs()).expect("writing to a string");
        }
        if surplus.len() > SHOWN {
            writeln!(report, "  … and {} more on the {side}", surplus.len() - SHOWN).expect("writing to a string");
        }
    }
}

async fn rows(client: &Client, table: &str, columns: &str) -> Vec<String> {
    let copy = format!("COPY (SELECT ROW({columns})::text FROM {table} t) TO STDOUT");
    let stream = client.copy_out(&copy).await.unwrap_or_else(|error| panic!("{table}: {}", describe(&error)));
    let chunks: Vec<bytes::Bytes> = stream.try_collect().await.unwrap_or_else(|error| panic!("{}", describe(&error)));
    let text = String::from_utf8_lossy(&chunks.concat()).into_owned();
    text.lines().map(str::to_owned).collect()
}
