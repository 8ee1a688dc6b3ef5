//! `selvedge plan`: what a push would change, before it is made. Reads git; asks control for what is
//! live and for the planner's choice of sites when one is at hand, and works without.

mod commit;
mod config;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use selvedge_api::{PlanAnswer, PlanRequest, WantedApp};
use selvedge_model::{AppName, Host};

use self::commit::{Found, Git};
use self::report::{Against, Change, Files, PlannedApp, Report, Sites};
use crate::cli::Connection;
use crate::context::{client_failure, find_control, here, repository_name};
use crate::failure::{Code, Failure, Outcome};
use crate::terminal::Terminal;

/// git's record of what was deployed last.
const TRACKING: &str = "refs/remotes/selvedge/main";
/// Changed files that are named.
const NAMED_FILES: usize = 5;

/// `selvedge plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  selvedge plan
  selvedge plan --work-tree       # of everything here, committed or not
  selvedge plan --against v1.2    # compared with another commit than what is live
  selvedge plan --offline --json  # without asking control, for a program

Without control, it compares with git's record of the last deployment (selvedge/main). It ends with
exit code 2 when a selvedge.toml is wrong, and with 3 when the push would be refused otherwise.")]
pub(crate) struct Plan {
    /// Take the working tree, uncommitted and untracked files included, instead of HEAD.
    #[arg(long)]
    work_tree: bool,
    /// Compare with this commit instead of what is live.
    #[arg(long, value_name = "REF")]
    against: Option<String>,
    /// Do not ask control.
    #[arg(long)]
    offline: bool,
    /// The repository's name at control [default: the git remote's, else the app's name].
    #[arg(long, value_name = "NAME")]
    repository: Option<selvedge_model::RepositoryName>,
}

/// What an app is compared with.
struct Base {
    app: selvedge_model::App,
    directory: String,
    tree: String,
    release: selvedge_model::ReleaseId,
}

impl From<Found> for Base {
    fn from(found: Found) -> Self {
        let Found { app, directory, tree, release } = found;
        Self { app, directory, tree, release }
    }
}

impl From<selvedge_model::Release> for Base {
    fn from(release: selvedge_model::Release) -> Self {
        let selvedge_model::Release { id, app, directory, tree, .. } = release;
        Self { app, directory, tree, release: id }
    }
}

/// Runs the verb.
pub(crate) async fn run(plan: Plan, connection: &Connection, terminal: Terminal) -> Outcome {
    let here = here()?;
    let top = commit::top(&here)?;
    let mut git = Git::new(top.clone());
    let (source, treeish) = source(&plan, &mut git)?;
    let wanted = git.apps(&treeish).map_err(|problems| {
        Failure::new(
            Code::Usage,
            format!("{source} can't be planned:\n{}", problems.join("\n")),
            "mend the lines above; nothing was sent anywhere",
        )
    })?;
    let (answer, silent) = ask(&plan, connection, &top, &wanted).await?;
    let (against, bases) = bases(&plan, &git, answer.as_ref())?;
    let mut report = Report {
        source,
        commit: git.commit("HEAD").filter(|_| !plan.work_tree),
        against,
        control: silent,
        problems: problems(&wanted),
        apps: compare(&git, wanted, bases, answer),
    };
    // Control may have found the same.
    let known: BTreeSet<String> = report.problems.iter().cloned().collect();
    let found = report.apps.iter().flat_map(|app| app.problems.clone());
    report.problems.extend(found.filter(|problem| !known.contains(problem)));
    terminal.object(&report)?;
    report::show(&report, terminal);
    if report.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Refused,
        format!("a push of this would be refused: {}", report.problems.join("; ")),
        "nothing was sent anywhere but the question",
    ))
}

/// What is planned, in words, and its commit or tree.
fn source(plan: &Plan, git: &mut Git) -> Outcome<(String, String)> {
    if plan.work_tree {
        return Ok(("the working tree".to_owned(), git.working_tree()?));
    }
    let commit = git.commit("HEAD").ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "there is no commit yet",
            "run `git add -A && git commit`, or plan what is here with --work-tree",
        )
    })?;
    Ok((format!("HEAD {}", short(&commit)), commit))
}

/// Control's answer, or why there is none.
async fn ask(
    plan: &Plan,
    connection: &Connection,
    top: &std::path::Path,
    wanted: &[Found],
) -> Outcome<(Option<PlanAnswer>, Option<String>)> {
    if plan.offline {
        return Ok((None, Some("control was not asked (--offline)".to_owned())));
    }
    let control = match find_control(connection) {
        Ok(control) => control,
        Err(_) => return Ok((None, Some("no control is at hand".to_owned()))),
    };
    let apps = wanted.iter().map(|it| WantedApp { app: it.app.clone(), release: it.release });
    let repository = repository_name(plan.repository.clone(), top)?;
    let request = PlanRequest { repository, apps: apps.collect() };
    match control.client.plan(&request).await {
        Ok(answer) => Ok((Some(answer), None)),
        Err(error @ selvedge_api::ClientError::Unreachable { .. }) => {
            Ok((None, Some(error.to_string())))
        }
        Err(error) => Err(client_failure(error)),
    }
}

/// What the commit is compared with: what was asked for, else what is live, else git's record of
/// the last deployment, else nothing.
fn bases(
    plan: &Plan,
    git: &Git,
    answer: Option<&PlanAnswer>,
) -> Outcome<(Against, BTreeMap<AppName, Base>)> {
    if let (None, Some(answer)) = (&plan.against, answer) {
        let live = answer.apps.iter().filter_map(|it| it.live.clone());
        let live = live.chain(answer.removed.values().flatten().cloned());
        let bases = live.map(|release| (release.app.name.clone(), release.into())).collect();
        return Ok((Against::Live, bases));
    }
    let name = plan.against.as_deref().unwrap_or(TRACKING);
    let Some(commit) = git.commit(name) else {
        if plan.against.is_none() {
            return Ok((Against::Nothing, BTreeMap::new()));
        }
        return Err(Failure::new(
            Code::Usage,
            format!("{name:?} is no commit of this repository"),
            "name a branch, a tag or a commit; `git log` shows them",
        ));
    };
    // What could not be released then is nothing to compare with.
    let found = git.apps(&commit).unwrap_or_default();
    let bases = found.into_iter().map(|it| (it.app.name.clone(), it.into())).collect();
    let name = name.trim_start_matches("refs/remotes/").to_owned();
    Ok((Against::Commit { name, commit }, bases))
}

fn compare(
    git: &Git,
    wanted: Vec<Found>,
    mut bases: BTreeMap<AppName, Base>,
    answer: Option<PlanAnswer>,
) -> Vec<PlannedApp> {
    let mut answers: BTreeMap<AppName, selvedge_api::PlannedApp> = BTreeMap::new();
    let mut removed: BTreeSet<AppName> = BTreeSet::new();
    if let Some(answer) = answer {
        removed.extend(answer.removed.into_keys());
        answers.extend(answer.apps.into_iter().map(|it| (it.app.clone(), it)));
    }
    let mut apps = Vec::new();
    for found in wanted {
        let base = bases.remove(&found.app.name);
        let answer = answers.remove(&found.app.name);
        apps.push(one(git, found, base, answer));
    }
    removed.extend(bases.keys().cloned());
    for app in removed {
        let directory = bases.remove(&app).map(|base| base.directory).unwrap_or_default();
        apps.push(PlannedApp::removed(app, directory));
    }
    apps
}

fn one(
    git: &Git,
    found: Found,
    base: Option<Base>,
    answer: Option<selvedge_api::PlannedApp>,
) -> PlannedApp {
    let Found { app, directory, tree, release } = found;
    let change = match &base {
        None => Change::New,
        Some(base) if base.release == release => Change::Unchanged,
        Some(_) => Change::Changed,
    };
    let config = base.as_ref().map(|base| config::differences(&base.app, &app)).unwrap_or_default();
    let moved_from = base.as_ref().map(|base| base.directory.clone()).filter(|it| *it != directory);
    let files = base.filter(|base| git.has(&base.tree)).and_then(|base| {
        let all = git.changed_files(&base.tree, &tree)?;
        Some(Files { changed: all.len(), named: all.into_iter().take(NAMED_FILES).collect() })
    });
    let runs = change != Change::Unchanged && !answer.as_ref().is_some_and(|it| it.stored);
    let builds = app.build.iter().chain(app.services.iter().filter_map(|it| it.build.as_ref()));
    PlannedApp {
        release: Some(release.short()),
        change,
        moved_from,
        config,
        files,
        stored: answer.as_ref().map(|it| it.stored),
        build: builds.filter(|_| runs).cloned().collect(),
        test: app.test.iter().filter(|_| runs).cloned().collect(),
        hosts: match &answer {
            Some(answer) => answer.hosts.iter().map(Host::to_string).collect(),
            None => hosts(&app),
        },
        problems: answer.as_ref().map(|it| it.problems.clone()).unwrap_or_default(),
        sites: answer.map(|it| Sites {
            added: it.sites.difference(&it.current).cloned().collect(),
            left: it.current.difference(&it.sites).cloned().collect(),
            planned: it.sites,
            why: it.placement,
        }),
        app: app.name,
        directory,
    }
}

/// The hosts of an app whose zone is not known.
fn hosts(app: &selvedge_model::App) -> Vec<String> {
    let default = app.uses_default_host().then(|| format!("{}.ZONE", app.name));
    app.hosts().into_iter().map(Host::to_string).chain(default).collect()
}

/// What no control is needed for to know that it would be refused.
fn problems(apps: &[Found]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names: BTreeMap<&AppName, &str> = BTreeMap::new();
    let mut owners: BTreeMap<&Host, &AppName> = BTreeMap::new();
    for found in apps {
        let name = &found.app.name;
        if let Some(other) = names.insert(name, &found.directory) {
            problems.push(format!(
                "two apps are called {name}, in {} and in {}",
                selvedge_model::manifest::path_in(other),
                selvedge_model::manifest::path_in(&found.directory)
            ));
        }
        for host in found.app.hosts() {
            if let Some(other) = owners.insert(host, name).filter(|other| *other != name) {
                problems.push(format!(
                    "{host} is claimed twice in this commit, by {other} and by {name}; take it out of \
                     one"
                ));
            }
        }
    }
    problems
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
