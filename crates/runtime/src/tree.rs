//! Trees of files that sandboxed programs have left: removed and measured whatever they have made
//! of them.
//!
//! A program of an ordinary user's sandbox leaves files of that user, and may have taken the user's
//! own permissions off its directories, as package managers do for caches. It may still be running,
//! and put links where directories were. So all goes by descriptors, never through a symbolic link,
//! and directories get back the permissions that are needed.
//!
//! `control` and the binary remove checkouts, caches and boxes with it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::disk;

/// What is nested deeper is moved to the top before it is removed, so that descriptors and the
/// stack suffice however deep a program has nested directories.
const MAX_DEPTH: u32 = 64;
/// What moved directories are called.
const MOVED: &str = ".removing-";

/// Read, write and search, for the owner.
const ALL: u32 = 0o700;
/// Read and search, for the owner.
pub(crate) const LOOK: u32 = 0o500;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files, links and sockets; directories don't count.
    pub files: u64,
    /// What they took on disk.
    pub bytes: u64,
}

/// Removes a file, or a directory with all in it. Nothing there is fine. Blocks.
///
/// # Errors
/// The first that is met; the rest of the tree is left then.
pub fn remove(path: &Path) -> io::Result<Removed> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::other("only what has a name can be removed"));
    };
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let parent =
        match openat(AT_FDCWD, parent, directory_flags() - OFlag::O_NOFOLLOW, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(Removed::default()),
            parent => File::from(parent?),
        };
    let mut removal = Removal::default();
    match fs::symlink_metadata(inside(&parent, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if found.is_dir() => {
            let top = open(&parent, name)?;
            removal.empty(&top)?;
            unlink(&parent, name, UnlinkatFlags::RemoveDir)?;
        }
        Ok(found) => removal.file(&parent, name, &found)?,
    }
    Ok(removal.removed)
}

/// Removes all that is in a directory, and leaves the directory. Blocks.
///
/// # Errors
/// As [`remove`], and when it is no directory.
pub fn empty(path: &Path) -> io::Result<Removed> {
    let mut removal = Removal::default();
    removal.empty(&open(AT_FDCWD, path.as_os_str())?)?;
    Ok(removal.removed)
}

/// Whether a tree takes more than so many bytes on disk, or can't be measured. Blocks.
pub fn is_larger(path: &Path, bytes: u64) -> bool {
    let most = disk::Usage { bytes: bytes.saturating_add(1), files: u64::MAX };
    disk::Usage::of(&[path.to_owned()], &most).exceeds(&most)
}

/// Opens a directory as a place, without following a link and whatever its permissions.
pub(crate) fn open(parent: impl AsFd, name: &OsStr) -> io::Result<File> {
    Ok(File::from(openat(parent, name, directory_flags(), Mode::empty())?))
}

fn directory_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Gives a directory's owner these permissions on it, if it is this user's.
pub(crate) fn allow(directory: &File, permissions: u32) -> io::Result<()> {
    let mode = directory.metadata()?.mode();
    if mode & permissions == permissions {
        return Ok(());
    }
    let mode = fs::Permissions::from_mode((mode & 0o7777) | permissions);
    fs::set_permissions(here(directory), mode)
}

/// A path to an open directory, for what takes no descriptor.
pub(crate) fn here(directory: &File) -> PathBuf {
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}

fn inside(directory: &File, name: &OsStr) -> PathBuf {
    here(directory).join(name)
}

#[derive(Default)]
struct Removal {
    removed: Removed,
    /// Directories moved to the top so far.
    moved: u64,
}

impl Removal {
    fn empty(&mut self, top: &File) -> io::Result<()> {
        loop {
            let moved = self.moved;
            self.entries(top, top, MAX_DEPTH)?;
            if self.moved == moved {
                return Ok(());
            }
        }
    }

    fn entries(&mut self, directory: &File, top: &File, depth: u32) -> io::Result<()> {
        // What can't be allowed is met again by whatever needs it.
        let _ = allow(directory, ALL);
        for entry in fs::read_dir(here(directory))? {
            let entry = entry?;
            let name = entry.file_name();
            match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(found) if found.is_dir() => self.directory(directory, &name, top, depth)?,
                Ok(found) => self.file(directory, &name, &found)?,
            }
        }
        Ok(())
    }

    fn directory(&mut self, parent: &File, name: &OsStr, top: &File, depth: u32) -> io::Result<()> {
        let child = open(parent, name)?;
        if depth > 0 {
            self.entries(&child, top, depth - 1)?;
            return unlink(parent, name, UnlinkatFlags::RemoveDir);
        }
        // A directory that moves is written to: its parent's entry in it changes.
        let _ = allow(&child, ALL);
        loop {
            self.moved += 1;
            match renameat(parent, name, top, format!("{MOVED}{}", self.moved).as_str()) {
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                moved => return Ok(moved?),
            }
        }
    }

    fn file(&mut self, parent: &File, name: &OsStr, found: &fs::Metadata) -> io::Result<()> {
        unlink(parent, name, UnlinkatFlags::NoRemoveDir)?;
        self.removed.files += 1;
        self.removed.bytes += found.blocks() * disk::BLOCK_BYTES;
        Ok(())
    }
}

fn unlink(parent: &File, name: &OsStr, what: UnlinkatFlags) -> io::Result<()> {
    match unlinkat(parent, name.as_bytes(), what) {
        Err(Errno::ENOENT) => Ok(()),
        gone => Ok(gone?),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// In a directory of an ordinary user's, as that user: permissions mean nothing to root.
    pub(crate) fn as_ordinary_user(test: impl FnOnce(&Path) + Send) {
        const USER: u32 = 54_321;
        let directory = tempfile::tempdir().expect("a directory");
        let root = nix::unistd::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(directory.path(), Some(USER), Some(USER)).expect("theirs");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if root {
                    // Of this thread alone; the capabilities over files go with it.
                    nix::unistd::setfsgid(USER.into());
                    nix::unistd::setfsuid(USER.into());
                }
                test(directory.path());
            });
        });
    }

    pub(crate) fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("another mode");
    }

    /// Directories as a build may leave them, named for their modes.
    fn fill(root: &Path) {
        for mode in [0o000, 0o300, 0o400, 0o500, 0o555] {
            let directory = root.join(format!("{mode:03o}"));
            fs::create_dir_all(directory.join("inner")).expect("directories");
            fs::write(directory.join("inner/file"), "text").expect("a file");
            set_mode(&directory.join("inner"), mode);
            set_mode(&directory, mode);
        }
    }

    #[test]
    fn what_its_user_may_not_write_is_removed() {
        as_ordinary_user(|root| {
            let tree = root.join("tree");
            fill(&tree);
            set_mode(&tree, 0o555);
            fs::remove_dir_all(&tree).expect_err("permissions mean something here");
            assert_eq!(remove(&tree).expect("removed").files, 5);
            assert!(!tree.exists());

            fill(root);
            assert_eq!(empty(root).expect("emptied").files, 5);
            assert_eq!(fs::read_dir(root).expect("still there").count(), 0);
            assert_eq!(remove(&tree).expect("nothing to do"), Removed::default());
            assert_eq!(remove(&tree.join("below")).expect("nothing to do"), Removed::default());
        });
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let other = root.path().join("other");
        fs::create_dir(&other).expect("a directory");
        fs::write(other.join("file"), "kept").expect("a file");
        set_mode(&other, 0o555);
        let tree = root.path().join("tree");
        fs::create_dir(&tree).expect("a directory");
        std::os::unix::fs::symlink(&other, tree.join("link")).expect("a link");
        assert_eq!(remove(&tree).expect("removed").files, 1);
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&other, &link).expect("a link");
        empty(&link).expect_err("no directory");
        remove(&link).expect("removed");
        assert!(fs::symlink_metadata(&link).is_err());
        assert_eq!(fs::read(other.join("file")).expect("kept"), b"kept");
        assert_eq!(fs::metadata(&other).expect("kept").mode() & 0o777, 0o555);
    }

    #[test]
    fn however_deep_it_is() {
        as_ordinary_user(|root| {
            let tree = root.join("tree");
            fs::create_dir(&tree).expect("a directory");
            // In the way of what is moved.
            fs::write(tree.join(format!("{MOVED}1")), "").expect("a file");
            fs::create_dir_all(tree.join(format!("{MOVED}2/full"))).expect("a directory");
            let mut place = open(AT_FDCWD, tree.as_os_str()).expect("a directory");
            for _ in 0..3000 {
                fs::create_dir(inside(&place, "deep".as_ref())).expect("a directory");
                let child = open(&place, "deep".as_ref()).expect("a directory");
                set_mode(&here(&place), 0o555);
                place = child;
            }
            assert!(is_larger(&tree, 1 << 40), "it is too deep to be measured");
            assert_eq!(remove(&tree).expect("removed").files, 1);
            assert!(!tree.exists());
        });
    }
}
