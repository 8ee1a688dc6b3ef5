//! `package.json`, as far as it says how a project is built and started.

use serde_json::Value;

use super::super::Tree;

/// A parsed `package.json`; whatever has the wrong type is as good as missing.
pub(super) struct Package {
    json: Value,
}

impl Package {
    /// The project's, if it can be read.
    pub(super) fn of(tree: &Tree<'_>) -> Option<Self> {
        let json = serde_json::from_str(&tree.text("package.json")?).ok()?;
        Some(Self { json })
    }

    /// A text at the top.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.json.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A script that does something.
    pub(super) fn script(&self, name: &str) -> Option<&str> {
        let script = self.json.get("scripts")?.get(name)?.as_str()?.trim();
        // What `npm init` writes.
        let placeholder = name == "test" && script.contains("no test specified");
        (!script.is_empty() && !placeholder).then_some(script)
    }

    /// The version asked for of a package that is there at run time.
    pub(super) fn at_run(&self, package: &str) -> Option<&str> {
        ["dependencies", "optionalDependencies"].iter().find_map(|kind| self.version(kind, package))
    }

    /// The version asked for of a package that is there at build time.
    pub(super) fn at_build(&self, package: &str) -> Option<&str> {
        self.at_run(package).or_else(|| self.version("devDependencies", package))
    }

    /// Whether a package is there at build time.
    pub(super) fn has(&self, package: &str) -> bool {
        self.at_build(package).is_some()
    }

    fn version(&self, kind: &str, package: &str) -> Option<&str> {
        self.json.get(kind)?.get(package)?.as_str()
    }

    /// Whether there is any dependency to install.
    pub(super) fn has_dependencies(&self) -> bool {
        ["dependencies", "devDependencies", "optionalDependencies"].iter().any(|kind| {
            self.json.get(kind).and_then(Value::as_object).is_some_and(|all| !all.is_empty())
        })
    }

    /// Whether it is the top of a workspace of several packages.
    pub(super) fn is_workspace(&self, tree: &Tree<'_>) -> bool {
        let several = tree.text("pnpm-workspace.yaml");
        self.json.get("workspaces").is_some()
            || several.is_some_and(|text| text.lines().any(|line| line.starts_with("packages:")))
    }

    /// The file of the command that is called as the package is.
    pub(super) fn own_command(&self) -> Option<&str> {
        let bin = self.json.get("bin")?;
        let name = self.field("name")?.rsplit('/').next()?;
        bin.as_str().or_else(|| bin.get(name)?.as_str()).map(|path| path.trim_start_matches("./"))
    }

    /// The file of the only command that the package brings.
    pub(super) fn only_command(&self) -> Option<&str> {
        match self.json.get("bin")? {
            Value::String(file) => Some(file),
            Value::Object(commands) => {
                let mut files = commands.values().filter_map(Value::as_str);
                let first = files.next()?;
                files.all(|file| file == first).then_some(first)
            }
            _ => None,
        }
    }
}
