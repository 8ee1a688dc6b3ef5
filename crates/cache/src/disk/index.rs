//! What is on disk and where, in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use hashbrown::HashTable;

use super::record::Place;
use super::segment::Segment;

/// Removals that are remembered until the tier is ready for them.
const MOST_EARLY: usize = 1 << 16;

/// An object. Its key is in its record only: of two keys with one hash, the later is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: u64,
    /// Its record.
    pub(super) place: Place,
    /// The oldest segment that it needs.
    pub(super) first: u32,
    /// It was asked for since it was written.
    pub(super) used: bool,
}

pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    /// Hashes of the objects that need it most: it is the oldest segment they need.
    hashes: Vec<u64>,
}

/// A write that has begun.
struct Pending {
    id: u64,
    generation: u64,
}

#[derive(Default)]
pub(super) struct Index {
    /// The directory is ours and was read.
    ready: bool,
    closed: bool,
    entries: HashTable<Entry>,
    segments: BTreeMap<u32, Live>,
    /// Dropped segments, which may still be read.
    retired: Vec<Weak<Segment>>,
    /// By hash of the key.
    pending: HashMap<u64, Pending>,
    /// Removals that are not on disk yet.
    owed: Vec<Place>,
    /// Hashes that were removed before the tier was ready; too many: all.
    early: Option<Vec<u64>>,
}

impl Index {
    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&mut self, hash: u64) -> Option<Entry> {
        let entry = self.entries.find_mut(hash, |entry| entry.hash == hash)?;
        entry.used = true;
        Some(*entry)
    }

    /// What a hash holds, if it is at this place.
    pub(super) fn at(&self, hash: u64, place: Place) -> Option<Entry> {
        let same = |entry: &Entry| entry.hash == hash && entry.place == place;
        self.entries.find(hash, same).copied()
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.entries.find(hash, |entry| entry.hash == hash).is_some()
    }

    /// Puts an object of this generation in the place of all earlier ones with its hash.
    pub(super) fn insert(&mut self, entry: Entry, generation: u64) {
        if let Some(live) = self.segments.get_mut(&entry.place.segment) {
            live.segment.holds(generation);
        }
        if let Some(live) = self.segments.get_mut(&entry.first) {
            live.hashes.push(entry.hash);
        }
        let same = |known: &Entry| known.hash == entry.hash;
        match self.entries.entry(entry.hash, same, |known| known.hash) {
            hashbrown::hash_table::Entry::Occupied(mut known) => *known.get_mut() = entry,
            hashbrown::hash_table::Entry::Vacant(place) => drop(place.insert(entry)),
        }
    }

    /// Puts an object in the place of one that it is a copy of, unless that went meanwhile.
    pub(super) fn replace(&mut self, old: Entry, new: Entry, generation: u64) {
        let still = |known: &Entry| known.hash == old.hash && known.place == old.place;
        if self.entries.find(old.hash, still).is_some() {
            self.insert(new, generation);
        } else {
            self.owed.push(new.place);
        }
    }

    /// Begins a write, whose object takes the place of what its key holds.
    pub(super) fn begin(&mut self, hash: u64, id: u64, generation: u64) {
        self.remove(hash);
        self.pending.insert(hash, Pending { id, generation });
    }

    pub(super) fn writes(&self) -> usize {
        self.pending.len()
    }

    /// Ends a write. Whether its object is still wanted: it was not removed since.
    pub(super) fn end(&mut self, hash: u64, id: u64) -> bool {
        let ours = self.pending.get(&hash).is_some_and(|pending| pending.id == id);
        ours && self.pending.remove(&hash).is_some()
    }

    /// Removes what a key's hash holds, and forbids writes that have begun to end.
    pub(super) fn remove(&mut self, hash: u64) {
        self.pending.remove(&hash);
        if !self.ready && !self.closed {
            let early = self.early.get_or_insert_default();
            if early.len() <= MOST_EARLY {
                early.push(hash);
            }
            return;
        }
        if let Ok(entry) = self.entries.find_entry(hash, |entry| entry.hash == hash) {
            self.owed.push(entry.remove().0.place);
        }
    }

    /// Removes an object if it is at this place.
    pub(super) fn remove_at(&mut self, hash: u64, place: Place) {
        let same = |entry: &Entry| entry.hash == hash && entry.place == place;
        if let Ok(entry) = self.entries.find_entry(hash, same) {
            entry.remove();
            self.owed.push(place);
        }
    }

    /// Removes what an earlier process removed.
    pub(super) fn removed_earlier(&mut self, places: &HashSet<(u32, u32)>) {
        self.entries.retain(|entry| !places.contains(&(entry.place.segment, entry.place.offset)));
    }

    /// Removes what a hash holds, while an earlier process's files are read.
    pub(super) fn forget(&mut self, hash: u64) {
        if let Ok(entry) = self.entries.find_entry(hash, |entry| entry.hash == hash) {
            entry.remove();
        }
    }

    /// Everything was read.
    pub(super) fn open(&mut self) {
        self.ready = true;
        let early = self.early.take().unwrap_or_default();
        if early.len() > MOST_EARLY {
            self.owed.extend(self.entries.drain().map(|entry| entry.place));
        }
        for hash in early {
            self.remove(hash);
        }
    }

    pub(super) fn take_owed(&mut self) -> Vec<Place> {
        // What lay in segments that are no more needs no removal.
        let segments = &self.segments;
        let mut owed = std::mem::take(&mut self.owed);
        owed.retain(|place| segments.contains_key(&place.segment));
        owed
    }

    /// Removals that could not be written.
    pub(super) fn owe(&mut self, places: Vec<Place>) {
        self.owed.extend(places);
    }

    pub(super) fn add(&mut self, segment: Arc<Segment>) {
        self.segments.insert(segment.id, Live { segment, hashes: Vec::new() });
    }

    pub(super) fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.get(&id).map(|live| live.segment.clone())
    }

    pub(super) fn oldest_segment(&self) -> Option<Arc<Segment>> {
        self.segments.values().next().map(|live| live.segment.clone())
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The objects that need this segment most and were asked for since they were written.
    pub(super) fn used_in(&mut self, id: u32) -> Vec<Entry> {
        let Some(live) = self.segments.get_mut(&id) else { return Vec::new() };
        live.hashes.sort_unstable();
        live.hashes.dedup();
        let entries = live.hashes.iter().filter_map(|hash| {
            let same = |entry: &Entry| entry.hash == *hash && entry.first == id && entry.used;
            self.entries.find(*hash, same).copied()
        });
        entries.collect()
    }

    /// Drops a segment with all that needs it. Its file is the caller's to remove, without a lock:
    /// that may take long.
    #[must_use]
    pub(super) fn drop_segment(&mut self, id: u32) -> Option<Arc<Segment>> {
        let live = self.segments.remove(&id)?;
        for hash in live.hashes {
            let same = |entry: &Entry| entry.hash == hash && entry.first == id;
            if let Ok(entry) = self.entries.find_entry(hash, same) {
                entry.remove();
            }
        }
        if self.entries.capacity() > 1024 + 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len(), |entry| entry.hash);
        }
        self.retired.push(Arc::downgrade(&live.segment));
        Some(live.segment)
    }

    /// Drops everything, and stays closed until it is opened again. The files are the caller's to
    /// remove.
    #[must_use]
    pub(super) fn clear(&mut self) -> Vec<Arc<Segment>> {
        self.ready = false;
        self.pending.clear();
        self.entries.clear();
        let ids: Vec<u32> = self.segments.keys().copied().collect();
        let dropped = ids.into_iter().filter_map(|id| self.drop_segment(id)).collect();
        self.owed.clear();
        dropped
    }

    /// Lets go of all files, which stay.
    pub(super) fn close(&mut self) {
        let retired = std::mem::take(&mut self.retired);
        *self = Self { retired, closed: true, ..Self::default() };
    }

    /// Bytes on disk, also of segments that are dropped and still read.
    pub(super) fn bytes(&mut self) -> u64 {
        self.retired.retain(|segment| segment.strong_count() > 0);
        let retired = self.retired.iter().filter_map(Weak::upgrade);
        let live = self.segments.values().map(|live| live.segment.length());
        live.sum::<u64>() + retired.map(|segment| segment.length()).sum::<u64>()
    }

    /// The oldest generation of an object that is on disk, on its way there, or still read. Before
    /// the directory was read it may be any.
    pub(super) fn oldest(&self) -> Option<u64> {
        if !self.ready && !self.closed {
            return Some(0);
        }
        let retired = self.retired.iter().filter_map(Weak::upgrade);
        let segments = self.segments.values().map(|live| live.segment.oldest());
        let pending = self.pending.values().map(|pending| pending.generation);
        let oldest = segments.chain(retired.map(|segment| segment.oldest())).chain(pending).min();
        oldest.filter(|oldest| *oldest != u64::MAX)
    }
}
