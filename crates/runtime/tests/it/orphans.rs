//! Whatever is killed, nothing that it ran goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use selvedge_runtime::WorkloadState;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::{HELPER, World, processes_with, unique, until, wait_for};

/// A program of two processes that both carry a text in their command lines, one of them in a
/// session of its own.
fn program(marker: &str) -> String {
    format!(
        "bash -c 'exec -a {marker} setsid sleep 1000' & \
         bash -c 'exec -a {marker} python3 -m http.server $PORT'"
    )
}

/// The shim above a process: the first of its ancestors outside its PID namespace.
fn shim_of(pid: u32) -> Pid {
    let mut current = pid;
    loop {
        let status = fs::read_to_string(format!("/proc/{current}/status")).expect("status");
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").to_owned()
        };
        // More than one number: it is in a PID namespace below this one.
        if field("NSpid:").split_whitespace().count() == 1 {
            return Pid::from_raw(i32::try_from(current).expect("a number"));
        }
        current = field("PPid:").trim().parse().expect("a number");
    }
}

fn start_keeper(world: &World, marker: &str) -> Child {
    let directory = world.path("kept");
    fs::create_dir_all(directory.join("app")).expect("a directory");
    Command::new(HELPER)
        .args(["keep".as_ref(), directory.as_os_str(), program(marker).as_ref()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the helper")
}

/// A process of its own that keeps a workload, once that is ready.
async fn keeper(world: &World, marker: &str) -> Child {
    let mut child = start_keeper(world, marker);
    let output = child.stdout.take().expect("a pipe");
    let line = BufReader::new(output).lines().next_line().await.expect("a line");
    assert_eq!(line.as_deref(), Some("ready"));
    child
}

/// The workload's processes; the keeper itself has the text in its command line too.
fn inside(marker: &str, keeper: &Child) -> Vec<u32> {
    processes_with(marker).into_iter().filter(|pid| Some(*pid) != keeper.id()).collect()
}

/// The control groups that a process has made, in whatever hierarchy.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    fn look(directory: &Path, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten().filter(|it| it.file_type().is_ok_and(|it| it.is_dir())) {
            if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(entry.path());
            } else if depth > 0 {
                look(&entry.path(), name, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), &format!("selvedge-{pid}-"), 8, &mut found);
    found
}

#[tokio::test]
async fn none_is_left_when_the_parent_is_killed() {
    let world = World::new();
    let marker = unique("orphan");
    let mut child = keeper(&world, &marker).await;
    let processes = inside(&marker, &child);
    assert!(processes.len() >= 2, "{processes:?}");
    let shim = shim_of(processes[0]);
    // A terminal's Ctrl-C doesn't reach it.
    assert_eq!(nix::unistd::getpgid(Some(shim)).expect("there"), shim);
    let keeper = child.id().expect("a process");
    assert!(!groups_of(keeper).is_empty() || !world.runtime.degraded().is_empty());
    child.kill().await.expect("SIGKILL");
    until("all have ended", || processes_with(&marker).is_empty()).await;
    until("its groups are gone", || groups_of(keeper).is_empty()).await;
    until("the shim has ended", || kill(shim, None).is_err()).await;
}

#[tokio::test]
async fn none_is_left_when_parent_and_shim_are_killed_together() {
    let world = World::new();
    let marker = unique("orphan");
    let mut child = keeper(&world, &marker).await;
    let shim = shim_of(inside(&marker, &child)[0]);
    kill(shim, Signal::SIGKILL).expect("SIGKILL");
    child.kill().await.expect("SIGKILL");
    until("all have ended", || processes_with(&marker).is_empty()).await;
}

#[tokio::test]
async fn none_is_left_whenever_the_parent_is_killed() {
    let world = World::new();
    let marker = unique("orphan");
    for moment in 0..15 {
        let mut child = start_keeper(&world, &marker);
        // Not to wait for anything, but to kill it in another step of its start each time.
        tokio::time::sleep(Duration::from_millis(moment * 4)).await;
        child.kill().await.expect("SIGKILL");
    }
    until("all have ended", || processes_with(&marker).is_empty()).await;
}

#[tokio::test]
async fn a_workload_whose_shim_is_killed_is_started_again() {
    let world = World::new();
    let marker = unique("orphan");
    let app = world.app("app", &[]);
    let workload = world.runtime.start(world.workload(&app, &program(&marker)));
    wait_for(&workload, |state| *state == WorkloadState::Ready).await;
    let before = processes_with(&marker);
    kill(shim_of(before[0]), Signal::SIGKILL).expect("SIGKILL");
    let state = wait_for(&workload, |state| *state != WorkloadState::Ready).await;
    match state {
        WorkloadState::BackingOff { reason, .. } => {
            assert_eq!(reason, "was killed with its sandbox");
        }
        other => panic!("{other:?}"),
    }
    until("the old ones have ended", || {
        processes_with(&marker).iter().all(|pid| !before.contains(pid))
    })
    .await;
    wait_for(&workload, |state| *state == WorkloadState::Ready).await;
    drop(workload);
    until("all have ended", || processes_with(&marker).is_empty()).await;
}
