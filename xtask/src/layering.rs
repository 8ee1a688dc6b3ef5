//! The layers of the workspace, and the check that dependencies follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Our crates, the lower layers first, each with what it may depend on. ARCHITECTURE.md shows this
/// as a picture. A new crate needs a row; a new edge needs a reason that convinces whoever reads
/// the picture.
const TABLE: [(&str, &[&str]); 13] = [
    ("model", &[]),
    ("telemetry", &[]),
    ("plan", &["model"]),
    ("api", &["model"]),
    ("fabric", &["model", "telemetry"]),
    ("cache", &[]),
    ("proxy", &["model", "telemetry", "cache"]),
    ("dns", &["model", "telemetry"]),
    ("runtime", &["model", "telemetry"]),
    ("control", &["model", "telemetry", "plan", "api", "fabric", "runtime"]),
    ("agent", &["model", "telemetry", "plan", "api", "fabric", "proxy", "dns", "runtime"]),
    (
        "selvedge",
        &[
            "model",
            "telemetry",
            "plan",
            "api",
            "fabric",
            "proxy",
            "dns",
            "runtime",
            "control",
            "agent",
        ],
    ),
    ("xtask", &[]),
];

/// What the pure crates (model, plan) must not depend on: asynchrony, sockets, files, clocks,
/// randomness. Time and seeds are their inputs.
const IMPURE: [&str; 16] = [
    "async-trait",
    "futures-util",
    "getrandom",
    "hyper",
    "jiff",
    "libc",
    "nix",
    "rand",
    "rusqlite",
    "rustls",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tracing",
    "uuid",
];
const PURE: [&str; 2] = ["model", "plan"];

/// Normal and build dependencies by crate, names without the `selvedge-` prefix. Development
/// dependencies are exempt: tests may reach across.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Checks the workspace at `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(problems(&graph(root)?))
}

fn graph(root: &Path) -> anyhow::Result<Graph> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("can't read the workspace with cargo metadata")?;
    let short = |name: &str| name.strip_prefix("selvedge-").unwrap_or(name).to_owned();
    let crates = metadata.packages.iter().map(|package| {
        let dependencies = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| short(&dependency.name))
            .collect();
        (short(package.name.as_str()), dependencies)
    });
    Ok(crates.collect())
}

fn problems(graph: &Graph) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in graph {
        let Some((_, may)) = TABLE.iter().find(|(row, _)| row == name) else {
            problems.push(format!(
                "crate {name} has no layer: add a row to TABLE in xtask/src/layering.rs"
            ));
            continue;
        };
        for dependency in dependencies {
            if graph.contains_key(dependency) && !may.contains(&dependency.as_str()) {
                let may =
                    if may.is_empty() { "nothing of ours".to_owned() } else { may.join(", ") };
                problems.push(format!(
                    "crate {name} depends on {dependency}, and may depend on {may} only"
                ));
            }
            if PURE.contains(&name.as_str()) && IMPURE.contains(&dependency.as_str()) {
                problems.push(format!(
                    "crate {name} is pure and depends on {dependency}: take what it gives as an input"
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph from lines of a crate's name and its dependencies.
    fn graph_of(text: &str) -> Graph {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines = text.split(';').map(words);
        lines.map(|line| (line[0].clone(), line[1..].iter().cloned().collect())).collect()
    }

    #[test]
    fn this_workspace_keeps_its_layers() {
        let graph = graph(&crate::workspace_root().unwrap()).unwrap();
        assert_eq!(problems(&graph), [""; 0]);
        let missing: Vec<_> = TABLE.iter().filter(|(row, _)| !graph.contains_key(*row)).collect();
        assert!(missing.is_empty(), "the table has crates that are not there: {missing:?}");
    }

    #[test]
    fn the_table_points_downwards() {
        let place = |name: &str| TABLE.iter().position(|(row, _)| *row == name).unwrap();
        for (name, may) in &TABLE {
            for below in *may {
                assert!(place(below) < place(name), "{name} -> {below}");
            }
        }
    }

    #[test]
    fn what_breaks_the_layers_is_named() {
        for (graph, want) in [
            ("control agent; agent", "control depends on agent"),
            ("agent control; control", "agent depends on control"),
            ("model plan; plan", "may depend on nothing of ours only"),
            ("proxy fabric; fabric", "proxy depends on fabric"),
            ("plan tokio", "plan is pure and depends on tokio"),
            ("extra", "extra has no layer"),
        ] {
            let found = problems(&graph_of(graph)).join("\n");
            assert!(found.contains(want), "{want}: {found}");
        }
        assert_eq!(problems(&graph_of("fabric model tokio; model serde")), [""; 0]);
    }
}
