//! `selvedge check`: everything that can be said about a repository without contacting anything.

use std::collections::BTreeSet;
use std::path::Path;

use selvedge_model::manifest::{self, ServiceKind};
use selvedge_model::{App, Host};
use serde::Serialize;

use super::show;
use crate::cli::Check;
use crate::context;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{Look, Terminal};

/// How deep below a directory that is no git repository apps are looked for.
const MAX_DEPTH: usize = 16;

/// What the verb prints for programs.
#[derive(Serialize)]
struct Report {
    ok: bool,
    apps: Vec<App>,
    problems: Vec<String>,
}

/// Runs the verb.
pub(crate) fn run(check: &Check, terminal: Terminal) -> Outcome {
    if !check.path.is_dir() {
        let is = if check.path.exists() { "is no directory" } else { "does not exist" };
        return Err(Failure::new(
            Code::Usage,
            format!("{} {is}", check.path.display()),
            "name an app's directory, or a repository's",
        ));
    }
    let mut report = Report { ok: true, apps: Vec::new(), problems: Vec::new() };
    match manifest::discover(files(&check.path).iter().map(String::as_str)) {
        Ok(directories) => {
            for directory in directories {
                read(&check.path.join(manifest::path_in(&directory)), &mut report)?;
            }
        }
        Err(problems) => report.problems.extend(problems.iter().map(ToString::to_string)),
    }
    report.ok = report.problems.is_empty();
    terminal.object(&report)?;
    for app in &report.apps {
        describe(app, terminal);
    }
    if report.ok {
        return Ok(());
    }
    if !terminal.json {
        for problem in &report.problems {
            terminal.note(problem);
        }
    }
    let count = report.problems.len();
    let what = crate::terminal::count(count, "problem");
    Err(Failure::new(Code::Usage, what, "mend the lines above; nothing was sent anywhere"))
}

fn read(path: &Path, report: &mut Report) -> Outcome {
    let text = std::fs::read_to_string(path).or_fail(
        Code::Usage,
        format!("can't read {}", path.display()),
        "it must be a file of UTF-8 text that you may read",
    )?;
    match manifest::parse(&show(path), &text) {
        Ok(app) => report.apps.push(app),
        Err(problems) => report.problems.extend(problems.iter().map(ToString::to_string)),
    }
    Ok(())
}

/// The files below `directory`, relative to it: those that a commit of everything would hold, or,
/// where git knows nothing, all that are found.
fn files(directory: &Path) -> Vec<String> {
    let listed =
        context::git(directory, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    if let Some(listed) = listed {
        let here = |path: &&str| directory.join(path).is_file();
        return listed.split('\0').filter(here).map(str::to_owned).collect();
    }
    let mut found = Vec::new();
    walk(directory, "", MAX_DEPTH, &mut found);
    found
}

fn walk(directory: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        // `file_type` does not follow links, so there are no loops.
        match entry.file_type() {
            Ok(kind) if kind.is_file() => found.push(path),
            Ok(kind)
                if kind.is_dir()
                    && depth > 0
                    && !name.starts_with('.')
                    && name != "node_modules" =>
            {
                walk(&entry.path(), &format!("{path}/"), depth - 1, found);
            }
            _ => {}
        }
    }
}

fn describe(app: &App, terminal: Terminal) {
    terminal.line(format!(
        "{} {}",
        terminal.paint(Look::Good, "ok"),
        terminal.paint(Look::Strong, app.name.as_str())
    ));
    for service in &app.services {
        let what = match &service.kind {
            ServiceKind::Static { root, .. } => format!("files of {root}"),
            ServiceKind::Upstream { addresses, .. } => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                format!("upstream {}", addresses.join(", "))
            }
            ServiceKind::Process { command, .. } => command.clone(),
        };
        terminal.line(format!("  service {}: {what}", service.name));
    }
    for route in &app.routes {
        let rewrite = route.rewrite.as_ref().map(|to| format!(", asked for {to}"));
        terminal.line(format!(
            "  route {}{} -> {}{}",
            hosts(app, &route.hosts),
            route.path,
            route.service,
            rewrite.unwrap_or_default()
        ));
    }
    for redirect in &app.redirects {
        let star = if redirect.to.carry { "/*" } else { "" };
        terminal.line(format!(
            "  redirect {}{} -> {}{star} ({})",
            hosts(app, &redirect.hosts),
            redirect.from,
            redirect.to.url,
            redirect.status
        ));
    }
}

fn hosts(app: &App, hosts: &BTreeSet<Host>) -> String {
    let hosts: Vec<&str> = hosts.iter().map(Host::as_str).collect();
    if hosts.is_empty() { format!("{}.ZONE", app.name) } else { hosts.join(", ") }
}
