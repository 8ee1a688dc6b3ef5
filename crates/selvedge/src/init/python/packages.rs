//! Which packages a Python project asks for, and how they get into its virtual environment.

use std::collections::BTreeSet;

use super::super::Tree;

/// A project's packages.
pub(super) struct Packages {
    /// Normalised names of what it asks for, with extras as `name[extra]` beside them.
    names: BTreeSet<String>,
    pub(super) source: Source,
    /// What the project calls itself.
    pub(super) name: Option<String>,
    /// The Python it asks for, as written.
    pub(super) python: Option<String>,
    /// Whether each build installs the same versions.
    pub(super) locked: bool,
}

/// Where they are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Requirements(String),
    Uv,
    Poetry,
    /// `[project]` with a way to build it, which puts its own modules into the environment too.
    Project,
    /// `[project]` without one.
    ProjectList,
    Setup,
    Pipfile,
    /// Nowhere.
    None,
}

const REQUIREMENTS: [&str; 5] = [
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements/base.txt",
    "requirements.lock",
];

impl Packages {
    pub(super) fn of(tree: &Tree<'_>) -> Self {
        let project = tree.text("pyproject.toml").and_then(|text| text.parse::<toml::Table>().ok());
        let mut packages = Self {
            names: BTreeSet::new(),
            source: Source::None,
            name: None,
            python: None,
            locked: false,
        };
        if let Some(project) = &project {
            packages.read_project(project);
        }
        let requirements = tree.first(&REQUIREMENTS);
        if let Some(path) = requirements {
            packages.read_requirements(tree, path);
        }
        let has_table = |path: &[&str]| {
            let mut table = project.as_ref();
            for part in path {
                table = table.and_then(|table| table.get(*part)).and_then(toml::Value::as_table);
            }
            table.is_some()
        };
        (packages.source, packages.locked) = if tree.has("uv.lock") {
            (Source::Uv, true)
        } else if tree.has("poetry.lock") && project.is_some() {
            (Source::Poetry, true)
        } else if let Some(path) = requirements {
            (Source::Requirements(path.to_owned()), packages.locked)
        } else if has_table(&["build-system"])
            && (has_table(&["project"]) || has_table(&["tool", "poetry"]))
        {
            (Source::Project, false)
        } else if has_table(&["project"]) {
            (Source::ProjectList, false)
        } else if tree.has("setup.py") {
            for line in tree.text("setup.py").unwrap_or_default().lines() {
                packages.add(line.trim().trim_matches(|c| "\"',".contains(c)));
            }
            (Source::Setup, false)
        } else if tree.has("Pipfile") {
            (Source::Pipfile, tree.has("Pipfile.lock"))
        } else {
            (Source::None, false)
        };
        packages
    }

    fn read_project(&mut self, project: &toml::Table) {
        let table = project.get("project").and_then(toml::Value::as_table);
        let poetry =
            project.get("tool").and_then(|tool| tool.get("poetry")).and_then(toml::Value::as_table);
        let text =
            |table: Option<&toml::Table>, key: &str| Some(table?.get(key)?.as_str()?.to_owned());
        self.name = text(table, "name").or_else(|| text(poetry, "name"));
        self.python = text(table, "requires-python");
        let list =
            table.and_then(|table| table.get("dependencies")).and_then(toml::Value::as_array);
        for requirement in list.into_iter().flatten().filter_map(toml::Value::as_str) {
            self.add(requirement);
        }
        let map =
            poetry.and_then(|table| table.get("dependencies")).and_then(toml::Value::as_table);
        for (name, value) in map.into_iter().flatten() {
            self.add(name);
            let extras = value.get("extras").and_then(toml::Value::as_array);
            for extra in extras.into_iter().flatten().filter_map(toml::Value::as_str) {
                self.add(&format!("{name}[{extra}]"));
            }
        }
    }

    fn read_requirements(&mut self, tree: &Tree<'_>, path: &str) {
        let text = tree.text(path).unwrap_or_default();
        let mut pinned = true;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', '-']) {
                // One level of `-r other.txt`, for what it names.
                if let Some(other) = line.strip_prefix("-r ") {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let other = format!("{folder}/{}", other.trim());
                    let other = tree.text(other.trim_start_matches('/')).unwrap_or_default();
                    other.lines().for_each(|line| self.add(line.trim()));
                    pinned = false;
                }
                continue;
            }
            pinned &= line.contains("==") || line.contains(" @ ") || line.starts_with("--hash");
            self.add(line);
        }
        self.locked = pinned;
    }

    /// Takes the name and the extras off a requirement such as `Flask[async]>=3; python_version>"3"`.
    fn add(&mut self, requirement: &str) {
        let end = requirement
            .find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)))
            .unwrap_or(requirement.len());
        let (name, rest) = requirement.split_at_checked(end).unwrap_or((requirement, ""));
        if name.is_empty() {
            return;
        }
        let name = name.to_ascii_lowercase().replace(['_', '.'], "-");
        if let Some(extras) = rest.trim_start().strip_prefix('[') {
            for extra in extras.split(']').next().unwrap_or_default().split(',') {
                self.names.insert(format!("{name}[{}]", extra.trim()));
            }
        }
        self.names.insert(name);
    }

    /// Whether it asks for a package, or an extra of one, or is that package.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.name.as_deref() == Some(name)
    }

    /// For people: the file.
    pub(super) fn file(&self) -> &str {
        match &self.source {
            Source::Requirements(path) => path,
            Source::Uv => "uv.lock",
            Source::Poetry => "poetry.lock",
            Source::Project | Source::ProjectList => "pyproject.toml",
            Source::Setup => "setup.py",
            Source::Pipfile => "Pipfile",
            Source::None => "nothing",
        }
    }

    /// Makes the environment `.venv` with the packages, and `more` that the project does not ask
    /// for. It holds nothing else: what installs stays in the app's cache.
    pub(super) fn install(&self, more: &[&str]) -> Vec<String> {
        let more = more.join(" ");
        let mut steps = vec!["python3 -m venv --without-pip .venv".to_owned()];
        let by_pip = |before: Option<String>, what: &str| {
            let what = format!("{what} {more}");
            let pip = "$HOME/pip/bin/python -m pip --python .venv";
            let install = format!("{pip} {INSTALL} {}", what.trim());
            tool("pip", "'pip>=22.3'").into_iter().chain(before).chain([install])
        };
        match &self.source {
            Source::Requirements(path) => steps.extend(by_pip(None, &format!("-r {path}"))),
            Source::Project | Source::Setup => steps.extend(by_pip(None, ".")),
            Source::ProjectList => {
                let list = format!("$HOME/pip/bin/python -c \"{LIST}\" > .venv/requirements.txt");
                steps.extend(by_pip(Some(list), "-r .venv/requirements.txt"));
            }
            Source::Uv => {
                steps.extend(tool("uv", "uv"));
                steps.push("UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never $HOME/uv/bin/uv sync --quiet --frozen --no-dev --no-editable".into());
                if !more.is_empty() {
                    steps.push(format!("UV_LINK_MODE=copy $HOME/uv/bin/uv pip install --quiet --python .venv/bin/python {more}"));
                }
            }
            Source::Poetry => {
                steps.extend(tool("poetry", "poetry"));
                steps.push("POETRY_VIRTUALENVS_IN_PROJECT=true $HOME/poetry/bin/poetry install --quiet --no-interaction --only main --no-root".into());
                if !more.is_empty() {
                    steps.extend(by_pip(None, ""));
                }
            }
            Source::Pipfile | Source::None if !more.is_empty() => steps.extend(by_pip(None, "")),
            Source::Pipfile | Source::None => {}
        }
        steps
    }
}

const INSTALL: &str = "--quiet install --no-input --disable-pip-version-check";

/// Prints the packages that pyproject.toml asks for. Python reads TOML since 3.11; pip brings what
/// does before.
const LIST: &str = "import importlib, sys; toml = importlib.import_module('tomllib' if sys.version_info >= (3, 11) else 'pip._vendor.tomli'); print(*toml.load(open('pyproject.toml', 'rb'))['project'].get('dependencies', []), sep=chr(10))";

/// Installs a tool that installs packages, once for all builds: `$HOME` is the app's own cache. The
/// system's pip may be missing, or too old to install into another environment.
fn tool(name: &str, requirement: &str) -> [String; 2] {
    [
        format!("python3 -m venv $HOME/{name}"),
        format!("$HOME/{name}/bin/python -m pip {INSTALL} {requirement}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_understood() {
        let tree = Tree::of(&[
            (
                "requirements.txt",
                "# web\nFlask[async] >= 3 ; python_version > '3.8'\n-r more.txt\nPy_Thing.X==1\n",
            ),
            ("more.txt", "gunicorn\n"),
        ]);
        let packages = Packages::of(&tree);
        for name in ["flask", "flask[async]", "gunicorn", "py-thing-x"] {
            assert!(packages.has(name), "{name}");
        }
        assert!(!packages.locked);
        let pinned = Tree::of(&[("requirements.txt", "flask==3.0.0\n    --hash=sha256:00\n")]);
        assert!(Packages::of(&pinned).locked);
    }

    #[test]
    fn a_project_file_is_understood() {
        let project =
            "[project]\nname='Shop'\nrequires-python='>=3.9'\ndependencies=['fastapi[standard]']\n";
        let packages = Packages::of(&Tree::of(&[("pyproject.toml", project)]));
        assert_eq!(packages.source, Source::ProjectList);
        assert!(packages.has("fastapi[standard]") && packages.name.as_deref() == Some("Shop"));
        let built = format!("[build-system]\nrequires=[]\n{project}");
        assert_eq!(Packages::of(&Tree::of(&[("pyproject.toml", &built)])).source, Source::Project);
        let poetry = "[tool.poetry]\nname='x'\n[tool.poetry.dependencies]\nflask={version='3',extras=['async']}\n";
        let packages = Packages::of(&Tree::of(&[("pyproject.toml", poetry), ("poetry.lock", "")]));
        assert_eq!(packages.source, Source::Poetry);
        assert!(packages.has("flask[async]"));
    }
}
