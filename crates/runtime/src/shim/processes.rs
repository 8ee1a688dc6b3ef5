//! Ending processes without a PID namespace, where the machine can't isolate.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// SIGKILL to all descendants, until there are none. Those whose parent dies come to this process
/// when it is a subreaper, so that each round finds the next.
pub(super) fn kill_descendants() {
    loop {
        for pid in descendants() {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        // Blocks until one of them has ended; the next round looks again.
        match nix::sys::wait::waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {
                while let Ok(status) = nix::sys::wait::waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    if status == WaitStatus::StillAlive {
                        break;
                    }
                }
            }
            Err(_) => return,
        }
    }
}

/// Sends a signal to all descendants once.
pub(super) fn signal_descendants(signal: Signal) {
    for pid in descendants() {
        let _ = nix::sys::signal::kill(pid, signal);
    }
}

/// Children, their children, and so on, as of now.
fn descendants() -> Vec<Pid> {
    let mut found = children(Pid::this());
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children(pid));
        next += 1;
    }
    found
}

fn children(of: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{of}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .map(Pid::from_raw)
                .collect::<Vec<_>>()
        })
        .collect()
}
