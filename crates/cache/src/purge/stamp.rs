//! Generations, the stamps of objects, and the tickets of what is on its way into the store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::Verdict;

/// The time that purging goes by: every purge is one later than all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Before any purge of any process.
    pub const FIRST: Self = Self(0);
    /// A stamp holds it beside a verdict.
    const MOST: u64 = u64::MAX >> VERDICT_BITS;

    /// The first generation of a process: the time it started at, so that it is newer than what
    /// earlier processes left behind, and older than what later ones will.
    pub fn at_start(now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::from_u64(u64::try_from(since.as_micros()).unwrap_or(0))
    }

    /// The one after it.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

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

/// The tickets that are held, numbered in the order they were taken in. Generations never go back,
/// so the first ticket has the oldest.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    next: u64,
    held: BTreeMap<u64, Generation>,
}

impl Tickets {
    /// The generation is read under the lock, so that [`Tickets::oldest`] is not later than any
    /// ticket that is taken after it.
    pub(super) fn take(tickets: &Arc<Self>, current: impl FnOnce() -> Generation) -> Ticket {
        let mut taken = tickets.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, generation) = (taken.next, current());
        taken.next += 1;
        taken.held.insert(number, generation);
        drop(taken);
        Ticket { number, generation, tickets: tickets.clone() }
    }

    /// The oldest generation that is held or may be taken from now on.
    pub(super) fn oldest(&self, current: impl FnOnce() -> Generation) -> Generation {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = current();
        taken.held.values().next().map_or(current, |oldest| current.min(*oldest))
    }

    /// The number of the next ticket.
    pub(super) fn next(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    /// Whether all tickets before a number were given back.
    pub(super) fn back_before(&self, number: u64) -> bool {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.held.keys().next().is_none_or(|first| *first >= number)
    }
}

/// Something is on its way into the store: marks newer than its generation are kept until this is
/// dropped.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
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
        taken.held.remove(&self.number);
    }
}
