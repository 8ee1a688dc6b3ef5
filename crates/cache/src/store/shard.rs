//! One lock's part of the memory tier: an index into slots, which are linked into the small and the
//! main queue. New entries are linked at a queue's head, and eviction takes from its tail.

use hashbrown::HashTable;

use super::ghost::Ghost;
use super::slab::Slab;
use super::{Counters, Entry};

/// The end of a list.
const NONE: u32 = u32::MAX;
/// Uses are counted up to this.
const MOST_USES: u8 = 3;
/// Uses in the small queue that let an entry into the main queue.
const USES_FOR_MAIN: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    Small,
    Main,
}

/// What one attempt to evict did.
pub(super) enum Step<V> {
    /// An entry is out, which took this many bytes.
    Evicted(Entry<V>, usize),
    /// Entries moved between queues, and none is out yet.
    Again,
    /// There is nothing to evict.
    Empty,
}

/// One cache line.
#[repr(align(64))]
struct Slot<V> {
    key: Box<[u8]>,
    value: V,
    hash: u64,
    /// Which value this is. A replacement has another.
    id: u64,
    cost: usize,
    newer: u32,
    older: u32,
    queue: Queue,
    uses: u8,
}

/// What a slot takes.
pub(super) const fn slot_bytes<V>() -> usize {
    size_of::<Slot<V>>()
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    bytes: usize,
}

impl List {
    const EMPTY: Self = Self { head: NONE, tail: NONE, bytes: 0 };
}

pub(super) struct Shard<V> {
    index: HashTable<u32>,
    slots: Slab<Slot<V>>,
    small: List,
    main: List,
    ghost: Ghost,
    next_id: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl<V: Clone> Shard<V> {
    pub(super) fn new() -> Self {
        Self {
            index: HashTable::new(),
            slots: Slab::new(),
            small: List::EMPTY,
            main: List::EMPTY,
            ghost: Ghost::default(),
            next_id: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
        }
    }

    pub(super) fn bytes(&self, queue: Queue) -> usize {
        match queue {
            Queue::Small => self.small.bytes,
            Queue::Main => self.main.bytes,
        }
    }

    pub(super) fn count(&self, counters: &mut Counters) {
        counters.entries += self.slots.len();
        counters.hits += self.hits;
        counters.misses += self.misses;
        counters.evictions += self.evictions;
    }

    pub(super) fn get(&mut self, hash: u64, key: &[u8]) -> Option<V> {
        let found = self.find(hash, key).and_then(|at| self.slots.get_mut(at));
        let Some(slot) = found else {
            self.misses += 1;
            return None;
        };
        slot.uses = MOST_USES.min(slot.uses + 1);
        self.hits += 1;
        Some(slot.value.clone())
    }

    /// The value and what it is counted as, without using it.
    pub(super) fn peek(&self, hash: u64, key: &[u8]) -> Option<(V, usize)> {
        let slot = self.slots.get(self.find(hash, key)?)?;
        Some((slot.value.clone(), slot.cost))
    }

    /// Stores a value. Returns the one it replaces, with what that was counted as.
    pub(super) fn put(
        &mut self,
        hash: u64,
        key: &[u8],
        value: V,
        cost: usize,
    ) -> Option<(V, usize)> {
        self.next_id += 1;
        let id = self.next_id;
        let known = self.find(hash, key);
        if let Some(slot) = known.and_then(|at| self.slots.get_mut(at)) {
            let old = (std::mem::replace(&mut slot.value, value), slot.cost);
            let queue = slot.queue;
            slot.id = id;
            slot.cost = cost;
            let list = self.list(queue);
            list.bytes = list.bytes - old.1 + cost;
            return Some(old);
        }
        let queue = if self.ghost.take(hash) { Queue::Main } else { Queue::Small };
        let at = self.slots.len() as u32;
        let (newer, older) = (NONE, NONE);
        self.slots.push(Slot {
            key: key.into(),
            value,
            hash,
            id,
            cost,
            newer,
            older,
            queue,
            uses: 0,
        });
        self.link(at, queue);
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |at| slots.get(*at).map_or(0, |slot| slot.hash));
        None
    }

    /// Counts an entry as `new` instead of `old`, if it is counted as that and `still` holds.
    pub(super) fn set_cost(
        &mut self,
        hash: u64,
        key: &[u8],
        old: usize,
        still: impl FnOnce(&V) -> bool,
        new: usize,
    ) -> bool {
        let found = self.find(hash, key).and_then(|at| self.slots.get_mut(at));
        let Some(slot) = found.filter(|slot| slot.cost == old && still(&slot.value)) else {
            return false;
        };
        slot.cost = new;
        let queue = slot.queue;
        let list = self.list(queue);
        list.bytes = list.bytes - old + new;
        true
    }

    pub(super) fn remove_if(
        &mut self,
        hash: u64,
        key: &[u8],
        condition: impl FnOnce(&V) -> bool,
    ) -> Option<(Entry<V>, usize)> {
        let at = self.find(hash, key)?;
        condition(&self.slots.get(at)?.value).then(|| self.take(at))?
    }

    pub(super) fn remove_id(&mut self, hash: u64, id: u64) -> Option<(Entry<V>, usize)> {
        let slots = &self.slots;
        let same = |at: &u32| slots.get(*at).is_some_and(|slot| slot.id == id);
        let at = *self.index.find(hash, same)?;
        self.take(at)
    }

    /// Up to `limit` values below the index `seen_from`, from above, with what finds them again;
    /// and the index that they begin at. Removals move values to lower indices only, so going
    /// down misses none.
    pub(super) fn slice(&self, seen_from: Option<u32>, limit: usize) -> (Vec<(u64, u64, V)>, u32) {
        let end = (self.slots.len() as u32).min(seen_from.unwrap_or(NONE));
        let start = end.saturating_sub(limit as u32);
        let slots = (start..end).rev().filter_map(|at| self.slots.get(at));
        (slots.map(|slot| (slot.hash, slot.id, slot.value.clone())).collect(), start)
    }

    /// Looks for a victim in a queue, with at most `moves` moves between the queues.
    pub(super) fn evict(&mut self, queue: Queue, moves: usize) -> Step<V> {
        for _ in 0..moves {
            let at = self.list(queue).tail;
            let Some(slot) = self.slots.get_mut(at) else { return Step::Again };
            let stays = match queue {
                Queue::Small => std::mem::take(&mut slot.uses) >= USES_FOR_MAIN,
                Queue::Main => slot.uses > 0,
            };
            if stays {
                slot.uses = slot.uses.saturating_sub(1);
                self.unlink(at);
                self.link(at, Queue::Main);
                continue;
            }
            let hash = slot.hash;
            let Some((entry, bytes)) = self.take(at) else { return Step::Again };
            if queue == Queue::Small {
                self.ghost.push(hash, self.slots.len());
            }
            self.evictions += 1;
            return Step::Evicted(entry, bytes);
        }
        Step::Again
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let same = |at: &u32| {
            self.slots.get(*at).is_some_and(|slot| slot.hash == hash && *slot.key == *key)
        };
        self.index.find(hash, same).copied()
    }

    /// Takes an entry out of the index, its queue and its slot.
    fn take(&mut self, at: u32) -> Option<(Entry<V>, usize)> {
        let hash = self.slots.get(at)?.hash;
        self.unlink(at);
        if let Ok(found) = self.index.find_entry(hash, |known| *known == at) {
            found.remove();
        }
        let last = (self.slots.len() as u32).saturating_sub(1);
        let slot = self.slots.swap_remove(at)?;
        if last != at {
            self.moved(last, at);
        }
        if self.index.capacity() > 64 + 4 * self.slots.len() {
            let slots = &self.slots;
            let hash = |at: &u32| slots.get(*at).map_or(0, |slot| slot.hash);
            self.index.shrink_to(2 * slots.len(), hash);
        }
        Some((Entry { key: slot.key, value: slot.value }, slot.cost))
    }

    /// Lets everything that pointed to a slot point to its new index.
    fn moved(&mut self, from: u32, to: u32) {
        let Some(slot) = self.slots.get(to) else { return };
        let (hash, queue, newer, older) = (slot.hash, slot.queue, slot.newer, slot.older);
        if let Some(place) = self.index.find_mut(hash, |known| *known == from) {
            *place = to;
        }
        self.set_older(newer, queue, to);
        self.set_newer(older, queue, to);
    }

    fn link(&mut self, at: u32, queue: Queue) {
        let head = self.list(queue).head;
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.queue = queue;
        (slot.newer, slot.older) = (NONE, head);
        let cost = slot.cost;
        self.set_newer(head, queue, at);
        let list = self.list(queue);
        list.head = at;
        list.bytes += cost;
    }

    fn unlink(&mut self, at: u32) {
        let Some(slot) = self.slots.get(at) else { return };
        let (queue, newer, older, cost) = (slot.queue, slot.newer, slot.older, slot.cost);
        self.set_older(newer, queue, older);
        self.set_newer(older, queue, newer);
        self.list(queue).bytes -= cost;
    }

    /// Sets what is older than `at`, where the end of the list stands for its head.
    fn set_older(&mut self, at: u32, queue: Queue, older: u32) {
        match self.slots.get_mut(at) {
            Some(slot) => slot.older = older,
            None => self.list(queue).head = older,
        }
    }

    /// Sets what is newer than `at`, where the end of the list stands for its tail.
    fn set_newer(&mut self, at: u32, queue: Queue, newer: u32) {
        match self.slots.get_mut(at) {
            Some(slot) => slot.newer = newer,
            None => self.list(queue).tail = newer,
        }
    }

    fn list(&mut self, queue: Queue) -> &mut List {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }
}
