//! What a workload's processes take, read from /proc: without control groups, and as it is now.

use std::fs;

/// The unit of processor time in /proc: the kernel's USER_HZ, which is 100 for all programs.
const TICKS_PER_SECOND: u64 = 100;

/// What the processes of a workload take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its first process, as the machine numbers it; `None` when none runs.
    pub pid: Option<u32>,
    /// Memory in bytes: the sum of what each has resident, so that shared pages count again.
    pub memory_bytes: u64,
    /// Processor time in milliseconds, that of children which have ended and were waited for
    /// included.
    pub cpu_ms: u64,
}

/// Of everything below the shim. The shim's child is the sandbox's first process, which is ours,
/// and that one's child is the program.
pub(crate) fn of(shim: u32) -> Usage {
    let mut usage = Usage::default();
    let mut processes = children(shim);
    let inits = processes.len();
    let mut next = 0;
    while let Some(pid) = processes.get(next).copied() {
        let below = children(pid);
        if next < inits && usage.pid.is_none() {
            usage.pid = below.first().copied();
        }
        processes.extend(below);
        if next >= inits
            && let Some((memory, cpu)) = measure(pid)
        {
            usage.memory_bytes += memory;
            usage.cpu_ms += cpu;
        }
        next += 1;
    }
    usage
}

fn children(of: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{of}/task")) else { return Vec::new() };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Resident bytes and processor milliseconds of a process (proc(5)).
fn measure(pid: u32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks: u64 = [14, 15, 16, 17].into_iter().filter_map(field).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Some((kib.unwrap_or_default() * 1024, ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let (memory, _) = measure(std::process::id()).expect("this process");
        assert!(memory > 100 * 1024, "{memory}");
        assert_eq!(measure(u32::MAX), None);
    }
}
