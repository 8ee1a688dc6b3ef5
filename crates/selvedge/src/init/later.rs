//! Kinds of project that are known by their files and can't be run yet.

use super::{Detection, Later, Tree};

/// What Selvedge runs today, for those who can do without the rest.
const TODAY: &str =
    "today there are static files and programs that the system's own Node.js, Python or Java runs";

/// Marker files, what they mean, and what can be done today.
const KINDS: [(&[&str], &str, &str); 17] = [
    (&["go.mod"], "a Go program", ""),
    (&["Cargo.toml"], "a Rust program", ""),
    (&["Gemfile", "config.ru"], "a Ruby program", ""),
    (&["_config.yml"], "a Jekyll site", "commit the directory `_site` that `jekyll build` makes"),
    (&["composer.json", "index.php"], "a PHP program", ""),
    (&["deno.json", "deno.jsonc"], "a Deno program", ""),
    (
        &["bun.lock", "bun.lockb", "bunfig.toml"],
        "a Bun program",
        "lock its packages with `npm install`, start it with node, and run `selvedge init` again",
    ),
    (
        &["pom.xml"],
        "a Java program built by Maven",
        "put the jar that it builds into the directory, and run `selvedge init` again",
    ),
    (
        &["build.gradle", "build.gradle.kts"],
        "a Java program built by Gradle",
        "put the jar that it builds into the directory, and run `selvedge init` again",
    ),
    (&["mix.exs"], "an Elixir program", ""),
    (&["gleam.toml"], "a Gleam program", ""),
    (&["Package.swift"], "a Swift program", ""),
    (
        &["hugo.toml", "hugo.yaml", "hugo.json"],
        "a Hugo site",
        "commit the directory `public` that `hugo` makes",
    ),
    (
        &["config.toml", "config.yaml"],
        "a Hugo or Zola site",
        "commit the directory `public` that it makes",
    ),
    (
        &["environment.yml", "environment.yaml"],
        "a Conda environment",
        "list its packages in requirements.txt, and run `selvedge init` again",
    ),
    (
        &["docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml"],
        "a set of containers (Compose)",
        "",
    ),
    (&["Dockerfile", "Containerfile"], "a container image", ""),
];

/// Names the kind.
pub(super) fn detect(tree: &Tree<'_>) -> Detection {
    for (markers, what, mend) in KINDS {
        let Some(marker) = tree.first(markers) else { continue };
        // Many things have a config.toml; those of site generators have their pages in content/.
        if marker.starts_with("config.")
            && !(marker == "config.ru" || tree.has_directory("content"))
        {
            continue;
        }
        return Detection::Later(later(&format!("{what} ({marker})"), mend));
    }
    let dotnet = tree.top().find(|path| path.ends_with(".csproj") || path.ends_with(".fsproj"));
    match dotnet {
        Some(project) => Detection::Later(later(&format!("a .NET program ({project})"), "")),
        None => Detection::Unknown,
    }
}

/// A kind that can't be run yet.
pub(super) fn later(what: &str, mend: &str) -> Later {
    let mend = if mend.is_empty() { TODAY.to_owned() } else { format!("{mend}; {TODAY}") };
    Later { what: what.to_owned(), mend }
}
