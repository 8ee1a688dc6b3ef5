//! A plan as it is printed.

use std::collections::BTreeSet;

use selvedge_model::{AppName, SiteId};
use serde::Serialize;

use super::config::Difference;
use super::short;
use crate::terminal::{Look, Terminal};

/// The plan.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What is planned: `HEAD 1a2b3c4d5e6f` or `the working tree`.
    pub(super) source: String,
    /// Its commit.
    pub(super) commit: Option<String>,
    pub(super) against: Against,
    /// Why control had no part in it; `None` when it had.
    pub(super) control: Option<String>,
    pub(super) apps: Vec<PlannedApp>,
    /// What would refuse the push.
    pub(super) problems: Vec<String>,
}

/// What the commit is compared with.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Against {
    /// What control says is live.
    Live,
    /// A commit.
    Commit { name: String, commit: String },
    /// There is nothing to compare with.
    Nothing,
}

/// What happens to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    New,
    Changed,
    Unchanged,
    Removed,
}

/// An app.
#[derive(Debug, Serialize)]
pub(super) struct PlannedApp {
    pub(super) app: AppName,
    /// In the repository; empty for the top.
    pub(super) directory: String,
    pub(super) change: Change,
    /// Where it was, if that was elsewhere.
    pub(super) moved_from: Option<String>,
    /// 12 digits; `None` when it is removed.
    pub(super) release: Option<String>,
    /// Keys of `selvedge.toml` that differ.
    pub(super) config: Vec<Difference>,
    /// `None` when there is nothing here to compare with.
    pub(super) files: Option<Files>,
    /// Whether control has the release already; `None` when it was not asked.
    pub(super) stored: Option<bool>,
    /// Commands that would run.
    pub(super) build: Vec<String>,
    /// The same of tests.
    pub(super) test: Vec<String>,
    pub(super) hosts: Vec<String>,
    /// `None` when control was not asked.
    pub(super) sites: Option<Sites>,
    pub(super) problems: Vec<String>,
}

/// Files that differ.
#[derive(Debug, Serialize)]
pub(super) struct Files {
    pub(super) changed: usize,
    /// The first of them, in the app's directory.
    pub(super) named: Vec<String>,
}

/// Where it would run.
#[derive(Debug, Serialize)]
pub(super) struct Sites {
    pub(super) planned: BTreeSet<SiteId>,
    /// Of these, where it does not run yet.
    pub(super) added: BTreeSet<SiteId>,
    /// Where it would not run any more.
    pub(super) left: BTreeSet<SiteId>,
    /// The planner's reasons, line by line.
    pub(super) why: Vec<String>,
}

impl PlannedApp {
    pub(super) fn removed(app: AppName, directory: String) -> Self {
        Self {
            app,
            directory,
            change: Change::Removed,
            moved_from: None,
            release: None,
            config: Vec::new(),
            files: None,
            stored: None,
            build: Vec::new(),
            test: Vec::new(),
            hosts: Vec::new(),
            sites: None,
            problems: Vec::new(),
        }
    }
}

/// Prints it for people.
pub(super) fn show(report: &Report, terminal: Terminal) {
    let against = match &report.against {
        Against::Live => "what is live".to_owned(),
        Against::Commit { name, commit } => format!("{name} {}", short(commit)),
        Against::Nothing => "nothing: there is no selvedge/main, so every app is new".to_owned(),
    };
    terminal.line(format!("{}, compared with {against}", report.source));
    if let Some(why) = &report.control {
        let text = format!("{why}: sites, and what others hold, are not known");
        terminal.line(terminal.paint(Look::Faint, text));
    }
    terminal.line("");
    for app in &report.apps {
        show_app(app, terminal);
    }
    let count = |change: Change| report.apps.iter().filter(|it| it.change == change).count();
    terminal.line(format!(
        "{} new, {} changed, {} unchanged, {} removed",
        count(Change::New),
        count(Change::Changed),
        count(Change::Unchanged),
        count(Change::Removed)
    ));
}

fn show_app(app: &PlannedApp, terminal: Terminal) {
    let (sign, word, look) = match app.change {
        Change::New => ("+", "new", Look::Good),
        Change::Changed => ("~", "changed", Look::Warn),
        Change::Unchanged => ("=", "unchanged", Look::Faint),
        Change::Removed => ("-", "removed", Look::Bad),
    };
    let place = if app.directory.is_empty() { "." } else { &app.directory };
    terminal.line(format!(
        "{} {} {word} ({place})",
        terminal.paint(look, sign),
        terminal.paint(Look::Strong, app.app.as_str())
    ));
    let say = |text: String| terminal.line(format!("    {text}"));
    if let Some(from) = &app.moved_from {
        say(format!("moved from {}", if from.is_empty() { "." } else { from }));
    }
    match app.change {
        Change::Removed => {
            say("taken down at every site once the others are live".to_owned());
            return;
        }
        Change::Unchanged => return,
        Change::New | Change::Changed => {}
    }
    app.config.iter().for_each(|it| say(it.words()));
    if let Some(files) = &app.files {
        let named = files.named.join(", ");
        let more = if files.changed > files.named.len() { ", ..." } else { "" };
        say(format!("files that differ: {} ({named}{more})", files.changed));
    }
    if app.stored == Some(true) {
        say("built before: nothing is built or tested again".to_owned());
    }
    app.build.iter().for_each(|it| say(format!("build: {it}")));
    app.test.iter().for_each(|it| say(format!("test: {it}")));
    say(format!("hosts: {}", app.hosts.join(", ")));
    if let Some(sites) = &app.sites {
        show_sites(sites, &say);
    }
    for problem in &app.problems {
        say(terminal.paint(Look::Bad, format!("refused: {problem}")));
    }
}

fn show_sites(sites: &Sites, say: &impl Fn(String)) {
    let list = |sites: &BTreeSet<SiteId>| -> String {
        sites.iter().map(SiteId::as_str).collect::<Vec<_>>().join(", ")
    };
    if !sites.planned.is_empty() {
        say(format!("sites: {}", list(&sites.planned)));
    }
    if !sites.added.is_empty() && sites.added != sites.planned {
        say(format!("  added: {}", list(&sites.added)));
    }
    if !sites.left.is_empty() && !sites.planned.is_empty() {
        say(format!("  left: {}", list(&sites.left)));
    }
}
