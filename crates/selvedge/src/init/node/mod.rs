//! Node.js: servers, and sites that its tools build.

mod manager;
mod package;
mod rendered;
mod sites;
mod start;

use super::later::later;
use super::{Command, Detection, Process, Proposal, Service, Tree, Variable, pages};
use manager::Manager;
use package::Package;
use start::Start;

const SOURCES: [&str; 7] = [".js", ".ts", ".mjs", ".cjs", ".mts", ".jsx", ".tsx"];
/// Directories that builds fill.
const BUILT: [&str; 3] = ["dist", "build", "out"];
/// Has npm install a published package as it would for those who depend on it. What its makers build
/// and test it with need not be there for others, or fit together.
const AS_OTHERS_DO: &str = "npm pkg delete devDependencies scripts.prepare";
/// In MiB: a framework that renders pages needs more than the default.
const RENDERING_MIB: u32 = 512;
/// Server frameworks by their packages, for the words.
const FRAMEWORKS: [(&str, &str); 14] = [
    ("@nestjs/core", "a NestJS application"),
    ("express", "an Express application"),
    ("fastify", "a Fastify application"),
    ("koa", "a Koa application"),
    ("@hapi/hapi", "a hapi application"),
    ("hono", "a Hono application"),
    ("@remix-run/node", "a Remix application"),
    ("@react-router/serve", "a React Router application"),
    ("socket.io", "a Socket.IO server"),
    ("ws", "a WebSocket server"),
    ("json-server", "a JSON Server"),
    ("http-server", "a site served by http-server"),
    ("serve", "a site served by serve"),
    ("verdaccio", "a Verdaccio registry"),
];

/// Recognises what surely is a Node.js server.
pub(super) fn detect_server(tree: &Tree<'_>) -> Detection {
    let Some(package) = Package::of(tree) else { return Detection::Unknown };
    // Many a project of another language has a package.json for its style sheets.
    if tree.first(&["manage.py", "mix.exs", "Gemfile", "composer.json", "go.mod"]).is_some() {
        return Detection::Unknown;
    }
    let project = Project::new(tree, &package);
    if let Some(refused) = project.refused() {
        return refused;
    }
    let found = project.rendered().or_else(|| project.published()).or_else(|| project.started());
    match found {
        Some(service) => project.propose(service),
        None => Detection::Unknown,
    }
}

/// Recognises everything else that has a package.json.
pub(super) fn detect(tree: &Tree<'_>) -> Detection {
    let Some(package) = Package::of(tree) else {
        return match tree.has("package.json") {
            true => Detection::Later(later(
                "a package.json that can't be read",
                "mend its JSON, and run `selvedge init` again",
            )),
            false => Detection::Unknown,
        };
    };
    let project = Project::new(tree, &package);
    if let Some(refused) = project.refused() {
        return refused;
    }
    if let Some(service) = project.site().or_else(|| project.program()) {
        return project.propose(service);
    }
    match pages::detect(tree) {
        Detection::App(app) => project.with_pages(*app),
        _ if package.is_workspace(tree) || !tree.directories().is_empty() => Detection::Unknown,
        _ => Detection::Later(later(
            "a Node.js package that neither starts a server nor builds a site",
            "add a script \"start\" to package.json that listens on process.env.PORT",
        )),
    }
}

struct Project<'a> {
    tree: &'a Tree<'a>,
    package: &'a Package,
    manager: Manager,
}

/// A service that was found, with what goes with it.
struct Found {
    what: String,
    service: Service,
    saw: Vec<String>,
    /// The script or command that builds it, and what is to be done after that.
    build: Option<String>,
    after: Vec<String>,
    /// Whether it runs without what only the build needs.
    can_prune: bool,
    /// Whether it is a package as the registry holds it.
    published: bool,
    /// For build, test and run.
    environment: Vec<Variable>,
    notes: Vec<String>,
    look_at: Vec<String>,
}

impl Found {
    fn new(what: impl Into<String>, service: Service) -> Self {
        Self {
            what: what.into(),
            service,
            saw: Vec::new(),
            build: None,
            after: Vec::new(),
            can_prune: false,
            published: false,
            environment: Vec::new(),
            notes: Vec::new(),
            look_at: Vec::new(),
        }
    }
}

impl<'a> Project<'a> {
    fn new(tree: &'a Tree<'a>, package: &'a Package) -> Self {
        Self { tree, package, manager: Manager::of(tree, package) }
    }

    fn refused(&self) -> Option<Detection> {
        let bun = self.tree.first(&["bun.lock", "bun.lockb"])?;
        let other = ["package-lock.json", "pnpm-lock.yaml", "yarn.lock"];
        self.tree.first(&other).is_none().then(|| {
            Detection::Later(later(
                &format!("a Bun program ({bun})"),
                "lock its packages with `npm install`, start it with node, and run `selvedge init` again",
            ))
        })
    }

    /// A program whose package this is, such as it comes from the registry.
    fn published(&self) -> Option<Found> {
        let file = self.package.own_command().filter(|file| self.is_there(file))?;
        let name = self.package.field("name")?.rsplit('/').next()?;
        let start = start::own_program(name, file)?;
        let saw = format!("{file}: the command {name} itself");
        let why = format!("{name} on the port that the site gives it.");
        let mut found = self.process(start, saw, why);
        found.published = true;
        Some(found)
    }

    /// Whether there is a file of this path, which a shell takes for one word.
    fn is_there(&self, path: &str) -> bool {
        path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c)) && self.tree.has(path)
    }

    /// A start script that is no development server.
    fn started(&self) -> Option<Found> {
        let name = ["start:prod", "start:production", "start"]
            .into_iter()
            .find(|name| self.package.script(name).is_some())?;
        let script = self.package.script(name)?;
        let only_for_developers = start::is_development(script)
            || sites::generator(self.package)
                .is_some_and(|generator| !generator.is_bundler() && !script.starts_with("node "));
        if only_for_developers {
            return None;
        }
        let start = start::start(self.package, name)?;
        let saw = format!("package.json: the script \"{name}\" is `{script}`");
        Some(self.process(start, saw, format!("What `npm run {name}` does.")))
    }

    /// Without a start script: the file or command that the package names itself.
    fn program(&self) -> Option<Found> {
        let own = self.package.only_command();
        let named = [own, self.package.field("main")].into_iter().flatten();
        let usual = [
            "server.js",
            "app.js",
            "index.js",
            "server.mjs",
            "index.mjs",
            "src/server.js",
            "src/index.js",
        ];
        let file = named.chain(usual).map(|path| path.trim_start_matches("./")).find(|path| {
            self.is_there(path)
                && (Some(*path) == own.map(|own| own.trim_start_matches("./")) || self.serves(path))
        })?;
        let command = format!("exec node {file}");
        let start = Start { command, program: Some("node".into()), changes: Vec::new() };
        let mut found = self.process(
            start,
            file.to_owned(),
            format!("package.json has no start script; {file} is a server."),
        );
        found.notes.push(format!("`node {file}` is how it is started"));
        Some(found)
    }

    fn serves(&self, path: &str) -> bool {
        self.tree.text(path).is_some_and(|text| {
            ["listen(", "createServer", ".serve("].iter().any(|call| text.contains(call))
        })
    }

    fn process(&self, start: Start, saw: String, why: String) -> Found {
        let framework = FRAMEWORKS.iter().find(|(package, _)| self.package.has(package));
        let what = framework.map_or("a Node.js program", |(_, what)| what);
        let told = start.command.contains("$PORT") || start.command.contains("${PORT");
        let command = start.command.clone();
        let mut process = Process::new(start.command, why);
        process.environment = production();
        process.health = health(self.tree, &SOURCES);
        let mut found = Found::new(what, Service::Process(process));
        found.saw.push(saw);
        if let Some((package, _)) = framework {
            found.saw.push(format!("package.json: {package}"));
        }
        found.notes = start.changes;
        match self.built_file(&command) {
            Some(file) => found.notes.push(format!("{file} is there, so it need not be built")),
            None => {
                found.build = self.package.script("build").map(|_| self.manager.run("build"));
            }
        }
        let program = start.program.as_deref();
        found.can_prune = match program {
            Some("node") => !self.preloads(),
            // What it has run the program may be a tool of development.
            Some("nodemon") => false,
            Some(program) => self.package.at_run(program).is_some(),
            None => false,
        };
        if !told && let Some(problem) = fixed_port(self.tree) {
            found.look_at.push(problem);
        }
        found
    }

    /// A file of the command that a build would make, and that came with the project.
    fn built_file<'c>(&'c self, command: &'c str) -> Option<&'c str> {
        let ignored = self.tree.text(".gitignore").unwrap_or_default();
        // Without sources there is nothing to build `lib` from; with them it may be one itself.
        let lib = (!self.tree.has_directory("src")).then_some("lib");
        let is_made = |word: &&str| {
            BUILT.iter().copied().chain(lib).any(|made| {
                word.strip_prefix(made).is_some_and(|rest| rest.starts_with('/'))
                    && !ignored.lines().any(|line| line.trim().trim_matches('/') == made)
            })
        };
        // What the package is to others is made by the same build.
        let words = command.split_whitespace().chain(self.package.field("main"));
        let words = words.map(|word| word.trim_start_matches("./"));
        words.filter(is_made).find(|word| self.tree.has(word))
    }

    /// Whether there are tests, and not just a script that would run some.
    fn has_tests(&self) -> bool {
        let is_built = |path: &&str| path.split('/').next().is_some_and(|top| BUILT.contains(&top));
        self.tree.files().filter(|path| !is_built(path)).any(|path| {
            path.split('/').any(|part| {
                matches!(part, "test" | "tests" | "__tests__" | "spec" | "e2e")
                    || part.contains(".test.")
                    || part.contains(".spec.")
                    || part.starts_with("test.")
            })
        })
    }

    /// Whether node is told to load something before the program, such as a compiler.
    fn preloads(&self) -> bool {
        let script = self.package.script("start").unwrap_or_default();
        script.split_whitespace().any(|word| {
            ["-r", "--require", "--import", "--loader", "--experimental-loader"].contains(&word)
        })
    }

    /// A site that a generator or bundler makes.
    fn site(&self) -> Option<Found> {
        let generator = sites::generator(self.package)?;
        let script = generator.script(self.package);
        if generator.package == "webpack" && script.is_none() {
            return None;
        }
        let (root, why) = generator.root(self.tree, self.package);
        let routers = [
            "react-router",
            "react-router-dom",
            "vue-router",
            "@angular/router",
            "svelte-routing",
            "wouter",
        ];
        let in_browser = generator.is_bundler() || generator.package.starts_with("@angular");
        let router = routers.iter().find(|router| in_browser && self.package.has(router));
        let fallback = router.map(|_| "index.html".to_owned());
        let mut found = Found::new(generator.what, Service::Static { root, why, fallback });
        found.saw.push(format!("package.json: {}", generator.package));
        if let Some(router) = router {
            found.saw.push(format!("package.json: {router} makes paths in the browser"));
        }
        found.build = Some(match script {
            Some(script) => self.manager.run(script),
            None => generator.command(),
        });
        Some(found)
    }

    /// Plain pages beside a package.json: its build script, if any, makes something of them.
    fn with_pages(&self, mut app: Proposal) -> Detection {
        app.name = self.package.field("name").map(str::to_owned);
        app.saw.push("package.json: no start script, and no framework that is known".into());
        if self.package.script("build").is_some() {
            app.assumed.retain(|assumed| !assumed.contains("without a build"));
            let steps = self.installed(true).into_iter().chain([self.manager.run("build")]);
            app.build = Command::new(steps, "What package.json calls \"build\".");
            app.look_at.push("check `root`: it must be the directory that the build fills".into());
        }
        Detection::App(Box::new(app))
    }

    fn installed(&self, dev: bool) -> Vec<String> {
        if !self.package.has_dependencies() {
            return Vec::new();
        }
        self.manager.before().into_iter().chain([self.manager.install(dev)]).collect()
    }

    fn propose(&self, found: Found) -> Detection {
        let Self { package, manager, .. } = self;
        let mut proposal = Proposal::new(found.what, found.service);
        proposal.name = package.field("name").map(str::to_owned);
        proposal.saw = found.saw;
        if package.has_dependencies() {
            proposal.saw.push(format!(
                "{}: {} installs the packages",
                manager.seen,
                manager.name()
            ));
        }
        let is_process = matches!(proposal.service, Service::Process(_));
        proposal.test = package.script("test").filter(|_| is_process && self.has_tests()).map(|_| Command {
            steps: vec![format!("CI=true {}", manager.run("test"))],
            why: "A failing test refuses the push. Remove it if the tests need what a build does not have, such as a database.".into(),
        });
        let builds = found.build.is_some() || proposal.test.is_some();
        let dev = builds || !found.can_prune;
        let mut steps = self.installed(dev);
        if found.published && !dev && !manager.locked && !steps.is_empty() {
            steps.insert(0, AS_OTHERS_DO.into());
        }
        steps.extend(found.build);
        // Tests come after the build, and need the packages.
        let keep = proposal.test.is_some();
        steps.extend(
            found.after.into_iter().filter(|step| !(keep && step == "rm -rf node_modules")),
        );
        if builds && is_process && found.can_prune && proposal.test.is_none() {
            steps.extend(
                manager
                    .prune()
                    .filter(|_| !steps.iter().any(|step| step.starts_with("rm -rf node"))),
            );
        }
        let why = if manager.locked {
            format!("{} installs exactly what {} says.", manager.name(), lock_name(self.tree))
        } else if package.has_dependencies() {
            "There is no lockfile: each build takes the newest versions that package.json allows."
                .to_owned()
        } else {
            String::new()
        };
        proposal.build = Command::new(steps, why);
        if package.has_dependencies() {
            proposal.environment = manager.variables();
        }
        proposal.environment.extend(found.environment);
        proposal.assumed = found.notes;
        proposal.look_at = found.look_at;
        if !manager.locked && package.has_dependencies() {
            proposal.look_at.push(format!(
                "there is no lockfile, so two builds can differ: run `{}` once and commit what it writes",
                manager.lock()
            ));
        }
        if self.tree.has_directory("node_modules") {
            proposal
                .look_at
                .push("node_modules would be committed: `echo node_modules/ >> .gitignore`".into());
        }
        proposal.look_at.extend(self.engine());
        Detection::App(Box::new(proposal))
    }

    /// A version of Node.js that the project asks for.
    fn engine(&self) -> Option<String> {
        let file = self.tree.first(&[".nvmrc", ".node-version"])?;
        let wanted = self.tree.text(file)?;
        let wanted = wanted.lines().next()?.trim();
        Some(format!(
            "{file} asks for Node.js {wanted}: sites run the system's own, see `node --version`"
        ))
    }
}

fn lock_name(tree: &Tree<'_>) -> &'static str {
    let locks = ["pnpm-lock.yaml", "yarn.lock", "package-lock.json", "npm-shrinkwrap.json"];
    tree.first(&locks).unwrap_or("the lockfile")
}

fn production() -> Vec<Variable> {
    vec![Variable::new(
        "NODE_ENV",
        "production",
        "For the program alone: the build wants its tools.",
    )]
}

/// A health path that the sources name.
pub(super) fn health(tree: &Tree<'_>, extensions: &[&str]) -> Option<String> {
    let paths = ["/healthz", "/health", "/livez", "/readyz", "/_health", "/up"];
    let texts: Vec<String> =
        tree.sources(extensions).iter().take(200).filter_map(|path| tree.text(path)).collect();
    let named = |path: &str| {
        ['"', '\'', '`'].iter().any(|mark| {
            texts.iter().any(|text| {
                // Where a route is declared, and not where another service is called.
                text.lines().any(|line| {
                    line.contains(&format!("{mark}{path}{mark}"))
                        && ["get(", "route(", "path(", "all(", "use(", "createContext("]
                            .iter()
                            .any(|call| line.contains(call))
                })
            })
        })
    };
    paths.into_iter().find(|path| named(path)).map(str::to_owned)
}

/// Says so when nothing reads PORT and something listens on a number.
fn fixed_port(tree: &Tree<'_>) -> Option<String> {
    let mut fixed = None;
    for path in tree.sources(&SOURCES) {
        let text = tree.text(path).unwrap_or_default();
        if text.contains("PORT") {
            return None;
        }
        for (number, line) in text.lines().enumerate() {
            let port = line.split("listen(").nth(1).map(|rest| rest.trim_start());
            if fixed.is_none()
                && port.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            {
                fixed = Some(format!(
                    "{path}:{} listens on a fixed port: write process.env.PORT there, since a site gives each program its own",
                    number + 1
                ));
            }
        }
    }
    fixed
}
