//! The disk tier: objects that outlive the process, in a directory of its own.
//!
//! It is a log. What is written goes to the end of the newest *segment* file; when the directory is
//! full the oldest segment is dropped as a whole, after what was asked for since it was written
//! went to the end again. A record is never changed. An index in memory says where an object's
//! record lies; it is built anew at a start from the records' fronts, and so there is nothing that
//! a SIGKILL could leave half done but the last record, which its checksum tells. Small bodies lie
//! in their object's record. Larger ones lie in chunks before it, and it names their places: an
//! object exists when its last byte does.
//!
//! Everything that is read is checked. What is damaged is a miss, or, in the midst of a large body,
//! the end of the answer; it is never served, and it is removed.
//!
//! One thread writes and a few read; none of the caller's waits for a disk. What they can't keep up
//! with is not stored, and not looked for. An error of the disk drops a segment and pauses writing:
//! the error is logged, and no request fails.
//!
//! The directory belongs to one process at a time. While another still has it (the one that this
//! one takes over from) everything is a miss. Removals are certain at once in this process, and on
//! disk soon after; what must not come back after a SIGKILL either is to be purged, and purges are
//! kept in the directory's journal (see [`crate::purge`]).
//!
//! Deliberately absent: expiry and HTTP. What describes an object is bytes to this tier.

mod index;
mod keeper;
mod queue;
mod read;
mod record;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod write;

#[cfg(any(test, fuzzing))]
pub(crate) use record::fuzz as fuzz_record;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::fs::DirBuilder;
use std::hash::BuildHasher as _;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use crate::purge::{Generation, Purger, Stamp};
use index::Index;
use queue::Queue;
pub use read::{Body, Found};
use read::{Get, Read};
pub use write::Writer;
use write::{Renewed, Write};

/// Bytes of a chunk. A body that is not longer lies in its object's record.
pub const CHUNK: usize = 512 << 10;
/// Chunks of a body.
const MOST_CHUNKS: usize = 1 << 14;
/// Bytes of a key, and of what describes an object.
const MOST_KEY_BYTES: usize = 64 << 10;
const MOST_META_BYTES: usize = 256 << 10;
/// A smaller tier is not worth its files.
const LEAST_CAPACITY: u64 = 64 << 20;
/// Writes that have begun and not ended.
const MOST_WRITES: usize = 1024;
const MOST_JOBS: usize = 8192;
const MOST_READS: usize = 1024;
/// Chunks that may be in memory while slow readers take them.
const MOST_ROOMS: usize = 256;

/// Says what becomes of an object that is about to be written again because it is asked for: it is
/// given its description and its stamp, and gives the stamp to keep, or nothing for one that is
/// purged.
pub type Judge = Arc<dyn Fn(&[u8], Stamp) -> Option<Stamp> + Send + Sync>;

/// What a disk tier is like.
#[derive(Clone)]
pub struct Options {
    /// Its directory. It is made if it isn't there, and holds nothing else.
    pub directory: PathBuf,
    /// Bytes of all files, but for the purges' journal. At least 64 MiB.
    pub capacity: u64,
    /// Bytes that may wait to be written.
    pub queue: usize,
    /// Threads that read.
    pub readers: usize,
    /// How long writing pauses after an error.
    pub pause: Duration,
    /// What becomes of objects that are written again. Nothing: they are.
    pub judge: Option<Judge>,
}

impl Options {
    /// With a queue of 64 MiB, two readers and pauses of a minute.
    pub fn new(directory: PathBuf, capacity: u64) -> Self {
        let pause = Duration::from_secs(60);
        Self { directory, capacity, queue: 64 << 20, readers: 2, pause, judge: None }
    }

    /// So that dropping one drops little, and that there are not too many files.
    fn segment_bytes(&self) -> u64 {
        (self.capacity / 64).clamp(4 << 20, 1 << 30)
    }

    /// Bytes of the largest object.
    fn most_bytes(&self) -> u64 {
        (self.capacity / 4).min((MOST_CHUNKS * CHUNK) as u64)
    }
}

/// Why there is no disk tier.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Too small.
    #[error("a disk cache of {0} bytes is too small: the least is {LEAST_CAPACITY}")]
    TooSmall(u64),
    /// Its directory can't be used.
    #[error("can't use {path} for the disk cache")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its threads can't be started.
    #[error("can't start a thread for the disk cache")]
    Thread(#[source] io::Error),
}

/// What the tier did since the start, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// It is ready to be read: the directory is ours and was read.
    pub ready: bool,
    /// Objects held.
    pub entries: usize,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Lookups that gave an object.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Objects written.
    pub written: u64,
    /// Objects that were written again because they were asked for.
    pub kept: u64,
    /// Objects that could not be written: too much waited, or the disk had an error.
    pub dropped: u64,
    /// Records that were damaged.
    pub damaged: u64,
    /// Errors of the disk.
    pub errors: u64,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    written: AtomicU64,
    kept: AtomicU64,
    dropped: AtomicU64,
    damaged: AtomicU64,
    errors: AtomicU64,
}

struct Shared {
    options: Options,
    purger: Purger,
    secret: RandomState,
    index: Mutex<Index>,
    writes: Queue<Write>,
    reads: Queue<Read>,
    /// For chunks that readers keep for a while.
    rooms: Arc<Semaphore>,
    /// Of the next object. Begins at the time, so that no two processes use the same.
    next_id: AtomicU64,
    counts: Counts,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.secret.hash_one(key)
    }

    /// Counts an error of the disk; says what it is at the 1st, 2nd, 4th, 8th.
    fn failed(&self, what: &'static str, error: &io::Error) {
        let count = self.counts.errors.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let directory = self.options.directory.display();
            tracing::warn!(%directory, %error, count, "the disk cache can't {what}");
        }
    }

    /// Removes an object that is damaged.
    fn damaged(&self, hash: u64, place: record::Place) {
        self.index().remove_at(hash, place);
        let count = self.counts.damaged.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let directory = self.options.directory.display();
            tracing::warn!(%directory, count, "an object in the disk cache is damaged, and dropped");
        }
    }
}

/// Ends the threads with the last handle.
struct Threads(Arc<Shared>);

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.writes.close();
        self.0.reads.close();
    }
}

/// The disk tier. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
    _threads: Arc<Threads>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("directory", &self.shared.options.directory).finish()
    }
}

impl Disk {
    /// Starts the tier. It is ready when its directory was read, which this does not wait for.
    /// `purger` is [`Purger::starting_at`] the time of the start; from when the tier is ready it
    /// repeats earlier purges, and keeps further ones here.
    pub fn open(options: Options, purger: Purger) -> Result<Self, OpenError> {
        if options.capacity < LEAST_CAPACITY {
            return Err(OpenError::TooSmall(options.capacity));
        }
        let unusable = |source| OpenError::Directory { path: options.directory.clone(), source };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&options.directory).map_err(unusable)?;
        let lock = keeper::lock_file(&options.directory).map_err(unusable)?;
        let next_id = AtomicU64::new(Generation::at_start(SystemTime::now()).as_u64());
        let shared = Arc::new(Shared {
            writes: Queue::new(MOST_JOBS, options.queue),
            reads: Queue::new(MOST_READS, usize::MAX),
            rooms: Arc::new(Semaphore::new(MOST_ROOMS)),
            options,
            purger,
            secret: RandomState::new(),
            index: Mutex::default(),
            next_id,
            counts: Counts::default(),
        });
        let threads = Arc::new(Threads(shared.clone()));
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let builder = std::thread::Builder::new().name(name.to_owned());
            builder.spawn(run).map(drop).map_err(OpenError::Thread)
        };
        let keeper = keeper::Keeper::new(shared.clone(), lock);
        start("disk-writer", Box::new(move || keeper.run()))?;
        for _ in 0..shared.options.readers.max(1) {
            let shared = shared.clone();
            start("disk-reader", Box::new(move || read::run(&shared)))?;
        }
        Ok(Self { shared, _threads: threads })
    }

    /// Reads the object at `key`, or as much of it as shows that it is whole: a large body is
    /// read in chunks. The object's stamp is to be checked while what this gives is held.
    pub async fn get(&self, key: &[u8]) -> Option<Found> {
        let found = self.find(key).await;
        let counts = &self.shared.counts;
        let count = if found.is_some() { &counts.hits } else { &counts.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    async fn find(&self, key: &[u8]) -> Option<Found> {
        if self.shared.purger.forgot() {
            return None;
        }
        let hash = self.shared.hash(key);
        let (place, segment) = {
            let mut index = self.shared.index();
            let entry = index.find(hash)?;
            (entry.place, index.segment(entry.place.segment)?)
        };
        let (reply, answer) = oneshot::channel();
        let get = Get { key: key.into(), hash, place, segment, reply };
        self.shared.reads.push(Read::Object(get), 0).then_some(())?;
        answer.await.ok()?
    }

    /// Whether there is an object at `key`, as far as is known without reading it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.shared.index().contains(self.shared.hash(key))
    }

    /// Begins to write an object that will have a stamp of this generation or a later one. What
    /// `key` holds is removed. Nothing: it can't be written now.
    pub fn writer(&self, key: &[u8], generation: Generation) -> Option<Writer> {
        Writer::begin(&self.shared, key, generation)
    }

    /// Describes the object at `key` anew: `body` is its body, in chunks, and stays where it is.
    /// Whether this is on its way. It comes to nothing if the object has gone meanwhile.
    pub fn renew(&self, key: &[u8], body: &Body, meta: Bytes, stamp: &Stamp) -> bool {
        if meta.len() > MOST_META_BYTES || body.whole().is_some() {
            return false;
        }
        let bytes = meta.len();
        let renewed = Renewed { key: key.into(), body: body.clone(), meta, stamp: stamp.as_u64() };
        self.shared.writes.push(Write::Renew(renewed), bytes)
    }

    /// Removes the object at `key`. A write of one that has begun will not end.
    pub fn remove(&self, key: &[u8]) {
        let hash = self.shared.hash(key);
        self.shared.index().remove(hash);
    }

    /// The oldest generation of an object that is on disk, on its way there, or being read, for
    /// [`crate::purge::Sweeper::step`].
    pub fn oldest(&self) -> Option<Generation> {
        self.shared.index().oldest().map(Generation::from_u64)
    }

    /// Waits until what was purged, removed and written before is on disk, and purges would survive
    /// a loss of power. Whether it is: not while there is an error of the disk.
    pub async fn flush(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.shared.writes.push_small(Write::Flush(reply)) && answer.await == Ok(true)
    }

    /// Writes what waits, and gives the directory back, for example to the process that takes over.
    /// Everything is a miss from then on; bodies that were found before can be read to their end.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.shared.writes.push_small(Write::Close(reply)) {
            // An answer that was dropped says that the thread has ended, which is as good.
            let _ = answer.await;
        }
    }

    /// What it did and holds.
    pub fn counters(&self) -> Counters {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.shared.counts;
        let mut index = self.shared.index();
        Counters {
            ready: index.ready(),
            entries: index.len(),
            bytes: index.bytes(),
            hits: count(&counts.hits),
            misses: count(&counts.misses),
            written: count(&counts.written),
            kept: count(&counts.kept),
            dropped: count(&counts.dropped),
            damaged: count(&counts.damaged),
            errors: count(&counts.errors),
        }
    }
}

/// Bytes of some parts.
fn total(parts: &[Bytes]) -> usize {
    parts.iter().map(Bytes::len).sum()
}
