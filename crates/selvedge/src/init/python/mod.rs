//! Python: Django, Flask, FastAPI and their kin, Datasette, and programs that read `$PORT`.

mod django;
mod objects;
mod packages;

use super::later::later;
use super::{Command, Detection, Process, Proposal, Service, Tree, Variable, node};
use objects::Object;
use packages::{Packages, Source};

/// Connections are kept by the proxy for reuse, and must not be closed just as it sends.
const KEEP_ALIVE_S: u32 = 120;
const SQLITE: [&str; 4] = [".db", ".sqlite", ".sqlite3", ".db3"];

/// The environment that a virtual environment is filled in.
fn reproducible() -> Variable {
    Variable::new(
        "SOURCE_DATE_EPOCH",
        "315532800",
        "Has Python check its bytecode by content: releases carry no file times.",
    )
}

/// Recognises a Python project.
pub(super) fn detect(tree: &Tree<'_>) -> Detection {
    let packages = Packages::of(tree);
    let sources = tree.sources(&[".py"]);
    if packages.source == Source::None && sources.is_empty() {
        return Detection::Unknown;
    }
    let project = Project { tree, packages };
    if project.packages.source == Source::Pipfile {
        return Detection::Later(later(
            "a Python program whose packages are in a Pipfile",
            "write them down with `pipenv requirements > requirements.txt`, and run `selvedge init` again",
        ));
    }
    let found = project
        .django()
        .or_else(|| project.datasette())
        .or_else(|| project.known())
        .or_else(|| project.procfile())
        .or_else(|| project.asynchronous())
        .or_else(|| project.synchronous())
        .or_else(|| project.mkdocs())
        .or_else(|| project.script());
    found.map_or(Detection::Unknown, |found| project.propose(found))
}

/// Whether the directory is a package of Python's, whose documentation and tools are not the app.
pub(super) fn is_package(tree: &Tree<'_>) -> bool {
    tree.first(&["pyproject.toml", "setup.py"]).is_some() && !tree.has("index.html")
}

/// Names what surely is a Python project, when nothing in it is known and no other kind fits.
pub(super) fn named(tree: &Tree<'_>) -> Detection {
    let is_python = tree.has("requirements.txt") || is_package(tree);
    if !is_python || tree.first(&["index.html", "go.mod", "Cargo.toml"]).is_some() {
        return Detection::Unknown;
    }
    Detection::Later(later(
        "a Python project without a web application that is known",
        "write a Procfile with a line such as `web: python server.py`, for a program that listens on $PORT, and run `selvedge init` again",
    ))
}

/// SQLite files and nothing else: Datasette makes pages of them.
pub(super) fn databases(tree: &Tree<'_>) -> Detection {
    let project = Project { tree, packages: Packages::of(tree) };
    match project.datasette_of_files() {
        Some(found) => project.propose(found),
        None => Detection::Unknown,
    }
}

struct Project<'a> {
    tree: &'a Tree<'a>,
    packages: Packages,
}

/// A service that was found, with what goes with it.
struct Found {
    what: String,
    service: Service,
    saw: Vec<String>,
    /// Packages that it needs and the project does not ask for.
    more: Vec<&'static str>,
    /// After the installation.
    after: Vec<String>,
    environment: Vec<Variable>,
    notes: Vec<String>,
    look_at: Vec<String>,
}

impl Found {
    fn new(what: &str, service: Service, saw: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            service,
            saw: vec![saw.into()],
            more: Vec::new(),
            after: Vec::new(),
            environment: Vec::new(),
            notes: Vec::new(),
            look_at: Vec::new(),
        }
    }
}

impl Project<'_> {
    fn has(&self, package: &str) -> bool {
        self.packages.has(package)
    }

    /// Whether it asks for a package, or uses it without asking.
    fn uses(&self, package: &str) -> bool {
        self.has(package) || (self.packages.source == Source::None && self.imports(package))
    }

    fn imports(&self, module: &str) -> bool {
        let begins = [format!("import {module}"), format!("from {module}")];
        self.tree.sources(&[".py"]).iter().filter_map(|path| self.tree.text(path)).any(|text| {
            text.lines().any(|line| {
                begins.iter().any(|begin| {
                    line.strip_prefix(begin.as_str()).is_some_and(|rest| {
                        !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
                    })
                })
            })
        })
    }

    /// Packages for what is imported, when the project lists none.
    fn unlisted(&self, packages: &[&'static str]) -> Vec<&'static str> {
        packages.iter().copied().filter(|package| !self.has(package)).collect()
    }

    fn health(&self) -> Option<String> {
        node::health(self.tree, &[".py"])
    }

    /// FastAPI, Starlette and other applications of the asynchronous interface (ASGI).
    fn asynchronous(&self) -> Option<Found> {
        let (framework, what, constructors): (&'static str, _, &[&str]) = if self.uses("fastapi") {
            ("fastapi", "a FastAPI application", &["FastAPI"])
        } else if self.uses("quart") {
            ("quart", "a Quart application", &["Quart"])
        } else if self.uses("litestar") {
            ("litestar", "a Litestar application", &["Litestar"])
        } else if self.uses("starlette") {
            ("starlette", "a Starlette application", &["Starlette"])
        } else {
            return None;
        };
        let object = objects::find(self.tree, constructors)?;
        let target = format!("{}:{}", object.module, object.variable);
        let has_uvicorn = ["uvicorn", "fastapi[standard]", "fastapi[all]", "litestar[standard]"];
        let mut more = Vec::new();
        let (command, server) = if !has_uvicorn.iter().any(|name| self.has(name))
            && self.has("hypercorn")
            && !object.factory
        {
            (format!("exec .venv/bin/hypercorn --bind 127.0.0.1:$PORT {target}"), "hypercorn")
        } else {
            if !has_uvicorn.iter().any(|name| self.has(name)) {
                more.push("uvicorn");
            }
            let mut command = format!(
                "exec .venv/bin/uvicorn {target} --host 127.0.0.1 --port $PORT --timeout-keep-alive {KEEP_ALIVE_S}"
            );
            if object.factory {
                command.push_str(" --factory");
            }
            (command, "uvicorn")
        };
        if self.packages.source == Source::None {
            more.splice(0..0, self.unlisted(&[framework]));
        }
        Some(self.served(what, &object, command, server, more))
    }

    /// Flask and other applications of the synchronous interface (WSGI).
    fn synchronous(&self) -> Option<Found> {
        let (framework, what, constructors): (&'static str, _, &[&str]) =
            if self.uses("flask") || self.has("flask-cors") {
                ("flask", "a Flask application", &["Flask", "APIFlask"])
            } else if self.uses("bottle") {
                ("bottle", "a Bottle application", &["Bottle", "default_app"])
            } else if self.uses("falcon") {
                ("falcon", "a Falcon application", &["App", "API"])
            } else if self.uses("dash") {
                ("dash", "a Dash application", &["Dash"])
            } else if self.uses("pyramid") {
                ("pyramid", "a Pyramid application", &["make_wsgi_app"])
            } else {
                return None;
            };
        let mut object = objects::find(self.tree, constructors)?;
        if framework == "dash" && !object.factory {
            object.variable.push_str(".server");
        }
        let call = if object.factory { "()" } else { "" };
        let target = format!("{}:{}{call}", object.module, object.variable);
        let quoted = if object.factory { format!("'{target}'") } else { target.clone() };
        let mut more = if self.packages.source == Source::None {
            self.unlisted(&[framework])
        } else {
            Vec::new()
        };
        let (command, server) = if self.has("gunicorn") {
            (gunicorn(&quoted, None), "gunicorn")
        } else if self.has("waitress") {
            let call = if object.factory { "--call " } else { "" };
            let target = target.trim_end_matches("()");
            (
                format!(
                    "exec .venv/bin/waitress-serve --listen=127.0.0.1:$PORT --channel-timeout={KEEP_ALIVE_S} {call}{target}"
                ),
                "waitress",
            )
        } else if framework == "flask" {
            let target = if object.factory { quoted } else { target };
            (
                format!("exec .venv/bin/flask --app {target} run --host 127.0.0.1 --port $PORT"),
                "Flask's own server",
            )
        } else {
            more.push("gunicorn");
            (gunicorn(&quoted, None), "gunicorn")
        };
        let mut found = self.served(what, &object, command, server, more);
        if server.starts_with("Flask") {
            found.look_at.push("Flask's own server is meant for development: add gunicorn to the requirements and run `selvedge init --force` for one that is not".into());
        }
        Some(found)
    }

    fn served(
        &self,
        what: &str,
        object: &Object,
        command: String,
        server: &str,
        more: Vec<&'static str>,
    ) -> Found {
        let kind = if object.factory { "makes" } else { "is" };
        let why = format!("{server} serves {}, which {kind} the application.", object.variable);
        let mut process = Process::new(command, why);
        process.health = self.health();
        let saw = format!("{}: `{}` {kind} the application", object.path, object.variable);
        let mut found = Found::new(what, Service::Process(process), saw);
        if let Some(from) = &object.from {
            found.environment.push(Variable::new(
                "PYTHONPATH",
                from,
                "Where the application's modules are.",
            ));
        }
        if more.contains(&server) {
            found.notes.push(format!(
                "{server} serves it, and is installed beside the requirements, which name no server"
            ));
        }
        found.more = more;
        found
    }

    fn datasette(&self) -> Option<Found> {
        self.has("datasette").then(|| self.datasette_found(Vec::new())).flatten()
    }

    fn datasette_of_files(&self) -> Option<Found> {
        self.datasette_found(vec!["datasette"])
    }

    fn datasette_found(&self, more: Vec<&'static str>) -> Option<Found> {
        let is_database = |path: &&str| {
            SQLITE.iter().any(|end| path.ends_with(end))
                && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        };
        let databases: Vec<&str> = self.tree.files().filter(is_database).take(32).collect();
        let first = databases.first()?;
        let mut command = "exec .venv/bin/datasette serve".to_owned();
        for database in &databases {
            command.push_str(&format!(" --immutable {database}"));
        }
        for (file, flag) in [
            ("metadata.json", "--metadata"),
            ("metadata.yaml", "--metadata"),
            ("metadata.yml", "--metadata"),
            ("datasette.yaml", "--config"),
            ("datasette.yml", "--config"),
            ("datasette.json", "--config"),
        ] {
            if self.tree.has(file) {
                command.push_str(&format!(" {flag} {file}"));
            }
        }
        for (directory, flag) in [
            ("templates", "--template-dir templates"),
            ("plugins", "--plugins-dir plugins"),
            ("static", "--static static:static"),
        ] {
            if self.tree.has_directory(directory) {
                command.push_str(&format!(" {flag}"));
            }
        }
        command.push_str(" --host 127.0.0.1 --port $PORT");
        let mut process = Process::new(
            command,
            "Datasette serves the files as they are in the release: nothing writes to them.",
        );
        process.health = Some("/-/versions.json".into());
        process.start_timeout_s = Some(60);
        let mut found = Found::new(
            "a Datasette over SQLite",
            Service::Process(process),
            format!("{first}: a SQLite file"),
        );
        if more.is_empty() {
            found.saw.push(format!("{}: datasette", self.packages.file()));
        } else {
            found.notes.push("Datasette is what shows them, in its newest version: a requirements.txt with `datasette==VERSION` keeps it".into());
        }
        found.more = more;
        Some(found)
    }

    /// Programs that are told all they need on their command line.
    fn known(&self) -> Option<Found> {
        let program = |command: &str, what: &str, package: &str| {
            let process = Process::new(
                format!("exec {command}"),
                format!("{package}'s own server, on the port that the site gives it."),
            );
            Found::new(
                what,
                Service::Process(process),
                format!("{}: {package}", self.packages.file()),
            )
        };
        if self.has("streamlit") {
            let script = self.tree.first(&["streamlit_app.py", "app.py", "main.py", "Home.py"])?;
            let mut found = program(
                &format!(
                    ".venv/bin/streamlit run {script} --server.address 127.0.0.1 --server.port $PORT --server.headless true --browser.gatherUsageStats false"
                ),
                "a Streamlit application",
                "streamlit",
            );
            if let Service::Process(process) = &mut found.service {
                process.memory_mib = Some(512);
                process.start_timeout_s = Some(60);
                process.health = Some("/_stcore/health".into());
            }
            return Some(found);
        }
        if self.has("gradio") {
            let script = self.tree.first(&["app.py", "main.py", "demo.py"])?;
            let mut found = program(
                &format!(
                    "env GRADIO_SERVER_NAME=127.0.0.1 GRADIO_SERVER_PORT=$PORT GRADIO_ANALYTICS_ENABLED=False .venv/bin/python {script}"
                ),
                "a Gradio application",
                "gradio",
            );
            if let Service::Process(process) = &mut found.service {
                process.memory_mib = Some(512);
                process.start_timeout_s = Some(60);
            }
            return Some(found);
        }
        if self.has("pypiserver") {
            let mut found = program(
                ".venv/bin/pypi-server run --interface 127.0.0.1 --port $PORT packages",
                "a pypiserver package index",
                "pypiserver",
            );
            found.after.push("mkdir -p packages".into());
            found.notes.push("the packages that it serves are in the directory packages".into());
            return Some(found);
        }
        None
    }

    /// What the project itself says for platforms like this.
    fn procfile(&self) -> Option<Found> {
        let text = self.tree.text("Procfile")?;
        let line = text.lines().find_map(|line| line.strip_prefix("web:"))?.trim();
        if line.is_empty() || line.contains('\0') {
            return None;
        }
        let one = !line.contains(|c: char| "&|;<>()`".contains(c));
        let command = if one {
            format!("PATH=/app/.venv/bin:$PATH; exec {line}")
        } else {
            format!("PATH=/app/.venv/bin:$PATH; {line}")
        };
        let process = Process::new(command, "What the Procfile says for `web`.");
        let mut found = Found::new(
            "a Python application",
            Service::Process(process),
            format!("Procfile: web: {line}"),
        );
        if !line.contains("PORT") && !line.contains("gunicorn") {
            found
                .look_at
                .push("the Procfile does not say where it listens: it must listen on $PORT".into());
        }
        Some(found)
    }

    fn mkdocs(&self) -> Option<Found> {
        let config = self.tree.first(&["mkdocs.yml", "mkdocs.yaml"])?;
        let root = self.tree.text(config).unwrap_or_default();
        let root = root
            .lines()
            .find_map(|line| line.strip_prefix("site_dir:"))
            .map(|dir| dir.trim().trim_matches(['"', '\'']).to_owned());
        let root = root.filter(|root| {
            root.chars().all(|c| c.is_ascii_alphanumeric() || "_-/".contains(c))
                && !root.starts_with('/')
                && !root.is_empty()
        });
        let service = Service::files(
            root.unwrap_or_else(|| "site".into()),
            "The directory that `mkdocs build` fills.",
        );
        let mut found = Found::new("a MkDocs site", service, config);
        found.after.push(".venv/bin/mkdocs build --strict --quiet".into());
        if self.packages.source == Source::None {
            found.more.push("mkdocs");
        }
        Some(found)
    }

    /// A program that reads the port itself.
    fn script(&self) -> Option<Found> {
        let script = ["main.py", "app.py", "server.py", "serve.py", "run.py", "wsgi.py"]
            .into_iter()
            .find(|path| {
                self.tree.text(path).is_some_and(|text| {
                    text.contains("PORT") && (text.contains("environ") || text.contains("getenv"))
                })
            })?;
        let interpreter =
            if self.packages.source == Source::None { "python3" } else { ".venv/bin/python" };
        let mut process = Process::new(
            format!("exec {interpreter} {script}"),
            format!("{script} reads PORT itself."),
        );
        process.health = self.health();
        Some(Found::new(
            "a Python program",
            Service::Process(process),
            format!("{script}: reads the variable PORT"),
        ))
    }

    fn test(&self) -> Option<Command> {
        let is_test = |path: &&str| {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.ends_with(".py") && (file.starts_with("test_") || file.ends_with("_test.py"))
        };
        let files: Vec<&str> = self.tree.files().filter(is_test).take(50).collect();
        let first = files.first()?;
        let why = format!(
            "There are tests, such as {first}. A failing one refuses the push; remove this if they need what a build does not have."
        );
        if self.has("pytest") && !matches!(self.packages.source, Source::Uv | Source::Poetry) {
            return Command::new([".venv/bin/python -m pytest -q"], why);
        }
        None
    }

    fn propose(&self, found: Found) -> Detection {
        let Self { packages, tree } = self;
        let mut proposal = Proposal::new(found.what, found.service);
        proposal.name = packages.name.clone();
        proposal.saw = found.saw;
        proposal.assumed = found.notes;
        proposal.look_at = found.look_at;
        let installs = packages.source != Source::None || !found.more.is_empty();
        let mut steps = if installs { packages.install(&found.more) } else { Vec::new() };
        steps.extend(found.after);
        if installs {
            proposal.environment.push(reproducible());
        }
        proposal.environment.extend(found.environment);
        if packages.source != Source::None {
            let file = packages.file();
            if !proposal.saw.iter().any(|saw| saw.starts_with(file)) {
                proposal.saw.push(format!("{file}: the packages"));
            }
            if !packages.locked {
                proposal.look_at.push(format!("{file} does not name one version of each package, so two builds can differ: `pip freeze > requirements.txt` in an environment that works keeps them"));
            }
        } else if installs {
            proposal.look_at.push(format!("no file lists the packages: {} installed in the newest versions; write a requirements.txt", if found.more.len() == 1 { format!("{} is", found.more.concat()) } else { format!("{} are", found.more.join(", ")) }));
        }
        let why = "The packages go into a virtual environment in /app, which is where build and run both see the app.";
        proposal.build = Command::new(steps, if installs { why } else { "" });
        if matches!(proposal.service, Service::Process(_)) {
            proposal.test = proposal.test.take().or_else(|| self.test());
        }
        if let Some(wanted) = packages.python.clone().or_else(|| {
            let file = tree.text(".python-version").or_else(|| tree.text("runtime.txt"))?;
            Some(file.lines().next()?.trim().to_owned())
        }) {
            proposal.assumed.push(format!(
                "Python {} is what sites have: they run the system's own python3",
                super::render::printable(&wanted)
            ));
        }
        if ["venv", ".venv", "env"].iter().any(|folder| tree.has(&format!("{folder}/pyvenv.cfg"))) {
            proposal.look_at.push("a virtual environment would be committed: `echo .venv/ >> .gitignore`, and the like for its name".into());
        }
        Detection::App(Box::new(proposal))
    }
}

fn gunicorn(target: &str, worker: Option<&str>) -> String {
    let worker = worker.map_or_else(String::new, |worker| format!(" --worker-class {worker}"));
    format!("exec .venv/bin/gunicorn --bind 127.0.0.1:$PORT{worker} {target}")
}
