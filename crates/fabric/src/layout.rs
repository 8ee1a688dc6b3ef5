//! Whose a data directory is, and which version of its layout it has: the file `version` in it.
//!
//! A directory of an earlier version is brought up to date by steps, one for each version. The file
//! is written after each step, so a step that was cut short runs again: it must be able to. A
//! directory of a later version, and one that is something else, are refused as they are. The
//! database of [`crate::embedded`] has a version of its own, in the database. Callers are the
//! supervisor of a box, `control` and `agent`; each holds the directory's lock meanwhile.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// The file's name.
pub const VERSION_FILE: &str = "version";

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 256;

/// Brings a directory from one version to the next. It may be run again after it was cut short.
pub type Migration = fn(&Path) -> io::Result<()>;

/// A kind of data directory.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// One word: whose it is.
    pub kind: &'static str,
    /// Steps from version 1 to 2, from 2 to 3, and so on.
    pub migrations: &'static [Migration],
    /// Names in the directory that tell one of version 1 that says nothing of its version.
    pub unstamped: &'static [&'static str],
    /// Names that may be there before the directory is anybody's, such as its lock.
    pub neutral: &'static [&'static str],
}

/// What a directory was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Absent or empty.
    New,
    /// Of this kind and of this version, which is known.
    Version(u32),
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A later version of Selvedge has written it.
    #[error(
        "{} was written by a newer Selvedge (data version {found}, and this one knows {known}): \
         run that version, or choose another directory with --data",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that is known here.
        known: u32,
    },
    /// It is something else.
    #[error(
        "{} is not the data directory of a Selvedge {kind}: {reason}; give --data an empty or new \
         directory",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it was to be.
        kind: &'static str,
        /// What it is instead, in words.
        reason: String,
    },
    /// A step to a later version failed. The directory is as before the step, or on its way: the
    /// next start takes the step again.
    #[error("{} can't be brought from data version {from} to {}", path.display(), from + 1)]
    Migration {
        /// The directory.
        path: PathBuf,
        /// The version that it has.
        from: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file there can't be read or written.
    #[error("can't use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Layout {
    /// The version that this program writes.
    pub fn version(&self) -> u32 {
        u32::try_from(self.migrations.len()).map_or(u32::MAX, |steps| steps.saturating_add(1))
    }

    /// Finds out what `directory` is and changes nothing.
    ///
    /// # Errors
    /// When it is not to be used: see [`LayoutError`].
    pub fn inspect(&self, directory: &Path) -> Result<Found, LayoutError> {
        let foreign = |reason: String| LayoutError::Foreign {
            path: directory.to_owned(),
            kind: self.kind,
            reason,
        };
        let Some(text) = read(&directory.join(VERSION_FILE))? else {
            return self.inspect_unstamped(directory);
        };
        let (kind, version) = match text.trim().split_once(' ') {
            // The first control wrote the bare number.
            None => ("control", text.trim()),
            Some(words) => words,
        };
        if kind != self.kind {
            let plain = kind.len() < 20 && kind.chars().all(|letter| letter.is_ascii_alphabetic());
            return Err(foreign(match plain {
                true => format!("it is that of a Selvedge {kind}"),
                false => format!("its file {VERSION_FILE:?} is not Selvedge's"),
            }));
        }
        match version.parse::<u32>() {
            Ok(found) if found > self.version() => {
                let (path, known) = (directory.to_owned(), self.version());
                Err(LayoutError::Newer { path, found, known })
            }
            Ok(found) if found > 0 => Ok(Found::Version(found)),
            _ => Err(foreign(format!("its file {VERSION_FILE:?} names no version"))),
        }
    }

    fn inspect_unstamped(&self, directory: &Path) -> Result<Found, LayoutError> {
        let failed = |source| LayoutError::File { path: directory.to_owned(), source };
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::New),
            entries => entries.map_err(failed)?,
        };
        let mut stranger = None;
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if self.unstamped.contains(&name.as_str()) {
                return Ok(Found::Version(1));
            }
            // A temporary file is one that was to become the version.
            if !self.neutral.contains(&name.as_str()) && !name.starts_with(".tmp") {
                stranger = Some(name);
            }
        }
        match stranger {
            None => Ok(Found::New),
            Some(name) => Err(LayoutError::Foreign {
                path: directory.to_owned(),
                kind: self.kind,
                reason: format!("it holds {name:?}"),
            }),
        }
    }

    /// Brings `directory`, which must exist and be locked by the caller, up to date and states its
    /// version. Returns what it was.
    ///
    /// # Errors
    /// When it is not to be used, or a step fails.
    pub fn open(&self, directory: &Path) -> Result<Found, LayoutError> {
        let found = self.inspect(directory)?;
        if let Found::Version(found) = found {
            let missing = self.migrations.iter().zip(1..).filter(|(_, from)| *from >= found);
            for (step, from) in missing {
                tracing::info!(directory = %directory.display(), from, "bringing data up to date");
                step(directory).map_err(|source| {
                    let path = directory.to_owned();
                    LayoutError::Migration { path, from, source }
                })?;
                self.state(directory, from + 1)?;
            }
        }
        self.state(directory, self.version())?;
        Ok(found)
    }

    /// Writes the file whole or not at all, durably.
    fn state(&self, directory: &Path, version: u32) -> Result<(), LayoutError> {
        let path = directory.join(VERSION_FILE);
        let text = format!("{} {version}\n", self.kind);
        if read(&path)?.is_some_and(|found| found == text) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            // Temporary files have mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|source| LayoutError::File { path: path.clone(), source })
    }
}

fn read(path: &Path) -> Result<Option<String>, LayoutError> {
    let failed = |source| LayoutError::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Layout =
        Layout { kind: "box", migrations: &[], unstamped: &["sites"], neutral: &["lock"] };
    const THREE: Layout = Layout { migrations: &[add_a, add_b], ..ONE };

    fn add_a(directory: &Path) -> io::Result<()> {
        fs::write(directory.join("a"), "1")
    }

    /// Fails as long as something is in its way.
    fn add_b(directory: &Path) -> io::Result<()> {
        match directory.join("full").exists() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => fs::write(directory.join("b"), "2"),
        }
    }

    fn stamp(directory: &Path) -> String {
        fs::read_to_string(directory.join(VERSION_FILE)).unwrap_or_default()
    }

    #[test]
    fn an_older_directory_is_brought_up_to_date_step_by_step() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path();
        fs::create_dir(path.join("sites")).unwrap();
        assert_eq!(ONE.inspect(path).unwrap(), Found::Version(1));
        assert_eq!(ONE.open(path).unwrap(), Found::Version(1));
        assert_eq!(stamp(path), "box 1\n");
        fs::write(path.join("full"), "").unwrap();
        let error = THREE.open(path).unwrap_err();
        assert!(error.to_string().ends_with("can't be brought from data version 2 to 3"));
        assert_eq!((stamp(path).as_str(), path.join("a").exists()), ("box 2\n", true));
        fs::remove_file(path.join("full")).unwrap();
        fs::remove_file(path.join("a")).unwrap();
        assert_eq!(THREE.open(path).unwrap(), Found::Version(2));
        assert_eq!(stamp(path), "box 3\n");
        assert!(path.join("b").exists() && !path.join("a").exists(), "no step is taken twice");
        let error = ONE.open(path).unwrap_err().to_string();
        assert!(error.contains("newer Selvedge (data version 3, and this one knows 1)"), "{error}");
        assert_eq!(stamp(path), "box 3\n", "refused as it is");
    }

    #[test]
    fn a_new_directory_starts_at_the_latest_version() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path();
        assert_eq!(THREE.inspect(&path.join("absent")).unwrap(), Found::New);
        fs::write(path.join("lock"), "").unwrap();
        assert_eq!(THREE.open(path).unwrap(), Found::New);
        assert_eq!(stamp(path), "box 3\n");
        assert!(!path.join("a").exists());
    }

    #[test]
    fn what_is_something_else_stays_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path();
        let refusal = || ONE.open(path).unwrap_err().to_string();
        fs::write(path.join("thesis.txt"), "").unwrap();
        assert!(refusal().contains("it holds \"thesis.txt\""));
        assert!(!path.join(VERSION_FILE).exists());
        for (text, words) in [
            ("agent 1\n", "it is that of a Selvedge agent"),
            ("1\n", "it is that of a Selvedge control"),
            ("box zero\n", "names no version"),
            ("box 0\n", "names no version"),
            ("v1.2 of\x1b[31m", "is not Selvedge's"),
            ("", "names no version"),
        ] {
            fs::write(path.join(VERSION_FILE), text).unwrap();
            let refusal = refusal();
            assert!(refusal.contains(words) || text.is_empty(), "{text:?}: {refusal}");
            assert_eq!(stamp(path), text);
        }
    }
}
