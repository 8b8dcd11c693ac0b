//! Rows that the target refuses, in every way in which its server's words hold their values: in message, DETAIL, HINT
//! or CONTEXT.

use super::markers::{KEY, NAMED_KEY, VALUE};
use super::record::Record;
use super::stage::Stage;
use crate::support::pair::{run, wait_halted};
use crate::support::prelude::*;

/// A table of which the target refuses a row.
struct Refusal {
    table: &'static str,
    /// The type of its column `v` on the source.
    column: &'static str,
    /// What makes the target refuse.
    refuses: &'static str,
    /// What mends that.
    takes: &'static str,
    /// What is refused, as SQL.
    value: &'static str,
    /// What the server says.
    code: &'static str,
}

const REFUSALS: [Refusal; 13] = [
    Refusal {
        table: "r_check",
        column: "text",
        refuses: "ADD CONSTRAINT no CHECK (v NOT LIKE 'zq%')",
        takes: "DROP CONSTRAINT no",
        value: "'zqvalue'",
        code: "23514",
    },
    Refusal {
        table: "r_large",
        column: "text",
        refuses: "ADD CONSTRAINT no CHECK (length(v) < 5)",
        takes: "DROP CONSTRAINT no",
        value: "repeat('zqvalue', 5000)",
        code: "23514",
    },
    Refusal {
        table: "r_foreign",
        column: "text",
        refuses: "ADD CONSTRAINT no FOREIGN KEY (v) REFERENCES zqpublic_orders",
        takes: "DROP CONSTRAINT no",
        value: "'zqvalue'",
        code: "23503",
    },
    Refusal {
        table: "r_type",
        column: "text",
        refuses: "ALTER v TYPE int USING NULL",
        takes: "ALTER v TYPE text",
        value: "'zqvalue'",
        code: "22P02",
    },
    Refusal {
        table: "r_number",
        column: "numeric",
        refuses: "ALTER v TYPE numeric(4)",
        takes: "ALTER v TYPE numeric",
        value: "731904552816",
        code: "22003",
    },
    Refusal {
        table: "r_date",
        column: "text",
        refuses: "ALTER v TYPE date USING NULL",
        takes: "ALTER v TYPE text",
        value: "'zqvalue'",
        code: "22007",
    },
    Refusal {
        table: "r_json",
        column: "text",
        refuses: "ALTER v TYPE jsonb USING NULL",
        takes: "ALTER v TYPE text",
        value: "'{\"zqvalue\": zqvalue}'",
        code: "22P02",
    },
    Refusal {
        table: "r_bytes",
        column: "text",
        refuses: "ALTER v TYPE bytea USING NULL",
        takes: "ALTER v TYPE text USING NULL",
        value: "'\\xzqvalue'",
        code: "22023",
    },
    Refusal {
        table: "r_words",
        column: "text",
        refuses: "ALTER v TYPE tsvector USING NULL",
        takes: "ALTER v TYPE text",
        value: "'''zqvalue'",
        code: "42601",
    },
    Refusal {
        table: "r_name",
        column: "text",
        refuses: "ALTER v TYPE regclass USING NULL",
        takes: "ALTER v TYPE text",
        value: "'zqvalue'",
        code: "42P01",
    },
    Refusal {
        table: "r_index",
        column: "text",
        refuses: "ADD CONSTRAINT no EXCLUDE (to_tsquery('simple', v) WITH =)",
        takes: "DROP CONSTRAINT no",
        value: "'zqvalue zqvalue'",
        code: "42601",
    },
    Refusal {
        table: "r_computed",
        column: "text",
        refuses: "ADD no date GENERATED ALWAYS AS (make_date(v::int, 13, 45)) STORED",
        takes: "DROP no",
        value: "'731904552'",
        code: "22008",
    },
    Refusal {
        table: "r_trigger",
        column: "text",
        refuses: "ENABLE TRIGGER no",
        takes: "DISABLE TRIGGER no",
        value: "'zqvalue'",
        code: "P0001",
    },
];

/// Fires when it is enabled.
const TRIGGER: &str = "
    CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        IF NEW.v IS NULL THEN RETURN NEW; END IF;
        RAISE EXCEPTION 'no %', NEW.v USING HINT = NEW.v, DETAIL = NEW.v;
    END$$;
    CREATE TRIGGER no BEFORE INSERT ON r_trigger FOR EACH ROW EXECUTE FUNCTION no();
    ALTER TABLE r_trigger DISABLE TRIGGER no;";

impl Refusal {
    fn begins(&self) -> String {
        format!("ALTER TABLE {} {};", self.table, self.refuses)
    }

    fn ends(&self) -> String {
        format!("ALTER TABLE {} {};", self.table, self.takes)
    }
}

/// Their tables, that take everything.
pub fn tables() -> String {
    let table =
        |refusal: &Refusal| format!("CREATE TABLE {} (id text PRIMARY KEY, v {});", refusal.table, refusal.column);
    REFUSALS.iter().map(table).collect::<String>() + TRIGGER
}

pub fn names() -> impl Iterator<Item = &'static str> {
    REFUSALS.iter().map(|refusal| refusal.table)
}

/// The tables are empty again on both sides.
async fn empty(stage: &mut Stage) {
    let deletes: String = names().map(|table| format!("DELETE FROM {table};")).collect();
    run(&stage.on_source, &deletes).await;
    stage.in_step("what was refused is deleted").await;
}

/// Starts the daemon: no table of these can be copied, until all is mended.
pub async fn while_copying(stage: &mut Stage, record: &mut Record) {
    run(&stage.on_target, &REFUSALS.iter().map(Refusal::begins).collect::<String>()).await;
    for refusal in &REFUSALS {
        let row = format!("INSERT INTO {} VALUES ('{KEY}1', NULL), ('{KEY}2', {})", refusal.table, refusal.value);
        run(&stage.on_source, &row).await;
    }
    // Of a row that another one is in the way of, DETAIL has the values.
    run(&stage.on_target, "ALTER TABLE zqpublic_whole ADD CONSTRAINT no_two UNIQUE (note)").await;
    let same = format!("INSERT INTO zqpublic_whole VALUES ('{KEY}', '{VALUE}1')");
    run(&stage.on_source, &same).await;
    stage.daemon.start();
    wait_halted(&mut stage.daemon, "t", &["cannot copy table"], seconds(30)).await;
    let codes = REFUSALS.iter().map(|refusal| (refusal.table, refusal.code));
    for (table, code) in codes.chain([("zqpublic_whole", "23505")]) {
        let told =
            async || stage.daemon.log().lines().any(|line| line.contains(table) && line.contains(code)).then_some(());
        wait_for(&format!("{table} to be refused with {code} while it is copied"), seconds(20), told).await;
    }
    record.look(stage, "while it copies").await;
    record.ask(stage, "while it copies").await;
    run(&stage.on_target, &REFUSALS.iter().map(Refusal::ends).collect::<String>()).await;
    run(&stage.on_target, "ALTER TABLE zqpublic_whole DROP CONSTRAINT no_two").await;
    stage.in_step("copied").await;
    empty(stage).await;
}

/// One refusal after the other halts the target, until it is mended. `in_bulk`: among many rows.
pub async fn while_streaming(stage: &mut Stage, record: &mut Record, in_bulk: bool) {
    for refusal in &REFUSALS {
        let Refusal { table, value, .. } = refusal;
        run(&stage.on_target, &refusal.begins()).await;
        let others = format!("INSERT INTO {table} SELECT '{KEY}' || n FROM generate_series(1, 200) n;");
        let others = if in_bulk { others } else { String::new() };
        let row = format!("BEGIN; {others} INSERT INTO {table} VALUES ('{NAMED_KEY}', {value}); COMMIT");
        run(&stage.on_source, &row).await;
        let says = [refusal.table, refusal.code, NAMED_KEY];
        wait_halted(&mut stage.daemon, "t", &says, seconds(20)).await;
        record.look(stage, &format!("{} is refused", refusal.table)).await;
        if refusal.table == "r_words" {
            record.ask(stage, "while it is halted").await;
            record.look_at_sessions(stage, "while it is halted").await;
        }
        run(&stage.on_target, &refusal.ends()).await;
    }
    stage.in_step("all is mended").await;
    empty(stage).await;
}
