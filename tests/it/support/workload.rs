//! A seeded random workload over tables of every replica identity, and the proof that each transaction was applied
//! once.
//!
//! Every committed transaction inserts a row of its own into `applied`, which has no key, and adds one to `counter`: a
//! lost application shows as a missing row, a doubled one as a second row, which no constraint and no upsert can hide.

use std::fmt::Write;

use tokio_postgres::Client;

use super::cluster::describe;

/// Every so many transactions of a writer one is of many rows.
const LARGE: u64 = 20;

/// Keys that a statement of many rows is about.
const MANY: u64 = 30;

/// Keys of a writer: few enough that rows are met again.
const KEYS: u64 = 200;

/// Its tables, in an order in which they can be created and filled.
pub const TABLES: [&str; 7] = ["w_default", "w_index", "w_full", "w_parent", "w_child", "counter", "applied"];

/// Small numbers that look random and depend on the seed alone (SplitMix64, Steele and others 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The tables, empty; on the source and on each target.
pub async fn create(client: &Client) {
    execute(
        client,
        "CREATE TABLE w_default (id int PRIMARY KEY, note text, amount numeric, big text);
         CREATE TABLE w_index (code text NOT NULL, kind int NOT NULL, note text, big text);
         CREATE UNIQUE INDEX w_index_key ON w_index (code, kind);
         ALTER TABLE w_index REPLICA IDENTITY USING INDEX w_index_key;
         CREATE TABLE w_full (a int, b text, c float8, big text);
         ALTER TABLE w_full REPLICA IDENTITY FULL;
         CREATE TABLE w_parent (id int PRIMARY KEY, note text);
         CREATE TABLE w_child (id int PRIMARY KEY,
             parent int REFERENCES w_parent ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE, note text);
         CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
         CREATE TABLE applied (id bigint NOT NULL, worker int NOT NULL);
         ALTER TABLE w_default ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE w_index ALTER big SET STORAGE EXTERNAL;
         ALTER TABLE w_full ALTER big SET STORAGE EXTERNAL;",
    )
    .await;
}

/// The counter's row, on the source.
pub async fn fill(client: &Client) {
    execute(client, "INSERT INTO counter VALUES (1, 0)").await;
}

/// Panics unless each transaction committed on the source was applied on the target, and just once.
pub async fn assert_applied_once(source: &Client, target: &Client) {
    let committed: i64 = source.query_one("SELECT count(*) FROM applied", &[]).await.expect("cannot count").get(0);
    let counted = "SELECT count(DISTINCT id), count(*) - count(DISTINCT id) FROM applied";
    let row = target.query_one(counted, &[]).await.expect("cannot count");
    let (seen, again): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(seen, committed, "transactions seen on the target, against committed on the source");
    assert_eq!(again, 0, "applications of transactions that had been applied before");
}

/// One writer. Its transactions depend on its seed and number only, so a failure can be repeated.
#[derive(Debug)]
pub struct Writer {
    number: u64,
    random: Random,
    transactions: u64,
}

impl Writer {
    /// Writers that run at the same time need different numbers (below 1,000): each keeps to keys of its own.
    pub fn new(seed: u64, number: u64) -> Self {
        Self { number, random: Random::new(seed.wrapping_mul(1_000) + number), transactions: 0 }
    }

    /// Runs this many transactions.
    pub async fn run(&mut self, client: &Client, transactions: u64) {
        for _ in 0..transactions {
            let statements = self.transaction();
            let result = client.batch_execute(&statements).await;
            result.unwrap_or_else(|error| panic!("{}\nin {statements}", describe(&error)));
        }
    }

    /// The statements of the next transaction.
    pub fn transaction(&mut self) -> String {
        self.transactions += 1;
        let mut text = String::from("BEGIN;\n");
        let large = self.transactions % LARGE == LARGE / 2;
        for step in 0..1 + self.random.below(6) {
            let statement = if large { self.statement_of_many() } else { self.statement() };
            // A subtransaction that is rolled back leaves nothing, one that is released everything.
            match self.random.below(8) {
                0 => write!(text, "SAVEPOINT s{step};\n{statement}ROLLBACK TO s{step};\n"),
                1 => write!(text, "SAVEPOINT s{step};\n{statement}RELEASE s{step};\n"),
                _ => write!(text, "{statement}"),
            }
            .expect("writing to a string");
        }
        let (id, number) = (self.number * 1_000_000_000 + self.transactions, self.number);
        write!(text, "INSERT INTO applied VALUES ({id}, {number});\nUPDATE counter SET n = n + 1;\nCOMMIT;\n")
            .expect("writing to a string");
        text
    }

    fn statement(&mut self) -> String {
        let (key, other) = (self.key(), self.key());
        let (text, value) = (self.text(), self.random.below(1_000_000));
        match self.random.below(16) {
            0..3 => format!(
                "INSERT INTO w_default VALUES ({key}, {text}, {value}.250, {})
                     ON CONFLICT (id) DO UPDATE SET note = {text};\n",
                self.big()
            ),
            3 => format!("UPDATE w_default SET amount = amount + 1 WHERE id = {key};\n"),
            4 => format!("UPDATE w_default SET big = {} WHERE id = {key};\n", self.big()),
            5 => format!(
                "DELETE FROM w_default WHERE id = {other}; UPDATE w_default SET id = {other} WHERE id = {key};\n"
            ),
            6 => format!("DELETE FROM w_default WHERE id = {key};\n"),
            7 => format!("INSERT INTO w_index VALUES ('c{key}', 1, {text}, {}) ON CONFLICT DO NOTHING;\n", self.big()),
            8 => format!("UPDATE w_index SET note = {text} WHERE code = 'c{key}';\n"),
            9 => format!(
                "DELETE FROM w_index WHERE code = 'c{other}';
                 UPDATE w_index SET code = 'c{other}' WHERE code = 'c{key}';\n"
            ),
            10 => format!(
                "INSERT INTO w_full SELECT {key}, NULL, {value} / 7.0, {} FROM generate_series(1, 2);\n",
                self.big()
            ),
            11 => {
                format!("UPDATE w_full SET b = {text} WHERE ctid = (SELECT min(ctid) FROM w_full WHERE a = {key});\n")
            }
            12 => format!("DELETE FROM w_full WHERE ctid = (SELECT min(ctid) FROM w_full WHERE a = {key});\n"),
            13 => format!(
                "INSERT INTO w_parent VALUES ({key}, {text}) ON CONFLICT DO NOTHING;
                 INSERT INTO w_child VALUES ({other}, {key}, {text}) ON CONFLICT (id) DO UPDATE SET parent = {key};\n"
            ),
            14 => format!("DELETE FROM w_parent WHERE id = {key};\n"),
            _ if self.random.once_in(20) => self.truncate(),
            _ => format!("UPDATE w_parent SET note = {text} WHERE id = {key};\n"),
        }
    }

    /// A statement that is about many keys: enough rows for them to be applied many at once.
    fn statement_of_many(&mut self) -> String {
        let first = self.number * 1_000 + self.random.below(KEYS - MANY);
        let (last, text) = (first + MANY - 1, self.text());
        let rows = format!("FROM generate_series({first}, {last}) n");
        let keys = format!("BETWEEN {first} AND {last}");
        match self.random.below(12) {
            0..3 => format!(
                "INSERT INTO w_default SELECT n, {text}, n / 4.0, repeat('large', n % 7 * 200) {rows}
                     ON CONFLICT (id) DO UPDATE SET note = {text}, amount = 0;\n"
            ),
            3 => format!("UPDATE w_default SET amount = amount + 1 WHERE id {keys};\n"),
            4 => format!("DELETE FROM w_default WHERE id {keys};\n"),
            5 => format!("INSERT INTO w_index SELECT 'c' || n, 1, {text}, 'large' {rows} ON CONFLICT DO NOTHING;\n"),
            6 => format!("UPDATE w_index SET note = {text} WHERE code IN (SELECT 'c' || n {rows});\n"),
            7 => format!("INSERT INTO w_full SELECT n, {text}, n / 7.0, 'large' {rows};\n"),
            8 => format!("UPDATE w_full SET c = c + 1 WHERE a {keys};\n"),
            9 => format!("DELETE FROM w_full WHERE a {keys};\n"),
            10 => format!(
                "INSERT INTO w_parent SELECT n, {text} {rows} ON CONFLICT DO NOTHING;
                 INSERT INTO w_child SELECT n, n, 'large' {rows} ON CONFLICT (id) DO UPDATE SET parent = excluded.id;\n"
            ),
            _ => format!("DELETE FROM w_parent WHERE id {keys};\n"),
        }
    }

    /// TRUNCATE locks out every other writer, so only the first does it.
    fn truncate(&mut self) -> String {
        let tables = ["w_full", "w_default, w_index", "w_parent CASCADE"];
        let tables = tables[self.random.below(3) as usize];
        if self.number == 0 { format!("TRUNCATE {tables};\n") } else { String::new() }
    }

    fn key(&mut self) -> u64 {
        self.number * 1_000 + self.random.below(KEYS)
    }

    fn text(&mut self) -> String {
        let texts = [
            "NULL",
            "''",
            "'plain'",
            "E'tab\\tline\\nback\\\\slash'",
            "'it''s \"quoted\"'",
            "'Grüße, 世界 🦀'",
            "'\\N'",
        ];
        texts[self.random.below(texts.len() as u64) as usize].to_owned()
    }

    /// Often long enough to be stored out of line (TOAST).
    fn big(&mut self) -> String {
        let length = self.random.below(200);
        format!("repeat(md5('{}'), {length})", self.random.below(1_000_000))
    }
}

async fn execute(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
}
