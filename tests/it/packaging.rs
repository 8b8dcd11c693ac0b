//! What packages hold: man pages and completions as their readers take them, and the files that are installed and
//! removed, to the last one.

mod completions;
mod files;
mod manual;

use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_walferry");

/// A command that starts in the repository.
fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

/// Runs a command that must succeed; what it prints.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn walferry(arguments: &[&str]) -> String {
    done(&mut command(PROGRAM, arguments))
}

/// Whether the tool is installed; if not, says so aloud, and CI must have it.
fn has(tool: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|place| place.join(tool).is_file());
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "{tool} is missing, and CI needs it");
    if !found {
        eprintln!("SKIPPED: there is no {tool} here");
    }
    found
}

/// Every command as the words after `walferry`, the program itself first: as the helps list them.
fn commands() -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut at = 0;
    while let Some(above) = commands.get(at).cloned() {
        let help = help(&above);
        let (_, list) = help.split_once("\nCommands:\n").unwrap_or_default();
        let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
        let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
        for name in names.filter(|name| *name != "help") {
            commands.push(above.iter().cloned().chain([name.to_owned()]).collect());
        }
        at += 1;
    }
    assert!(commands.len() > 10, "{commands:?}");
    commands
}

fn help(words: &[String]) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
    walferry(&words)
}

/// The pages' names without section.
fn page_names() -> Vec<String> {
    let name = |words: &Vec<String>| ["walferry".to_owned()].iter().chain(words).cloned().collect::<Vec<_>>().join("-");
    commands().iter().map(name).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
