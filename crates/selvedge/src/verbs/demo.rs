//! `selvedge demo`: a box, the example apps pushed to it with git, and how the world sees them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use selvedge_api::{Client, ClientConfig, DevInfo};
use selvedge_model::geo::CITIES;
use selvedge_model::{Push, PushState, RepositoryName};
use serde::Serialize;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{curl, deploy, dev_options, status};
use crate::cli::Demo;
use crate::context::{self, Control, client_failure};
use crate::dev;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{Cell, Look, Terminal, duration};

/// How long every site has to serve an app after its push has returned.
const SERVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the demo did, as programs see it.
#[derive(Debug, Default, Serialize)]
struct Report {
    ok: bool,
    took_ms: u64,
    apps: Vec<AppReport>,
    cities: Vec<CityReport>,
    problems: Vec<String>,
}

/// An example app.
#[derive(Debug, Serialize)]
struct AppReport {
    repository: String,
    ok: bool,
    urls: Vec<String>,
    push: Option<Push>,
}

/// How a city sees the apps.
#[derive(Debug, Serialize)]
struct CityReport {
    city: &'static str,
    site: String,
    time_to_first_byte_ms: Vec<Option<f64>>,
}

/// Runs the verb. Whatever happens, `--json` prints one object at the end.
pub(crate) async fn run(demo: Demo, terminal: Terminal) -> Outcome {
    if demo.dev.remove {
        return dev::remove(&dev_options(&demo.dev)?, terminal);
    }
    let started = Instant::now();
    let mut report = Report::default();
    let outcome = perform(&demo, &mut report, terminal).await;
    if let Err(failure) = &outcome
        && report.problems.is_empty()
    {
        report.problems.push(failure.what());
    }
    report.ok = outcome.is_ok() && report.problems.is_empty();
    report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    terminal.object(&report)?;
    outcome
}

async fn perform(demo: &Demo, report: &mut Report, terminal: Terminal) -> Outcome {
    crate::logging::start("demo", None)?;
    let examples = examples(&demo.examples)?;
    let options = dev_options(&demo.dev)?;
    let token = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let mut running =
        std::pin::pin!(dev::run(options, dev::Audience::Caller(ready), token.clone()));
    let dev = tokio::select! {
        ended = &mut running => return ended.and(Err(stopped())),
        dev = is_ready => dev.map_err(|_| stopped())?,
    };
    let shown = {
        let mut show = std::pin::pin!(show(&dev, &examples, report, terminal));
        tokio::select! {
            ended = &mut running => return ended.and(Err(stopped())),
            shown = &mut show => shown,
        }
    };
    if demo.once || shown.is_err() {
        token.cancel();
    } else {
        let try_next = "The box stays up. In another terminal try `selvedge status`, `selvedge why storefront`";
        terminal.line(try_next);
        terminal
            .line("or `selvedge curl https://storefront.edge.test/ --from Tokyo`. Ctrl-C ends it.");
    }
    let ended = running.await;
    shown.and(ended)
}

fn stopped() -> Failure {
    Failure::new(Code::Failed, "the box was stopped before the demo was done", "start it again")
}

/// The directories below `directory` that hold an app.
fn examples(directory: &Path) -> Outcome<Vec<PathBuf>> {
    let hint = "run it where the project's examples are, or give --examples DIR";
    let entries = std::fs::read_dir(directory).or_fail(
        Code::Usage,
        format!("can't read the examples in {}", directory.display()),
        hint,
    )?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(context::MANIFEST).is_file())
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            format!("{} holds no app", directory.display()),
            hint,
        ));
    }
    Ok(found)
}

async fn show(
    dev: &DevInfo,
    examples: &[PathBuf],
    report: &mut Report,
    terminal: Terminal,
) -> Outcome {
    let sites = crate::terminal::count(dev.sites.len(), "site");
    terminal.line(terminal.paint(Look::Strong, format!("A planet in a box: {sites}.")));
    let control = Control {
        client: Client::new(&ClientConfig {
            url: dev.control.clone(),
            token: dev.token.clone(),
            ca: Some(dev.ca.clone()),
        })
        .map_err(client_failure)?,
        git: dev.git.clone(),
        token: dev.token.clone(),
        ca: Some(dev.ca.clone()),
        dev: Some(dev.clone()),
    };
    for example in examples {
        let app = push_example(&control, example, terminal).await?;
        if !app.ok {
            report.problems.push(format!("{} did not become live", app.repository));
        }
        report.apps.push(app);
    }
    for app in report.apps.iter().filter(|app| app.ok) {
        for url in &app.urls {
            if let Err(problem) = served_everywhere(dev, url).await {
                report.problems.push(problem);
            }
        }
    }
    report.cities = world(dev, &report.apps).await;
    if report.cities.len() < CITIES.len() {
        report.problems.push("some cities could not reach every app".into());
    }
    tell(report, terminal);
    status::show(&control.client.status().await.map_err(client_failure)?, terminal);
    terminal.line("");
    if report.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Failed, report.problems.join("; "), "the pushes' own words stand above"))
}

/// Pushes a copy of an example, on top of what an earlier demo left.
async fn push_example(control: &Control, example: &Path, terminal: Terminal) -> Outcome<AppReport> {
    let app = context::read_app(example)?;
    let repository = RepositoryName::new(app.name.as_str()).or_fail(
        Code::Usage,
        format!("{} can't be a repository's name", app.name),
        "give the example another name",
    )?;
    terminal.line("");
    terminal.line(terminal.paint(Look::Strong, format!("git push {repository}")));
    let no_room = "see that the temporary directory (TMPDIR) can be written to and has room";
    let copy = tempfile::tempdir().or_fail(Code::Failed, "can't make a directory", no_room)?;
    let top = copy.path().join(repository.as_str());
    let url = format!("{}/{repository}.git", control.git);
    let say = "the example could not be committed";
    run_git(
        control,
        None,
        &["init", "--quiet", "--initial-branch=main", &top.to_string_lossy()],
        say,
    )
    .await?;
    // Nothing to fetch the first time.
    if run_git(control, Some(&top), &["fetch", "--quiet", &url, "main"], say).await.is_ok() {
        run_git(control, Some(&top), &["reset", "--quiet", "--soft", "FETCH_HEAD"], say).await?;
    }
    copy_directory(example, &top).or_fail(
        Code::Failed,
        format!("can't copy {}", example.display()),
        no_room,
    )?;
    run_git(control, Some(&top), &["add", "--all"], say).await?;
    let message = format!("Deploy the example {repository}");
    run_git(
        control,
        Some(&top),
        &["commit", "--quiet", "--allow-empty", "--message", &message],
        say,
    )
    .await?;
    let commit = context::git(&top, &["rev-parse", "HEAD"]).unwrap_or_default();
    let ok = deploy::push(control, &top, repository.as_str()).await?;
    let pushes = control.client.pushes(&repository).await.map_err(client_failure)?;
    let push = pushes.into_iter().find(|push| push.new_commit == commit);
    let live = push.as_ref().is_some_and(|push| push.state == PushState::Live);
    let apps = control.client.apps().await.map_err(client_failure)?;
    let urls = apps.into_iter().find(|summary| summary.app == app.name).map(|summary| summary.urls);
    Ok(AppReport {
        repository: repository.to_string(),
        ok: ok && live,
        urls: urls.unwrap_or_default(),
        push,
    })
}

async fn run_git(control: &Control, top: Option<&Path>, arguments: &[&str], what: &str) -> Outcome {
    let mut command = Command::new("git");
    if let Some(top) = top {
        command.arg("-C").arg(top);
    }
    let output = command
        .args(arguments)
        .envs(context::git_credentials(control))
        .envs([
            ("GIT_AUTHOR_NAME", "Selvedge demo"),
            ("GIT_AUTHOR_EMAIL", "demo@edge.test"),
            ("GIT_COMMITTER_NAME", "Selvedge demo"),
            ("GIT_COMMITTER_EMAIL", "demo@edge.test"),
        ])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .or_fail(Code::Failed, "git can't be run", "install git")?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(Code::Failed, format!("{what}: {words}"), "see git's words"))
}

/// Copies files and directories, without what a build leaves.
fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if kind.is_dir() && name != "node_modules" && name != ".git" {
            copy_directory(&entry.path(), &to.join(name))?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// Waits until every site answers `url` with success.
async fn served_everywhere(dev: &DevInfo, url: &str) -> Result<(), String> {
    let deadline = Instant::now() + SERVE_TIMEOUT;
    for site in &dev.sites {
        loop {
            let last = match curl::fetch_at(dev, url, site.address).await {
                Ok(fetched) if fetched.status < 400 => break,
                Ok(fetched) => format!("status {}", fetched.status),
                Err(failure) => failure.what(),
            };
            if Instant::now() > deadline {
                return Err(format!("{} does not serve {url}: {last}", site.id));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// How each city sees each app: the site chosen and the time to first byte.
async fn world(dev: &DevInfo, apps: &[AppReport]) -> Vec<CityReport> {
    let mut rows = Vec::new();
    for city in &CITIES {
        let mut row =
            CityReport { city: city.name, site: "-".into(), time_to_first_byte_ms: Vec::new() };
        for app in apps {
            let secure =
                app.urls.iter().find(|url| url.starts_with("https://")).or(app.urls.first());
            let fetched = match secure {
                Some(url) => curl::fetch(dev, url, Some(city))
                    .await
                    .ok()
                    .filter(|fetched| fetched.status < 400),
                None => None,
            };
            if let Some(site) = fetched.as_ref().and_then(|fetched| fetched.site.clone()) {
                row.site = site;
            }
            row.time_to_first_byte_ms.push(fetched.map(|fetched| fetched.time_to_first_byte_ms));
        }
        rows.push(row);
    }
    rows.retain(|row| row.time_to_first_byte_ms.iter().all(Option::is_some));
    rows
}

fn tell(report: &Report, terminal: Terminal) {
    terminal.line("");
    terminal.line(terminal.paint(Look::Strong, "Where each push's time went"));
    let mut headings = vec!["APP"];
    headings.extend(selvedge_model::Stage::ALL.map(selvedge_model::Stage::name));
    let rows: Vec<Vec<Cell>> = report.apps.iter().map(stages).collect();
    terminal.table(&headings, &rows);
    terminal.line("");
    terminal.line(terminal.paint(Look::Strong, "Open in a browser, or fetch with curl"));
    for url in report.apps.iter().flat_map(|app| &app.urls) {
        terminal.line(format!("  {url}"));
    }
    terminal.line("");
    terminal
        .line(terminal.paint(Look::Strong, "Time to first byte over HTTPS as each city sees it"));
    let mut headings = vec!["CITY", "SITE"];
    headings.extend(report.apps.iter().map(|app| app.repository.as_str()));
    let rows: Vec<Vec<Cell>> = report
        .cities
        .iter()
        .map(|row| {
            let times = row
                .time_to_first_byte_ms
                .iter()
                .map(|ms| ms.map_or("-".into(), |ms| format!("{ms:.0} ms")));
            [row.city.to_owned(), row.site.clone()]
                .into_iter()
                .chain(times)
                .map(Cell::from)
                .collect()
        })
        .collect();
    terminal.table(&headings, &rows);
    terminal.line("");
}

fn stages(app: &AppReport) -> Vec<Cell> {
    let timing = |stage| {
        let records = app.push.iter().flat_map(|push| &push.stages);
        let ms =
            records.filter(|record| record.stage == stage).find_map(|record| record.duration_ms);
        Cell::from(ms.map_or_else(|| "-".to_owned(), duration))
    };
    let look = if app.ok { Look::Good } else { Look::Bad };
    std::iter::once(Cell::new(app.repository.clone(), look))
        .chain(selvedge_model::Stage::ALL.map(timing))
        .collect()
}
