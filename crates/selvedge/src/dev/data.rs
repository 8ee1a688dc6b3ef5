//! The box's data directory: one box's at a time, of a known version, emptied or removed on request
//! and never when it is something else or in use.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use selvedge_fabric::layout::{Found, Layout, LayoutError, VERSION_FILE};
use serde::Serialize;

use super::leftovers;
use crate::contract;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{count, size};

/// The file that is locked, in which the holder's process id stands.
const LOCK: &str = "lock";
/// How often, and with what pause, the lock is tried: a killed supervisor's may outlive it shortly.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// What to do about a data directory that can't be used.
const DATA_HINT: &str = "choose a directory of yours with --data DIR, on a disk with room";
/// The table of tenants' user ids.
pub(crate) const TENANTS: &str = "tenants";

/// The versions of a box's directory. Control's and the agents' directories in it, and the store's
/// database, have versions of their own.
const LAYOUT: Layout =
    Layout { kind: "box", migrations: &[], unstamped: &["box"], neutral: &[LOCK] };

/// Finds out what is in a directory, and changes nothing.
pub(crate) fn inspect(data: &Path) -> Result<Found, LayoutError> {
    LAYOUT.inspect(data)
}

/// A locked data directory.
#[derive(Debug)]
pub(super) struct BoxData {
    /// Without links: it is compared with what the kernel says of mounts and processes.
    path: PathBuf,
    _lock: Flock<File>,
}

/// What was removed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Removed {
    /// The box's directory.
    data: PathBuf,
    /// Repositories that had been pushed to it.
    repositories: BTreeSet<String>,
    /// Files and sockets.
    files: u64,
    /// What they took.
    bytes: u64,
    /// Control groups that killed processes had left.
    control_groups: Vec<PathBuf>,
}

impl BoxData {
    /// Makes the directory if need be and locks it. With `reset`, what is there may be a later
    /// version's: it is not going to be read.
    pub(super) fn lock(path: &Path, reset: bool) -> Outcome<Self> {
        contract::refuse_below_a_file(path)?;
        match LAYOUT.inspect(path) {
            Err(LayoutError::Newer { .. }) if reset => {}
            found => drop(found.map_err(refused)?),
        }
        contract::private_directory(path)?;
        let path = resolved(path)?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Empties the directory with `reset`, and brings it up to date. Returns what was removed.
    pub(super) fn prepare(&self, reset: bool) -> Outcome<Option<Removed>> {
        let removed = if reset { Some(self.empty()?) } else { None };
        LAYOUT.open(&self.path).map_err(refused)?;
        Ok(removed.filter(|removed| removed.files > 0))
    }

    /// Removes everything but the lock, the version last, so that what is left of a removal that was
    /// cut short is still known for a box's.
    fn empty(&self) -> Outcome<Removed> {
        leftovers::refuse_mounts(&self.path)?;
        leftovers::wait_for_processes(&self.path)?;
        let mut removed = Removed {
            data: self.path.clone(),
            repositories: repositories(&self.path),
            ..Removed::default()
        };
        let mut last = Vec::new();
        let entries = std::fs::read_dir(&self.path).or_fail(
            Code::Usage,
            format!("can't read the directory {}", self.path.display()),
            DATA_HINT,
        )?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name == VERSION_FILE || LAYOUT.unstamped.iter().any(|own| name == *own) {
                last.push(entry.path());
            } else if name != LOCK {
                remove(&entry.path(), &mut removed)?;
            }
        }
        for path in last {
            remove(&path, &mut removed)?;
        }
        removed.control_groups = selvedge_runtime::sweep();
        Ok(removed)
    }
}

/// Removes the directory, and `parent` with it when nothing else is in there. `None`: there was no
/// box.
pub(super) fn remove_all(path: &Path, parent: Option<&Path>) -> Outcome<Option<Removed>> {
    if !path.exists() {
        return Ok(None);
    }
    let data = BoxData::lock(path, true)?;
    let removed = data.empty()?;
    let gone = std::fs::remove_file(data.path.join(LOCK)).and_then(|()| {
        match std::fs::remove_dir(&data.path) {
            // The directory is a file system of its own, which whoever mounted it unmounts.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
            // A link to the directory would be left pointing at nothing.
            Ok(()) if path.is_symlink() => std::fs::remove_file(path),
            gone => gone,
        }
    });
    gone.or_fail(
        Code::Failed,
        format!("can't remove {}", path.display()),
        "remove it by hand: nothing of the box is in it any more",
    )?;
    if let Some(parent) = parent {
        // Fails where there is something else in it.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(Some(removed))
}

impl Removed {
    /// For people.
    pub(super) fn words(&self) -> String {
        let mut words = format!(
            "Removed the box's data in {}: {}, {}.",
            self.data.display(),
            count(usize::try_from(self.files).unwrap_or(usize::MAX), "file"),
            size(self.bytes)
        );
        if !self.repositories.is_empty() {
            let names: Vec<&str> = self.repositories.iter().map(String::as_str).collect();
            words += &format!("\nRepositories that had been pushed to it: {}.", names.join(", "));
        }
        if !self.control_groups.is_empty() {
            let groups = count(self.control_groups.len(), "control group");
            words += &format!("\nRemoved {groups} that killed processes had left.");
        }
        words
    }
}

/// Where the directory really is.
fn resolved(path: &Path) -> Outcome<PathBuf> {
    path.canonicalize().or_fail(
        Code::Usage,
        format!("can't find out where {} is", path.display()),
        DATA_HINT,
    )
}

fn refused(error: LayoutError) -> Failure {
    use LayoutError as Error;
    let hint = match &error {
        Error::Newer { .. } => "`selvedge dev --reset` forgets what is there".to_owned(),
        Error::Foreign { .. } => "nothing there was touched".to_owned(),
        Error::Migration { .. } => "see the cause, and start again: nothing is lost".to_owned(),
        Error::File { .. } => "is the disk full, or the directory not yours?".to_owned(),
    };
    let code = match &error {
        Error::Newer { .. } | Error::Foreign { .. } => Code::Usage,
        _ => Code::Failed,
    };
    Failure { error: error.into(), hint: Some(hint), code }
}

fn repositories(data: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(data.join("control/repositories"));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| Some(name.to_str()?.strip_suffix(".git")?.to_owned())).collect()
}

/// Removes a file or a directory with all in it, and counts. Never follows a link.
fn remove(path: &Path, removed: &mut Removed) -> Outcome {
    let gone = selvedge_runtime::tree::remove(path).or_fail(
        Code::Failed,
        format!("can't remove {}", path.display()),
        "what was removed is gone; mend the cause and repeat the command for the rest",
    )?;
    removed.files += gone.files;
    removed.bytes += gone.bytes;
    Ok(())
}

fn lock(data: &Path) -> Outcome<Flock<File>> {
    let path = data.join(LOCK);
    let failed = || format!("can't write {}", path.display());
    let mut attempts = 0;
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path)
            .or_fail(Code::Usage, failed(), DATA_HINT)?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            attempts += 1;
            if attempts < LOCK_ATTEMPTS {
                std::thread::sleep(LOCK_PAUSE);
                continue;
            }
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Failure::new(
                Code::Taken,
                format!("process {} already runs a box on {}", pid.trim(), data.display()),
                "stop it with Ctrl-C where it runs, or use another directory with --data DIR (and other ports)",
            ));
        };
        if is_at(&lock, &path) {
            std::fs::write(&path, std::process::id().to_string()).or_fail(
                Code::Failed,
                failed(),
                DATA_HINT,
            )?;
            return Ok(lock);
        }
    }
}

/// Whoever held the lock may have removed the directory just now, and the file with it.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(found)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (file.dev(), file.ino()) == (found.dev(), found.ino())
}
