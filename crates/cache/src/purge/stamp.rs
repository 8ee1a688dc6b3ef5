//! Generations, the stamps of objects, and the tickets of what is on its way into the store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Verdict;

/// How many purges there have been: the time that purging goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Before any purge.
    pub const FIRST: Self = Self(0);
    /// A stamp holds it beside a verdict.
    const MOST: u64 = u64::MAX >> VERDICT_BITS;

    /// As it is stored.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// As it was stored.
    pub fn from_u64(generation: u64) -> Self {
        Self(generation.min(Self::MOST))
    }
}

const VERDICT_BITS: u32 = 2;

/// What an object remembers of purges: up to which one it was checked, and with what result.
#[derive(Debug)]
pub struct Stamp(AtomicU64);

impl Stamp {
    /// For an object whose ticket is of this generation.
    pub fn new(generation: Generation) -> Self {
        Self(AtomicU64::new(generation.0 << VERDICT_BITS))
    }

    /// As it is stored with an object.
    pub fn as_u64(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// As it was stored with an object.
    pub fn from_u64(stamp: u64) -> Self {
        Self(AtomicU64::new(stamp))
    }

    /// The newest purge that the object was checked against.
    pub fn generation(&self) -> Generation {
        Generation(self.load().0)
    }

    pub(super) fn load(&self) -> (u64, Verdict) {
        let stamp = self.0.load(Ordering::Relaxed);
        let verdict = match stamp & 3 {
            0 => Verdict::Good,
            1 => Verdict::Stale,
            _ => Verdict::Gone,
        };
        (stamp >> VERDICT_BITS, verdict)
    }

    /// The later check stays, and of two at once the worse.
    pub(super) fn store(&self, generation: u64, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Good => 0,
            Verdict::Stale => 1,
            Verdict::Gone => 2,
        };
        self.0.fetch_max(generation << VERDICT_BITS | verdict, Ordering::Relaxed);
    }
}

/// How many tickets there are of each generation.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<BTreeMap<u64, usize>>);

impl Tickets {
    /// The generation is read under the lock, so that [`Tickets::oldest`] is not later than any
    /// ticket that is taken after it.
    pub(super) fn take(tickets: &Arc<Self>, current: impl FnOnce() -> Generation) -> Ticket {
        let mut taken = tickets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = current();
        *taken.entry(generation.0).or_default() += 1;
        drop(taken);
        Ticket { generation, tickets: tickets.clone() }
    }

    pub(super) fn oldest(&self, current: impl FnOnce() -> Generation) -> Generation {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = current();
        taken.keys().next().map_or(current, |oldest| Generation(*oldest).min(current))
    }
}

/// Something is on its way into the store: marks newer than its generation are kept until this is
/// dropped.
#[derive(Debug)]
pub struct Ticket {
    generation: Generation,
    tickets: Arc<Tickets>,
}

impl Ticket {
    /// What purges what comes of this is newer than this.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The stamp of an object that comes of this.
    pub fn stamp(&self) -> Stamp {
        Stamp::new(self.generation)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut taken = self.tickets.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.generation.0) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.generation.0);
            }
        }
    }
}
