//! Content-addressed files in a directory: `aa/DIGEST`, where `aa` are the digest's first two
//! digits.
//!
//! A file appears under its name only when it is whole and durable, and never changes after. A
//! file found damaged is moved to `damaged/`, so that a blob that can't be had does not count as
//! stored. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use selvedge_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::{BlobReader, FabricError};

/// What is read and written at once, in bytes.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The largest blob, in bytes.
pub(crate) const MAX_BLOB: u64 = 8 << 30;

/// A directory of blobs.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the directory `root`, making it if need be, and removes what an interrupted write
    /// left. The caller makes sure that no other process writes there.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        let blobs = Self { root };
        let incoming = blobs.incoming();
        if incoming.exists() {
            fs::remove_dir_all(&incoming)?;
        }
        fs::create_dir_all(&incoming)?;
        fs::create_dir_all(blobs.root.join("damaged"))?;
        Ok(blobs)
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let fan = name.get(..2).unwrap_or_default();
        self.root.join(fan).join(&name)
    }

    /// Copies the file at `source` in. A copy, not a link: whoever keeps the source open could
    /// alter the blob through a link. A stored blob of the same digest is replaced, which mends it
    /// if it was damaged.
    pub(crate) fn put(&self, source: &Path) -> Result<Digest, FabricError> {
        let mut from = File::open(source).map_err(FabricError::File)?;
        let mut temporary = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o400))
            .tempfile_in(self.incoming())
            .map_err(store)?;
        let digest = copy(&mut from, temporary.as_file_mut())?;
        temporary.as_file().sync_all().map_err(store)?;
        let path = self.path(&digest);
        let parent = path.parent().unwrap_or(&self.root);
        if !parent.exists() {
            fs::create_dir_all(parent).map_err(store)?;
            sync_directory(&self.root).map_err(store)?;
        }
        temporary.persist(&path).map_err(|error| store(error.error))?;
        sync_directory(parent).map_err(store)?;
        Ok(digest)
    }

    /// Opens a blob for reading, as it is: see [`Reader`].
    pub(crate) fn reader(&self, digest: &Digest) -> Result<Reader, FabricError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Reader {
                file,
                hash: Sha256::new(),
                digest: *digest,
                blobs: Some((self.clone(), path)),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(FabricError::NoSuchBlob(*digest))
            }
            Err(error) => Err(store(error)),
        }
    }

    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, FabricError> {
        self.path(digest).try_exists().map_err(store)
    }

    pub(crate) fn list(&self) -> Result<Vec<Digest>, FabricError> {
        let mut digests = Vec::new();
        for fan in fs::read_dir(&self.root).map_err(store)? {
            let fan = fan.map_err(store)?;
            if fan.file_name().len() != 2 {
                continue;
            }
            for file in fs::read_dir(fan.path()).map_err(store)? {
                let name = file.map_err(store)?.file_name();
                digests.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }

    pub(crate) fn delete(&self, digest: &Digest) -> Result<(), FabricError> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(store(error)),
            _ => Ok(()),
        }
    }

    /// Moves a damaged blob out of the way, unless a whole one has taken its place meanwhile.
    fn set_aside(&self, path: &Path, file: &File) {
        let same = || -> io::Result<bool> {
            let (ours, theirs) = (file.metadata()?, fs::metadata(path)?);
            Ok(ours.ino() == theirs.ino() && ours.dev() == theirs.dev())
        };
        let Some(name) = path.file_name() else { return };
        let aside = self.root.join("damaged").join(name);
        if same().unwrap_or(false) {
            match fs::rename(path, &aside) {
                Ok(()) => tracing::error!(file = %aside.display(), "a blob is damaged: moved away"),
                Err(error) => tracing::error!(file = %path.display(), %error, "a blob is damaged"),
            }
        }
    }
}

/// Reads a blob and checks it on the way: the read that would report the end reports damage
/// instead when the content does not have the digest.
pub(crate) struct Reader {
    file: File,
    hash: Sha256,
    digest: Digest,
    blobs: Option<(Blobs, PathBuf)>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Reader {
    /// Fills `buffer` from its start and returns how much of it; 0 at the end of a sound blob.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FabricError> {
        let count = loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(store)?,
            }
        };
        if count > 0 {
            self.hash.update(buffer.get(..count).unwrap_or_default());
        } else if Digest::from_bytes(self.hash.clone().finalize().into()) != self.digest {
            if let Some((blobs, path)) = self.blobs.take() {
                blobs.set_aside(&path, &self.file);
            }
            return Err(FabricError::Damaged(self.digest));
        }
        Ok(count)
    }

    /// Copies the whole blob into the new file at `path`.
    pub(crate) fn copy_to(&mut self, path: &Path) -> Result<(), FabricError> {
        let mut target = Target::new(path)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.read(&mut buffer)?;
            if count == 0 {
                return target.finish();
            }
            target.write(buffer.get(..count).unwrap_or_default())?;
        }
    }
}

/// A file that appears at its path only when it is whole.
struct Target {
    temporary: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Target {
    fn new(path: &Path) -> Result<Self, FabricError> {
        if path.exists() {
            let error = io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists already", path.display()),
            );
            return Err(FabricError::File(error));
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = tempfile::NamedTempFile::new_in(parent).map_err(FabricError::File)?;
        Ok(Self { temporary, path: path.to_owned() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FabricError> {
        self.temporary.write_all(bytes).map_err(FabricError::File)
    }

    fn finish(self) -> Result<(), FabricError> {
        match self.temporary.persist_noclobber(&self.path) {
            Ok(_) => Ok(()),
            Err(error) => Err(FabricError::File(error.error)),
        }
    }
}

/// Writes the blob that `pieces` brings into the new file at `path`, checking it once more: it has
/// been on its way. Blocks.
pub(crate) fn save(
    mut pieces: BlobReader,
    digest: &Digest,
    path: &Path,
) -> Result<(), FabricError> {
    let mut target = Target::new(path)?;
    let mut hash = Sha256::new();
    while let Some(piece) = pieces.receiver.blocking_recv() {
        let piece = piece?;
        hash.update(&piece);
        target.write(&piece)?;
    }
    if Digest::from_bytes(hash.finalize().into()) != *digest {
        return Err(FabricError::Damaged(*digest));
    }
    target.finish()
}

/// Copies all of `from` and returns its digest.
fn copy(from: &mut File, to: &mut File) -> Result<Digest, FabricError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FabricError::File(error)),
        };
        size += count as u64;
        if size > MAX_BLOB {
            return Err(FabricError::Invalid(format!("a blob has at most {MAX_BLOB} bytes")));
        }
        let chunk = buffer.get(..count).unwrap_or_default();
        hash.update(chunk);
        to.write_all(chunk).map_err(store)?;
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(path)?.sync_all()
}

#[expect(clippy::needless_pass_by_value, reason = "it is the shape that map_err wants")]
fn store(error: io::Error) -> FabricError {
    FabricError::Store(format!("blobs: {error}"))
}
