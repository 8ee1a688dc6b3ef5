//! What must not be there when a box's data is removed: processes that use it, and other file
//! systems mounted in it. Nothing is ended or unmounted here. The directory is given without links,
//! as the kernel knows it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::{Code, Failure, OrFail as _, Outcome};

/// How long processes whose supervisor was just killed have to end by themselves.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Refuses to go on where something is mounted below `data`: what is removed could be another's.
pub(super) fn refuse_mounts(data: &Path) -> Outcome {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").or_fail(
        Code::Failed,
        "can't tell what is mounted in the box's data",
        "see that /proc is there",
    )?;
    match mount_points(&mounts).find(|mount| mount.starts_with(data) && mount != data) {
        None => Ok(()),
        Some(mount) => Err(Failure::new(
            Code::Failed,
            format!("something is mounted at {}, inside the box's data", mount.display()),
            format!("unmount it first: umount {}", mount.display()),
        )),
    }
}

/// Waits until no process uses the box any more: its own end when their supervisor does, if only a
/// moment later. Refuses to go on when one stays.
pub(super) fn wait_for_processes(data: &Path) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match users(data).first() {
            None => return Ok(()),
            Some(user) if !user.own || Instant::now() > deadline => {
                return Err(Failure::new(
                    Code::Taken,
                    format!("process {} ({}) works in {}", user.pid, user.name, data.display()),
                    "end it, or leave the directory there, and repeat the command",
                ));
            }
            Some(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A process that uses a box's directory.
struct User {
    pid: u32,
    name: String,
    /// Whether it is of the box: control, an agent, or the shim of a sandbox.
    own: bool,
}

fn users(data: &Path) -> Vec<User> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            if pid == std::process::id() {
                return None;
            }
            user(pid, &entry.path(), data)
        })
        .collect()
}

fn user(pid: u32, process: &Path, data: &Path) -> Option<User> {
    let name = std::fs::read_to_string(process.join("comm")).ok()?.trim().to_owned();
    let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let arguments: Vec<&str> = command
        .split(|byte| *byte == 0)
        .filter_map(|argument| std::str::from_utf8(argument).ok())
        .collect();
    // As it was typed when the box was started: through a link, or from where the process is.
    let inside = |path: &str| {
        let path = process.join("cwd").join(path);
        path.canonicalize().unwrap_or(path).starts_with(data)
    };
    let own = match arguments.get(1) {
        Some(&"control" | &"agent") => {
            arguments.iter().filter_map(|argument| argument.strip_prefix("--data=")).any(inside)
        }
        Some(verb) if *verb == selvedge_runtime::SHIM_VERB => {
            arguments.get(2).is_some_and(|mount_point| inside(mount_point))
        }
        _ => false,
    };
    let works_there = || {
        ["cwd", "root"].into_iter().any(|link| {
            std::fs::read_link(process.join(link)).is_ok_and(|path| path.starts_with(data))
        })
    };
    (own || works_there()).then_some(User { pid, name, own })
}

/// Where something is mounted (proc_pid_mountinfo(5)).
fn mount_points(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| {
        // Blanks and backslashes are written in octal.
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        PathBuf::from(point)
    })
}
