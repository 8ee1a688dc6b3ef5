//! Every kind of project, from its files to what is chosen for it.

use proptest::prelude::*;
use selvedge_model::manifest::{self, ServiceKind};

use super::*;

mod languages;
mod sites;

/// What is expected of a project: its parts that decide, as one line each.
struct Case {
    files: &'static [(&'static str, &'static str)],
    what: &'static str,
    build: &'static [&'static str],
    /// `root DIR` or the command.
    service: &'static str,
    /// Part of something that the user is told to look at; empty when there is nothing.
    look_at: &'static str,
}

const PIP: &str = "$HOME/pip/bin/python -m pip --python .venv --quiet install --no-input --disable-pip-version-check";
/// What installs, in the app's cache.
const TOOL: &str = "python3 -m venv $HOME/pip";
const GET_PIP: &str = "$HOME/pip/bin/python -m pip --quiet install --no-input --disable-pip-version-check 'pip>=22.3'";

/// `PIP` stands for the long command.
fn check(cases: &[Case]) {
    for case in cases {
        let names: Vec<_> = case.files.iter().map(|(path, _)| *path).collect();
        let Detection::App(app) = detect(&Tree::of(case.files)) else {
            panic!("{names:?}: {:?}", detect(&Tree::of(case.files)));
        };
        assert_eq!(app.what, case.what, "{names:?}");
        let build = app.build.as_ref().map(|build| build.steps.clone()).unwrap_or_default();
        let want: Vec<String> = case.build.iter().map(|step| step.replace("PIP", PIP)).collect();
        assert_eq!(build, want, "{names:?}");
        let service = match &app.service {
            Service::Static { root, fallback, .. } => {
                let fallback = fallback.as_ref().map(|page| format!(", else {page}"));
                format!("root {root}{}", fallback.unwrap_or_default())
            }
            Service::Process(process) => process.command.clone(),
        };
        assert_eq!(service, case.service, "{names:?}");
        let told = app.look_at.join("\n");
        match case.look_at {
            "" => assert_eq!(told, "", "{names:?}"),
            part => assert!(told.contains(part), "{names:?}: {told}"),
        }
        written(&app, "shop");
    }
}

/// The file of a proposal, which must pass the parser and mean what was proposed.
fn written(app: &Proposal, name: &str) -> selvedge_model::App {
    let text = render(app, &AppNameFor(name).get(), crate::verbs::schema::DIRECTIVE);
    let parsed = manifest::parse("selvedge.toml", &text);
    let parsed = parsed.unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let same = |written: &Option<String>, proposed: &Option<Command>| {
        assert_eq!(
            written.as_deref().map(squeezed),
            proposed.as_ref().map(|command| squeezed(&command.line())),
            "{text}"
        );
    };
    same(&parsed.build, &app.build);
    same(&parsed.test, &app.test);
    match (&parsed.services[0].kind, &app.service) {
        (ServiceKind::Static { root, .. }, Service::Static { root: wanted, .. }) => {
            assert_eq!(root, wanted);
        }
        (ServiceKind::Process { command, health, .. }, Service::Process(process)) => {
            assert_eq!(command, &process.command);
            assert_eq!(health, &process.health);
        }
        other => panic!("{other:?}"),
    }
    parsed
}

/// A name out of any text, as the verb makes one.
struct AppNameFor<'t>(&'t str);

impl AppNameFor<'_> {
    fn get(&self) -> selvedge_model::AppName {
        app_name([self.0, "app"]).unwrap()
    }
}

#[test]
fn other_kinds_are_named() {
    for (files, want) in [
        (&[("go.mod", ""), ("main.go", "")][..], "a Go program (go.mod)"),
        (&[("Cargo.toml", "")], "a Rust program (Cargo.toml)"),
        (&[("Gemfile", "")], "a Ruby program (Gemfile)"),
        (&[("index.php", ""), ("index.html", "")], "a PHP program (index.php)"),
        (&[("deno.json", "")], "a Deno program (deno.json)"),
        (&[("package.json", "{}"), ("bun.lockb", "")], "a Bun program (bun.lockb)"),
        (&[("pom.xml", "")], "a Java program built by Maven (pom.xml)"),
        (&[("Dockerfile", "")], "a container image (Dockerfile)"),
        (&[("Shop.csproj", "")], "a .NET program (Shop.csproj)"),
        (&[("hugo.toml", ""), ("content/x.md", "")], "a Hugo site (hugo.toml)"),
        (&[("Pipfile", ""), ("app.py", "")], "a Python program whose packages are in a Pipfile"),
        // A package whose documentation is built with npm is no site.
        (
            &[
                ("setup.py", ""),
                ("package.json", "{}"),
                ("docs/index.html", ""),
                ("Dockerfile", ""),
            ],
            "a Python project without a web application that is known",
        ),
        (&[("package.json", "{")], "a package.json that can't be read"),
        (
            &[("package.json", "{\"name\":\"lib\"}"), ("index.js", "")],
            "a Node.js package that neither starts a server nor builds a site",
        ),
    ] {
        let Detection::Later(later) = detect(&Tree::of(files)) else {
            panic!("{files:?}: {:?}", detect(&Tree::of(files)));
        };
        assert_eq!(later.what, want);
        assert!(!later.mend.is_empty());
    }
    assert_eq!(detect(&Tree::of(&[("README.md", "")])), Detection::Unknown);
    assert_eq!(detect(&Tree::of(&[("config.toml", "")])), Detection::Unknown);
}

#[test]
fn apps_below_are_named() {
    let files = [
        ("README.md", ""),
        ("package.json", r#"{"workspaces":["apps/*"]}"#),
        ("apps/web/index.html", ""),
        ("apps/api/package.json", r#"{"scripts":{"start":"node api.js"}}"#),
        ("tool/go.mod", ""),
        ("node_modules/x/index.html", ""),
    ];
    let Detection::Several(apps) = detect(&Tree::of(&files)) else { panic!() };
    let apps: Vec<_> = apps.iter().map(|app| (app.directory.as_str(), app.ready)).collect();
    assert_eq!(apps, [("apps/api", true), ("apps/web", true), ("tool", false)]);
}

/// Files whose names make something of a directory, with texts that may mean anything.
fn any_tree() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        Just("package.json".to_owned()),
        Just("manage.py".to_owned()),
        Just("app.py".to_owned()),
        Just("index.html".to_owned()),
        Just("requirements.txt".to_owned()),
        Just("Procfile".to_owned()),
        Just("mkdocs.yml".to_owned()),
        Just("pyproject.toml".to_owned()),
        Just("next.config.js".to_owned()),
        Just("x/settings.py".to_owned()),
        "[a-z'\" \\\\$;]{1,8}\\.(db|jar|java|py|html)",
        "[a-zA-Z/é'\" $]{1,12}",
    ];
    let text = prop_oneof![
        "(web: |site_dir: |import |from )?[ -~\n\u{1}\u{7f}\u{202e}é]{0,60}",
        "app = Flask\\(\n[a-z]{0,5}",
        "[a-z]{0,6} = FastAPI\\(",
        "DJANGO_SETTINGS_MODULE', 'x.settings'\nA = os.environ\\['[A-Z_\"= ]{0,6}'\\] sqlite3",
        "class [A-Z\"]{0,3} \\{ static void main\\(",
        any_package(),
        "(flask|fastapi|datasette|streamlit|gunicorn)(==[0-9.]{1,5})?\n",
        "output: 'export' outDir: '[ -~]{0,8}'",
    ];
    proptest::collection::vec((name, text), 1..6)
}

fn any_package() -> impl Strategy<Value = String> {
    let script = prop_oneof![
        "[ -~\u{1}\u{7f}\n]{0,40}",
        "(node|serve|next start|vite|json-server|nodemon) ?(-p|--port|-l|--listen|--port=1)? ?[a-z$'\"\\\\]{0,5}",
    ];
    (script.clone(), script, "[ -~]{0,12}", any::<bool>()).prop_map(|(start, build, name, with)| {
        let packages = if with { "vite" } else { "express" };
        serde_json::json!({
            "name": name,
            "packageManager": format!("pnpm@{name}"),
            "bin": start,
            "scripts": {"start": start, "build": build, "test": build},
            "dependencies": {packages: "1"},
        })
        .to_string()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a project holds, what is written for it passes the parser.
    #[test]
    fn what_is_written_holds(files in any_tree(), name in "\\PC{0,70}") {
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        if let Detection::App(app) = detect(&Tree::of(&files)) {
            written(&app, &name);
        }
    }
}
