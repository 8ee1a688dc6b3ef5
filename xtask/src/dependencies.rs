//! Checks the licences and the banned crates of `deny.toml` with what cargo itself knows.
//!
//! `cargo deny` does this and more (advisories, sources); this needs no tool that a fresh machine
//! has to build first.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use cargo_metadata::{Metadata, MetadataCommand};
use serde::Deserialize;

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Checks the dependencies of the workspace at `root`, and of the fuzzers'.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("can't read deny.toml")?;
    let deny: Deny = toml::from_str(&text).context("deny.toml is malformed")?;
    let mut all = Vec::new();
    // The fuzzers' workspace has a lock file of its own, which follows that of the crates it fuzzes.
    for workspace in [".", "fuzz"] {
        let metadata = MetadataCommand::new()
            .manifest_path(root.join(workspace).join("Cargo.toml"))
            .other_options(["--locked".to_owned()])
            .exec()
            .with_context(|| format!("can't read the dependencies of {workspace}/Cargo.toml"))?;
        let new = problems(&deny, &metadata).into_iter().filter(|problem| !all.contains(problem));
        all.extend(new.collect::<Vec<_>>());
    }
    Ok(all)
}

fn problems(deny: &Deny, metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in metadata.packages.iter().filter(|package| package.source.is_some()) {
        let name = package.name.as_str();
        if let Some(ban) = deny.bans.deny.iter().find(|ban| ban.name == name) {
            problems.push(format!("crate {name} is banned: {}", ban.reason));
        }
        match package.license.as_deref() {
            Some(license) if permits(license, &deny.licenses.allow) => {}
            Some(license) => problems.push(format!(
                "crate {name} has the licence {license:?}, which deny.toml does not allow"
            )),
            None => problems.push(format!("crate {name} states no licence")),
        }
    }
    problems
}

/// Whether an SPDX licence expression can be met with the `allowed` licences.
///
/// `AND` binds closer than `OR`, and an old `/` is an `OR` (SPDX 2.3 annex D).
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    any_of(&mut tokens, allowed) && tokens.next().is_none()
}

type Tokens<'t> = std::iter::Peekable<std::str::SplitWhitespace<'t>>;

fn any_of(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all_of(tokens, allowed);
    }
    met
}

fn all_of(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    match tokens.next() {
        Some("(") => any_of(tokens, allowed) & tokens.next_if_eq(&")").is_some(),
        Some(license) if tokens.next_if_eq(&"WITH").is_some() => tokens
            .next()
            .is_some_and(|exception| allowed.contains(&format!("{license} WITH {exception}"))),
        Some(license) => allowed.contains(license),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
        for (expression, met) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("MIT OR GPL-3.0 AND Foo", true),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT OR ISC) AND GPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("(MIT", false),
            ("MIT ISC", false),
            ("", false),
        ] {
            assert_eq!(permits(expression, &allowed), met, "{expression}");
        }
    }
}
