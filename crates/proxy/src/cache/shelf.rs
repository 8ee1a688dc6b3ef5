//! Where stored responses are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderName;
use selvedge_cache::key::Key;
use selvedge_cache::object::Object;
use selvedge_cache::store::{Cost, Limits, Memory};

/// What is known of a key.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// The response.
    Object(Arc<Object>),
    /// The response depends on these fields of the request.
    Varies(Arc<Variants>),
    /// Its responses were not to be shared, up to this time (milliseconds since 1970): those who
    /// want it need not wait for each other.
    Pass(u64),
}

impl Cost for Entry {
    fn bytes(&self) -> usize {
        const COUNTERS: usize = 2 * size_of::<usize>();
        match self {
            Self::Object(object) => COUNTERS + object.bytes(),
            Self::Varies(variants) => {
                let names = variants.names.iter().map(|name| name.as_str().len());
                let slots = variants.names.len() * size_of::<HeaderName>();
                COUNTERS + size_of::<Variants>() + slots + names.sum::<usize>()
            }
            Self::Pass(_) => 0,
        }
    }
}

/// How a key's variants are found.
#[derive(Debug)]
pub(super) struct Variants {
    pub(super) names: Box<[HeaderName]>,
    /// Another one each time: variants that were invalid once are never found again.
    pub(super) generation: u64,
}

/// Where stored responses are.
pub(super) struct Shelf {
    memory: Memory<Entry>,
    generations: AtomicU64,
}

impl Shelf {
    /// One that holds this many bytes, and bodies up to `max_object` bytes.
    pub(super) fn new(bytes: u64, max_object: u64) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // Beside a body, an entry has a head.
        let largest = size(max_object).saturating_add(256 << 10).min(size(bytes));
        let memory = Memory::new(Limits { capacity: size(bytes), largest });
        Self { memory, generations: AtomicU64::new(0) }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        self.memory.get(key.as_bytes())
    }

    pub(super) fn put(&self, key: &Key, entry: Entry) {
        let _ = self.memory.insert(key.as_bytes(), entry);
    }

    pub(super) fn remove(&self, key: &Key) {
        self.memory.remove(key.as_bytes());
    }

    /// The variants of a key by these fields; made where there are none yet.
    pub(super) fn variants(&self, key: &Key, names: Box<[HeaderName]>) -> Arc<Variants> {
        match self.get(key) {
            Some(Entry::Varies(variants)) if variants.names == names => variants,
            _ => {
                let generation = self.generations.fetch_add(1, Ordering::Relaxed);
                let variants = Arc::new(Variants { names, generation });
                self.put(key, Entry::Varies(Arc::clone(&variants)));
                variants
            }
        }
    }
}
