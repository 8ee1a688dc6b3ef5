//! Whether unpacked files are as they were unpacked, and what makes them so again.
//!
//! Judged by names, sizes, kinds and times of change: cheap enough for every start of an agent, and it
//! finds what editors, full disks, half-restored backups and repaired file systems do. It does not
//! read contents, so a disk that changes bytes silently is not found out.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use selvedge_model::Digest;

/// A digest of what `root` holds. Blocks: a look at each file.
pub(super) fn fingerprint(root: &Path) -> io::Result<Digest> {
    let mut parts = Vec::new();
    for (name, metadata) in entries(root)? {
        parts.push(name.as_os_str().as_bytes().to_vec());
        let mut facts = vec![u64::from(metadata.mode())];
        // Directories change when something in them does, which is seen there.
        if !metadata.is_dir() {
            let time = [metadata.mtime(), metadata.mtime_nsec()].map(i64::cast_unsigned);
            facts.extend([metadata.len(), time[0], time[1]]);
        }
        parts.push(facts.iter().flat_map(|fact| fact.to_be_bytes()).collect());
        if metadata.is_symlink() {
            parts.push(fs::read_link(root.join(&name))?.as_os_str().as_bytes().to_vec());
        }
    }
    Ok(Digest::of_parts(parts.iter().map(Vec::as_slice)))
}

/// Makes `root` what `fresh` is, and uses `fresh` up. What is right stays, since programs of other
/// sites of the machine have it open; what is wrong is replaced by a rename, so that nobody sees half
/// a file. Returns how many entries were wrong. Blocks.
pub(super) fn mend(root: &Path, fresh: &Path) -> io::Result<usize> {
    let wanted = entries(fresh)?;
    let mut wrong = 0;
    for name in entries(root)?.into_keys() {
        // What was below a directory that went is gone as well.
        let path = root.join(&name);
        if !wanted.contains_key(&name) && fs::symlink_metadata(&path).is_ok() {
            remove(&path)?;
            wrong += 1;
        }
    }
    // In order of name: a directory comes before what is in it.
    for (name, metadata) in wanted {
        let (from, to) = (fresh.join(&name), root.join(&name));
        let there = fs::symlink_metadata(&to).ok();
        if metadata.is_dir() {
            if there.as_ref().is_none_or(|there| !there.is_dir()) {
                remove_if(&to, there.is_some())?;
                fs::create_dir(&to)?;
                wrong += 1;
            }
            fs::set_permissions(&to, metadata.permissions())?;
        } else if there.as_ref().is_none_or(|there| !is_same(there, &to, &metadata, &from)) {
            remove_if(&to, there.is_some_and(|there| there.is_dir()))?;
            fs::rename(&from, &to)?;
            wrong += 1;
        }
    }
    Ok(wrong)
}

/// Everything below `root` by its name there.
fn entries(root: &Path) -> io::Result<BTreeMap<PathBuf, Metadata>> {
    let mut found = BTreeMap::new();
    let mut below = vec![PathBuf::new()];
    while let Some(directory) = below.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let name = directory.join(entry.file_name());
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                below.push(name.clone());
            }
            found.insert(name, metadata);
        }
    }
    Ok(found)
}

fn is_same(one: &Metadata, at: &Path, other: &Metadata, beside: &Path) -> bool {
    if one.mode() != other.mode() || one.len() != other.len() {
        return false;
    }
    if one.is_symlink() {
        return fs::read_link(at).ok() == fs::read_link(beside).ok();
    }
    // Equal sizes, and so at most one file of the artifact in memory twice.
    matches!((fs::read(at), fs::read(beside)), (Ok(one), Ok(other)) if one == other)
}

fn remove_if(path: &Path, wanted: bool) -> io::Result<()> {
    if wanted { remove(path) } else { Ok(()) }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}
