//! `selvedge deploy`: a push of HEAD.

use std::path::Path;
use std::process::Stdio;

use selvedge_model::PushState;
use serde::Serialize;
use tokio::process::Command;

use crate::cli::{Connection, Deploy};
use crate::context::{
    self, Control, client_failure, find_control, git, git_credentials, repository_name,
    repository_top,
};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::Terminal;

/// What the verb prints for programs.
#[derive(Serialize)]
struct Report {
    repository: selvedge_model::RepositoryName,
    commit: String,
    /// Files that differ from the commit and were not deployed.
    uncommitted: usize,
    ok: bool,
    push: Option<selvedge_model::Push>,
}

/// Runs the verb.
pub(crate) async fn run(deploy: Deploy, connection: &Connection, terminal: Terminal) -> Outcome {
    let here = context::here()?;
    let top = repository_top(&here)?;
    let repository = repository_name(deploy.repository, &top)?;
    let commit = git(&top, &["rev-parse", "--verify", "HEAD"]).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "there is no commit yet",
            "run `git add -A && git commit`, then deploy again",
        )
    })?;
    let changed = git(&top, &["status", "--porcelain"]).unwrap_or_default().lines().count();
    if changed > 0 {
        let (files, are) = if changed == 1 { ("file", "is") } else { ("files", "are") };
        terminal.warn(format!(
            "{changed} {files} here {are} not committed and will not be deployed; `git status` lists them"
        ));
    }
    let control = find_control(connection)?;
    // What control is reached with is checked first, so that git's words need no guessing.
    control.client.version().await.map_err(client_failure)?;
    let ok = push(&control, &top, repository.as_str()).await?;
    let push = match control.client.pushes(&repository).await {
        Ok(pushes) => pushes.into_iter().find(|push| push.new_commit == commit),
        // A repository whose first push never came to be is unknown to control.
        Err(_) if !ok => None,
        Err(error) => return Err(client_failure(error)),
    };
    let ended = push.as_ref().map(|push| push.state.clone());
    terminal.object(&Report { repository, commit, uncommitted: changed, ok, push })?;
    if ok {
        return Ok(());
    }
    Err(match ended {
        Some(PushState::Refused(failure)) => Failure::new(
            Code::Refused,
            format!("the push was refused at {}: {}", failure.stage, failure.reason),
            "nothing has changed: what was live is live",
        ),
        Some(PushState::RolledBack(failure)) => Failure::new(
            Code::Refused,
            format!("the push was rolled back at {}: {}", failure.stage, failure.reason),
            "`selvedge releases` shows what is live now; main says so too: git pull",
        ),
        // Live already, or no push at all: then it was git that refused.
        Some(_) | None => Failure::new(
            Code::Failed,
            "git could not push",
            "git's own words stand above; if main has moved, run `git pull --rebase` and deploy again",
        ),
    })
}

/// Pushes HEAD of the repository at `top` to main of `repository`, with git's own words on
/// standard error. Returns whether git was satisfied.
pub(crate) async fn push(control: &Control, top: &Path, repository: &str) -> Outcome<bool> {
    let url = format!("{}/{repository}.git", control.git);
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(top)
        .args(["push", &url, "HEAD:refs/heads/main"])
        .envs(git_credentials(control))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status().await.or_fail(
        Code::Failed,
        "git can't be run",
        "see that `git --version` works, then deploy again",
    )?;
    Ok(status.success())
}
