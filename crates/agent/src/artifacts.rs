//! The machine's store of unpacked artifacts, shared by all of its agents.
//!
//! `ROOT/DIGEST/files` is an artifact, complete as soon as `ROOT/DIGEST` exists. `ROOT/refs/SITE`
//! names the artifacts that a site's agent needs, written before it asks for them; an artifact that
//! nobody names is collected. Every decision about an artifact is taken under its lock in
//! `ROOT/locks`, which the kernel gives back when a process dies.
//!
//! Unpacked files are not synced while a push waits for them. Instead an artifact carries the
//! machine's boot id until its files are synced later: what was unpacked in an earlier boot and
//! still carries one may have lost data with the power, and is unpacked again.
//!
//! `ROOT/DIGEST/listing` says how the files were when they were unpacked. Whenever an agent begins to
//! use an artifact it compares, and mends what has changed from the blob.

mod soundness;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use selvedge_fabric::artifact::{ArtifactError, Limits, unpack};
use selvedge_fabric::{FabricError, SharedFabric};
use selvedge_model::{Digest, SiteId};

/// How long after an artifact was asked for its files are synced: not in the middle of a push,
/// when everybody waits for the disk.
const SYNC_AFTER: Duration = Duration::from_secs(15);

/// Locks are shared by the artifacts whose digests begin alike, so that their number is bounded.
const LOCK_PREFIX: usize = 2;

/// Why an artifact can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("its blob can't be fetched")]
    Fetch(#[source] FabricError),
    #[error("it can't be unpacked")]
    Unpack(#[source] ArtifactError),
    #[error("the artifact store at {} can't be used", path.display())]
    Store { path: PathBuf, source: io::Error },
}

impl StoreError {
    /// Whether the fabric is out of reach, which is no fault of the artifact.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Fetch(FabricError::Unreachable(_)))
    }
}

/// The store, as one agent sees it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
    site: SiteId,
    boot: String,
}

impl Store {
    /// Opens or creates the store at `root`. Blocks.
    pub(crate) fn open(root: &Path, site: &SiteId) -> Result<Self, StoreError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let store =
            Self { root: root.to_owned(), site: site.clone(), boot: boot.trim().to_owned() };
        // Programs read what is unpacked; the rest is the agents' own.
        for (part, mode) in [("", 0o755), ("refs", 0o700), ("locks", 0o700), ("tmp", 0o700)] {
            let path = root.join(part);
            DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(at(&path))?;
        }
        Ok(store)
    }

    /// States what this site needs, durably. Blocks. Where nothing can be written, what was stated
    /// before will do if it has all of it: a site starts again on a full disk.
    pub(crate) fn refer(&self, digests: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let path = self.root.join("refs").join(self.site.as_str());
        let temporary = self.root.join("tmp").join(format!("refs-{}", self.site));
        let lines: String = digests.iter().map(|digest| format!("{digest}\n")).collect();
        let stated = fs::read_to_string(&path).unwrap_or_default();
        if stated == lines {
            return Ok(());
        }
        let write = || {
            let options = &mut OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        match write() {
            Err(_) if lines.lines().all(|line| stated.lines().any(|it| it == line)) => Ok(()),
            written => written.map_err(at(&path)),
        }
    }

    /// The directory of the artifact's files if it is unpacked. Blocks, briefly.
    pub(crate) fn find(&self, digest: &Digest) -> Option<PathBuf> {
        let place = self.place(digest);
        let files = place.join("files");
        let trusted = match fs::read_to_string(place.join("unsynced")) {
            Ok(boot) => boot == self.boot,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        (trusted && files.is_dir()).then_some(files)
    }

    /// The directory of the artifact's files, fetched and unpacked first if need be. Any number of
    /// agents may ask at once: one does the work, the others wait.
    pub(crate) async fn ensure(
        &self,
        fabric: &SharedFabric,
        digest: Digest,
    ) -> Result<PathBuf, StoreError> {
        let files = self.get(fabric, digest).await?;
        let store = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SYNC_AFTER).await;
            tokio::task::spawn_blocking(move || store.sync(&digest));
        });
        Ok(files)
    }

    async fn get(&self, fabric: &SharedFabric, digest: Digest) -> Result<PathBuf, StoreError> {
        let store = self.clone();
        let found = self
            .blocking(move || {
                if let Some(files) = store.find_sound(&digest) {
                    return Ok(Found::Sound(files));
                }
                let lock = store.lock(&digest)?;
                if let Some(files) = store.find_sound(&digest) {
                    return Ok(Found::Sound(files));
                }
                let changed = store.find(&digest).is_some();
                if !changed {
                    store.clear(&digest)?;
                }
                Ok(Found::Wanting { lock, changed })
            })
            .await?;
        let (lock, changed) = match found {
            Found::Sound(files) => return Ok(files),
            Found::Wanting { lock, changed } => (lock, changed),
        };
        let archive = self.archive(&digest);
        match fabric.fetch_blob(&digest, &archive).await {
            // A site lives alone: what it has is better than nothing, until its next start.
            Err(FabricError::Unreachable(_)) if changed => {
                tracing::warn!(digest = %digest.short(), "unpacked files have changed; no blob to mend them from");
                return Ok(self.place(&digest).join("files"));
            }
            fetched => fetched.map_err(StoreError::Fetch)?,
        }
        // The lock goes along: whoever waits here may give up, the work goes on to its end.
        let store = self.clone();
        self.blocking(move || {
            let unpacked = if changed { store.mend(&digest) } else { store.unpack(&digest) };
            let _ = fs::remove_file(store.archive(&digest));
            if changed || unpacked.is_err() {
                let _ = fs::remove_dir_all(store.partial(&digest));
            }
            drop(lock);
            unpacked
        })
        .await
    }

    /// What [`Store::find`] finds, if it is as it was unpacked. Blocks.
    fn find_sound(&self, digest: &Digest) -> Option<PathBuf> {
        let files = self.find(digest)?;
        let listing = match fs::read_to_string(self.place(digest).join("listing")) {
            // Unpacked by an earlier version, which made no lists.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(files),
            listing => listing.ok()?,
        };
        let now = soundness::fingerprint(&files).ok()?;
        (listing == now.to_string()).then_some(files)
    }

    fn unpack(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let (place, partial) = (self.place(digest), self.partial(digest));
        self.unpack_at(digest, &partial)?;
        self.list(&partial)?;
        fs::write(partial.join("unsynced"), &self.boot).map_err(at(&partial))?;
        fs::rename(&partial, &place).map_err(at(&place))?;
        Ok(place.join("files"))
    }

    fn unpack_at(&self, digest: &Digest, partial: &Path) -> Result<(), StoreError> {
        DirBuilder::new().mode(0o755).create(partial).map_err(at(partial))?;
        unpack(&self.archive(digest), &partial.join("files"), Limits::default())
            .map_err(StoreError::Unpack)
    }

    /// Mends what is unpacked, in its place: programs run in it.
    fn mend(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let (place, partial) = (self.place(digest), self.partial(digest));
        let _ = fs::remove_dir_all(&partial);
        self.unpack_at(digest, &partial)?;
        let files = place.join("files");
        let wrong = soundness::mend(&files, &partial.join("files")).map_err(at(&files))?;
        self.list(&place)?;
        if wrong > 0 {
            tracing::warn!(digest = %digest.short(), wrong, "unpacked files were damaged, and are mended");
        }
        Ok(files)
    }

    /// Writes down how the files in `place` are.
    fn list(&self, place: &Path) -> Result<(), StoreError> {
        let files = place.join("files");
        let listing = soundness::fingerprint(&files).map_err(at(&files))?;
        let path = place.join("listing");
        fs::write(&path, listing.to_string()).map_err(at(&path))
    }

    /// Makes an artifact durable. Each file by itself: a sync of the whole file system would wait
    /// for what other programs of the machine have written, and hold up every ledger meanwhile.
    fn sync(&self, digest: &Digest) {
        let place = self.place(digest);
        if !place.join("unsynced").exists() {
            return;
        }
        // One agent of the machine is enough.
        let Ok(_lock) = self.lock(digest) else { return };
        let synced =
            sync_below(&place).and_then(|()| match fs::remove_file(place.join("unsynced")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            });
        if let Err(error) = synced {
            tracing::debug!(digest = %digest.short(), "artifact not synced: {error}");
        }
    }

    /// Removes what no agent of the machine names. Blocks.
    pub(crate) fn collect(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        let referenced = self.referenced()?;
        for name in names(&self.root)? {
            let Ok(digest) = name.parse::<Digest>() else { continue };
            if referenced.contains(&digest) {
                continue;
            }
            // Somebody may have named it meanwhile: what counts is read under the lock.
            let _lock = self.lock(&digest)?;
            if !self.referenced()?.contains(&digest) {
                self.clear(&digest)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn referenced(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let directory = self.root.join("refs");
        let mut digests = BTreeSet::new();
        for name in names(&directory)? {
            let path = directory.join(name);
            let text = fs::read_to_string(&path).map_err(at(&path))?;
            digests.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok()));
        }
        Ok(digests)
    }

    /// Removes the artifact and what an unfinished attempt left. Its lock must be held.
    fn clear(&self, digest: &Digest) -> Result<(), StoreError> {
        let (place, partial, archive) =
            (self.place(digest), self.partial(digest), self.archive(digest));
        let absent_is_fine = |path: &Path, result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
            _ => Ok(()),
        };
        absent_is_fine(&archive, fs::remove_file(&archive))?;
        absent_is_fine(&partial, fs::remove_dir_all(&partial))?;
        // First out of sight: a directory at its final name is a whole one.
        absent_is_fine(&place, fs::rename(&place, &partial))?;
        absent_is_fine(&partial, fs::remove_dir_all(&partial))
    }

    fn lock(&self, digest: &Digest) -> Result<Flock<File>, StoreError> {
        let name: String = digest.to_string().chars().take(LOCK_PREFIX).collect();
        let path = self.root.join("locks").join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| at(&path)(errno.into()))
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.to_string())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("tmp").join(format!("{digest}.partial"))
    }

    fn archive(&self, digest: &Digest) -> PathBuf {
        self.root.join("tmp").join(format!("{digest}.tar"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(at(&self.root)(io::Error::other(error))),
        }
    }
}

/// What is there of an artifact.
enum Found {
    /// All of it.
    Sound(PathBuf),
    /// Nothing, or files that are not as they were unpacked.
    Wanting { lock: Flock<File>, changed: bool },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Store { path, source }
}

/// Syncs the files and directories below `directory`, and it. Links have no data of their own.
fn sync_below(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_below(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_data()?;
        }
    }
    File::open(directory)?.sync_all()
}

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    read().map_err(at(directory))
}

#[cfg(test)]
mod tests;
