//! The application object in a project's sources: what a server is told to serve.

use super::super::Tree;

/// Where the application is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// The file.
    pub(super) path: String,
    /// The module, dotted.
    pub(super) module: String,
    /// The variable, or the factory's name.
    pub(super) variable: String,
    /// Whether it is a function that makes the application.
    pub(super) factory: bool,
    /// The directory the module is found from, when that is not the app's.
    pub(super) from: Option<String>,
}

/// Files that the application is usually in, the likeliest first.
const USUAL: [&str; 9] = [
    "wsgi.py",
    "asgi.py",
    "app.py",
    "main.py",
    "application.py",
    "server.py",
    "api.py",
    "web.py",
    "__init__.py",
];
const FACTORIES: [&str; 3] = ["create_app", "make_app", "get_app"];

/// Finds `name = Constructor(` for one of `constructors`, or a factory of the usual name.
pub(super) fn find(tree: &Tree<'_>, constructors: &[&str]) -> Option<Object> {
    let mut sources = tree.sources(&[".py"]);
    let rank = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        USUAL.iter().position(|usual| *usual == file).unwrap_or(USUAL.len())
    };
    sources.sort_by_key(|path| (path.matches('/').count(), rank(path)));
    let texts: Vec<(&str, String)> =
        sources.iter().filter_map(|path| Some((*path, tree.text(path)?))).collect();
    // An object of a module comes before a factory: it needs no arguments.
    let object = texts.iter().find_map(|(path, text)| {
        let variable = text.lines().find_map(|line| assigned(line, constructors))?;
        at(tree, path, variable, false)
    });
    object.or_else(|| {
        texts.iter().find_map(|(path, text)| {
            let made = constructors.iter().any(|name| text.contains(&format!("{name}(")));
            let factory = FACTORIES.iter().find(|name| {
                text.lines().any(|line| {
                    line.strip_prefix("def ")
                        .and_then(|line| line.strip_prefix(**name))
                        .is_some_and(|rest| rest.starts_with('('))
                })
            });
            at(tree, path, factory.filter(|_| made)?, true)
        })
    })
}

/// The variable of `app = Flask(` or `app: FastAPI = create_app(` at the module's top.
fn assigned<'l>(line: &'l str, constructors: &[&str]) -> Option<&'l str> {
    let (left, right) = line.split_once('=')?;
    let name = left.split(':').next()?.trim_end();
    if left.starts_with(char::is_whitespace) || !is_name(name) {
        return None;
    }
    let call = right.trim_start().split_once('(')?.0;
    let last = call.rsplit('.').next()?.trim();
    (constructors.contains(&last) || FACTORIES.contains(&last)).then_some(name)
}

fn at(tree: &Tree<'_>, path: &str, variable: &str, factory: bool) -> Option<Object> {
    let (from, inside) = match path.strip_prefix("src/") {
        Some(inside) if !tree.has("src/__init__.py") => (Some("src".to_owned()), inside),
        _ => (None, path),
    };
    let module = inside.strip_suffix(".py")?;
    let module = module.strip_suffix("/__init__").unwrap_or(module);
    let mut parts: Vec<&str> = module.split('/').collect();
    // A directory that is no package holds scripts, which import their neighbours by bare names.
    let mut from = from;
    if parts.len() > 1 && !inside.ends_with("__init__.py") {
        let folder = inside.rsplit_once('/').map_or("", |(folder, _)| folder);
        let base = from.as_deref().map_or(String::new(), |from| format!("{from}/"));
        if !tree.has(&format!("{base}{folder}/__init__.py")) {
            let neighbours = imports_neighbours(tree, path, &format!("{base}{folder}"));
            if neighbours {
                parts = parts.last().copied().into_iter().collect();
                from = Some(format!("{base}{folder}"));
            }
        }
    }
    if !parts.iter().all(|part| is_name(part)) {
        return None;
    }
    Some(Object {
        path: path.to_owned(),
        module: parts.join("."),
        variable: variable.to_owned(),
        factory,
        from,
    })
}

/// Whether a file imports modules that lie beside it as if they were at the top.
fn imports_neighbours(tree: &Tree<'_>, path: &str, folder: &str) -> bool {
    let text = tree.text(path).unwrap_or_default();
    text.lines().any(|line| {
        let name = line.strip_prefix("import ").or_else(|| line.strip_prefix("from "));
        let name =
            name.and_then(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next());
        name.is_some_and(|name| {
            tree.has(&format!("{folder}/{name}.py"))
                || tree.has(&format!("{folder}/{name}/__init__.py"))
        })
    })
}

/// A Python identifier, as far as ASCII goes.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found() {
        let flask = "from flask import Flask\napp = Flask(__name__)\n";
        for (files, want) in [
            (&[("app.py", flask)][..], Some(("app", "app", false, None))),
            (&[("z.py", "api: FastAPI = fastapi.FastAPI(\n")], Some(("z", "api", false, None))),
            (&[("src/shop/__init__.py", flask)], Some(("shop", "app", false, Some("src")))),
            (
                &[("shop/__init__.py", "def create_app(x=None):\n    app = Flask(__name__)\n")],
                Some(("shop", "create_app", true, None)),
            ),
            (
                &[
                    ("shop/__init__.py", "def create_app():\n  Flask()\n"),
                    ("wsgi.py", "app = shop.create_app()\n"),
                ],
                Some(("wsgi", "app", false, None)),
            ),
            (
                &[("api/main.py", "import models\napp = FastAPI()\n"), ("api/models.py", "")],
                Some(("main", "app", false, Some("api"))),
            ),
            (
                &[
                    ("api/main.py", "from . import models\napp = FastAPI()\n"),
                    ("api/models.py", ""),
                ],
                Some(("api.main", "app", false, None)),
            ),
            (&[("tests/app.py", flask)], None),
            (&[("my-app.py", flask)], None),
            (&[("app.py", "    app = Flask(__name__)\n")], None),
        ] {
            let found = find(&Tree::of(files), &["Flask", "FastAPI"]);
            let found = found.as_ref().map(|object| {
                (
                    object.module.as_str(),
                    object.variable.as_str(),
                    object.factory,
                    object.from.as_deref(),
                )
            });
            assert_eq!(found, want, "{files:?}");
        }
    }
}
