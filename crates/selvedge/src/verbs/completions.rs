//! `selvedge completions SHELL`: the script by which a shell asks this program what could come next.
//!
//! The answers are made anew at each press of the key, from the command line's definition and, for
//! apps and sites, from a box that runs. Asking is quick or gives nothing: a shell is waiting.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::CompletionCandidate;
use clap_complete::env::Shells;
use selvedge_api::{Client, ClientConfig};
use selvedge_model::geo::CITIES;

use crate::boxes;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::Terminal;

/// How long a shell waits for names of apps.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: Shell,
}

/// Shells that can be completed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

/// Runs the verb.
pub(crate) fn run(options: &Completions, terminal: Terminal) -> Outcome {
    let name = options.shell.name();
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| {
        Failure::new(Code::Failed, format!("{name} can't be completed in"), "use another shell")
    })?;
    let mut script = Vec::new();
    let program = env!("CARGO_PKG_NAME");
    shell.write_registration("COMPLETE", program, program, program, &mut script).or_fail(
        Code::Failed,
        "the script can't be made",
        "report this",
    )?;
    let script = String::from_utf8_lossy(&script);
    terminal.object(&serde_json::json!({ "shell": name, "script": script }))?;
    terminal.line(script.trim_end());
    Ok(())
}

/// Names of apps that begin with what stands there.
pub(crate) fn apps(begun: &OsStr) -> Vec<CompletionCandidate> {
    matching(begun, || {
        let Ok(Some(dev)) = boxes::choose(None) else { return Vec::new() };
        let client = Client::new(&ClientConfig {
            url: dev.control.clone(),
            token: dev.token.clone(),
            ca: Some(dev.ca.clone()),
        });
        let Ok(client) = client else { return Vec::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return Vec::new() };
        let answer =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, client.apps()).await });
        let Ok(Ok(apps)) = answer else { return Vec::new() };
        apps.into_iter().map(|summary| (summary.app.to_string(), None)).collect()
    })
}

/// Ids of the sites of a box that runs.
pub(crate) fn sites(begun: &OsStr) -> Vec<CompletionCandidate> {
    matching(begun, || {
        let Ok(Some(dev)) = boxes::choose(None) else { return Vec::new() };
        dev.sites.into_iter().map(|site| (site.id.to_string(), Some(site.city))).collect()
    })
}

/// Cities that clients can be in.
pub(crate) fn cities(begun: &OsStr) -> Vec<CompletionCandidate> {
    matching(begun, || CITIES.iter().map(|city| (city.name.to_owned(), None)).collect())
}

fn matching(
    begun: &OsStr,
    all: impl FnOnce() -> Vec<(String, Option<String>)>,
) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    all()
        .into_iter()
        .filter(|(name, _)| {
            name.get(..begun.len()).is_some_and(|start| start.eq_ignore_ascii_case(begun))
        })
        .map(|(name, help)| CompletionCandidate::new(name).help(help.map(Into::into)))
        .collect()
}
