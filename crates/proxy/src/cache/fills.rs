//! Requests under way for what is not stored: one goes out, and those for the same wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderName;
use selvedge_cache::key::Key;
use selvedge_cache::object::Object;
use tokio::sync::watch;

use super::stream::Stream;

/// How a request came out, for those who wait for it.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It is under way.
    Waiting,
    /// Its response is coming, and may be shared.
    Coming(Arc<Coming>),
    /// What is stored was said to be good still, or the response has been stored: look again.
    Stored,
    /// Its response is its client's alone.
    Alone,
}

/// A response on its way.
#[derive(Debug)]
pub(crate) struct Coming {
    /// Its head, without a body.
    pub(super) head: Object,
    /// The request fields that it depends on, and the key of the variant that it is.
    pub(super) variant: Option<(Box<[HeaderName]>, Key)>,
    pub(super) stream: Arc<Stream>,
}

/// What is known of a request under way.
#[derive(Debug)]
struct Flight {
    outcome: watch::Sender<Outcome>,
    /// What it will bring is no longer good.
    void: AtomicBool,
}

/// Requests under way.
#[derive(Debug)]
pub(super) struct Fills {
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    /// Bytes of bodies that are being gathered.
    gathered: AtomicU64,
    max_gathered: u64,
}

/// What a request is among those for the same.
pub(crate) enum Join {
    /// The one that goes out.
    Lead(Lead),
    /// One that waits.
    Follow(watch::Receiver<Outcome>),
}

impl Fills {
    pub(super) fn new(max_gathered: u64) -> Self {
        Self { flights: Mutex::default(), gathered: AtomicU64::new(0), max_gathered }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request under way will bring is not to be stored, nor shared with who comes from now.
    pub(super) fn void(&self, key: &Key) {
        let mut flights = self.flights();
        // A variant's key begins with that of what it is a variant of.
        let of_key = |flight: &Key| flight.as_bytes().starts_with(key.as_bytes());
        flights.retain(|flight, under_way| {
            let hit = of_key(flight);
            if hit {
                under_way.void.store(true, Ordering::Relaxed);
            }
            !hit
        });
    }

    /// Takes more bytes into what is gathered; false when that would be too many.
    pub(super) fn gather(&self, bytes: u64) -> bool {
        let before = self.gathered.fetch_add(bytes, Ordering::Relaxed);
        before + bytes <= self.max_gathered
    }

    /// Bytes are gathered no more.
    pub(super) fn release(&self, bytes: u64) {
        self.gathered.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl super::Cache {
    /// Joins the requests for a key.
    pub(crate) fn join(self: &Arc<Self>, key: &Key) -> Join {
        let mut flights = self.fills.flights();
        if let Some(flight) = flights.get(key) {
            return Join::Follow(flight.outcome.subscribe());
        }
        let flight = Arc::new(Flight {
            outcome: watch::Sender::new(Outcome::Waiting),
            void: AtomicBool::new(false),
        });
        flights.insert(key.clone(), Arc::clone(&flight));
        drop(flights);
        Join::Lead(Lead { cache: Arc::clone(self), key: key.clone(), flight })
    }
}

/// The request that goes out. Whatever becomes of it, those who wait hear of it.
pub(crate) struct Lead {
    pub(super) cache: Arc<super::Cache>,
    key: Key,
    flight: Arc<Flight>,
}

impl Lead {
    /// Whether what it brings is no longer good.
    pub(super) fn is_void(&self) -> bool {
        self.flight.void.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for it beside who asked.
    pub(super) fn is_awaited(&self) -> bool {
        self.flight.outcome.receiver_count() > 0
    }

    /// Its response comes; further requests may still join.
    pub(super) fn coming(&self, coming: Arc<Coming>) {
        self.flight.outcome.send_replace(Outcome::Coming(coming));
    }

    /// Its response has come, or can't be had: nobody joins any more.
    pub(super) fn over(&self, outcome: Outcome) {
        self.leave();
        self.flight.outcome.send_if_modified(|known| {
            let waiting = matches!(known, Outcome::Waiting);
            if waiting {
                *known = outcome;
            }
            waiting
        });
    }

    fn leave(&self) {
        let mut flights = self.cache.fills.flights();
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.over(Outcome::Alone);
    }
}
