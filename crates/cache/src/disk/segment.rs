//! One file of the log: records one after another, written once and dropped as a whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::record::{self, Front, HEAD, Head, Place};

/// What a file begins with: its format, its number, the seed of its checksums, and their checksum.
const START: usize = 32;
const FORMAT: &[u8; 8] = b"SLVGDSK1";
/// What a start reads at once.
const WINDOW: usize = 64 << 10;

/// An open segment. Whoever holds one can read it, also after it was dropped from the tier.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u32,
    seed: u64,
    file: File,
    path: PathBuf,
    length: AtomicU64,
    /// The oldest stamp's generation of an object in it.
    oldest: AtomicU64,
}

/// A record that is whole.
#[derive(Debug)]
pub(super) struct Record {
    bytes: Bytes,
    head: Head,
    seed: u64,
}

impl Record {
    pub(super) fn id(&self) -> u64 {
        self.head.id
    }

    pub(super) fn front(&self) -> Option<Front<'_>> {
        self.head.front(&self.bytes, self.seed)
    }

    pub(super) fn payload(&self) -> Bytes {
        self.bytes.slice(self.head.start().min(self.bytes.len())..)
    }
}

impl Segment {
    pub(super) fn create(directory: &Path, id: u32, seed: u64) -> io::Result<Self> {
        let path = directory.join(Self::name(id));
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let mut start = FORMAT.to_vec();
        start.extend_from_slice(&u64::from(id).to_le_bytes());
        start.extend_from_slice(&seed.to_le_bytes());
        start.extend_from_slice(&xxh3_64(&start).to_le_bytes());
        let length = AtomicU64::new(START as u64);
        let segment = Self { id, seed, file, path, length, oldest: AtomicU64::new(u64::MAX) };
        match segment.file.write_all_at(&start, 0) {
            Ok(()) => Ok(segment),
            Err(error) => {
                segment.unlink();
                Err(error)
            }
        }
    }

    /// Opens a file that an earlier process left. Nothing: it is no segment.
    pub(super) fn open(directory: &Path, id: u32) -> io::Result<Option<Self>> {
        let path = directory.join(Self::name(id));
        let file = File::options().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let mut start = [0; START];
        if length < START as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut start, 0)?;
        let (head, sum) = start.split_at(START - 8);
        let number = |from: usize| {
            let bytes = start.get(from..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let whole = head.starts_with(FORMAT) && number(8) == u64::from(id);
        if !whole || sum != xxh3_64(head).to_le_bytes() {
            return Ok(None);
        }
        let (length, oldest) = (AtomicU64::new(length), AtomicU64::new(u64::MAX));
        Ok(Some(Self { id, seed: number(16), file, path, length, oldest }))
    }

    pub(super) fn name(id: u32) -> String {
        format!("{id:08x}.segment")
    }

    /// The number in a file's name.
    pub(super) fn number(name: &str) -> Option<u32> {
        let number = name.strip_suffix(".segment").filter(|number| number.len() == 8)?;
        u32::from_str_radix(number, 16).ok()
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Relaxed)
    }

    /// An object of this generation lies here.
    pub(super) fn holds(&self, generation: u64) {
        self.oldest.fetch_min(generation, Ordering::Relaxed);
    }

    /// Adds a record at the end. One thread does.
    pub(super) fn append(
        &self,
        front: &Front<'_>,
        id: u64,
        payload: &[Bytes],
    ) -> io::Result<Place> {
        let begin = self.length();
        let start = record::encode(front, id, payload, self.seed_at(begin));
        self.file.write_all_at(&start, begin)?;
        let mut end = begin + start.len() as u64;
        for part in payload {
            self.file.write_all_at(part, end)?;
            end += part.len() as u64;
        }
        self.length.store(end, Ordering::Relaxed);
        let length = (end - begin) as u32;
        Ok(Place { segment: self.id, offset: begin as u32, length })
    }

    /// Reads a record. Nothing: it is damaged.
    pub(super) fn read(&self, place: Place) -> io::Result<Option<Record>> {
        let mut bytes = vec![0; place.length as usize];
        match self.file.read_exact_at(&mut bytes, u64::from(place.offset)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let seed = self.seed_at(u64::from(place.offset));
        let Some(head) = Head::decode(&bytes).filter(|head| head.length() == bytes.len()) else {
            return Ok(None);
        };
        let payload = bytes.get(head.start()..).unwrap_or_default();
        let whole = head.front(&bytes, seed).is_some() && head.payload_is_whole(payload, seed);
        Ok(whole.then(|| Record { bytes: bytes.into(), head, seed }))
    }

    /// Gives the front of each record to `take`, up to the end or the first that is damaged: where
    /// the next one would begin isn't known then, and a body may look like a record.
    pub(super) fn scan(&self, mut take: impl FnMut(Place, Front<'_>)) -> io::Result<()> {
        let mut window = Window { file: &self.file, begin: 0, bytes: Vec::new() };
        let mut offset = START as u64;
        while let Some(head) = window.at(offset, HEAD)?.and_then(Head::decode) {
            let end = offset + head.length() as u64;
            let Some(start) = window.at(offset, head.start())? else { return Ok(()) };
            let Some(front) = head.front(start, self.seed_at(offset)) else { return Ok(()) };
            if end > self.length() {
                return Ok(());
            }
            let length = head.length() as u32;
            take(Place { segment: self.id, offset: offset as u32, length }, front);
            offset = end;
        }
        Ok(())
    }

    fn seed_at(&self, offset: u64) -> u64 {
        self.seed.wrapping_add(offset.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Removes the file. Its space is free when nobody holds the segment any more.
    pub(super) fn unlink(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "can't remove a cache segment");
        }
    }
}

/// A part of a file that was read.
struct Window<'a> {
    file: &'a File,
    begin: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes at a place; nothing if the file ends before they do.
    fn at(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let within = offset.checked_sub(self.begin).and_then(|from| usize::try_from(from).ok());
        let held = |from: usize| from.saturating_add(length) <= self.bytes.len();
        let from = match within.filter(|from| held(*from)) {
            Some(from) => from,
            None => {
                self.begin = offset;
                self.bytes.resize(WINDOW.max(length), 0);
                let mut read = 0;
                while let Some(rest) = self.bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
                    match self.file.read_at(rest, offset + read as u64) {
                        Ok(0) => break,
                        Ok(more) => read += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                self.bytes.truncate(read);
                0
            }
        };
        Ok(self.bytes.get(from..from + length))
    }
}
