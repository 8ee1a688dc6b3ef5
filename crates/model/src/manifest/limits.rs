//! What builds and processes may use, besides the memory of a process.
//!
//! In the normal form the defaults are left out, so that a release keeps its identity when an older
//! Selvedge made it.

use serde::{Deserialize, Serialize};

use super::diagnostic::Problems;
use super::keys;
use super::section::Section;
use super::services::size;

/// What each command of build and test may use, all its processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildLimits {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processor time in thousandths of a processor; `None` for all of the machine's.
    pub cpu_millis: Option<u32>,
    /// Checkout and dependency cache together, in MiB.
    pub disk_mib: u32,
    /// Processes and threads at a time.
    pub processes: u32,
}

/// What a process service may use besides memory, all its processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessLimits {
    /// Processor time in thousandths of a processor.
    pub cpu_millis: u32,
    /// What it may write, in MiB; `None` for a share of its memory.
    pub disk_mib: Option<u32>,
    /// Processes and threads at a time.
    pub processes: u32,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            memory_mib: keys::DEFAULT_BUILD_MEMORY_MIB,
            cpu_millis: None,
            disk_mib: keys::DEFAULT_BUILD_DISK_MIB,
            processes: keys::DEFAULT_BUILD_PROCESSES,
        }
    }
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self {
            cpu_millis: keys::DEFAULT_CPU_MILLIS,
            disk_mib: None,
            processes: keys::DEFAULT_PROCESSES,
        }
    }
}

impl BuildLimits {
    /// Whether they are what holds for an app that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl ProcessLimits {
    /// Whether they are what holds for a service that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What the service may write, in MiB, given the memory that it has.
    pub fn disk_mib(&self, memory_mib: u32) -> u32 {
        self.disk_mib.unwrap_or((memory_mib / 2).max(64))
    }
}

/// Reads `[build_limits]`.
pub(super) fn of_builds(section: &Section<'_>, problems: &mut Problems<'_>) -> BuildLimits {
    section.refuse_unknown(&keys::BUILD_LIMITS.names(), &[], problems);
    let default = BuildLimits::default();
    BuildLimits {
        memory_mib: size(section, "memory", keys::MEMORY, "4GiB", problems)
            .unwrap_or(default.memory_mib),
        cpu_millis: cpu(section, problems),
        disk_mib: size(section, "disk", keys::BUILD_DISK, "8GiB", problems)
            .unwrap_or(default.disk_mib),
        processes: processes(section, problems).unwrap_or(default.processes),
    }
}

/// Reads the limits of a process service that has this much memory.
pub(super) fn of_process(
    section: &Section<'_>,
    memory_mib: u32,
    problems: &mut Problems<'_>,
) -> ProcessLimits {
    let default = ProcessLimits::default();
    let disk_mib = size(section, "disk", keys::SERVICE_DISK, "128MiB", problems);
    if let (Some(disk), Some(at)) = (disk_mib, section.place_of("disk"))
        && disk > memory_mib
    {
        let (disk, memory) = (keys::size(disk), keys::size(memory_mib));
        let message = format!("`disk` is {disk}, and `memory` is {memory}");
        let mend = "what a process writes is kept in memory and counts there: raise `memory`, or choose a smaller `disk`";
        problems.report(at, message, mend);
    }
    ProcessLimits {
        cpu_millis: cpu(section, problems).unwrap_or(default.cpu_millis),
        disk_mib,
        processes: processes(section, problems).unwrap_or(default.processes),
    }
}

fn cpu(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<u32> {
    let (millis, at) = section.thousandths("cpu", problems)?;
    if !keys::PROCESSORS.contains(millis) {
        let range = keys::PROCESSORS;
        let (least, most) = (keys::processors(range.least), keys::processors(range.most));
        let message = format!("`cpu` is {}", keys::processors(millis));
        problems.report(at, message, format!("choose between {least} and {most} processors"));
    }
    Some(millis)
}

fn processes(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<u32> {
    let (processes, at) = section.number("processes", problems)?;
    let range = keys::PROCESSES;
    if !range.contains(processes) {
        let mend = format!("choose between {} and {}", range.least, range.most);
        problems.report(at, format!("`processes` is {processes}"), mend);
    }
    Some(processes)
}
