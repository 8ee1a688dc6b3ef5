//! Limits on memory, processor time and processes by control groups, of version 1 or 2, whichever
//! has the controller here.
//!
//! Each sandbox gets groups of its own, named for this process. When the process is killed, the
//! sandbox's shim removes them ([`remove_joined`]); when that is killed too, the next sandbox
//! that anybody starts beside it does. For a controller that can't be had, others fall back to
//! setrlimit(2) where there is one that fits.

mod place;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use place::Controller;
use place::{Kernel, Place, Tree, Version};

const PREFIX: &str = "selvedge-";

/// The period over which processor time is measured out, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Where groups are made, for each controller that can be had.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchies {
    memory: Option<Place>,
    cpu: Option<Place>,
    processes: Option<Place>,
    /// What names of this process's groups begin with.
    name: String,
}

/// What a group limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_mib: u32,
    pub(crate) processes: u32,
    /// Thousandths of a processor; `None` for as many as there are.
    pub(crate) cpu_millis: Option<u32>,
    /// The share when processors are wanted by others too: 100 is an ordinary one's.
    pub(crate) cpu_weight: u32,
}

/// The groups of one sandbox; removed when dropped, once they are empty.
#[derive(Debug)]
pub(crate) struct Group {
    counters: Counters,
    /// Without repetition.
    directories: Vec<PathBuf>,
}

/// Reads what the kernel counts in a sandbox's groups. It may outlive them, and then reads nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    memory: Option<(Version, PathBuf)>,
    processes: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds where groups can be made on this machine; `None` where none can.
    pub(crate) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("{PREFIX}{}", process_name(std::process::id())?);
        Self::find_in(&mounts, &membership, &Kernel, name)
    }

    fn find_in(mounts: &str, membership: &str, tree: &dyn Tree, name: String) -> Option<Self> {
        let trial = format!("{name}-{}", next());
        let mut found = Self { memory: None, cpu: None, processes: None, name };
        let (mut of_two, mut mounted_two) = (Vec::new(), None);
        for controller in Controller::ALL {
            let Some(mounted) = place::locate(mounts, membership, controller, tree) else {
                continue;
            };
            if mounted.version == Version::Two {
                of_two.push(controller);
                mounted_two = Some(mounted);
            } else if let Some(parent) = place::parent_one(tree, &mounted, controller, &trial) {
                *found.slot(controller) = Some(Place { version: Version::One, parent });
            }
        }
        let two = mounted_two.and_then(|it| place::parent_two(tree, &it, &of_two, &trial));
        if let Some((parent, has)) = two {
            for controller in has {
                let parent = parent.clone();
                *found.slot(controller) = Some(Place { version: Version::Two, parent });
            }
        }
        (found.missing().len() < Controller::ALL.len()).then_some(found)
    }

    /// The controllers that can't be had.
    pub(crate) fn missing(&self) -> Vec<Controller> {
        Controller::ALL.into_iter().filter(|one| self.place(*one).is_none()).collect()
    }

    /// Whether a controller can be had.
    pub(crate) fn has(&self, controller: Controller) -> bool {
        self.place(controller).is_some()
    }

    /// In words, which version each controller has: `memory v1, cpu v2, pids v2`.
    pub(crate) fn versions(&self) -> String {
        let version = |one: Controller| match self.place(one).map(|place| place.version) {
            Some(Version::One) => format!("{} v1", one.name()),
            Some(Version::Two) => format!("{} v2", one.name()),
            None => format!("no {}", one.name()),
        };
        Controller::ALL.map(version).join(", ")
    }

    /// Makes the groups of a sandbox, and sweeps those left by processes that are gone: a look
    /// at a few directories, little beside what starting a sandbox takes.
    pub(crate) fn make(&self, limits: &Limits) -> io::Result<Group> {
        self.sweep();
        self.make_in(&Kernel, limits)
    }

    fn make_in(&self, tree: &dyn Tree, limits: &Limits) -> io::Result<Group> {
        let name = format!("{}-{}", self.name, next());
        let mut group = Group { counters: Counters::default(), directories: Vec::new() };
        for controller in Controller::ALL {
            let Some(place) = self.place(controller) else { continue };
            let directory = place.parent.join(&name);
            if !group.directories.contains(&directory) {
                tree.make(&directory)?;
                group.directories.push(directory.clone());
            }
            for setting in limits.settings(controller, place.version) {
                let written = tree.write(&directory.join(setting.file), &setting.value);
                if setting.required {
                    written?;
                }
            }
            match controller {
                Controller::Memory => group.counters.memory = Some((place.version, directory)),
                Controller::Processes => group.counters.processes = Some(directory),
                Controller::Cpu => {}
            }
        }
        Ok(group)
    }

    fn place(&self, controller: Controller) -> Option<&Place> {
        match controller {
            Controller::Memory => self.memory.as_ref(),
            Controller::Cpu => self.cpu.as_ref(),
            Controller::Processes => self.processes.as_ref(),
        }
    }

    fn slot(&mut self, controller: Controller) -> &mut Option<Place> {
        match controller {
            Controller::Memory => &mut self.memory,
            Controller::Cpu => &mut self.cpu,
            Controller::Processes => &mut self.processes,
        }
    }

    fn sweep(&self) {
        let mut swept: Vec<&Path> = Vec::new();
        for place in Controller::ALL.into_iter().filter_map(|one| self.place(one)) {
            if swept.contains(&place.parent.as_path()) {
                continue;
            }
            swept.push(&place.parent);
            let Ok(entries) = fs::read_dir(&place.parent) else { continue };
            for entry in entries.flatten() {
                if is_left_over(&entry.file_name().to_string_lossy()) {
                    // Fails while something still runs in it; the next sweep finds it again.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// A file of a group and what is written there.
struct Setting {
    file: &'static str,
    value: String,
    /// Whether the limit is none without it.
    required: bool,
}

impl Limits {
    fn settings(&self, controller: Controller, version: Version) -> Vec<Setting> {
        let required = |file, value: String| Setting { file, value, required: true };
        // Absent where the kernel was built without it.
        let wished = |file, value: String| Setting { file, value, required: false };
        let memory = (u64::from(self.memory_mib) * 1024 * 1024).to_string();
        let quota = self.cpu_millis.map(|millis| u64::from(millis) * PERIOD_US / 1000);
        match (controller, version) {
            (Controller::Memory, Version::One) => vec![
                required("memory.limit_in_bytes", memory.clone()),
                // Memory and swap together.
                wished("memory.memsw.limit_in_bytes", memory),
            ],
            (Controller::Memory, Version::Two) => {
                vec![required("memory.max", memory), wished("memory.swap.max", "0".into())]
            }
            (Controller::Cpu, Version::One) => {
                let quota = quota.map_or("-1".into(), |quota| quota.to_string());
                vec![
                    wished("cpu.cfs_period_us", PERIOD_US.to_string()),
                    required("cpu.cfs_quota_us", quota),
                    // Of 1024, where version 2 has 100.
                    wished("cpu.shares", (u64::from(self.cpu_weight) * 1024 / 100).to_string()),
                ]
            }
            (Controller::Cpu, Version::Two) => {
                let quota = quota.map_or("max".into(), |quota| quota.to_string());
                vec![
                    required("cpu.max", format!("{quota} {PERIOD_US}")),
                    wished("cpu.weight", self.cpu_weight.to_string()),
                ]
            }
            (Controller::Processes, _) => vec![required("pids.max", self.processes.to_string())],
        }
    }
}

impl Group {
    /// The files by which a process joins.
    pub(crate) fn joins(&self) -> Vec<PathBuf> {
        self.directories.iter().map(|group| group.join("cgroup.procs")).collect()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    fn remove(directories: &[PathBuf]) -> bool {
        // All of them are tried, whatever becomes of the first.
        let left = |path: &&PathBuf| fs::remove_dir(path).is_err() && path.exists();
        directories.iter().filter(left).count() == 0
    }
}

impl Counters {
    /// Of a group of version 2 that only limits memory.
    #[cfg(test)]
    pub(crate) fn of_memory(group: &Path) -> Self {
        Self { memory: Some((Version::Two, group.to_owned())), processes: None }
    }

    /// How often the kernel killed something for want of memory.
    pub(crate) fn memory_kills(&self) -> u64 {
        let Some((version, group)) = &self.memory else { return 0 };
        let file = match version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        count(&group.join(file), "oom_kill")
    }

    /// How often a process or thread could not be started because of the limit.
    pub(crate) fn refused_processes(&self) -> u64 {
        self.processes.as_ref().map_or(0, |group| count(&group.join("pids.events"), "max"))
    }

    /// The processes in the sandbox, by their numbers outside it; none where they can't be told.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let group = self.processes.as_ref().or(self.memory.as_ref().map(|(_, group)| group));
        group
            .and_then(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
            .map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect())
            .unwrap_or_default()
    }
}

/// A counter of a file with lines `NAME COUNT`.
fn count(file: &Path, name: &str) -> u64 {
    let Ok(text) = fs::read_to_string(file) else { return 0 };
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .next()
        .unwrap_or(0)
}

impl Drop for Group {
    fn drop(&mut self) {
        let directories = std::mem::take(&mut self.directories);
        if Self::remove(&directories) {
            return;
        }
        // Killed processes leave a group a moment after they have ended. Whatever still runs after
        // that is left to the next sweep.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if Self::remove(&directories) {
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

/// Tells this process's groups apart.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
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
