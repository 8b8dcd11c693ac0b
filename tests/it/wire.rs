//! The wire connection on a real server: COPY both ways with errors in the middle, large flights, cancelling, and that
//! a session can be used after each of them.

use bytes::Bytes;
use postgres_protocol::message::frontend;
use walferry::error::Judged;
use walferry::postgres::conninfo::*;
use walferry::postgres::wire::{Answer, Param, Progress, Purpose, WireConnection};
use walferry::postgres::{Client, ConnectOptions, PgError, ServerError};
use walferry::sql::Sql;

use super::connections::certificates::Certificates;
use super::support::prelude::*;

fn options(cluster: &Cluster) -> ConnectOptions {
    let address = HostAddress::Unix(cluster.socket_dir().to_owned());
    ConnectOptions {
        hosts: vec![Host { address, port: cluster.port, password: None }],
        user: "postgres".into(),
        dbname: "postgres".into(),
        password: None,
        tls: TlsOptions {
            certificates: Default::default(),
            mode: SslMode::Disable,
            root_cert: RootCert::Default,
            client_cert: None,
            client_key: None,
            client_key_password: None,
            direct: false,
            sni: true,
        },
        target_session_attrs: TargetSessionAttrs::Any,
        load_balance_hosts: false,
        channel_binding: ChannelBinding::Prefer,
        connect_timeout: None,
        keepalives: true,
        keepalives_idle: None,
        keepalives_interval: None,
        keepalives_count: None,
        tcp_user_timeout: None,
        application_name: None,
        options: None,
        answers_soon: false,
        renewal: None,
    }
}

async fn connect(cluster: &Cluster) -> WireConnection {
    WireConnection::connect(&options(cluster), "walferry/test", Purpose::Ordinary).await.unwrap()
}

/// Over TCP, verified by name.
async fn connect_tls(cluster: &Cluster, certificates: &Certificates) -> WireConnection {
    let mut options = options(cluster);
    options.hosts[0].address = HostAddress::Tcp { name: "db.test".into(), hostaddr: Some([127, 0, 0, 1].into()) };
    options.tls.mode = SslMode::VerifyFull;
    options.tls.root_cert = RootCert::File(certificates.path("root.crt"));
    WireConnection::connect(&options, "walferry/test", Purpose::Ordinary).await.unwrap()
}

async fn assert_usable(wire: &mut WireConnection) {
    assert_eq!(wire.query(&Sql::new("SELECT 1, NULL")).await.unwrap(), [[Some("1".to_owned()), None]]);
}

#[tokio::test]
async fn copy_pipes_rows_of_any_size() {
    let cluster = Cluster::start(default_major()).await;
    let (mut from, mut to) = (connect(&cluster).await, connect(&cluster).await);
    from.query(&Sql::new(
        "CREATE TABLE public.a (i int, t text); CREATE TABLE public.b (i int, t text); \
         INSERT INTO public.a SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; \
         INSERT INTO public.a SELECT 0, repeat('y', 40000000)",
    ))
    .await
    .unwrap();
    let script = Sql::new("BEGIN; COPY public.a TO STDOUT (FORMAT binary); SELECT 7, NULL; COMMIT");
    from.start_script(&script).await.unwrap();
    let script = Sql::new("BEGIN; SELECT 8; SELECT WHERE false; COPY public.b FROM STDIN (FORMAT binary)");
    assert_eq!(to.start_copy_in(&script).await.unwrap(), [[Some("8".to_owned())]]);
    let (mut done, mut rows) = (0, Vec::new());
    loop {
        match from.answer().await.unwrap() {
            Answer::Data(data) => {
                assert!(data.len() <= 512 * 1024, "a piece of {} bytes", data.len());
                assert_eq!(done, 1);
                to.copy_in(data).await.unwrap();
            }
            Answer::Row(row) => rows.push(row),
            Answer::Done => done += 1,
            Answer::End => break,
        }
    }
    assert_eq!((done, rows), (4, vec![vec![Some("7".to_owned()), None]]));
    assert_eq!(to.finish_copy_in().await.unwrap(), 20_001);
    to.query(&Sql::new("COMMIT")).await.unwrap();
    let same = Sql::new("SELECT count(*) FROM public.a JOIN public.b USING (i) WHERE a.t = b.t");
    assert_eq!(from.query(&same).await.unwrap(), [[Some("20001".to_owned())]]);
    assert_usable(&mut to).await;
}

#[tokio::test]
async fn an_error_in_a_copy_arrives_early_and_the_session_goes_on() {
    let cluster = Cluster::start(default_major()).await;
    let mut wire = connect(&cluster).await;
    wire.query(&Sql::new("CREATE TABLE public.t (i int)")).await.unwrap();
    let copy = Sql::new("COPY public.t FROM STDIN");
    wire.start_copy_in(&copy).await.unwrap();
    let bad = Bytes::from("4711x\n".repeat(50_000));
    let mut sent = 0;
    let error = loop {
        match wire.copy_in(bad.clone()).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1000, "the error never arrived");
    };
    assert_eq!(error.code(), Some("22P02"));
    assert!(!format!("{error:?} {error}").contains("4711"));
    assert_usable(&mut wire).await;

    wire.start_copy_in(&copy).await.unwrap();
    wire.copy_in(Bytes::from_static(b"1\n2\n")).await.unwrap();
    wire.fail_copy_in("the test says so").await.unwrap();
    assert_usable(&mut wire).await;

    wire.start_copy_in(&copy).await.unwrap();
    wire.copy_in(Bytes::from_static(b"x\n")).await.unwrap();
    assert_eq!(wire.finish_copy_in().await.unwrap_err().code(), Some("22P02"));
    assert_usable(&mut wire).await;

    for (script, code, statements) in [
        ("SELECT; COPY public.missing TO STDOUT; CREATE TABLE public.not_run ()", "42P01", 1),
        ("COPY (SELECT 1 / (i - 50000) FROM generate_series(1, 100000) i) TO STDOUT", "22012", 0),
    ] {
        wire.start_script(&Sql::new(script)).await.unwrap();
        assert!(wire.query(&Sql::new("SELECT")).await.unwrap_err().to_string().contains("still running"));
        let mut done = 0;
        let error = loop {
            match wire.answer().await {
                Ok(Answer::Done) => done += 1,
                Ok(Answer::End) => panic!("the error was lost"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!((error.code(), done), (Some(code), statements));
        assert_usable(&mut wire).await;
    }
    let error = wire.start_copy_in(&Sql::new("SELECT 1; COPY public.not_run FROM STDIN")).await.unwrap_err();
    assert_eq!(error.code(), Some("42P01"));
    assert_usable(&mut wire).await;
    assert_eq!(wire.query(&Sql::new("SELECT count(*) FROM public.t")).await.unwrap(), [[Some("0".to_owned())]]);
    wire.query(&Sql::new("COPY public.t FROM STDIN")).await.unwrap_err();
    assert_usable(&mut wire).await;
}

/// Sends values of 64 kB in one flight and has each sent back this often.
async fn echo(wire: &mut WireConnection, values: usize, times: usize) {
    const SIZE: usize = 64 * 1024;
    let sql = format!("SELECT repeat($1, {times})");
    frontend::parse("echo", &sql, [25], wire.writer.buffer()).unwrap();
    let value = Bytes::from(vec![b'v'; SIZE]);
    for _ in 0..values {
        wire.writer.bind_execute("echo", &mut [Param::Text(value.clone())].into_iter()).unwrap();
    }
    frontend::sync(wire.writer.buffer());
    let (mut rows, mut bytes) = (0, 0);
    let exchanged = wire.exchange(|frame| {
        match frame.tag {
            b'D' => {
                rows += 1;
                bytes += frame.body.len();
            }
            b'Z' => return Ok(Progress::Done),
            b'E' => panic!("{:?}", frame.body),
            _ => {}
        }
        Ok(Progress::More)
    });
    tokio::time::timeout(std::time::Duration::from_secs(60), exchanged).await.expect("a deadlock").unwrap();
    assert_eq!((rows, bytes), (values, values * (times * SIZE + 6)));
    assert_usable(wire).await;
}

/// 64 MB of parameters one way, 64 MB of answers the other: whoever writes all before reading waits for ever.
#[tokio::test]
async fn a_large_flight_and_its_answers_pass_each_other() {
    let cluster = Cluster::start(default_major()).await;
    echo(&mut connect(&cluster).await, 1000, 1).await;
}

/// TLS takes the end of a flight before the socket does: what it still holds must not stop the reading either. The
/// answers to what the sockets hold are more than they hold.
#[tokio::test]
async fn a_large_flight_and_its_answers_pass_each_other_over_tls() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let cluster = certificates.start(&["hostssl all all all trust"]).await;
    echo(&mut connect_tls(&cluster, &certificates).await, 150, 20).await;
}

#[tokio::test]
async fn a_running_statement_can_be_cancelled() {
    let cluster = Cluster::start(default_major()).await;
    let mut wire = connect(&cluster).await;
    let canceller = wire.canceller();
    let watcher = cluster.connect("postgres").await;
    let cancelling = async {
        wait_for("the statement to run", seconds(30), async || {
            let running =
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'walferry/test' AND wait_event = 'PgSleep'";
            (!watcher.query(running, &[]).await.unwrap().is_empty()).then_some(())
        })
        .await;
        canceller.cancel().await.unwrap();
    };
    let sleep = Sql::new("SELECT pg_catalog.pg_sleep(60)");
    let (error, ()) = tokio::join!(wire.query(&sleep), cancelling);
    assert_eq!(error.unwrap_err().code(), Some("57014"));
    assert_usable(&mut wire).await;
}

#[tokio::test]
async fn the_servers_last_words_are_heard() {
    let cluster = Cluster::start(default_major()).await;
    let mut wire = connect(&cluster).await;
    cluster
        .execute(
            "postgres",
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'walferry/test'",
        )
        .await;
    assert_eq!(wire.query(&Sql::new("SELECT 1")).await.unwrap_err().code(), Some("57P01"));
}

fn shown(error: &PgError) -> String {
    format!("{error} {error:?} {:?}", error.verdict())
}

/// A function's author may put a row's values into message, hint and detail, and choose any SQLSTATE.
#[tokio::test]
async fn what_a_trigger_says_stays_in_the_servers_log() {
    let cluster = Cluster::start(default_major()).await;
    let (mut wire, client) =
        (connect(&cluster).await, Client::connect(&options(&cluster), "walferry/t").await.unwrap());
    cluster
        .execute(
            "postgres",
            "CREATE TABLE t (i int); CREATE TABLE audit (i int PRIMARY KEY); INSERT INTO audit VALUES (4711);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE 'customer % is poor', NEW.i USING ERRCODE = TG_ARGV[0], HINT = 'give ' || NEW.i, DETAIL = NEW.i;
             END $$;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.audit VALUES (NEW.i);
                 RETURN NEW;
             END $$",
        )
        .await;
    let insert = Sql::new("INSERT INTO public.t VALUES (4711)");
    for code in ["23514", "22000", "38000", "55000", "P0001"] {
        let trigger = "CREATE OR REPLACE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse";
        cluster.execute("postgres", &format!("{trigger}('{code}')")).await;
        wire.start_copy_in(&Sql::new("COPY public.t FROM STDIN")).await.unwrap();
        wire.copy_in(Bytes::from_static(b"4711\n")).await.unwrap();
        for error in [
            wire.finish_copy_in().await.unwrap_err(),
            wire.query(&insert).await.unwrap_err(),
            client.batch(&insert).await.unwrap_err(),
            client.execute(&Sql::new("INSERT INTO public.t VALUES ($1)"), &[&4711]).await.unwrap_err(),
        ] {
            let shown = shown(&error);
            assert!(shown.contains("a function or trigger raised an exception") && shown.contains(code), "{shown}");
            assert!(shown.contains("disable the trigger") && !shown.contains("4711"), "{shown}");
        }
        assert_usable(&mut wire).await;
    }
    // What the server itself says through a function names objects.
    let trigger = "CREATE OR REPLACE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()";
    cluster.execute("postgres", trigger).await;
    for error in [wire.query(&insert).await.unwrap_err(), client.batch(&insert).await.unwrap_err()] {
        let shown = shown(&error);
        assert!(shown.contains("unique constraint \"audit_pkey\"") && !shown.contains("4711"), "{shown}");
    }
}

/// Values are hidden, and what is said about them is not, whatever context the server's version adds.
#[tokio::test]
async fn a_value_that_does_not_fit_is_refused_by_its_type_and_not_by_itself() {
    for_each_major(async |major| {
        let cluster = Cluster::start(major).await;
        let mut wire = connect(&cluster).await;
        frontend::parse("s", "SELECT $1", [23], wire.writer.buffer()).unwrap();
        let value = Param::Text(Bytes::from_static(b"4711x"));
        wire.writer.bind_execute("s", &mut [value].into_iter()).unwrap();
        frontend::sync(wire.writer.buffer());
        let mut refused = None;
        wire.exchange(|frame| {
            match frame.tag {
                b'E' => refused = Some(PgError::from(Box::new(ServerError::parse(&frame.body)))),
                b'Z' => return Ok(Progress::Done),
                _ => {}
            }
            Ok(Progress::More)
        })
        .await
        .unwrap();
        wire.query(&Sql::new("CREATE TEMP TABLE t (i int)")).await.unwrap();
        wire.start_copy_in(&Sql::new("COPY pg_temp.t FROM STDIN")).await.unwrap();
        wire.copy_in(Bytes::from_static(b"4711x\n")).await.unwrap();
        for error in [refused.expect("an error"), wire.finish_copy_in().await.unwrap_err()] {
            let shown = shown(&error);
            assert!(shown.contains("invalid input syntax for type integer: \"…\""), "{major}: {shown}");
            assert!(!shown.contains("4711"), "{major}: {shown}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_that_the_server_has_ended_unheard_is_not_waited_for_and_a_long_statement_is() {
    let cluster = Cluster::start(default_major()).await;
    let proxy = Proxy::to(&cluster).await;
    let through = |port| {
        let mut options = options(&cluster);
        options.hosts[0].address = HostAddress::Tcp { name: "127.0.0.1".into(), hostaddr: None };
        options.hosts[0].port = port;
        options
    };
    let mut wire =
        WireConnection::connect(&through(proxy.port), "walferry/cut", Purpose::Ordinary).await.expect("it is there");
    let client = Client::connect(&through(proxy.port), "walferry/cut").await.expect("it is there");
    let mut patient =
        WireConnection::connect(&through(cluster.port), "walferry/test", Purpose::Ordinary).await.expect("it is there");
    let admin = cluster.connect("postgres").await;
    let (for_ever, long) = (Sql::new("SELECT pg_catalog.pg_sleep(600)"), Sql::new("SELECT pg_catalog.pg_sleep(12)"));
    let cut = async {
        let sleeping = "FROM pg_stat_activity WHERE application_name = 'walferry/cut' AND query LIKE '%pg_sleep(600)'";
        let both = async || {
            let count: i64 = admin.query_one(&format!("SELECT count(*) {sleeping}"), &[]).await.unwrap().get(0);
            (count == 2).then_some(())
        };
        wait_for("both statements to run", seconds(20), both).await;
        proxy.set(Mode::HalfOpen);
        // Cut off, a server process ends at the latest when it has an answer.
        let ended = format!("SELECT count(pg_terminate_backend(pid)) {sleeping}");
        let gone = async || (admin.query_one(&ended, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(());
        wait_for("their processes to end", seconds(20), gone).await;
        proxy.set(Mode::Pass);
    };
    let waiting =
        async { tokio::join!(wire.query(&for_ever), client.query(&for_ever, &[]), patient.query(&long), cut) };
    let (wire, asked, long, ()) = within("the ends of both", seconds(40), waiting).await;
    for error in [wire.unwrap_err(), asked.unwrap_err()] {
        assert!(matches!(error, PgError::Connection { .. }), "{error:?}");
        let said = walferry::error::chain(&error);
        assert!(said.contains("has ended the session"), "{said}");
    }
    assert!(client.is_closed() && long.is_ok());
}
