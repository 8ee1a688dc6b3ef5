//! What Linux's `/proc` tells of processes: descent, CPU time, memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// The unit of CPU times in `/proc`: the kernel's USER_HZ, which is 100 on every architecture that
/// we build for, whatever its own clock's rate.
const TICK: Duration = Duration::from_millis(10);

/// A process, told apart from a later one with its id.
pub(super) struct Process {
    id: i32,
    started: u64,
}

/// What is used of `/proc/PID/stat`.
struct Stat {
    parent: i32,
    ticks: u64,
    started: u64,
    zombie: bool,
}

impl Process {
    pub(super) fn id(&self) -> i32 {
        self.id
    }

    pub(super) fn is_alive(&self) -> bool {
        stat(self.id).is_ok_and(|stat| stat.started == self.started && !stat.zombie)
    }
}

/// The process and all its descendants, oldest first.
pub(super) fn tree(root: i32) -> anyhow::Result<Vec<Process>> {
    let mut stats = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").context("can't read /proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended since the directory was read is left out.
        if let Ok(stat) = stat(id) {
            stats.insert(id, stat);
        }
    }
    let first = stats.get(&root).with_context(|| format!("process {root} has ended"))?;
    let mut found = vec![Process { id: root, started: first.started }];
    let mut next = 0;
    while let Some(parent) = found.get(next).map(Process::id) {
        let children = stats.iter().filter(|(_, stat)| stat.parent == parent);
        found.extend(children.map(|(id, stat)| Process { id: *id, started: stat.started }));
        next += 1;
    }
    Ok(found)
}

/// User and system time of a set of processes at one moment.
pub(super) struct CpuTimes(BTreeMap<(i32, u64), u64>);

impl CpuTimes {
    pub(super) fn of(processes: &[Process]) -> Self {
        let read = |process: &Process| {
            let stat = stat(process.id).ok().filter(|stat| stat.started == process.started)?;
            Some(((process.id, process.started), stat.ticks))
        };
        Self(processes.iter().filter_map(read).collect())
    }

    /// What they have used since an earlier moment. A process that has ended in between is left
    /// out: of the peers only helpers end while the others work.
    pub(super) fn since(&self, earlier: &Self) -> Duration {
        let used = |(key, ticks): (&(i32, u64), &u64)| {
            ticks.saturating_sub(earlier.0.get(key).copied().unwrap_or_default())
        };
        let ticks: u64 = self.0.iter().map(used).sum();
        TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

/// The memory of the processes in bytes (PSS): pages that several share count once.
pub(super) fn memory(processes: &[Process]) -> anyhow::Result<u64> {
    let mut kib = 0;
    for process in processes {
        let path = format!("/proc/{}/smaps_rollup", process.id);
        let rollup =
            std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
        kib += pss_kib(&rollup).with_context(|| format!("{path} has no Pss"))?;
    }
    Ok(kib * 1024)
}

/// The bytes that the files below a directory take.
pub(super) fn disk_usage(directory: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            // A file of a running proxy may go away in between.
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

fn stat(id: i32) -> anyhow::Result<Stat> {
    let path = format!("/proc/{id}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    parse_stat(&text).with_context(|| format!("{path} is malformed"))
}

/// The name comes second, in brackets, and may hold anything: what is wanted comes after it.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        zombie: matches!(fields.first()?, &"Z" | &"X"),
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        started: number(19)?,
    })
}

fn pss_kib(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b (c)) S 3 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 9876 1 1\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.started, stat.zombie), (3, 200, 9876, false));
    }

    #[test]
    fn this_process_has_memory_and_a_tree() {
        let tree = tree(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(memory(tree.get(..1).unwrap()).unwrap() > 4096);
        let before = CpuTimes(BTreeMap::new());
        assert!(CpuTimes::of(&tree).since(&before) < Duration::from_secs(3600));
        assert_eq!(pss_kib("00400000-7ff [rollup]\nRss: 9 kB\nPss:    1234 kB\n"), Some(1234));
    }
}
