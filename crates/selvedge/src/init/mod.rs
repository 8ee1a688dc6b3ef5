//! What `selvedge init` makes of a project: from its files to an app's `selvedge.toml`, with the
//! reasons. Pure: [`detect`] reads a [`Tree`], and [`render`] writes a text. Where the files come
//! from, and where the text goes, is for `verbs::init`. It knows no app that is not of a kind
//! below, and never guesses: what it does not recognise it says.

mod java;
mod later;
mod name;
mod node;
mod pages;
mod python;
mod render;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use name::app_name;
pub(crate) use render::render;
pub(crate) use tree::{MAX_READ_BYTES, Tree};

/// What a directory was recognised as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Detection {
    /// An app that can be written down.
    App(Box<Proposal>),
    /// No app itself, but there are some below it.
    Several(Vec<Nested>),
    /// Something that is known, but can't be run as it is.
    Later(Later),
    /// Nothing that is known.
    Unknown,
}

/// An app in a directory below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nested {
    /// Relative, `/`-separated.
    pub(crate) directory: String,
    /// What it is, or why it can't be run.
    pub(crate) what: String,
    /// Whether `init` can write a file for it.
    pub(crate) ready: bool,
}

/// A kind of project that is named, and left for later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Later {
    /// Such as `a Go program (go.mod)`.
    pub(crate) what: String,
    /// What can be done today.
    pub(crate) mend: String,
}

/// A project that can be an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// What it is, with an article: `an Express application`.
    pub(crate) what: String,
    /// What the project calls itself, as written.
    pub(crate) name: Option<String>,
    /// What was seen that led here, each with its file.
    pub(crate) saw: Vec<String>,
    /// Run at each push.
    pub(crate) build: Option<Command>,
    /// Run after the build; its failure refuses the push.
    pub(crate) test: Option<Command>,
    /// Variables for build, test and run.
    pub(crate) environment: Vec<Variable>,
    /// What runs.
    pub(crate) service: Service,
    /// What was taken for granted.
    pub(crate) assumed: Vec<String>,
    /// What the user should look at, with the mend.
    pub(crate) look_at: Vec<String>,
}

/// A shell command, in steps that must all succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The steps in their order.
    pub(crate) steps: Vec<String>,
    /// Why this one.
    pub(crate) why: String,
}

impl Command {
    fn new<S: Into<String>>(
        steps: impl IntoIterator<Item = S>,
        why: impl Into<String>,
    ) -> Option<Self> {
        let steps: Vec<String> = steps.into_iter().map(Into::into).collect();
        (!steps.is_empty()).then(|| Self { steps, why: why.into() })
    }

    /// As one line.
    pub(crate) fn line(&self) -> String {
        self.steps.join(" && ")
    }
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Letters, digits and underscores.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
    /// Why it is set.
    pub(crate) why: String,
}

impl Variable {
    fn new(name: &str, value: &str, why: &str) -> Self {
        Self { name: name.into(), value: value.into(), why: why.into() }
    }
}

/// What runs at the sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Service {
    /// Files.
    Static {
        /// Relative to the app.
        root: String,
        /// Why this directory.
        why: String,
        /// The page that answers where no file is, for what routes in the browser.
        fallback: Option<String>,
    },
    /// A program.
    Process(Process),
}

/// A program that listens on `$PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Begins with `exec`.
    pub(crate) command: String,
    /// Why this one.
    pub(crate) why: String,
    /// A path that answers when it is ready.
    pub(crate) health: Option<String>,
    /// In MiB, when the default is too little.
    pub(crate) memory_mib: Option<u32>,
    /// In seconds, when the default is too little.
    pub(crate) start_timeout_s: Option<u32>,
    /// For the program alone.
    pub(crate) environment: Vec<Variable>,
}

impl Process {
    fn new(command: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            why: why.into(),
            health: None,
            memory_mib: None,
            start_timeout_s: None,
            environment: Vec::new(),
        }
    }
}

impl Service {
    fn files(root: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Static { root: root.into(), why: why.into(), fallback: None }
    }
}

impl Proposal {
    fn new(what: impl Into<String>, service: Service) -> Self {
        Self {
            what: what.into(),
            name: None,
            saw: Vec::new(),
            build: None,
            test: None,
            environment: Vec::new(),
            service,
            assumed: Vec::new(),
            look_at: Vec::new(),
        }
    }
}

/// How deep below a directory without an app others are looked for: `apps/shop` is found.
const MAX_NESTING: usize = 2;
/// More apps than a repository may have are not listed.
const MAX_NESTED: usize = 64;

/// Recognises the project of a directory.
pub(crate) fn detect(tree: &Tree<'_>) -> Detection {
    match detect_here(tree) {
        Detection::Unknown => {}
        found => return found,
    }
    let mut nested = Vec::new();
    look_below(tree, "", MAX_NESTING, &mut nested);
    if nested.is_empty() { Detection::Unknown } else { Detection::Several(nested) }
}

/// The kinds, those that say most about themselves first. What a later kind finds does not matter
/// once an earlier one has found its own.
fn detect_here(tree: &Tree<'_>) -> Detection {
    let kinds: [fn(&Tree<'_>) -> Detection; 7] = [
        node::detect_server,
        python::detect,
        node::detect,
        java::detect,
        python::named,
        later::detect,
        pages::detect,
    ];
    let found = kinds.iter().map(|kind| kind(tree)).find(|found| *found != Detection::Unknown);
    found.unwrap_or(Detection::Unknown)
}

fn look_below(tree: &Tree<'_>, prefix: &str, depth: usize, nested: &mut Vec<Nested>) {
    for directory in tree.directories() {
        if nested.len() >= MAX_NESTED || matches!(directory, "node_modules" | "venv" | "vendor") {
            continue;
        }
        let below = tree.below(directory);
        let path = format!("{prefix}{directory}");
        match detect_here(&below) {
            Detection::App(app) => {
                nested.push(Nested { directory: path, what: app.what, ready: true });
            }
            Detection::Later(later) => {
                nested.push(Nested { directory: path, what: later.what, ready: false });
            }
            Detection::Several(_) | Detection::Unknown if depth > 1 => {
                look_below(&below, &format!("{path}/"), depth - 1, nested);
            }
            Detection::Several(_) | Detection::Unknown => {}
        }
    }
}
