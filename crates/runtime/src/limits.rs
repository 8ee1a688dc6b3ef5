//! What a program may use, and the words when it wants more.

use std::fmt;

/// What a task prints beyond this ends it; of a workload the same holds until it is ready.
pub(crate) const MAX_OUTPUT_MIB: u32 = 64;

/// How many bytes of disk there are for each file: as file systems commonly reckon.
const BYTES_FOR_A_FILE: u64 = 4096;

/// What a program may use, all its processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in MiB. What a workload writes, and what a task writes to `/tmp`, counts in.
    pub memory_mib: u32,
    /// Processor time in thousandths of a processor; `None` for all processors of the machine.
    /// Whatever the limit, a task yields to workloads where both want the same processor.
    pub cpu_millis: Option<u32>,
    /// Processes and threads at a time.
    pub processes: u32,
    /// What it may have on disk, in MiB: a task in its checkout and cache together, a workload in
    /// `/app` and `/tmp` together. There may be a file for every 4 KiB of it.
    pub disk_mib: u32,
}

impl Limits {
    /// How many files and directories it may have on disk.
    pub(crate) fn files(&self) -> u64 {
        (self.disk_bytes() / BYTES_FOR_A_FILE).max(1024)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        mib(self.disk_mib)
    }
}

/// MiB in bytes.
pub(crate) fn mib(mib: u32) -> u64 {
    u64::from(mib) * 1024 * 1024
}

/// The limit that a program was ended for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excess {
    /// More memory than these MiB.
    Memory(u32),
    /// More processes and threads than these.
    Processes(u32),
    /// More on disk than these MiB.
    Disk(u32),
    /// More files than these.
    Files(u64),
    /// What a workload can write without its being kept is full: these MiB.
    Temporary(u32),
    /// A task's `/tmp` is full, which may take half of its memory: these MiB.
    TaskTemporary(u32),
    /// More output than these MiB.
    Output(u32),
    /// The machine's disk has less than these MiB left, which nobody may use up.
    Reserve(u32),
    /// The machine's disk has room for fewer files than these.
    ReserveFiles(u64),
}

/// What it did, to go after the program's name.
impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(mib) => write!(f, "ran out of memory: its limit is {mib} MiB"),
            Self::Processes(limit) => {
                write!(f, "started too many processes and threads: its limit is {limit}")
            }
            Self::Disk(mib) => write!(f, "wrote too much to disk: its limit is {mib} MiB"),
            Self::Files(limit) => write!(f, "made too many files: its limit is {limit}"),
            Self::Temporary(mib) => {
                write!(f, "filled its file system in memory (/tmp): its limit is {mib} MiB")
            }
            Self::TaskTemporary(mib) => {
                write!(f, "filled /tmp, which is in memory and may take half of it: {mib} MiB")
            }
            Self::Output(mib) => write!(f, "printed too much: its limit is {mib} MiB"),
            Self::Reserve(mib) => {
                write!(f, "would use up the machine's disk, which has less than {mib} MiB free")
            }
            Self::ReserveFiles(files) => {
                write!(
                    f,
                    "would use up the machine's disk, which has room for less than {files} files"
                )
            }
        }
    }
}

impl Excess {
    /// The limit by its name in [`Limits`], without the unit; `None` where it is not one of those.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Memory(_) | Self::TaskTemporary(_) => Some("memory"),
            Self::Processes(_) => Some("processes"),
            Self::Disk(_) | Self::Files(_) | Self::Temporary(_) => Some("disk"),
            Self::Output(_) | Self::Reserve(_) | Self::ReserveFiles(_) => None,
        }
    }

    /// What to do about it, `raise` being how its limit is raised.
    pub fn mend(&self, raise: &str) -> String {
        match self {
            Self::Memory(_) => format!("have it use less, or {raise}"),
            Self::Processes(_) => format!("look for what starts them without end, or {raise}"),
            Self::TaskTemporary(_) => {
                format!("have it write to its own directory, which is on disk, or {raise}")
            }
            Self::Disk(_) | Self::Files(_) | Self::Temporary(_) => {
                format!("look for what is written without end, or {raise}")
            }
            Self::Output(_) => "have it print less; the first lines show what repeats".to_owned(),
            Self::Reserve(_) | Self::ReserveFiles(_) => {
                "free space on the machine's disk, or give it a larger one".to_owned()
            }
        }
    }
}
