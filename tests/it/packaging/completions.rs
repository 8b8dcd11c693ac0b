//! The completion scripts, each in its shell.

use std::path::PathBuf;

use super::{command, done, has, walferry};

/// The shell's script in a file.
fn script(shell: &str) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("script");
    std::fs::write(&path, walferry(&["completions", shell])).unwrap();
    (place, path)
}

/// What is offered for each of these lines.
const OFFERED: &[(&str, &[&str])] = &[
    ("sl", &["slot"]),
    ("com", &["completions"]),
    ("slot re", &["reset"]),
    ("slot reset --f", &["--force"]),
    ("check --j", &["--json"]),
    ("demo --", &["--config", "--duration", "--help", "--keep", "--rate"]),
];

#[test]
fn bash_completes_commands_and_options() {
    let (_place, script) = script("bash");
    // As readline does: the function that is registered, with the words and the place in them.
    let complete = r#"
        set -eu
        . "$0"
        COMP_WORDS=(walferry "$@")
        COMP_CWORD=$#
        [[ $(complete -p walferry) =~ -F\ ([^ ]+) ]]
        "${BASH_REMATCH[1]}" walferry "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let also: (&str, &[&str]) = ("completions b", &["bash"]);
    for (line, offered) in OFFERED.iter().chain([&also]) {
        let mut bash = command("bash", &["--norc", "-c", complete, script.to_str().unwrap()]);
        let replies = done(bash.args(line.split(' ')));
        let mut replies: Vec<&str> = replies.lines().collect();
        replies.sort_unstable();
        assert_eq!(replies, *offered, "walferry {line}");
    }
}

#[test]
fn fish_completes_commands_and_options() {
    if !has("fish") {
        return;
    }
    let (_place, script) = script("fish");
    done(&mut command("fish", &["--no-execute", script.to_str().unwrap()]));
    for (line, offered) in OFFERED {
        let complete = "source $argv[1]; complete --do-complete $argv[2]";
        let line = format!("walferry {line}");
        let replies = done(&mut command("fish", &["--no-config", "-c", complete, script.to_str().unwrap(), &line]));
        let mut replies: Vec<&str> = replies.lines().filter_map(|reply| reply.split('\t').next()).collect();
        replies.sort_unstable();
        assert_eq!(replies, *offered, "{line}");
    }
}

#[test]
fn zsh_knows_the_script_as_the_one_for_walferry() {
    if !has("zsh") {
        return;
    }
    let (place, script) = script("zsh");
    done(&mut command("zsh", &["-f", "-n", script.to_str().unwrap()]));
    // Found by its first line in a directory of `fpath`, under the name that packages give it.
    std::fs::rename(&script, place.path().join("_walferry")).unwrap();
    let look = "fpath=($0 $fpath); autoload -U compinit; compinit -u -D; print $_comps[walferry]; \
                autoload +X _walferry; whence -w _walferry";
    let known = done(&mut command("zsh", &["-f", "-c", look, place.path().to_str().unwrap()]));
    assert_eq!(known, "_walferry\n_walferry: function\n");
}

#[test]
fn an_unknown_shell_is_refused_with_those_that_are_known() {
    let output = command(super::PROGRAM, &["completions", "dos"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("bash, elvish, fish, powershell, zsh"), "{error}");
}
