//! Programs that run once: builds and tests.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::RuntimeError;
use crate::guard::{Guard, Phase};
use crate::limits::{Excess, Limits};
use crate::link::End;
use crate::output::{Lines, Repeats, Tail};
use crate::prepare::{Machine, Program, Running};
use crate::protocol::Exit;

/// After this much output only the last lines are passed on, at the end.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
const LAST_LINES: usize = 100;
/// Everything that could write has ended by then; what is left waits for a slow reader.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A command to run once.
#[derive(Clone)]
pub struct TaskSpec {
    /// For people: `build of shop`.
    pub name: String,
    /// What tenant it belongs to; decides the user id.
    pub tenant: String,
    /// The checkout, writable at `/app`. Its files are given to the task's user.
    pub app: PathBuf,
    /// The app's dependency cache, writable, at `/cache` (npm, pip and XDG caches point there, and
    /// `$HOME` is in it).
    pub cache: PathBuf,
    /// Run by `/bin/sh -c` in `/app`.
    pub command: String,
    /// Variables over the scrubbed environment.
    pub environment: BTreeMap<String, String>,
    /// Ended with SIGKILL after this.
    pub timeout: Duration,
    /// What it may use.
    pub limits: Limits,
    /// Whether package registries and the rest of the network may be reached; the host's own
    /// addresses never are.
    pub network: bool,
}

impl fmt::Debug for TaskSpec {
    /// Without the environment, which may hold secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TaskSpec")
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .field("app", &self.app)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Exit code 0.
    Succeeded,
    /// Another exit code.
    Failed(i32),
    /// A signal, named (`SIGKILL`).
    Killed(String),
    /// It was ended for exceeding one of its limits, or did not succeed because of it.
    Exceeded(Excess),
    /// The time limit.
    TimedOut,
}

pub(crate) async fn run(
    machine: &Arc<Machine>,
    spec: TaskSpec,
    output: mpsc::Sender<String>,
) -> Result<TaskOutcome, RuntimeError> {
    let mut time_is_up = std::pin::pin!(tokio::time::sleep(spec.timeout));
    let program = Program {
        tenant: &spec.tenant,
        app: &spec.app,
        cache: Some(&spec.cache),
        command: &spec.command,
        environment: &spec.environment,
        limits: spec.limits,
        network: spec.network,
    };
    let (mut running, lines) = machine.start_task(program).await?;
    tracing::debug!(task = spec.name, shim = running.shim.pid(), "started a task");
    let Running { shim, guard, .. } = &mut running;
    let mut pump = std::pin::pin!(pump(lines, output));
    let mut pumped = false;
    let stopped = {
        let mut excess = std::pin::pin!(guard.excess(Phase::Start));
        loop {
            tokio::select! {
                end = shim.end() => break Err(end),
                () = &mut pump, if !pumped => pumped = true,
                excess = &mut excess => break Ok(TaskOutcome::Exceeded(excess)),
                () = &mut time_is_up => break Ok(TaskOutcome::TimedOut),
            }
        }
    };
    if stopped.is_ok() {
        shim.link().kill().await;
        let _ = tokio::time::timeout(KILL_TIMEOUT, shim.end()).await;
    }
    if !pumped {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, pump).await;
    }
    let outcome = match stopped {
        Ok(outcome) => outcome,
        Err(end) => outcome(&end, guard, &spec.limits).await?,
    };
    running.close().await;
    Ok(outcome)
}

/// What became of a task that ended by itself.
async fn outcome(
    end: &End,
    guard: &mut Guard,
    limits: &Limits,
) -> Result<TaskOutcome, RuntimeError> {
    let outcome = match end {
        End::Exited { exit: Exit::Code(0), .. } => TaskOutcome::Succeeded,
        End::Exited { exit: Exit::Code(code), .. } => TaskOutcome::Failed(*code),
        End::Exited { exit: Exit::Signal(signal), .. } => TaskOutcome::Killed(signal_name(*signal)),
        End::ShimLost => return Ok(TaskOutcome::Killed("SIGKILL: its sandbox was killed".into())),
        End::Failed(reason) => return Err(RuntimeError::Setup(reason.clone())),
    };
    let succeeded = outcome == TaskOutcome::Succeeded;
    if let Some(excess) = guard.last_look(Phase::Start, succeeded).await {
        return Ok(TaskOutcome::Exceeded(excess));
    }
    let full = matches!(end, End::Exited { full: true, .. });
    if full && !succeeded {
        return Ok(TaskOutcome::Exceeded(Excess::TaskTemporary(temporary_mib(limits))));
    }
    Ok(outcome)
}

/// How much a task may write to `/tmp`, which is in memory and counts there too.
pub(crate) fn temporary_mib(limits: &Limits) -> u32 {
    (limits.memory_mib / 2).max(64)
}

pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned())
}

/// Passes lines on, the first ones as they come and of a flood the last ones at the end. It reads
/// on when nobody listens any more, so that the program doesn't block.
async fn pump(mut lines: Lines, output: mpsc::Sender<String>) {
    let mut room = MAX_OUTPUT_BYTES;
    let mut tail = Tail::new(LAST_LINES);
    let mut repeats = Repeats::default();
    while let Some(line) = lines.next().await {
        let Some((note, line)) = repeats.add(line) else { continue };
        if let Some(note) = note {
            let _ = output.send(note).await;
        }
        if room > line.len() {
            room -= line.len() + 1;
            let _ = output.send(line).await;
        } else {
            if room > 0 {
                room = 0;
                let limit = MAX_OUTPUT_BYTES / (1024 * 1024);
                let note = format!("[more than {limit} MiB of output: only its end follows]");
                let _ = output.send(note).await;
            }
            tail.push(line);
        }
    }
    if let Some(note) = repeats.note() {
        let _ = output.send(note).await;
    }
    if tail.dropped() > 0 {
        let _ = output.send(format!("[{} lines left out]", tail.dropped())).await;
    }
    for line in tail.lines() {
        let _ = output.send(line).await;
    }
}
