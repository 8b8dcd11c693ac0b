//! Connecting: every sslmode against real certificates, every kind of authentication, and everything that can be wrong
//! about an address, with what is said about it. Each case is tried with both clients and as a replication connection.

pub mod certificates;
mod daemon;

use std::path::Path;
use std::time::Duration;

use rcgen::KeyPair;
use secrecy::SecretString;
use walferry::error::{Judged, Verdict};
use walferry::postgres::conninfo::{
    ChannelBinding, Host, HostAddress, RootCert, SslMode, TargetSessionAttrs, TlsOptions,
};
use walferry::postgres::wire::Purpose;
use walferry::postgres::{Client, ConnectOptions, PgError, WireConnection};
use walferry::sql::Sql;

use self::certificates::Certificates;
use super::support::prelude::*;

fn options(cluster: &Cluster) -> ConnectOptions {
    let address = HostAddress::Tcp { name: "db.test".into(), hostaddr: Some([127, 0, 0, 1].into()) };
    ConnectOptions {
        hosts: vec![Host { address, port: cluster.port, password: None }],
        user: "ferry".into(),
        dbname: "postgres".into(),
        password: Some(SecretString::from("right")),
        tls: TlsOptions {
            certificates: Default::default(),
            mode: SslMode::Prefer,
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
        connect_timeout: Some(Duration::from_secs(20)),
        keepalives: true,
        keepalives_idle: Some(Duration::from_secs(60)),
        keepalives_interval: None,
        keepalives_count: Some(3),
        tcp_user_timeout: Some(Duration::from_secs(30)),
        application_name: None,
        options: None,
        answers_soon: false,
        renewal: None,
    }
}

/// Connects in all three ways; whether the session is encrypted.
async fn connect(options: &ConnectOptions) -> Result<bool, PgError> {
    const ENCRYPTED: Sql =
        Sql::new("SELECT ssl::text FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()");
    let client = Client::connect(options, "walferry/test").await;
    for purpose in [Purpose::Ordinary, Purpose::Replication] {
        let wire = WireConnection::connect(options, "walferry/test", purpose).await;
        match (&client, wire) {
            (Ok(client), Ok(mut wire)) => {
                let expected: String = client.query_one(&ENCRYPTED, &[]).await.unwrap().get(0);
                assert_eq!(wire.query(&ENCRYPTED).await.unwrap(), [[Some(expected)]]);
                assert_eq!(wire.server_version(), client.server_version());
                wire.close().await.unwrap();
            }
            (Err(theirs), Err(ours)) => {
                assert_eq!((theirs.to_string(), theirs.verdict()), (ours.to_string(), ours.verdict()));
            }
            (theirs, ours) => panic!("{purpose:?}: {:?} but {:?}", theirs.as_ref().err(), ours.err()),
        }
    }
    let encrypted: String = client?.query_one(&ENCRYPTED, &[]).await?.get(0);
    Ok(encrypted == "true")
}

/// The error, which must hold these words, and whose hint must hold those (none: it is retried).
async fn refused(options: &ConnectOptions, words: &str, hint_words: Option<&str>) {
    let error = connect(options).await.expect_err(words);
    let text = error.to_string();
    assert!(text.contains(words), "{text}\nlacks {words}");
    assert!(!text.contains("right"), "the password is in: {text}");
    match (error.verdict(), hint_words) {
        (Verdict::Halt { hint }, Some(words)) => assert!(hint.contains(words), "{hint}\nlacks {words}"),
        (Verdict::Retry, None) => {}
        (verdict, _) => panic!("{text}: {verdict:?}"),
    }
}

fn with(base: &ConnectOptions, change: impl FnOnce(&mut ConnectOptions)) -> ConnectOptions {
    let mut options = base.clone();
    change(&mut options);
    options
}

fn tls(base: &ConnectOptions, mode: SslMode, root: Option<&Path>, name: &str) -> ConnectOptions {
    with(base, |options| {
        options.tls.mode = mode;
        options.tls.root_cert = root.map_or(RootCert::Default, |path| RootCert::File(path.to_owned()));
        options.hosts[0].address = HostAddress::Tcp { name: name.into(), hostaddr: Some([127, 0, 0, 1].into()) };
    })
}

#[tokio::test]
async fn each_sslmode_verifies_what_it_promises() {
    let certificates = Certificates::new(&["db.test", "*.wild.test", "127.0.0.1"], "unused.test", false);
    let others = Certificates::new(&["db.test"], "db.test", false);
    let cluster = certificates.start(&["host all all all scram-sha-256"]).await;
    let base = options(&cluster);
    let (root, other) = (certificates.path("root.crt"), others.path("root.crt"));
    for (mode, root, name, encrypted) in [
        (SslMode::Disable, None, "db.test", false),
        (SslMode::Allow, None, "db.test", false),
        (SslMode::Prefer, Some(&other), "other.test", true),
        (SslMode::Require, None, "other.test", true),
        (SslMode::Require, Some(&root), "other.test", true),
        (SslMode::VerifyCa, Some(&root), "other.test", true),
        (SslMode::VerifyFull, Some(&root), "db.test", true),
        (SslMode::VerifyFull, Some(&root), "a.wild.test", true),
        (SslMode::VerifyFull, Some(&root), "127.0.0.1", true),
    ] {
        let got = connect(&tls(&base, mode, root.map(|root| &**root), name)).await;
        assert_eq!(got.ok(), Some(encrypted), "{mode:?} {root:?} {name}");
    }
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let options = tls(&base, mode, Some(&other), "db.test");
        refused(&options, "not signed by any of", Some("sslrootcert")).await;
        refused(
            &tls(&base, mode, Some(Path::new("/nowhere/root.crt")), "db.test"),
            "cannot read sslrootcert /nowhere/root.crt",
            Some("path"),
        )
        .await;
    }
    for name in ["other.test", "unused.test", "a.b.wild.test", "127.0.0.2"] {
        refused(
            &tls(&base, SslMode::VerifyFull, Some(&root), name),
            "is for \"db.test\", \"*.wild.test\", \"127.0.0.1\"",
            Some("verify-ca"),
        )
        .await;
    }
    let system =
        with(&tls(&base, SslMode::VerifyFull, None, "db.test"), |options| options.tls.root_cert = RootCert::System);
    refused(&system, "TLS: ", Some("")).await;
    let weak = with(&system, |options| options.tls.mode = SslMode::Require);
    refused(&weak, "only with the host name verified", Some("verify-full")).await;
}

#[tokio::test]
async fn a_self_signed_certificate_is_its_own_root_and_a_common_name_still_counts() {
    let certificates = Certificates::new(&[], "db.test", true);
    let cluster = certificates.start(&["host all all all scram-sha-256"]).await;
    let own = certificates.path("server.crt");
    let base = options(&cluster);
    assert!(connect(&tls(&base, SslMode::VerifyFull, Some(&own), "db.test")).await.unwrap());
    refused(&tls(&base, SslMode::VerifyFull, Some(&own), "other.test"), "is for \"db.test\"", Some("issue it anew"))
        .await;
    refused(
        &tls(&base, SslMode::VerifyCa, Some(&certificates.path("root.crt")), "db.test"),
        "certificate",
        Some("sslrootcert"),
    )
    .await;
}

#[tokio::test]
async fn the_server_may_demand_or_refuse_encryption() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let demanding = certificates.start(&["hostssl all all all scram-sha-256"]).await;
    let base = options(&demanding);
    assert!(connect(&tls(&base, SslMode::Allow, None, "db.test")).await.unwrap());
    refused(
        &tls(&base, SslMode::Disable, None, "db.test"),
        "no pg_hba.conf entry",
        Some("\"postgres\" \"ferry\" 127.0.0.1/32"),
    )
    .await;

    let refusing = certificates.start(&["hostnossl all all all scram-sha-256"]).await;
    let base = options(&refusing);
    assert!(!connect(&tls(&base, SslMode::Prefer, None, "db.test")).await.unwrap());
    refused(&tls(&base, SslMode::Require, None, "db.test"), "no pg_hba.conf entry", Some("hostssl")).await;

    let plain = Cluster::builder(default_major()).start().await;
    plain.execute("postgres", "CREATE ROLE ferry LOGIN REPLICATION").await;
    let base = options(&plain);
    assert!(!connect(&base).await.unwrap());
    refused(&tls(&base, SslMode::Require, None, "db.test"), "does not support TLS", Some("ssl = on")).await;
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let cluster = certificates.start(&["hostssl all all all cert"]).await;
    let certified = with(&options(&cluster), |options| {
        options.password = None;
        options.tls.client_cert = Some(certificates.path("client.crt"));
        options.tls.client_key = Some(certificates.path("client.key"));
    });
    assert!(connect(&certified).await.unwrap());
    let uncertified = with(&options(&cluster), |options| options.tls.mode = SslMode::Require);
    refused(&uncertified, "connection requires a valid client certificate", Some("")).await;
    certificates
        .write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let locked = with(&certified, |options| options.tls.client_key = Some(certificates.path("locked.key")));
    refused(&locked, "is encrypted", Some("openssl pkey")).await;
    let mixed = with(&certified, |options| {
        certificates.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
        options.tls.client_key = Some(certificates.path("other.key"));
    });
    refused(&mixed, "do not fit together", Some("sslkey")).await;
}

#[tokio::test]
async fn every_kind_of_password_is_understood_and_a_wrong_one_is_named() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let lines = [
        "host all ferry all scram-sha-256",
        "host all old all md5",
        "host all clear all password",
        "host all open all trust",
    ];
    let cluster = certificates.start(&lines).await;
    cluster
        .execute("postgres", "SET password_encryption = 'md5'; CREATE ROLE old LOGIN REPLICATION PASSWORD 'right'")
        .await;
    cluster
        .execute("postgres", "CREATE ROLE clear LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE open LOGIN REPLICATION")
        .await;
    for mode in [SslMode::Disable, SslMode::Require] {
        let base = with(&options(&cluster), |options| options.tls.mode = mode);
        for user in ["ferry", "old", "clear", "open"] {
            let as_user = with(&base, |options| options.user = user.into());
            assert!(connect(&as_user).await.is_ok(), "{user}");
            let bound = with(&as_user, |options| options.channel_binding = ChannelBinding::Require);
            let unbound = with(&as_user, |options| options.channel_binding = ChannelBinding::Disable);
            assert!(connect(&unbound).await.is_ok(), "{user}");
            let got = connect(&bound).await;
            assert_eq!(got.is_ok(), user == "ferry" && mode == SslMode::Require, "{user} {mode:?} {:?}", got.err());
            if user != "open" {
                let wrong = with(&as_user, |options| options.password = Some(SecretString::from("wrong")));
                refused(&wrong, "authentication: FATAL: password authentication failed", Some("password")).await;
                let missing = with(&as_user, |options| options.password = None);
                refused(&missing, "asks for a password and none is configured", Some("PGPASSWORD")).await;
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_address_is_said() {
    let cluster = Cluster::start(default_major()).await;
    cluster.execute("postgres", "CREATE ROLE ferry LOGIN REPLICATION; CREATE ROLE nobody NOLOGIN").await;
    let base = with(&options(&cluster), |options| options.tls.mode = SslMode::Disable);
    refused(
        &with(&base, |options| options.dbname = "nope".into()),
        "database \"nope\" does not exist",
        Some("CREATE DATABASE"),
    )
    .await;
    refused(&with(&base, |options| options.user = "nobody".into()), "not permitted to log in", Some("LOGIN")).await;
    let dead = HostAddress::Tcp { name: "127.0.0.1".into(), hostaddr: None };
    let dead = Host { address: dead, port: super::support::cluster_builder::free_port(), password: None };
    refused(&with(&base, |options| options.hosts = vec![dead.clone()]), "is the server running", None).await;
    // Longer than a name's part can be: no resolver is asked.
    let unknown = HostAddress::Tcp { name: format!("{}.test", "a".repeat(64)), hostaddr: None };
    let unknown = Host { address: unknown, port: 1, password: None };
    refused(&with(&base, |options| options.hosts = vec![unknown.clone()]), "cannot be resolved", None).await;
    let no_socket = Host { address: HostAddress::Unix("/nowhere".into()), port: 1, password: None };
    refused(&with(&base, |options| options.hosts = vec![no_socket]), "/nowhere/.s.PGSQL.1", None).await;
    // Whoever does not answer costs the time allowed and no more.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = HostAddress::Tcp { name: "127.0.0.1".into(), hostaddr: None };
    let mute = Host { address: mute, port: silent.local_addr().unwrap().port(), password: None };
    let hurried = with(&base, |options| {
        options.connect_timeout = Some(Duration::from_millis(200));
        options.hosts = vec![mute.clone()];
    });
    refused(&hurried, "within connect_timeout", None).await;
    // The next host is tried.
    let garbled = HostAddress::Tcp { name: "127.0.0.1".into(), hostaddr: None };
    let garbled = Host { address: garbled, port: hostile(b"R\0\0\0\x05\0").await, password: None };
    let several = with(&base, |options| {
        options.hosts.splice(0..0, [dead, unknown, garbled]);
    });
    assert!(connect(&several).await.is_ok());
    let several = with(&base, |options| {
        options.connect_timeout = Some(Duration::from_secs(5));
        options.hosts.insert(0, mute);
    });
    assert!(WireConnection::connect(&several, "walferry/test", Purpose::Ordinary).await.is_ok());
    let socket = with(&base, |options| {
        options.tls.mode = SslMode::Require;
        options.hosts[0].address = HostAddress::Unix(cluster.socket_dir().to_owned());
    });
    assert!(!connect(&socket).await.unwrap());
}

#[tokio::test]
async fn the_wanted_kind_of_server_is_chosen() {
    let mut primary = Cluster::start(default_major()).await;
    primary.execute("postgres", "CREATE ROLE ferry LOGIN REPLICATION").await;
    let standby = primary.standby().await;
    const RECOVERY: Sql = Sql::new("SELECT pg_catalog.pg_is_in_recovery()");
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    for (attrs, on_standby) in
        [(Any, true), (ReadWrite, false), (ReadOnly, true), (Primary, false), (Standby, true), (PreferStandby, true)]
    {
        let both = with(&options(&standby), |options| {
            options.hosts.extend(self::options(&primary).hosts);
            options.target_session_attrs = attrs;
        });
        assert!(connect(&both).await.is_ok(), "{attrs:?}");
        let client = Client::connect(&both, "test").await.unwrap();
        let got: bool = client.query_one(&RECOVERY, &[]).await.unwrap().get(0);
        assert_eq!(got, on_standby, "{attrs:?}");
    }
    let neither = with(&options(&primary), |options| options.target_session_attrs = Standby);
    refused(&neither, "server is not in hot standby mode", None).await;
}

#[tokio::test]
async fn a_session_is_pinned_whatever_role_and_database_say() {
    for_each_major(async |major| is_pinned(&Cluster::start(major).await).await).await;
}

async fn is_pinned(cluster: &Cluster) {
    let odd = "ALTER ROLE ferry SET datestyle = 'German'; ALTER ROLE ferry SET bytea_output = 'escape'; \
               ALTER ROLE ferry SET extra_float_digits = 0; ALTER ROLE ferry SET search_path = 'public'; \
               ALTER ROLE ferry SET timezone = 'Asia/Tokyo'; ALTER ROLE ferry SET intervalstyle = 'iso_8601'; \
               ALTER ROLE ferry SET synchronous_commit = off; ALTER ROLE ferry SET statement_timeout = '1s'";
    cluster.execute("postgres", &format!("CREATE ROLE ferry LOGIN REPLICATION; {odd}")).await;
    const SHOWN: Sql = Sql::new(
        "SELECT concat_ws('|', '2026-01-02 03:04:05+00'::timestamptz, '\\x00ff'::bytea, 0.1::float8 + 0.2::float8, \
         '1 day 2 hours'::interval, current_setting('search_path'), current_setting('synchronous_commit'), \
         current_setting('statement_timeout'), current_setting('application_name'))",
    );
    const LOCK_TIMEOUT: Sql = Sql::new("SHOW lock_timeout");
    let expected = "2026-01-02 03:04:05+00|\\x00ff|0.30000000000000004|1 day 02:00:00|\"\"|on|0|walferry/t";
    let options = options(cluster);
    let client = Client::connect(&options, "walferry/t").await.unwrap();
    assert_eq!(client.query_one(&SHOWN, &[]).await.unwrap().get::<_, String>(0), expected);
    // The catalogue is not waited for without limit; who copies or applies sets a limit of their own.
    assert_eq!(client.query_one(&LOCK_TIMEOUT, &[]).await.unwrap().get::<_, String>(0), "30s");
    for purpose in [Purpose::Ordinary, Purpose::Replication] {
        let mut wire = WireConnection::connect(&options, "walferry/t", purpose).await.unwrap();
        assert_eq!(wire.query(&SHOWN).await.unwrap(), [[Some(expected.to_owned())]]);
        assert_eq!(wire.query(&LOCK_TIMEOUT).await.unwrap(), [[Some("0".to_owned())]]);
    }
}

#[tokio::test]
async fn direct_tls_works_from_postgresql_17_on() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    for_each_major(async |major| {
        let cluster = certificates.start_on(major, &["hostssl all all all scram-sha-256"]).await;
        let root = certificates.path("root.crt");
        let direct = with(&tls(&options(&cluster), SslMode::VerifyFull, Some(&root), "db.test"), |options| {
            options.tls.direct = true;
            options.channel_binding = ChannelBinding::Require;
        });
        let got = connect(&direct).await;
        assert_eq!(got.is_ok(), major >= 17, "{major}: {:?}", got.err());
        let weak = with(&direct, |options| options.tls.mode = SslMode::Prefer);
        refused(&weak, "sslnegotiation=direct needs TLS", Some("sslmode=require")).await;
    })
    .await;
}

/// A listener that gives this answer to whatever it is sent first, and keeps the connection open.
async fn hostile(answer: &'static [u8]) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer).await.unwrap();
            open.push(stream);
        }
    });
    port
}

#[tokio::test]
async fn whoever_answers_in_a_servers_place_is_not_believed() {
    let cluster = Cluster::start(default_major()).await;
    let base = with(&options(&cluster), |options| options.connect_timeout = Some(Duration::from_secs(2)));
    let at = |port, mode| {
        with(&base, |options| {
            options.tls.mode = mode;
            options.hosts[0].port = port;
        })
    };
    // Clear text stuffed in behind the server's "yes".
    refused(
        &at(hostile(b"SZ\0\0\0\x05I").await, SslMode::Require),
        "in clear after it agreed to TLS",
        Some("tampering"),
    )
    .await;
    refused(&at(hostile(b"HTTP/1.1 400 Bad Request").await, SslMode::Require), "byte 0x48", Some("host and port"))
        .await;
    refused(&at(hostile(b"E\0\0\0\x10Mtoo many\0\0").await, SslMode::Require), "within connect_timeout", None).await;
    let cases: [(&'static [u8], &str, &str); 5] = [
        (b"HTTP/1.1 400 Bad Request\r\n", "exceeds the limit", "that of a PostgreSQL server"),
        (b"R\0\0\0\x08\0\0\0\x07", "GSSAPI", "scram-sha-256"),
        (b"R\xff\xff\xff\xff", "exceeds the limit", "that of a PostgreSQL server"),
        (b"R\0\0\0\x05\0", "message 'R' in authentication", "that of a PostgreSQL server"),
        (b"R\0\0\0\x0a\0\0\0\x05ab", "salt", "that of a PostgreSQL server"),
    ];
    for (answer, words, hint_words) in cases {
        let hurried = at(hostile(answer).await, SslMode::Disable);
        let patient = with(&hurried, |options| options.connect_timeout = Some(Duration::from_secs(60)));
        let error = WireConnection::connect(&patient, "walferry/test", Purpose::Ordinary).await.err().expect(words);
        let text = error.to_string();
        assert!(text.contains(words), "{text}\nlacks {words}");
        assert!(matches!(error.verdict(), Verdict::Halt { hint } if hint.contains(hint_words)), "{text}");
        assert!(Client::connect(&hurried, "walferry/test").await.is_err());
    }
}

/// What `openssl x509 -req` makes without an extension file: version 1, which no verifier here reads, but encryption
/// and channel binding need not suffer.
#[tokio::test]
async fn a_certificate_of_version_1_encrypts_and_is_refused_where_it_must_be_verified() {
    let certificates = Certificates::new(&["db.test"], "db.test", false);
    let openssl = |arguments: &str| {
        let done = std::process::Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(certificates.dir.path())
            .output();
        let done = done.expect("openssl is needed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    openssl("req -new -x509 -newkey rsa:2048 -nodes -subj /CN=authority -keyout ca.key -out ca.crt -days 3");
    openssl("req -new -newkey rsa:2048 -nodes -subj /CN=db.test -keyout v1.key -out v1.csr");
    openssl("x509 -req -in v1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out v1.crt -days 3");
    let read = |name: &str| std::fs::read_to_string(certificates.path(name)).unwrap();
    let versioned = Certificates { server: (read("v1.crt"), read("v1.key")), ..certificates };
    let cluster = versioned.start(&["host all all all scram-sha-256"]).await;
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        cluster.execute("postgres", &format!("ALTER SYSTEM SET ssl_max_protocol_version = '{protocol}'")).await;
        cluster.reload();
        let bound = with(&tls(&options(&cluster), SslMode::Require, None, "db.test"), |options| {
            options.channel_binding = ChannelBinding::Require;
        });
        wait_for("the protocol to be in force", seconds(30), async || {
            const VERSION: Sql =
                Sql::new("SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()");
            let client = Client::connect(&bound, "walferry/test").await.unwrap();
            let version: String = client.query_one(&VERSION, &[]).await.unwrap().get(0);
            (version == protocol).then_some(())
        })
        .await;
        assert!(connect(&bound).await.unwrap(), "{protocol}");
        let verified = tls(&bound, SslMode::VerifyFull, Some(&versioned.path("ca.crt")), "db.test");
        refused(&verified, "X.509 version 1", Some("subjectAltName")).await;
    }
}
