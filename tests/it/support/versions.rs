//! Which PostgreSQL servers are on this machine, by major version; a missing one is skipped aloud, in CI an error.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The majors walferry supports.
pub const SUPPORTED: [u32; 5] = [14, 15, 16, 17, 18];

/// The directory with this major's `initdb` and `postgres`.
pub fn bin(major: u32) -> Option<PathBuf> {
    let named = std::env::var_os(format!("WALFERRY_PG_BIN_{major}")).map(PathBuf::from);
    let packaged = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let cached = cache_dir().join(major.to_string()).join("bin");
    let mut places = named.into_iter().chain([packaged, cached]);
    places.find(|place| place.join("initdb").is_file() && place.join("postgres").is_file())
}

/// Where `tests/run` keeps servers, and the harness its template data directories.
pub fn cache_dir() -> PathBuf {
    if let Some(named) = std::env::var_os("WALFERRY_TEST_CACHE") {
        return PathBuf::from(named);
    }
    if is_root() {
        return PathBuf::from("/var/cache/walferry/postgres");
    }
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("walferry/postgres")
}

/// The supported majors that are here. Says aloud which are not; with `CI=true` a missing one is an error.
pub fn majors() -> Vec<u32> {
    let (here, missing): (Vec<u32>, Vec<u32>) = SUPPORTED.into_iter().partition(|major| bin(*major).is_some());
    if !missing.is_empty() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "PostgreSQL {missing:?} missing: CI needs every version; run tests/run, which fetches them"
        );
        eprintln!("SKIPPED on PostgreSQL {missing:?}: no server binaries here; tests/run fetches them");
    }
    assert!(!here.is_empty(), "no PostgreSQL server binaries on this machine: run tests/run, which fetches them");
    here
}

/// The major for tests that are not about versions: 15, or the newest that is here.
pub fn default_major() -> u32 {
    if bin(15).is_some() { 15 } else { *majors().last().expect("majors() is never empty") }
}

/// Runs a scenario on every major that is here, one after the other.
pub async fn for_each_major(mut scenario: impl AsyncFnMut(u32)) {
    for major in majors() {
        eprintln!("--- on PostgreSQL {major}");
        scenario(major).await;
    }
}

/// Whether the tests run as root. PostgreSQL refuses to: its servers then run as [`server_user`].
pub fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| id("-u", None) == 0)
}

/// The user that servers run as when the tests run as root: name, user id, group id.
pub fn server_user() -> &'static (String, u32, u32) {
    static USER: OnceLock<(String, u32, u32)> = OnceLock::new();
    USER.get_or_init(|| {
        let name = std::env::var("WALFERRY_TEST_USER").unwrap_or_else(|_| "postgres".to_owned());
        let (user, group) = (id("-u", Some(&name)), id("-g", Some(&name)));
        (name, user, group)
    })
}

/// Gives a file or directory to the user that servers run as.
pub fn give_to_server_user(path: &Path) {
    if is_root() {
        let (_, user, group) = server_user();
        std::os::unix::fs::chown(path, Some(*user), Some(*group)).expect("cannot chown");
    }
}

fn id(what: &str, user: Option<&str>) -> u32 {
    let output = std::process::Command::new("id").arg(what).args(user).output().expect("cannot run id");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("there is no user {user:?}: run tests/run, which makes it"))
}
