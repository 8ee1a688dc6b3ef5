//! Processes that the benchmark started, which end with it on every way out.
//!
//! Each is ended when its [`Running`] is dropped, by its own id and those of its descendants; by
//! this program's signal thread at an interrupt; and by the kernel should this program be killed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::processes::{self, Process};

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// What has been started and has not ended.
#[derive(Clone, Default)]
pub(super) struct Children(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    running: BTreeSet<i32>,
    interrupted: bool,
}

impl Children {
    /// Also watches for an interrupt from now on.
    pub(super) fn new() -> anyhow::Result<Self> {
        let children = Self::default();
        let watched = children.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            });
            watched.interrupt();
        })?;
        Ok(children)
    }

    /// What was asked of the children fails now, and so the benchmark unwinds.
    fn interrupt(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.interrupted = true;
        for pid in &state.running {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
        }
    }

    /// Fails after an interrupt.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!state.interrupted, "interrupted");
        Ok(())
    }

    /// Starts the command on one core. Call it from the main thread: the kernel ends the process
    /// with the thread that started it.
    pub(super) fn spawn(
        &self,
        core: usize,
        command: &Command,
        output: Output,
    ) -> anyhow::Result<Running> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!state.interrupted, "interrupted");
        let program = command.get_program().to_string_lossy().into_owned();
        // Both replace themselves by what follows, so that the id stays.
        let mut pinned = Command::new("setpriv");
        pinned.args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &core.to_string()]);
        pinned.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                pinned.env(name, value);
            }
        }
        if let Some(directory) = command.get_current_dir() {
            pinned.current_dir(directory);
        }
        pinned.stdin(Stdio::null());
        match output {
            Output::Read => pinned.stdout(Stdio::piped()).stderr(Stdio::piped()),
            Output::Into(file) => pinned.stdout(file.try_clone()?).stderr(file),
        };
        let child = pinned.spawn().with_context(|| format!("can't start {program}"))?;
        let pid = i32::try_from(child.id())?;
        state.running.insert(pid);
        Ok(Running { child, pid, children: self.clone() })
    }
}

/// Where a process writes.
pub(super) enum Output {
    /// For [`Running::finish`].
    Read,
    Into(File),
}

/// A process, which ends when this is dropped.
pub(super) struct Running {
    child: Child,
    pid: i32,
    children: Children,
}

impl Running {
    /// The process and all that it started.
    pub(super) fn tree(&self) -> anyhow::Result<Vec<Process>> {
        processes::tree(self.pid)
    }

    /// Waits until it ends by itself; what it printed. Its complaints must fit into a pipe.
    pub(super) fn finish(mut self) -> anyhow::Result<String> {
        let (mut printed, mut complaints) = (String::new(), String::new());
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        stdout.context("its output is not read")?.read_to_string(&mut printed)?;
        stderr.context("its output is not read")?.read_to_string(&mut complaints)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {}", complaints.trim());
        Ok(printed)
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            let tree = self.tree().unwrap_or_default();
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
            let deadline = Instant::now() + PATIENCE;
            while !self.has_ended() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            for process in tree.iter().filter(|process| process.is_alive()) {
                let _ = kill(Pid::from_raw(process.id()), Signal::SIGKILL);
            }
            let _ = self.child.wait();
            // Whoever was killed beside it ends a moment later.
            let deadline = Instant::now() + PATIENCE;
            while tree.iter().any(Process::is_alive) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
        }
        let mut state = self.children.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_what_it_started_end_with_their_guard() {
        let children = Children::default();
        let mut shell = Command::new("sh");
        // The shell ignores the polite signal, and so does its child.
        shell.args(["-c", "trap '' TERM; sleep 600 & echo started; wait; wait"]);
        let mut running = children.spawn(0, &shell, Output::Read).unwrap();
        running.child.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
        let tree = running.tree().unwrap();
        assert_eq!(tree.len(), 2);
        drop(running);
        assert!(tree.iter().all(|process| !process.is_alive()));
    }

    #[test]
    fn nothing_starts_after_an_interrupt() {
        let children = Children::default();
        let sleep = children.spawn(0, Command::new("sleep").arg("600"), Output::Read).unwrap();
        children.interrupt();
        assert!(sleep.finish().is_err());
        assert!(children.check().is_err());
        assert!(children.spawn(0, &Command::new("true"), Output::Read).is_err());
    }
}
