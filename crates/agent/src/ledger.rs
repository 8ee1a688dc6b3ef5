//! The ledger: the last accepted documents on disk, from which a site starts with everything else
//! switched off.
//!
//! One file a document, at the document's key, so that a damaged file costs one document. A file
//! is a line (format, key, generation, digest of the rest) and then the document as it came. It is
//! written to a temporary file, synced and renamed before the site acts on the document. A file
//! that can't be read is set aside, never deleted, and the fabric supplies the document again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use selvedge_fabric::layout::LayoutError;
use selvedge_model::{Digest, Generation};

use crate::layout::LAYOUT;

/// First word of every file; the number is the format's version.
const FORMAT: &str = "selvedge-ledger/1";

/// Larger files are no documents.
const MAX_FILE: u64 = 4 << 20;

/// How often, and with what pause, the lock is tried.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A document read back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) generation: Generation,
    pub(crate) value: Vec<u8>,
}

/// Why the ledger can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The agent's data directory is not one, or is of a later version.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file can't be used.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// A change of the ledger.
#[derive(Debug)]
pub(crate) enum Entry {
    Write(Record),
    Remove(String),
}

/// The ledger's directory. All methods block.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    directory: PathBuf,
    aside: PathBuf,
    temporary: Arc<AtomicU64>,
    /// Held as long as the ledger is open: two agents would undo each other's work.
    _lock: Arc<Flock<File>>,
}

/// What was found on disk.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) ledger: Ledger,
    pub(crate) records: Vec<Record>,
    /// Files that were set aside, in words.
    pub(crate) problems: Vec<String>,
}

impl Ledger {
    /// Opens or creates the ledger in `data` and reads all of it.
    pub(crate) fn open(data: &Path) -> Result<Opened, OpenError> {
        LAYOUT.inspect(data)?;
        private_directory(data)?;
        let lock = Arc::new(lock(&data.join("ledger.lock"))?);
        LAYOUT.open(data)?;
        let directory = data.join("ledger");
        private_directory(&directory)?;
        let ledger = Self {
            aside: data.join("ledger-set-aside"),
            temporary: Arc::new(AtomicU64::new(0)),
            directory: directory.clone(),
            _lock: lock,
        };
        match fs::remove_dir_all(ledger.scratch()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => private_directory(&ledger.scratch())?,
        }
        let mut files = Vec::new();
        collect(&directory, &ledger.scratch(), &mut files)?;
        let (mut records, mut problems) = (Vec::new(), Vec::new());
        for file in files {
            let key = file.strip_prefix(&directory).unwrap_or(&file).to_string_lossy().into_owned();
            match read(&file, &key) {
                Ok(record) => records.push(record),
                Err(reason) => problems.push(ledger.set_aside(&file, &key, &reason)),
            }
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Opened { ledger, records, problems })
    }

    /// Applies changes in order; each is durable when this returns.
    pub(crate) fn apply(&self, entries: &[Entry]) -> io::Result<()> {
        entries.iter().try_for_each(|entry| match entry {
            Entry::Write(record) => self.write(record),
            Entry::Remove(key) => self.remove(key),
        })
    }

    /// Replaces the document at the record's key.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.key)?;
        let parent = path.parent().unwrap_or(&self.directory);
        private_directory(parent)?;
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.scratch().join(number.to_string());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let Record { key, generation, value } = record;
        writeln!(file, "{FORMAT} {key} {generation} {}", Digest::of(value))?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(parent)?.sync_all()
    }

    /// Removes the document at `key`, if there is one.
    pub(crate) fn remove(&self, key: &str) -> io::Result<()> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => Ok(()),
            Ok(()) => File::open(path.parent().unwrap_or(&self.directory))?.sync_all(),
        }
    }

    /// Moves the file of a document that is of no use here out of the way, and says so in words.
    pub(crate) fn set_aside_key(&self, key: &str, reason: &str) -> String {
        match self.path(key) {
            Ok(path) => self.set_aside(&path, key, reason),
            Err(error) => format!("ledger entry {key}: {reason} ({error})"),
        }
    }

    fn set_aside(&self, file: &Path, key: &str, reason: &str) -> String {
        let name: String = key.replace('/', "+").chars().take(150).collect();
        let target = (0..1000_u32)
            .map(|number| self.aside.join(format!("{name}.{number}")))
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.aside.join(&name));
        let moved = private_directory(&self.aside).and_then(|()| fs::rename(file, &target));
        let outcome = match moved {
            Ok(()) => format!("set aside as {}", target.display()),
            Err(error) => format!("left where it is, because moving it failed: {error}"),
        };
        let message = format!(
            "ledger entry {key} {reason}; it was {outcome}, and the fabric is asked for it again"
        );
        tracing::warn!("{message}");
        message
    }

    fn scratch(&self) -> PathBuf {
        self.directory.join(".tmp")
    }

    /// Keys come from the fabric: none may name a file outside the ledger.
    fn path(&self, key: &str) -> io::Result<PathBuf> {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        };
        if key.split('/').all(plain) {
            Ok(self.directory.join(key))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is no ledger key")))
        }
    }
}

/// Takes the lock, or gives up after a moment: a killed agent's may outlive it shortly.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    for _ in 0..LOCK_ATTEMPTS {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(io::Error::other("another agent is running on this directory"))
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn collect(directory: &Path, skip: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path == skip {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&path, skip, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path, key: &str) -> Result<Record, String> {
    let unreadable = |error: io::Error| format!("can't be read ({error})");
    if fs::symlink_metadata(path).map_err(unreadable)?.len() > MAX_FILE {
        return Err("is too large for a document".to_owned());
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let damaged = || "is damaged".to_owned();
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
    let (head, value) = bytes.split_at(end);
    let value = value.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| damaged())?;
    let mut words = head.split(' ');
    match words.next() {
        Some(FORMAT) => {}
        Some(other) if other.starts_with("selvedge-ledger/") => {
            return Err(format!("is of format {other}, which this version can't read"));
        }
        _ => return Err(damaged()),
    }
    let (written_key, generation, digest) = (words.next(), words.next(), words.next());
    if written_key != Some(key) {
        return Err("is the entry of another key".to_owned());
    }
    let generation = generation.and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    if digest != Some(Digest::of(value).to_string().as_str()) {
        return Err(damaged());
    }
    Ok(Record { key: key.to_owned(), generation, value: value.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn record(key: &str, number: u64, value: &str) -> Record {
        Record {
            key: key.into(),
            generation: Generation::new(1, number),
            value: value.as_bytes().to_vec(),
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_private() {
        let data = tempfile::tempdir().unwrap();
        let opened = Ledger::open(data.path()).unwrap();
        opened.ledger.write(&record("pin-keys", 1, "old")).unwrap();
        opened.ledger.write(&record("pin-keys", 2, "new\nline")).unwrap();
        opened.ledger.write(&record("assign/fra/shop/production", 3, "{}")).unwrap();
        opened.ledger.write(&record("zone/edge.test", 4, "{}")).unwrap();
        opened.ledger.remove("zone/edge.test").unwrap();
        opened.ledger.remove("zone/edge.test").unwrap();
        drop(opened);
        let again = Ledger::open(data.path()).unwrap();
        assert!(Ledger::open(data.path()).unwrap_err().to_string().contains("another agent"));
        assert_eq!(
            again.records,
            [record("assign/fra/shop/production", 3, "{}"), record("pin-keys", 2, "new\nline")]
        );
        assert!(again.problems.is_empty());
        let mode = fs::metadata(data.path().join("ledger/pin-keys")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damage_costs_one_document_and_is_kept_for_people() {
        let data = tempfile::tempdir().unwrap();
        let opened = Ledger::open(data.path()).unwrap();
        for (number, key) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            opened.ledger.write(&record(key, number as u64, "{\"some\": \"document\"}")).unwrap();
        }
        drop(opened);
        let file = |key: &str| data.path().join("ledger").join(key);
        let whole = fs::read(file("a")).unwrap();
        fs::write(file("a"), &whole[..whole.len() - 3]).unwrap();
        fs::write(file("b"), b"\0\0\0").unwrap();
        fs::write(file("c"), b"").unwrap();
        fs::write(file("d"), String::from_utf8(whole).unwrap().replacen("/1", "/9", 1)).unwrap();
        let again = Ledger::open(data.path()).unwrap();
        assert_eq!(again.records.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(), ["e"]);
        assert_eq!(again.problems.len(), 4);
        assert!(again.problems.iter().any(|it| it.contains("format selvedge-ledger/9")));
        assert_eq!(fs::read_dir(data.path().join("ledger-set-aside")).unwrap().count(), 4);
        drop(again);
        assert_eq!(Ledger::open(data.path()).unwrap().problems.len(), 0);
    }

    #[test]
    fn a_ledger_of_a_later_version_is_left_as_it_is() {
        let data = tempfile::tempdir().unwrap();
        let opened = Ledger::open(data.path()).unwrap();
        opened.ledger.write(&record("pin-keys", 1, "old")).unwrap();
        drop(opened);
        fs::write(data.path().join("version"), "agent 9\n").unwrap();
        let refusal = Ledger::open(data.path()).unwrap_err().to_string();
        assert!(refusal.contains("newer Selvedge (data version 9"), "{refusal}");
        // As the first agent left it.
        fs::remove_file(data.path().join("version")).unwrap();
        assert_eq!(Ledger::open(data.path()).unwrap().records, [record("pin-keys", 1, "old")]);
        let stranger = tempfile::tempdir().unwrap();
        fs::write(stranger.path().join("thesis.txt"), "").unwrap();
        Ledger::open(stranger.path()).unwrap_err();
        assert_eq!(fs::read_dir(stranger.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_stay_inside() {
        let data = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(data.path()).unwrap().ledger;
        for key in ["../x", "/x", "a//b", "a/../b", ".tmp/1", "a\0"] {
            assert!(ledger.write(&record(key, 1, "")).is_err(), "{key}");
        }
    }
}
