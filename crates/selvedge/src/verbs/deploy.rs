//! `selvedge deploy`: a push of HEAD.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use selvedge_api::ClientError;
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
    match git(&top, &["symbolic-ref", "--quiet", "--short", "HEAD"]) {
        Some(branch) if branch == "main" => {}
        Some(branch) => terminal.warn(format!("you are on {branch}; it is deployed as main")),
        None => terminal.warn("HEAD is on no branch; its commit is deployed as main"),
    }
    let control = find_control(connection)?;
    // What control is reached with is checked first, so that git's words need no guessing.
    control.client.version().await.map_err(client_failure)?;
    let ok = push(&control, &top, repository.as_str()).await?;
    let push = match control.client.pushes(&repository).await {
        Ok(pushes) => pushes.into_iter().find(|push| push.new_commit == commit),
        // A repository whose first push never came to be is unknown to control.
        Err(ClientError::Problem(_)) if !ok => None,
        Err(error) if !ok => return Err(went_away(error)),
        Err(error) => return Err(client_failure(error)),
    };
    let deployed = commit.clone();
    let ended = push.as_ref().map(|push| push.state.clone());
    let report = Report { repository, commit, uncommitted: changed, ok, push };
    terminal.object(&report)?;
    if ok {
        // What `selvedge plan` compares with when control is out of reach.
        git(&top, &["update-ref", "refs/remotes/selvedge/main", &deployed]);
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
            "the release before is live again and main says so: `selvedge remote`, then `git pull selvedge main`",
        ),
        // Live already, or no push at all: then it was git that refused.
        Some(_) | None => not_pushed(&control, &top, report.repository.as_str()),
    })
}

fn went_away(error: ClientError) -> Failure {
    let failure = client_failure(error);
    Failure {
        error: failure.error.context("control went away during the push"),
        hint: Some(
            "when it is back it completes or undoes what it had begun: see `selvedge status`"
                .into(),
        ),
        code: failure.code,
    }
}

/// Why git itself did not push: nearly always because main is ahead of what is here.
fn not_pushed(control: &Control, top: &Path, repository: &str) -> Failure {
    let url = format!("{}/{repository}.git", control.git);
    let listed = std::process::Command::new("git")
        .arg("-C")
        .arg(top)
        .args(["ls-remote", &url, "refs/heads/main"])
        .envs(git_credentials(control))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let main = listed.ok().and_then(|line| line.split_whitespace().next().map(str::to_owned));
    match main {
        Some(main) if git(top, &["merge-base", "--is-ancestor", &main, "HEAD"]).is_none() => {
            Failure::new(
                Code::Usage,
                format!(
                    "main is at {}, which this branch does not have: a rollback, or somebody else's push",
                    main.get(..12).unwrap_or(&main)
                ),
                "run `selvedge remote` once, then `git pull --rebase selvedge main`, and deploy again",
            )
        }
        _ => Failure::new(Code::Failed, "git could not push", "its own words stand above"),
    }
}

/// Pushes HEAD of the repository at `top` to main of `repository`, with git's own words on
/// standard error. Returns whether git was satisfied.
pub(crate) async fn push(control: &Control, top: &Path, repository: &str) -> Outcome<bool> {
    let url = format!("{}/{repository}.git", control.git);
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(top)
        // What to do then is told by us.
        .args(["-c", "advice.pushUpdateRejected=false"])
        .args(["push", &url, "HEAD:refs/heads/main"])
        .envs(git_credentials(control))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let failed = "git can't be run";
    let mend = "see that `git --version` works, then deploy again";
    // A group of its own, so that Ctrl-C reaches this program alone: git's last words after ours
    // would hide what goes on.
    let mut child = command.process_group(0).spawn().or_fail(Code::Failed, failed, mend)?;
    let mut group = KilledOnDrop(child.id());
    let status = child.wait().await.or_fail(Code::Failed, failed, mend)?;
    group.0 = None;
    Ok(status.success())
}

/// A process group that ends with whoever waits for it.
struct KilledOnDrop(Option<u32>);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        if let Some(Ok(group)) = self.0.map(i32::try_from) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}
