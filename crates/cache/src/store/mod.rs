//! The memory tier: values by key, bounded in bytes, shared by all shards of a proxy.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
//! 2023): what is new enters a small queue, what is asked for again while it is there goes on to
//! the main queue, and what is remembered by the ghost queue goes to the main queue at once. A scan
//! therefore passes through the small queue only, and a hit changes one byte and no list.
//!
//! Entries lie in lock shards, but the capacity is one: a value may take most of it, and no part
//! is set aside for a shard that does not need it. What has to go is taken from the fuller of two
//! shards, so that shards stay level.
//!
//! Deliberately absent: expiry, purging and HTTP. The sweeper asks `purge` about each value.

mod ghost;
mod shard;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shard::{Queue, Shard, Step};

/// Lock shards. More than any machine has cores, so that two threads seldom want the same one.
const SHARDS: usize = 64;
/// The small queue is what is evicted from while it holds more than one part in this many.
const SMALL_SHARE: usize = 10;
/// Moves between queues under one lock. What needs more takes the lock again.
const MOVES_PER_LOCK: usize = 32;
/// Evictions that find nothing before an insertion is given up: the room is reserved by other
/// insertions that have not ended.
const FRUITLESS_TRIES: usize = 100;

/// What a value occupies.
pub trait Cost {
    /// Bytes it takes beside its entry, which [`Memory`] counts itself.
    fn bytes(&self) -> usize;
}

impl<T: Cost + ?Sized> Cost for Arc<T> {
    /// Its two counters are counted with it.
    fn bytes(&self) -> usize {
        T::bytes(self) + 2 * size_of::<usize>()
    }
}

/// How much a [`Memory`] may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all entries: keys, values and the entries' own overhead.
    pub capacity: usize,
    /// Bytes of one entry. A larger one is refused.
    pub largest: usize,
}

/// What was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<V> {
    /// Its key.
    pub key: Box<[u8]>,
    /// Its value.
    pub value: V,
}

/// What an insertion did.
#[derive(Debug)]
#[must_use = "a disk tier takes what was evicted"]
pub struct Inserted<V> {
    /// The value is stored. If not, it is too large, and its key holds nothing.
    pub stored: bool,
    /// What its key held before.
    pub replaced: Option<V>,
    /// What had to go for it.
    pub evicted: Vec<Entry<V>>,
}

/// Where a sweep is. The default is the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    shard: usize,
    /// Slots of the shard at this index and above it were seen. Nothing: all are still to be.
    seen_from: Option<u32>,
}

/// What one step of a sweep did.
#[derive(Debug)]
#[must_use]
pub struct Swept<V> {
    /// What was removed.
    pub removed: Vec<Entry<V>>,
    /// Values that were looked at.
    pub seen: usize,
    /// Everything that was there when the sweep began has been seen; the cursor is at its start.
    pub done: bool,
}

/// Counts since the start, and what is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries held.
    pub entries: usize,
    /// Bytes held, as [`Limits::capacity`] counts.
    pub bytes: usize,
    /// Lookups that found something.
    pub hits: u64,
    /// Lookups that found nothing.
    pub misses: u64,
    /// Entries that went to make room.
    pub evictions: u64,
}

struct Lane<V> {
    shard: Mutex<Shard<V>>,
    /// Bytes of its queues, for choosing a shard without locking any.
    small: AtomicUsize,
    main: AtomicUsize,
}

/// Keeps lanes from sharing cache lines: two of them, because processors fetch lines in pairs.
#[repr(align(128))]
struct Aligned<V>(Lane<V>);

/// A cache of values by key.
pub struct Memory<V> {
    lanes: Box<[Aligned<V>]>,
    /// Strangers choose the keys: a secret makes it impractical to find many that collide.
    secret: RandomState,
    capacity: AtomicUsize,
    largest: AtomicUsize,
    /// Bytes of entries and of reservations for entries. Never more than the capacity, but for the
    /// time that a lowered capacity takes to be reached.
    used: AtomicUsize,
    /// Bytes in small queues.
    small: AtomicUsize,
    /// Where the next eviction looks.
    turn: AtomicUsize,
}

impl<V: Clone + Cost> Memory<V> {
    /// What an entry takes beside its key and value: its slot, its place in the index at the
    /// lowest load, and its share of the ghost queue.
    pub const OVERHEAD: usize = shard::slot_bytes::<V>() + 12 + ghost::BYTES_PER_ENTRY;

    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        let lane = || Lane {
            shard: Mutex::new(Shard::new()),
            small: AtomicUsize::new(0),
            main: AtomicUsize::new(0),
        };
        Self {
            lanes: (0..SHARDS).map(|_| Aligned(lane())).collect(),
            secret: RandomState::new(),
            capacity: AtomicUsize::new(limits.capacity),
            largest: AtomicUsize::new(limits.largest),
            used: AtomicUsize::new(0),
            small: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// The value at `key`, which counts as a use of it.
    pub fn get(&self, key: &[u8]) -> Option<V> {
        let hash = self.hash(key);
        let lane = self.lane(hash)?;
        lane.shard.lock().unwrap_or_else(PoisonError::into_inner).get(hash, key)
    }

    /// The value at `key`, which does not count as a use of it.
    pub fn peek(&self, key: &[u8]) -> Option<V> {
        let hash = self.hash(key);
        let shard = self.lane(hash)?.shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.peek(hash, key).map(|(value, _)| value)
    }

    /// Stores `value` at `key`. What was there stays until it is replaced, in one step.
    pub fn insert(&self, key: &[u8], value: V) -> Inserted<V> {
        let bytes = Self::entry_bytes(key, &value);
        let mut evicted = Vec::new();
        if bytes > self.largest.load(Ordering::Relaxed) || !self.reserve(bytes, &mut evicted) {
            return Inserted { stored: false, replaced: self.remove(key), evicted };
        }
        let hash = self.hash(key);
        let Some(lane) = self.lane(hash) else {
            self.release(bytes);
            return Inserted { stored: false, replaced: None, evicted };
        };
        let old = self.with(lane, |shard| shard.put(hash, key, value, bytes));
        let replaced = old.map(|(value, bytes)| {
            self.release(bytes);
            value
        });
        Inserted { stored: true, replaced, evicted }
    }

    /// Removes what is at `key`.
    pub fn remove(&self, key: &[u8]) -> Option<V> {
        self.remove_if(key, |_| true)
    }

    /// Removes what is at `key` if it is what `condition` means, for example the very value that
    /// was judged. The condition runs under a lock: it must be quick.
    pub fn remove_if(&self, key: &[u8], condition: impl FnOnce(&V) -> bool) -> Option<V> {
        let hash = self.hash(key);
        let lane = self.lane(hash)?;
        let (entry, bytes) = self.with(lane, |shard| shard.remove_if(hash, key, condition))?;
        self.release(bytes);
        Some(entry.value)
    }

    /// Counts the value at `key` again, whose cost changed. Returns what had to go, which may be
    /// the value itself.
    pub fn resize(&self, key: &[u8]) -> Vec<Entry<V>> {
        let mut evicted = Vec::new();
        let hash = self.hash(key);
        let Some(lane) = self.lane(hash) else { return evicted };
        // A value may change again while room is made for it.
        for _ in 0..4 {
            let Some((value, old)) = self.with(lane, |shard| shard.peek(hash, key)) else {
                return evicted;
            };
            let new = Self::entry_bytes(key, &value);
            let more = new.saturating_sub(old);
            let fits = new <= self.largest.load(Ordering::Relaxed);
            if !fits || !self.reserve(more, &mut evicted) {
                break;
            }
            let done = self.with(lane, |shard| {
                shard.set_cost(hash, key, old, |value| Self::entry_bytes(key, value) == new, new)
            });
            if done {
                self.release(old.saturating_sub(new));
                return evicted;
            }
            self.release(more);
        }
        let removed = self.with(lane, |shard| shard.remove_if(hash, key, |_| true));
        if let Some((entry, bytes)) = removed {
            self.release(bytes);
            evicted.push(entry);
        }
        evicted
    }

    /// Changes the limits. Returns what had to go.
    pub fn set_limits(&self, limits: Limits) -> Vec<Entry<V>> {
        self.largest.store(limits.largest, Ordering::Relaxed);
        self.capacity.store(limits.capacity, Ordering::Relaxed);
        let mut evicted = Vec::new();
        while self.used.load(Ordering::Relaxed) > self.capacity.load(Ordering::Relaxed) {
            match self.evict() {
                Step::Evicted(entry, bytes) => {
                    self.release(bytes);
                    evicted.push(entry);
                }
                Step::Again => {}
                // What is left is reserved, and its insertion keeps to the new capacity.
                Step::Empty => break,
            }
        }
        evicted
    }

    /// Looks at up to `limit` values and removes those that `keep` does not want. No lock is held
    /// while `keep` runs. Repeated with the same cursor until it is done, it sees every value that
    /// was there at its start and still is.
    pub fn sweep(
        &self,
        cursor: &mut Cursor,
        limit: usize,
        mut keep: impl FnMut(&V) -> bool,
    ) -> Swept<V> {
        let mut swept = Swept { removed: Vec::new(), seen: 0, done: false };
        while swept.seen < limit {
            let Some(Aligned(lane)) = self.lanes.get(cursor.shard) else {
                *cursor = Cursor::default();
                swept.done = true;
                return swept;
            };
            let (candidates, seen_from) = self
                .with(lane, |shard| shard.slice(cursor.seen_from, (limit - swept.seen).min(64)));
            swept.seen += candidates.len();
            for (hash, id, value) in candidates {
                if keep(&value) {
                    continue;
                }
                if let Some((entry, bytes)) = self.with(lane, |shard| shard.remove_id(hash, id)) {
                    self.release(bytes);
                    swept.removed.push(entry);
                }
            }
            *cursor = match seen_from {
                0 => Cursor { shard: cursor.shard + 1, seen_from: None },
                index => Cursor { shard: cursor.shard, seen_from: Some(index) },
            };
        }
        swept
    }

    /// Bytes held. Never more than the capacity.
    pub fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What is held and what happened.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters { bytes: self.bytes(), ..Counters::default() };
        for Aligned(lane) in &self.lanes {
            lane.shard.lock().unwrap_or_else(PoisonError::into_inner).count(&mut counters);
        }
        counters
    }

    fn entry_bytes(key: &[u8], value: &V) -> usize {
        value.bytes().saturating_add(key.len()).saturating_add(Self::OVERHEAD)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.secret.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// The index inside a shard uses the lowest and the highest bits of a hash.
    fn lane(&self, hash: u64) -> Option<&Lane<V>> {
        let index = (hash >> 40) as usize % SHARDS;
        self.lanes.get(index).map(|Aligned(lane)| lane)
    }

    /// Locks a shard, and publishes what its queues hold afterwards.
    fn with<R>(&self, lane: &Lane<V>, change: impl FnOnce(&mut Shard<V>) -> R) -> R {
        let mut shard = lane.shard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shard.bytes(Queue::Small);
        let result = change(&mut shard);
        let after = shard.bytes(Queue::Small);
        lane.small.store(after, Ordering::Relaxed);
        lane.main.store(shard.bytes(Queue::Main), Ordering::Relaxed);
        if after >= before {
            self.small.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.small.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    /// Takes `bytes` of the capacity, evicting what has to go.
    fn reserve(&self, bytes: usize, evicted: &mut Vec<Entry<V>>) -> bool {
        let mut fruitless = 0;
        loop {
            let capacity = self.capacity.load(Ordering::Relaxed);
            if bytes > capacity || fruitless > FRUITLESS_TRIES {
                return false;
            }
            let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= capacity)
            });
            if taken.is_ok() {
                return true;
            }
            match self.evict() {
                Step::Evicted(entry, bytes) => {
                    self.release(bytes);
                    evicted.push(entry);
                }
                Step::Again => {}
                Step::Empty => {
                    fruitless += 1;
                    std::thread::yield_now();
                }
            }
        }
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// One attempt to evict an entry.
    fn evict(&self) -> Step<V> {
        let small = self.small.load(Ordering::Relaxed);
        let crowded = small.saturating_mul(SMALL_SHARE) > self.used.load(Ordering::Relaxed);
        let (first, second) =
            if crowded { (Queue::Small, Queue::Main) } else { (Queue::Main, Queue::Small) };
        for queue in [first, second] {
            if let Some(lane) = self.fuller(queue) {
                return self.with(lane, |shard| shard.evict(queue, MOVES_PER_LOCK));
            }
        }
        Step::Empty
    }

    /// The fuller of two shards, or any that is not empty.
    fn fuller(&self, queue: Queue) -> Option<&Lane<V>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let other = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let lane = |index: usize| self.lanes.get(index % SHARDS).map(|Aligned(lane)| lane);
        let bytes = |lane: &&Lane<V>| match queue {
            Queue::Small => lane.small.load(Ordering::Relaxed),
            Queue::Main => lane.main.load(Ordering::Relaxed),
        };
        let held = |lane: &&Lane<V>| bytes(lane) > 0;
        let two = [lane(turn), lane(other)].into_iter().flatten();
        two.max_by_key(bytes)
            .filter(held)
            .or_else(|| (0..SHARDS).filter_map(|step| lane(turn.wrapping_add(step))).find(held))
    }
}

impl<V> std::fmt::Debug for Memory<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("used", &self.used)
            .field("capacity", &self.capacity)
            .finish()
    }
}
