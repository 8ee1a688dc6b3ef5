//! Accepted and refused files of the author form with what comes of them.
//!
//! A golden file is the input, a line of dashes, and the expected output: the normal form as JSON,
//! or the diagnostics. `BLESS=1 cargo test -p selvedge-model --test it` writes the outputs anew.

use std::fs;
use std::path::{Path, PathBuf};

use selvedge_model::manifest;

const SEPARATOR: &str = "----------\n";

pub(crate) fn golden(kind: &str) -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind);
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

pub(crate) fn split(text: &str) -> (&str, &str) {
    text.split_once(SEPARATOR).unwrap_or((text, ""))
}

fn output(input: &str) -> (bool, String) {
    match manifest::parse("selvedge.toml", input) {
        Ok(app) => (true, serde_json::to_string_pretty(&app).unwrap() + "\n"),
        Err(found) => (false, found.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()),
    }
}

fn check(kind: &str, accepted: bool) {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for (path, text) in golden(kind) {
        let (input, expected) = split(&text);
        let (was_accepted, output) = output(input);
        assert_eq!(was_accepted, accepted, "{}:\n{output}", path.display());
        if bless {
            fs::write(&path, format!("{}\n{SEPARATOR}{output}", input.trim_end())).unwrap();
        } else if output != expected {
            wrong.push(format!("{}: expected\n{expected}got\n{output}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn accepted_files_have_their_normal_form() {
    check("accepted", true);
}

#[test]
fn refused_files_say_where_what_and_the_mend() {
    check("refused", false);
}

#[test]
fn normal_forms_survive_storage() {
    for (path, text) in golden("accepted") {
        let app = manifest::parse("selvedge.toml", split(&text).0).unwrap();
        let json = serde_json::to_string(&app).unwrap();
        let back: selvedge_model::App = serde_json::from_str(&json).unwrap();
        assert_eq!(back, app, "{}", path.display());
    }
}

#[test]
fn the_examples_are_accepted() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut names = Vec::new();
    for entry in fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path().join(manifest::FILE_NAME);
        let (accepted, output) = output(&fs::read_to_string(&file).unwrap());
        assert!(accepted, "{}:\n{output}", file.display());
        names.push(file);
    }
    assert!(names.len() >= 5, "{names:?}");
}

#[test]
fn the_limits_hold() {
    let head = "[app]\nname = \"a\"\n";
    let service =
        |i: usize| format!("[[service]]\nname = \"s{i}\"\nkind = \"static\"\nroot = \".\"\n");
    let route = |i: usize| format!("[[route]]\npath = \"/{i}\"\nservice = \"s0\"\n");
    let services: String = (0..33).map(service).collect();
    let routes: String = (0..257).map(route).collect();
    let host = |i: usize| format!("[[route]]\nhost = \"h{i}.example.com\"\n");
    let hosts: String = (0..65).map(host).collect();
    let big = format!("{head}# {}\n", "x".repeat(manifest::MAX_FILE_BYTES));
    for (text, want) in [
        (format!("{head}{services}"), "there are 33 [[service]] tables, and 32 is the most"),
        (format!("{head}{}{routes}", service(0)), "there are 257 [[route]] tables, and 256"),
        (format!("{head}{}{hosts}", service(0)), "the routes name 65 hosts, and 64 is the most"),
        (big, "65536 is the most"),
    ] {
        let found = manifest::parse("selvedge.toml", &text).unwrap_err();
        assert!(found.iter().any(|d| d.message.contains(want)), "{found:?}");
        assert!(found.len() <= 50);
    }
}
