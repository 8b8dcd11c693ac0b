//! The files of a package: by `deploy/install`, and by dpkg.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{PROGRAM, command, done, has, page_names, read};

/// Every file of a package, from the root on, with its mode.
fn expected(prefix: &str, zsh: &str) -> BTreeMap<String, u32> {
    let mut files = BTreeMap::from([
        (format!("{prefix}/bin/walferry"), 0o755),
        ("/etc/walferry/README".to_owned(), 0o644),
        (format!("{prefix}/share/zsh/{zsh}/_walferry"), 0o644),
        (format!("{prefix}/share/man/man5/walferry.toml.5.gz"), 0o644),
    ]);
    let others = "lib/systemd/system/walferry@.service
        share/bash-completion/completions/walferry
        share/doc/walferry/README.md
        share/doc/walferry/changelog.gz
        share/doc/walferry/copyright
        share/doc/walferry/examples/config.example.toml
        share/fish/vendor_completions.d/walferry.fish
        share/walferry/grafana/dashboard.json
        share/walferry/prometheus/alerts.yaml
        share/walferry/sql/source/role.sql
        share/walferry/sql/target/000_schema.sql
        share/walferry/sql/target/001_walferry.sql
        share/walferry/sql/target/role.sql";
    files.extend(others.split_whitespace().map(|file| (format!("{prefix}/{file}"), 0o644)));
    files.extend(page_names().iter().map(|name| (format!("{prefix}/share/man/man1/{name}.1.gz"), 0o644)));
    files
}

/// The files below a directory, with their modes.
fn found(root: &Path) -> BTreeMap<String, u32> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                assert_eq!(mode, 0o755, "{}", path.display());
                directories.push(path);
            } else {
                files.insert(format!("/{}", path.strip_prefix(root).unwrap().display()), mode);
            }
        }
    }
    files
}

fn install(root: &Path, prefix: &str, arguments: &[&str]) -> Command {
    let mut install = command("deploy/install", arguments);
    install.env("DESTDIR", root).env("PREFIX", prefix);
    install
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

/// Not readable to others when it is made: what is installed below must be.
fn root() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The scripts read Cargo.toml's list line by line.
#[test]
fn the_scripts_read_the_list_that_cargo_deb_reads() {
    let list = done(&mut command("bash", &["-c", "set -euo pipefail; . deploy/lib/package.sh; files"]));
    let manifest = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).parse::<toml::Table>().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let line = |asset: &toml::Value| {
        let words = asset.as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list.lines().collect::<Vec<_>>(), assets.iter().map(line).collect::<Vec<_>>());
}

#[test]
fn what_is_installed_is_what_is_listed_and_goes_again() {
    let root = root();
    for prefix in ["/usr", "/usr/local", "/opt/walferry"] {
        done(&mut install(root.path(), prefix, &["--binary", PROGRAM]));
        let mut expected = expected(prefix, "site-functions");
        expected.insert(format!("{prefix}/share/walferry/installed"), 0o644);
        if prefix == "/opt/walferry" {
            let mode = expected.remove("/opt/walferry/lib/systemd/system/walferry@.service").unwrap();
            expected.insert("/etc/systemd/system/walferry@.service".to_owned(), mode);
        }
        assert_eq!(found(root.path()), expected);
        let file = |path: &str| root.path().join(&path[1..]);
        let list = read(&file(&format!("{prefix}/share/walferry/installed")));
        let listed: Vec<&str> = list.lines().filter(|line| !line.ends_with('/')).collect();
        assert_eq!(listed.len(), expected.len());
        assert!(listed.iter().all(|path| expected.contains_key(*path)), "{list}");

        let unit = expected.keys().find(|path| path.ends_with(".service")).unwrap();
        let own = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/walferry@.service"));
        assert!(own.contains("ExecStart=/usr/bin/walferry run "), "{own}");
        assert_eq!(read(&file(unit)), own.replace("/usr/bin/walferry", &format!("{prefix}/bin/walferry")));
        let version = done(Command::new(file(&format!("{prefix}/bin/walferry"))).arg("--version"));
        assert_eq!(version, concat!("walferry ", env!("CARGO_PKG_VERSION"), "\n"));

        done(&mut install(root.path(), prefix, &["--uninstall"]));
        assert!(is_empty(root.path()), "{:?}", found(root.path()));
    }
}

#[test]
fn installing_anew_removes_what_is_obsolete_and_nothing_takes_the_operators_files() {
    let root = root();
    let file = |path: &str| root.path().join(path);
    std::fs::create_dir_all(file("usr/local/bin")).unwrap();
    done(&mut install(root.path(), "/usr/local", &["--binary", PROGRAM]));
    let installed = found(root.path());
    // As an earlier version would have left it, and what is not walferry's.
    let list = file("usr/local/share/walferry/installed");
    std::fs::write(file("usr/local/share/walferry/obsolete"), "").unwrap();
    std::fs::write(&list, read(&list) + "/usr/local/share/walferry/obsolete\n").unwrap();
    std::fs::write(file("etc/walferry/shop.toml"), "").unwrap();

    done(&mut install(root.path(), "/usr/local", &["--binary", PROGRAM]));
    let mut expected = installed;
    expected.insert("/etc/walferry/shop.toml".to_owned(), 0o644);
    let mut now = found(root.path());
    now.insert("/etc/walferry/shop.toml".to_owned(), 0o644);
    assert_eq!(now, expected);

    done(&mut install(root.path(), "/usr/local", &["--uninstall"]));
    assert_eq!(found(root.path()).into_keys().collect::<Vec<_>>(), ["/etc/walferry/shop.toml"]);
    assert!(file("usr/local/bin").is_dir() && !file("usr/local/share").exists());
    let again = install(root.path(), "/usr/local", &["--uninstall"]).output().unwrap();
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && error.contains("nothing was installed"), "{error}");

    // A directory stays walferry's own through a second installation that finds something of the operator's in it.
    std::fs::remove_dir_all(file("etc")).unwrap();
    done(&mut install(root.path(), "/usr/local", &["--binary", PROGRAM]));
    std::fs::write(file("etc/walferry/shop.toml"), "").unwrap();
    done(&mut install(root.path(), "/usr/local", &["--binary", PROGRAM]));
    std::fs::remove_file(file("etc/walferry/shop.toml")).unwrap();
    done(&mut install(root.path(), "/usr/local", &["--uninstall"]));
    assert!(file("usr/local/bin").is_dir() && !file("etc").exists());
}

#[test]
fn a_wrong_command_line_installs_nothing() {
    let root = root();
    for arguments in [&["--binary", "/nonexistent"][..], &["--remove"]] {
        let refused = install(root.path(), "/usr", arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
    }
    for (destdir, prefix) in [("relative", "/usr"), ("", "relative")] {
        let refused = install(Path::new(destdir), prefix, &["--binary", PROGRAM]).output().unwrap();
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains("must be an absolute path: relative"), "{error}");
    }
    assert!(is_empty(root.path()));
}

#[test]
fn the_debian_package_holds_what_is_listed_and_is_installed_and_removed_by_dpkg() {
    if command("dpkg", &["--version"]).output().is_err() {
        eprintln!("SKIPPED: this is no Debian");
        return;
    }
    if !has("cargo-deb") || !has("dpkg-shlibdeps") {
        return;
    }
    let place = root();
    let deb = place.path().join("walferry.deb");
    let deb = deb.to_str().unwrap();
    let options = ["--binary", PROGRAM, "--output", deb, "--strip", "--fast"];
    let built = command("deploy/debian/build", &options).output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success() && !said.contains("warning"), "{said}");
    let field = |name: &str| done(&mut command("dpkg-deb", &["--field", deb, name]));
    assert_eq!(field("Package"), "walferry\n");
    assert_eq!(field("Version"), concat!(env!("CARGO_PKG_VERSION"), "\n"));
    assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));

    // An installation of its own, that this machine's libraries serve.
    let root = place.path().join("root");
    std::fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |arguments: &[&str]| {
        let root = format!("--root={}", root.display());
        let forced =
            ["--log=/dev/null", "--force-not-root", "--force-depends", "--force-script-chrootless", "--force-bad-path"];
        done(command("dpkg", &[&root]).args(forced).args(arguments))
    };
    dpkg(&["--install", deb]);
    let package = || {
        let mut files = found(&root);
        files.retain(|path, _| !path.starts_with("/var/lib/dpkg/") && !path.starts_with("/var/log/"));
        files
    };
    assert_eq!(package(), expected("/usr", "vendor-completions"));
    let copyright = root.join("usr/share/doc/walferry/copyright");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/debian/copyright");
    assert_eq!(read(&copyright), read(&own), "not one that cargo-deb has made up");
    let version = done(Command::new(root.join("usr/bin/walferry")).arg("--version"));
    assert_eq!(version, concat!("walferry ", env!("CARGO_PKG_VERSION"), "\n"));
    std::fs::write(root.join("etc/walferry/shop.toml"), "").unwrap();
    dpkg(&["--purge", "walferry"]);
    assert_eq!(package().into_keys().collect::<Vec<_>>(), ["/etc/walferry/shop.toml"]);
}
