//! The thread that writes: it keeps the directory.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::hash::BuildHasher as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::index::{Entry, Index};
use super::queue::Popped;
use super::read::places;
use super::record::{Front, Object, Place};
use super::recover;
use super::segment::Segment;
use super::write::{Finished, Renewed, Write};
use super::{Shared, total};
use crate::purge::{JournalError, Stamp};

/// How often the directory is tried while another process has it.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// How often removals are written and purges synced.
const TICK: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    lock: File,
    /// What is written to. Nothing: the next record begins a segment.
    current: Option<Arc<Segment>>,
    next_segment: u32,
    /// Chunks of objects that are not complete.
    open: HashMap<u64, Vec<Place>>,
    /// Writing pauses until then.
    paused: Option<Instant>,
    ticked: Instant,
}

/// The file whose lock says who has the directory.
pub(super) fn lock_file(directory: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(directory.join("lock"))
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, lock: File) -> Self {
        let (open, ticked) = (HashMap::new(), Instant::now());
        Self { shared, lock, current: None, next_segment: 0, open, paused: None, ticked }
    }

    /// Works until the tier is closed.
    pub(super) fn run(mut self) {
        if self.acquire() {
            self.start();
            self.work();
        }
        self.shared.purger.detach();
        self.shared.index().close();
        // What was found before may still be read.
        self.shared.writes.close();
        // Whoever waits for an answer learns that there is none.
        while let Popped::Job(_) = self.shared.writes.pop(Duration::ZERO) {}
    }

    /// Waits for the directory. Whether it is ours: if not, the tier was closed.
    fn acquire(&mut self) -> bool {
        loop {
            match self.lock.try_lock() {
                Ok(()) => return true,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => self.shared.failed("lock its directory", &error),
            }
            // Nobody waits for a tier that has not begun.
            match self.shared.writes.pop(LOCK_INTERVAL) {
                Popped::Job(Write::Close(_)) | Popped::Closed => return false,
                Popped::Job(_) | Popped::Nothing => {}
            }
        }
    }

    /// Takes what an earlier process left, with the purges that it kept. If these are lost, so is
    /// the rest: what was purged must not come back.
    fn start(&mut self) {
        let directory = self.shared.options.directory.clone();
        let shared = self.shared.clone();
        let taken = match shared.purger.attach(&directory) {
            Ok(()) => recover::recover(&shared),
            Err(error) => {
                let (directory, error) = (directory.display(), chain(&error));
                tracing::warn!(%directory, error, "the disk cache begins anew: its purges are lost");
                shared.purger.forget_journal();
                Ok(0)
            }
        };
        match taken {
            Ok(next) => self.next_segment = next,
            Err(error) => {
                shared.failed("read its directory", &error);
                shared.purger.forget_journal();
            }
        }
        if shared.purger.forgot() {
            self.begin_anew();
        } else {
            shared.index().open();
            // The capacity may be less than it was.
            if let Some(Some(last)) = self.make_room(0) {
                self.drop_segment(last.id);
            }
        }
    }

    /// Drops everything, and begins again if the journal can be written.
    fn begin_anew(&mut self) {
        self.current = None;
        self.open.clear();
        let shared = self.shared.clone();
        let dropped = shared.index().clear();
        dropped.iter().for_each(|segment| segment.unlink());
        drop(dropped);
        if self.paused.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let removed = recover::remove_all(&shared);
        let attached = removed.map_err(JournalFailure::Remove).and_then(|()| {
            let anew = shared.purger.attach_anew(&shared.options.directory);
            anew.map_err(JournalFailure::Journal)
        });
        match attached {
            Ok(()) => {
                self.paused = None;
                shared.index().open();
            }
            Err(JournalFailure::Remove(error)) => self.failed("remove its segments", &error),
            Err(JournalFailure::Journal(error)) => {
                let error = io::Error::other(chain(&error));
                self.failed("keep purges, and is off", &error);
            }
        }
    }

    fn work(&mut self) {
        loop {
            if self.shared.purger.forgot() {
                self.begin_anew();
            }
            match self.shared.writes.pop(TICK) {
                Popped::Job(Write::Chunk { id, parts }) => self.chunk(id, parts),
                Popped::Job(Write::Object(finished)) => self.object(finished),
                Popped::Job(Write::Renew(renewed)) => self.renew(renewed),
                Popped::Job(Write::Abandon { id }) => drop(self.open.remove(&id)),
                Popped::Job(Write::Flush(reply)) => {
                    let _ = reply.send(self.tick());
                }
                Popped::Job(Write::Close(reply)) => {
                    self.shared.writes.close();
                    self.drain();
                    self.tick();
                    self.shared.purger.detach();
                    self.shared.index().close();
                    if let Err(error) = self.lock.unlock() {
                        self.shared.failed("unlock its directory", &error);
                    }
                    let _ = reply.send(());
                    return;
                }
                Popped::Nothing => {}
                Popped::Closed => {
                    self.tick();
                    return;
                }
            }
            if self.ticked.elapsed() >= TICK {
                self.tick();
            }
        }
    }

    /// What was queued when the queue was closed.
    fn drain(&mut self) {
        loop {
            match self.shared.writes.pop(Duration::ZERO) {
                Popped::Job(Write::Chunk { id, parts }) => self.chunk(id, parts),
                Popped::Job(Write::Object(finished)) => self.object(finished),
                Popped::Job(Write::Renew(renewed)) => self.renew(renewed),
                Popped::Job(_) => {}
                Popped::Nothing | Popped::Closed => return,
            }
        }
    }

    /// Writes removals, and syncs. Whether all is on disk.
    fn tick(&mut self) -> bool {
        self.ticked = Instant::now();
        let mut owed = self.shared.index().take_owed();
        while let Some(place) = owed.pop() {
            if self.append(&Front::Removed(place), 0, &[]).is_none() {
                owed.push(place);
                break;
            }
        }
        let paid = owed.is_empty();
        self.shared.index().owe(owed);
        if let Some(journal) = self.shared.purger.unsynced()
            && let Err(error) = journal.sync_data()
        {
            self.shared.failed("sync its purges", &error);
            return false;
        }
        paid && !self.shared.purger.forgot()
    }

    fn chunk(&mut self, id: u64, parts: Vec<Bytes>) {
        let index = self.open.get(&id).map_or(0, Vec::len) as u32;
        match self.append(&Front::Chunk { index }, id, &parts) {
            Some(place) => self.open.entry(id).or_default().push(place),
            // The count of its chunks will not be right.
            None => drop(self.open.remove(&id)),
        }
    }

    fn object(&mut self, finished: Finished) {
        let Finished { id, hash, key, stamp, meta, size, chunks, rest } = finished;
        let mut table = self.open.remove(&id).unwrap_or_default();
        let mut whole = table.len() == chunks;
        let mut payload = vec![meta.clone()];
        if chunks == 0 {
            payload.extend(rest);
        } else if whole {
            let front = Front::Chunk { index: chunks as u32 };
            table.extend(self.append(&front, id, &rest));
            whole = table.len() == chunks + 1;
            payload.push(encode(&table));
        }
        let parts = Parts { key: &key, stamp, size, meta: meta.len() as u32, table: &table };
        let entry = whole.then(|| self.append_object(&parts, id, hash, &payload)).flatten();
        let mut index = self.shared.index();
        let wanted = index.end(hash, id);
        let Some(entry) = entry else {
            drop(index);
            self.shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // A chunk's segment may have been dropped since, or the object removed.
        if wanted && index.segment(entry.first).is_some() {
            index.insert(entry, Stamp::from_u64(stamp).generation().as_u64());
            drop(index);
            self.shared.counts.written.fetch_add(1, Ordering::Relaxed);
        } else {
            index.owe(vec![entry.place]);
        }
    }

    /// Writes an object's record anew, and leaves its chunks where they are.
    fn renew(&mut self, renewed: Renewed) {
        let Renewed { key, body, meta, stamp } = renewed;
        let Some((id, hash, place, table)) = body.parts() else { return };
        let Some(old) = self.shared.index().at(hash, place) else { return };
        let payload = [meta.clone(), encode(table)];
        let size = body.size();
        let parts = Parts { key: &key, stamp, size, meta: meta.len() as u32, table };
        match self.append_object(&parts, id, hash, &payload) {
            Some(new) => {
                let generation = Stamp::from_u64(stamp).generation().as_u64();
                let new = Entry { used: true, ..new };
                self.shared.index().replace(old, new, generation);
            }
            // As it was it must not be used: what was said of it since is not known of it.
            None => self.shared.index().remove_at(hash, place),
        }
    }

    fn append_object(
        &mut self,
        parts: &Parts<'_>,
        id: u64,
        hash: u64,
        payload: &[Bytes],
    ) -> Option<Entry> {
        let Parts { key, stamp, size, meta, table } = *parts;
        // Room first, so that the segment that the object will lie in is known.
        let current = self.room(key.len() + total(payload))?;
        let first = table.iter().map(|place| place.segment).chain([current]).min()?;
        let object = Object { stamp, size, chunks: table.len() as u32, meta, first, key };
        let place = self.append(&Front::Object(object), id, payload)?;
        (place.segment == current).then_some(Entry { hash, place, first, used: false })
    }

    /// Adds a record to the newest segment. Nothing: the disk does not take it.
    fn append(&mut self, front: &Front<'_>, id: u64, payload: &[Bytes]) -> Option<Place> {
        let bytes =
            total(payload) + if let Front::Object(object) = front { object.key.len() } else { 0 };
        self.room(bytes)?;
        let segment = self.current.clone()?;
        match segment.append(front, id, payload) {
            Ok(place) => Some(place),
            Err(error) => {
                self.failed("write", &error);
                None
            }
        }
    }

    /// Sees to it that the newest segment takes so many bytes beside a head. Gives its number.
    fn room(&mut self, bytes: usize) -> Option<u32> {
        if self.paused.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let most = self.shared.options.segment_bytes();
        let fits = |segment: &Arc<Segment>| segment.length() + (bytes + 128) as u64 <= most;
        if let Some(current) = self.current.as_ref().filter(|current| fits(current)) {
            return Some(current.id);
        }
        self.paused = None;
        self.current = None;
        self.begin_segment()
    }

    fn begin_segment(&mut self) -> Option<u32> {
        // Beside the new segment, one that is being read while its objects are written again.
        let segment_bytes = self.shared.options.segment_bytes();
        let kept = self.make_room(2 * segment_bytes)?;
        let id = self.next_segment;
        let seed = std::collections::hash_map::RandomState::new().hash_one(id);
        match Segment::create(&self.shared.options.directory, id, seed) {
            Ok(segment) => {
                let segment = Arc::new(segment);
                self.next_segment = id.wrapping_add(1);
                self.shared.index().add(segment.clone());
                self.current = Some(segment);
            }
            Err(error) => {
                self.failed("write", &error);
                return None;
            }
        }
        if let Some(victim) = kept {
            self.keep_used(&victim);
            self.drop_segment(victim.id);
        }
        Some(id)
    }

    /// Drops segments until so many bytes are free, but for one, which is given: the caller drops
    /// it when it has taken from it what is still asked for. Nothing: readers hold too much.
    fn make_room(&mut self, bytes: u64) -> Option<Option<Arc<Segment>>> {
        let most = self.shared.options.capacity.saturating_sub(bytes);
        let files = self.shared.options.capacity / self.shared.options.segment_bytes() * 4;
        let full = |index: &mut Index, less: u64| {
            index.bytes().saturating_sub(less) > most || index.segments() as u64 > files
        };
        if !full(&mut self.shared.index(), 0) && (self.shared.index().segments() as u64) < files {
            return Some(None);
        }
        loop {
            let mut index = self.shared.index();
            let victim = index.oldest_segment()?;
            if !full(&mut index, victim.length()) {
                return Some(Some(victim));
            }
            drop(index);
            let id = victim.id;
            drop(victim);
            self.drop_segment(id);
        }
    }

    /// Drops a segment, and its file.
    fn drop_segment(&self, id: u32) {
        let dropped = self.shared.index().drop_segment(id);
        if let Some(segment) = dropped {
            segment.unlink();
        }
    }

    /// Writes again what lies in a segment that is about to be dropped and was asked for, up to
    /// half a segment: the rest of the new one is for what is new.
    fn keep_used(&mut self, victim: &Arc<Segment>) {
        let mut budget = self.shared.options.segment_bytes() / 2;
        let used = self.shared.index().used_in(victim.id);
        for entry in used {
            let Some(bytes) = self.keep(entry, victim, budget) else { continue };
            budget = budget.saturating_sub(bytes);
            self.shared.counts.kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes an object again, if it takes no more than `budget`. Gives the bytes it took.
    fn keep(&mut self, entry: Entry, victim: &Arc<Segment>, budget: u64) -> Option<u64> {
        let segment = self.shared.index().segment(entry.place.segment)?;
        let record = segment.read(entry.place).ok()??;
        let Some(Front::Object(object)) = record.front() else { return None };
        let payload = record.payload();
        let (meta, rest) = payload.split_at_checked(object.meta as usize)?;
        let mut table = if object.chunks == 0 { Vec::new() } else { places(rest).to_vec() };
        let moved = table.iter().filter(|place| place.segment == victim.id);
        let bytes =
            moved.map(|place| u64::from(place.length)).sum::<u64>() + u64::from(entry.place.length);
        if bytes > budget {
            return None;
        }
        let stamp = Stamp::from_u64(object.stamp);
        let stamp = match &self.shared.options.judge {
            Some(judge) => judge(meta, stamp)?,
            None => stamp,
        };
        for (index, place) in table.iter_mut().enumerate() {
            if place.segment == victim.id {
                let chunk = victim.read(*place).ok()??;
                let front = Front::Chunk { index: index as u32 };
                (chunk.front() == Some(front) && chunk.id() == record.id()).then_some(())?;
                *place = self.append(&front, record.id(), &[chunk.payload()])?;
            }
        }
        let mut content = vec![payload.slice_ref(meta)];
        content.push(if table.is_empty() { payload.slice_ref(rest) } else { encode(&table) });
        let (key, meta, size) = (object.key, object.meta, object.size);
        let parts = Parts { key, stamp: stamp.as_u64(), size, meta, table: &table };
        let new = self.append_object(&parts, record.id(), entry.hash, &content)?;
        self.shared.index().replace(entry, new, stamp.generation().as_u64());
        Some(bytes)
    }

    /// After an error the segment that was written to may end in the midst of a record, and there
    /// may be no space: it is not written to again, the oldest is dropped, and writing pauses.
    fn failed(&mut self, what: &'static str, error: &io::Error) {
        self.shared.failed(what, error);
        self.current = None;
        self.paused = Some(Instant::now() + self.shared.options.pause);
        let oldest = self.shared.index().oldest_segment();
        if let Some(oldest) = oldest {
            self.drop_segment(oldest.id);
        }
    }
}

enum JournalFailure {
    Remove(io::Error),
    Journal(JournalError),
}

/// What an object's record says beside its payload.
struct Parts<'a> {
    key: &'a [u8],
    stamp: u64,
    size: u64,
    meta: u32,
    table: &'a [Place],
}

fn encode(table: &[Place]) -> Bytes {
    table.iter().flat_map(Place::encode).collect::<Vec<u8>>().into()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
