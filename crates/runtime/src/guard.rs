//! Watches a running program for limits that the kernel only refuses more of, or doesn't know.
//! What it reports, the caller ends the program for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cgroup::Counters;
use crate::disk::{self, Watch};
use crate::limits::{Excess, Limits, MAX_OUTPUT_MIB, mib};

/// How often it looks: a few reads of small files.
const INTERVAL: Duration = Duration::from_millis(250);
/// A workload may run into its limit of processes for a moment. When so many of the looks of one
/// window find that it has, it is not for a moment.
const PERSISTENT: u32 = 5;
const WINDOW: u32 = 60;
/// A workload's end so long after the kernel has killed one of its processes for want of memory has
/// another cause.
const AFTERMATH: Duration = Duration::from_secs(10);

/// What one program is watched for.
pub(crate) struct Guard {
    limits: Limits,
    counters: Counters,
    /// Bytes printed so far.
    printed: Arc<AtomicU64>,
    disk: Option<Arc<Mutex<Watch>>>,
    /// Processes refused so far, the looks of this window, and how many of them found more.
    refused: u64,
    looks: u32,
    found_refused: u32,
    /// Processes killed so far for want of memory, and when the last was found.
    killed: u64,
    killed_at: Option<Instant>,
}

/// What a program is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A task, or a workload that isn't ready: it is ended at any limit that it reaches.
    Start,
    /// A workload that is ready: it may print as much as it likes, for its log is bounded.
    Ready,
}

impl Guard {
    /// `disk` is watched where the size of file systems doesn't limit it.
    pub(crate) fn new(
        limits: Limits,
        counters: Counters,
        printed: Arc<AtomicU64>,
        disk: Option<Watch>,
    ) -> Self {
        let disk = disk.map(|watch| Arc::new(Mutex::new(watch)));
        Self {
            limits,
            counters,
            printed,
            disk,
            refused: 0,
            looks: 0,
            found_refused: 0,
            killed: 0,
            killed_at: None,
        }
    }

    /// Returns once a limit is exceeded. Cancel-safe.
    pub(crate) async fn excess(&mut self, phase: Phase) -> Excess {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.look_for_kills(Instant::now());
            if let Some(excess) = self.processes(phase) {
                return excess;
            }
            if phase == Phase::Start
                && let Some(excess) = self.output()
            {
                return excess;
            }
            if let Some(excess) = self.disk(false).await {
                return excess;
            }
        }
    }

    /// What an ended program exceeded: all that the last look may have missed. A program that
    /// succeeded is not asked where that is slow.
    pub(crate) async fn last_look(&mut self, phase: Phase, succeeded: bool) -> Option<Excess> {
        if !succeeded && self.ran_out_of_memory(phase, Instant::now()) {
            return Some(Excess::Memory(self.limits.memory_mib));
        }
        if !succeeded && let Some(excess) = self.processes(Phase::Start) {
            return Some(excess);
        }
        if phase == Phase::Start
            && let Some(excess) = self.output()
        {
            return Some(excess);
        }
        self.disk(!succeeded).await
    }

    /// Whether the file system in memory is full, while the program runs.
    pub(crate) fn has_full_memory_disk(&self) -> bool {
        self.counters.processes().first().is_some_and(|pid| {
            disk::is_full(&PathBuf::from(format!("/proc/{pid}/root")).join("tmp"))
        })
    }

    fn look_for_kills(&mut self, now: Instant) {
        let killed = self.counters.memory_kills();
        if killed > self.killed {
            self.killed = killed;
            self.killed_at = Some(now);
        }
    }

    /// Whether a program that ends `now` ran out of memory: in its start at all, and once it is
    /// ready shortly before.
    fn ran_out_of_memory(&mut self, phase: Phase, now: Instant) -> bool {
        self.look_for_kills(now);
        self.killed_at.is_some_and(|at| phase == Phase::Start || now - at <= AFTERMATH)
    }

    fn processes(&mut self, phase: Phase) -> Option<Excess> {
        self.looks += 1;
        if self.looks > WINDOW {
            self.looks = 0;
            self.found_refused = 0;
        }
        let refused = self.counters.refused_processes();
        self.found_refused += u32::from(refused > self.refused);
        self.refused = refused;
        let patience = if phase == Phase::Start { 1 } else { PERSISTENT };
        (self.found_refused >= patience).then_some(Excess::Processes(self.limits.processes))
    }

    fn output(&self) -> Option<Excess> {
        let printed = self.printed.load(Ordering::Relaxed);
        (printed > mib(MAX_OUTPUT_MIB)).then_some(Excess::Output(MAX_OUTPUT_MIB))
    }

    async fn disk(&mut self, wanted: bool) -> Option<Excess> {
        let watch = Arc::clone(self.disk.as_ref()?);
        let counters = self.counters.clone();
        let look = move || {
            let processes = counters.processes();
            watch.lock().unwrap_or_else(PoisonError::into_inner).look(wanted, &processes)
        };
        tokio::task::spawn_blocking(look).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_ends_a_ready_program_only_shortly_after_a_kill() {
        let group = tempfile::tempdir().expect("a directory");
        let set = |kills: u32| {
            let text = format!("low 0\noom {kills}\noom_kill {kills}\n");
            std::fs::write(group.path().join("memory.events"), text).expect("a file");
        };
        let limits = Limits { memory_mib: 64, cpu_millis: None, processes: 9, disk_mib: 9 };
        let counters = Counters::of_memory(group.path());
        let mut guard = Guard::new(limits, counters, Arc::default(), None);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);

        set(0);
        assert!(!guard.ran_out_of_memory(Phase::Start, at(0)));
        // A child is killed, and what the program makes of it comes in time, or days later.
        set(1);
        guard.look_for_kills(at(10));
        assert!(guard.ran_out_of_memory(Phase::Ready, at(12)));
        assert!(!guard.ran_out_of_memory(Phase::Ready, at(200_000)));
        assert!(guard.ran_out_of_memory(Phase::Start, at(200_000)));
        // It is killed itself, between two looks.
        set(2);
        assert!(guard.ran_out_of_memory(Phase::Ready, at(300_000)));
    }
}
