//! Artifacts: directories packed into blobs by control and unpacked by sites.
//!
//! Equal files make equal archives: entries are sorted by path, owners and times are zero, and of
//! the mode only the owner's execute bit is kept. Symbolic links stay links and are never followed;
//! sockets, pipes and devices are left out. Both directions block, so callers move them off the
//! async runtime.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

/// How much an artifact may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 200_000, bytes: 2 << 30 }
    }
}

/// Why a directory can't be packed or an artifact not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Too many entries.
    #[error("it has more than {0} files")]
    TooMany(u64),
    /// Too many bytes.
    #[error("it is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
    /// The archive holds something that [`pack`] never writes.
    #[error("the archive has an entry that is not allowed: {0}")]
    Foreign(String),
    /// A file can't be read or written.
    #[error("can't access {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::File { path, source }
}

/// Packs the content of `directory` into the new file `archive` and returns its size in bytes.
pub fn pack(directory: &Path, archive: &Path, limits: Limits) -> Result<u64, ArtifactError> {
    let file = File::create_new(archive).map_err(at(archive))?;
    let mut packer = Packer {
        tar: Builder::new(BufWriter::with_capacity(1 << 18, file)),
        limits,
        entries: 0,
        bytes: 0,
    };
    packer.directory(directory, Path::new(""))?;
    let file = packer.tar.into_inner().and_then(|writer| Ok(writer.into_inner()?));
    let file = file.map_err(at(archive))?;
    Ok(file.metadata().map_err(at(archive))?.len())
}

struct Packer {
    tar: Builder<BufWriter<File>>,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl Packer {
    fn directory(&mut self, source: &Path, name: &Path) -> Result<(), ArtifactError> {
        let mut names: Vec<OsString> = fs::read_dir(source)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(at(source))?;
        names.sort();
        for child in names {
            self.entry(&source.join(&child), &name.join(&child))?;
        }
        Ok(())
    }

    fn entry(&mut self, source: &Path, name: &Path) -> Result<(), ArtifactError> {
        let metadata = fs::symlink_metadata(source).map_err(at(source))?;
        let kind = metadata.file_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return Ok(());
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArtifactError::TooMany(self.limits.entries));
        }
        let mut header = Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(0o755);
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.append(header, name, None, io::empty()).map_err(at(source))?;
            return self.directory(source, name);
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(source).map_err(at(source))?;
            return self.append(header, name, Some(&target), io::empty()).map_err(at(source));
        }
        header.set_entry_type(EntryType::Regular);
        if metadata.permissions().mode() & 0o100 == 0 {
            header.set_mode(0o644);
        }
        let size = metadata.len();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            return Err(ArtifactError::TooLarge(self.limits.bytes));
        }
        header.set_size(size);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(source)
            .map_err(at(source))?;
        self.append(header, name, None, Exactly { inner: file, left: size }).map_err(at(source))
    }

    /// Appends an entry; names too long for a ustar header go into pax records before it.
    fn append(
        &mut self,
        mut header: Header,
        name: &Path,
        target: Option<&Path>,
        content: impl Read,
    ) -> io::Result<()> {
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        if header.set_path(name).is_err() {
            records.push(("path", name.as_os_str().as_bytes()));
            header.set_path("long")?;
        }
        if let Some(target) = target
            && header.set_link_name_literal(target.as_os_str().as_bytes()).is_err()
        {
            records.push(("linkpath", target.as_os_str().as_bytes()));
            header.set_link_name_literal("long")?;
        }
        if !records.is_empty() {
            self.tar.append_pax_extensions(records)?;
        }
        header.set_cksum();
        self.tar.append(&header, content)
    }
}

/// A reader of exactly `left` bytes: the header has promised them.
struct Exactly {
    inner: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let count = Read::by_ref(&mut self.inner).take(self.left).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has shrunk"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Unpacks `archive` into the new directory `directory`. Files are readable by everybody, because
/// the user that a workload runs as is not the one that unpacks.
pub fn unpack(archive: &Path, directory: &Path, limits: Limits) -> Result<(), ArtifactError> {
    let file = File::open(archive).map_err(at(archive))?;
    fs::DirBuilder::new().mode(0o755).create(directory).map_err(at(directory))?;
    let mut tar = Archive::new(BufReader::with_capacity(1 << 18, file));
    let mut unpacker = Unpacker {
        root: directory,
        directories: BTreeSet::from([PathBuf::new()]),
        limits,
        entries: 0,
        bytes: 0,
    };
    for entry in tar.entries().map_err(at(archive))? {
        unpacker.entry(entry.map_err(at(archive))?)?;
    }
    Ok(())
}

struct Unpacker<'a> {
    root: &'a Path,
    /// Directories made so far. An entry's parent must be one, so that nothing is ever written
    /// through a link.
    directories: BTreeSet<PathBuf>,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), ArtifactError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArtifactError::TooMany(self.limits.entries));
        }
        let name = entry.path().map_err(at(self.root))?.into_owned();
        let foreign = || ArtifactError::Foreign(name.display().to_string());
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        let parent = name.parent().ok_or_else(foreign)?;
        if !plain || !self.directories.contains(parent) {
            return Err(foreign());
        }
        let path = self.root.join(&name);
        match entry.header().entry_type() {
            EntryType::Directory => {
                fs::DirBuilder::new().mode(0o755).create(&path).map_err(at(&path))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(at(&path))?;
                self.directories.insert(name);
            }
            EntryType::Symlink => {
                let target =
                    entry.link_name().map_err(at(&path))?.ok_or_else(foreign)?.into_owned();
                std::os::unix::fs::symlink(target, &path).map_err(at(&path))?;
            }
            EntryType::Regular => {
                self.bytes = self.bytes.saturating_add(entry.size());
                if self.bytes > self.limits.bytes {
                    return Err(ArtifactError::TooLarge(self.limits.bytes));
                }
                let executable = entry.header().mode().map_err(at(&path))? & 0o100 != 0;
                let mut file = File::create_new(&path).map_err(at(&path))?;
                io::copy(&mut entry, &mut file).map_err(at(&path))?;
                file.flush().map_err(at(&path))?;
                let mode = if executable { 0o755 } else { 0o644 };
                file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at(&path))?;
            }
            _ => return Err(foreign()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join("index.html"), "hello").unwrap();
        std::os::unix::fs::symlink("bin/run", root.join("link")).unwrap();
        std::os::unix::fs::symlink("x".repeat(200), root.join("far")).unwrap();
        let deep = root.join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f".repeat(120)), "deep").unwrap();
    }

    #[test]
    fn equal_directories_make_equal_archives_and_come_back() {
        let scratch = tempfile::tempdir().unwrap();
        let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
        tree(&a);
        tree(&b);
        let (one, two) = (scratch.path().join("1.tar"), scratch.path().join("2.tar"));
        let size = pack(&a, &one, Limits::default()).unwrap();
        pack(&b, &two, Limits::default()).unwrap();
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        assert_eq!(fs::metadata(&one).unwrap().len(), size);

        let back = scratch.path().join("back");
        unpack(&one, &back, Limits::default()).unwrap();
        assert_eq!(fs::read_to_string(back.join("index.html")).unwrap(), "hello");
        assert_eq!(fs::metadata(back.join("bin/run")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(back.join("far")).unwrap().as_os_str().len(), 200);
        let three = scratch.path().join("3.tar");
        pack(&back, &three, Limits::default()).unwrap();
        assert_eq!(fs::read(&one).unwrap(), fs::read(&three).unwrap());
    }

    #[test]
    fn limits_hold() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("a");
        tree(&root);
        let few = Limits { entries: 3, bytes: 1 << 20 };
        let small = Limits { entries: 100, bytes: 8 };
        let archive = scratch.path().join("few");
        assert!(matches!(pack(&root, &archive, few), Err(ArtifactError::TooMany(3))));
        let archive = scratch.path().join("small");
        assert!(matches!(pack(&root, &archive, small), Err(ArtifactError::TooLarge(8))));
    }

    #[test]
    fn hostile_archives_write_nothing_outside() {
        let scratch = tempfile::tempdir().unwrap();
        let archive = |name: &str, entries: &[(EntryType, &str, &str)]| {
            let path = scratch.path().join(name);
            let mut tar = Builder::new(File::create(&path).unwrap());
            for (kind, entry, target) in entries {
                let mut header = Header::new_ustar();
                header.set_entry_type(*kind);
                header.set_mode(0o644);
                header.set_size(0);
                // Written raw, because the library refuses to write such names.
                header.as_mut_bytes()[..entry.len()].copy_from_slice(entry.as_bytes());
                header.set_link_name_literal(target).unwrap();
                header.set_cksum();
                tar.append(&header, io::empty()).unwrap();
            }
            tar.finish().unwrap();
            path
        };
        let cases: [&[(EntryType, &str, &str)]; 4] = [
            &[(EntryType::Regular, "../out", "")],
            &[(EntryType::Regular, "/tmp/out", "")],
            &[(EntryType::Symlink, "a", "/tmp"), (EntryType::Regular, "a/out", "")],
            &[(EntryType::Char, "null", "")],
        ];
        for (number, entries) in cases.iter().enumerate() {
            let path = archive(&format!("{number}.tar"), entries);
            let target = scratch.path().join(format!("{number}"));
            let result = unpack(&path, &target, Limits::default());
            assert!(matches!(result, Err(ArtifactError::Foreign(_))), "{number}: {result:?}");
        }
    }
}
