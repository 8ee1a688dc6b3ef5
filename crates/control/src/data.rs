//! Control's data directory: private, of a known version, and one control's at a time.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use selvedge_fabric::layout::{Layout, LayoutError};

/// The versions of the directory's layout and of the documents in its store.
const LAYOUT: Layout = Layout {
    kind: "control",
    migrations: &[],
    unstamped: &[],
    // What a first start leaves that ended before the version was written.
    neutral: &["lock"],
};
/// The longest of the small files kept here, in bytes.
const MAX_SMALL_FILE: u64 = 1 << 16;

/// A locked data directory. The lock ends with the value, or with the process however it ends.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    _lock: Lock,
}

/// The locked file. The lock ends with the value, or with the process.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would not do: a child that is just being started may have it open too.
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "the data directory stays locked until the process ends");
        }
    }
}

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process has it.
    #[error(
        "{} is in use by another control process{}; stop that one, or choose another directory with --data",
        path.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other process, if it has written who it is.
        pid: Option<u32>,
    },
    /// It is another's, or of a later version of Selvedge.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file there is not what it should be.
    #[error("{} is not as it was written: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is odd, in words.
        reason: String,
    },
    /// The machine gives no random numbers.
    #[error("the machine gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// A file can't be read or written.
    #[error("can't use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DataDirectory {
    /// Makes the directory if need be, locks it and checks its version.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        LAYOUT.inspect(path)?;
        private_directory(path)?;
        // Children work in other directories.
        let path = &path
            .canonicalize()
            .map_err(|source| DataError::File { path: path.to_owned(), source })?;
        let lock = lock(path)?;
        LAYOUT.open(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file or directory in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn lock(path: &Path) -> Result<Lock, DataError> {
    let file_path = path.join("lock");
    let failed = |source| DataError::File { path: file_path.clone(), source };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = match (&file).take(MAX_SMALL_FILE).read_to_string(&mut text) {
                Ok(_) => text.trim().parse().ok(),
                Err(_) => None,
            };
            return Err(DataError::Locked { path: path.to_owned(), pid });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    let mut lock = Lock(file);
    write(&mut lock.0).map_err(failed)?;
    Ok(lock)
}

/// Makes `path` and its parents if need be, and `path` itself private.
pub(crate) fn private_directory(path: &Path) -> Result<(), DataError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|source| DataError::File { path: path.to_owned(), source })
}

/// Reads a small text file; `None` when it is absent.
pub(crate) fn read_small(path: &Path) -> Result<Option<String>, DataError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataError::File { path: path.to_owned(), source }),
    };
    let mut text = String::new();
    file.take(MAX_SMALL_FILE)
        .read_to_string(&mut text)
        .map_err(|source| DataError::File { path: path.to_owned(), source })?;
    Ok(Some(text))
}

/// Writes a file whole or not at all, durably, with mode 0600.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), DataError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        // Temporary files have mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| DataError::File { path: path.to_owned(), source })
}

/// Random bytes fit for secrets.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], DataError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(DataError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_never_newer() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        let first = DataDirectory::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let error = DataDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        drop(DataDirectory::open(&path).unwrap());
        std::fs::write(path.join("version"), "2\n").unwrap();
        let error = DataDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains("newer Selvedge (data version 2"), "{error}");
        // As the first control wrote it.
        std::fs::write(path.join("version"), "1\n").unwrap();
        drop(DataDirectory::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(path.join("version")).unwrap(), "control 1\n");
        std::fs::write(path.join("version"), "one").unwrap();
        assert!(matches!(DataDirectory::open(&path), Err(DataError::Layout(_))));
    }

    #[test]
    fn a_directory_of_something_else_is_left_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path();
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path.join("thesis.txt"), "").unwrap();
        let error = DataDirectory::open(path).unwrap_err().to_string();
        assert!(error.contains("is not the data directory of a Selvedge control"), "{error}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
