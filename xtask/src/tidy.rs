//! Budgets, documentation and leftovers in the sources.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Longer files are read by nobody in one sitting: split by noun, tests into files of their own.
const MAX_LINES: usize = 600;

/// Texts that say that something was left for later, and paths of the machine it was written on.
/// In pieces, so that this file passes its own check.
const LEFTOVERS: [(&str, &str); 6] = [
    (concat!("TO", "DO"), "do it, or write an issue"),
    (concat!("FIX", "ME"), "fix it, or write an issue"),
    (concat!("/wo", "rk/wt"), "this path is of one machine"),
    (concat!("/wo", "rk/main"), "this path is of one machine"),
    (concat!("/tmp/br", "ief"), "this path is of one machine"),
    (concat!("/ro", "ot/."), "this path is of one machine"),
];

/// What the pure crates must not call (invariant 1 of ARCHITECTURE.md).
const IMPURE: [&str; 7] = [
    "SystemTime::now",
    "Instant::now",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::Tcp",
];
const PURE: [&str; 2] = ["crates/model/src/", "crates/plan/src/"];

/// Checks the files that git knows below `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let files = read(root)?;
    let mut problems = Vec::new();
    for (path, text) in &files {
        let Some(text) = text else { continue };
        problems.extend(leftovers(path, text));
        if path.ends_with(".rs") {
            problems.extend(rust(path, text));
        } else if path.ends_with("Cargo.toml") && path.contains('/') && !path.starts_with("fuzz/") {
            // What fuzzers run is a workspace of its own.
            problems.extend(manifest(path, text)?);
        } else if path.ends_with(".md") {
            problems.extend(crate::links::broken(path, text, &files));
        }
    }
    Ok(problems)
}

/// The repository's files by path, with their text where they are text.
fn read(root: &Path) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("can't run git to list the files")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).context("a file's name is not UTF-8")?;
    let paths = listed.split('\0').filter(|path| !path.is_empty());
    let present = paths.filter(|path| root.join(path).is_file());
    Ok(present
        .map(|path| (path.to_owned(), std::fs::read_to_string(root.join(path)).ok()))
        .collect())
}

fn leftovers(path: &str, text: &str) -> Vec<String> {
    let found = |(number, line): (usize, &str)| {
        LEFTOVERS
            .iter()
            .filter(|(left, _)| line.contains(left))
            .map(|(left, mend)| format!("{path}:{}: {left:?}: {mend}", number + 1))
            .collect::<Vec<_>>()
    };
    text.lines().enumerate().flat_map(found).collect()
}

fn rust(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{path}: {lines} lines, and {MAX_LINES} is the most: split it"));
    }
    let documented = text.starts_with("//!") || path.ends_with("/tests.rs");
    if path.contains("/src/") && !documented {
        problems
            .push(format!("{path}: no `//!` at the start: say what it is and what it does not"));
    }
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        let attribute = line.trim_start();
        let allows = attribute.starts_with("#[allow(") || attribute.starts_with("#![allow(");
        let rest: String = text.lines().skip(number).take(20).collect();
        let reason = before.trim_start().starts_with("//")
            || line.contains("//")
            || rest.split(")]").next().is_some_and(|attribute| attribute.contains("reason"));
        if allows && !reason {
            problems.push(format!("{path}:{}: an allow without its reason", number + 1));
        }
        before = line;
    }
    if PURE.iter().any(|pure| path.starts_with(pure)) {
        let found = IMPURE.iter().filter(|call| text.contains(*call));
        problems.extend(found.map(|call| format!("{path}: {call} in a pure crate: take an input")));
    }
    problems
}

/// Features and versions are stated once, in the workspace's manifest.
fn manifest(path: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let manifest: toml::Table = text.parse().with_context(|| format!("{path} is malformed"))?;
    let mut problems = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let dependencies = manifest.get(kind).and_then(toml::Value::as_table);
        for (name, value) in dependencies.into_iter().flatten() {
            let shared = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            if !shared || value.get("features").is_some() {
                let mend = "state it in the workspace's Cargo.toml, and write workspace = true";
                problems.push(format!("{path}: {kind} {name}: {mend}"));
            }
        }
    }
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        problems.push(format!("{path}: add [lints] workspace = true"));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_tidy() {
        let root = crate::workspace_root().unwrap();
        assert_eq!(check(&root).unwrap(), [""; 0]);
    }

    #[test]
    fn each_rule_catches_what_it_is_for() {
        let long = format!("//! x\n{}", "\n".repeat(MAX_LINES));
        for (path, text, want) in [
            ("crates/x/src/a.rs", "fn a() {}", "no `//!`"),
            ("crates/x/src/a.rs", long.as_str(), "601 lines"),
            ("crates/x/src/a.rs", "//! x\n\n#[allow(dead_code)]\n", "an allow without"),
            ("crates/plan/src/a.rs", "//! x\nuse std::fs;", "std::fs in a pure crate"),
        ] {
            let found = rust(path, text).join("\n");
            assert!(found.contains(want), "{want}: {found}");
        }
        for fine in [
            "//! x\n\n// Because.\n#[allow(dead_code)]\n",
            "//! x\n#![allow(\n    dead_code,\n    reason = \"because\"\n)]\n",
        ] {
            assert_eq!(rust("crates/x/src/a.rs", fine), [""; 0]);
        }
        assert_eq!(leftovers("a", concat!("ok\n// TO", "DO: x\n")).len(), 1);
        let bad = "[lints]\nworkspace = true\n[dependencies]\na = \"1\"\nb.workspace = true\n";
        assert_eq!(manifest("crates/x/Cargo.toml", bad).unwrap().len(), 1);
        assert_eq!(manifest("crates/x/Cargo.toml", "").unwrap().len(), 1);
    }
}
