//! `selvedge apps`: what is live, in a line each; `selvedge apps rm`: a commit that removes one.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::{Args, Subcommand};
use selvedge_api::AppSummary;
use selvedge_model::{AppName, manifest};

use crate::cli::Connection;
use crate::context::{Control, client_failure, find_control};
use crate::failure::{Code, Failure, Outcome};
use crate::progress;
use crate::terminal::{Cell, Look, Terminal};

/// `selvedge apps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  selvedge apps
  selvedge apps rm shop
  selvedge apps rm shop --yes  # in a script")]
pub(crate) struct Apps {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Remove an app: a commit without its selvedge.toml, which takes it down at every site.
    #[command(after_help = "Examples:
  selvedge apps rm shop
  git pull selvedge main && git revert HEAD && selvedge deploy  # brings it back

The app's other files stay in the repository. Its name and hosts are free for others.")]
    Rm(Remove),
}

#[derive(Debug, Args)]
struct Remove {
    /// The app.
    app: AppName,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Runs the verb.
pub(crate) async fn run(apps: Apps, connection: &Connection, terminal: Terminal) -> Outcome {
    let control = find_control(connection)?;
    match apps.action {
        None => list(&control, terminal).await,
        Some(Action::Rm(remove)) => rm(&remove, &control, terminal).await,
    }
}

async fn list(control: &Control, terminal: Terminal) -> Outcome {
    let apps = control.client.apps().await.map_err(client_failure)?;
    terminal.object(&apps)?;
    if apps.is_empty() {
        terminal.line("No app has been pushed yet: in an app's repository, run `selvedge deploy`.");
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = apps.iter().map(row).collect();
    terminal.table(&["APP", "REPOSITORY", "DIRECTORY", "RELEASE", "SITES", "URL"], &rows);
    Ok(())
}

fn row(app: &AppSummary) -> Vec<Cell> {
    let directory = if app.directory.is_empty() { "." } else { &app.directory };
    let whole = app.live.is_some() && app.serving == app.assigned;
    vec![
        Cell::new(app.app.as_str(), Look::Strong),
        app.repository.to_string().into(),
        directory.into(),
        app.live.as_ref().map_or_else(|| "-".to_owned(), |live| live.release.clone()).into(),
        Cell::new(
            format!("{} of {}", app.serving, app.assigned),
            if whole { Look::Good } else { Look::Warn },
        ),
        app.urls.first().cloned().unwrap_or_default().into(),
    ]
}

async fn rm(remove: &Remove, control: &Control, terminal: Terminal) -> Outcome {
    let app = &remove.app;
    let apps = control.client.apps().await.map_err(client_failure)?;
    let known = apps.iter().find(|it| it.app == *app).ok_or_else(|| unknown(app, &apps))?;
    if !remove.yes {
        confirm(known)?;
    }
    let events = control.client.remove(app).await.map_err(client_failure)?;
    let push = progress::follow(events, terminal).await?;
    terminal.object(&push)?;
    progress::conclude(&push, terminal)?;
    let commit = push.new_commit.get(..12).unwrap_or(&push.new_commit);
    terminal.line(terminal.paint(Look::Good, format!("{app} is removed.")));
    terminal.line(format!(
        "main of {} is now {commit}. To bring {app} back: `git pull selvedge main`, `git revert {commit}`, and deploy.",
        push.repository
    ));
    Ok(())
}

fn unknown(app: &AppName, apps: &[AppSummary]) -> Failure {
    let known: Vec<&str> = apps.iter().map(|it| it.app.as_str()).take(20).collect();
    let hint = if known.is_empty() {
        "no app has been pushed yet".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    Failure::new(Code::Usage, format!("there is no app {app}"), hint)
}

/// Asks on a terminal; elsewhere nobody can answer.
fn confirm(app: &AppSummary) -> Outcome {
    let path = manifest::path_in(&app.directory);
    let name = &app.app;
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::new(
            Code::Usage,
            format!("removing {name} wants a yes, and there is no terminal to ask on"),
            format!("run `selvedge apps rm {name} --yes`"),
        ));
    }
    let mut out = std::io::stderr().lock();
    let _ = write!(
        out,
        "This commits the removal of {path} to main of {} and takes {name} down at {} site(s).\nRemove {name}? [y/N] ",
        app.repository, app.assigned
    );
    let _ = out.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, "nothing was removed", "answer y to remove it"))
}
