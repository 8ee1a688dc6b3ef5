//! How much a task has on disk, without quotas of the file system, which few have.
//!
//! Adding up a tree takes time, so it is done only when the file system's free space has shrunk so
//! far that the limit may be near; asking for that costs nothing. Between two looks a task can
//! write over its limit as fast as the disk takes it, so a reserve of the file system is watched
//! as well, which no task may touch.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::AT_FDCWD;

use crate::limits::{Excess, Limits};
use crate::tree;

/// A part of what is left to the limit; when as much has gone from the file system, it is added up.
const PART: u64 = 4;
/// Adding up takes at most one part of so many of the time.
const REST: u32 = 4;
/// Files may be removed elsewhere while a task writes, so now and then it is added up anyway.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Deeper trees are no package manager's doing; what is below counts as too many files.
const MAX_DEPTH: u32 = 256;
/// Blocks in `stat` have this size whatever the file system's own (stat(2)).
pub(crate) const BLOCK_BYTES: u64 = 512;

/// What must stay free on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// In MiB.
    pub mib: u32,
    /// In files; means nothing on file systems that don't count them.
    pub files: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { mib: 512, files: 10_000 }
    }
}

/// What a file system has left for ordinary users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    bytes: u64,
    /// `None` where it doesn't count them.
    files: Option<u64>,
}

/// What trees of files take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// Watches what one task has on disk.
#[derive(Debug)]
pub(crate) struct Watch {
    trees: Vec<PathBuf>,
    limits: Limits,
    reserve: Reserve,
    last: Usage,
    last_free: Free,
    /// When it may be added up again, and when it must be.
    again: (Instant, Instant),
}

impl Free {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = nix::sys::statvfs::statvfs(path)?;
        Ok(Self {
            bytes: found.blocks_available() * found.fragment_size(),
            files: (found.files() > 0).then_some(found.files_available()),
        })
    }

    /// What of the reserve is gone.
    pub(crate) fn short_of(&self, reserve: &Reserve) -> Option<Excess> {
        if self.bytes < crate::limits::mib(reserve.mib) {
            return Some(Excess::Reserve(reserve.mib));
        }
        let few = self.files.is_some_and(|files| files < reserve.files);
        few.then_some(Excess::ReserveFiles(reserve.files))
    }
}

impl Usage {
    /// What these trees take, as far as it is not more than `most`; links count once.
    pub(crate) fn of(trees: &[PathBuf], most: &Usage) -> Self {
        let mut sum = Sum { usage: Self::default(), linked: BTreeSet::new(), most: *most };
        for path in trees {
            match tree::open(AT_FDCWD, path.as_os_str()) {
                Ok(top) => sum.tree(&top, MAX_DEPTH),
                Err(error) => sum.missed(&error),
            }
        }
        sum.usage
    }

    fn most(limits: &Limits) -> Self {
        Self { bytes: limits.disk_bytes(), files: limits.files() }
    }

    pub(crate) fn exceeds(&self, most: &Self) -> bool {
        self.bytes >= most.bytes || self.files >= most.files
    }
}

struct Sum {
    usage: Usage,
    linked: BTreeSet<(u64, u64)>,
    most: Usage,
}

impl Sum {
    fn add(&mut self, found: &fs::Metadata) {
        if found.nlink() > 1 && !found.is_dir() && !self.linked.insert((found.dev(), found.ino())) {
            return;
        }
        self.usage.files += 1;
        self.usage.bytes += found.blocks() * BLOCK_BYTES;
    }

    fn tree(&mut self, directory: &File, depth: u32) {
        let mut looked = self.entries(directory, depth);
        // Nothing has been counted then: whoever may not look into a directory may not at all.
        if looked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            looked =
                tree::allow(directory, tree::LOOK).and_then(|()| self.entries(directory, depth));
        }
        if let Err(error) = looked {
            self.missed(&error);
        }
    }

    fn entries(&mut self, directory: &File, depth: u32) -> io::Result<()> {
        for entry in fs::read_dir(tree::here(directory))? {
            if self.usage.exceeds(&self.most) {
                return Ok(());
            }
            let entry = entry?;
            // Not through links: those of a link itself.
            let found = match entry.metadata() {
                Err(error) if is_gone(&error) => continue,
                found => found?,
            };
            self.add(&found);
            if !found.is_dir() {
                continue;
            }
            match tree::open(directory, &entry.file_name()) {
                Ok(_) if depth == 0 => self.too_much(),
                Ok(child) => self.tree(&child, depth - 1),
                Err(error) => self.missed(&error),
            }
        }
        Ok(())
    }

    /// What can't be seen may be anything, unless there is nothing any more.
    fn missed(&mut self, error: &io::Error) {
        if !is_gone(error) {
            self.too_much();
        }
    }

    fn too_much(&mut self) {
        self.usage.files = self.most.files;
    }
}

/// Whether a program has removed something meanwhile, or put something else in a directory's place.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::NotFound | Kind::NotADirectory)
}

impl Watch {
    /// Begins to watch; blocks for as long as adding up takes.
    pub(crate) fn new(trees: Vec<PathBuf>, limits: Limits, reserve: Reserve) -> io::Result<Self> {
        let now = Instant::now();
        let last_free = least_free(&trees)?;
        let last = Usage::default();
        let mut watch = Self { trees, limits, reserve, last, last_free, again: (now, now) };
        watch.add_up(&[]);
        Ok(watch)
    }

    /// Whether the task has more than it may, from what is cheap to ask. Blocks for as long as
    /// adding up takes, if that seems needed or is `wanted`. `processes` are the task's, whose
    /// open files that have no name any more count too.
    pub(crate) fn look(&mut self, wanted: bool, processes: &[u32]) -> Option<Excess> {
        let free = least_free(&self.trees).ok()?;
        let most = Usage::most(&self.limits);
        let part = |most: u64, used: u64| most.saturating_sub(used) / PART;
        let gone = self.last_free.bytes.saturating_sub(free.bytes);
        let gone_files = match (self.last_free.files, free.files) {
            (Some(before), Some(now)) => before.saturating_sub(now),
            _ => 0,
        };
        let near = gone >= part(most.bytes, self.last.bytes)
            || gone_files >= part(most.files, self.last.files);
        let now = Instant::now();
        if wanted || (near && now >= self.again.0) || now >= self.again.1 {
            self.last_free = free;
            self.add_up(processes);
        }
        if self.last.bytes >= most.bytes {
            Some(Excess::Disk(self.limits.disk_mib))
        } else if self.last.files >= most.files {
            Some(Excess::Files(most.files))
        } else {
            free.short_of(&self.reserve)
        }
    }

    fn add_up(&mut self, processes: &[u32]) {
        let before = Instant::now();
        self.last = Usage::of(&self.trees, &Usage::most(&self.limits));
        self.last.bytes += processes.iter().map(|pid| nameless_bytes(*pid)).sum::<u64>();
        let took = before.elapsed();
        let now = Instant::now();
        self.again = (now + took * REST, now + (took * REST).max(LONGEST_REST));
    }
}

/// The least that any of the trees' file systems has left.
fn least_free(trees: &[PathBuf]) -> io::Result<Free> {
    let all = trees.iter().map(|tree| Free::of(tree)).collect::<io::Result<Vec<_>>>()?;
    let files = all.iter().filter_map(|free| free.files).min();
    let bytes = all.iter().map(|free| free.bytes).min().unwrap_or(u64::MAX);
    Ok(Free { bytes, files })
}

/// What a process keeps in files that it has removed. A file open twice counts twice, which only
/// one who removes large files from under himself will notice.
fn nameless_bytes(pid: u32) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .filter(|found| found.is_file() && found.nlink() == 0)
        .map(|found| found.blocks() * BLOCK_BYTES)
        .sum()
}

/// Whether the file system that a process writes to in memory is full.
pub(crate) fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|found| found.blocks_available() == 0 || found.files_available() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory_mib: 64, cpu_millis: None, processes: 10, disk_mib: 8 };
    const NO_RESERVE: Reserve = Reserve { mib: 0, files: 0 };

    fn most() -> Usage {
        Usage::most(&LIMITS)
    }

    #[test]
    fn links_count_once_and_are_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let elsewhere = tempfile::tempdir().expect("a directory");
        fs::write(elsewhere.path().join("large"), vec![1; 1 << 20]).expect("a file");
        let tree = directory.path();
        fs::create_dir(tree.join("inner")).expect("a directory");
        fs::write(tree.join("inner/file"), vec![1; 100_000]).expect("a file");
        fs::hard_link(tree.join("inner/file"), tree.join("again")).expect("a link");
        std::os::unix::fs::symlink(elsewhere.path(), tree.join("out")).expect("a link");
        let usage = Usage::of(&[tree.to_owned()], &most());
        assert_eq!(usage.files, 3);
        assert!((100_000..150_000).contains(&usage.bytes), "{usage:?}");
    }

    #[test]
    fn what_its_user_may_not_read_counts_too() {
        tree::tests::as_ordinary_user(|root| {
            for mode in [0o000, 0o300, 0o400] {
                let directory = root.join("inner");
                fs::create_dir_all(directory.join("inner")).expect("directories");
                fs::write(directory.join("inner/file"), vec![1; 1 << 20]).expect("a file");
                tree::tests::set_mode(&directory.join("inner"), mode);
                tree::tests::set_mode(&directory, mode);
                let usage = Usage::of(&[root.to_owned()], &most());
                assert_eq!(usage.files, 3, "{mode:o}");
                assert!(usage.bytes >= 1 << 20, "{mode:o}: {usage:?}");
            }
        });
    }

    #[test]
    fn what_can_t_be_seen_is_too_much_unless_it_is_gone() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("inner");
        fs::create_dir(&inner).expect("a directory");
        tree::tests::set_mode(&inner, 0o000);
        tree::tests::set_mode(root.path(), 0o755);
        let usage = |path: PathBuf| Usage::of(&[path], &most());
        assert_eq!(usage(root.path().join("gone")), Usage::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Neither root nor the owner; for an ordinary user there is no such directory.
                if nix::unistd::geteuid().is_root() {
                    nix::unistd::setfsuid(54_321.into());
                    assert_eq!(usage(inner.clone()).files, most().files);
                }
            });
        });
    }

    #[test]
    fn what_is_over_the_limit_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let trees = vec![directory.path().to_owned()];
        let mut watch = Watch::new(trees, LIMITS, NO_RESERVE).expect("a watch");
        assert_eq!(watch.look(true, &[]), None);
        fs::write(directory.path().join("file"), vec![1; 7 << 20]).expect("a file");
        assert_eq!(watch.look(true, &[]), None);
        // One that has no name any more.
        use std::io::Write as _;
        let mut file = tempfile::tempfile_in(directory.path()).expect("a file");
        file.write_all(&vec![1; 2 << 20]).expect("written");
        assert_eq!(watch.look(true, &[]), None);
        assert_eq!(watch.look(true, &[std::process::id()]), Some(Excess::Disk(8)));
        drop(file);
        for number in 0..2048 {
            fs::write(directory.path().join(number.to_string()), "").expect("a file");
        }
        assert_eq!(watch.look(true, &[]), Some(Excess::Files(2048)));
    }

    #[test]
    fn the_reserve_is_kept() {
        let free = |bytes, files| Free { bytes, files };
        let reserve = Reserve { mib: 10, files: 100 };
        assert_eq!(free(10 << 20, Some(100)).short_of(&reserve), None);
        assert_eq!(free(10 << 20, None).short_of(&reserve), None);
        assert_eq!(free((10 << 20) - 1, Some(100)).short_of(&reserve), Some(Excess::Reserve(10)));
        assert_eq!(free(1 << 30, Some(99)).short_of(&reserve), Some(Excess::ReserveFiles(100)));
    }
}
