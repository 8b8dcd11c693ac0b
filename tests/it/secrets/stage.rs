//! Two servers, three databases, a daemon, and everything secret that it needs to know.

use tempfile::TempDir;
use tokio_postgres::Client;

use super::markers::{
    AWKWARD_VALUE, KEY, NAMED_KEY, NUMBER, PASSWORD_IN_ENVIRONMENT, SOURCE_PASSWORD, TARGET_PASSWORD, TOKEN, VALUE,
};
use super::refusals;
use crate::connections::certificates::Certificates;
use crate::support::pair::run;
use crate::support::prelude::*;

/// The daemon's roles, as a list for SQL.
pub const ROLES: &str = "'ferry', 'beside'";

/// Besides those of the refusals.
pub const TABLES: [&str; 2] = ["zqpublic_orders", "zqpublic_whole"];

const ORDERS: &str = "
    CREATE TABLE zqpublic_orders (id text PRIMARY KEY, note text, amount numeric, bytes bytea, doc json, big text);
    ALTER TABLE zqpublic_orders ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE zqpublic_whole (id text, note text, big text);
    ALTER TABLE zqpublic_whole REPLICA IDENTITY FULL;
    ALTER TABLE zqpublic_whole ALTER big SET STORAGE EXTERNAL;";

/// See the module.
pub struct Stage {
    pub certificates: Certificates,
    pub source: Cluster,
    pub target: Cluster,
    pub from: Db,
    /// The target `t`, whose password is in a file.
    pub to: Db,
    /// The target `beside`, whose password is in the environment.
    pub beside: Db,
    pub on_source: Client,
    pub on_target: Client,
    pub daemon: Daemon,
    /// The daemon's home and place for temporary files.
    pub home: TempDir,
}

impl Stage {
    /// With rows on the source, and a daemon that is not started yet.
    pub async fn new() -> Self {
        let certificates = Certificates::new(&["db.test"], "db.test", false);
        // A password and a certificate.
        let access = ["hostssl all all all scram-sha-256 clientcert=verify-ca"];
        let (source, target) = (certificates.start(&access).await, certificates.start(&access).await);
        for cluster in [&source, &target] {
            cluster.execute("postgres", "CREATE ROLE beside LOGIN").await;
            for role in ["ferry", "beside"] {
                let logged = format!("ALTER ROLE {role} SET log_statement = 'all'");
                cluster.execute("postgres", &logged).await;
            }
        }
        let from = source.create_database().await;
        let (to, beside) = (target.create_database().await, target.create_database().await);
        let (on_source, on_target) = (source.connect(&from.name).await, target.connect(&to.name).await);
        let tables = format!("{ORDERS}{}", refusals::tables());
        run(&on_source, &tables).await;
        run(&on_source, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO ferry").await;
        run(&on_source, "CREATE PUBLICATION walferry FOR ALL TABLES").await;
        for (db, role) in [(&to, "ferry"), (&beside, "beside")] {
            target.execute("postgres", &format!("ALTER DATABASE {} OWNER TO {role}", db.name)).await;
            target.execute(&db.name, &format!("GRANT ALL ON SCHEMA public TO {role}; SET ROLE {role}; {tables}")).await;
        }
        let daemon = Daemon::builder("none").bulk(Bulk::Never);
        let daemon = daemon.target("t", &url("ferry", &target, &to, &certificates));
        let daemon = daemon.target("beside", "${BESIDE_URL}");
        let quick = |key: &str| (key.to_owned(), "\"200ms\"");
        let [retry, halted] = ["retry_max_interval", "halted_retry_interval"].map(quick);
        let daemon = daemon.apply(&retry.0, retry.1).apply(&halted.0, halted.1).prepare();
        let home = tempfile::tempdir().expect("cannot make a directory");
        let mut stage = Self { certificates, source, target, from, to, beside, on_source, on_target, daemon, home };
        stage.tell_secrets().await;
        stage.fill().await;
        stage
    }

    async fn tell_secrets(&mut self) {
        self.set_source_password(SOURCE_PASSWORD).await;
        set_password(&self.target, "ferry", TARGET_PASSWORD).await;
        set_password(&self.target, "beside", PASSWORD_IN_ENVIRONMENT).await;
        self.write_pass_file(TARGET_PASSWORD);
        self.certificates.write("token", &format!("{TOKEN}\n"));
        let file = |name: &str| self.certificates.path(name).display().to_string();
        self.daemon.reconfigure("url = \"none\"", &format!("url_file = \"{}\"", file("source-url")));
        self.daemon.reconfigure("[http]\n", &format!("[http]\ntoken_file = \"{}\"\n", file("token")));
        self.daemon.reconfigure("level = \"debug\"", "level = \"trace\"");
        self.daemon.use_token(TOKEN);
        let beside = url("beside", &self.target, &self.beside, &self.certificates);
        let beside = beside.replacen("beside@", &format!("beside:{}@", encoded(PASSWORD_IN_ENVIRONMENT)), 1);
        self.daemon.set_environment("BESIDE_URL", &beside);
        for name in ["HOME", "TMPDIR"] {
            self.daemon.set_environment(name, &self.home.path().display().to_string());
        }
    }

    /// On the server, and in the file with the connection string.
    pub async fn set_source_password(&self, password: &str) {
        set_password(&self.source, "ferry", password).await;
        let user = format!("ferry:{}", encoded(password));
        self.certificates
            .write("source-url", &format!("{}\n", url(&user, &self.source, &self.from, &self.certificates)));
    }

    /// The password file of the target `t`.
    pub fn write_pass_file(&self, password: &str) {
        let escaped = password.replace('\\', r"\\").replace(':', r"\:");
        self.certificates.write("pass", &format!("*:*:*:ferry:{escaped}\n"));
    }

    /// Rows of every kind.
    async fn fill(&self) {
        let statements = format!(
            "INSERT INTO zqpublic_orders
                 SELECT '{KEY}' || n, '{VALUE}' || n, {NUMBER}816407395 + n, '{VALUE}\\000\\377',
                 '{{\"{VALUE}\": \"{VALUE}\"}}', repeat('{VALUE}', 2000) FROM generate_series(1, 50) n;
             INSERT INTO zqpublic_orders (id, note)
                 VALUES ('{NAMED_KEY}1', '{AWKWARD_VALUE}'), ('{NAMED_KEY}2', '{VALUE}');
             INSERT INTO zqpublic_whole SELECT '{KEY}' || n, '{VALUE}' || n, repeat('{VALUE}', 2000)
                 FROM generate_series(1, 10) n"
        );
        run(&self.on_source, &statements).await;
    }

    /// Waits until both targets hold what the source holds, and the daemon says so.
    pub async fn in_step(&mut self, what: &str) {
        eprintln!("in step: {what}");
        let beside = self.target.connect(&self.beside.name).await;
        let tables: Vec<&str> = TABLES.into_iter().chain(refusals::names()).collect();
        wait_equal(&self.on_source, &[&self.on_target, &beside], &tables, seconds(30)).await;
        self.daemon.wait_ready(seconds(30)).await;
    }

    /// Ends the daemon's sessions of the target `t`: it comes anew.
    pub async fn part(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ferry'";
        self.target.execute("postgres", end).await;
    }
}

async fn set_password(cluster: &Cluster, role: &str, password: &str) {
    cluster.execute("postgres", &format!("ALTER ROLE {role} PASSWORD '{password}'")).await;
}

/// Every byte of it.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// How to reach it; `user` with a password or without.
fn url(user: &str, cluster: &Cluster, db: &Db, certificates: &Certificates) -> String {
    let path = |name: &str| certificates.path(name).display().to_string();
    format!(
        "postgresql://{user}@db.test:{}/{}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}\
         &passfile={}",
        cluster.port,
        db.name,
        path("root.crt"),
        path("client.crt"),
        path("client.key"),
        path("pass"),
    )
}
