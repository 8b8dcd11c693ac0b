//! Everything the daemon writes in a full life, with whatever can go wrong: no secret is in it, and no row's value.
//!
//! Secrets and values are marked. A row that is refused, or in conflict, is named by its key: such keys may be found
//! where it is told of, and nowhere else; others nowhere.

mod markers;
mod record;
mod refusals;
mod scanner;
mod stage;

use self::markers::{AWKWARD_VALUE, KEY, NAMED_KEY, NUMBER, ROTATED_PASSWORD, VALUE};
use self::record::Record;
use self::scanner::Scanner;
use self::stage::Stage;
use super::support::pair::{run, wait_halted};
use super::support::prelude::*;

#[tokio::test]
async fn neither_a_secret_nor_a_rows_value_is_ever_written_anywhere() {
    let mut stage = Stage::new().await;
    let mut record = Record::default();
    refusals::while_copying(&mut stage, &mut record).await;
    changes(&mut stage).await;
    refusals::while_streaming(&mut stage, &mut record, false).await;
    conflicts(&mut stage, &mut record).await;
    mistakes(&mut stage, &mut record).await;

    assert!(stage.daemon.terminate(seconds(30)).await.success());
    stage.daemon.reconfigure("[log]\n", "[log]\nformat = \"json\"\n");
    stage.daemon.reconfigure("bulk = \"never\"", "bulk = \"always\"");
    stage.daemon.start();
    stage.daemon.wait_ready(seconds(30)).await;
    changes(&mut stage).await;
    refusals::while_streaming(&mut stage, &mut record, true).await;
    assert!(stage.daemon.log_count("not as planned") > 0, "nothing was refused in bulk");
    outages(&mut stage, &mut record).await;
    passwords(&mut stage, &mut record).await;
    certificates(&mut stage, &mut record).await;
    mistakes(&mut stage, &mut record).await;

    record.look(&stage, "at the end").await;
    record.ask(&stage, "at the end").await;
    record.look_at_sessions(&stage, "at the end").await;
    record.look_at_tables(&stage).await;
    run(&stage.on_source, &format!("INSERT INTO zqpublic_orders VALUES ('{KEY}last', '{VALUE}')")).await;
    assert!(stage.daemon.terminate(seconds(30)).await.success());
    stage.daemon.start();
    stage.in_step("started again").await;
    assert!(stage.daemon.terminate(seconds(30)).await.success());
    record.read_statements(&stage);
    record.read_files(&stage);
    record.judge(&Scanner::new(&markers::all(&stage.certificates.client.1)));
}

/// Rows that come, change and go without anything to be told of.
async fn changes(stage: &mut Stage) {
    let statements = format!(
        "INSERT INTO zqpublic_orders
             VALUES ('{KEY}new', '{AWKWARD_VALUE}', {NUMBER}, '\\x7a7176616c7565', '\"{VALUE}\"');
         UPDATE zqpublic_orders SET note = '{VALUE} again', amount = {NUMBER}.5 WHERE id < '{KEY}3';
         UPDATE zqpublic_orders SET big = repeat('{VALUE}', 3000) WHERE id = '{KEY}4';
         UPDATE zqpublic_orders SET id = '{KEY}moved' WHERE id = '{KEY}new';
         UPDATE zqpublic_whole SET note = '{VALUE} again' WHERE id = '{KEY}5';
         DELETE FROM zqpublic_orders WHERE id = '{KEY}moved';
         BEGIN; INSERT INTO zqpublic_whole SELECT '{KEY}', '{VALUE}' FROM generate_series(1, 500);
         DELETE FROM zqpublic_whole WHERE id = '{KEY}'; COMMIT"
    );
    run(&stage.on_source, &statements).await;
    stage.in_step("changed").await;
}

/// A target that is not as expected: mended, and halted at.
async fn conflicts(stage: &mut Stage, record: &mut Record) {
    let missing = format!(
        "DELETE FROM zqpublic_orders WHERE id = '{NAMED_KEY}1'; DELETE FROM zqpublic_whole WHERE id = '{KEY}6';
         INSERT INTO zqpublic_orders VALUES ('{NAMED_KEY}3', '{VALUE} of its own')"
    );
    run(&stage.on_target, &missing).await;
    let changes = format!(
        "UPDATE zqpublic_orders SET note = '{VALUE}' WHERE id = '{NAMED_KEY}1';
         UPDATE zqpublic_whole SET note = '{VALUE}', big = '{VALUE}' WHERE id = '{KEY}6';
         INSERT INTO zqpublic_orders VALUES ('{NAMED_KEY}3', '{VALUE}')"
    );
    run(&stage.on_source, &changes).await;
    stage.in_step("mended").await;
    for kind in ["update_missing", "insert_exists"] {
        stage.daemon.wait_log(&format!("conflict: {kind}"), seconds(10)).await;
    }

    stage.daemon.reconfigure("[apply]\n", "[apply]\nconflicts = \"stop\"\n");
    let said = record.run(stage, "conflicts stop", &["reload"]).await;
    assert!(said.contains("apply.conflicts"), "{said}");
    run(&stage.on_target, &format!("DELETE FROM zqpublic_orders WHERE id = '{NAMED_KEY}2'")).await;
    run(&stage.on_source, &format!("UPDATE zqpublic_orders SET note = '{VALUE} 2' WHERE id = '{NAMED_KEY}2'")).await;
    wait_halted(&mut stage.daemon, "t", &["update_missing", NAMED_KEY], seconds(20)).await;
    record.look(stage, "halted at a conflict").await;
    run(&stage.on_target, &format!("INSERT INTO zqpublic_orders VALUES ('{NAMED_KEY}2', '{VALUE}')")).await;
    stage.in_step("mended by hand").await;

    // Another row has its unique value.
    run(&stage.on_target, "ALTER TABLE r_check ADD CONSTRAINT no_two UNIQUE (v)").await;
    let same = format!(
        "INSERT INTO r_check VALUES ('{NAMED_KEY}1', '{VALUE}'), ('{NAMED_KEY}2', '{VALUE} 2');
         UPDATE r_check SET v = '{VALUE}' WHERE id = '{NAMED_KEY}2'"
    );
    run(&stage.on_source, &same).await;
    wait_halted(&mut stage.daemon, "t", &["update_exists", NAMED_KEY], seconds(20)).await;
    record.look(stage, "halted at a unique value").await;
    run(&stage.on_target, "ALTER TABLE r_check DROP CONSTRAINT no_two").await;
    run(&stage.on_source, "DELETE FROM r_check").await;
    stage.in_step("two of one value").await;
}

/// A configuration that cannot be used, with a secret in the wrong place, is refused by reload and commands.
async fn mistakes(stage: &mut Stage, record: &mut Record) {
    let right = std::fs::read_to_string(stage.daemon.config_path()).expect("cannot read the configuration");
    let broken = "postgresql://ferry:zqsecretbroken@db.test/shop";
    for (from, to) in [
        ("[source]\n".to_owned(), format!("[source]\nurl = \"{broken}\n")),
        ("[source]\n".to_owned(), format!("source = \"{broken}\"\n[sauce]\n")),
        ("url_file = \"".to_owned(), format!("url_file = \"{broken}")),
        ("url_file = ".to_owned(), format!("urll = [\"{broken}\"]\nurl_file = ")),
        ("name = \"t\"".to_owned(), format!("name = \"{broken}\"")),
        ("url = \"${BESIDE_URL}\"".to_owned(), format!("url = \"{broken}?sslmode=zq\"")),
        ("url = \"${BESIDE_URL}\"".to_owned(), "url = \"host=h dbname=shoppassword=zqsecretbroken\"".to_owned()),
        ("url = \"${BESIDE_URL}\"".to_owned(), "url = \"host=h password=zqsecret broken zqsecret=1\"".to_owned()),
        ("url = \"${BESIDE_URL}\"".to_owned(), "url_file = \"${BESIDE_URL}\"".to_owned()),
        ("[http]\n".to_owned(), "[http]\ntoken = \"zqsecrettoken\"\n".to_owned()),
    ] {
        let refused = stage.daemon.log_count("reload: nothing is changed");
        stage.daemon.reconfigure(&from, &to);
        stage.daemon.signal("HUP");
        let said = async || (stage.daemon.log_count("reload: nothing is changed") > refused).then_some(());
        wait_for(&format!("the refusal of {to}"), seconds(20), said).await;
        record.run(stage, "with a mistake", &["config"]).await;
        std::fs::write(stage.daemon.config_path(), &right).expect("cannot write the configuration");
    }
}

/// Servers that go and come back.
async fn outages(stage: &mut Stage, record: &mut Record) {
    stage.target.kill9().await;
    stage
        .daemon
        .wait_metric("walferry_target_state", &[("target", "t"), ("state", "retrying")], |v| v == 1.0, seconds(20))
        .await;
    run(&stage.on_source, &format!("INSERT INTO zqpublic_orders VALUES ('{KEY}meanwhile', '{VALUE}')")).await;
    record.look(stage, "without the target").await;
    record.ask(stage, "without the target").await;
    stage.target.start_again().await;
    stage.on_target = stage.target.connect(&stage.to.name).await;
    stage.in_step("the target is back").await;
    stage.source.restart().await;
    stage.on_source = stage.source.connect(&stage.from.name).await;
    run(&stage.on_source, &format!("DELETE FROM zqpublic_orders WHERE id = '{KEY}meanwhile'")).await;
    stage.in_step("the source is back").await;
    // Until the daemon has its lock again, a command that asks for it takes it.
    let locked = "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted AND \
                  usename = 'ferry' LIMIT 1";
    let held = async || stage.on_source.query_opt(locked, &[]).await.expect("cannot look at locks").map(drop);
    wait_for("the daemon to hold the stream's lock", seconds(20), held).await;
}

/// Passwords that are changed on the servers first, and in the files after that.
async fn passwords(stage: &mut Stage, record: &mut Record) {
    let refused = stage.daemon.log_count("password authentication failed");
    let changed = format!("ALTER ROLE ferry PASSWORD '{ROTATED_PASSWORD}'");
    stage.target.execute("postgres", &changed).await;
    stage.part().await;
    let told = async || (stage.daemon.log_count("password authentication failed") > refused).then_some(());
    wait_for("the password to be refused", seconds(20), told).await;
    record.look(stage, "with a wrong password").await;
    record.run(stage, "with a wrong password", &["check"]).await;
    stage.write_pass_file(ROTATED_PASSWORD);
    stage.set_source_password(ROTATED_PASSWORD).await;
    changes(stage).await;
}

/// Keys that cannot be read, and a server that cannot be believed.
async fn certificates(stage: &mut Stage, record: &mut Record) {
    let read = |name: &str| std::fs::read_to_string(stage.certificates.path(name)).expect("cannot read a file");
    let (key, root) = (read("client.key"), read("root.crt"));
    let other = crate::connections::certificates::Certificates::new(&["db.test"], "db.test", false);
    let foreign = std::fs::read_to_string(other.path("root.crt")).expect("cannot read a file");
    let no_key = "-----BEGIN PRIVATE KEY-----\nzqsecretkeyzqsecretkey\n-----END PRIVATE KEY-----\n";
    for (name, wrong, right) in [("client.key", no_key, &key), ("root.crt", &foreign, &root)] {
        stage.certificates.write(name, wrong);
        stage.part().await;
        let told = async || {
            let (_, body) = stage.daemon.get("/readyz").await?;
            ["key", "certificate"].iter().any(|word| body.contains(word)).then_some(())
        };
        wait_for(&format!("{name} to be refused"), seconds(20), told).await;
        record.look(stage, &format!("with a wrong {name}")).await;
        record.run(stage, &format!("with a wrong {name}"), &["check"]).await;
        stage.certificates.write(name, right);
        changes(stage).await;
    }
}
