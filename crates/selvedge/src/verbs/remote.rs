//! `selvedge remote`: plain git for an app's repository, with no token typed or kept in a file.
//!
//! The repository gets the remote `selvedge`, and git is told to ask this program for the token
//! (gitcredentials(7)): the hidden verb `credential` answers.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;

use crate::cli::Connection;
use crate::context::{
    self, Control, REMOTE, find_control, git_missing, repository_name, repository_top,
};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::Terminal;

/// The most that git says when it asks.
const MAX_LINES: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The repository's name at control [default: the git remote's, else the app's name].
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<selvedge_model::RepositoryName>,
}

/// What git asks of a credential helper.
#[derive(Debug, Args)]
pub(crate) struct Credential {
    /// `get`; `store` and `erase` do nothing.
    pub(crate) operation: String,
}

/// What the verb prints for programs.
#[derive(Serialize)]
struct Report<'r> {
    remote: &'r str,
    url: &'r str,
}

/// Runs the verb.
pub(crate) fn run(options: Remote, connection: &Connection, terminal: Terminal) -> Outcome {
    let top = repository_top(&context::here()?)?;
    let repository = repository_name(options.repository, &top)?;
    let control = find_control(connection)?;
    let url = format!("{}/{repository}.git", control.git);
    let known = context::git(&top, &["remote"]).unwrap_or_default();
    if known.lines().any(|name| name == REMOTE) {
        set(&top, &["remote", "set-url", REMOTE, &url])?;
    } else {
        set(&top, &["remote", "add", REMOTE, &url])?;
    }
    let base = base(&control);
    let program = crate::serve::executable()?;
    // A shell reads it, so what stands in the path is quoted.
    let helper = format!("!'{}' credential", program.to_string_lossy().replace('\'', r"'\''"));
    set(&top, &["config", &format!("credential.{base}.helper"), &helper])?;
    if let Some(ca) = control.ca.as_ref().filter(|_| base.starts_with("https:")) {
        set(&top, &["config", &format!("http.{base}.sslCAInfo"), &ca.to_string_lossy()])?;
    }
    terminal.object(&Report { remote: REMOTE, url: &url })?;
    terminal.line(format!("git remote {REMOTE} is {url}"));
    terminal.line(format!(
        "`git push {REMOTE} HEAD:main` deploys; `git pull {REMOTE} main` brings a rollback here."
    ));
    Ok(())
}

fn set(top: &Path, arguments: &[&str]) -> Outcome {
    let output = Command::new("git")
        .arg("-C")
        .arg(top)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|_| git_missing())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(
        Code::Usage,
        format!("git can't set the remote: {words}"),
        "see that you may write to the repository's .git/config",
    ))
}

/// Where control is, as git names it: `http://HOST:PORT`.
fn base(control: &Control) -> &str {
    control.git.split_once("/git").map_or(control.git.as_str(), |(base, _)| base)
}

/// Answers git, if it asks for this control's token.
pub(crate) fn credential(options: &Credential, connection: &Connection) -> Outcome {
    if options.operation != "get" {
        return Ok(());
    }
    let (mut protocol, mut host) = (String::new(), String::new());
    for line in std::io::stdin().lock().lines().take(MAX_LINES).map_while(Result::ok) {
        match line.split_once('=') {
            Some(("protocol", value)) => value.clone_into(&mut protocol),
            Some(("host", value)) => value.clone_into(&mut host),
            _ => {}
        }
    }
    let control = find_control(connection)?;
    // The token is for control and for nobody else.
    if base(&control) != format!("{protocol}://{host}") {
        return Ok(());
    }
    writeln!(std::io::stdout().lock(), "username=selvedge\npassword={}", control.token.0).or_fail(
        Code::Failed,
        "git does not listen",
        "run git again",
    )
}
