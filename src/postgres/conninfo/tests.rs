//! Connection strings and what they come to, as tables; secrets that must not show; properties for any input.

mod mistakes;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::error::{Judged, Verdict};

fn ann() -> Environment {
    Environment::bare("ann")
}

fn resolve(text: &str) -> ConnectOptions {
    ConnectOptions::resolve(text, &ann()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str, environment: &Environment) -> ConnInfoError {
    match ConnectOptions::resolve(text, environment) {
        Ok(options) => panic!("{text} was taken as {}", options.describe()),
        Err(error) => error,
    }
}

fn password(options: &ConnectOptions) -> Option<&str> {
    options.password.as_ref().map(ExposeSecret::expose_secret)
}

fn host_passwords(options: &ConnectOptions) -> Vec<Option<&str>> {
    options.hosts.iter().map(|host| host.password.as_ref().map(ExposeSecret::expose_secret)).collect()
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Strings and what they describe; the first ones are the examples of the PostgreSQL manual.
const STRINGS: &[(&str, &str)] = &[
    ("", "/tmp:5432/ann as ann"),
    ("   ", "/tmp:5432/ann as ann"),
    ("postgresql://", "/tmp:5432/ann as ann"),
    ("postgres://", "/tmp:5432/ann as ann"),
    ("postgresql://localhost", "localhost:5432/ann as ann"),
    ("postgresql://localhost:5433", "localhost:5433/ann as ann"),
    ("postgresql://localhost/mydb", "localhost:5432/mydb as ann"),
    ("postgresql://user@localhost", "localhost:5432/user as user"),
    ("postgresql://user:secret@localhost", "localhost:5432/user as user"),
    ("postgresql://other@localhost/otherdb?connect_timeout=10", "localhost:5432/otherdb as other"),
    ("postgresql://host1:123,host2:456/somedb?target_session_attrs=any", "host1:123,host2:456/somedb as ann"),
    ("postgresql:///mydb?host=localhost&port=5433", "localhost:5433/mydb as ann"),
    ("postgresql://[2001:db8::1234]/database", "[2001:db8::1234]:5432/database as ann"),
    ("postgresql://[::1]:1,[::2]:2", "[::1]:1,[::2]:2/ann as ann"),
    ("postgresql:///dbname?host=/var/lib/postgresql", "/var/lib/postgresql:5432/dbname as ann"),
    ("postgresql://%2Fvar%2Flib%2Fpostgresql/dbname", "/var/lib/postgresql:5432/dbname as ann"),
    ("postgresql://%2Fs:5433/", "/s:5433/ann as ann"),
    ("postgresql://user@/db", "/tmp:5432/db as user"),
    ("postgresql://:5433", "/tmp:5433/ann as ann"),
    ("postgresql://@", "/tmp:5432/ann as ann"),
    ("postgresql://h?user=u&dbname=d&", "h:5432/d as u"),
    ("postgresql://u1@h?user=u2", "h:5432/u2 as u2"),
    ("postgresql://u%40corp:p@h/d%2Fb%20c", "h:5432/d/b c as u@corp"),
    ("postgresql://h/?user=u@corp", "h:5432/u@corp as u@corp"),
    ("postgresql://a:1,b,c:3/d", "a:1,b:5432,c:3/d as ann"),
    ("postgresql://a,b:2/d", "a:5432,b:2/d as ann"),
    ("postgresql://a,,b/d", "a:5432,/tmp:5432,b:5432/d as ann"),
    ("postgresql://a,b?port=7", "a:7,b:7/ann as ann"),
    ("postgresql://a%2Cb", "a:5432,b:5432/ann as ann"),
    ("postgresql://h/db/more", "h:5432/db/more as ann"),
    ("postgresql://h/%E2%82%AC", "h:5432/€ as ann"),
    ("host=h", "h:5432/ann as ann"),
    ("host=h port=5433 dbname=d user=u", "h:5433/d as u"),
    (" host = h\tport\n=\n5433\r\nuser = 'u' ", "h:5433/u as u"),
    (r"user='o\'b\\c' dbname=a\ b\'c host=h", r"h:5432/a b'c as o'b\c"),
    ("user=u dbname='' host=''", "/tmp:5432/u as u"),
    ("user='u'host=h", "h:5432/u as u"),
    ("user=u host=a host=b", "b:5432/u as u"),
    ("host=a,b,c port=1,2,3", "a:1,b:2,c:3/ann as ann"),
    ("host=a,b,c port=6432", "a:6432,b:6432,c:6432/ann as ann"),
    ("host=a,b port=,7", "a:5432,b:7/ann as ann"),
    ("host=a,/run/pg,b", "a:5432,/run/pg:5432,b:5432/ann as ann"),
    ("hostaddr=192.0.2.1", "192.0.2.1:5432/ann as ann"),
    ("host=a,b hostaddr=192.0.2.1,::1", "a:5432,b:5432/ann as ann"),
    ("hostaddr=192.0.2.1,192.0.2.2 port=1", "192.0.2.1:1,192.0.2.2:1/ann as ann"),
    ("host=h port=' 5433 '", "h:5433/ann as ann"),
    ("dbname=postgresql://h/d", "/tmp:5432/postgresql://h/d as ann"),
    (r"host=h user=end\", "h:5432/end as end"),
];

#[test]
fn strings_name_the_hosts_database_and_user_that_libpq_would_connect_to() {
    for &(text, expected) in STRINGS {
        assert_eq!(resolve(text).describe(), expected, "{text}");
    }
}

/// Strings and what the error says.
const MISTAKES: &[(&str, &str)] = &[
    ("mydb", "it starts with text that is neither keyword=value nor postgresql://"),
    ("host=h port 5", "after the value of host there is text without \"=\""),
    ("host=h dbname=shoppassword=x", "there is a \"=\" in the value of dbname: is the blank after it missing?"),
    ("user='it'' dbname=x", "after the value of user there is text without"),
    ("host='h", "the quote opened after host= is never closed"),
    (r"host='h\", "the quote opened after host= is never closed"),
    ("hots=h", "unknown keyword \"hots\" (the connection string); did you mean host?"),
    ("host=h pool_size=3", "unknown keyword \"pool_size\" (the connection string)"),
    ("HOST=h", "did you mean host?"),
    ("postgresql://h?sslmod=require", "unknown keyword \"sslmod\" (the connection string); did you mean sslmode?"),
    ("postgresql://h?ssl=false", "unknown keyword \"ssl\""),
    ("postgresql://h?a", "query parameter 1 has no ="),
    ("postgresql://h?user=u&&port=1", "query parameter 2 has no ="),
    ("postgresql://h?&", "query parameter 1 has no ="),
    ("postgresql://h?user=u=v", "query parameter 1 has more than one ="),
    ("postgresql://h/%", "in dbname, a % is not followed by two hexadecimal digits"),
    ("postgresql://u%4g@h", "in user, a %"),
    ("postgresql://h%+1", "in host, a %"),
    ("postgresql://h?port=%zz", "in port, a %"),
    ("postgresql://h/%00", "in dbname, %00 is not allowed"),
    ("postgresql://h/%ff", "dbname, decoded, is not UTF-8"),
    ("postgresql://[::1", "has no matching ]"),
    ("postgresql://[]", "between [ and ] is empty"),
    ("postgresql://[::1]x", "after the ] of an IPv6 address"),
    ("postgresql://u:a@b@h/d", "a second or misplaced @, in the place of the host"),
    ("postgresql://u:1/b@h/d", "a second or misplaced @, in the place of the database name"),
    ("postgresql://h/dbuser=u&password=x", "a = in the place of the database name: is the ? before"),
    ("postgresql://h?user=u@corp", "there is a ? before the @"),
    ("postgresql://h:port", "port (the connection string) is not valid, but must be a number from 1 to 65535"),
    ("port=0", "must be a number from 1 to 65535"),
    ("port=65536", "must be a number from 1 to 65535"),
    ("host=a,b,c port=1,2", "there are 2 values of port but 3 of host"),
    ("port=1,2", "there are 2 values of port but 1 of host"),
    ("host=a hostaddr=192.0.2.1,192.0.2.2", "there are 1 values of host but 2 of hostaddr"),
    ("hostaddr=db.example", "hostaddr (the connection string) is \"db.example\", but must be numeric"),
    ("host=@abstract", "host (the connection string) is not supported"),
    ("host=h connect_timeout=1s", "connect_timeout (the connection string) is \"1s\", but must be a whole number"),
    ("host=h keepalives=yes", "keepalives (the connection string) is \"yes\""),
    ("host=h sslmode=on", "sslmode (the connection string) is \"on\", but must be disable, allow, prefer"),
    ("host=h sslmode=", "sslmode (the connection string) is \"\""),
    ("host=h target_session_attrs=rw", "but must be any, read-write, read-only, primary"),
    ("host=h load_balance_hosts=yes", "but must be disable or random"),
    ("host=h channel_binding=on", "but must be disable, prefer or require"),
    ("host=h channel_binding=require sslmode=disable", "cannot be met with sslmode=disable"),
    ("host=h sslrootcert=system sslmode=require", "a weaker sslmode than verify-full"),
    ("host=h sslnegotiation=direct", "sslnegotiation=direct cannot be used"),
    ("host=h sslmode=verify-full", "neither sslrootcert nor ~/.postgresql/root.crt"),
    ("hostaddr=192.0.2.1 sslmode=verify-full sslrootcert=system", "needs the name of the host at hostaddr 192.0.2.1"),
    ("host=h sslrootcert=/nonexistent/ca.crt", "sslrootcert /nonexistent/ca.crt cannot be used: No such file"),
    ("host=h sslcert=/nonexistent/c.crt", "sslcert /nonexistent/c.crt cannot be used: No such file"),
    ("host=h sslcrl=/x", "sslcrl (the connection string) is not supported: certificate revocation lists"),
    ("host=h sslcrldir=/x", "sslcrldir (the connection string) is not supported"),
    ("host=h require_auth=scram-sha-256", "require_auth (the connection string) is not supported"),
    ("host=h gssencmode=require", "gssencmode (the connection string) is not supported: GSSAPI"),
    ("host=h sslcertmode=require", "sslcertmode (the connection string) is not supported"),
    ("host=h ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version (the connection string) is not supported"),
    ("host=h ssl_max_protocol_version=TLSv1.2", "ssl_max_protocol_version (the connection string) is not"),
    ("host=h ssl_min_protocol_version=3", "but must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"),
    ("requirepeer=postgres", "requirepeer (the connection string) is not supported"),
    ("host=h client_encoding=LATIN1", "client_encoding (the connection string) is not supported"),
    ("host=h replication=database", "replication (the connection string) is not supported"),
    ("host=h min_protocol_version=3.2", "min_protocol_version (the connection string) is not supported"),
    ("service=nowhere", "service \"nowhere\" is not defined in any service file"),
    ("host=\0", "it holds a NUL character"),
];

#[test]
fn mistakes_are_named() {
    for &(text, expected) in MISTAKES {
        let error = error(text, &ann());
        assert!(error.to_string().contains(expected), "{text}: {error}");
        let Verdict::Halt { hint } = error.verdict() else { panic!("{text}: to be retried") };
        assert!(hint.ends_with(['.', ')']) || hint.starts_with("Run: "), "{text}: {hint}");
    }
}

#[test]
fn what_changes_nothing_here_is_accepted() {
    for text in [
        "host=h gssencmode=prefer krbsrvname=pg gsslib=gssapi gssdelegation=1 sslcompression=1",
        "host=h client_encoding=utf-8 replication=off require_auth='' sslcrl=''",
        "host=h ssl_min_protocol_version=tlsv1.2 ssl_max_protocol_version=TLSv1.3 max_protocol_version=3.2",
        "host=h requirepeer=postgres min_protocol_version=3.0 sslcertmode=allow",
    ] {
        assert_eq!(resolve(text).hosts.len(), 1, "{text}");
    }
}

#[test]
fn defaults_suit_a_daemon_and_the_string_can_change_each() {
    let seconds = |n| Some(Duration::from_secs(n));
    let options = resolve("host=h");
    assert_eq!(options.connect_timeout, seconds(10));
    assert!(options.keepalives);
    assert_eq!((options.keepalives_idle, options.keepalives_interval), (seconds(30), seconds(10)));
    // Set, it would take the place of the count.
    assert_eq!((options.keepalives_count, options.tcp_user_timeout), (Some(3), None));
    let text = "connect_timeout=3 keepalives=0 keepalives_idle=1 keepalives_interval=2 keepalives_count=5 \
                tcp_user_timeout=1500";
    let options = resolve(text);
    assert_eq!(options.connect_timeout, seconds(3));
    assert!(!options.keepalives);
    assert_eq!((options.keepalives_idle, options.keepalives_interval), (seconds(1), seconds(2)));
    assert_eq!((options.keepalives_count, options.tcp_user_timeout), (Some(5), Some(Duration::from_millis(1500))));
    let options = resolve("connect_timeout=0 keepalives_idle=0 keepalives_count=-1 tcp_user_timeout=0");
    assert_eq!((options.connect_timeout, options.keepalives_idle), (None, None));
    assert_eq!((options.keepalives_count, options.tcp_user_timeout), (None, None));
    assert_eq!(resolve("connect_timeout=-1").connect_timeout, None);
    assert_eq!(resolve("connect_timeout=' 1 '").connect_timeout, seconds(2), "libpq never waits less");
}

#[test]
fn every_keyword_of_the_session_reaches_the_options() {
    let options = resolve(
        "postgres://h?target_session_attrs=read-write&load_balance_hosts=random&channel_binding=require&ssl=true\
         &sslnegotiation=direct&sslsni=0&options=-c%20geqo%3Doff&application_name=mine&fallback_application_name=other\
         &sslpassword=k",
    );
    assert_eq!(options.target_session_attrs, TargetSessionAttrs::ReadWrite);
    assert!(options.load_balance_hosts && options.tls.direct && !options.tls.sni);
    assert_eq!((options.channel_binding, options.tls.mode), (ChannelBinding::Require, SslMode::Require));
    assert_eq!(options.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(options.application_name.as_deref(), Some("mine"));
    assert_eq!(options.tls.client_key_password.as_ref().map(ExposeSecret::expose_secret), Some("k"));
    assert_eq!(resolve("fallback_application_name=other").application_name.as_deref(), Some("other"));
    assert_eq!(resolve("requiressl=1").tls.mode, SslMode::Require);
    let options = resolve("host=h sslrootcert=system");
    assert_eq!((options.tls.mode, options.tls.root_cert), (SslMode::VerifyFull, RootCert::System));
    let addresses: Vec<_> =
        resolve("host=a,b hostaddr=192.0.2.1,").hosts.into_iter().map(|host| host.address).collect();
    let tcp = |name: &str, hostaddr: Option<&str>| HostAddress::Tcp {
        name: name.to_owned(),
        hostaddr: hostaddr.map(|address| address.parse().unwrap()),
    };
    assert_eq!(addresses, [tcp("a", Some("192.0.2.1")), tcp("b", None)]);
}

#[test]
fn the_string_wins_over_the_service_file_over_the_environment_over_defaults() {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join(".pg_service.conf"), "[s]\nhost=service\nport=2\n", 0o644);
    let environment = ann()
        .with_home(home.path())
        .with("PGHOST", "env")
        .with("PGPORT", "3")
        .with("PGDATABASE", "env")
        .with("PGUSER", "");
    let described = |text| ConnectOptions::resolve(text, &environment).unwrap().describe();
    assert_eq!(described("service=s host=string"), "string:2/env as ann");
    assert_eq!(described("postgresql:///?service=s"), "service:2/env as ann");
    assert_eq!(described("host=string"), "string:3/env as ann");
    assert_eq!(described("dbname=''"), "env:3/ann as ann", "an empty value hides the environment's");
    let environment = environment.with("PGSERVICE", "s");
    assert_eq!(ConnectOptions::resolve("", &environment).unwrap().describe(), "service:2/env as ann");
}

#[test]
fn environment_variables_have_their_keywords_effect() {
    let environment = ann()
        .with("PGHOST", "h")
        .with("PGPASSWORD", "env")
        .with("PGOPTIONS", "-c a=b")
        .with("PGAPPNAME", "app")
        .with("PGSSLROOTCERT", "system")
        .with("PGCHANNELBINDING", "disable")
        .with("PGCONNECT_TIMEOUT", "7")
        .with("PGTARGETSESSIONATTRS", "primary")
        .with("PGLOADBALANCEHOSTS", "random")
        .with("PGSSLSNI", "0");
    let options = ConnectOptions::resolve("", &environment).unwrap();
    assert_eq!((password(&options), options.options.as_deref()), (Some("env"), Some("-c a=b")));
    assert_eq!((options.application_name.as_deref(), options.tls.mode), (Some("app"), SslMode::VerifyFull));
    assert_eq!((options.channel_binding, options.tls.sni), (ChannelBinding::Disable, false));
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!((options.target_session_attrs, options.load_balance_hosts), (TargetSessionAttrs::Primary, true));
    let mode = |environment: Environment| ConnectOptions::resolve("host=h", &environment).unwrap().tls.mode;
    assert_eq!(mode(ann().with("PGREQUIRESSL", "1")), SslMode::Require);
    assert_eq!(mode(ann().with("PGREQUIRESSL", "1").with("PGSSLMODE", "disable")), SslMode::Disable);
    for (variable, value, expected) in [
        ("PGSSLMODE", "on", "sslmode (the variable PGSSLMODE) is \"on\""),
        ("PGSSLCRL", "/x", "sslcrl (the variable PGSSLCRL) is not supported"),
        ("PGREQUIREPEER", "postgres", "requirepeer (the variable PGREQUIREPEER) is not supported"),
        ("PGPORT", "x", "port (the variable PGPORT) is not valid"),
    ] {
        let error = error("", &ann().with(variable, value)).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn without_any_user_the_way_out_is_named() {
    let mut nobody = ann();
    nobody.user = None;
    assert!(matches!(error("host=h", &nobody), ConnInfoError::NoUser));
    assert_eq!(ConnectOptions::resolve("user=u", &nobody).unwrap().dbname, "u");
}

#[test]
fn the_password_file_is_asked_per_host_when_the_string_has_no_password() {
    let home = tempfile::tempdir().unwrap();
    let pgpass = "a:1:d:u:pa\nb:2:d:u:pb\nlocalhost:5432:d:u:local\n/run/x:5432:d:u:socket\n192.0.2.1:5432:*:*:addr\n\
                  e:*:*:*:\ne:*:*:*:second\n";
    write(&home.path().join(".pgpass"), pgpass, 0o600);
    let environment = ann().with_home(home.path());
    let passwords = |text: &str, environment: &Environment| {
        let options = ConnectOptions::resolve(text, environment).unwrap();
        let found = host_passwords(&options).into_iter().map(|p| p.map(str::to_owned)).collect::<Vec<_>>();
        (password(&options).map(str::to_owned), found)
    };
    let some = |text: &str| Some(text.to_owned());
    for (text, expected) in [
        ("postgresql://u@a:1,b:2,c:3/d", (None, vec![some("pa"), some("pb"), None])),
        ("user=u dbname=d", (None, vec![some("local")])),
        ("user=u dbname=d host=/run/x", (None, vec![some("socket")])),
        ("user=u dbname=d hostaddr=192.0.2.1", (None, vec![some("addr")])),
        ("user=u dbname=d host=a hostaddr=192.0.2.1 port=1", (None, vec![some("pa")])),
        ("user=u dbname=d host=e", (None, vec![None])),
        ("user=u dbname=d password=''", (None, vec![some("local")])),
        ("user=u dbname=d password=given", (some("given"), vec![None])),
        ("user=u dbname=d passfile=/nonexistent/pgpass", (None, vec![None])),
    ] {
        assert_eq!(passwords(text, &environment), expected, "{text}");
    }
    write(&home.path().join("other"), "*:*:*:*:other\n", 0o600);
    let environment = environment.with("PGPASSFILE", home.path().join("other").as_os_str());
    assert_eq!(passwords("host=a", &environment), (None, vec![some("other")]));
    write(&home.path().join("other"), "*:*:*:*:other\n", 0o644);
    assert_eq!(passwords("host=a", &environment), (None, vec![None]), "others may read the file");
}

#[test]
fn certificates_in_the_home_directory_are_taken_and_checked() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(".postgresql");
    let (cert, key, root) = (dir.join("postgresql.crt"), dir.join("postgresql.key"), dir.join("root.crt"));
    let environment = ann().with_home(home.path());
    let tls = |text: &str| ConnectOptions::resolve(text, &environment).map(|options| options.tls);
    write(&cert, "cert", 0o644);
    let missing = tls("host=h").unwrap_err().to_string();
    assert!(missing.contains("sslkey") && missing.contains("postgresql.key cannot be used: No such file"), "{missing}");
    write(&key, "key", 0o644);
    let open = tls("host=h").unwrap_err();
    assert!(open.to_string().contains("others may read it (mode 0644)"), "{open}");
    for text in ["", "host=h sslmode=disable", "host=h sslcertmode=disable"] {
        assert_eq!(tls(text).unwrap().client_cert, None, "{text}");
    }
    write(&key, "key", 0o600);
    write(&root, "root", 0o644);
    let found = tls("host=h sslmode=verify-full").unwrap();
    assert_eq!((found.client_cert, found.client_key), (Some(cert.clone()), Some(key)));
    assert_eq!(found.root_cert, RootCert::File(root));
    let other = home.path().join("other.key");
    write(&other, "key", 0o600);
    let text = format!("host=h sslcert={} sslkey={}", cert.display(), other.display());
    assert_eq!(tls(&text).unwrap().client_key, Some(other));
    write(&dir.join("root.crl"), "crl", 0o644);
    for mode in ["require", "verify-ca", "verify-full"] {
        assert!(tls(&format!("host=h sslmode={mode}")).unwrap_err().to_string().contains("revocation list"), "{mode}");
    }
    assert!(tls("host=h sslmode=prefer").is_ok());
    assert_eq!(tls("host=h sslmode=verify-full sslrootcert=system").unwrap().root_cert, RootCert::System);
}

/// All that may be shown of an outcome.
fn all_output(text: &str, environment: &Environment) -> String {
    match ConnectOptions::resolve(text, environment) {
        Ok(options) => format!("{options:?} {options:#?} {}", options.describe()),
        Err(error) => format!("{error} {error:?} {error:#?} {:?}", error.verdict()),
    }
}

#[test]
fn passwords_and_what_may_be_a_piece_of_one_are_never_shown() {
    let environment = ann().with("PGPASSWORD", "hunter2env");
    for text in [
        "",
        "postgresql://u:hunter2@h/d",
        "postgresql://u:hunter2%zz@h/d",
        "postgresql://u:hunter2%00@h/d",
        "postgresql://u:hun@hunter2@h/d",
        "postgresql://u:hunter2/x@h/d",
        "postgresql://u:1/hunter2@h/d",
        "postgresql://u:1?hunter2=/@h/d",
        "postgresql://u:1/?hunter2=1@h/d",
        "postgresql://[hunter2/@h",
        "mysql://u:hunter2@h/d",
        "mysql://u:hunter2@h/d?x=y",
        " postgresql://u:hunter2@h/d",
        "password=my hunter2",
        "password=my hunter2 host=h",
        "password=my hunter2=x",
        "password='my'hunter2'=x",
        "password='hunter2",
        "host=h sslpassword=hunter2 sslmode=bad",
        "password=hunter2 host=h nonsense=1",
    ] {
        let shown = all_output(text, &environment);
        assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(text in any::<String>()) {
        let _ = ConnectOptions::resolve(&text, &ann());
        let _ = ConnectOptions::resolve(&format!("postgres://{text}"), &ann());
    }

    #[test]
    fn no_input_that_looks_like_a_url_makes_it_panic(text in r"[a%:/@,?&=\[\]0-9'\\ é]{0,40}") {
        let _ = ConnectOptions::resolve(&format!("postgresql://{text}"), &ann());
        let _ = ConnectOptions::resolve(&text, &ann());
    }

    #[test]
    fn what_is_written_in_either_form_is_read_back(
        user in r"[^\x00]{1,12}",
        secret in r"[^\x00]{1,12}",
        host in "[a-z0-9.-]{1,20}",
        port in 1..=u16::MAX,
        dbname in r"[^\x00]{1,12}",
    ) {
        let url = format!("postgresql://{}:{}@{host}:{port}/{}", encoded(&user), encoded(&secret), encoded(&dbname));
        let (quoted_user, quoted_secret, quoted_dbname) = (quoted(&user), quoted(&secret), quoted(&dbname));
        let pairs =
            format!("user={quoted_user} password = {quoted_secret} host={host}\nport={port} dbname={quoted_dbname}");
        for text in [url, pairs] {
            let options = resolve(&text);
            prop_assert_eq!(password(&options), Some(secret.as_str()));
            prop_assert_eq!(options.describe(), format!("{host}:{port}/{dbname} as {user}"));
        }
    }

    #[test]
    fn a_badly_written_password_is_not_shown_in_pieces(
        pieces in prop::collection::vec(("SECRET|[0-9]|", r"[@:/?#%&= '\\,\[\]]"), 1..5),
        form in 0..7usize,
    ) {
        let secret: String = pieces.iter().flat_map(|(word, mark)| [word.as_str(), mark.as_str()]).collect();
        let text = match form {
            0 => format!("postgresql://user:{secret}SECRET@host/db"),
            1 => format!("postgresql://user:{secret}SECRET@host:5432/db?sslmode=require"),
            2 => format!("host=h password={secret}SECRET user=u"),
            3 => format!("host=h password='{secret}SECRET' user=u"),
            4 => format!("postgresql://h?password={secret}SECRET"),
            5 => format!("postgresql://h:5432?user=u&password={secret}SECRET&dbname=d"),
            _ => format!("postgresql://u@h/db?sslpassword={secret}SECRET&sslmode=require"),
        };
        let shown = all_output(&text, &ann());
        prop_assert!(!shown.contains("SECRET"), "{}: {}", text, shown);
    }
}
