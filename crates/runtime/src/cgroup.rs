//! Memory limits by control groups, of version 1 or 2, whichever has the memory controller here.
//!
//! Each sandbox gets a group of its own, named for this process. When the process is killed, the
//! sandbox's shim removes the group ([`remove_joined`]); when that is killed too, the next sandbox
//! that anybody starts beside it does. Where no group can be made, the sandbox falls back to setrlimit(2).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const PREFIX: &str = "selvedge-";
/// Processes and threads in one sandbox.
const MAX_PROCESSES: u64 = 4096;

/// Where groups are made.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    version: Version,
    /// The group below which ours are made.
    parent: PathBuf,
    /// The same in the hierarchy that limits processes, where that is another one.
    processes: Option<PathBuf>,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group of one sandbox; removed when dropped, once it is empty.
#[derive(Debug)]
pub(crate) struct Group {
    version: Version,
    memory: PathBuf,
    processes: Option<PathBuf>,
}

impl Hierarchy {
    /// Finds a place where groups that limit memory can be made.
    pub(crate) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("{PREFIX}{}", process_name(std::process::id())?);
        let processes = place(&mounts, &membership, Version::One, "pids", &name);
        for version in [Version::One, Version::Two] {
            if let Some(parent) = place(&mounts, &membership, version, "memory", &name) {
                let processes = if version == Version::One { processes } else { None };
                return Some(Self { version, parent, processes, name });
            }
        }
        None
    }

    /// Makes a group with a memory limit, and sweeps those left by processes that are gone: a look
    /// at one directory, little beside what starting a sandbox takes.
    pub(crate) fn make(&self, memory_mib: u32) -> io::Result<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.sweep();
        let name = format!("{}-{}", self.name, NEXT.fetch_add(1, Ordering::Relaxed));
        let memory = self.parent.join(&name);
        fs::create_dir(&memory)?;
        let mut group = Group { version: self.version, memory, processes: None };
        let bytes = (u64::from(memory_mib) * 1024 * 1024).to_string();
        match self.version {
            Version::One => {
                group.set("memory.limit_in_bytes", &bytes)?;
                // Absent where the kernel doesn't count swap.
                let _ = group.set("memory.memsw.limit_in_bytes", &bytes);
                if let Some(processes) = &self.processes {
                    let processes = processes.join(&name);
                    fs::create_dir(&processes)?;
                    let limit = processes.join("pids.max");
                    group.processes = Some(processes);
                    fs::write(limit, MAX_PROCESSES.to_string())?;
                }
            }
            Version::Two => {
                group.set("memory.max", &bytes)?;
                let _ = group.set("memory.swap.max", "0");
                let _ = group.set("pids.max", &MAX_PROCESSES.to_string());
            }
        }
        Ok(group)
    }

    fn sweep(&self) {
        for parent in std::iter::once(&self.parent).chain(&self.processes) {
            let Ok(entries) = fs::read_dir(parent) else { continue };
            for entry in entries.flatten() {
                if is_left_over(&entry.file_name().to_string_lossy()) {
                    // Fails while something still runs in it; the next sweep finds it again.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl Group {
    /// The files by which a process joins.
    pub(crate) fn joins(&self) -> Vec<PathBuf> {
        std::iter::once(&self.memory)
            .chain(&self.processes)
            .map(|group| group.join("cgroup.procs"))
            .collect()
    }

    /// Whether the kernel killed something in it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let Ok(events) = fs::read_to_string(self.memory.join(file)) else { return false };
        events
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.memory.join(file), value)
    }

    fn remove(paths: &[PathBuf]) -> bool {
        paths.iter().all(|path| fs::remove_dir(path).is_ok() || !path.exists())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let paths: Vec<_> =
            std::iter::once(self.memory.clone()).chain(self.processes.take()).collect();
        if Self::remove(&paths) {
            return;
        }
        // Killed processes leave a group a moment after they have ended. Whatever still runs after
        // that is left to the next sweep.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if Self::remove(&paths) {
                        break;
                    }
                }
            });
        }
    }
}

/// For a shim whose runtime is gone: removes the groups that these files belong to, from which
/// everything has just been killed. Blocks for some seconds at most.
pub(crate) fn remove_joined(joins: &[PathBuf]) {
    let groups: Vec<_> =
        joins.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
    for _ in 0..100 {
        if Group::remove(&groups) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A group in which a child with the controller can be made: this process's own, the one above it,
/// or the top of what is mounted.
fn place(
    mounts: &str,
    membership: &str,
    version: Version,
    controller: &str,
    name: &str,
) -> Option<PathBuf> {
    let mount = mount_point(mounts, version, controller)?;
    let own = own_group(membership, version, controller).unwrap_or_default();
    let own = mount.join(own.trim_start_matches('/'));
    let mut candidates = vec![own.clone()];
    candidates.extend(own.parent().filter(|above| above.starts_with(&mount)).map(Path::to_owned));
    candidates.push(mount);
    candidates.into_iter().find(|candidate| accepts(candidate, version, controller, name))
}

/// Whether a child made here has the controller. Tried, because permissions, delegation and
/// version 2's rule on groups with processes decide together.
fn accepts(parent: &Path, version: Version, controller: &str, name: &str) -> bool {
    if version == Version::Two {
        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+pids");
    }
    let child = parent.join(format!("{name}-try-{controller}"));
    if fs::create_dir(&child).is_err() {
        return false;
    }
    let limit = match (version, controller) {
        (Version::One, "memory") => "memory.limit_in_bytes",
        (_, "memory") => "memory.max",
        _ => "pids.max",
    };
    let writable = fs::OpenOptions::new().write(true).open(child.join(limit)).is_ok();
    let removed = fs::remove_dir(&child).is_ok();
    writable && removed
}

/// Where the hierarchy is mounted (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str, version: Version, controller: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let (kind, _, options) = (filesystem.next()?, filesystem.next()?, filesystem.next()?);
        let fits = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|one| one == controller),
            Version::Two => kind == "cgroup2",
        };
        fits.then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// This process's group in it (cgroups(7), /proc/PID/cgroup).
fn own_group<'a>(membership: &'a str, version: Version, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match version {
            Version::One => controllers.split(',').any(|one| one == controller),
            Version::Two => id == "0" && controllers.is_empty(),
        };
        fits.then_some(path)
    })
}

/// Number and start time of a process: a number alone may be another's by now.
fn process_name(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the fields after it don't. The start time is
    // field 22, the state after the name field 3 (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(format!("{pid}-{}", fields.split(' ').nth(19)?))
}

fn is_left_over(group: &str) -> bool {
    let Some(owner) = group.strip_prefix(PREFIX) else { return false };
    let mut parts = owner.split('-');
    let (Some(pid), Some(start)) = (parts.next(), parts.next()) else { return false };
    let Ok(number) = pid.parse() else { return false };
    process_name(number).is_none_or(|name| name != format!("{pid}-{start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_memory_controller_of_both_versions() {
        let mounts = "25 22 0:22 / /sys rw shared:7 - sysfs sysfs rw\n\
                      33 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      34 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        let membership = "4:memory:/a/b\n0::/c\n";
        let found = |version| mount_point(mounts, version, "memory");
        assert_eq!(found(Version::One), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(found(Version::Two), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(own_group(membership, Version::One, "memory"), Some("/a/b"));
        assert_eq!(own_group(membership, Version::Two, "memory"), Some("/c"));
    }

    #[test]
    fn making_a_group_sweeps_what_killed_processes_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let parent = directory.path().to_owned();
        let name = format!("{PREFIX}{}", process_name(std::process::id()).expect("own"));
        let left = parent.join(format!("{PREFIX}{}-1-0", std::process::id()));
        let neighbour = parent.join(format!("{name}-neighbour"));
        for group in [&left, &neighbour] {
            fs::create_dir(group).expect("a group");
        }
        let hierarchy = Hierarchy { version: Version::Two, parent, processes: None, name };
        hierarchy.make(64).expect("a group");
        assert!(!left.exists() && neighbour.exists());
    }

    #[test]
    fn tells_its_own_groups_from_left_over_ones() {
        let own = format!("{PREFIX}{}-0", process_name(std::process::id()).expect("own"));
        assert!(!is_left_over(&own));
        assert!(is_left_over(&format!("{PREFIX}{}-1-0", std::process::id())));
        assert!(!is_left_over("system.slice"));
    }
}
