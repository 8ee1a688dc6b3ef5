//! `selvedge init`: looks at a project and writes its `selvedge.toml`, with the reasons.

use std::fs;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use selvedge_model::{AppName, manifest};
use serde::Serialize;

use super::{schema, show};
use crate::context::{self, MANIFEST};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::init::{self, Detection, Nested, Proposal, Service, Tree};
use crate::terminal::{Look, Terminal};

/// The most files of a project that are looked at.
const MAX_FILES: usize = 20_000;
/// How deep below the directory files are looked for where git does not list them.
const MAX_DEPTH: usize = 8;
/// Directories that hold what others wrote or a build made.
const NOT_OURS: [&str; 8] =
    ["node_modules", "__pycache__", ".venv", "venv", ".git", ".next", "target", ".svelte-kit"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  selvedge init
  selvedge init apps/shop --name shop")]
pub(crate) struct Init {
    /// The project's directory.
    #[arg(default_value = ".")]
    pub(crate) directory: PathBuf,
    /// The app's name [default: what the project or its directory is called].
    #[arg(long)]
    pub(crate) name: Option<AppName>,
    /// Replace a selvedge.toml that is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// What the verb prints for programs.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    /// The file that was written.
    path: Option<String>,
    name: Option<AppName>,
    what: &'a str,
    saw: &'a [String],
    build: Option<String>,
    test: Option<String>,
    root: Option<&'a str>,
    command: Option<&'a str>,
    assumed: &'a [String],
    look_at: &'a [String],
    /// Apps in directories below, when there is none here.
    apps: Vec<NestedReport<'a>>,
    next: Vec<String>,
}

#[derive(Serialize)]
struct NestedReport<'a> {
    directory: &'a str,
    what: &'a str,
    ready: bool,
}

/// Runs the verb.
pub(crate) fn run(init: &Init, terminal: Terminal) -> Outcome {
    let directory = init.directory.canonicalize().or_fail(
        Code::Usage,
        format!("there is no directory {}", init.directory.display()),
        "name the directory of a project, or run it there",
    )?;
    if !directory.is_dir() {
        let what = format!("{} is no directory", show(&directory));
        return Err(Failure::new(Code::Usage, what, "name the directory of a project"));
    }
    let path = directory.join(MANIFEST);
    refuse_existing(&path, init.force)?;
    let paths = files(&directory);
    refuse_nesting(&directory, &paths)?;
    let read = |path: &str| read(&directory, path);
    match init::detect(&Tree::new(paths.iter().cloned(), read)) {
        Detection::App(proposal) => {
            let name = choose_name(init, &proposal, &directory, terminal)?;
            write(&directory, &path, &proposal, name, terminal)
        }
        Detection::Several(apps) => Err(several(&directory, &apps, terminal)?),
        Detection::Later(later) => {
            terminal.object(&nothing(&later.what, Vec::new()))?;
            let what = format!("this is {}, which Selvedge does not run yet", later.what);
            Err(Failure::new(Code::Usage, what, later.mend))
        }
        Detection::Unknown => {
            terminal.object(&nothing("nothing that is known", Vec::new()))?;
            let what = format!("nothing in {} is of a kind that is known", show(&directory));
            Err(Failure::new(Code::Usage, what, UNKNOWN))
        }
    }
}

const UNKNOWN: &str = "a site has an index.html, a program a package.json, requirements.txt or .java file; for anything else write selvedge.toml by hand, see docs/guide/selvedge-toml.md";

fn refuse_existing(path: &Path, force: bool) -> Outcome {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let what = format!("{} is no file", show(path));
            Err(Failure::new(Code::Usage, what, "move it away"))
        }
        Ok(_) if !force => Err(Failure::new(
            Code::Usage,
            format!("{} is there already", show(path)),
            "`selvedge check` reads it; `selvedge init --force` replaces it",
        )),
        _ => Ok(()),
    }
}

/// An app can't lie within another, which `discover` knows.
fn refuse_nesting(directory: &Path, paths: &[String]) -> Outcome {
    let below = paths.iter().map(String::as_str).chain([MANIFEST]);
    if let Err(problems) = manifest::discover(below) {
        let inner: Vec<String> = problems.iter().map(|problem| problem.file.clone()).collect();
        return Err(Failure::new(
            Code::Usage,
            format!("there are apps below this directory already: {}", inner.join(", ")),
            "an app can't lie in another: run `selvedge init` in a directory beside them",
        ));
    }
    let Ok(top) = context::repository_top(directory) else { return Ok(()) };
    let above = directory.ancestors().skip(1).take_while(|above| above.starts_with(&top));
    match above.into_iter().find(|above| above.join(MANIFEST).is_file()) {
        None => Ok(()),
        Some(above) => Err(Failure::new(
            Code::Usage,
            format!("this directory lies in the app of {}", show(&above.join(MANIFEST))),
            "an app can't lie in another: make this one a [[service]] of that file",
        )),
    }
}

/// The project's files: those that a commit of everything would hold, or, where git knows nothing,
/// all that are found.
fn files(directory: &Path) -> Vec<String> {
    let listed =
        context::git(directory, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut found = Vec::new();
    match listed {
        Some(listed) => {
            let present = listed.split('\0').filter(|path| directory.join(path).is_file());
            found.extend(present.take(MAX_FILES).map(str::to_owned));
        }
        None => walk(directory, "", MAX_DEPTH, &mut found),
    }
    found
}

fn walk(directory: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if found.len() >= MAX_FILES {
            return;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        // `file_type` does not follow links, so there are no loops.
        match entry.file_type() {
            Ok(kind) if kind.is_file() => found.push(path),
            Ok(kind) if kind.is_dir() && depth > 0 && !NOT_OURS.contains(&name.as_str()) => {
                walk(&entry.path(), &format!("{path}/"), depth - 1, found);
            }
            _ => {}
        }
    }
}

fn read(directory: &Path, path: &str) -> Option<Vec<u8>> {
    let file = fs::File::open(directory.join(path)).ok()?;
    let mut bytes = Vec::new();
    file.take(init::MAX_READ_BYTES as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The name that was asked for, else the project's own, else its directory's. On a terminal it may
/// be changed; without one nothing is asked.
fn choose_name(
    init: &Init,
    proposal: &Proposal,
    directory: &Path,
    terminal: Terminal,
) -> Outcome<AppName> {
    if let Some(name) = &init.name {
        return Ok(name.clone());
    }
    let own = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    let candidates = [proposal.name.as_deref(), own.as_deref(), Some("app")];
    let name = init::app_name(candidates.into_iter().flatten()).ok_or_else(|| {
        Failure::new(Code::Usage, "no name can be made for the app", "give one with --name NAME")
    })?;
    if terminal.json || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(name);
    }
    loop {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "The app's name, also in its address [{name}]: ");
        let _ = out.flush();
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        // At the end of the input, or without one, the proposal stands.
        if !read.is_ok_and(|bytes| bytes > 0) || line.trim().is_empty() {
            return Ok(name);
        }
        match AppName::new(line.trim()) {
            Ok(name) => return Ok(name),
            Err(error) => terminal.note(format!("that can't be an app's name: {}", error.rule)),
        }
    }
}

fn write(
    directory: &Path,
    path: &Path,
    proposal: &Proposal,
    name: AppName,
    terminal: Terminal,
) -> Outcome {
    let text = init::render(proposal, &name, schema::DIRECTIVE);
    // What is written must pass; if it did not, the mistake is ours and nothing is written.
    manifest::parse(MANIFEST, &text).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let what = format!("what was made of this project does not hold:\n{}", all.join("\n"));
        Failure::new(Code::Failed, what, "write selvedge.toml by hand, and report this")
    })?;
    replace(path, directory, &text).or_fail(
        Code::Usage,
        format!("can't write {}", show(path)),
        "it must be a directory that you may write in",
    )?;
    schema::write(directory)?;
    let next = next(directory);
    let (root, command) = match &proposal.service {
        Service::Static { root, .. } => (Some(root.as_str()), None),
        Service::Process(process) => (None, Some(process.command.as_str())),
    };
    terminal.object(&Report {
        ok: true,
        path: Some(path.to_string_lossy().into_owned()),
        name: Some(name.clone()),
        what: &proposal.what,
        saw: &proposal.saw,
        build: proposal.build.as_ref().map(init::Command::line),
        test: proposal.test.as_ref().map(init::Command::line),
        root,
        command,
        assumed: &proposal.assumed,
        look_at: &proposal.look_at,
        apps: Vec::new(),
        next: next.clone(),
    })?;
    tell(proposal, &name, path, &next, terminal);
    Ok(())
}

/// Writes the whole file or none of it.
fn replace(path: &Path, directory: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

fn tell(proposal: &Proposal, name: &AppName, path: &Path, next: &[String], terminal: Terminal) {
    let strong = |text: &str| terminal.paint(Look::Strong, text);
    terminal.line(format!("{} is {}.", strong(name.as_str()), proposal.what));
    let part = |title: &str, lines: &[String], look: Look| {
        for (number, line) in lines.iter().enumerate() {
            let title = if number == 0 { title } else { "" };
            terminal.line(format!("  {} {line}", terminal.paint(look, format!("{title:<8}"))));
        }
    };
    part("saw", &proposal.saw, Look::Faint);
    let steps = |command: &Option<init::Command>| {
        command.as_ref().map(|command| command.steps.clone()).unwrap_or_default()
    };
    part("build", &steps(&proposal.build), Look::Faint);
    part("test", &steps(&proposal.test), Look::Faint);
    match &proposal.service {
        Service::Static { root, why, .. } => {
            part("serve", &[format!("{root}  ({why})")], Look::Faint);
        }
        Service::Process(process) => {
            part("start", std::slice::from_ref(&process.command), Look::Faint)
        }
    }
    part("assumed", &proposal.assumed, Look::Faint);
    part("look at", &proposal.look_at, Look::Warn);
    terminal.line(format!("wrote {}", strong(&show(path))));
    part("next", next, Look::Good);
}

/// What is left to do until it is live.
fn next(directory: &Path) -> Vec<String> {
    let top = context::repository_top(directory).ok();
    let go = |to: &Path| {
        let here = std::env::current_dir().unwrap_or_default();
        (here != to).then(|| format!("cd {}", shell_word(&show(to))))
    };
    let mut next: Vec<String> = go(top.as_deref().unwrap_or(directory)).into_iter().collect();
    if top.is_none() {
        next.push("git init --initial-branch=main".into());
    }
    next.push("git add -A && git commit -m 'Run on Selvedge'".into());
    next.push("selvedge deploy".into());
    next
}

/// As a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
    if text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// No app here, but below.
fn several(directory: &Path, apps: &[Nested], terminal: Terminal) -> Outcome<Failure> {
    let reports = apps.iter().map(|app| NestedReport {
        directory: &app.directory,
        what: &app.what,
        ready: app.ready,
    });
    terminal.object(&nothing("several projects in one directory", reports.collect()))?;
    let base = show(directory);
    let at = |app: &Nested| {
        let path =
            if base == "." { app.directory.clone() } else { format!("{base}/{}", app.directory) };
        shell_word(&path)
    };
    let mut words = vec![format!("{base} is no app itself, but these below it are projects:")];
    for app in apps {
        let note = if app.ready { "" } else { " (does not run yet)" };
        words.push(format!("  {}: {}{note}", at(app), app.what));
    }
    let hint = match apps.iter().find(|app| app.ready) {
        Some(app) => {
            format!("run `selvedge init {}`, and so for each that is to be an app", at(app))
        }
        None => "none of them runs on Selvedge yet; files and Node.js, Python or Java programs do"
            .into(),
    };
    Ok(Failure::new(Code::Usage, words.join("\n"), hint))
}

fn nothing<'a>(what: &'a str, apps: Vec<NestedReport<'a>>) -> Report<'a> {
    Report {
        ok: false,
        path: None,
        name: None,
        what,
        saw: &[],
        build: None,
        test: None,
        root: None,
        command: None,
        assumed: &[],
        look_at: &[],
        apps,
        next: Vec::new(),
    }
}
