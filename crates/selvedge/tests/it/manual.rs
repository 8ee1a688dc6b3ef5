//! What a shell and man(1) are given: made from the command line's definition, and usable.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_selvedge");

fn run(command: &mut Command) -> String {
    let output: Output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that the top help shows.
fn verbs() -> BTreeSet<String> {
    let help = run(Command::new(BINARY).arg("--help"));
    let (_, lists) = help.split_once("\n\n").unwrap();
    let (lists, _) = lists.split_once("Options:").unwrap();
    let verb = |line: &str| {
        let line = line.strip_prefix("  ").filter(|line| line.starts_with(char::is_alphabetic))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    lists.lines().filter_map(verb).collect()
}

#[test]
fn every_verb_has_a_page_of_the_manual() {
    let directory = tempfile::tempdir().unwrap();
    run(Command::new(BINARY).arg("man").arg(directory.path()));
    let verbs = verbs();
    assert!(verbs.contains("deploy") && verbs.contains("status"), "{verbs:?}");
    for verb in &verbs {
        let page = directory.path().join(format!("selvedge-{verb}.1"));
        let page = std::fs::read_to_string(page).unwrap_or_else(|_| panic!("no page of {verb}"));
        assert!(page.contains(".SH EXAMPLES") && page.contains(".SH OPTIONS"), "{verb}:\n{page}");
    }
    let top = std::fs::read_to_string(directory.path().join("selvedge.1")).unwrap();
    assert!(verbs.iter().all(|verb| top.contains(&format!("selvedge\\-{verb}"))), "{top}");
}

#[test]
fn help_is_a_verb_too() {
    let said = |words: &[&str]| run(Command::new(BINARY).args(words));
    assert_eq!(said(&["help"]), said(&["--help"]));
    assert_eq!(said(&["help", "logs"]), said(&["logs", "--help"]));
    assert_eq!(said(&["help", "apps", "rm"]), said(&["apps", "rm", "--help"]));
}

fn offered(words: &[&str]) -> BTreeSet<String> {
    offered_with(tempfile::tempdir().unwrap().path(), words)
}

/// What bash offers after these words beside the box of `data`, with the script loaded as a user
/// loads it.
pub(crate) fn offered_with(data: &Path, words: &[&str]) -> BTreeSet<String> {
    let script = "eval \"$(selvedge completions bash)\"\n\
        COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9; COMP_LINE=\"$*\"; COMP_POINT=${#COMP_LINE}\n\
        function=$(complete -p selvedge | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
        compopt() { :; }\n\
        $function selvedge \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let path = Path::new(BINARY).parent().unwrap();
    let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "-c", script, "bash", "selvedge"]).args(words);
    let printed = run(bash.env("PATH", path).env("SELVEDGE_DATA", data));
    printed.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn bash_completes_verbs_options_and_values() {
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert!(offered(&[""]).is_superset(&verbs()), "{:?}", offered(&[""]));
    assert!(offered(&["rol"]).contains("rollback"));
    assert!(offered(&["deploy", "--rep"]).contains("--repository"));
    assert!(offered(&["completions", ""]).is_superset(&set(&["bash", "fish", "zsh"])));
    assert_eq!(offered(&["curl", "--from", "Tok"]), set(&["Tokyo"]));
    // Where no box runs no app is known, and that is no error.
    assert_eq!(offered(&["status", "x"]), set(&[]));
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(Command::new(BINARY).args(["completions", shell]));
        assert!(script.contains("selvedge") && script.contains("COMPLETE"), "{shell}: {script}");
    }
    let script = run(Command::new(BINARY).args(["completions", "bash"]));
    run(Command::new("bash").args(["-n", "-c", &script]));
}
