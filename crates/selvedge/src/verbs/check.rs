//! `selvedge check`: everything that can be said about a repository without contacting anything.

use std::path::{Path, PathBuf};

use selvedge_model::App;
use selvedge_model::manifest::{PathPattern, ServiceKind};
use serde::Serialize;

use super::show;
use crate::cli::Check;
use crate::context::MANIFEST;
use crate::failure::{Code, Failure, Outcome};
use crate::terminal::{Look, Terminal};

/// How deep below the path apps are looked for.
const MAX_DEPTH: usize = 8;

/// What the verb prints for programs.
#[derive(Serialize)]
struct Report {
    ok: bool,
    apps: Vec<App>,
    problems: Vec<String>,
}

/// Runs the verb.
pub(crate) fn run(check: &Check, terminal: Terminal) -> Outcome {
    let mut manifests = Vec::new();
    find(&check.path, MAX_DEPTH, &mut manifests);
    manifests.sort();
    if manifests.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            format!("there is no {MANIFEST} in {} or below it", check.path.display()),
            "write one: README.md shows the smallest",
        ));
    }
    let mut report = Report { ok: true, apps: Vec::new(), problems: Vec::new() };
    for path in &manifests {
        let text = std::fs::read_to_string(path)?;
        match selvedge_model::manifest::parse(&show(path), &text) {
            Ok(app) => report.apps.push(app),
            Err(problems) => report.problems.extend(problems.iter().map(ToString::to_string)),
        }
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
    let what = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    Err(Failure::new(Code::Usage, what, "mend the lines above; nothing was sent anywhere"))
}

fn find(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if directory.join(MANIFEST).is_file() {
        found.push(directory.join(MANIFEST));
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let skipped = name == "node_modules" || name.to_string_lossy().starts_with('.');
        // `file_type` does not follow links, so there are no loops.
        if !skipped && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), depth, found);
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
            ServiceKind::Static { root } => format!("files of {root}"),
            ServiceKind::Process { command, .. } => command.clone(),
        };
        terminal.line(format!("  service {}: {what}", service.name));
    }
    for route in &app.routes {
        let hosts: Vec<&str> = route.hosts.iter().map(selvedge_model::Host::as_str).collect();
        let hosts = if hosts.is_empty() { format!("{}.ZONE", app.name) } else { hosts.join(", ") };
        let path = match &route.path {
            PathPattern::Exact(path) => path.clone(),
            prefix @ PathPattern::Prefix(_) => prefix.to_string(),
        };
        terminal.line(format!("  route {hosts}{path} -> {}", route.service));
    }
}
