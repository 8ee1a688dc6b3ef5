//! One user id for each tenant of the machine, and giving files to it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

/// The ids that the machine's tenants get, outside those that distributions hand out by default.
/// Those of boxes come after them; see [`crate::ids`].
pub(crate) const MACHINE: Range<u32> = 700_000..765_536;
/// Nobody's: for trying whether sandboxes work.
pub(crate) const PROBE: u32 = MACHINE.start - 1;

/// First word of the line that gives a table ids other than the machine's: `ids FIRST END`.
const IDS: &str = "ids";

/// Directories nested deeper than this are not a package manager's doing.
const MAX_DEPTH: u32 = 256;

/// The table of tenants: a line `ID TENANT` each, shared by all runtimes of the machine, or by all
/// of a box.
#[derive(Debug, Clone)]
pub(crate) struct Tenants {
    file: PathBuf,
}

impl Tenants {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// The tenant's id; its first use reserves one. Blocks while another process does the same.
    pub(crate) fn id(&self, tenant: &str) -> io::Result<u32> {
        if tenant.is_empty() || tenant.chars().any(char::is_control) {
            return Err(io::Error::other(format!("{tenant:?} is no name for a tenant")));
        }
        if let Some(directory) = self.file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(&self.file)?;
        // Released when the file is closed.
        file.lock()?;
        file.rewind()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let ids = ids(&text);
        let known: BTreeMap<&str, u32> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(id, tenant)| Some((tenant, id.parse().ok()?)))
            .filter(|(_, id)| ids.contains(id))
            .collect();
        if let Some(id) = known.get(tenant) {
            return Ok(*id);
        }
        let id = known.values().max().map_or(ids.start, |last| last + 1);
        if !ids.contains(&id) {
            return Err(io::Error::other(format!(
                "all {} user ids for tenants are taken; remove those that are gone from {}",
                ids.len(),
                self.file.display()
            )));
        }
        // A line that a crash cut short ends here, and names nobody.
        let start = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        file.write_all(format!("{start}{id} {tenant}\n").as_bytes())?;
        file.sync_all()?;
        Ok(id)
    }
}

/// The ids that a table gives out: the machine's, unless it says otherwise.
pub(crate) fn ids(table: &str) -> Range<u32> {
    let stated = || {
        let mut words = table.lines().next()?.split(' ');
        let (word, first, end) = (words.next()?, words.next()?, words.next()?);
        (word == IDS).then_some(first.parse().ok()?..end.parse().ok()?)
    };
    stated().filter(|ids| ids.start >= MACHINE.start).unwrap_or(MACHINE)
}

/// The line by which a table gives out other ids than the machine's.
pub(crate) fn ids_line(ids: &Range<u32>) -> String {
    format!("{IDS} {} {}\n", ids.start, ids.end)
}

/// Gives a directory and all in it to a user. It goes by descriptors and never follows a symbolic
/// link, so that nobody who can write there can turn it on other files.
pub(crate) fn give(directory: &Path, id: u32) -> io::Result<()> {
    let top = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(directory)?;
    give_entries(&top, id, MAX_DEPTH)?;
    nix::unistd::fchown(&top, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    Ok(())
}

/// Gives a directory itself to a user, and what is in it when it was another's.
pub(crate) fn give_once(directory: &Path, id: u32) -> io::Result<()> {
    if fs::symlink_metadata(directory)?.uid() == id { Ok(()) } else { give(directory, id) }
}

fn give_entries(directory: &File, id: u32, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!("directories nested over {MAX_DEPTH} deep")));
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_bytes();
        let found = entry.metadata()?;
        if found.is_dir() {
            let child = File::from(nix::fcntl::openat(directory, name, flags, Mode::empty())?);
            give_entries(&child, id, depth - 1)?;
        }
        // A tree of dependencies is large, and mostly the user's already.
        if (found.uid(), found.gid()) != (id, id) {
            let (user, group) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
            nix::unistd::fchownat(directory, name, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tenants_share_an_id_and_each_keeps_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("tenants");
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let tenants = Tenants::new(file.clone());
                std::thread::spawn(move || {
                    (tenants.id(&format!("app {number}")).expect("an id"), number)
                })
            })
            .collect();
        let ids: BTreeMap<u32, i32> =
            threads.into_iter().map(|thread| thread.join().expect("done")).collect();
        assert_eq!(ids.len(), 8);
        fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .and_then(|mut file| file.write_all(b"70"))
            .expect("half a line");
        let tenants = Tenants::new(file);
        let next = tenants.id("another").expect("an id");
        assert!(!ids.contains_key(&next));
        assert_eq!(tenants.id("another").expect("an id"), next);
        for (id, number) in ids {
            assert_eq!(tenants.id(&format!("app {number}")).expect("an id"), id);
        }
        tenants.id("two\nlines").expect_err("a line each");
    }
}
