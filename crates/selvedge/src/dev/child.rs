//! One child of the supervisor: started, watched, and started again when it dies.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a child has to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// A log that is larger than this when a child starts is set aside first.
const MAX_LOG: u64 = 16 << 20;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// `control`, or the site's id.
    pub(crate) name: String,
    /// The executable: this one.
    pub(crate) executable: PathBuf,
    /// Its arguments. Never secrets: anybody on the machine can read them.
    pub(crate) arguments: Vec<String>,
    /// Where its standard error goes.
    pub(crate) log: PathBuf,
    /// How long after its death it is started again; `None`: never.
    pub(crate) restart_after: Option<Duration>,
}

/// How a child is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// Started, not ready.
    Starting,
    /// It printed this object to say that it is ready.
    Ready {
        /// Its process id.
        pid: u32,
        /// What it printed.
        info: serde_json::Value,
    },
    /// It ended.
    Dead {
        /// How, in words.
        reason: String,
    },
}

/// Runs a child until `token` is cancelled, restarting it as the spec says.
pub(crate) async fn supervise(spec: Spec, state: watch::Sender<State>, token: CancellationToken) {
    loop {
        let reason = match start(&spec) {
            Ok(child) => attend(child, &state, &token).await,
            Err(error) => format!("it could not be started: {error}"),
        };
        state.send_replace(State::Dead { reason: reason.clone() });
        if token.is_cancelled() {
            return;
        }
        tracing::warn!(child = spec.name, %reason, "a child ended");
        let Some(pause) = spec.restart_after else {
            token.cancelled().await;
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = token.cancelled() => return,
        }
        state.send_replace(State::Starting);
    }
}

fn start(spec: &Spec) -> std::io::Result<Child> {
    if std::fs::metadata(&spec.log).is_ok_and(|log| log.len() > MAX_LOG) {
        std::fs::rename(&spec.log, spec.log.with_extension("log.1"))?;
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&spec.log)?;
    let mut command = Command::new(&spec.executable);
    command
        .args(&spec.arguments)
        .args(["--json", "--with-parent", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // A group of its own, so that Ctrl-C reaches the supervisor alone, which ends the children
        // in order.
        .process_group(0)
        .kill_on_drop(true);
    command.spawn()
}

/// Waits for a child's word and for its end; on cancellation ends it. Returns how it ended.
async fn attend(
    mut child: Child,
    state: &watch::Sender<State>,
    token: &CancellationToken,
) -> String {
    let pid = child.id().unwrap_or_default();
    let mut lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    loop {
        let line = async {
            match &mut lines {
                Some(lines) => lines.next_line().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = line => match line {
                Ok(Some(line)) => {
                    if let Ok(info) = serde_json::from_str(&line) {
                        state.send_replace(State::Ready { pid, info });
                    }
                }
                _ => lines = None,
            },
            status = child.wait() => return status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            () = token.cancelled() => return stop(child, pid).await,
        }
    }
}

async fn stop(mut child: Child, pid: u32) -> String {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(_) => "stopped".into(),
        Err(_) => {
            let _ = child.kill().await;
            "killed after it did not stop".into()
        }
    }
}
