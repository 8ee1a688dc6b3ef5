//! The package managers: which one a project uses, and its commands where npm is all there is.

use super::super::Tree;
use super::package::Package;

/// A project's package manager.
pub(super) struct Manager {
    kind: Kind,
    /// How it is called.
    call: String,
    /// What told.
    pub(super) seen: String,
    /// Whether a lockfile makes each build the same.
    pub(super) locked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Npm,
    Pnpm,
    Yarn,
    /// Yarn 2 and later, another program of the same name.
    Berry,
}

/// The last of the first Yarn.
const YARN: &str = "1.22.22";
/// The first that reads the lockfiles that each major of Yarn's second line writes.
const BERRY: &str = "4";
/// Reads the lockfiles of pnpm 9 and 10, and runs on Node.js 18 and later.
const PNPM: &str = "10";

impl Manager {
    /// The one that `packageManager` or the lockfile names, else npm.
    pub(super) fn of(tree: &Tree<'_>, package: &Package) -> Self {
        let named = package.field("packageManager").and_then(|text| text.split_once('@'));
        // After the version may come a digest, which only corepack knows how to check.
        let named =
            named.map(|(name, version)| (name, version.split('+').next().unwrap_or(version)));
        let version = |of: &str| {
            named.filter(|(name, version)| *name == of && is_version(version)).map(|(_, v)| v)
        };
        let is_named = |of: &str| named.is_some_and(|(name, _)| name == of);
        let field = "package.json: packageManager";
        if is_named("pnpm") || (named.is_none() && tree.has("pnpm-lock.yaml")) {
            let version = version("pnpm").unwrap_or_else(|| pnpm_for(tree));
            return Self {
                kind: Kind::Pnpm,
                call: format!("npx --yes pnpm@{version}"),
                seen: if is_named("pnpm") { field.into() } else { "pnpm-lock.yaml".into() },
                locked: tree.has("pnpm-lock.yaml"),
            };
        }
        // Without its lockfile Yarn has nothing that npm does not.
        if tree.has("yarn.lock") && (is_named("yarn") || named.is_none()) {
            let mut manager = yarn(tree, version("yarn"));
            manager.seen = if is_named("yarn") { field.into() } else { "yarn.lock".into() };
            return manager;
        }
        let lock = tree.first(&["package-lock.json", "npm-shrinkwrap.json"]);
        Self {
            kind: Kind::Npm,
            call: "npm".into(),
            seen: lock.unwrap_or("package.json").into(),
            locked: lock.is_some(),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Npm => "npm",
            Kind::Pnpm => "pnpm",
            Kind::Yarn | Kind::Berry => "Yarn",
        }
    }

    /// What people run to get a lockfile.
    pub(super) fn lock(&self) -> &'static str {
        match self.kind {
            Kind::Npm => "npm install",
            Kind::Pnpm => "pnpm install",
            Kind::Yarn | Kind::Berry => "yarn install",
        }
    }

    /// Installs what the project asks for, with `dev` also what only builds and tests need.
    pub(super) fn install(&self, dev: bool) -> String {
        let Self { call, locked, .. } = self;
        match self.kind {
            Kind::Npm => {
                let verb = if *locked { "ci" } else { "install" };
                let which = if dev { "--include=dev" } else { "--omit=dev" };
                format!("npm {verb} {which} --no-audit --no-fund")
            }
            Kind::Pnpm => {
                let lock = if *locked { "--frozen-lockfile" } else { "--no-frozen-lockfile" };
                let which = if dev { "" } else { " --prod" };
                format!("{call} install {lock}{which}")
            }
            Kind::Yarn => {
                let lock = if *locked { " --frozen-lockfile" } else { "" };
                format!("{call} install{lock} --non-interactive --production={}", !dev)
            }
            Kind::Berry => format!("{call} install{}", if *locked { " --immutable" } else { "" }),
        }
    }

    /// Removes what only builds need, where the manager has a way to.
    pub(super) fn prune(&self) -> Option<String> {
        match self.kind {
            Kind::Npm => Some("npm prune --omit=dev --no-audit --no-fund".into()),
            // It asks before it removes anything, unless it is told that nobody is there.
            Kind::Pnpm => Some(format!("CI=true {} prune --prod --ignore-scripts", self.call)),
            Kind::Yarn | Kind::Berry => None,
        }
    }

    /// Runs a script of package.json.
    pub(super) fn run(&self, script: &str) -> String {
        format!("{} run {script}", self.call)
    }

    /// The variables it needs to work in a build.
    pub(super) fn variables(&self) -> Vec<super::super::Variable> {
        if self.kind != Kind::Berry {
            return Vec::new();
        }
        vec![super::super::Variable::new(
            "YARN_NODE_LINKER",
            "node-modules",
            "Yarn's own cache does not travel with the app; node_modules does.",
        )]
    }

    /// What runs before the installation so that it can reach the registry.
    pub(super) fn before(&self) -> Option<String> {
        // Unlike the others, it does not read the usual variables.
        let proxies = "export YARN_HTTP_PROXY=$http_proxy YARN_HTTPS_PROXY=$https_proxy";
        (self.kind == Kind::Berry).then(|| proxies.into())
    }
}

fn yarn(tree: &Tree<'_>, version: Option<&str>) -> Manager {
    let settings = tree.text(".yarnrc.yml");
    let own = settings.as_deref().and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("yarnPath:"))?;
        let path = path.trim().trim_matches(|c| c == '"' || c == '\'');
        (tree.has(path) && !path.contains(|c: char| c.is_whitespace() || c == '\'')).then_some(path)
    });
    let lock = tree.text("yarn.lock");
    let first = lock.as_deref().is_some_and(|text| text.contains("yarn lockfile v1"));
    let berry = match version {
        Some(version) => !version.starts_with("1."),
        None => settings.is_some() || (lock.is_some() && !first),
    };
    let call = match own {
        Some(path) if berry => format!("node {path}"),
        _ if berry => {
            let version = version.unwrap_or(BERRY);
            format!("npx --yes --package=@yarnpkg/cli-dist@{version} yarn")
        }
        _ => format!("npx --yes yarn@{}", version.unwrap_or(YARN)),
    };
    let kind = if berry { Kind::Berry } else { Kind::Yarn };
    Manager { kind, call, seen: String::new(), locked: lock.is_some() }
}

/// Each version of the lockfile has its last pnpm.
fn pnpm_for(tree: &Tree<'_>) -> &'static str {
    let lock = tree.text("pnpm-lock.yaml").unwrap_or_default();
    let version = lock.lines().find_map(|line| line.strip_prefix("lockfileVersion:"));
    let version = version.unwrap_or_default().trim().trim_matches(|c| c == '"' || c == '\'');
    match version.split('.').next() {
        Some("5") => "7",
        Some("6") => "8",
        _ => PNPM,
    }
}

/// A version, and nothing that a shell would read as more.
fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
}
