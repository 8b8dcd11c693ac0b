//! kill -9 at random and at counted moments: nothing is lost, nothing is applied twice, and the source is never told to
//! forget what a target does not have.
//!
//! Counted: a proxy that reads along stops at the n-th commit, status update, COPY …; whoever is to die is killed then.

mod unflushed;

use std::time::Duration;

use crate::support::modes::MODES;
use crate::support::prelude::*;
use crate::support::stage::{connect, execute};
use crate::support::workload::{self, Random, Writer};

/// Between two transactions of a writer: the machine is the servers' and the daemon's too.
const PAUSE: Duration = Duration::from_millis(10);

in_each_mode!(
    daemon_dies_at_random_moments_under_load,
    daemon_dies_during_target_commit,
    daemon_dies_during_status_update,
    target_dies_during_commit,
    source_dies_during_status_update,
    daemon_dies_during_slot_creation,
    daemon_dies_during_initial_copy,
    target_dies_during_initial_copy,
    source_dies_during_initial_copy,
);

async fn daemon_dies_at_random_moments_under_load(bulk: Bulk) {
    let kills = std::env::var("WALFERRY_TEST_KILLS").ok().map_or(10, |kills| kills.parse().expect("a number"));
    let stage = Stage::new(2).await.in_mode(bulk);
    Writer::new(1, 9).run(&stage.on_source, 200).await;
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemon = stage.daemon().start();
    // Other moments in each mode.
    let (mut random, mut begun, mut books) = (Random::new(3 * kills + bulk as u64), 0, Books::new(bulk));
    for kill in 0..kills {
        // Half of them early, while it starts and copies; the others while it applies. The moment is what is random.
        let early = kill % 2 == 0;
        if !early {
            let applies = async || (daemon.log_count("applying") > begun).then_some(());
            wait_for("it to apply", seconds(60), applies).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(if early { 300 } else { 1_000 }))).await;
        books.enter(&daemon).await;
        daemon.kill9();
        stage.assert_nothing_forgotten("walferry").await;
        begun = daemon.log_count("applying");
        daemon.start();
    }
    eprintln!("killed {kills} times; applying had begun {begun} times, {} transactions", load.committed());
    daemon.wait_ready(seconds(60)).await;
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    books.close(&daemon, &stage.on_source, &stage.places[0].client).await;
}

/// A daemon that dies again and again.
struct Mortal<'a> {
    stage: &'a Stage,
    daemon: Daemon,
    books: Books,
}

impl Mortal<'_> {
    /// Kills the daemon each time the tap stops, starts it again, and looks at the positions.
    async fn dies(&mut self, tap: &Tap, seen: Seen, moment: Moment) {
        for nth in 1..=3 {
            eprintln!("--- dying {moment:?} {seen:?}, number {nth}");
            tap.arm(seen, nth, moment);
            tap.fired(60).await;
            self.books.enter(&self.daemon).await;
            self.daemon.kill9();
            self.stage.assert_nothing_forgotten("walferry").await;
            self.daemon.start();
        }
    }

    async fn survives(self) {
        self.stage.assert_in_step(&self.daemon).await;
        self.books.close(&self.daemon, &self.stage.on_source, &self.stage.places[0].client).await;
    }
}

async fn daemon_dies_during_target_commit(bulk: Bulk) {
    let stage = Stage::new(2).await.in_mode(bulk);
    let taps = [Tap::to(&stage.places[0].cluster).await, Tap::to(&stage.places[1].cluster).await];
    let urls: Vec<String> = taps.iter().zip(&stage.places).map(|(tap, place)| tap.through(&place.db.url)).collect();
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemon = stage.daemon_via(&stage.from.url, &urls).start();
    daemon.wait_ready(seconds(60)).await;
    let mut mortal = Mortal { stage: &stage, daemon, books: Books::new(bulk) };
    for tap in &taps {
        mortal.dies(tap, Seen::Statement("COMMIT"), Moment::Before).await;
        mortal.dies(tap, Seen::Answer("COMMIT"), Moment::Before).await;
        mortal.dies(tap, Seen::Answer("COMMIT"), Moment::After).await;
    }
    load.stop().await;
    mortal.survives().await;
}

async fn daemon_dies_during_status_update(bulk: Bulk) {
    let stage = Stage::new(2).await.in_mode(bulk);
    let tap = Tap::to(&stage.source).await;
    let urls: Vec<String> = stage.places.iter().map(|place| place.db.url.clone()).collect();
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemon = stage.daemon_via(&tap.through(&stage.from.url), &urls).start();
    daemon.wait_ready(seconds(60)).await;
    let mut mortal = Mortal { stage: &stage, daemon, books: Books::new(bulk) };
    mortal.dies(&tap, Seen::Status, Moment::Before).await;
    mortal.dies(&tap, Seen::Status, Moment::After).await;
    load.stop().await;
    mortal.survives().await;
}

async fn target_dies_during_commit(bulk: Bulk) {
    let mut stage = Stage::new(2).await.in_mode(bulk);
    let taps = [Tap::to(&stage.places[0].cluster).await, Tap::to(&stage.places[1].cluster).await];
    let urls: Vec<String> = taps.iter().zip(&stage.places).map(|(tap, place)| tap.through(&place.db.url)).collect();
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemon = stage.daemon_via(&stage.from.url, &urls).start();
    daemon.wait_ready(seconds(60)).await;
    let pid = daemon.pid();
    let moments = [
        (Seen::Statement("COMMIT"), Moment::Before),
        (Seen::Statement("COMMIT"), Moment::After),
        (Seen::Answer("COMMIT"), Moment::Before),
    ];
    for (place, tap) in taps.iter().enumerate() {
        for (seen, moment) in moments {
            eprintln!("--- target {place} dies {moment:?} {seen:?}");
            tap.arm(seen, 2, moment);
            tap.fired(60).await;
            let place = &mut stage.places[place];
            place.cluster.kill9().await;
            place.cluster.start_again().await;
            place.reconnect().await;
            stage.assert_nothing_forgotten("walferry").await;
        }
    }
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    assert!(daemon.is_running() && daemon.pid() == pid, "the daemon goes through it without a restart");
    Books::new(bulk).close(&daemon, &stage.on_source, &stage.places[0].client).await;
}

async fn source_dies_during_status_update(bulk: Bulk) {
    let mut stage = Stage::new(1).await.in_mode(bulk);
    let tap = Tap::to(&stage.source).await;
    let urls = [stage.places[0].db.url.clone()];
    let load = Load::start(&stage, 0..2, PAUSE).await;
    let mut daemon = stage.daemon_via(&tap.through(&stage.from.url), &urls).start();
    daemon.wait_ready(seconds(60)).await;
    for moment in [Moment::Before, Moment::After] {
        for nth in 1..=2 {
            eprintln!("--- the source dies {moment:?} status update {nth}");
            tap.arm(Seen::Status, nth, moment);
            tap.fired(60).await;
            stage.source.kill9().await;
            stage.source.start_again().await;
            stage.on_source = stage.source.connect(&stage.from.name).await;
            stage.assert_nothing_forgotten("walferry").await;
        }
    }
    load.stop().await;
    stage.assert_in_step(&daemon).await;
    assert!(daemon.is_running());
    Books::new(bulk).close(&daemon, &stage.on_source, &stage.places[0].client).await;
}

/// Rows enough to be applied in bulk.
const MANY: &str = "INSERT INTO w_full SELECT n, 'many', 0.5, NULL FROM generate_series(1, 20) n";

/// Two servers for many first copies, each with databases and a slot of its own.
struct Copies {
    stage: Stage,
    source: Tap,
    target: Tap,
    bulk: Bulk,
    made: u32,
}

/// One first copy.
struct Copy {
    source: Db,
    target: Db,
    slot: String,
    bulk: Bulk,
    daemon: Daemon,
}

/// Where the daemon of a first copy dies.
#[derive(Clone, Copy, Debug)]
struct Death {
    at_target: bool,
    seen: Seen,
    nth: u64,
    moment: Moment,
}

fn at_source(seen: Seen, nth: u64, moment: Moment) -> Death {
    Death { at_target: false, seen, nth, moment }
}

fn at_target(seen: Seen, nth: u64, moment: Moment) -> Death {
    Death { at_target: true, seen, nth, moment }
}

impl Copies {
    async fn new(bulk: Bulk) -> Self {
        let stage = Stage::new(1).await.in_mode(bulk);
        let (source, target) = (Tap::to(&stage.source).await, Tap::to(&stage.places[0].cluster).await);
        Self { stage, source, target, bulk, made: 0 }
    }

    /// Four tables with rows, two of them copied in several ranges, one in binary and one as text, and a daemon that is
    /// not started yet.
    async fn next(&mut self) -> Copy {
        self.made += 1;
        let (source, target) =
            (self.stage.source.create_database().await, self.stage.places[0].cluster.create_database().await);
        let (here, there) = (connect(&source.url).await, connect(&target.url).await);
        for client in [&here, &there] {
            workload::create(client).await;
            execute(client, "CREATE TABLE as_text (id int PRIMARY KEY, v interval, filler text)").await;
        }
        workload::fill(&here).await;
        let rows = "INSERT INTO w_full SELECT n, 'x', n / 7.0, repeat('y', 500) FROM generate_series(1, 2000) n;
                    INSERT INTO as_text
                    SELECT n, n * interval '1 day', repeat('z', 500) FROM generate_series(1, 2000) n;
                    CREATE PUBLICATION walferry FOR TABLE w_full, as_text, applied, counter";
        execute(&here, rows).await;
        Writer::new(2, 1).run(&here, 50).await;
        let slot = format!("copy_{}", self.made);
        let daemon = self
            .stage
            .daemon_via(&self.source.through(&source.url), &[self.target.through(&target.url)])
            .slot(&slot)
            .extra("[copy]\nworkers = 1\nrange_bytes = \"512KiB\"")
            .prepare();
        Copy { source, target, slot, bulk: self.bulk, daemon }
    }

    /// Dies in one copy after the other. The mode tells how the changes after the copy are applied, which is the same
    /// wherever it has died: each mode takes its share of the deaths.
    async fn die(&mut self, deaths: &[Death]) {
        for death in deaths.iter().skip(self.bulk as usize).step_by(MODES.len()) {
            self.dies(*death).await;
        }
    }

    /// Starts, dies where the tap stops, writes on, starts again; in the end everything is there once.
    async fn dies(&mut self, death: Death) {
        eprintln!("--- {death:?}");
        let Death { at_target, seen, nth, moment } = death;
        let mut copy = self.next().await;
        let tap = if at_target { &self.target } else { &self.source };
        tap.arm(seen, nth, moment);
        copy.daemon.start();
        tap.fired(60).await;
        copy.daemon.kill9();
        copy.finish().await;
    }
}

impl Copy {
    async fn finish(mut self) {
        let (here, there) = (connect(&self.source.url).await, connect(&self.target.url).await);
        Writer::new(2, 2).run(&here, 50).await;
        if !self.daemon.is_running() {
            self.daemon.start();
        }
        Writer::new(2, 3).run(&here, 50).await;
        // Until it is ready, what is written may still come by copy.
        self.daemon.wait_ready(seconds(60)).await;
        execute(&here, MANY).await;
        wait_equal(&here, &[&there], &["w_full", "as_text", "applied", "counter"], seconds(60)).await;
        workload::assert_applied_once(&here, &there).await;
        assert_eq!(self.daemon.log_count("conflict:"), 0);
        Books::new(self.bulk).close(&self.daemon, &here, &there).await;
        assert!(self.daemon.terminate(seconds(30)).await.success());
        let drop = "SELECT pg_drop_replication_slot($1)";
        here.query_one(drop, &[&self.slot]).await.expect("the slot must be free");
    }
}

async fn daemon_dies_during_initial_copy(bulk: Bulk) {
    let mut copies = Copies::new(bulk).await;
    // Undisturbed, to count.
    let mut copy = copies.next().await;
    copies.target.count(Seen::Statement("COMMIT"));
    copies.source.count(Seen::Statement("COPY"));
    copy.daemon.start();
    copy.daemon.wait_log("applying", seconds(60)).await;
    let (commits, ranges) = (copies.target.counted(), copies.source.counted());
    eprintln!("{commits} commits and {ranges} ranges in an undisturbed copy");
    assert!(commits >= 8 && ranges >= 7, "{commits} commits, {ranges} ranges: too few to die between them");
    let formats = ["binary", "text"].map(|format| copy.daemon.log_count(&format!("format=\"{format}\"")));
    assert_eq!(formats, [3, 1], "{}", copy.daemon.log());
    copy.finish().await;

    let mut deaths = vec![
        at_target(Seen::CopyData, 1, Moment::After),
        at_target(Seen::CopyData, 2, Moment::Before),
        at_source(Seen::Statement("COPY"), 1, Moment::Before),
        at_source(Seen::Statement("COPY"), ranges, Moment::After),
    ];
    for nth in 1..=commits {
        deaths.push(at_target(Seen::Statement("COMMIT"), nth, Moment::Before));
        deaths.push(at_target(Seen::Answer("COMMIT"), nth, Moment::Before));
    }
    copies.die(&deaths).await;
}

/// A first copy through a network so slow that it is under way until that changes, and writers beside it.
struct SlowCopy {
    stage: Stage,
    network: Proxy,
    load: Load,
    bulk: Bulk,
    daemon: Daemon,
}

impl SlowCopy {
    async fn start(bulk: Bulk) -> Self {
        let stage = Stage::new(1).await.in_mode(bulk);
        // More than sockets hold: while some of it has arrived, the source still reads.
        let rows = "INSERT INTO w_full SELECT n, 'x', n / 7.0, repeat('y', 500) FROM generate_series(1, 40000) n";
        execute(&stage.on_source, rows).await;
        let network = Proxy::to(&stage.source).await;
        network.set(Mode::Throttle(300_000));
        // The writer of number 0 would empty the table.
        let load = Load::start(&stage, 1..3, PAUSE).await;
        let urls = [stage.places[0].db.url.clone()];
        let daemon = stage.daemon_via(&network.url(&stage.from.name), &urls).start();
        Self { stage, network, load, bulk, daemon }
    }

    /// Waits until the source sends rows and the target has received some.
    async fn wait_under_way(&self) {
        let sends = "SELECT 1 FROM pg_stat_progress_copy WHERE command = 'COPY TO' LIMIT 1";
        let receives = "SELECT 1 FROM pg_stat_progress_copy
                        WHERE command = 'COPY FROM' AND bytes_processed > 200000 LIMIT 1";
        let (source, target) = (&self.stage.on_source, &self.stage.places[0].client);
        let under_way = async || {
            let receives = target.query_opt(receives, &[]).await.expect("cannot look at the copy");
            let sends = source.query_opt(sends, &[]).await.expect("cannot look at the copy");
            receives.and(sends).map(drop)
        };
        wait_for("the copy to be under way", seconds(60), under_way).await;
    }

    async fn finish(mut self, pid: u32) {
        self.wait_under_way().await;
        self.network.set(Mode::Pass);
        self.load.stop().await;
        self.stage.assert_in_step(&self.daemon).await;
        let books = Books::new(self.bulk);
        books.close(&self.daemon, &self.stage.on_source, &self.stage.places[0].client).await;
        assert!(self.daemon.is_running() && self.daemon.pid() == pid, "the daemon goes through it without a restart");
    }
}

async fn target_dies_during_initial_copy(bulk: Bulk) {
    let mut copy = SlowCopy::start(bulk).await;
    let pid = copy.daemon.pid();
    for _ in 0..2 {
        copy.wait_under_way().await;
        let place = &mut copy.stage.places[0];
        place.cluster.kill9().await;
        place.cluster.start_again().await;
        place.reconnect().await;
        copy.stage.assert_nothing_forgotten("walferry").await;
    }
    copy.finish(pid).await;
}

async fn source_dies_during_initial_copy(bulk: Bulk) {
    let mut copy = SlowCopy::start(bulk).await;
    let pid = copy.daemon.pid();
    for _ in 0..2 {
        copy.wait_under_way().await;
        let stage = &mut copy.stage;
        stage.source.kill9().await;
        // What it has sent would keep the slow network busy for a while.
        copy.network.cut();
        stage.source.start_again().await;
        stage.on_source = stage.source.connect(&stage.from.name).await;
        stage.assert_nothing_forgotten("walferry").await;
    }
    copy.finish(pid).await;
}

async fn daemon_dies_during_slot_creation(bulk: Bulk) {
    let mut copies = Copies::new(bulk).await;
    let create = "CREATE_REPLICATION_SLOT";
    let deaths = [
        at_target(Seen::Statement("INSERT INTO walferry.progress"), 1, Moment::Before),
        at_source(Seen::Statement(create), 1, Moment::Before),
        at_source(Seen::Statement(create), 1, Moment::After),
        at_source(Seen::Answer(create), 1, Moment::Before),
        at_source(Seen::Answer(create), 1, Moment::After),
        at_target(Seen::Statement("UPDATE walferry.progress"), 1, Moment::Before),
        at_target(Seen::Answer("UPDATE 1"), 1, Moment::Before),
    ];
    copies.die(&deaths).await;
}
