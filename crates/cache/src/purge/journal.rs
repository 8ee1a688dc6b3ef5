//! Purges on disk, for objects that outlive the process: a file of records, to which each purge is
//! added before it is acknowledged, and which is replaced by the purges in force when it has
//! grown.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::ban::Ban;
use super::{Generation, Kind, Scope};

/// The file, and what it begins with: its format.
const FILE: &str = "purges";
const FORMAT: &[u8; 8] = b"SLVGPRG1";
/// It may grow by this, or to twice what is in force.
const GROWTH: usize = 1 << 20;

/// A purge as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Purge {
    pub(crate) app: Box<[u8]>,
    pub(crate) scope: Scope,
    pub(crate) kind: Kind,
    pub(crate) generation: Generation,
}

/// Why earlier purges can't be repeated, or further ones not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("can't read or write {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged at byte {at}")]
    Damaged { path: PathBuf, at: usize },
    #[error("purges are newer than this process: the clock was set back")]
    Clock,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    file: File,
    /// Bytes when it was last replaced.
    whole: usize,
    /// Bytes added since.
    added: usize,
    unsynced: bool,
}

impl Journal {
    /// The purges that a directory's file holds; none if there is no file. A record that was not
    /// written to its end is none: it was not acknowledged.
    pub(super) fn read(directory: &Path) -> Result<Vec<Purge>, JournalError> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(JournalError::Io { path, source }),
        };
        let mut purges = Vec::new();
        let Some(mut rest) = bytes.strip_prefix(FORMAT) else {
            return Err(JournalError::Damaged { path, at: 0 });
        };
        while let Some(record) = take_record(&mut rest) {
            let at = bytes.len() - rest.len();
            let purge = record.and_then(decode);
            purges.push(purge.ok_or(JournalError::Damaged { path: path.clone(), at })?);
        }
        Ok(purges)
    }

    /// A new file, with these purges in it, in place of the old one.
    pub(super) fn create(directory: &Path, purges: &[Purge]) -> Result<Self, JournalError> {
        let (path, next) = (directory.join(FILE), directory.join(format!("{FILE}.next")));
        let mut bytes = FORMAT.to_vec();
        for purge in purges {
            bytes.extend_from_slice(&encode(purge));
        }
        let write = || {
            let mut file = File::options().create(true).truncate(true).write(true).open(&next)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&next, &path)?;
            File::open(directory)?.sync_all()?;
            Ok(file)
        };
        let file = write().map_err(|source| JournalError::Io { path: path.clone(), source })?;
        let directory = directory.to_owned();
        Ok(Self { directory, file, whole: bytes.len(), added: 0, unsynced: false })
    }

    /// Adds a purge. `all` gives those in force, for replacing a file that has grown.
    pub(super) fn record(
        &mut self,
        purge: &Purge,
        all: impl FnOnce() -> Vec<Purge>,
    ) -> Result<(), JournalError> {
        if self.added > GROWTH.max(self.whole) {
            *self = Self::create(&self.directory, &all())?;
            return Ok(());
        }
        let bytes = encode(purge);
        self.file
            .write_all(&bytes)
            .map_err(|source| JournalError::Io { path: self.directory.join(FILE), source })?;
        self.added += bytes.len();
        self.unsynced = true;
        Ok(())
    }

    pub(super) fn unsynced(&mut self) -> Option<File> {
        std::mem::take(&mut self.unsynced).then(|| self.file.try_clone().ok()).flatten()
    }
}

/// A record: its length, the same inverted, the checksum of what follows, and the purge.
fn encode(purge: &Purge) -> Vec<u8> {
    let (tag, name) = match &purge.scope {
        Scope::App => (0, Vec::new()),
        Scope::Url(key) => (1, key.clone()),
        Scope::Tag(tag) => (2, tag.clone()),
        Scope::Prefix(prefix) => (3, prefix.to_string().into_bytes()),
        Scope::Ban(ban) => (4, ban.to_string().into_bytes()),
    };
    let mut body = purge.generation.as_u64().to_le_bytes().to_vec();
    body.push(u8::from(purge.kind == Kind::Soft));
    body.push(tag);
    body.extend_from_slice(&(purge.app.len() as u32).to_le_bytes());
    body.extend_from_slice(&purge.app);
    body.extend_from_slice(&name);
    let length = body.len() as u32;
    let mut record = length.to_le_bytes().to_vec();
    record.extend_from_slice(&(!length).to_le_bytes());
    record.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    record.extend_from_slice(&body);
    record
}

/// The next record's body; nothing inside if its checksum is wrong; nothing at all at the end, or
/// where a record was cut off.
fn take_record<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let mut here = *rest;
    let length = u32::from_le_bytes(take(&mut here)?);
    if u32::from_le_bytes(take(&mut here)?) != !length {
        return Some(None);
    }
    let sum = u64::from_le_bytes(take(&mut here)?);
    let (body, after) = here.split_at_checked(length as usize)?;
    *rest = after;
    Some((xxh3_64(body) == sum).then_some(body))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

fn decode(mut body: &[u8]) -> Option<Purge> {
    let generation = Generation::from_u64(u64::from_le_bytes(take(&mut body)?));
    let [soft, tag] = take(&mut body)?;
    let length = u32::from_le_bytes(take(&mut body)?) as usize;
    let (app, name) = body.split_at_checked(length)?;
    let text = || std::str::from_utf8(name).ok();
    let scope = match tag {
        0 => Scope::App,
        1 => Scope::Url(name.to_vec()),
        2 => Scope::Tag(name.to_vec()),
        3 => Scope::Prefix(text()?.parse().ok()?),
        4 => Scope::Ban(Arc::new(text()?.parse::<Ban>().ok()?)),
        _ => return None,
    };
    let kind = if soft == 0 { Kind::Hard } else { Kind::Soft };
    Some(Purge { app: app.into(), scope, kind, generation })
}

/// What is read as a purge is written as one that is the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    let Some(purge) = decode(body) else { return };
    let record = encode(&purge);
    let again = take_record(&mut &*record).flatten().and_then(decode);
    assert_eq!(again, Some(purge));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(generation: u64, scope: Scope) -> Purge {
        let generation = Generation::from_u64(generation);
        Purge { app: (*b"app").into(), scope, kind: Kind::Soft, generation }
    }

    fn purges() -> Vec<Purge> {
        vec![
            purge(1, Scope::App),
            purge(2, Scope::Url(b"\0\xff".to_vec())),
            Purge { kind: Kind::Hard, ..purge(3, Scope::Tag(b"tag".to_vec())) },
            purge(4, Scope::Prefix("a.example/a*".parse().unwrap())),
            purge(5, Scope::Ban(Arc::new(r#"tag == "x""#.parse().unwrap()))),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Journal::read(directory.path()).unwrap(), []);
        let mut journal = Journal::create(directory.path(), &purges()).unwrap();
        assert!(journal.unsynced().is_none());
        let more = purge(6, Scope::App);
        journal.record(&more, || panic!("it has not grown")).unwrap();
        assert!(journal.unsynced().is_some());
        let mut expected = purges();
        expected.push(more);
        assert_eq!(Journal::read(directory.path()).unwrap(), expected);
    }

    #[test]
    fn a_cut_record_is_none_and_a_flipped_bit_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        drop(Journal::create(directory.path(), &purges()).unwrap());
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for length in FORMAT.len()..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let read = Journal::read(directory.path()).unwrap();
            assert!(read.len() < 5 && purges().starts_with(&read));
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            let read = Journal::read(directory.path());
            assert!(matches!(read, Err(JournalError::Damaged { .. })), "byte {at}");
        }
    }

    #[test]
    fn it_is_replaced_when_it_has_grown() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), &[]).unwrap();
        let name = vec![b'x'; 9000];
        for generation in 1..300 {
            let last = purge(generation, Scope::Tag(name.clone()));
            journal.record(&last, || vec![last.clone()]).unwrap();
        }
        assert!(std::fs::metadata(directory.path().join(FILE)).unwrap().len() < 2 * GROWTH as u64);
        assert_eq!(
            Journal::read(directory.path()).unwrap().last().unwrap().generation.as_u64(),
            299
        );
    }
}
