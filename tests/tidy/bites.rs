//! Every rule bites: each is fed what it forbids, and what it must let pass.

use crate::scanner::Source;
use crate::{Breach, layers, layout, lengths, places};

/// How many breaches a rule finds in a file of this path and text.
fn breaches(rule: fn(&Source) -> Vec<Breach>, path: &str, text: &str) -> usize {
    rule(&Source::new(path, text)).len()
}

#[test]
fn an_import_from_above_or_beside_is_found() {
    let found = |path, text| breaches(layers::imports_point_down, path, text);
    assert_eq!(found("src/route/mod.rs", "use crate::apply::Worker;"), 1);
    assert_eq!(found("src/apply/plan.rs", "fn f() { crate::source::start(); }"), 1);
    assert_eq!(found("src/route/map.rs", "use crate::{change::Change, admin::{self, x}, launcher};"), 2);
    assert_eq!(found("src/novelty.rs", "use crate::lsn::Lsn;"), 1, "a module without a layer");
    assert_eq!(found("src/apply/plan.rs", "use crate::{lsn::Lsn, apply::bulk, postgres::{source, x}};"), 0);
    assert_eq!(found("src/change.rs", "use crate::row::Row; // not crate::admin"), 0);
    assert_eq!(found("tests/it/main.rs", "use crate::support::source;"), 0);
}

#[test]
fn an_import_by_climbing_is_found() {
    let found = |path, text| breaches(layers::crate_paths_are_spelled_out, path, text);
    assert_eq!(found("src/route.rs", "use super::apply;"), 1);
    assert_eq!(found("src/route/mod.rs", "use super::apply;"), 1);
    assert_eq!(found("src/route/map.rs", "use super::super::apply;"), 1);
    assert_eq!(found("src/route/map.rs", "use super::{super::apply, table};"), 1);
    assert_eq!(found("src/route/map.rs", "use super::{table::{a, super::super::apply}};"), 2);
    assert_eq!(found("src/route/map.rs", "use super::super as root;"), 1);
    assert_eq!(found("src/route.rs", "use super as root;"), 1);
    assert_eq!(found("src/route.rs", "pub(super) fn f() {}"), 0);
    assert_eq!(found("src/route/map.rs", "use super::{table, other::{a, b}};\npub(super) fn f() {}"), 0);
    assert_eq!(found("src/route/map.rs", "use super::table;"), 0);
    assert_eq!(found("src/route.rs", "#[cfg(test)]\nmod tests { use super::*; }"), 0);
}

#[test]
fn an_import_in_disguise_is_found() {
    let found = |text| breaches(layers::nothing_hides_an_import, "src/route/map.rs", text);
    for text in [
        "include!(\"../admin/x.rs\");",
        "#[path = \"../admin/x.rs\"]\nmod x;",
        "extern crate self as walferry;",
        "use crate as root;",
        "use crate::{self as root};",
        "use crate::{lsn::Lsn, self};",
        "use crate::*;",
        "fn f() { walferry::admin::run(); }",
    ] {
        assert_eq!(found(text), 1, "{text}");
    }
    assert_eq!(found("const X: &str = include_str!(\"x.sql\");\nuse crate::lsn::{self, Lsn};"), 0);
    assert_eq!(found("#[cfg(test)]\n#[path = \"map_tests.rs\"]\nmod tests;"), 0);

    let root = |text| breaches(layers::the_root_only_declares, "src/lib.rs", text);
    assert_eq!(root("//! The map.\n\npub mod admin;\nmod lsn;\n#[cfg(test)]\nuse lsn::Lsn;\n"), 0);
    assert_eq!(root("pub mod admin;\npub use admin::run;"), 1);
    assert_eq!(root("mod admin;\nuse admin as other;\nfn f() {}"), 2);
    assert_eq!(breaches(layers::the_root_only_declares, "src/main.rs", "use walferry::admin;"), 0);
}

#[test]
fn a_clock_in_a_pure_module_is_found() {
    let found = |path, text| breaches(layers::pure_modules_are_pure, path, text);
    assert_eq!(found("src/feedback.rs", "let now = Instant::now();"), 1);
    assert_eq!(found("src/pgoutput/reader.rs", "use tokio::io::AsyncRead;"), 1);
    assert_eq!(found("src/apply/plan.rs", "async fn f() { x.await }"), 2);
    assert_eq!(found("src/feedback.rs", "use tokio_util::bytes;\nuse tokio_postgres::Row;"), 2);
    assert_eq!(found("src/feedback.rs", "if since.elapsed() > LIMIT {}"), 1);
    assert_eq!(found("src/route/map.rs", "use std::fs;\nfn f() { std::thread::sleep(x); }"), 2);
    assert_eq!(found("src/route/map.rs", "use std::{fmt, net::{self, IpAddr}, env};"), 2);
    assert_eq!(found("src/route/map.rs", "use std::{fmt, collections::{self, BTreeMap}};"), 0);
    assert_eq!(found("src/apply/worker.rs", "let now = Instant::now();"), 0);
    assert_eq!(found("src/feedback.rs", "//! Knows no tokio.\nfn f(now: Instant) {}"), 0);
}

#[test]
fn what_is_too_long_is_found() {
    let lines = |count| "x\n".repeat(count);
    assert_eq!(breaches(lengths::files_are_short, "src/a.rs", &lines(500)), 1);
    assert_eq!(breaches(lengths::files_are_short, "src/a.rs", &lines(499)), 0);
    let function =
        |body: usize| format!("fn long<'a>(x: [u8; 3]) {{\n{}}}\nfn short() {{}}\n", "let c = '}';\n".repeat(body));
    assert_eq!(breaches(lengths::functions_are_short, "src/a.rs", &function(68)), 1);
    assert_eq!(breaches(lengths::functions_are_short, "src/a.rs", &function(67)), 0);
    assert_eq!(breaches(lengths::lines_fit, "src/a.rs", &"ü".repeat(121)), 1);
    assert_eq!(breaches(lengths::lines_fit, "src/a.rs", &"ü".repeat(120)), 0);
}

#[test]
fn a_missing_caption_is_found() {
    assert_eq!(breaches(places::files_have_captions, "src/a.rs", "use std::fmt;"), 1);
    assert_eq!(breaches(places::files_have_captions, "src/a.rs", "//! What it is."), 0);
}

#[test]
fn raw_sql_outside_its_place_is_found() {
    let found = |path, text| breaches(places::raw_sql_stays_in_postgres, path, text);
    assert_eq!(found("src/apply/bulk.rs", "client.batch_execute(&text).await"), 1);
    assert_eq!(found("src/apply/bulk.rs", "client.simple_query(text)\n.query_raw(x)"), 2);
    for text in [
        "use tokio_postgres::Client;",
        "fn f(client: &tokio_postgres::Client) { client.query(text, &[]); }",
        "use tokio_postgres::{Row, Transaction};",
        "use tokio_postgres as raw;",
        "use tokio_postgres::*;",
    ] {
        assert_eq!(found("src/apply/bulk.rs", text), 1, "{text}");
        assert_eq!(found("src/postgres/client.rs", text), 0, "{text}");
    }
    assert_eq!(found("src/apply/bulk.rs", "use tokio_postgres::Row;\nfn f(c: &Client) { c.query(&sql, &[]); }"), 0);
    assert_eq!(found("src/postgres/client.rs", "client.batch_execute(text)"), 0);
    assert_eq!(found("src/apply/bulk.rs", "#[cfg(test)]\nmod tests { fn f() { c.batch_execute(x); } }"), 0);
    assert_eq!(found("src/apply/bulk.rs", "// not .batch_execute(x)\nlet x = \".batch_execute(\";"), 0);
}

#[test]
fn a_position_made_elsewhere_is_found() {
    let found = |path, text| breaches(places::positions_are_made_in_one_place, path, text);
    assert_eq!(found("src/source/status.rs", "let x = ConfirmedFlush::new(lsn);"), 1);
    assert_eq!(found("src/feedback.rs", "let x = ConfirmedFlush::new(lsn); DurableLsn::new(lsn)"), 1);
    assert_eq!(found("src/apply/progress.rs", "DurableLsn::new(lsn)"), 0);
}

#[test]
fn what_is_left_to_do_is_found() {
    let found = |text: &str| breaches(places::nothing_is_left_to_do, "src/a.rs", text);
    assert_eq!(found(&["// TO", "DO: later"].concat()), 1);
    assert_eq!(found(&["fn f() { to", "do!() }"].concat()), 1);
    assert_eq!(found(&["d", "bg!(x)"].concat()), 1);
    assert_eq!(found("// the todos of others"), 0);
}

#[test]
fn an_unwrap_is_found() {
    let found = |path, text| breaches(places::no_unwrap, path, text);
    assert_eq!(found("src/a.rs", "let x = y\n    .unwrap();"), 1);
    assert_eq!(found("src/a.rs", "x.unwrap_or(1); y.expect(\"why\");\n/// ```\n/// z.unwrap()"), 0);
    assert_eq!(found("src/a.rs", "#[cfg(test)]\nuse x;\n#[cfg(test)]\nmod t { fn f() { x.unwrap() } }"), 0);
    assert_eq!(found("src/a.rs", "#[cfg(test)]\nuse x;\nfn f() { x.unwrap() }"), 1);
    assert_eq!(found("tests/it/a.rs", "x.unwrap()"), 0);
}

#[test]
fn an_unmapped_module_and_a_stray_file_are_found() {
    let library = |text| layout::unmapped(&Source::new("src/lib.rs", text)).len();
    assert_eq!(library("//! The map: `lsn`.\npub mod lsn;\npub mod row;\nmod x { }"), 1);
    assert_eq!(library("//! The map: `lsn`, `row`.\npub mod lsn;\nmod row;\n"), 0);
    let top = ["src", "README.md", ".ci", "notes.md"].map(str::to_owned);
    assert_eq!(layout::strangers(top.into_iter()).len(), 1);
}

#[test]
fn a_test_module_with_a_file_of_its_own_is_known() {
    let text =
        "#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod fixture;\n#[cfg(test)]\nmod t { use x; }\nmod u;";
    let known = |path| crate::scanner::test_modules(&Source::new(path, text));
    assert_eq!(known("src/config/resolve.rs"), ["src/config/resolve/tests", "src/config/resolve/fixture"]);
    assert_eq!(known("src/config/mod.rs"), ["src/config/tests", "src/config/fixture"]);
    assert_eq!(known("src/lib.rs"), ["src/tests", "src/fixture"]);
    let elsewhere = Source::new("src/apply/plan.rs", "#[cfg(test)]\n#[path = \"plan_tests.rs\"]\nmod tests;");
    assert_eq!(crate::scanner::test_modules(&elsewhere), ["src/apply/plan_tests"]);
}

#[test]
fn the_scanner_tells_code_from_text() {
    for (text, code) in [
        (r#"a("b\"c", d) // e"#, r#"a("    ", d)     "#),
        (r##"r#"a"b"# + br"\" + c"##, r##"r#"   "# + br" " + c"##),
        ("'a' + '\\'' + '\\u{1F600}' + 'ü' + x::<'a>()", "' ' + '  ' + '         ' + '  ' + x::<'a>()"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("fn f<'a>(x: &'a str) -> char { '{' }", "fn f<'a>(x: &'a str) -> char { ' ' }"),
        ("\"a\nb\" c", "\" \n \" c"),
    ] {
        assert_eq!(Source::new("src/a.rs", text).code, code);
    }
}
