//! Stored responses on disk: what goes there, and what comes back from there to memory.
//!
//! Everything that is stored is written there at once. What memory does not hold is looked for there;
//! what is small comes back to memory, the rest is read as clients take it. Reading and writing are
//! other threads' work: a request that finds what it wants in memory has nothing to do with this.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderMap;
use selvedge_cache::description::{self, Description};
use selvedge_cache::disk::{self, Disk, OpenError, Options, Writer};
use selvedge_cache::key::Key;
use selvedge_cache::object::{Body, Object};
use selvedge_cache::purge::{self, Generation, Purgeable as _, Purger, Verdict};
use selvedge_cache::status::Forwarded;
use tokio::time::timeout;

use super::fills::Join;
use super::lookup::{Asking, Found};
use super::shelf::{About, Entry, Shelf, Variants, What};
use super::{Cache, Outcome};

pub use selvedge_cache::disk::Counters as DiskCounters;

/// An object may take this part of the disk.
const LARGEST_SHARE: u64 = 16;
const LANES: usize = 64;
/// How long a request waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory for stored responses, which survive the process there.
#[derive(Debug, Clone)]
pub struct CacheDisk {
    pub(super) disk: Disk,
    pub(super) purger: Purger,
    pub(super) max_object: u64,
}

impl CacheDisk {
    /// Takes a directory of its own, made if it is not there, for so many bytes. While another
    /// process has it, nothing is found there.
    ///
    /// # Errors
    /// When it is too small, or the directory can't be used.
    pub fn open(directory: PathBuf, bytes: u64) -> Result<Self, OpenError> {
        let started = Generation::at_start(SystemTime::now());
        let purger = Purger::starting_at(started, purge::Limits::default());
        let judge = Some(description::judge(purger.clone()));
        let options = Options { judge, ..Options::new(directory, bytes) };
        let disk = Disk::open(options, purger.clone())?;
        Ok(Self { disk, purger, max_object: bytes / LARGEST_SHARE })
    }
}

/// Counts what is stored and removed, by a part of the keys: what was read from disk meanwhile may be
/// older than that.
#[derive(Debug)]
pub(super) struct Changes {
    lanes: [AtomicU64; LANES],
    secret: RandomState,
}

impl Default for Changes {
    fn default() -> Self {
        Self { lanes: std::array::from_fn(|_| AtomicU64::new(0)), secret: RandomState::new() }
    }
}

impl Changes {
    fn lane(&self, key: &Key) -> Option<&AtomicU64> {
        self.lanes.get(self.secret.hash_one(key.as_bytes()) as usize % LANES)
    }

    /// Before something is stored or removed.
    pub(super) fn note(&self, key: &Key) {
        if let Some(lane) = self.lane(key) {
            lane.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn count(&self, key: &Key) -> u64 {
        self.lane(key).map_or(0, |lane| lane.load(Ordering::SeqCst))
    }
}

/// What is written beside a body. Nothing: it is not for the disk.
fn describe(entry: &Entry) -> Option<Bytes> {
    let About { app, url, host, path, .. } = entry.about();
    let tags = entry.labels().tags;
    let about = description::About { app, url: url.as_bytes(), host, path, tags };
    match entry.what() {
        What::Object(object) => {
            let Object { status, headers, freshness, .. } = &**object;
            Some(description::of_response(about, *status, headers, freshness))
        }
        What::Varies(variants) => {
            Some(description::of_variants(about, &variants.names, variants.generation))
        }
        What::Pass(_) => None,
    }
}

/// Writes an entry; the body, if it has not been given to the writer before.
pub(super) fn write(mut writer: Writer, entry: &Entry) {
    let Some(meta) = describe(entry) else { return };
    if let What::Object(object) = entry.what()
        && writer.size() == 0
    {
        let mut pieces = object.body.pieces().cloned();
        if !pieces.all(|piece| writer.push(piece)) {
            return;
        }
    }
    writer.finish(meta, entry.stamp());
}

impl Shelf {
    /// Begins to write to disk what will have a stamp of this generation. Nothing: it will be in
    /// memory only, and what was on disk is no more.
    pub(super) fn writer(&self, key: &Key, generation: Generation) -> Option<Writer> {
        self.disk.as_ref()?.writer(key.as_bytes(), generation)
    }

    /// Stores on disk alone what is too large for memory.
    pub(super) fn put_on_disk(&self, key: &Key, entry: &Entry, writer: Writer) {
        write(writer, entry);
        self.changes.note(key);
        self.memory.remove(key.as_bytes());
    }

    /// Stores an object anew whose body is the same.
    pub(super) fn put_again(&self, key: &Key, entry: Entry) {
        if let What::Object(object) = entry.what()
            && let Some(body) = object.body.on_disk()
        {
            self.renew(key, &entry, body);
        } else {
            self.put(key, entry);
            // Its body may have been kept in a coding since it was counted.
            self.memory.resize(key.as_bytes());
        }
    }

    /// Describes anew an object whose body is on disk and stays there.
    fn renew(&self, key: &Key, entry: &Entry, body: &disk::Body) {
        let meta = describe(entry);
        if let (Some(disk), Some(meta)) = (&self.disk, meta)
            && !disk.renew(key.as_bytes(), body, meta, entry.stamp())
        {
            disk.remove(key.as_bytes());
        }
    }

    pub(super) fn oldest_on_disk(&self) -> Option<Generation> {
        self.disk.as_ref()?.oldest()
    }

    pub(super) async fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.close().await;
        }
    }

    fn is_on_disk(&self, key: &Key) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.contains(key.as_bytes()))
    }

    /// What is on disk at a key, and whether it has been purged softly. It is in memory then, if it
    /// is small.
    async fn recall(&self, key: &Key) -> Option<(Entry, bool)> {
        let disk = self.disk.as_ref()?;
        let changes = self.changes.count(key);
        // While this is held, no purge is forgotten that what comes was not compared with.
        let _ticket = self.purger.ticket();
        let found = disk.get(key.as_bytes()).await?;
        let Some((entry, is_small)) = recalled(found) else {
            disk.remove(key.as_bytes());
            return None;
        };
        let is_purged = match self.purger.verdict(&entry) {
            Verdict::Good => false,
            Verdict::Stale => true,
            Verdict::Gone => {
                disk.remove(key.as_bytes());
                return None;
            }
        };
        if is_small {
            let _ = self.memory.insert(key.as_bytes(), entry.clone());
            if self.changes.count(key) != changes {
                // It may have taken the place of something newer.
                self.memory.remove_if(key.as_bytes(), |it| it.is(&entry));
            }
        }
        Some((entry, is_purged))
    }
}

/// What was found on disk, and whether it is whole, so that memory can have it.
fn recalled(found: disk::Found) -> Option<(Entry, bool)> {
    let disk::Found { meta, stamp, body } = found;
    let Description { app, url, host, path, tags, what } = Description::read(&meta)?;
    let about = Arc::new(About::stored(app, &url, host, path));
    let whole = body.whole().map(|bytes| Body::gather(std::slice::from_ref(bytes)));
    let is_small = whole.is_some();
    let what = match what {
        description::What::Response { status, headers, freshness } => {
            let body = whole.unwrap_or_else(|| body.into());
            What::Object(Arc::new(Object { status, headers, body, freshness }))
        }
        description::What::Variants { names, generation } => {
            What::Varies(Variants { names, generation })
        }
    };
    Some((Entry::new(what, about, tags, stamp), is_small))
}

impl Cache {
    /// Looks on disk for what memory does not have, and narrows the request's key down to its
    /// variant's.
    pub(crate) async fn recall(
        self: &Arc<Self>,
        asking: &mut Asking,
        headers: &HeaderMap,
        mut miss: Forwarded,
    ) -> Found {
        // What a request finds may be the fields by which its variant is found.
        for _ in 0..2 {
            if !self.shelf.is_on_disk(asking.key()) {
                return Found::Miss(miss);
            }
            let mut reading = asking.key().clone();
            reading.push(b"disk");
            let _lead = match self.join(&reading) {
                Join::Lead(lead) => Some(lead),
                Join::Follow(mut waiting) => {
                    // What is small is in memory when who reads it is done.
                    let _ = waiting.wait_for(|it| !matches!(it, Outcome::Waiting)).await;
                    match self.find(asking, headers, self.now_ms()) {
                        Found::Miss(_) => None,
                        found => return found,
                    }
                }
            };
            let recalled = timeout(PATIENCE, self.shelf.recall(asking.key())).await;
            let Ok(Some((entry, is_purged))) = recalled else { return Found::Miss(miss) };
            match entry.what() {
                What::Object(object) => {
                    return asking.judge(Arc::clone(object), is_purged, self.now_ms());
                }
                What::Varies(variants) => {
                    asking.select(variants, headers);
                    miss = Forwarded::VaryMiss;
                    match self.find(asking, headers, self.now_ms()) {
                        Found::Miss(_) => {}
                        found => return found,
                    }
                }
                What::Pass(_) => return Found::Miss(miss),
            }
        }
        Found::Miss(miss)
    }
}
